//! Promise: nothing is published that does not show its own mark; without the watermark sidecar jobs wait.

use crate::actors::{kill_sidecar, sidecar};
use crate::moderation::is_published;
use crate::worker::{Worker, facts, held};
use crate::{PATIENCE, TestFarm, clip, submission};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use zoetrope_coordinator::dispatch::DispatchMsg;
use zoetrope_coordinator::farm::FarmMsg;
use zoetrope_coordinator::watermark::{MarkFault, WatermarkMsg};
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, JobId, Millis, TenantId};
use zoetrope_protocol::job::{ArtifactRef, Cause, Role};
use zoetrope_protocol::mark::{Issued, MarkOrder, MarkRecord, PIXEL_CHIPS, SoundMark};
use zoetrope_protocol::provenance::MarkedProof;
use zoetrope_protocol::wire::{FromWorker, Order, ToWorker};
use zoetrope_sched::output::{FailWhy, JobState};

/// What an honest worker reads in a clip that it marked as it was told; its sound is silence.
pub(crate) fn record(order: &Order, clip: ArtifactId) -> MarkRecord {
    let (picture, sound) = (loud(clip::tile(order)), SoundMark::Quiet);
    MarkRecord { clip, picture, sound, strong: false }
}

/// A tile as it is read where nothing disturbs it.
fn loud(tile: Vec<i8>) -> Vec<i8> {
    tile.into_iter().map(|chip| chip * 20).collect()
}

/// Renders a job up to its clip, whose record of marks was changed; none: it is left out.
async fn finish_with(
    worker: &mut Worker,
    change: impl FnOnce(&Order, MarkRecord) -> Option<MarkRecord>,
) -> JobId {
    let order = worker.finish_order().await;
    let held = held(&order);
    worker.say(FromWorker::Started(held)).await;
    let mut outputs: Vec<ArtifactRef> = worker.files(&order).await;
    outputs.retain(|output| output.role != Role::Marks);
    let honest = record(&order, crate::worker::unsigned_clip(&order));
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
    let first = worker.finish_order().await;
    worker.say(FromWorker::Started(held(&first))).await;
    worker.die();
    let mut worker = Worker::fresh(&farm, "b").await;
    let again = worker.finish_order().await;
    assert_eq!((again.shard, &again.mark), (first.shard, &first.mark));
    assert_ne!(again.fence, first.fence);
    worker.carry_out(&again).await;
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;

    // The mark outlives the coordinator, and what comes later is another one.
    let farm = farm.restart().await;
    let mut worker = Worker::fresh(&farm, "c").await;
    farm.submit(submission(2)).await.expect("admitted");
    let other = worker.finish_order().await;
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
    let mut worker = Worker::old(&farm, "a").await;
    type Change = fn(&Order, MarkRecord) -> Option<MarkRecord>;
    let wrongs: [Change; 5] = [
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
        farm.refused(job, &mut worker).await;
    }
    assert_eq!(farm.metric("zoetrope_publishes_refused_total{proof=\"watermark\"}"), 5.0);

    // Sound that cannot carry the mark need not. Only what the coordinator itself has played counts.
    farm.submit(submission(9)).await.expect("admitted");
    let job = finish_with(&mut worker, |_, honest| Some(honest)).await;
    farm.until(job, |view| view.state == JobState::Completed).await;
    assert_eq!(farm.metric("zoetrope_marks_total{mark=\"quiet\",track=\"sound\"}"), 1.0);
    assert_eq!(farm.metric("zoetrope_marks_total{mark=\"read\",track=\"picture\"}"), 1.0);
    farm.running.stop().await;
}

