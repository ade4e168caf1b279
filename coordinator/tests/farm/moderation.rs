//! Promise: nothing is rendered or published that moderation did not pass; without a verdict jobs wait.

use crate::worker::{Worker, facts, held};
use crate::{TestFarm, submission};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::path::{Path, PathBuf};
use zoetrope_coordinator::dispatch::DispatchMsg;
use zoetrope_coordinator::moderation::ModerationMsg;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, JobId, Millis};
use zoetrope_protocol::job::{ArtifactRef, Cause, Role, Stage};
use zoetrope_protocol::moderation::{
    Audience, Category, FrameRecord, FrameScore, NetId, Outcome, SAMPLE_EVERY, SCORE_ONE, Verdict,
};
use zoetrope_protocol::wire::FromWorker;
use zoetrope_sched::input::EndWhy;
use zoetrope_sched::output::{FailWhy, JobState};

/// The built-in policy without nets, and the stub that knows one marked card.
pub(crate) fn policy(folder: &Path) -> PathBuf {
    let text = include_str!("../../../configs/policy.toml")
        .replace("similarity = true", "similarity = false")
        .replace("classifier = \"nets\"", "classifier = \"card\"");
    assert!(text.contains("similarity = false") && text.contains("\"card\""));
    std::fs::create_dir_all(folder.join("policy")).expect("a folder");
    let rules = include_str!("../../../configs/policy/rules.toml");
    std::fs::write(folder.join("policy/rules.toml"), rules).expect("writes");
    std::fs::write(folder.join("policy/pairs.tsv"), "").expect("writes");
    let path = folder.join("policy.toml");
    std::fs::write(&path, text).expect("writes");
    path
}

/// What an honest worker measures on a harmless clip.
pub(crate) fn record(frames: u32, clip: ArtifactId) -> FrameRecord {
    let regular = (0..frames).step_by(SAMPLE_EVERY as usize);
    let mut indices: Vec<u32> = regular.chain([frames - 1]).collect();
    indices.dedup();
    let score = |frame| FrameScore { frame, ..FrameScore::default() };
    FrameRecord {
        frames_digest: ArtifactId([5; 32]),
        frames,
        clip,
        nets: vec![NetId { name: "card".to_owned(), sha256: ArtifactId([0; 32]) }],
        scores: indices.into_iter().map(score).collect(),
    }
}

/// Renders a job up to its clip, whose record was changed.
async fn finish_with(worker: &mut Worker, change: impl FnOnce(&mut FrameRecord) -> bool) -> JobId {
    let order = loop {
        let order = worker.order().await;
        if order.shard.stage == Stage::Finish {
            break order;
        }
        worker.carry_out(&order).await;
    };
    let held = held(&order);
    worker.say(FromWorker::Started(held)).await;
    let mut outputs: Vec<ArtifactRef> = worker.files(&order).await;
    let honest = outputs.pop().expect("a record");
    assert_eq!(honest.role, Role::Scores);
    let mut told = record(order.spec.frames, crate::worker::unsigned_clip());
    if change(&mut told) {
        let bytes = codec::encode(&told).expect("encodes");
        outputs.push(worker.store(held, Role::Scores, &bytes).await);
    }
    let (facts, gpu) = (Some(facts(&order)), Millis(50));
    worker.say(FromWorker::Finished { held, outputs, facts, gpu }).await;
    order.shard.job
}

#[tokio::test]
async fn a_blocked_prompt_never_reaches_a_worker() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    let mut bad = submission(1);
    bad.spec.render.prompt = "an explicit video of two people having s e x".to_owned();
    farm.submit(bad).await.expect("admitted");
    let blocked = JobState::Failed(FailWhy::Ended(EndWhy::Blocked));
    let view = farm.until(JobId(1), |view| view.state == blocked).await;
    let verdict = view.moderation.input.expect("a verdict");
    assert_eq!(
        (verdict.outcome, verdict.policy),
        (Outcome::Block, farm.running.desk.policy().version)
    );
    assert!(verdict.categories.contains(&Category::Sexual), "{verdict:?}");

    // In the metadata it counts too.
    let mut hidden = submission(2);
    hidden.spec.metadata = vec![("title".to_owned(), "hardcore p0rn".to_owned())];
    farm.submit(hidden).await.expect("admitted");
    farm.until(JobId(2), |view| view.state == blocked).await;

    farm.submit(submission(3)).await.expect("admitted");
    assert_eq!(worker.order().await.shard.job, JobId(3), "the first order is of the harmless job");
    let text = "zoetrope_moderation_verdicts_total{verdict=\"block\",what=\"input\"}";
    assert_eq!(farm.metric(text), 2.0);
    let farm = farm.restart().await;
    assert_eq!(farm.read(JobId(1)).await.state, blocked, "the verdict was journalled");
    assert!(farm.read(JobId(1)).await.moderation.input.is_some());
    farm.running.stop().await;
}

