//! Promise: a job goes from submit to a published clip, through every stage, and its files can be read.

use crate::worker::{Worker, facts, held};
use crate::{TestFarm, submission};
use futures::TryStreamExt;
use zoetrope_coordinator::farm::{AssetReader, FarmMsg};
use zoetrope_coordinator::store::StoreReader;
use zoetrope_protocol::id::{JobId, Millis, TenantId};
use zoetrope_protocol::job::{ClipFacts, Stage};
use zoetrope_protocol::wire::FromWorker;
use zoetrope_provenance::{State, Trust, read};
use zoetrope_sched::output::JobState;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_rendered_and_published() {
    let farm = TestFarm::start().await;
    let view = farm.submit(submission(1)).await.expect("admitted");
    assert_eq!((view.state, view.progress, view.queue_position), (JobState::Queued, 0, Some(0)));
    assert_eq!(view.estimated_start, None, "there is no worker");
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    for stage in [Stage::Encode, Stage::Denoise, Stage::Finish] {
        let order = worker.order().await;
        assert_eq!(order.shard.stage, stage);
        for input in &order.inputs {
            let bytes = worker.fetch(input.artifact).await;
            assert_eq!(bytes.len() as u64, input.bytes);
        }
        worker.carry_out(&order).await;
    }
    let view = farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    assert_eq!((view.progress, view.gpu), (100, Millis(150)));
    assert_eq!(view.resolved_model, Some(format!("toybox@sha256:{}", "07".repeat(32))));
    let assets = view.assets.expect("its files");
    let reader = StoreReader::new(farm.running.store.clone());
    let parts: Vec<_> =
        reader.read(&assets.video, 0..assets.video.bytes).try_collect().await.expect("reads");
    let root = std::fs::read_to_string(farm.folder.path().join("provenance/root.pem"));
    let trust = Trust { roots: root.expect("the farm's root") };
    let verdict = read("video/mp4", std::io::Cursor::new(parts.concat()), &trust);
    assert_eq!((verdict.state, verdict.failures), (State::Trusted, vec![]));
    assert!(farm.folder.path().join(format!("store/published/{}.json", JobId(1))).exists());
    assert_eq!(farm.metric("zoetrope_video_seconds_total{model=\"toybox\"} "), 4.0);
    // Frames count as what is sent beside them does: a hello and what was asked for, a welcome and orders.
    for direction in ["in", "out"] {
        let line = |content| {
            format!("zoetrope_link_bytes_total{{content=\"{content}\",direction=\"{direction}\"}} ")
        };
        assert!(farm.metric(&line("control")) > 200.0, "{direction}");
        assert!(farm.metric(&line("artifact")) > 0.0, "{direction}");
    }
    // One worker, three stages: it had none of them loaded.
    assert_eq!(farm.metric("zoetrope_placements_total{affinity=\"load\"} "), 3.0);
    assert_eq!(farm.metric("zoetrope_placements_total{affinity=\"hot\"} "), 0.0);
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clip_whose_sound_is_too_long_is_never_published() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    for _ in 0..2 {
        let order = worker.order().await;
        worker.carry_out(&order).await;
    }
    let order = worker.order().await;
    let outputs = worker.files(&order).await;
    let facts = Some(ClipFacts { av_gap_micros: 21_334, ..facts(&order) });
    let gpu = Millis(1);
    worker.say(FromWorker::Finished { held: held(&order), outputs, facts, gpu }).await;
    let view = farm.until(JobId(1), |_| {
        farm.running.metrics.text().contains("zoetrope_publishes_refused_total{proof=\"av_gap\"} 1")
    });
    assert_ne!(view.await.state, JobState::Completed);
    assert!(!farm.folder.path().join(format!("store/published/{}.json", JobId(1))).exists());
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_clip_leaves_the_store_and_the_list() {
    let farm = TestFarm::with(|config| config.limits.keep_unused_seconds = 0).await;
    farm.submit(submission(1)).await.expect("admitted");
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    for _ in 0..3 {
        let order = worker.order().await;
        worker.carry_out(&order).await;
    }
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    let delete = |reply| FarmMsg::Delete(TenantId(1), JobId(1), reply);
    assert!(farm.farm().ask(delete).await.expect("answers"));
    let read = |reply| FarmMsg::Read(TenantId(1), JobId(1), reply);
    assert_eq!(farm.farm().ask(read).await.expect("answers"), None);
    let farm = farm.restart().await;
    assert_eq!(farm.farm().ask(read).await.expect("answers"), None, "for ever");
    farm.running.stop().await;
}
