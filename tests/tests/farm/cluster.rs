//! A farm of several coordinators to test: a real etcd, `zoetrope serve` processes, and emulated workers.

use crate::harness::{PATIENCE, eventually, program, signal, unannounced};
use serde_json::{Value, json};
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use zoetrope_protocol::version::LinkVersion;

const NEWEST: LinkVersion = LinkVersion::NEWEST;
const FIRST: LinkVersion = LinkVersion::FIRST;
/// Between two looks at something that can only be seen from outside.
const LOOK: Duration = Duration::from_millis(20);

/// A process that ends with the test.
pub struct Process {
    child: Option<Child>,
}

impl Process {
    fn start(command: &mut Command, log: &Path) -> Process {
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        let command = command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log"));
        Process { child: Some(command.stderr(log).spawn().expect("a program starts")) }
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        signal(name, self.child.as_ref().expect("it runs").id());
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|ended| ended.is_some()))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal("CONT", child.id());
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A real etcd, alone.
pub struct EtcdServer {
    folder: PathBuf,
    client: u16,
    peer: u16,
    quota_bytes: u64,
    process: Process,
}

impl EtcdServer {
    fn start(folder: PathBuf, quota_bytes: u64) -> EtcdServer {
        let process = Process { child: None };
        let mut etcd =
            EtcdServer { folder, client: tcp_port(), peer: tcp_port(), quota_bytes, process };
        etcd.go();
        etcd
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    /// Starts it, again after a kill, with the data that it had.
    pub fn go(&mut self) {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        self.process = Process::start(
            Command::new("etcd")
                .args(["--name", "default", "--data-dir"])
                .arg(self.folder.join("etcd"))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &format!("default={peer}")])
                .args(["--quota-backend-bytes", &self.quota_bytes.to_string()])
                .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH),
            &self.folder.join("etcd.log"),
        );
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs etcdctl; its output.
    pub fn ctl(&self, words: &[&str]) -> String {
        self.ctl_with(words, &[])
    }

    /// Runs etcdctl with this on its standard input; its output.
    pub fn ctl_with(&self, words: &[&str], input: &[u8]) -> String {
        let mut child = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url(), "--command-timeout", "20s"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcdctl starts (scripts/setup installs it)");
        // One that needs no input may have closed it.
        child.stdin.take().expect("piped").write_all(input).ok();
        let output = child.wait_with_output().expect("it ends");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// One coordinator.
pub struct Coordinator {
    /// Where its HTTP door is.
    pub url: String,
    link: String,
    config: PathBuf,
    /// The process.
    pub process: Process,
}

/// The farm.
pub struct Cluster {
    // First, so that they end first.
    workers: Option<Process>,
    /// The coordinators.
    pub coordinators: Vec<Coordinator>,
    /// The etcd.
    pub etcd: EtcdServer,
    http: reqwest::Client,
    /// An operator's key.
    pub key: String,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts so many coordinators, and two workers whose steps take so long.
    pub async fn start(coordinators: usize, step_ms: u64) -> Cluster {
        Cluster::with(coordinators, step_ms, 2 << 30).await
    }

    /// The same, with an etcd of this quota.
    pub async fn with(coordinators: usize, step_ms: u64, quota_bytes: u64) -> Cluster {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        let etcd = EtcdServer::start(root.to_owned(), quota_bytes);
        std::fs::write(root.join("secret"), "7".repeat(64)).expect("the secret");
        let http = reqwest::Client::builder().timeout(Duration::from_secs(15)).no_proxy().build();
        let mut cluster = Cluster {
            workers: None,
            coordinators: Vec::new(),
            etcd,
            http: http.expect("a client"),
            key: String::new(),
            folder,
        };
        for n in 0..coordinators {
            let coordinator = cluster.coordinator(n);
            cluster.coordinators.push(coordinator);
            cluster.go(n);
        }
        cluster.find_key().await;
        cluster.start_workers(Some(step_ms), NEWEST).await;
        cluster
    }

    fn coordinator(&self, n: usize) -> Coordinator {
        let root = self.folder.path();
        let data = root.join(format!("coordinator{n}"));
        std::fs::create_dir_all(&data).expect("a folder");
        let (http, link) =
            (format!("127.0.0.1:{}", tcp_port()), format!("127.0.0.1:{}", udp_port()));
        let text = format!(
            "listen = \"{http}\"\nlink_listen = \"{link}\"\ndata = \"data\"\n\
             [link]\nversion_max = \"{NEWEST}\"\nversion_min = \"{FIRST}\"\n\
             [limits]\nrequests_per_second = 100000\nburst = 100000\njobs_of_tenant = 100000\n\
             [journal]\nstore = \"etcd\"\nsnapshot_every = 200\n\
             [cluster]\nendpoints = [\"{}\"]\nsecret_file = \"{}\"\nstore = \"{}\"\n",
            self.etcd.url(),
            root.join("secret").display(),
            root.join("store").display(),
        );
        let config = data.join("coordinator.toml");
        std::fs::write(&config, text).expect("the configuration");
        let process = Process { child: None };
        Coordinator { url: format!("http://{http}"), link, config, process }
    }

    /// Kills a coordinator and starts it again, speaking this version of the link at most.
    pub fn go_at(&mut self, n: usize, version: LinkVersion) {
        let config = &self.coordinators[n].config;
        let text = std::fs::read_to_string(config).expect("its configuration");
        let line = |line: &str| match line.starts_with("version_max") {
            true => format!("version_max = \"{version}\"\n"),
            false => format!("{line}\n"),
        };
        std::fs::write(config, text.lines().map(line).collect::<String>()).expect("writes");
        self.coordinators[n].process.kill();
        self.go(n);
    }

    /// Starts a coordinator, again after a kill.
    pub fn go(&mut self, n: usize) {
        let coordinator = &mut self.coordinators[n];
        let log = coordinator.config.with_extension("log");
        coordinator.process = Process::start(
            Command::new(program("zoetrope"))
                .args(["serve", "--config"])
                .arg(&coordinator.config)
                .env("ZOETROPE_LOG", "info"),
            &log,
        );
    }

    /// The first leader makes the first key, in its own data folder.
    async fn find_key(&mut self) {
        let began = Instant::now();
        while self.key.is_empty() {
            for coordinator in &self.coordinators {
                let file = coordinator.config.with_file_name("data").join("api-key");
                self.key = std::fs::read_to_string(file).unwrap_or_default().trim().to_owned();
                if !self.key.is_empty() {
                    break;
                }
            }
            assert!(began.elapsed() < PATIENCE, "no key was made:\n{}", self.logs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Has the workers leave, and starts them again, speaking this version of the link at most.
    pub async fn workers_at(&mut self, version: LinkVersion) {
        if let Some(workers) = &mut self.workers {
            workers.signal("TERM");
            eventually(PATIENCE, "the workers left", async || workers.has_ended()).await;
        }
        self.start_workers(None, version).await;
    }

    async fn start_workers(&mut self, step_ms: Option<u64>, version: LinkVersion) {
        let root = self.folder.path().to_owned();
        if let Some(step_ms) = step_ms {
            let text = format!("models = [\"toybox\"]\nstep_ms = {step_ms}\nclip = \"cached\"\n");
            std::fs::write(root.join("emulated.toml"), text).expect("the emulation file");
        }
        let leader = self.leader().await;
        let body = json!({"uses": 2});
        let (status, token) = self.post(leader, "/farm/join_tokens", &body, None).await;
        assert_eq!(status, 200, "{token}");
        let links: Vec<&str> = self.coordinators.iter().map(|c| c.link.as_str()).collect();
        self.workers = Some(Process::start(
            Command::new(program("zoetrope-worker"))
                .args(["--engine", "emulated", "--count", "2", "--name", "w", "--emulated"])
                .arg(root.join("emulated.toml"))
                .arg("--data")
                .arg(root.join("workers"))
                .args(["--coordinator", &links.join(",")])
                .args(["--link-version-max", version.word()])
                .env("ZOETROPE_JOIN_TOKEN", token["token"].as_str().expect("a token"))
                .env("ZOETROPE_LOG", "info"),
            &root.join("workers.log"),
        ));
        self.workers_are_back(leader).await;
    }

    /// Waits until both workers are known to the leader.
    pub async fn workers_are_back(&self, leader: usize) {
        eventually(PATIENCE, "both workers are there", async || {
            let known = self.get(leader, "/farm/workers").await;
            known["data"].as_array().is_some_and(|known| known.len() == 2)
        })
        .await;
    }

    /// What a coordinator says it is.
    pub async fn role(&self, n: usize) -> String {
        let url = format!("{}/readyz", self.coordinators[n].url);
        let short = Duration::from_secs(2);
        match self.http.get(url).timeout(short).send().await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Waits for a leader that serves.
    pub async fn leader(&self) -> usize {
        self.leader_among(&(0..self.coordinators.len()).collect::<Vec<_>>()).await
    }

    /// Waits until one of these leads and serves.
    pub async fn leader_among(&self, among: &[usize]) -> usize {
        let began = Instant::now();
        loop {
            for n in among {
                if self.role(*n).await == "ready: leader\n" {
                    return *n;
                }
            }
            assert!(began.elapsed() < PATIENCE, "nobody leads:\n{}", self.logs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether a coordinator said this in its log.
    pub fn said(&self, n: usize, words: &str) -> bool {
        let log = std::fs::read_to_string(self.coordinators[n].config.with_extension("log"));
        log.is_ok_and(|log| log.contains(words))
    }

    /// Reads JSON from a coordinator; null if there is no answer.
    pub async fn get(&self, via: usize, path: &str) -> Value {
        let url = format!("{}{path}", self.coordinators[via].url);
        match self.http.get(url).bearer_auth(&self.key).send().await {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        }
    }

    /// Status and JSON of a POST; 0 if there is no answer.
    pub async fn post(
        &self,
        via: usize,
        path: &str,
        body: &Value,
        idempotency: Option<&str>,
    ) -> (u16, Value) {
        let url = format!("{}{path}", self.coordinators[via].url);
        let mut request = self.http.post(url).bearer_auth(&self.key).json(body);
        if let Some(key) = idempotency {
            request = request.header("idempotency-key", key);
        }
        match request.send().await {
            Ok(answer) => {
                let status = answer.status().as_u16();
                let after = answer.headers().contains_key("retry-after");
                assert!(status != 503 || after, "a 503 without retry-after");
                (status, answer.json().await.unwrap_or_default())
            }
            Err(_) => (0, Value::Null),
        }
    }

    /// Where a coordinator's HTTP door is, without a scheme.
    pub fn address(&self, of: usize) -> &str {
        self.coordinators[of].url.trim_start_matches("http://")
    }

    /// What the command line says, asking this coordinator.
    pub fn cli(&self, via: usize, words: &[&str]) -> String {
        let mut command = Command::new(program("zoetrope"));
        command.args(words).env_remove("ZOETROPE_DATA").env("ZOETROPE_API_KEY", &self.key);
        command.env("ZOETROPE_URL", &self.coordinators[via].url).stdin(Stdio::null());
        let output = command.output().expect("zoetrope starts");
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Submits a short clip once.
    pub async fn try_submit(&self, via: usize, key: &str) -> (u16, Value) {
        // Not the key: a prompt that speaks of killing may be blocked.
        let prompt = "a large red rubber ball bounces on grass in daylight";
        let body = json!({"prompt": prompt, "seconds": "4", "size": "160x288", "seed": 7});
        self.post(via, "/v1/videos", &body, Some(key)).await
    }

    /// Submits a short clip until it is acknowledged, as an SDK does; its id.
    pub async fn submit(&self, via: usize, key: &str) -> String {
        let began = Instant::now();
        loop {
            let (status, video) = self.try_submit(via, key).await;
            if status == 200 {
                return video["id"].as_str().expect("an id").to_owned();
            }
            assert!(matches!(status, 0 | 409 | 500..), "{status}: {video}");
            assert!(
                began.elapsed() < PATIENCE,
                "not acknowledged: {status} {video}\n{}",
                self.logs()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until all of these are completed, and no other job is there.
    pub async fn all_completed(&self, via: usize, ids: &[String]) {
        for id in ids {
            eventually(PATIENCE, "a job is completed", async || {
                let video = self.get(via, &format!("/v1/videos/{id}")).await;
                assert_ne!(video["status"], "failed", "{video}");
                video["status"] == "completed"
            })
            .await;
        }
        let list = self.get(via, "/v1/videos?limit=100").await;
        let mut there: Vec<&str> = list["data"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|v| v["id"].as_str())
            .collect();
        let mut asked: Vec<&str> = ids.iter().map(String::as_str).collect();
        there.sort_unstable();
        asked.sort_unstable();
        assert_eq!(there, asked, "each job is there once");
    }

    /// The sum of a metric's series of a coordinator whose labels contain all of `labels`.
    pub async fn metric(&self, of: usize, name: &str, labels: &[&str]) -> f64 {
        let url = format!("{}/metrics", self.coordinators[of].url);
        let text = self.http.get(url).send().await.expect("an answer").text().await.expect("text");
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let own = rest.starts_with('{') || rest.starts_with(' ');
            (own && labels.iter().all(|label| rest.contains(label)))
                .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        };
        text.lines().filter_map(value).sum()
    }

    /// The logs of the farm's own programs.
    fn own_logs(&self) -> Vec<PathBuf> {
        let coordinators = self.coordinators.iter().map(|c| c.config.with_extension("log"));
        coordinators.chain([self.folder.path().join("workers.log")]).collect()
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let mut files = self.own_logs();
        files.push(self.folder.path().join("etcd.log"));
        let end = |file: &PathBuf| {
            let text = std::fs::read(file).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            format!("{}:\n{}\n", file.display(), lines[lines.len().saturating_sub(30)..].join("\n"))
        };
        files.iter().map(end).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
            return;
        }
        // No trouble of etcd or of a leader is one that a person must act upon: the farm goes on by itself.
        for file in self.own_logs() {
            let log = std::fs::read(&file).unwrap_or_default();
            unannounced(&String::from_utf8_lossy(&log), &[]);
        }
    }
}

fn tcp_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("its address").port()
}

fn udp_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("its address").port()
}