#[tokio::test]
async fn a_marked_clip_is_blocked_and_stays_unreadable() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    let mark = |told: &mut FrameRecord| {
        told.scores[1].nsfw = SCORE_ONE;
        told.scores[2].nsfw = SCORE_ONE;
        true
    };
    let job = finish_with(&mut worker, mark).await;
    let view = farm.until(job, |view| matches!(view.state, JobState::Failed(_))).await;
    assert_eq!(view.state, JobState::Failed(FailWhy::Ended(EndWhy::Blocked)));
    assert!(view.assets.is_none());
    let (_, verdict) = view.moderation.output.expect("a verdict");
    assert_eq!(verdict.categories, [Category::Sexual]);
    assert!(!farm.folder.path().join("store/published").join(job.to_string()).exists());

    // Without a reviewer a lone vote stops the clip too.
    farm.submit(submission(2)).await.expect("admitted");
    let job = finish_with(&mut worker, |told| {
        told.scores[3].gore = SCORE_ONE;
        true
    });
    let job = job.await;
    let view = farm.until(job, |view| matches!(view.state, JobState::Failed(_))).await;
    let (_, verdict) = view.moderation.output.expect("a verdict");
    assert_eq!(verdict.categories, [Category::Violence, Category::ViolenceGraphic]);
    farm.running.stop().await;
}

/// A record that is missing, empty, has holes, is about another clip, or comes of other nets proves nothing.
#[tokio::test]
async fn a_clip_without_evidence_is_never_published() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    let lies: [fn(&mut FrameRecord) -> bool; 5] = [
        |_| false,
        |told| {
            told.scores.clear();
            true
        },
        |told| {
            told.scores.remove(2);
            true
        },
        |told| {
            told.clip = ArtifactId([9; 32]);
            true
        },
        |told| {
            told.nets[0].sha256 = ArtifactId([1; 32]);
            true
        },
    ];
    for (n, lie) in (1..).zip(lies) {
        farm.submit(submission(n)).await.expect("admitted");
        let job = finish_with(&mut worker, lie).await;
        let view = farm.until(job, |view| matches!(view.state, JobState::Failed(_))).await;
        assert_eq!(view.state, JobState::Failed(FailWhy::NotPublished(Cause::CheckFailed)), "{n}");
        assert!(view.assets.is_none());
    }
    farm.submit(submission(9)).await.expect("admitted");
    let job = finish_with(&mut worker, |_| true).await;
    farm.until(job, |view| view.state == JobState::Completed).await;
    farm.running.stop().await;
}

/// A sidecar that hangs, or answers what is no verdict.
struct Liar;

#[ractor::async_trait]
impl Actor for Liar {
    type Msg = ModerationMsg;
    type State = Option<Verdict>;
    type Arguments = Option<Verdict>;

    async fn pre_start(
        &self,
        _: ActorRef<ModerationMsg>,
        says: Option<Verdict>,
    ) -> Result<Option<Verdict>, ActorProcessingErr> {
        Ok(says)
    }

    async fn handle(
        &self,
        _: ActorRef<ModerationMsg>,
        message: ModerationMsg,
        says: &mut Option<Verdict>,
    ) -> Result<(), ActorProcessingErr> {
        if let (ModerationMsg::JudgeTexts { job, back, .. }, Some(says)) = (message, says) {
            back.cast(DispatchMsg::TextsJudged { job, verdict: Some(says.clone()) })?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_sidecar_that_hangs_or_lies_makes_jobs_wait() {
    let farm = TestFarm::start().await;
    let policy = farm.running.desk.policy().version;
    let pass = Verdict {
        outcome: Outcome::Pass,
        categories: vec![],
        scores: vec![],
        audience: Audience::Adult,
        policy,
    };
    let lies = [
        None,
        Some(Verdict { policy: ArtifactId([1; 32]), ..pass.clone() }),
        Some(Verdict { categories: vec![Category::Hate], ..pass.clone() }),
        Some(Verdict { audience: Audience::All, ..pass.clone() }),
        Some(Verdict { outcome: Outcome::Block, ..pass.clone() }),
    ];
    // Once the real one has said that it is there, only the liar is asked.
    farm.submit(submission(1)).await.expect("admitted");
    farm.until(JobId(1), |view| view.moderation.input.is_some()).await;
    let mut worker = Worker::fresh(&farm, "a").await;
    let first = worker.order().await;
    assert_eq!(first.shard.job, JobId(1));
    for (n, lie) in (2..).zip(lies) {
        let hangs = lie.is_none();
        let (liar, _) = Actor::spawn(None, Liar, lie).await.expect("spawns");
        farm.running.dispatch.cast(DispatchMsg::ModerationUp(liar.clone())).expect("alive");
        farm.submit(submission(n)).await.expect("admitted");
        if !hangs {
            let why = "zoetrope_inputs_total{input=\"not_judged\"}";
            let seen = async {
                while farm.metric(why) < (n - 2) as f64 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(crate::PATIENCE, seen).await.expect("the lie was noticed");
        }
        let view = farm.read(JobId(n)).await;
        assert!(view.judging && view.state == JobState::Queued, "{n}: {view:?}");
        assert!(view.moderation.input.is_none());
        liar.stop(None);
    }
    let (honest, _) = Actor::spawn(None, Liar, Some(pass)).await.expect("spawns");
    farm.running.dispatch.cast(DispatchMsg::ModerationUp(honest.clone())).expect("alive");
    for n in 2..=6 {
        farm.until(JobId(n), |view| view.moderation.input.is_some()).await;
    }
    honest.stop(None);
    farm.running.stop().await;
}
