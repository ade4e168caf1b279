//! Promise: nothing is published that does not show its own mark; without the watermark sidecar jobs wait.

use crate::worker::{Worker, facts, held};
use crate::{PATIENCE, TestFarm, submission};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use zoetrope_coordinator::dispatch::DispatchMsg;
use zoetrope_coordinator::watermark::WatermarkMsg;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, JobId, Millis};
use zoetrope_protocol::job::{ArtifactRef, Cause, Role, Stage};
use zoetrope_protocol::mark::{
    Issued, MarkOrder, MarkRecord, PIXEL_CHIPS, SOUND_CHIPS, SoundMark, unpack,
};
use zoetrope_protocol::provenance::MarkedProof;
use zoetrope_protocol::wire::{FromWorker, Order};
use zoetrope_sched::output::{FailWhy, JobState};

/// What an honest worker reads in a clip that it marked as it was told.
pub(crate) fn record(order: &Order, clip: ArtifactId) -> MarkRecord {
    let loud = |bits: &[u8], count| -> Vec<i8> {
        let chips = unpack(bits, count).expect("a tile");
        chips.into_iter().map(|chip| chip * 20).collect()
    };
    let mark = order.mark.as_ref().expect("an order to finish carries tiles");
    MarkRecord {
        clip,
        picture: loud(&mark.pixels, PIXEL_CHIPS),
        sound: SoundMark::Heard(loud(&mark.sound, SOUND_CHIPS)),
        strong: false,
    }
}

/// Carries out orders up to the one to finish.
async fn finish_order(worker: &mut Worker) -> Order {
    loop {
        let order = worker.order().await;
        if order.shard.stage == Stage::Finish {
            return order;
        }
        assert!(order.mark.is_none(), "only who makes a clip is told its mark");
        worker.carry_out(&order).await;
    }
}

/// Renders a job up to its clip, whose record of marks was changed; none: it is left out.
async fn finish_with(
    worker: &mut Worker,
    change: impl FnOnce(&Order, MarkRecord) -> Option<MarkRecord>,
) -> JobId {
    let order = finish_order(worker).await;
    let held = held(&order);
    worker.say(FromWorker::Started(held)).await;
    let mut outputs: Vec<ArtifactRef> = worker.files(&order).await;
    outputs.retain(|output| output.role != Role::Marks);
    let honest = record(&order, crate::worker::unsigned_clip());
    if let Some(told) = change(&order, honest) {
        let bytes = codec::encode(&told).expect("encodes");
        outputs.push(worker.store(held, Role::Marks, &bytes).await);
    }
    let (facts, gpu) = (Some(facts(&order)), Millis(50));
    worker.say(FromWorker::Finished { held, outputs, facts, gpu }).await;
    order.shard.job
}

#[tokio::test]
async fn attempts_of_a_job_carry_one_mark_and_jobs_carry_different_ones() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    let first = finish_order(&mut worker).await;
    worker.say(FromWorker::Started(held(&first))).await;
    worker.die();
    let mut worker = Worker::fresh(&farm, "b").await;
    let again = finish_order(&mut worker).await;
    assert_eq!((again.shard, &again.mark), (first.shard, &first.mark));
    assert_ne!(again.fence, first.fence);
    worker.carry_out(&again).await;
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;

    // The mark outlives the coordinator, and what comes later is another one.
    let farm = farm.restart().await;
    let mut worker = Worker::fresh(&farm, "c").await;
    farm.submit(submission(2)).await.expect("admitted");
    let other = finish_order(&mut worker).await;
    let tiles = |order: &Order| {
        let MarkOrder { pixels, sound, .. } = *order.mark.clone().expect("is marked");
        (pixels, sound)
    };
    assert_ne!(tiles(&other).0, tiles(&first).0);
    assert_ne!(tiles(&other).1, tiles(&first).1);
    worker.carry_out(&other).await;
    farm.until(JobId(2), |view| view.state == JobState::Completed).await;
    farm.running.stop().await;
}

