//! Promise: a restarted coordinator has lost nothing, and renders in flight go on.

use crate::worker::{Papers, Worker, held, identity};
use crate::{PATIENCE, TestFarm, submission};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use zoetrope_coordinator::clock;
use zoetrope_coordinator::config::Share;
use zoetrope_coordinator::farm::{FarmMsg, SubmitRefused};
use zoetrope_coordinator::jobs::ListQuery;
use zoetrope_coordinator::serve;
use zoetrope_protocol::id::{ArtifactId, JobId, Millis, TenantId};
use zoetrope_protocol::job::{ArtifactRef, Role, Stage};
use zoetrope_sched::output::JobState;

#[tokio::test(flavor = "multi_thread")]
async fn a_render_in_flight_goes_on_under_the_new_epoch() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    let papers = Papers::issue(&farm.running.authority, "gpu-0");
    let mut worker = Worker::connect(&farm, &papers, identity("gpu-0", 3, 1), Vec::new()).await;
    let order = worker.order().await;
    worker.carry_out(&order).await;
    let mut order = worker.order().await;
    worker.step(&order, 1).await;
    worker.step(&order, 2).await;
    let before = held(&order);
    let farm = farm.restart().await;
    let view = farm.read(JobId(1)).await;
    assert_eq!((view.state, view.progress), (JobState::InProgress, 40), "the steps in the store");
    drop(worker);
    let mut worker = Worker::connect(&farm, &papers, identity("gpu-0", 3, 2), vec![before]).await;
    let kept = worker.welcome.clone();
    assert_eq!(kept.len(), 1, "the attempt goes on");
    assert!(kept[0].fence.epoch > before.fence.epoch);
    order.fence = kept[0].fence;
    let role = Role::Latents { step: 2 };
    order.inputs.push(ArtifactRef { role, artifact: ArtifactId([0; 32]), bytes: 0 });
    worker.carry_out(&order).await;
    let order = worker.order().await;
    assert_eq!(order.shard.stage, Stage::Finish);
    worker.carry_out(&order).await;
    let done = farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    let farm = farm.restart().await;
    assert_eq!(farm.read(JobId(1)).await, done, "and stays as it was");
    farm.running.stop().await;
}

/// Promise: shares are those of the configuration of now, also of tenants that were there before.
#[tokio::test(flavor = "multi_thread")]
async fn shares_are_as_they_are_configured_now() {
    let mut farm = TestFarm::with(|config| config.tenants.running_max = 1).await;
    farm.submit(submission(1)).await.expect("admitted");
    let papers = Papers::issue(&farm.running.authority, "gpu-0");
    let mut worker = Worker::connect(&farm, &papers, identity("gpu-0", 1, 1), Vec::new()).await;
    let mut running = held(&worker.order().await);
    farm.submit(submission(2)).await.expect("admitted");
    // Whether the second job waits for its tenant or for the worker.
    let (capped, free) = ("runs 1 shards and may run 1", "the next worker that becomes free");
    farm.until_why(JobId(2), capped).await;
    let one = Share { running_max: 1, ..Share::default() };
    let of_its_own = [("proj_1".to_owned(), one)];
    for (session, (most, named, why)) in
        (2..).zip([(2, None, free), (2, Some(of_its_own), capped), (2, None, free)])
    {
        farm.config.tenants.running_max = most;
        farm.config.tenants.named = named.into_iter().flatten().collect();
        farm = farm.restart().await;
        let identity = identity("gpu-0", 1, session);
        let back = Worker::connect(&farm, &papers, identity, vec![running]).await;
        running.fence = back.welcome.first().expect("its attempt goes on").fence;
        farm.until_why(JobId(2), why).await;
        worker = back;
    }
    drop(worker);
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_job_is_there_with_its_key_and_its_place() {
    let farm = TestFarm::with(|config| config.journal.snapshot_every = 100).await;
    let mut first = None;
    for job in 1..=250 {
        let mut submission = submission(job);
        submission.idempotency = Some([job as u8; 32]);
        if job == 250 {
            submission.idempotency = Some([255; 32]);
            first = Some(submission.clone());
        }
        let admitted = farm.submit(submission).await;
        assert!(admitted.is_ok(), "{admitted:?}");
    }
    let all = |reply| {
        let query = ListQuery { after: None, limit: 100, ascending: true };
        FarmMsg::List(TenantId(1), query, reply)
    };
    let before = farm.farm().ask(all).await.expect("answers").expect("a page");
    let farm = farm.restart().await;
    let mut after = farm.farm().ask(all).await.expect("answers").expect("a page");
    // Estimates are of the moment.
    for (old, new) in before.jobs.iter().zip(&mut after.jobs) {
        new.estimated_completion = old.estimated_completion;
        new.estimated_start = old.estimated_start;
    }
    assert_eq!(before, after);
    assert_eq!(farm.observe().await.unfinished, 250);
    let mut again = first.expect("the last one");
    again.job = JobId(999);
    match farm.submit(again.clone()).await {
        Err(SubmitRefused::Replay(view)) => assert_eq!(view.job, JobId(250)),
        other => panic!("no replay but {other:?}"),
    }
    again.content = [9; 32];
    assert_eq!(farm.submit(again).await, Err(SubmitRefused::KeyReused));
    farm.running.stop().await;
}

fn snapshots(farm: &TempDir) -> usize {
    let listed = std::fs::read_dir(farm.path().join("journal")).expect("lists");
    let names = listed.map(|entry| entry.expect("an entry").file_name().into_string());
    let whole = |name: &String| name.starts_with("snapshot-") && !name.ends_with(".draft");
    names.map(|name| name.expect("a name")).filter(whole).count()
}

/// A stop in good order leaves the books as they are, so that the next release does not decide once more what this one
/// decided; renders go on all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_good_order_leaves_a_snapshot() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    let order = worker.order().await;
    let TestFarm { folder, config, running } = farm;
    assert_eq!(snapshots(&folder), 0);
    running.save_and_stop().await;
    assert_eq!(snapshots(&folder), 1);
    let running = serve::start(&config).await.expect("the farm starts again");
    let farm = TestFarm { folder, config, running };
    let view = farm.read(JobId(1)).await;
    assert_eq!(view.state, JobState::InProgress, "{view:?}");
    drop(order);
    farm.running.stop().await;
}