/// Ends a job with this clip, whose record says that all is well. `sound`: what it says of the sound, and that the
/// manifest names its mark.
async fn finish_clip(worker: &mut Worker, order: &Order, clip: &[u8], sound: Option<SoundMark>) {
    let held = held(order);
    worker.say(FromWorker::Started(held)).await;
    let mut outputs = worker.files_of(order, clip, sound.is_some()).await;
    if let Some(sound) = sound {
        outputs.retain(|output| output.role != Role::Marks);
        let told = MarkRecord { sound, ..record(order, ArtifactId::of(clip)) };
        let bytes = codec::encode(&told).expect("encodes");
        outputs.push(worker.store(held, Role::Marks, &bytes).await);
    }
    let (facts, gpu) = (Some(facts(order)), Millis(50));
    worker.say(FromWorker::Finished { held, outputs, facts, gpu }).await;
}

/// Promise: a worker is not believed in what it says of marks. Whatever its record says, the stored file must show the
/// mark of this job, all along.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_forges_its_reading_of_the_marks_publishes_nothing() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::old(&farm, "a").await;
    // The mark of a job that it rendered before.
    farm.submit(submission(1)).await.expect("admitted");
    let before = worker.finish_order().await;
    worker.carry_out(&before).await;
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    let (foreign, refused) = (clip::tile(&before), std::cell::Cell::new(0.0));
    type Make = fn(&Order, &[i8]) -> Vec<u8>;
    let lies: [(&str, Make); 8] = [
        ("no mark", |order, _| clip::still(&order.spec, None)),
        ("the mark of another job", |order, foreign| clip::still(&order.spec, Some(foreign))),
        ("half of it marked", |order, _| {
            let (spec, tile) = (&order.spec, clip::tile(order));
            let half = |frame| (frame < spec.frames / 2).then_some(tile.as_slice());
            clip::moving(spec, spec.frames, half, &[0.0; 256_000])
        }),
        ("one frame in six marked", |order, _| {
            let (spec, tile) = (&order.spec, clip::tile(order));
            let some = |frame| (frame % 6 == 0).then_some(tile.as_slice());
            clip::moving(spec, spec.frames, some, &[0.0; 256_000])
        }),
        ("too short", |order, _| {
            let (spec, tile) = (&order.spec, clip::tile(order));
            clip::moving(spec, spec.frames - 5, |_| Some(tile.as_slice()), &[0.0; 256_000])
        }),
        ("a second picture", |order, _| clip::with_second_picture(&clip::unsigned(order))),
        ("no sound", |order, _| {
            let silent = zoetrope_protocol::RenderSpec { audio: false, ..order.spec.clone() };
            clip::still(&silent, Some(&clip::tile(order)))
        }),
        ("a minute of sound", |order, _| {
            let (spec, tile) = (&order.spec, clip::tile(order));
            let minute = vec![0.0; 60 * 2 * 32_000];
            clip::moving(spec, spec.frames, |_| Some(tile.as_slice()), &minute)
        }),
    ];
    for (job, (what, make)) in (2..).zip(lies) {
        farm.submit(submission(job)).await.expect("admitted");
        let order = worker.finish_order().await;
        let clip = make(&order, &foreign);
        let moves = ["half of it marked", "one frame in six marked", "a minute of sound"];
        worker.moves = moves.contains(&what);
        finish_clip(&mut worker, &order, &clip, None).await;
        farm.refused(JobId(job), &mut worker).await;
        // Its tables are none of ours, which is seen before anything is played.
        if what == "a second picture" {
            let line = "zoetrope_publishes_refused_total{proof=\"signature\"}";
            assert_eq!(farm.metric(line), 1.0, "{what}");
        } else {
            refused.set(refused.get() + 1.0);
        }
        let line = "zoetrope_publishes_refused_total{proof=\"watermark\"}";
        assert_eq!(farm.metric(line), refused.get(), "{what}");
    }
    farm.running.stop().await;
}

