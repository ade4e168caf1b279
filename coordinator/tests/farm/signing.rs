//! Promise: the farm signs no clip that it would not publish. What a claim binds must have been seen: by its mark, by the record
//! that it is judged by, and byte by byte.

use crate::moderation::{is_published, record};
use crate::worker::{Worker, facts, held};
use crate::{PATIENCE, TestFarm, clip, submission};
use std::time::Duration;
use zoetrope_coordinator::farm::FarmMsg;
use zoetrope_coordinator::jobs::Publication;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, JobId, Millis, TenantId};
use zoetrope_protocol::job::{ArtifactRef, Cause, Role};
use zoetrope_protocol::moderation::{FrameRecord, SCORE_ONE};
use zoetrope_protocol::version::LinkVersion;
use zoetrope_protocol::wire::{CloseCode, FromWorker, Order, ToWorker};
use zoetrope_sched::input::EndWhy;
use zoetrope_sched::output::{FailWhy, JobState};

/// Claims that were signed.
const SIGNED: &str = "zoetrope_sidecar_requests_total{outcome=\"ok\",sidecar=\"provenance\"}";

/// What a worker says of its clip.
struct Said {
    /// The clip that the farm gets to see.
    shown: Vec<u8>,
    /// The one that the manifest binds, and that is published in the end.
    bound: Vec<u8>,
    /// Whether the manifest names a mark of the sound.
    sound: bool,
    /// What it is judged by.
    record: Option<FrameRecord>,
}

impl Said {
    fn honest(order: &Order) -> Said {
        let clip = clip::unsigned(order);
        let record = record(order.spec.frames, ArtifactId::of(&clip));
        Said { shown: clip.clone(), bound: clip, sound: false, record: Some(record) }
    }
}

async fn shows(worker: &mut Worker, order: &Order, clip: &[u8]) {
    worker.send(held(order), Role::Draft, clip, ArtifactId::of(clip).0).await;
    let answer = worker.next().await;
    assert!(matches!(answer, ToWorker::MarksRead { .. }), "{answer:?}");
}

async fn stored(worker: &mut Worker, order: &Order, record: &FrameRecord) -> ArtifactRef {
    let bytes = codec::encode(record).expect("encodes");
    worker.store(held(order), Role::Scores, &bytes).await
}