/// A restart replays at most twice `snapshot_every`, also of a coordinator that starts more often than it records that
/// many: what it replayed counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_restarts_often_takes_snapshots() {
    let mut farm = TestFarm::with(|config| config.journal.snapshot_every = 100).await;
    for start in 0..8 {
        // At least two records each.
        for job in 1..=10 {
            assert!(farm.submit(submission(start * 10 + job)).await.is_ok());
        }
        farm = farm.restart().await;
    }
    let until = Instant::now() + PATIENCE;
    while snapshots(&farm.folder) == 0 {
        assert!(Instant::now() < until, "no snapshot is ever taken");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let began = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs_f64();
    let farm = farm.restart().await;
    let shown = farm.metric("zoetrope_snapshot_timestamp_seconds");
    assert!((began - 600.0..=began).contains(&shown), "{shown}, when that snapshot was taken");
    farm.running.stop().await;
}

/// Whether these words stand in a file below a folder.
fn stands_in(folder: &Path, words: &[u8]) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| match path.is_dir() {
        true => stands_in(&path, words),
        // One that goes meanwhile has no words.
        false => std::fs::read(&path)
            .is_ok_and(|bytes| bytes.windows(words.len()).any(|some| some == words)),
    })
}

/// Promise: what a caller wrote leaves the disk within two days after its video is deleted, though nothing else happens.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_leaves_the_journal() {
    let farm = TestFarm::start().await;
    let mut words = submission(1);
    words.spec.render.prompt = "a heron in a yellow raincoat".to_owned();
    farm.submit(words).await.expect("admitted");
    let delete = |reply| FarmMsg::Delete(TenantId(1), JobId(1), reply);
    assert!(farm.farm().ask(delete).await.expect("answers"));
    let journal = farm.folder.path().join("journal");
    let left = || stands_in(&journal, b"a heron in a yellow raincoat");
    assert!(left(), "it stands there as it came");
    // After a start nothing was saved yet.
    for (hours, there) in [(1, 1), (24, 2)] {
        clock::not_before(clock::now().plus(Millis(hours * 3_600_000)));
        let taken = async {
            while snapshots(&farm.folder) < there {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, taken).await.expect("a snapshot a day");
    }
    let gone = async {
        while left() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("nothing is left of it");
    farm.running.stop().await;
}
