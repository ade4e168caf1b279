//! Promise: a restarted coordinator has lost nothing, and renders in flight go on.

use crate::worker::{Papers, Worker, held, identity};
use crate::{TestFarm, submission};
use zoetrope_coordinator::farm::{FarmMsg, SubmitRefused};
use zoetrope_coordinator::jobs::ListQuery;
use zoetrope_protocol::id::{ArtifactId, JobId, TenantId};
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
