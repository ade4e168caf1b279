//! Promise: operators see every worker, can hold one back, empty it, and learn why a job waits.

use crate::worker::{Papers, Worker, identity};
use crate::{TestFarm, submission};
use zoetrope_coordinator::farm::{FarmMsg, NoSuchWorker, SubmitRefused, WorkerRow};
use zoetrope_protocol::id::{JobId, Millis};
use zoetrope_protocol::wire::{DrainKind, FromWorker, ToWorker};

async fn cordon(farm: &TestFarm, name: &str, cordoned: bool) -> bool {
    let ask = |reply| FarmMsg::Cordon(name.to_owned(), cordoned, reply);
    farm.farm().ask(ask).await.expect("answers")
}

/// A worker whose process was started again.
async fn new_boot(farm: &TestFarm, node: &str) -> Worker {
    let papers = Papers::issue(&farm.running.authority, node);
    Worker::connect(farm, &papers, identity(node, 2, 1), Vec::new()).await
}

async fn drain(farm: &TestFarm, names: &[&str], kind: DrainKind) -> Result<(), NoSuchWorker> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    farm.farm().ask(|reply| FarmMsg::Drain(names, kind, reply)).await.expect("answers")
}

async fn rows(farm: &TestFarm) -> Vec<WorkerRow> {
    farm.farm().ask(FarmMsg::Workers).await.expect("answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_worker_waits_and_a_drained_one_leaves() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    assert!(cordon(&farm, "gpu-0", true).await);
    assert!(!cordon(&farm, "gpu-9", true).await, "there is no such worker");
    farm.submit(submission(1)).await.expect("admitted");
    farm.until(JobId(1), |view| !view.judging).await;
    let row = rows(&farm).await.pop().expect("a worker");
    assert_eq!((row.node.as_str(), row.state.as_str()), ("gpu-0", "cordoned"));
    assert_eq!((row.pool.as_str(), row.models.as_slice()), ("test", &["toybox".to_owned()][..]));
    let why = |reply| FarmMsg::Why(None, JobId(1), reply);
    let why = farm.farm().ask(why).await.expect("answers").expect("it waits");
    assert!(why.contains("workers_leaving"), "{why}");
    assert!(cordon(&farm, &row.worker.to_string(), false).await, "by its number");
    let order = worker.order().await;
    let row = rows(&farm).await.pop().expect("a worker");
    assert_eq!(row.running, Some(order.shard.to_string()));
    assert_eq!(drain(&farm, &["gpu-0"], DrainKind::Shard).await, Ok(()));
    assert_eq!(worker.next().await, ToWorker::Drain(DrainKind::Shard));
    worker.carry_out(&order).await;
    worker.say(FromWorker::Left).await;
    let mut other = Worker::fresh(&farm, "gpu-1").await;
    assert_eq!(other.order().await.shard.job, JobId(1));
    farm.running.stop().await;
}

/// An idle worker leaves within milliseconds. Its node's cordon outlives it, so none may be left behind, and one that an
/// operator set before stays.
#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_drained_together_get_no_work_of_each_other_and_keep_their_cordons() {
    let farm = TestFarm::start().await;
    let mut busy = Worker::fresh(&farm, "gpu-0").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = busy.order().await;
    let mut idle = Worker::fresh(&farm, "gpu-1").await;
    let mut held_back = Worker::fresh(&farm, "gpu-2").await;
    assert!(cordon(&farm, "gpu-2", true).await);
    let all = ["gpu-0", "gpu-1", "gpu-2"];
    let nobody = Err(NoSuchWorker("gpu-9".to_owned()));
    assert_eq!(drain(&farm, &["gpu-0", "gpu-9"], DrainKind::Immediate).await, nobody);
    assert!(rows(&farm).await.iter().all(|row| row.state != "draining"), "all or none");
    assert_eq!(drain(&farm, &all, DrainKind::Immediate).await, Ok(()));
    for worker in [&mut idle, &mut held_back] {
        // The job that the first one had to let go is free: an order would come before this.
        assert_eq!(worker.next().await, ToWorker::Drain(DrainKind::Immediate));
        worker.say(FromWorker::Left).await;
    }
    assert!(matches!(busy.next().await, ToWorker::Drain(DrainKind::Immediate)));
    let again = new_boot(&farm, "gpu-2").await;
    let row = rows(&farm).await.into_iter().find(|row| row.node == "gpu-2").expect("is back");
    assert_eq!(row.state, "cordoned");
    let mut other = new_boot(&farm, "gpu-1").await;
    assert_eq!(other.order().await.shard.job, order.shard.job, "its node is not cordoned");
    again.say(FromWorker::Left).await;
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_has_ended_says_how() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    let cancel = |reply| FarmMsg::Cancel(submission(1).spec.tenant, JobId(1), reply);
    farm.farm().ask(cancel).await.expect("answers").expect("it had not ended");
    let why = |job| {
        let farm = farm.farm();
        async move { farm.ask(move |reply| FarmMsg::Why(None, job, reply)).await.expect("answers") }
    };
    assert_eq!(why(JobId(1)).await.as_deref(), Some("it ended without a clip: cancelled"));
    assert_eq!(why(JobId(2)).await, None);
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_cannot_be_met_is_refused_at_the_door() {
    let farm = TestFarm::start().await;
    let mut submission = submission(1);
    let now = zoetrope_coordinator::clock::now();
    submission.spec.deadline = Some(now.plus(Millis(10)));
    let refused = farm.submit(submission.clone()).await;
    assert_eq!(refused, Err(SubmitRefused::DeadlineInfeasible));
    submission.spec.deadline = Some(now.plus(Millis(3_600_000)));
    farm.submit(submission).await.expect("an hour is enough");
    farm.running.stop().await;
}