/// Promise: what is shown small beside a clip shows the clip; a worker cannot publish another picture as its thumbnail or in
/// its spritesheet.
#[tokio::test(flavor = "multi_thread")]
async fn a_thumbnail_shows_what_the_clip_shows() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    let size = |order: &Order| (order.spec.deliver.width, order.spec.deliver.height);
    let webp = |picture: &image::RgbImage| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::WebP).expect("encodes");
        bytes.into_inner()
    };
    type Make = fn((u32, u32)) -> image::RgbImage;
    let lies: [Option<Make>; 4] = [
        Some(|(width, height)| image::RgbImage::new(width, height)),
        Some(|(width, height)| {
            let stripes =
                |x: u32, _| image::Rgb([if (x / 8).is_multiple_of(2) { 250 } else { 20 }; 3]);
            image::RgbImage::from_fn(width, height, stripes)
        }),
        Some(|(width, height)| image::RgbImage::new(width / 2, height)),
        None,
    ];
    for (job, lie) in (1..).zip(lies) {
        farm.submit(submission(job)).await.expect("admitted");
        let order = worker.finish_order().await;
        let picture = lie.map(|make| webp(&make(size(&order))));
        // The last one is no picture.
        worker.thumbnail = Some(picture.unwrap_or_else(|| b"no picture".to_vec()));
        finish_clip(&mut worker, &order, &clip::unsigned(&order), None).await;
        farm.refused(JobId(job), &mut worker).await;
    }
    worker.thumbnail = None;
    farm.submit(submission(9)).await.expect("admitted");
    let order = worker.finish_order().await;
    finish_clip(&mut worker, &order, &clip::unsigned(&order), None).await;
    farm.until(JobId(9), |view| view.state == JobState::Completed).await;
    farm.running.stop().await;
}

/// Promise: a clip that carries its marks is published, and one whose manifest names a mark of the sound has it there.
#[tokio::test(flavor = "multi_thread")]
async fn the_sound_shows_the_mark_that_the_manifest_names() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::old(&farm, "a").await;
    worker.moves = true;
    let mut foreign: Option<Vec<i8>> = None;
    for (job, (marked, named, published)) in
        (1..).zip([(true, true, true), (false, true, false), (false, false, true)])
    {
        farm.submit(submission(job)).await.expect("admitted");
        let order = worker.finish_order().await;
        let (spec, tile) = (&order.spec, clip::tile(&order));
        let own = clip::sound_tile(&order);
        let samples = clip::hum(spec, marked.then_some(own.as_slice()));
        let film = clip::moving(spec, spec.frames, |_| Some(tile.as_slice()), &samples);
        let heard = named.then(|| SoundMark::Heard(loud(own.clone())));
        foreign.get_or_insert(own);
        finish_clip(&mut worker, &order, &film, heard).await;
        if published {
            farm.until(JobId(job), |view| view.state == JobState::Completed).await;
            assert!(is_published(&farm, JobId(job)), "marked {marked}, named {named}");
        } else {
            farm.refused(JobId(job), &mut worker).await;
        }
    }
    // Sound with the mark of another job is refused, whatever is said of it.
    farm.submit(submission(9)).await.expect("admitted");
    let order = worker.finish_order().await;
    let (spec, tile) = (&order.spec, clip::tile(&order));
    let samples = clip::hum(spec, foreign.as_deref());
    let film = clip::moving(spec, spec.frames, |_| Some(tile.as_slice()), &samples);
    finish_clip(&mut worker, &order, &film, None).await;
    farm.refused(JobId(9), &mut worker).await;
    farm.running.stop().await;
}

/// Without the program that reads films nothing is published, and no clip is to blame: it waits for the program.
#[tokio::test(flavor = "multi_thread")]
async fn a_clip_waits_for_a_farm_that_cannot_read_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = folder.path().join("ffmpeg");
    let farm = TestFarm::with(|config| config.watermark.ffmpeg = program.clone()).await;
    let mut worker = Worker::old(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.finish_order().await;
    worker.carry_out(&order).await;
    seen(&farm, PUBLISH_FAILED, 1.0, PATIENCE).await;
    assert_eq!(farm.read(JobId(1)).await.state, JobState::InProgress);
    assert!(!is_published(&farm, JobId(1)));
    // One that dies of the system says nothing of the clip either.
    let script = |text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let new = folder.path().join("new");
        std::fs::write(&new, text).expect("writes");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&new, executable).expect("is ours");
        std::fs::rename(&new, &program).expect("replaces");
    };
    script("#!/bin/sh\nkill -9 $$\n");
    seen(&farm, PUBLISH_FAILED, 3.0, PATIENCE).await;
    assert_eq!(farm.read(JobId(1)).await.state, JobState::InProgress);
    script("#!/bin/sh\nexec ffmpeg \"$@\"\n");
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    assert_eq!(farm.metric(crate::drafts::PLAYED), 1.0);
    farm.running.stop().await;
}