/// Asks for the signature of what is said.
async fn asked(
    worker: &mut Worker,
    order: &Order,
    said: &Said,
) -> Result<Vec<u8>, (Cause, String)> {
    let (draft, _file, _) = worker.draft_of(order, &said.bound, said.sound).await;
    let scores = match &said.record {
        Some(record) => Some(stored(worker, order, record).await),
        None => None,
    };
    shows(worker, order, &said.shown).await;
    let (held, unsigned) = (held(order), ArtifactId::of(&said.shown));
    let manifest = draft.manifest.clone();
    worker.signed(FromWorker::SignProven { held, unsigned, manifest, scores }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clip_that_is_not_proven_is_not_signed() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    type Lie = fn(&Order, Said) -> Said;
    let lies: [(&str, &str, Lie); 8] = [
        ("signature", "another clip than it showed", |order, said| {
            let (spec, tile) = (&order.spec, clip::tile(order));
            let bound = clip::moving(spec, spec.frames, |_| Some(&tile[..]), &[0.0; 256_000]);
            Said { bound, ..said }
        }),
        ("signature", "no mark in what the manifest binds", |order, said| Said {
            bound: clip::still(&order.spec, None),
            ..said
        }),
        ("watermark", "no mark", |order, said| {
            let clip = clip::still(&order.spec, None);
            let record = record(order.spec.frames, ArtifactId::of(&clip));
            Said { shown: clip.clone(), bound: clip, record: Some(record), ..said }
        }),
        ("watermark", "a mark of the sound that is not there", |_, said| Said {
            sound: true,
            ..said
        }),
        ("moderation", "no record", |_, said| Said { record: None, ..said }),
        ("moderation", "a record of another clip", |order, said| Said {
            record: Some(record(order.spec.frames, ArtifactId([9; 32]))),
            ..said
        }),
        ("moderation", "a record with a hole", |_, mut said| {
            said.record.as_mut().expect("a record").scores.remove(2);
            said
        }),
        ("watermark", "no film", |order, said| {
            let clip = b"no film".to_vec();
            let record = record(order.spec.frames, ArtifactId::of(&clip));
            Said { shown: clip, record: Some(record), ..said }
        }),
    ];
    for (job, (proof, what, lie)) in (1..).zip(lies) {
        farm.submit(submission(job)).await.expect("admitted");
        let order = worker.finish_order().await;
        worker.say(FromWorker::Started(held(&order))).await;
        let line = format!("zoetrope_publishes_refused_total{{proof=\"{proof}\"}}");
        let before = farm.metric(&line);
        let refused = asked(&mut worker, &order, &lie(&order, Said::honest(&order))).await;
        let (cause, reason) = refused.expect_err(what);
        assert_eq!(cause, Cause::CheckFailed, "{what}: {reason}");
        assert_eq!(farm.metric(&line), before + 1.0, "{what}: {reason}");
        // The worker ends the attempt, and the clip is made again elsewhere.
        let (held, detail, gpu) = (held(&order), reason, Millis(5));
        worker.say(FromWorker::Failed { held, cause, detail, gpu }).await;
        farm.refused(JobId(job), &mut worker).await;
    }
    assert_eq!(farm.metric(SIGNED), 0.0);

    farm.submit(submission(19)).await.expect("admitted");
    let order = worker.finish_order().await;
    worker.carry_out(&order).await;
    farm.until(JobId(19), |view| view.state == JobState::Completed).await;
    assert!(is_published(&farm, JobId(19)));
    assert_eq!(farm.metric(SIGNED), 1.0);
    farm.running.stop().await;
}

/// The job ends as it does for a clip that is blocked later.
#[tokio::test(flavor = "multi_thread")]
async fn a_clip_that_moderation_stops_is_not_signed() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.finish_order().await;
    worker.say(FromWorker::Started(held(&order))).await;
    let mut said = Said::honest(&order);
    let record = said.record.as_mut().expect("a record");
    (record.scores[1].nsfw, record.scores[2].nsfw) = (SCORE_ONE, SCORE_ONE);
    asked(&mut worker, &order, &said).await.expect_err("it is blocked");
    let view = farm.until(JobId(1), |view| matches!(view.state, JobState::Failed(_))).await;
    assert_eq!(view.state, JobState::Failed(FailWhy::Ended(EndWhy::Blocked)));
    assert!(view.assets.is_none() && view.moderation.output.is_some());
    assert_eq!(farm.metric(SIGNED), 0.0);
    farm.running.stop().await;
}

/// Where films or records cannot be read nothing is signed, and no clip is to blame: the worker hears that a dependency is down.
#[tokio::test(flavor = "multi_thread")]
async fn without_what_proves_clips_nothing_is_signed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = folder.path().join("ffmpeg");
    let farm = TestFarm::with(|config| config.watermark.ffmpeg = program.clone()).await;
    let mut worker = Worker::fresh(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.finish_order().await;
    worker.say(FromWorker::Started(held(&order))).await;
    let said = Said::honest(&order);
    let (cause, reason) = asked(&mut worker, &order, &said).await.expect_err("nobody reads it");
    assert_eq!(cause, Cause::DependencyDown, "{reason}");
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(&program, "#!/bin/sh\nexec ffmpeg \"$@\"\n").expect("writes");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, executable).expect("is ours");
    asked(&mut worker, &order, &said).await.expect("signed");
    farm.running.stop().await;
}

/// What the farm had seen of a clip is gone with its process: it asks for it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_clip_that_the_farm_has_lost_is_shown_again() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.finish_order().await;
    worker.say(FromWorker::Started(held(&order))).await;
    let (draft, _file, unsigned) = worker.draft(&order).await;
    let scores = stored(&mut worker, &order, &record(order.spec.frames, unsigned)).await;
    let held = held(&order);
    let ask = |manifest: &[u8]| {
        let (manifest, scores) = (manifest.to_vec(), Some(scores));
        FromWorker::SignProven { held, unsigned, manifest, scores }
    };
    let clip = clip::unsigned(&order);
    let lost = async |worker: &mut Worker, why: &str| {
        let (cause, _) = worker.signed(ask(&draft.manifest)).await.expect_err(why);
        assert_eq!(cause, Cause::ArtifactMissing, "{why}");
        shows(worker, &order, &clip).await;
    };
    lost(&mut worker, "nothing was shown").await;
    // Another one pushes it out.
    shows(&mut worker, &order, b"no film").await;
    lost(&mut worker, "it was pushed out").await;
    worker.signed(ask(&draft.manifest)).await.expect("signed");
    lost(&mut worker, "once it is signed it is not kept").await;
    // The same claim is signed again; a second one of the attempt is refused.
    worker.signed(ask(&draft.manifest)).await.expect("signed");
    let (other, _other_file, _) = worker.draft(&order).await;
    shows(&mut worker, &order, &clip).await;
    let (cause, _) = worker.signed(ask(&other.manifest)).await.expect_err("a second claim");
    assert_eq!(cause, Cause::CheckFailed);
    farm.running.stop().await;
}

