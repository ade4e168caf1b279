//! Real S3 servers on loopback, and a proxy in front that makes trouble.

use crate::PATIENCE;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zoetrope_coordinator::config::ServeConfig;
use zoetrope_coordinator::store::place::Place;
use zoetrope_coordinator::store::settings::StoreConfig;

const USER: &str = "zoetrope";
const PASSWORD: &str = "zoetrope-secret";
/// Every server here has this bucket.
const BUCKET: &str = "farm";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `moto`: in memory; keeps conditional writes, one at a time (`tests/clients/moto_server.py`).
    Moto,
    /// The gateway of JuiceFS, which is MinIO's front: on disk, so it may be killed; ignores conditional writes.
    Juice,
}

/// A server on a port and in a folder of its own.
pub(crate) struct Server {
    kind: Kind,
    process: Child,
    folder: TempDir,
    port: u16,
}

fn tool(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let tool = root.join(".deps/venv-s3/bin").join(name);
    assert!(tool.is_file(), "{} is not there: run scripts/setup --for test", tool.display());
    tool
}

impl Server {
    pub(crate) async fn start(kind: Kind) -> Server {
        let folder = tempfile::tempdir().expect("temporary folder");
        let socket = StdListener::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("an address").port();
        drop(socket);
        if kind == Kind::Juice {
            let made = Command::new(tool("juicefs"))
                .args(["format", "--storage", "file", "--bucket"])
                .arg(format!("{}/blocks/", folder.path().display()))
                .args(["--trash-days", "0", &meta(&folder), BUCKET])
                .output()
                .expect("juicefs starts");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        let process = spawn(kind, &folder, port);
        let mut server = Server { kind, process, folder, port };
        server.wait().await;
        if kind == Kind::Moto {
            let url = format!("{}/{BUCKET}", server.url());
            let made = reqwest::Client::new().put(url).send().await.expect("an answer");
            assert!(made.status().is_success(), "{}", made.status());
        }
        server
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    async fn wait(&mut self) {
        let began = Instant::now();
        while reqwest::get(self.url()).await.is_err() {
            assert!(began.elapsed() < PATIENCE, "{:?} does not listen", self.kind);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Starts it again, with what it had on disk.
    pub(crate) async fn go(&mut self) {
        self.process = spawn(self.kind, &self.folder, self.port);
        self.wait().await;
    }

    /// The store at this prefix, reached under an address.
    pub(crate) fn place(&self, prefix: &str, via: SocketAddr) -> Place {
        let mut config = ServeConfig::default();
        config.store = self.config(prefix, via);
        config.store_place()
    }

    pub(crate) fn config(&self, prefix: &str, via: SocketAddr) -> StoreConfig {
        let file = self.folder.path().join("keys");
        let text = format!("access_key_id = \"{USER}\"\nsecret_access_key = \"{PASSWORD}\"\n");
        std::fs::write(&file, text).expect("writes");
        let rights = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, rights).expect("sets");
        StoreConfig {
            place: format!("s3://{BUCKET}/{prefix}"),
            endpoint: format!("http://{via}"),
            credentials_file: file,
            ..StoreConfig::default()
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn meta(folder: &TempDir) -> String {
    format!("sqlite3://{}/meta.db?_journal=WAL", folder.path().display())
}

fn spawn(kind: Kind, folder: &TempDir, port: u16) -> Child {
    let mut command = match kind {
        Kind::Moto => {
            let server = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/clients/moto_server.py");
            let mut command = Command::new(tool("python"));
            command.args([server, "-H", "127.0.0.1", "-p", &port.to_string()]);
            command
        }
        Kind::Juice => {
            let mut command = Command::new(tool("juicefs"));
            command.args(["gateway", "--no-usage-report", "--no-banner", "--cache-size", "0"]);
            command.arg("--log").arg(folder.path().join("log"));
            command.args([meta(folder), format!("127.0.0.1:{port}")]);
            command.env("MINIO_ROOT_USER", USER).env("MINIO_ROOT_PASSWORD", PASSWORD);
            command
        }
    };
    let output = || {
        let log = folder.path().join("output");
        std::fs::File::options().create(true).append(true).open(log).expect("a log")
    };
    command.stdin(Stdio::null()).stdout(output()).stderr(output());
    command
        .env("HOME", folder.path())
        .spawn()
        .expect("the server starts (scripts/setup --for test)")
}

/// What the proxy does with every connection, those that are open included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing.
    None,
    /// `503 Slow Down` to everything.
    Busy,
    /// Takes everything and answers nothing.
    Stall,
    /// Closes after the first 100 KB of a connection's requests.
    Cut,
}

/// A proxy in front of a server.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    trouble: watch::Sender<Trouble>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn before(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (trouble, now) = watch::channel(Trouble::None);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, now.clone()));
            }
        });
        Proxy { address, trouble, task }
    }

    pub(crate) fn set(&self, trouble: Trouble) {
        self.trouble.send_replace(trouble);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr, mut now: watch::Receiver<Trouble>) {
    let trouble = *now.borrow_and_update();
    let serve = async {
        match trouble {
            Trouble::None => {
                if let Ok(mut server) = TcpStream::connect(server).await {
                    copy_bidirectional(&mut client, &mut server).await.ok();
                }
            }
            Trouble::Busy => {
                // Whatever the request is: its beginning is read, since an answer without one is no answer.
                if !matches!(client.read(&mut [0; 4096]).await, Ok(1..)) {
                    return;
                }
                let answer =
                    "HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                client.write_all(answer.as_bytes()).await.ok();
                // What the client still sends is read, or it would see a reset instead of the answer.
                tokio::io::copy(&mut client, &mut tokio::io::sink()).await.ok();
            }
            Trouble::Stall => {
                tokio::io::copy(&mut client, &mut tokio::io::sink()).await.ok();
                std::future::pending().await
            }
            Trouble::Cut => {
                if let Ok(mut server) = TcpStream::connect(server).await {
                    let (mut from, mut to) = client.split();
                    let (mut answers, mut requests) = server.split();
                    let mut some = (&mut from).take(100 << 10);
                    tokio::select! {
                        _ = tokio::io::copy(&mut some, &mut requests) => {}
                        _ = tokio::io::copy(&mut answers, &mut to) => {}
                    }
                }
            }
        }
    };
    tokio::select! {
        () = serve => {}
        _ = now.changed() => {}
    }
}