/// A sidecar that hangs, or says what it likes.
struct Liar;

/// How a sidecar is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Answers nothing.
    Hangs,
    /// Is right, but makes tiles for a while.
    Slow,
    /// Gives all jobs one mark.
    OneMark,
    /// Gives a mark of a serial that nobody asked for.
    OtherSerial,
    /// Has read a mark that nobody gave.
    OtherMark,
    /// Has read the right mark, in another file.
    OtherFile,
    /// Has read nothing in a clip that is marked. Its tiles are those of the real one.
    NoMark,
    /// Cannot read, it says.
    Down,
}

#[ractor::async_trait]
impl Actor for Liar {
    type Msg = WatermarkMsg;
    type State = (Lie, ActorRef<WatermarkMsg>);
    type Arguments = (Lie, ActorRef<WatermarkMsg>);

    async fn pre_start(
        &self,
        _: ActorRef<WatermarkMsg>,
        arguments: (Lie, ActorRef<WatermarkMsg>),
    ) -> Result<(Lie, ActorRef<WatermarkMsg>), ActorProcessingErr> {
        Ok(arguments)
    }

    async fn handle(
        &self,
        _: ActorRef<WatermarkMsg>,
        message: WatermarkMsg,
        (lie, real): &mut (Lie, ActorRef<WatermarkMsg>),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            WatermarkMsg::MakeTiles { .. } if *lie == Lie::NoMark => real.cast(message)?,
            message if *lie == Lie::Slow => {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                real.cast(message)?;
            }
            WatermarkMsg::MakeTiles { request, back } => {
                let serial = match lie {
                    Lie::OneMark => request.serial,
                    Lie::OtherSerial => request.serial + 7,
                    _ => return Ok(()),
                };
                let issued = Issued { serial, epoch: 0, mark: 7 };
                let visible = zoetrope_protocol::mark::Visible::Name("x".to_owned());
                let mark = MarkOrder { pixels: vec![0; 512], sound: vec![0; 120], visible };
                back.cast(DispatchMsg::TilesMade { request, issued, mark })?;
            }
            WatermarkMsg::Read { job, fence, clip, issued, back, .. } => {
                let read = |file, mark| Ok(MarkedProof { file, mark });
                let result = match lie {
                    Lie::OtherMark => read(clip, issued.mark ^ 1),
                    Lie::OtherFile => read(ArtifactId([9; 32]), issued.mark),
                    Lie::NoMark => Err(MarkFault::NoEvidence),
                    Lie::Down => Err(MarkFault::Down),
                    Lie::Hangs | Lie::Slow | Lie::OneMark | Lie::OtherSerial => return Ok(()),
                };
                back.cast(DispatchMsg::MarksRead { job, fence, result })?;
            }
            WatermarkMsg::Observe(_) => {}
        }
        Ok(())
    }
}

impl Lie {
    /// From now on this one is asked.
    async fn begin(self, farm: &TestFarm) -> ActorRef<WatermarkMsg> {
        let real = sidecar::<WatermarkMsg>(farm);
        let (liar, _) = Actor::spawn(None, Liar, (self, real)).await.expect("spawns");
        farm.running.dispatch.cast(DispatchMsg::WatermarkUp(liar.clone())).expect("alive");
        liar
    }
}

const PUBLISH_FAILED: &str = "zoetrope_inputs_total{input=\"publish_failed\"}";
const SHARD_FAILED: &str = "zoetrope_inputs_total{input=\"shard_failed\"}";

