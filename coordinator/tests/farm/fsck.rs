//! Promise: a check finds everything in the store that is not as the journal says, disturbs no render, changes nothing
//! unless told to, and then mends what needs no decision.

use crate::worker::Worker;
use crate::{PATIENCE, TestFarm, submission};
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use zoetrope_coordinator::farm::FarmMsg;
use zoetrope_coordinator::fsck::{Fault, Fsck, Options, Report};
use zoetrope_coordinator::jobs::{ArtifactRecord, Assets};
use zoetrope_coordinator::store::Reading;
use zoetrope_protocol::id::{ArtifactId, JobId};
use zoetrope_protocol::job::Role;
use zoetrope_sched::output::JobState;

async fn check(farm: &TestFarm, repair: bool, quick: bool) -> Report {
    let fsck = Fsck::new(farm.running.store.clone());
    fsck.start(farm.farm(), Options { repair, quick }).expect("none runs");
    until_ended(&fsck).await;
    let report = fsck.report();
    assert_eq!(report.state, "done", "{:?}", report.error);
    assert_eq!(report.problems, report.findings.len() as u64);
    report
}

async fn until_ended(fsck: &Fsck) {
    let ended = async {
        while fsck.report().state == "running" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("it ends");
}

fn faults(report: &Report) -> BTreeMap<Fault, usize> {
    let mut counts = BTreeMap::new();
    for finding in &report.findings {
        *counts.entry(finding.fault).or_insert(0) += 1;
    }
    counts
}

/// Waits until the farm has looked through its store once.
async fn swept(farm: &TestFarm) {
    let looked = async {
        while farm.metric("zoetrope_store_sweeps_total{outcome=\"ok\"}") < 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.expect("it is swept at the start");
}

async fn complete(farm: &TestFarm, worker: &mut Worker, job: u128) -> Assets {
    farm.submit(submission(job)).await.expect("admitted");
    for _ in 0..3 {
        let order = worker.order().await;
        worker.carry_out(&order).await;
    }
    let view = farm.until(JobId(job), |view| view.state == JobState::Completed).await;
    view.assets.expect("its files")
}

fn file(farm: &TestFarm, artifact: &ArtifactId) -> PathBuf {
    let name = artifact.to_string();
    farm.folder.path().join("store/artifacts").join(&name[..2]).join(name)
}

fn pointer(farm: &TestFarm, job: u128) -> PathBuf {
    farm.folder.path().join(format!("store/published/{}.json", JobId(job)))
}

/// As if it had been written long ago.
fn age(file: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(7_200);
    let file = std::fs::File::options().append(true).open(file).expect("opens");
    file.set_modified(long_ago).expect("sets");
}

/// On one thread: the first cannot have ended before the second is asked for.
#[tokio::test]
async fn there_is_one_check_at_a_time() {
    let farm = TestFarm::start().await;
    let fsck = Fsck::new(farm.running.store.clone());
    fsck.start(farm.farm(), Options::default()).expect("none runs");
    assert!(fsck.start(farm.farm(), Options::default()).is_err());
    until_ended(&fsck).await;
    fsck.start(farm.farm(), Options::default()).expect("the first has ended");
    until_ended(&fsck).await;
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_found_and_what_needs_no_decision_is_mended() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    let mut assets = Vec::new();
    for job in 1..=5 {
        assets.push(complete(&farm, &mut worker, job).await);
    }
    // One job is at work all the time.
    farm.submit(submission(6)).await.expect("admitted");
    let order = worker.order().await;
    worker.carry_out(&order).await;
    let running = worker.order().await;
    let latents = worker.step(&running, 1).await;
    let clean = check(&farm, false, false).await;
    assert_eq!((clean.problems, clean.jobs), (0, 6), "{:?}", clean.findings);
    assert!(clean.bytes > 0 && check(&farm, false, true).await.bytes == 0);

    // What the sweep of the start has listed is about to go, and no finding.
    swept(&farm).await;
    std::fs::remove_file(pointer(&farm, 1)).expect("removes");
    std::fs::write(pointer(&farm, 2), "{}").expect("writes");
    std::fs::write(pointer(&farm, 99), "{}").expect("writes");
    std::fs::remove_file(file(&farm, &assets[2].video.artifact)).expect("removes");
    let clip = file(&farm, &assets[3].video.artifact);
    let mut bytes = std::fs::read(&clip).expect("reads");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&clip, bytes).expect("writes");
    std::fs::write(file(&farm, &latents.artifact), b"rotten").expect("writes");
    // What a rescan would judge the clip by.
    let history = |reply| FarmMsg::History(JobId(5), reply);
    let (_, history) = farm.farm().ask(history).await.expect("answers").expect("is there");
    let scores = |stored: &&ArtifactRecord| stored.artifact.role == Role::Scores;
    let record = history.artifacts.iter().find(scores).expect("its record").artifact.artifact;
    std::fs::remove_file(file(&farm, &record)).expect("removes");
    for orphan in ["orphan", "fresh orphan"] {
        let artifact = ArtifactId::of(orphan.as_bytes());
        let mut upload = farm
            .running
            .store
            .put(artifact, orphan.len() as u64, Reading::Soon)
            .await
            .expect("begins");
        upload.write(bytes::Bytes::from_static(orphan.as_bytes())).await.expect("writes");
        upload.finish().await.expect("stores");
    }
    let orphan = file(&farm, &ArtifactId::of(b"orphan"));
    age(&orphan);
    let left = clip.with_file_name(format!("{}#3", assets[4].video.artifact));
    std::fs::write(&left, b"half").expect("writes");
    age(&left);

    let store = farm.folder.path().join("store");
    for name in ["weird/file", "artifacts/0f/junk", "published/foo.json"] {
        let stranger = store.join(name);
        std::fs::create_dir_all(stranger.parent().expect("a folder")).expect("makes");
        std::fs::write(stranger, b"whose?").expect("writes");
    }

    let wrong = BTreeMap::from([
        (Fault::PointerMissing, 1),
        (Fault::PointerWrong, 1),
        (Fault::PointerStale, 1),
        (Fault::AssetMissing, 1),
        (Fault::AssetDamaged, 1),
        (Fault::ArtifactMissing, 1),
        (Fault::ArtifactDamaged, 1),
        (Fault::ArtifactUnused, 1),
        (Fault::UploadLeft, 1),
        (Fault::Stranger, 3),
    ]);
    for _ in 0..2 {
        let dry = check(&farm, false, false).await;
        assert_eq!(faults(&dry), wrong, "{:?}", dry.findings);
        assert_eq!(dry.repaired, 0, "nothing is changed unasked");
    }
    let quick = check(&farm, false, true).await;
    assert!(
        !faults(&quick).contains_key(&Fault::AssetDamaged),
        "one byte is not seen by its length"
    );
    let mended = check(&farm, true, false).await;
    assert_eq!(faults(&mended), wrong);
    for finding in &mended.findings {
        use Fault::{ArtifactMissing, AssetDamaged, AssetMissing, Stranger};
        let left =
            matches!(finding.fault, AssetMissing | AssetDamaged | ArtifactMissing | Stranger);
        assert_ne!(finding.repaired, left, "{finding:?}");
    }
    let left = check(&farm, false, false).await;
    let lost = BTreeMap::from([
        (Fault::AssetMissing, 1),
        (Fault::AssetDamaged, 1),
        // The record, and the latents that the worker has not asked for yet.
        (Fault::ArtifactMissing, 2),
        (Fault::Stranger, 3),
    ]);
    assert_eq!(faults(&left), lost, "{:?}", left.findings);
    let pointers: Vec<JobId> = farm.running.store.pointers().try_collect().await.expect("lists");
    assert_eq!(pointers.len(), 5);

    // The render went on and ends; its lost step was not the last one.
    for step in 2..=running.spec.steps {
        let last = worker.step(&running, step).await;
        if step == running.spec.steps {
            let held = crate::worker::held(&running);
            let gpu = zoetrope_protocol::id::Millis(50);
            let finished = zoetrope_protocol::wire::FromWorker::Finished {
                held,
                outputs: vec![last],
                facts: None,
                gpu,
            };
            worker.say(finished).await;
        }
    }
    let order = worker.order().await;
    worker.carry_out(&order).await;
    farm.until(JobId(6), |view| view.state == JobState::Completed).await;
    farm.running.stop().await;
}

/// In a bucket too: one page of names is the last, and says so once.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_checked_as_a_folder_is() {
    let server = crate::bucket::Server::start(crate::bucket::Kind::Moto).await;
    let farm = TestFarm::with(|config| config.store = server.config("", server.address())).await;
    assert_eq!(check(&farm, false, false).await.problems, 0, "nothing is there");
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    complete(&farm, &mut worker, 1).await;
    let clean = check(&farm, false, false).await;
    assert_eq!((clean.problems, clean.jobs), (0, 1), "{:?}", clean.findings);
    farm.running.store.unpublish(JobId(1)).await.expect("removes");
    farm.running.store.publish(JobId(99), b"{}".to_vec()).await.expect("writes");
    let wrong = BTreeMap::from([(Fault::PointerMissing, 1), (Fault::PointerStale, 1)]);
    assert_eq!(faults(&check(&farm, true, false).await), wrong);
    assert_eq!(check(&farm, false, false).await.problems, 0);
    farm.running.stop().await;
}

