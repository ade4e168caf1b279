//! Promise: a bucket of a real S3 server is as good a store as a folder; while it is down, slow or hangs, jobs wait,
//! and nothing is lost or published twice.

use crate::bucket::{Kind, Proxy, Server, Trouble};
use crate::worker::{Papers, Worker, facts, held, identity};
use crate::{TestFarm, submission};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zoetrope_coordinator::config::ServeConfig;
use zoetrope_coordinator::ground::Common;
use zoetrope_coordinator::serve;
use zoetrope_coordinator::store::{Conditional, Reading, Store, StoreError, Writers};
use zoetrope_protocol::id::{ArtifactId, JobId, Millis};
use zoetrope_protocol::wire::FromWorker;
use zoetrope_sched::output::JobState;

/// A request ends within 32 s, and what is done here takes two.
const BOUND: Duration = Duration::from_secs(75);

fn open(server: &Server, prefix: &str) -> Arc<Store> {
    open_via(server, prefix, server.address())
}

fn open_via(server: &Server, prefix: &str, via: std::net::SocketAddr) -> Arc<Store> {
    let place = server.place(prefix, via);
    Arc::new(Store::at(&place, Writers::One, Duration::ZERO).expect("opens"))
}

/// Bytes that no part repeats.
fn bytes(length: usize) -> Vec<u8> {
    (0..length as u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(length)
        .collect()
}

async fn put(store: &Arc<Store>, content: &[u8]) -> Result<ArtifactId, StoreError> {
    put_as(store, ArtifactId::of(content), content).await
}

async fn put_as(
    store: &Arc<Store>,
    artifact: ArtifactId,
    content: &[u8],
) -> Result<ArtifactId, StoreError> {
    let mut upload = store.put(artifact, content.len() as u64, Reading::Soon).await?;
    for chunk in content.chunks(64 << 10) {
        upload.write(Bytes::copy_from_slice(chunk)).await?;
    }
    upload.finish().await.map(|()| artifact)
}

async fn listed(store: &Store) -> Vec<ArtifactId> {
    store.list().try_collect().await.expect("lists")
}

/// Small and large artifacts, ranges, wrong digests, what was given up, and deletion.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_holds_what_matches_its_address_and_nothing_else() {
    for kind in [Kind::Moto, Kind::Juice] {
        let server = Server::start(kind).await;
        let store = open(&server, "a/b");
        // One request, exactly one request, one byte more, and parts on the way at the same time.
        for length in [0, 5, 5 << 20, (5 << 20) + 1, 23 << 20] {
            let content = bytes(length);
            let artifact = put(&store, &content).await.expect("stores");
            store.verify(&artifact, length as u64).await.expect("is whole");
            assert_eq!(store.size(&artifact).await.expect("is there"), length as u64);
            if length > 100 {
                let range = length as u64 - 50..length as u64 - 10;
                let stream = store.get(&artifact, Some(range)).await.expect("reads");
                let read: Vec<Bytes> = stream.try_collect().await.expect("reads");
                assert_eq!(read.concat(), content[length - 50..length - 10]);
            }
            assert_eq!(listed(&store).await, vec![artifact], "{kind:?} {length}");
            let wrong = ArtifactId::of(b"another");
            let refused = put_as(&store, wrong, &content).await;
            assert!(matches!(refused, Err(StoreError::WrongDigest)), "{refused:?}");
            let mut given_up =
                store.put(wrong, length as u64, Reading::Soon).await.expect("begins");
            given_up.write(Bytes::copy_from_slice(&content)).await.expect("writes");
            given_up.abort().await;
            assert!(matches!(store.size(&wrong).await, Err(StoreError::Missing)));
            assert!(open(&server, "a/c").size(&artifact).await.is_err(), "another prefix");
            assert!(store.delete(&artifact).await.expect("deletes"));
            assert!(store.delete(&artifact).await.expect("is deleted"));
            assert!(matches!(store.get(&artifact, None).await, Err(StoreError::Missing)));
            assert!(listed(&store).await.is_empty());
        }
        store.put_part("1-2", b"records").await.expect("writes");
        assert_eq!(store.part("1-2").await.expect("reads"), b"records");
        store.keep_progress(b"so far".to_vec()).await.expect("writes");
        assert_eq!(store.progress().await.expect("reads"), b"so far");
    }
}

