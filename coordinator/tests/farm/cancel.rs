//! Promise: cancel is final, frees the worker, and a terminal state is decided once.

use crate::worker::{Worker, held};
use crate::{TestFarm, submission};
use zoetrope_coordinator::farm::{CancelRefused, FarmMsg};
use zoetrope_protocol::id::{JobId, Millis, TenantId};
use zoetrope_protocol::job::{Cause, Stage};
use zoetrope_protocol::wire::{FromWorker, ToWorker};
use zoetrope_sched::input::EndWhy;
use zoetrope_sched::output::{FailWhy, JobState};

fn cancel(
    job: u128,
) -> impl FnOnce(
    ractor::RpcReplyPort<Result<zoetrope_coordinator::jobs::JobView, CancelRefused>>,
) -> FarmMsg {
    move |reply| FarmMsg::Cancel(TenantId(1), JobId(job), reply)
}

const CANCELLED: JobState = JobState::Failed(FailWhy::Ended(EndWhy::Cancelled));

#[tokio::test(flavor = "multi_thread")]
async fn a_running_render_is_stopped_and_the_next_job_gets_the_worker() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    let order = worker.order().await;
    worker.carry_out(&order).await;
    let order = worker.order().await;
    farm.submit(submission(2)).await.expect("admitted");
    let ended = farm.farm().ask(cancel(1)).await.expect("answers").expect("cancelled");
    assert_eq!(ended.state, CANCELLED);
    let held = held(&order);
    match worker.next().await {
        ToWorker::Stop { held: stopped, .. } => assert_eq!(stopped, held),
        other => panic!("no stop but {other:?}"),
    }
    let failed =
        FromWorker::Failed { held, cause: Cause::Ended, detail: String::new(), gpu: Millis(9) };
    worker.say(failed).await;
    let next = worker.order().await;
    assert_eq!((next.shard.job, next.shard.stage), (JobId(2), Stage::Encode));
    let twice = farm.farm().ask(cancel(1)).await.expect("answers");
    assert!(matches!(twice, Err(CancelRefused::Terminal(_))));
    let none = farm.farm().ask(cancel(77)).await.expect("answers");
    assert_eq!(none, Err(CancelRefused::NoSuchJob));
    farm.running.stop().await;
}

/// The finish report and the cancel come at the same moment, twenty times; whoever wins, it stays so.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_races_with_the_end_decides_once() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    for job in 1..=20 {
        farm.submit(submission(job)).await.expect("admitted");
        let order = loop {
            let order = match worker.next().await {
                ToWorker::Order(order) => order,
                ToWorker::Stop { .. } => continue,
                other => panic!("no order but {other:?}"),
            };
            if order.shard.stage == Stage::Finish {
                break order;
            }
            worker.carry_out(&order).await;
        };
        assert_eq!(order.shard.job, JobId(job));
        let outputs = worker.files(&order).await;
        let facts = Some(crate::worker::facts(&order));
        let gpu = Millis(1);
        let finished = FromWorker::Finished { held: held(&order), outputs, facts, gpu };
        let handle = farm.farm();
        let (cancelled, ()) = tokio::join!(handle.ask(cancel(job)), worker.say(finished));
        let view = farm.until(JobId(job), |view| view.ended.is_some()).await;
        match cancelled.expect("answers") {
            Ok(_) => assert_eq!(view.state, CANCELLED),
            Err(CancelRefused::Terminal(seen)) => assert_eq!(seen.state, view.state),
            Err(CancelRefused::NoSuchJob) => panic!("the job is there"),
        }
        let failed = FromWorker::Failed {
            held: held(&order),
            cause: Cause::Ended,
            detail: String::new(),
            gpu: Millis(1),
        };
        worker.say(failed).await;
        assert_eq!(farm.read(JobId(job)).await.state, view.state);
    }
    farm.running.stop().await;
}