/// Promise: nothing is signed for an attempt that has ended while its clip was proven.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_gets_no_signature() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = folder.path().join("ffmpeg");
    // Slow enough that the cancel comes first.
    std::fs::write(&program, "#!/bin/sh\nsleep 3\nexec ffmpeg \"$@\"\n").expect("writes");
    use std::os::unix::fs::PermissionsExt;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, executable).expect("is ours");
    let farm = TestFarm::with(|config| config.watermark.ffmpeg = program.clone()).await;
    let mut worker = Worker::fresh(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.finish_order().await;
    worker.say(FromWorker::Started(held(&order))).await;
    let (draft, _file, unsigned) = worker.draft(&order).await;
    let scores = stored(&mut worker, &order, &record(order.spec.frames, unsigned)).await;
    let clip = clip::unsigned(&order);
    worker.send(held(&order), Role::Draft, &clip, unsigned.0).await;
    let ask = || {
        let (held, manifest) = (held(&order), draft.manifest.clone());
        FromWorker::SignProven { held, unsigned, manifest, scores: Some(scores) }
    };
    // Until the draft is there it is asked for.
    while !matches!(farm.read(JobId(1)).await.publication, Some(Publication::Moderating)) {
        worker.say(ask()).await;
        match tokio::time::timeout(Duration::from_millis(300), worker.next()).await {
            Ok(ToWorker::NotSigned { cause: Cause::ArtifactMissing, .. }) => {}
            Ok(other) => panic!("{other:?}"),
            Err(_) => break,
        }
    }
    let cancel = |reply| FarmMsg::Cancel(TenantId(1), JobId(1), reply);
    farm.farm().ask(cancel).await.expect("answers").expect("it goes on until now");
    loop {
        match worker.next().await {
            ToWorker::NotSigned { cause, .. } => break assert_eq!(cause, Cause::Refused),
            ToWorker::Signed { .. } => panic!("signed"),
            _ => {}
        }
    }
    assert_eq!(farm.metric(SIGNED), 0.0);
    farm.running.stop().await;
}

/// A worker of this version cannot ask as those before it did; and those before it are turned away unless the operator lets
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_goes_round_the_proofs() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.finish_order().await;
    worker.say(FromWorker::Started(held(&order))).await;
    let (draft, _file, unsigned) = worker.draft(&order).await;
    let (held, manifest) = (held(&order), draft.manifest.clone());
    worker.say(FromWorker::SignAsked { held, unsigned, manifest }).await;
    let end = tokio::time::timeout(PATIENCE, worker.connection.closed()).await.expect("is closed");
    let quinn::ConnectionError::ApplicationClosed(close) = end else { panic!("{end}") };
    assert_eq!(close.error_code.into_inner(), CloseCode::Protocol as u64);
    assert_eq!(farm.metric(SIGNED), 0.0);
    let mut old = Worker::old(&farm, "b").await;
    let order = old.order().await;
    old.carry_out(&order).await;
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    farm.running.stop().await;

    let usual = zoetrope_coordinator::config::ServeConfig::default().link.version_min;
    let farm = TestFarm::with(|config| config.link.version_min = usual).await;
    let ca = farm.running.authority.certificate();
    let papers = crate::worker::Papers::issue(&farm.running.authority, "b");
    let names = LinkVersion::DRAFTS.names();
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    let dialled = crate::worker::dial_offering(farm.running.link, ca, Some(&papers), &names).await;
    let refused = dialled.expect_err("too old");
    assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused}");
    let mut worker = Worker::fresh(&farm, "b").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.finish_order().await;
    let outputs = worker.files(&order).await;
    let (held, facts) = (crate::worker::held(&order), Some(facts(&order)));
    worker.say(FromWorker::Finished { held, outputs, facts, gpu: Millis(1) }).await;
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    farm.running.stop().await;
}