/// A deletion whose files were not gone yet when the farm died is done by the next start: no byte is left.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_is_gone_also_after_a_crash_in_between() {
    use zoetrope_protocol::id::TenantId;
    // So long that the first farm never comes to it.
    let farm = TestFarm::with(|config| config.limits.keep_unused_seconds = 3_600).await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    let assets = complete(&farm, &mut worker, 1).await;
    let delete = |reply| FarmMsg::Delete(TenantId(1), JobId(1), reply);
    assert!(farm.farm().ask(delete).await.expect("answers"));
    assert!(file(&farm, &assets.video.artifact).exists(), "the crash comes first");
    let TestFarm { folder, mut config, running } = farm;
    running.stop().await;
    // A crash in the middle of the deletion, and after it of the pointer's.
    std::fs::write(folder.path().join(format!("store/published/{}.json", JobId(1))), "{}")
        .expect("writes");
    config.limits.keep_unused_seconds = 0;
    let running = zoetrope_coordinator::serve::start(&config).await.expect("starts again");
    let farm = TestFarm { folder, config, running };
    let gone = async {
        loop {
            let artifacts: Vec<ArtifactId> =
                farm.running.store.list().try_collect().await.expect("lists");
            if artifacts.is_empty() && !pointer(&farm, 1).exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("all of it goes");
    assert_eq!(check(&farm, false, false).await.problems, 0);
    farm.running.stop().await;
}

/// A store belongs to one journal: beside another nothing in it is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_another_journal_filled_is_left_alone() {
    use zoetrope_coordinator::serve;
    let farm = TestFarm::with(|config| config.limits.keep_unused_seconds = 0).await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    let assets = complete(&farm, &mut worker, 1).await;
    let TestFarm { folder, config, running } = farm;
    running.stop().await;
    let (store, clip) = (folder.path().join("store"), assets.video.artifact);

    // Another farm is told that it is another's.
    let other = tempfile::tempdir().expect("temporary folder");
    let mut wrong = config.clone();
    wrong.data = other.path().to_owned();
    wrong.store.place = store.display().to_string();
    let refused = serve::start(&wrong).await.err().expect("is refused");
    assert!(format!("{refused:#}").contains("belongs to another farm"), "{refused:#}");

    // A store from the time before stores had a name, and a journal that is not the one that filled it.
    std::fs::remove_file(store.join("farm")).expect("removes");
    std::fs::rename(folder.path().join("journal"), folder.path().join("away")).expect("renames");
    let running = serve::start(&config).await.expect("starts");
    let farm = TestFarm { folder, config, running };
    let refused = async {
        while farm.metric("zoetrope_store_sweeps_total{outcome=\"error\"}") < 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("the sweep of the start");
    assert_eq!(farm.metric("zoetrope_store_sweeps_total{outcome=\"ok\"}"), 0.0);
    assert!(file(&farm, &clip).exists() && pointer(&farm, 1).exists());

    // A person decides.
    age(&file(&farm, &clip));
    check(&farm, true, true).await;
    let gone = async {
        while file(&farm, &clip).exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it goes");
    assert!(!pointer(&farm, 1).exists());
    farm.running.stop().await;
}