#[tokio::test]
async fn a_clip_that_does_not_show_its_mark_is_never_published() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    type Change = fn(&Order, MarkRecord) -> Option<MarkRecord>;
    let wrongs: [Change; 6] = [
        |_, _| None,
        |_, honest| Some(MarkRecord { picture: vec![0; PIXEL_CHIPS], ..honest }),
        |_, honest| {
            Some(MarkRecord { picture: honest.picture.iter().map(|v| -v).collect(), ..honest })
        },
        |_, honest| Some(MarkRecord { picture: Vec::new(), ..honest }),
        |_, honest| Some(MarkRecord { clip: ArtifactId([3; 32]), ..honest }),
        |_, honest| Some(MarkRecord { sound: SoundMark::Silent, ..honest }),
    ];
    for (n, wrong) in (1..).zip(wrongs) {
        farm.submit(submission(n)).await.expect("admitted");
        let job = finish_with(&mut worker, wrong).await;
        let view = farm.until(job, |view| matches!(view.state, JobState::Failed(_))).await;
        assert_eq!(view.state, JobState::Failed(FailWhy::NotPublished(Cause::CheckFailed)), "{n}");
        assert!(view.assets.is_none());
    }
    assert_eq!(farm.metric("zoetrope_publishes_refused_total{proof=\"watermark\"}"), 6.0);

    // Sound that cannot carry the mark need not.
    farm.submit(submission(9)).await.expect("admitted");
    let quiet = |_: &Order, honest| Some(MarkRecord { sound: SoundMark::Quiet, ..honest });
    let job = finish_with(&mut worker, quiet).await;
    farm.until(job, |view| view.state == JobState::Completed).await;
    assert_eq!(farm.metric("zoetrope_marks_total{mark=\"quiet\",track=\"sound\"}"), 1.0);
    farm.running.stop().await;
}

/// A sidecar that hangs, or says of every clip what it likes.
struct Liar;

/// How a sidecar is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    Hangs,
    /// Gives all jobs one mark.
    OneMark,
    /// Has read a mark that nobody gave.
    OtherMark,
}

#[ractor::async_trait]
impl Actor for Liar {
    type Msg = WatermarkMsg;
    type State = Lie;
    type Arguments = Lie;

    async fn pre_start(
        &self,
        _: ActorRef<WatermarkMsg>,
        lie: Lie,
    ) -> Result<Lie, ActorProcessingErr> {
        Ok(lie)
    }

    async fn handle(
        &self,
        _: ActorRef<WatermarkMsg>,
        message: WatermarkMsg,
        lie: &mut Lie,
    ) -> Result<(), ActorProcessingErr> {
        match (message, *lie) {
            (WatermarkMsg::MakeTiles { request, back }, Lie::OneMark) => {
                let issued = Issued { serial: request.serial, epoch: 0, mark: 7 };
                let visible = zoetrope_protocol::mark::Visible::Name("x".to_owned());
                let mark = MarkOrder { pixels: vec![0; 512], sound: vec![0; 120], visible };
                back.cast(DispatchMsg::TilesMade { request, issued, mark })?;
            }
            (WatermarkMsg::Read { job, fence, clip, issued, back, .. }, Lie::OtherMark) => {
                let proof = MarkedProof { file: clip, mark: issued.mark ^ 1 };
                back.cast(DispatchMsg::MarksRead { job, fence, result: Ok(proof) })?;
            }
            _ => {}
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_sidecar_that_is_down_hangs_or_lies_makes_jobs_wait() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    // Once the real one has said that it is there, only the liar is asked.
    farm.submit(submission(1)).await.expect("admitted");
    let order = finish_order(&mut worker).await;
    let (liar, _) = Actor::spawn(None, Liar, Lie::OtherMark).await.expect("spawns");
    farm.running.dispatch.cast(DispatchMsg::WatermarkUp(liar.clone())).expect("alive");
    worker.carry_out(&order).await;
    let failed = "zoetrope_inputs_total{input=\"publish_failed\"}";
    seen(&farm, failed, 1.0).await;
    assert!(farm.read(JobId(1)).await.assets.is_none());
    liar.stop(None);

    // One that is dead: no order to finish leaves.
    let waits = "zoetrope_inputs_total{input=\"shard_failed\"}";
    let (liar, task) = Actor::spawn(None, Liar, Lie::Hangs).await.expect("spawns");
    liar.stop(None);
    task.await.expect("stops");
    farm.running.dispatch.cast(DispatchMsg::WatermarkUp(liar)).expect("alive");
    farm.submit(submission(2)).await.expect("admitted");
    for _ in 0..2 {
        let order = worker.order().await;
        worker.carry_out(&order).await;
    }
    seen(&farm, waits, 1.0).await;
    assert_eq!(farm.read(JobId(2)).await.state, JobState::InProgress);

    // One that gives every job the mark of another.
    let (liar, _) = Actor::spawn(None, Liar, Lie::OneMark).await.expect("spawns");
    farm.running.dispatch.cast(DispatchMsg::WatermarkUp(liar)).expect("alive");
    farm.submit(submission(3)).await.expect("admitted");
    let finish = finish_order(&mut worker).await;
    assert_eq!(farm.metric("zoetrope_inputs_total{input=\"marked\"}"), 2.0, "the first is news");
    assert!(farm.read(finish.shard.job).await.assets.is_none());
    farm.running.stop().await;
}

async fn seen(farm: &TestFarm, line: &str, least: f64) {
    let seen = async {
        // A series begins with its first count.
        while !farm.running.metrics.text().contains(line) || farm.metric(line) < least {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("never {line} {least}"));
}
