//! Promise: what nobody needs any more leaves the store, and what somebody needs stays.

use crate::moderation::record;
use crate::worker::{Worker, facts, held};
use crate::{PATIENCE, TestFarm, submission};
use futures::TryStreamExt;
use std::collections::BTreeSet;
use std::time::Duration;
use zoetrope_coordinator::config::ServeConfig;
use zoetrope_coordinator::farm::FarmMsg;
use zoetrope_coordinator::store::Reading;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, JobId, Millis, TenantId};
use zoetrope_protocol::job::{Cause, Role};
use zoetrope_protocol::wire::{FromWorker, Held, Order};
use zoetrope_sched::output::JobState;

/// Nothing stays longer than it is needed.
pub(crate) fn keep_nothing(config: &mut ServeConfig) {
    config.limits.keep_unused_seconds = 0;
    config.limits.keep_intermediate_seconds = 0;
    config.limits.keep_failed_seconds = 0;
}

async fn stored(farm: &TestFarm) -> BTreeSet<ArtifactId> {
    farm.running.store.list().try_collect().await.expect("lists")
}

async fn until_stored(farm: &TestFarm, wanted: &BTreeSet<ArtifactId>) {
    let asking = async {
        while stored(farm).await != *wanted {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, asking).await;
    assert!(came.is_ok(), "{:?} is there, wanted was {wanted:?}", stored(farm).await);
}

/// What stays of a completed job.
async fn ended_with(farm: &TestFarm, job: JobId) -> Vec<ArtifactId> {
    let view = farm.until(job, |view| view.state == JobState::Completed).await;
    let assets = view.assets.expect("its files");
    [&assets.video, &assets.thumbnail, &assets.spritesheet].map(|asset| asset.artifact).to_vec()
}

/// What was measured of the clip of an order to finish stays with it, so that another policy can judge it again; and
/// what its marks showed, for look-ups.
fn records(order: &Order) -> Vec<ArtifactId> {
    if order.mark.is_none() {
        return Vec::new();
    }
    let clip = crate::worker::unsigned_clip(order);
    let scores = codec::encode(&record(order.spec.frames, clip)).expect("encodes");
    let marks = codec::encode(&crate::watermark::record(order, clip)).expect("encodes");
    vec![ArtifactId::of(&scores), ArtifactId::of(&marks)]
}

fn failed(order: &Order) -> FromWorker {
    let held = Held { shard: order.shard, fence: order.fence };
    let (cause, detail) = (Cause::EngineError, "a test's".to_owned());
    FromWorker::Failed { held, cause, detail, gpu: Millis(5) }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_completion_only_the_clip_stays_and_after_deletion_nothing() {
    only_the_clip_stays(TestFarm::with(keep_nothing).await).await;
}

/// The same on any store; nothing unused is kept.
pub(crate) async fn only_the_clip_stays(farm: TestFarm) {
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    let mut wanted = BTreeSet::new();
    // Both jobs store the same prompt: the second still needs it when the first is done.
    for job in [1, 2] {
        farm.submit(submission(job)).await.expect("admitted");
        for _ in 0..3 {
            let order = worker.order().await;
            for input in &order.inputs {
                worker.fetch(input.artifact).await;
            }
            worker.carry_out(&order).await;
            wanted.extend(records(&order));
        }
    }
    for job in [1, 2] {
        wanted.extend(ended_with(&farm, JobId(job)).await);
    }
    until_stored(&farm, &wanted).await;
    let farm = farm.restart().await;
    until_stored(&farm, &wanted).await;
    for job in [1, 2] {
        let delete = |reply| FarmMsg::Delete(TenantId(1), JobId(job), reply);
        assert!(farm.farm().ask(delete).await.expect("answers"));
    }
    until_stored(&farm, &BTreeSet::new()).await;
    farm.running.stop().await;
}

/// A pointer that could not be removed is removed when the store lets it be, without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_pointer_that_cannot_be_removed_is_removed_later() {
    let farm = TestFarm::with(keep_nothing).await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    farm.submit(submission(1)).await.expect("admitted");
    for _ in 0..3 {
        let order = worker.order().await;
        worker.carry_out(&order).await;
    }
    ended_with(&farm, JobId(1)).await;
    let published = farm.folder.path().join("store/published");
    let pointer = published.join(format!("{}.json", JobId(1)));
    assert!(pointer.exists());
    // A link to itself leads nowhere: neither is the pointer there nor can it be told that it is not.
    let aside = published.with_extension("aside");
    std::fs::rename(&published, &aside).expect("renames");
    std::os::unix::fs::symlink(&published, &published).expect("links");
    let delete = |reply| FarmMsg::Delete(TenantId(1), JobId(1), reply);
    assert!(farm.farm().ask(delete).await.expect("answers"));
    until_stored(&farm, &BTreeSet::new()).await;
    std::fs::remove_file(&published).expect("removes the link");
    std::fs::rename(&aside, &published).expect("renames");
    assert!(pointer.exists());
    let removed = async {
        while pointer.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, removed).await.expect("is removed at last");
    farm.running.stop().await;
}

/// A cancelled job leaves nothing behind, and neither does a farm that died before it could clean up.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_behind_is_swept() {
    // What failed is kept for whoever looks into it; nobody looks into what was cancelled.
    let farm = TestFarm::with(|config| {
        keep_nothing(config);
        config.limits.keep_failed_seconds = 3_600;
    })
    .await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.order().await;
    worker.carry_out(&order).await;
    let order = worker.order().await;
    worker.step(&order, 1).await;
    assert_eq!(stored(&farm).await.len(), 2);
    let orphan = ArtifactId::of(b"orphan");
    let mut upload = farm.running.store.put(orphan, 6, Reading::Soon).await.expect("begins");
    upload.write(bytes::Bytes::from_static(b"orphan")).await.expect("writes");
    upload.finish().await.expect("stores");
    let cancel = |reply| FarmMsg::Cancel(TenantId(1), JobId(1), reply);
    farm.farm().ask(cancel).await.expect("answers").expect("cancelled");
    let farm = farm.restart().await;
    until_stored(&farm, &BTreeSet::new()).await;
    farm.running.stop().await;
}

