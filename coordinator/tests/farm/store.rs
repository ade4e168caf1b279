//! Promise: what nobody needs any more leaves the store, and what somebody needs stays.

use crate::moderation::record;
use crate::worker::{Worker, facts, held};
use crate::{PATIENCE, TestFarm, submission};
use futures::TryStreamExt;
use std::collections::BTreeSet;
use std::time::Duration;
use zoetrope_coordinator::farm::FarmMsg;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, JobId, Millis, TenantId};
use zoetrope_protocol::job::Role;
use zoetrope_protocol::wire::FromWorker;
use zoetrope_sched::output::JobState;

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

#[tokio::test(flavor = "multi_thread")]
async fn after_completion_only_the_clip_stays_and_after_deletion_nothing() {
    only_the_clip_stays(TestFarm::with(|config| config.limits.keep_unused_seconds = 0).await).await;
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
            if order.mark.is_some() {
                let record = crate::watermark::record(&order, crate::worker::unsigned_clip());
                wanted.insert(ArtifactId::of(&codec::encode(&record).expect("encodes")));
            }
        }
    }
    for job in [1, 2] {
        let view = farm.until(JobId(job), |view| view.state == JobState::Completed).await;
        let assets = view.assets.expect("its files");
        // What was measured of the clip stays with it, so that another policy can judge it again.
        let record = record(view.spec.render.frames, crate::worker::unsigned_clip());
        wanted.insert(ArtifactId::of(&codec::encode(&record).expect("encodes")));
        wanted.extend([&assets.video, &assets.thumbnail, &assets.spritesheet].map(|a| a.artifact));
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
    let farm = TestFarm::with(|config| config.limits.keep_unused_seconds = 0).await;
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

/// What the store gives back damaged is no word about the clip: it waits until the store has what was put there.
#[tokio::test(flavor = "multi_thread")]
async fn a_clip_waits_for_a_store_that_gives_other_bytes() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    for (job, role) in (1..).zip([Role::Marks, Role::Scores, Role::Clip]) {
        farm.submit(submission(job)).await.expect("admitted");
        for _ in 0..2 {
            let order = worker.order().await;
            worker.carry_out(&order).await;
        }
        let order = worker.order().await;
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
