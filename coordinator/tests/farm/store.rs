//! Promise: what nobody needs any more leaves the store, and what somebody needs stays.

use crate::moderation::record;
use crate::worker::Worker;
use crate::{PATIENCE, TestFarm, submission};
use futures::TryStreamExt;
use std::collections::BTreeSet;
use std::time::Duration;
use zoetrope_coordinator::config::ServeConfig;
use zoetrope_coordinator::farm::FarmMsg;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, JobId, TenantId};
use zoetrope_sched::output::JobState;

/// Nothing stays longer than it is needed.
fn keep_nothing(config: &mut ServeConfig) {
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
    // What was measured of the clip stays with it, so that another policy can judge it again.
    let record = record(view.spec.render.frames, crate::worker::unsigned_clip());
    let mut stays = vec![ArtifactId::of(&codec::encode(&record).expect("encodes"))];
    stays.extend([&assets.video, &assets.thumbnail, &assets.spritesheet].map(|a| a.artifact));
    stays
}

#[tokio::test(flavor = "multi_thread")]
async fn after_completion_only_the_clip_stays_and_after_deletion_nothing() {
    let farm = TestFarm::with(keep_nothing).await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    // Both jobs store the same prompt: the second still needs it when the first is done.
    for job in [1, 2] {
        farm.submit(submission(job)).await.expect("admitted");
        for _ in 0..3 {
            let order = worker.order().await;
            for input in &order.inputs {
                worker.fetch(input.artifact).await;
            }
            worker.carry_out(&order).await;
        }
    }
    let mut wanted = BTreeSet::new();
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

/// A cancelled job leaves nothing behind, and neither does a farm that died before it could clean up.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_behind_is_swept() {
    let farm = TestFarm::with(keep_nothing).await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.order().await;
    worker.carry_out(&order).await;
    let order = worker.order().await;
    worker.step(&order, 1).await;
    assert_eq!(stored(&farm).await.len(), 2);
    let orphan = ArtifactId::of(b"orphan");
    let mut upload = farm.running.store.put(orphan, 6).await.expect("begins");
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
    let mut led = BTreeSet::new();
    for _ in 0..3 {
        let order = worker.order().await;
        led.extend(order.inputs.iter().map(|input| input.artifact));
        worker.carry_out(&order).await;
    }
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    farm.submit(submission(2)).await.expect("admitted");
    let order = worker.order().await;
    worker.carry_out(&order).await;
    let cancel = |reply| FarmMsg::Cancel(TenantId(1), JobId(2), reply);
    farm.farm().ask(cancel).await.expect("answers").expect("cancelled");
    let farm = farm.restart().await;
    assert!(stored(&farm).await.is_superset(&led), "it is too early");
    let clip = ended_with(&farm, JobId(1)).await;
    // Both jobs have the same prompt, and the one that failed keeps it longer.
    let prompt = ArtifactId::of(b"prompt");
    until_stored(&farm, &clip.into_iter().chain([prompt]).collect()).await;
    farm.running.stop().await;
}