/// Carries out what comes until the job is completed.
async fn completes(farm: &TestFarm, worker: &mut Worker, job: JobId) {
    let rest = async {
        loop {
            let order = worker.order().await;
            worker.carry_out(&order).await;
        }
    };
    let done = farm.until(job, |view| view.state == JobState::Completed);
    tokio::select! {
        _ = done => {}
        () = rest => {}
    }
    assert!(is_published(farm, job));
}

/// What a sidecar says of a finished clip that cannot be so is no answer: the clip waits for a right one.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_lies_about_a_clip_publishes_nothing_and_the_clip_waits() {
    for lie in [Lie::OtherMark, Lie::OtherFile, Lie::Down] {
        let farm = TestFarm::start().await;
        let mut worker = Worker::fresh(&farm, "a").await;
        farm.submit(submission(1)).await.expect("admitted");
        // Once the real one has said that it is there, only the liar is asked.
        let order = worker.finish_order().await;
        let liar = lie.begin(&farm).await;
        worker.carry_out(&order).await;
        seen(&farm, PUBLISH_FAILED, 2.0, PATIENCE).await;
        assert_eq!(farm.read(JobId(1)).await.state, JobState::InProgress, "{lie:?}");
        assert!(!is_published(&farm, JobId(1)), "{lie:?}");
        liar.stop(None);
        kill_sidecar::<WatermarkMsg>(&farm);
        farm.until(JobId(1), |view| view.state == JobState::Completed).await;
        assert!(is_published(&farm, JobId(1)), "{lie:?}");
        farm.running.stop().await;
    }
}

/// A sidecar that finds no mark in marked clips cannot be told from one that is right: after three workers the job ends,
/// unpublished, and none of them is to blame for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_denies_a_mark_ends_the_job_and_blames_no_worker() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    let mut order = worker.finish_order().await;
    Lie::NoMark.begin(&farm).await;
    // Their links stay.
    let mut workers = Vec::new();
    for (times, node) in [(1.0, "b"), (2.0, "c")] {
        let next = Worker::fresh(&farm, node).await;
        worker.carry_out(&order).await;
        seen(&farm, PUBLISH_FAILED, times, PATIENCE).await;
        assert!(!is_published(&farm, JobId(1)));
        workers.push(std::mem::replace(&mut worker, next));
        order = worker.finish_order().await;
    }
    worker.carry_out(&order).await;
    let view = farm.until(JobId(1), |view| matches!(view.state, JobState::Failed(_))).await;
    assert_eq!(view.state, JobState::Failed(FailWhy::Poison(Cause::CheckFailed)));
    assert!(view.assets.is_none() && !is_published(&farm, JobId(1)));
    let rows = farm.farm().ask(FarmMsg::Workers).await.expect("answers");
    assert!(rows.iter().all(|row| row.state == "idle"), "{rows:?}");
    farm.running.stop().await;
}

/// Without right tiles no order to finish leaves, so nothing is made that could be published.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_dead_hangs_or_lies_about_tiles_makes_jobs_wait() {
    for (lie, dies) in [(Lie::Hangs, true), (Lie::Hangs, false), (Lie::OtherSerial, false)] {
        let farm = TestFarm::start().await;
        let mut worker = Worker::fresh(&farm, "a").await;
        farm.submit(submission(1)).await.expect("admitted");
        let order = worker.order().await;
        let liar = lie.begin(&farm).await;
        if dies {
            liar.stop_and_wait(None, None).await.expect("stops");
        }
        worker.carry_out(&order).await;
        let order = worker.order().await;
        worker.carry_out(&order).await;
        seen(&farm, SHARD_FAILED, 1.0, PATIENCE).await;
        assert_eq!(farm.read(JobId(1)).await.state, JobState::InProgress, "{lie:?}");
        kill_sidecar::<WatermarkMsg>(&farm);
        completes(&farm, &mut worker, JobId(1)).await;
        farm.running.stop().await;
    }
}