/// What the servers really do with `If-None-Match: *`, and that a pointer is flipped once all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_pointer_is_flipped_once_by_whoever_comes_first() {
    for (kind, does) in [(Kind::Moto, Conditional::Kept), (Kind::Juice, Conditional::Ignored)] {
        let server = Server::start(kind).await;
        let store = open(&server, "");
        assert_eq!(store.conditional().await.expect("answers"), does, "{kind:?}");
        // Where the server keeps the condition each coordinator may have a client of its own.
        let own = || if does == Conditional::Kept { open(&server, "") } else { store.clone() };
        for job in (1..=5).map(JobId) {
            let stores: Vec<Arc<Store>> = (0..8).map(|_| own()).collect();
            let flip = |(n, store): (usize, &Arc<Store>)| {
                let (store, pointer) = (store.clone(), n.to_string().into_bytes());
                async move { store.publish(job, pointer).await }
            };
            let results = join_all(stores.iter().enumerate().map(flip)).await;
            let won: Vec<usize> = (0..8).filter(|n| results[*n].is_ok()).collect();
            assert_eq!(won.len(), 1, "{kind:?}: {results:?}");
            let lost = |r: &Result<(), StoreError>| matches!(r, Ok(()) | Err(StoreError::Taken));
            assert!(results.iter().all(lost), "{results:?}");
            let again = store.publish(job, won[0].to_string().into_bytes()).await;
            again.expect("the winner's again is fine");
        }
        let pointers: Vec<JobId> = store.pointers().try_collect().await.expect("lists");
        assert_eq!(pointers.len(), 5);
        let place = server.place("", server.address());
        let shared = Store::at(&place, Writers::Several, Duration::ZERO).expect("opens");
        match (does, shared.publish(JobId(9), b"x".to_vec()).await) {
            (Conditional::Kept, Ok(()))
            | (Conditional::Ignored, Err(StoreError::Unconditional)) => {}
            (does, result) => panic!("{does:?} {result:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_in_an_upload_keeps_no_half_of_it() {
    let mut server = Server::start(Kind::Juice).await;
    let store = open(&server, "");
    let kept = put(&store, b"kept").await.expect("stores");
    let content = bytes(23 << 20);
    let artifact = ArtifactId::of(&content);
    let mut upload =
        store.put(artifact, content.len() as u64, Reading::Soon).await.expect("begins");
    upload.write(Bytes::copy_from_slice(&content[..12 << 20])).await.expect("writes");
    server.kill();
    let began = Instant::now();
    let rest = async {
        upload.write(Bytes::copy_from_slice(&content[12 << 20..])).await?;
        upload.finish().await
    };
    let ended = rest.await;
    assert!(matches!(ended, Err(StoreError::Failed(_))), "{ended:?}");
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    server.go().await;
    assert!(matches!(store.size(&artifact).await, Err(StoreError::Missing)));
    assert_eq!(put(&store, &content).await.expect("stores"), artifact);
    store.verify(&artifact, content.len() as u64).await.expect("is whole");
    // What was acknowledged before survived.
    store.verify(&kept, 4).await.expect("is whole");
    assert_eq!(listed(&store).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_trouble_is_waited_out_and_long_trouble_is_an_error_in_time() {
    let server = Server::start(Kind::Moto).await;
    let proxy = Proxy::before(server.address()).await;
    let store = open_via(&server, "", proxy.address);
    for trouble in [Trouble::Busy, Trouble::Cut] {
        for length in [1 << 20, 12 << 20] {
            proxy.set(trouble);
            let passes = async {
                // Shorter than five pauses of a tenth of a second, which is the least that the client waits in all.
                tokio::time::sleep(Duration::from_millis(300)).await;
                proxy.set(Trouble::None);
            };
            let content = [&bytes(length)[..], format!("{trouble:?}").as_bytes()].concat();
            let (stored, ()) = tokio::join!(put(&store, &content), passes);
            let artifact = stored.unwrap_or_else(|error| panic!("{trouble:?}: {error:?}"));
            store.verify(&artifact, content.len() as u64).await.expect("is whole");
        }
    }
    let before = listed(&store).await.len();
    for trouble in [Trouble::Busy, Trouble::Stall] {
        proxy.set(trouble);
        let content = format!("never stored {trouble:?}");
        let began = Instant::now();
        let stored = put(&store, content.as_bytes()).await;
        assert!(matches!(stored, Err(StoreError::Failed(_))), "{stored:?}");
        assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
        println!("{trouble:?} was an error after {:?}", began.elapsed());
        proxy.set(Trouble::None);
        assert_eq!(listed(&store).await.len(), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_on_a_bucket_keeps_the_clip_alone_and_after_deletion_nothing() {
    let server = Server::start(Kind::Moto).await;
    let farm = TestFarm::with(|config| {
        crate::store::keep_nothing(config);
        config.store = server.config("farm", server.address());
    })
    .await;
    crate::store::only_the_clip_stays(farm).await;
    assert!(listed(&open(&server, "farm")).await.is_empty());
}

/// The clip is in the bucket and the bucket goes away before its pointer is flipped.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_waits_for_a_bucket_that_is_away_and_comes_once() {
    let server = Server::start(Kind::Moto).await;
    let proxy = Proxy::before(server.address()).await;
    let farm = TestFarm::with(|config| {
        config.store = server.config("farm", proxy.address);
    })
    .await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    for (job, trouble) in [(1, Trouble::Busy), (2, Trouble::Stall)] {
        farm.submit(submission(job)).await.expect("admitted");
        let order = worker.finish_order().await;
        let (held, outputs) = (held(&order), worker.files(&order).await);
        proxy.set(trouble);
        let (facts, gpu) = (Some(facts(&order)), Millis(50));
        worker.say(FromWorker::Finished { held, outputs, facts, gpu }).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(farm.read(JobId(job)).await.state, JobState::InProgress, "it waits");
        proxy.set(Trouble::None);
        let began = Instant::now();
        while farm.read(JobId(job)).await.state != JobState::Completed {
            let state = farm.read(JobId(job)).await.state;
            assert_eq!(state, JobState::InProgress);
            assert!(began.elapsed() < 2 * BOUND, "it never came");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("{trouble:?}: published {:?} after the bucket came back", began.elapsed());
    }
    let store = open(&server, "farm");
    let pointers: Vec<JobId> = store.pointers().try_collect().await.expect("lists");
    assert_eq!(pointers.len(), 2);
    farm.running.stop().await;
}

/// Two coordinators share an etcd and a bucket and no folder: the second goes on where the first was, and signs under
/// the same root.
#[tokio::test(flavor = "multi_thread")]
async fn several_coordinators_on_a_bucket_need_no_folder() {
    let (etcd, bucket) = (crate::etcd::Server::start(), Server::start(Kind::Moto).await);
    let client = etcd.client();
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("temporary folder"));
    std::fs::write(folders[0].path().join("secret"), "7".repeat(64)).expect("writes");
    let config = |own: usize| {
        let text = format!(
            "link_listen = \"127.0.0.1:0\"\n[journal]\nstore = \"etcd\"\n[cluster]\nprefix = \"test\"\n\
             endpoints = [\"{}\"]\nsecret_file = \"{}\"\n",
            etcd.url,
            folders[0].path().join("secret").display(),
        );
        let mut config: ServeConfig = toml::from_str(&text).expect("parses");
        let folder = folders[own].path();
        config.data = folder.to_owned();
        config.moderation.policy = Some(crate::moderation::policy(folder));
        config.store = bucket.config("farm", bucket.address());
        // The check wants a port that workers are told; here they are told none.
        config.link_listen.set_port(1);
        config.check().expect("is whole");
        config.link_listen.set_port(0);
        config
    };
    let mut roots = Vec::new();
    let mut term = async |own: usize, folder: tempfile::TempDir| {
        let config = config(own);
        let leadership = etcd.elect(&client).await;
        // Who does not renew acts for two seconds only.
        let renewed = leadership.clone();
        tokio::spawn(async move {
            loop {
                renewed.confirm(Instant::now());
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        let mut checked = config.clone();
        checked.link_listen.set_port(1);
        let common = Common::new(&checked).expect("a cluster");
        let links = tokio::sync::watch::channel(Vec::new()).1;
        let ground = common.ground(&config, leadership, links).expect("a ground");
        let running = serve::start_on(&config, ground).await.expect("starts");
        roots.push(running.root.to_string());
        TestFarm { folder, config, running }
    };
    let join = async |farm: &TestFarm, node: &str| {
        // The authority writes to etcd, and waits.
        let (authority, name) = (farm.running.authority.clone(), node.to_owned());
        let issue = tokio::task::spawn_blocking(move || Papers::issue(&authority, &name));
        let papers = issue.await.expect("issues");
        Worker::connect(farm, &papers, identity(node, 1, 1), Vec::new()).await
    };
    let spare = || tempfile::tempdir().expect("temporary folder");
    let farm = term(0, spare()).await;
    let mut worker = join(&farm, "gpu-0").await;
    farm.submit(submission(1)).await.expect("admitted");
    for _ in 0..2 {
        let order = worker.order().await;
        worker.carry_out(&order).await;
    }
    worker.order().await;
    worker.die();
    while farm.observe().await.links > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    farm.running.stop().await;
    let farm = term(1, spare()).await;
    let mut worker = join(&farm, "gpu-1").await;
    let order = worker.order().await;
    worker.carry_out(&order).await;
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    assert_eq!(roots[0], roots[1], "one root for both");
    for own in &folders {
        let kept = std::fs::read_dir(own.path().join("provenance")).expect("a folder");
        let names: Vec<_> = kept.map(|entry| entry.expect("an entry").file_name()).collect();
        assert_eq!(names, ["root.pem"], "no key lies in a folder");
    }
    farm.running.stop().await;
}

/// A farm starts, and takes jobs, while its bucket is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_farm_starts_without_its_bucket_and_jobs_wait() {
    let server = Server::start(Kind::Moto).await;
    let proxy = Proxy::before(server.address()).await;
    proxy.set(Trouble::Busy);
    let farm = TestFarm::with(|config| {
        config.store = server.config("farm", proxy.address);
    })
    .await;
    farm.submit(submission(1)).await.expect("admitted");
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    let order = worker.order().await;
    proxy.set(Trouble::None);
    worker.carry_out(&order).await;
    for _ in 0..2 {
        let order = worker.order().await;
        worker.carry_out(&order).await;
    }
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    farm.running.stop().await;
}
