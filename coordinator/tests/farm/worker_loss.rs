//! Promise: a lost worker costs at most the step in hand, and a returning one goes on where it was.

use crate::worker::{Papers, Worker, held, held_as, identity, profile, steps_done};
use crate::{TestFarm, submission};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use zoetrope_coordinator::dispatch::{DispatchMsg, Report};
use zoetrope_coordinator::link::LinkMsg;
use zoetrope_protocol::id::{ArtifactId, AttemptNumber, Epoch, Fence, JobId, Millis, ShardId};
use zoetrope_protocol::job::{ArtifactRef, Role, Stage};
use zoetrope_protocol::wire::{FromWorker, Held, ToWorker};
use zoetrope_sched::input::LostHow;
use zoetrope_sched::output::JobState;

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_goes_on_from_the_newest_latents() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    let mut first = Worker::fresh(&farm, "gpu-0").await;
    let order = first.order().await;
    first.carry_out(&order).await;
    let order = first.order().await;
    assert_eq!(order.shard.stage, Stage::Denoise);
    first.step(&order, 1).await;
    let newest = first.step(&order, 2).await;
    first.die();
    let mut second = Worker::fresh(&farm, "gpu-1").await;
    let again = second.order().await;
    assert_eq!((again.shard, steps_done(&again)), (order.shard, 2));
    assert!(again.inputs.contains(&newest), "{:?}", again.inputs);
    assert!(again.fence > order.fence);
    assert_eq!(second.fetch(newest.artifact).await.len() as u64, newest.bytes);
    second.carry_out(&again).await;
    let order = second.order().await;
    second.carry_out(&order).await;
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    farm.running.stop().await;
}

/// A link with nobody behind it.
struct Nobody;

#[ractor::async_trait]
impl Actor for Nobody {
    type Msg = LinkMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<LinkMsg>, _: ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// Reports that wait together are taken in together, but before what was said after them. What comes later counts no
/// more.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_said_before_it_was_lost_counts() {
    let farm = TestFarm::start().await;
    let dispatch = farm.running.dispatch.clone();
    let (link, gone) = Actor::spawn(None, Nobody, ()).await.expect("an actor");
    let id = link.get_id();
    let (identity, profile, nothing) = (identity("gpu-0", 1, 1), profile(), Vec::new());
    let tell = |message| assert!(dispatch.cast(message).is_ok(), "the dispatch actor is there");
    tell(DispatchMsg::Hello { link: link.clone(), identity, profile, held: nothing });
    farm.submit(submission(1)).await.expect("admitted");
    farm.until(JobId(1), |view| view.state == JobState::InProgress).await;
    let held = |stage| Held {
        shard: ShardId { job: JobId(1), stage, index: 0 },
        fence: Fence { epoch: Epoch(1), attempt: AttemptNumber(1) },
    };
    let made = |role, n| ArtifactRef { role, artifact: ArtifactId([n; 32]), bytes: 7 };
    let (outputs, gpu) = (vec![made(Role::Prompt, 1)], Millis(5));
    let finished = Report::Finished { held: held(Stage::Encode), outputs, facts: None, gpu };
    let latents = |step: u32| Report::Stored {
        held: held(Stage::Denoise),
        artifact: made(Role::Latents { step }, 10 + step as u8),
    };
    for report in [finished, latents(1), latents(2)] {
        tell(DispatchMsg::Report { link: id, report });
    }
    tell(DispatchMsg::LinkLost { link: id, how: LostHow::Closed });
    tell(DispatchMsg::Report { link: id, report: latents(3) });
    link.stop(None);
    gone.await.expect("it stops");
    let mut second = Worker::fresh(&farm, "gpu-1").await;
    let order = second.order().await;
    assert_eq!((order.shard.stage, steps_done(&order)), (Stage::Denoise, 2));
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_a_replaced_attempt_and_doubled_ones_change_nothing() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    let order = worker.order().await;
    let held = held(&order);
    let mut fence = order.fence;
    fence.attempt.0 += 7;
    let outputs = vec![worker.store(held, Role::Prompt, b"prompt").await];
    let finished =
        |held| FromWorker::Finished { held, outputs: outputs.clone(), facts: None, gpu: Millis(5) };
    worker.say(finished(held_as(&order, fence))).await;
    worker.say(finished(held)).await;
    worker.say(finished(held)).await;
    let next = worker.order().await;
    assert_eq!(next.shard.stage, Stage::Denoise);
    worker
        .say(FromWorker::Failed {
            held,
            cause: zoetrope_protocol::job::Cause::EngineError,
            detail: "late".to_owned(),
            gpu: Millis(5),
        })
        .await;
    worker.carry_out(&next).await;
    let order = worker.order().await;
    assert_eq!(order.shard.stage, Stage::Finish);
    worker.carry_out(&order).await;
    let view = farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    assert_eq!(view.gpu, Millis(105), "each attempt counts once");
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_comes_back_keeps_its_attempt() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    let papers = Papers::issue(&farm.running.authority, "gpu-0");
    let mut worker = Worker::connect(&farm, &papers, identity("gpu-0", 9, 1), Vec::new()).await;
    let order = worker.order().await;
    worker.carry_out(&order).await;
    let order = worker.order().await;
    worker.step(&order, 1).await;
    // The new connection comes before the farm has missed the old one.
    let before = held(&order);
    let mut again = Worker::connect(&farm, &papers, identity("gpu-0", 9, 2), vec![before]).await;
    let kept = again.welcome.clone();
    assert_eq!(kept.len(), 1, "the attempt goes on");
    assert_eq!(kept[0].held, before);
    let mut order = order;
    order.fence = kept[0].fence;
    order.inputs.push(zoetrope_protocol::job::ArtifactRef {
        role: Role::Latents { step: 1 },
        artifact: ArtifactId([0; 32]),
        bytes: 0,
    });
    again.carry_out(&order).await;
    let order = again.order().await;
    assert_eq!(order.shard.stage, Stage::Finish);
    again.carry_out(&order).await;
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_says_goodbye_is_not_lost() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    worker.say(FromWorker::Leaving { within: Millis(5_000) }).await;
    let drained = worker.next().await;
    assert!(matches!(drained, ToWorker::Drain(_)), "{drained:?}");
    worker.say(FromWorker::Left).await;
    let closed = tokio::time::timeout(crate::PATIENCE, worker.connection.closed()).await;
    let closed = closed.expect("closes").to_string();
    assert!(closed.contains("all is said"), "{closed}");
    farm.running.stop().await;
}

/// The worker lives, but its render does not move on: the link's verdict frees the job for another.
#[tokio::test(flavor = "multi_thread")]
async fn a_render_that_stands_still_is_given_to_another_worker() {
    let farm = TestFarm::with(|config| config.link.stall_seconds = 10).await;
    farm.submit(submission(1)).await.expect("admitted");
    let mut stuck = Worker::fresh(&farm, "gpu-0").await;
    let order = stuck.order().await;
    let held = held(&order);
    stuck.say(FromWorker::Started(held)).await;
    let phase = zoetrope_protocol::wire::Phase::Encoding;
    stuck.say(FromWorker::Progress { held, phase, done: 0, total: 1 }).await;
    let mut other = Worker::fresh(&farm, "gpu-1").await;
    match stuck.next().await {
        ToWorker::Stop { held: stopped, .. } => assert_eq!(stopped, held),
        unexpected => panic!("no stop but {unexpected:?}"),
    }
    let again = other.order().await;
    assert_eq!(again.shard, order.shard);
    other.carry_out(&again).await;
    farm.running.stop().await;
}