/// Promise: a gpu is free once its job is cancelled, also where the order never left: its worker has nothing to stop, and
/// nothing to say.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_while_tiles_are_made_frees_the_worker() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.order().await;
    Lie::Slow.begin(&farm).await;
    worker.carry_out(&order).await;
    let order = worker.order().await;
    worker.carry_out(&order).await;
    seen(&farm, "zoetrope_inputs_total{input=\"shard_finished\"}", 2.0, PATIENCE).await;
    let cancel = |reply| FarmMsg::Cancel(TenantId(1), JobId(1), reply);
    farm.farm().ask(cancel).await.expect("answers").expect("it goes on until now");
    farm.submit(submission(2)).await.expect("admitted");
    match worker.next().await {
        ToWorker::Stop { held, .. } => assert_eq!(held.shard.job, JobId(1)),
        other => panic!("no stop but {other:?}"),
    }
    // The core waits for a minute for a worker that does not answer.
    let soon = tokio::time::timeout(std::time::Duration::from_secs(30), worker.order());
    assert_eq!(soon.await.expect("the gpu is free").shard.job, JobId(2));
    farm.running.stop().await;
}

/// One that gives every job the mark of another: the second one's order does not leave, and the first one's clip does
/// not show a mark of the farm's key.
#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_never_get_one_mark() {
    let farm = TestFarm::start().await;
    let (mut first, mut second) = (Worker::old(&farm, "a").await, Worker::fresh(&farm, "b").await);
    farm.submit(submission(1)).await.expect("admitted");
    let order = first.order().await;
    Lie::OneMark.begin(&farm).await;
    first.carry_out(&order).await;
    let finish = first.finish_order().await;
    farm.submit(submission(2)).await.expect("admitted");
    for _ in 0..2 {
        let order = second.order().await;
        assert_eq!(order.shard.job, JobId(2));
        second.carry_out(&order).await;
    }
    seen(&farm, SHARD_FAILED, 1.0, PATIENCE).await;
    assert_eq!(farm.metric("zoetrope_inputs_total{input=\"marked\"}"), 1.0, "the first is news");
    kill_sidecar::<WatermarkMsg>(&farm);
    first.carry_out(&finish).await;
    seen(&farm, PUBLISH_FAILED, 1.0, PATIENCE).await;
    assert_eq!(farm.read(JobId(1)).await.state, JobState::InProgress);
    assert!(!is_published(&farm, JobId(1)));
    // Nobody can finish it any more: the mark that it was given is not its own.
    let cancel = |reply| FarmMsg::Cancel(TenantId(1), JobId(1), reply);
    farm.farm().ask(cancel).await.expect("answers").expect("it goes on until now");
    // By then it may have been ordered from one of them again.
    for worker in [&mut first, &mut second] {
        worker.obeys = true;
    }
    // Either may get it.
    tokio::select! {
        () = completes(&farm, &mut second, JobId(2)) => {}
        () = completes(&farm, &mut first, JobId(2)) => {}
    }
    farm.running.stop().await;
}

/// Promise: one that hangs is not waited for longer than it may take, and jobs go on with one that does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_hangs_over_a_clip_publishes_nothing_and_the_clip_waits() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.finish_order().await;
    Lie::Hangs.begin(&farm).await;
    worker.carry_out(&order).await;
    seen(&farm, PUBLISH_FAILED, 1.0, PATIENCE).await;
    assert_eq!(farm.read(JobId(1)).await.state, JobState::InProgress);
    assert!(!is_published(&farm, JobId(1)));
    kill_sidecar::<WatermarkMsg>(&farm);
    // A second question may be open at the one that hangs; only then is the right one asked.
    let published = seen(&farm, "zoetrope_inputs_total{input=\"published\"}", 1.0, PATIENCE);
    published.await;
    assert_eq!(farm.read(JobId(1)).await.state, JobState::Completed);
    farm.running.stop().await;
}

async fn seen(farm: &TestFarm, line: &str, least: f64, patience: std::time::Duration) {
    let seen = async {
        // A series begins with its first count.
        while !farm.running.metrics.text().contains(line) || farm.metric(line) < least {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(patience, seen).await.unwrap_or_else(|_| panic!("never {line} {least}"));
}