/// What led to a clip stays for a while after the job's end, over a restart, and then goes without one.
#[tokio::test(flavor = "multi_thread")]
async fn what_led_to_a_clip_stays_for_its_time() {
    let farm = TestFarm::with(|config| {
        keep_nothing(config);
        config.limits.keep_intermediate_seconds = 8;
        config.limits.keep_failed_seconds = 3_600;
    })
    .await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    farm.submit(submission(1)).await.expect("admitted");
    let (mut led, mut kept) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..3 {
        let order = worker.order().await;
        led.extend(order.inputs.iter().map(|input| input.artifact));
        worker.carry_out(&order).await;
        kept.extend(records(&order));
    }
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    farm.submit(submission(2)).await.expect("admitted");
    let encode = worker.order().await;
    worker.carry_out(&encode).await;
    // Three workers fail the second one.
    let mut order = worker.order().await;
    for node in ["gpu-1", "gpu-2"] {
        let mut next = Worker::fresh(&farm, node).await;
        worker.say(failed(&order)).await;
        order = next.order().await;
        worker = next;
    }
    worker.say(failed(&order)).await;
    farm.until(JobId(2), |view| matches!(view.state, JobState::Failed(_))).await;
    let farm = farm.restart().await;
    assert!(stored(&farm).await.is_superset(&led), "it is too early");
    kept.extend(ended_with(&farm, JobId(1)).await);
    // Both jobs have the same prompt, and the one that failed keeps it longer.
    kept.insert(ArtifactId::of(b"prompt"));
    until_stored(&farm, &kept).await;
    farm.running.stop().await;
}

/// What the store gives back damaged is no word about the clip: it waits until the store has what was put there.
#[tokio::test(flavor = "multi_thread")]
async fn a_clip_waits_for_a_store_that_gives_other_bytes() {
    let farm = TestFarm::start().await;
    // Whose clips are judged once they are finished: what was judged before it was signed is not read again.
    let mut worker = Worker::old(&farm, "gpu-0").await;
    for (job, role) in (1..).zip([Role::Marks, Role::Scores, Role::Clip]) {
        farm.submit(submission(job)).await.expect("admitted");
        let order = worker.finish_order().await;
        let (held, outputs) = (held(&order), worker.files(&order).await);
        let output = outputs.iter().find(|output| output.role == role).expect("is made");
        let name = output.artifact.to_string();
        let file = farm.folder.path().join("store/artifacts").join(&name[..2]).join(&name);
        let right = std::fs::read(&file).expect("reads");
        let mut bent = right.clone();
        *bent.last_mut().expect("not empty") ^= 1;
        std::fs::write(&file, bent).expect("writes");
        let (facts, gpu) = (Some(facts(&order)), Millis(50));
        let line = "zoetrope_inputs_total{input=\"publish_failed\"}";
        // A series begins with its first count.
        let count = || {
            let told = farm.running.metrics.text().contains(line);
            if told { farm.metric(line) } else { 0.0 }
        };
        let before = count();
        worker.say(FromWorker::Finished { held, outputs, facts, gpu }).await;
        let failed = async {
            while count() <= before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, failed).await.expect("it is noticed");
        assert_eq!(farm.read(JobId(job)).await.state, JobState::InProgress, "{role:?}");
        std::fs::write(&file, right).expect("writes");
        farm.until(JobId(job), |view| view.state == JobState::Completed).await;
    }
    farm.running.stop().await;
}
