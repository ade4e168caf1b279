//! Promise: a journal in etcd is there for the next leader, whole, and takes nothing from the last one any more.

use crate::PATIENCE;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Handle;
use zoetrope_coordinator::documents::{Documents, Sealed, Secret};
use zoetrope_coordinator::etcd::{Etcd, EtcdOptions, Fence};
use zoetrope_coordinator::journal::shared::{Shared, open};
use zoetrope_coordinator::journal::writer::{Command as Told, Report};
use zoetrope_coordinator::journal::{JournalError, Recovered, SnapshotBytes};
use zoetrope_coordinator::leadership::Leadership;
use zoetrope_coordinator::metrics::Metrics;
use zoetrope_coordinator::store::Store;

/// A real etcd, on a port and in a folder of its own.
pub(crate) struct Server {
    process: Child,
    folder: TempDir,
    pub(crate) url: String,
}

impl Server {
    pub(crate) fn start() -> Server {
        let folder = tempfile::tempdir().expect("temporary folder");
        let port = || {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            socket.local_addr().expect("an address").port()
        };
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (client, peer) = (url(port()), url(port()));
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(folder.path().join("etcd"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts (scripts/setup installs it)");
        Server { process, folder, url: client }
    }

    pub(crate) fn client(&self) -> Etcd {
        let options = EtcdOptions {
            endpoints: vec![self.url.clone()],
            prefix: "test".to_owned(),
            ..EtcdOptions::default()
        };
        Etcd::new(options, Arc::new(Metrics::new(&[])))
    }

    /// A new leader, whatever the last one thinks.
    pub(crate) async fn elect(&self, etcd: &Etcd) -> Arc<Leadership> {
        let began = Instant::now();
        let lease = loop {
            match etcd.grant(Duration::from_secs(600)).await {
                Ok(lease) => break lease,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        if let Some(old) = etcd.get("leader").await.expect("reads") {
            etcd.revoke(old.lease).await.expect("the old leader's lease ends");
        }
        let key = etcd.claim("leader", b"test", lease).await.expect("is elected");
        assert_eq!(key.lease, lease);
        let fence = Fence { key: "leader".to_owned(), revision: key.created };
        // Nobody renews here, and the test may take longer than a leader would go on for.
        Leadership::elected(fence, Instant::now())
    }

    fn shared(&self, etcd: &Etcd, leadership: &Arc<Leadership>) -> Shared {
        let store = Store::open(&self.folder.path().join("store"), Duration::ZERO);
        Shared {
            etcd: etcd.clone(),
            leadership: leadership.clone(),
            store: Arc::new(store.expect("a store")),
            runtime: Handle::current(),
            turn: Arc::new(Mutex::new(())),
            failed: None,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Every 50th is too long for etcd.
fn body(seq: u64) -> Vec<u8> {
    vec![seq as u8; if seq.is_multiple_of(50) { 20_000 } else { 300 }]
}

async fn opened(shared: Shared) -> Result<Recovered, JournalError> {
    tokio::task::spawn_blocking(move || open(shared, false)).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_finds_all_records_and_the_last_one_writes_no_more() {
    let server = Server::start();
    let etcd = server.client();
    let first = server.elect(&etcd).await;
    let mut writer = opened(server.shared(&etcd, &first)).await.expect("opens").writer;
    let mut writer = tokio::task::spawn_blocking(move || {
        let bodies: Vec<_> = (1..=3_000).map(body).collect();
        writer.append(&bodies).expect("appends more than one transaction takes");
        writer
    })
    .await
    .expect("no panic");
    let second = server.elect(&etcd).await;
    let refused = tokio::task::spawn_blocking(move || writer.append(&[body(3_001)])).await;
    assert!(matches!(refused.expect("no panic"), Err(JournalError::Deposed)));
    assert!(first.lost().is_cancelled(), "and it knows");
    let recovered = opened(server.shared(&etcd, &second)).await.expect("opens");
    assert_eq!(recovered.writer.next(), 3_001);
    assert_eq!(recovered.records.len(), 3_000);
    for (at, (seq, bytes)) in recovered.records.iter().enumerate() {
        assert_eq!((*seq, bytes), (at as u64 + 1, &body(*seq)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_stand_for_old_records_which_leave_etcd_and_the_store() {
    let server = Server::start();
    let etcd = server.client();
    let leadership = server.elect(&etcd).await;
    let shared = server.shared(&etcd, &leadership);
    let writer = opened(shared.clone()).await.expect("opens").writer;
    let (commands, queue) = channel();
    let (reports, told) = channel();
    let back = commands.clone();
    let waiting = Arc::new(AtomicU64::new(u64::MAX / 2));
    let thread = std::thread::spawn(move || {
        writer.run(&queue, &back, &waiting, &|report| drop(reports.send(report)));
    });
    let snapshot = |n: u8| SnapshotBytes { live: vec![n; 700_000], rest: vec![n; 9] };
    let rounds = tokio::task::spawn_blocking(move || {
        for n in 1..=3u8 {
            let from = u64::from(n - 1) * 100 + 1;
            commands.send(Told::Append((from..from + 100).map(body).collect())).expect("runs");
            commands.send(Told::Snapshot(Box::new(move |_| Ok(snapshot(n))))).expect("runs");
            while !matches!(told.recv().expect("reports"), Report::SnapshotTaken { .. }) {}
        }
        commands.send(Told::Append((301..=310).map(body).collect())).expect("runs");
        commands.send(Told::Stop).expect("runs");
    });
    rounds.await.expect("no panic");
    thread.join().expect("ends");
    let recovered = opened(shared.clone()).await.expect("opens");
    assert_eq!(
        recovered.snapshot,
        Some((300, SnapshotBytes { live: vec![3; 700_000], rest: vec![3; 9] }))
    );
    let numbers: Vec<u64> = recovered.records.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(numbers, (301..=310).collect::<Vec<_>>());
    let kept = etcd.range("snapshots/", "snapshots0", 100).await.expect("lists");
    assert_eq!(kept.len(), 2, "the newest and the one before");
    let oldest = etcd.range("journal/", "journal0", 1).await.expect("lists");
    assert_eq!(oldest[0].key, format!("journal/{:020}", 201));
    // A record that vanished is missed, and said.
    let newest = oldest[0].key.clone();
    let fence = leadership.fence().expect("elected");
    let gone = zoetrope_coordinator::etcd::Op::DeleteRange("journal/".into(), "journal0".into());
    etcd.write(fence, &[gone]).await.expect("writes").expect("leads");
    let Err(JournalError::Missing(loss)) = opened(shared).await else {
        panic!("a journal without {newest} opened");
    };
    assert_eq!(loss.missing, vec![(301, 310)]);
}

/// Promise: a store that is down does not stop the journal; what it did not take is in etcd, and is found there.
#[tokio::test(flavor = "multi_thread")]
async fn long_records_go_to_etcd_while_the_store_is_down() {
    let server = Server::start();
    let etcd = server.client();
    let leadership = server.elect(&etcd).await;
    let shared = server.shared(&etcd, &leadership);
    let mut writer = opened(shared.clone()).await.expect("opens").writer;
    let parts = server.folder.path().join("store/journal");
    let in_the_way = parts.clone();
    tokio::task::spawn_blocking(move || {
        let mut append = |from: u64| {
            let bodies: Vec<_> = (from..from + 100).map(body).collect();
            writer.append(&bodies).expect("appends");
        };
        append(1);
        std::fs::rename(&in_the_way, in_the_way.with_extension("away")).expect("renames");
        std::fs::write(&in_the_way, "no folder").expect("writes");
        append(101);
        append(201);
    })
    .await
    .expect("no panic");
    // Who does not renew acts for two seconds only.
    leadership.confirm(Instant::now());
    assert!(leadership.is_serving(), "callers are answered");
    std::fs::remove_file(&parts).expect("removes");
    std::fs::rename(parts.with_extension("away"), &parts).expect("renames");
    let apart = etcd.range("apart/", "apart0", 100).await.expect("lists");
    assert_eq!(apart.len(), 4, "150, 200, 250 and 300");
    let recovered = opened(shared).await.expect("opens");
    assert_eq!(recovered.records.len(), 300);
    for (at, (seq, bytes)) in recovered.records.iter().enumerate() {
        assert_eq!((*seq, bytes), (at as u64 + 1, &body(*seq)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_sealed_in_etcd_and_only_the_leader_replaces_them() {
    let server = Server::start();
    let etcd = server.client();
    let file = server.folder.path().join("secret");
    std::fs::write(&file, "s".repeat(40)).expect("writes");
    let sealed = |leadership: &Arc<Leadership>| Sealed {
        etcd: etcd.clone(),
        leadership: leadership.clone(),
        secret: Arc::new(Secret::read(&file).expect("a secret")),
        runtime: Handle::current(),
    };
    let first = server.elect(&etcd).await;
    let old = sealed(&first);
    let old = tokio::task::spawn_blocking(move || {
        assert_eq!(old.read("keys.json").expect("reads"), None);
        old.write("keys.json", b"the keys").expect("writes");
        old
    });
    let old = old.await.expect("no panic");
    let raw = etcd.get("documents/keys.json").await.expect("reads").expect("is there");
    assert!(!raw.value.windows(4).any(|w| w == b"keys"), "nobody reads it in etcd");
    let second = server.elect(&etcd).await;
    let new = sealed(&second);
    let both = tokio::task::spawn_blocking(move || {
        old.write("keys.json", b"mine").expect_err("no longer leads");
        assert_eq!(new.read("keys.json").expect("reads"), Some(b"the keys".to_vec()));
    });
    both.await.expect("no panic");
}
