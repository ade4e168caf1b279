//! Promise: nothing is rendered or published that moderation did not pass; without a verdict jobs wait.

use crate::worker::{Worker, facts, held};
use crate::{PATIENCE, TestFarm, submission};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zoetrope_coordinator::clock;
use zoetrope_coordinator::dispatch::DispatchMsg;
use zoetrope_coordinator::farm::SubmitRefused;
use zoetrope_coordinator::jobs::{JobView, Publication};
use zoetrope_coordinator::moderation::ModerationMsg;
use zoetrope_coordinator::moderation::settings::{RemoteMode, RemoteModeration};
use zoetrope_protocol::clip::FPS;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, JobId, Millis};
use zoetrope_protocol::job::{ArtifactRef, Cause, Role, Stage};
use zoetrope_protocol::moderation::{
    Audience, Category, FrameRecord, FrameScore, NetId, Outcome, SAMPLE_EVERY, SCORE_ONE,
    SoundRecord, Utterance, Verdict,
};
use zoetrope_protocol::wire::FromWorker;
use zoetrope_sched::input::EndWhy;
use zoetrope_sched::output::{FailWhy, JobState};

/// The built-in policy without nets, and the stub that knows one marked card.
pub(crate) fn policy(folder: &Path) -> PathBuf {
    let text = include_str!("../../../configs/policy.toml")
        .replace("similarity = true", "similarity = false")
        .replace("classifier = \"nets\"", "classifier = \"card\"")
        .replace("listener = \"nets\"", "listener = \"card\"");
    assert!(text.contains("similarity = false") && text.matches("\"card\"").count() == 2);
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
    let nets = vec![NetId { name: "card".to_owned(), sha256: ArtifactId([0; 32]) }];
    let length_ms = frames * 1_000 / FPS;
    FrameRecord {
        frames_digest: ArtifactId([5; 32]),
        frames,
        clip,
        nets: nets.clone(),
        scores: indices.into_iter().map(score).collect(),
        sound: Some(SoundRecord { length_ms, nets, speech: vec![] }),
    }
}

/// Whether a job has a pointer.
pub(crate) fn is_published(farm: &TestFarm, job: JobId) -> bool {
    farm.folder.path().join(format!("store/published/{job}.json")).exists()
}

/// Renders a job up to its clip, whose record was changed.
pub(crate) async fn finish_with(
    worker: &mut Worker,
    change: impl FnOnce(&mut FrameRecord) -> bool,
) -> JobId {
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
    let scores = outputs.iter().position(|output| output.role == Role::Scores);
    outputs.remove(scores.expect("a record"));
    let mut told = record(order.spec.frames, crate::worker::unsigned_clip(&order));
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
    // In its keys where they are written for people; one that a program gave its value is no word of the scene.
    let mut key = submission(4);
    key.spec.metadata = vec![("hardcore p0rn film".to_owned(), "1".to_owned())];
    farm.submit(key).await.expect("admitted");
    farm.until(JobId(4), |view| view.state == blocked).await;

    let mut named = submission(3);
    named.spec.render.prompt = "a sexy red sports car drives past".to_owned();
    named.spec.metadata = vec![("child_id".to_owned(), "42".to_owned())];
    farm.submit(named).await.expect("admitted");
    assert_eq!(worker.order().await.shard.job, JobId(3), "the first order is of the harmless job");
    let text = "zoetrope_moderation_verdicts_total{verdict=\"block\",what=\"input\"}";
    assert_eq!(farm.metric(text), 3.0);
    let farm = farm.restart().await;
    assert_eq!(farm.read(JobId(1)).await.state, blocked, "the verdict was journalled");
    assert!(farm.read(JobId(1)).await.moderation.input.is_some());
    farm.running.stop().await;
}

#[tokio::test]
async fn a_marked_clip_is_blocked_and_stays_unreadable() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::old(&farm, "a").await;
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
    assert!(!is_published(&farm, job));

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

/// Promise: what is said in a clip is judged as its words are; what nobody understood does not pass either.
#[tokio::test]
async fn a_clip_that_says_what_the_policy_forbids_is_blocked() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::old(&farm, "a").await;
    let says = |words: &str, confidence, no_speech| {
        let words = words.to_owned();
        let utterance = Utterance { start_ms: 200, end_ms: 900, words, confidence, no_speech };
        move |told: &mut FrameRecord| {
            told.sound.as_mut().expect("a sound").speech.push(utterance);
            true
        }
    };
    for (n, (words, confidence, category)) in (1..).zip([
        ("Listen. I will kill you. Goodbye.", 9_000, Category::HarassmentThreatening),
        ("some words perhaps", 1_000, Category::SoundUnintelligible),
        ("", 9_000, Category::SoundUnintelligible),
    ]) {
        farm.submit(submission(n)).await.expect("admitted");
        let job = finish_with(&mut worker, says(words, confidence, 100)).await;
        let view = farm.until(job, |view| matches!(view.state, JobState::Failed(_))).await;
        assert_eq!(view.state, JobState::Failed(FailWhy::Ended(EndWhy::Blocked)), "{words}");
        let (_, verdict) = view.moderation.output.expect("a verdict");
        assert!(verdict.categories.contains(&category), "{verdict:?}");
        let span = verdict.spans.iter().find(|span| span.category == category).expect("a span");
        assert_eq!((span.start_ms, span.end_ms), (200, 900));
        assert!(!is_published(&farm, job));
    }
    for (n, (words, confidence, no_speech)) in (11..).zip([
        ("The red ball bounces over the green grass.", 9_000, 100),
        // Noise, of which the recogniser made words.
        ("you", 1_000, 9_000),
    ]) {
        farm.submit(submission(n)).await.expect("admitted");
        let job = finish_with(&mut worker, says(words, confidence, no_speech)).await;
        farm.until(job, |view| view.state == JobState::Completed).await;
    }
    farm.running.stop().await;
}

/// A record that is missing, empty, has holes, is about another clip, or comes of other nets proves nothing.
#[tokio::test]
async fn a_clip_without_evidence_is_never_published() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::old(&farm, "a").await;
    let lies: [fn(&mut FrameRecord) -> bool; 8] = [
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
        // Nobody listened; to a part only; another net did.
        |told| {
            told.sound = None;
            true
        },
        |told| {
            told.sound.as_mut().expect("a sound").length_ms /= 2;
            true
        },
        |told| {
            told.sound.as_mut().expect("a sound").nets[0].sha256 = ArtifactId([1; 32]);
            true
        },
    ];
    for (n, lie) in (1..).zip(lies) {
        farm.submit(submission(n)).await.expect("admitted");
        let job = finish_with(&mut worker, lie).await;
        farm.refused(job, &mut worker).await;
    }
    farm.submit(submission(19)).await.expect("admitted");
    let job = finish_with(&mut worker, |_| true).await;
    farm.until(job, |view| view.state == JobState::Completed).await;
    assert!(is_published(&farm, job));
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

/// Promise: a clip that nobody could judge for half an hour ends its job as one that was not moderated, not as one that could
/// not be rendered.
#[tokio::test]
async fn a_clip_that_nobody_judges_ends_as_unmoderated() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::old(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    farm.until(JobId(1), |view| view.moderation.input.is_some()).await;
    // Only this one is asked from now on, and it is gone.
    let (gone, ended) = Actor::spawn(None, Liar, None).await.expect("spawns");
    farm.running.dispatch.cast(DispatchMsg::ModerationUp(gone.clone())).expect("alive");
    gone.stop(None);
    ended.await.expect("ends");
    let job = finish_with(&mut worker, |_| true).await;
    let seen = async {
        while farm.metric("zoetrope_inputs_total{input=\"publish_failed\"}") < 1.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("it waits");
    assert_eq!(farm.read(job).await.state, JobState::InProgress);
    clock::not_before(clock::now().plus(Millis(30 * 60_000)));
    let view = farm.until(job, |view| matches!(view.state, JobState::Failed(_))).await;
    assert_eq!(view.state, JobState::Failed(FailWhy::Ended(EndWhy::Unmoderated)));
    assert!(!is_published(&farm, job));
    farm.running.stop().await;
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
        spans: vec![],
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
    // Whoever looks at the gauges sees that they wait.
    let queued = async {
        while farm.metric("zoetrope_jobs{class=\"default\",state=\"queued\"}") < 5.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, queued).await.expect("they are counted as queued");
    let (honest, _) = Actor::spawn(None, Liar, Some(pass)).await.expect("spawns");
    farm.running.dispatch.cast(DispatchMsg::ModerationUp(honest.clone())).expect("alive");
    for n in 2..=6 {
        farm.until(JobId(n), |view| view.moderation.input.is_some()).await;
    }
    honest.stop(None);
    farm.running.stop().await;
}

/// Promise: a deadline is not accepted twice over while the words of the first ones are being judged.
#[tokio::test(flavor = "multi_thread")]
async fn deadlines_count_from_the_moment_that_they_are_accepted() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    farm.until(JobId(1), |view| !view.judging).await;
    let (silent, _) = Actor::spawn(None, Liar, None).await.expect("spawns");
    farm.running.dispatch.cast(DispatchMsg::ModerationUp(silent.clone())).expect("alive");
    let mut worker = Worker::fresh(&farm, "a").await;
    worker.order().await;
    let deadline = Some(zoetrope_coordinator::clock::now().plus(Millis(10 * 60_000)));
    let mut accepted = 0;
    for job in 2..150 {
        let mut asked = submission(job);
        asked.spec.deadline = deadline;
        match farm.submit(asked).await {
            Ok(view) => assert!(view.judging),
            Err(refused) => {
                assert_eq!(refused, SubmitRefused::DeadlineInfeasible);
                break;
            }
        }
        accepted += 1;
    }
    assert!((1..140).contains(&accepted), "{accepted} jobs in ten minutes of one worker");
    silent.stop(None);
    farm.running.stop().await;
}

/// 5.4: what is done with a job is shown from its first order to its end, also when no worker is left to do anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_clip_that_is_being_judged_says_so() {
    // Before it is signed, or by a worker of before that once it is finished.
    for signed in [false, true] {
        let farm = TestFarm::start().await;
        farm.submit(submission(1)).await.expect("admitted");
        farm.until(JobId(1), |view| !view.judging).await;
        let (silent, _) = Actor::spawn(None, Liar, None).await.expect("spawns");
        farm.running.dispatch.cast(DispatchMsg::ModerationUp(silent.clone())).expect("alive");
        let mut worker = match signed {
            true => Worker::old(&farm, "a").await,
            false => Worker::fresh(&farm, "a").await,
        };
        for stage in [Stage::Encode, Stage::Denoise, Stage::Finish] {
            let order = worker.order().await;
            let view = farm.read(JobId(1)).await;
            assert_eq!(view.phase.map(|doing| doing.stage), Some(stage));
            assert_eq!(view.publication, None);
            let judged = farm.until(JobId(1), |view| view.publication.is_some());
            tokio::select! {
                () = worker.carry_out(&order) => {}
                _ = judged => assert!(stage == Stage::Finish && !signed),
            }
        }
        // The attempt ends once its record is on disk, a moment after the clip is known to be there.
        let wanted = |view: &JobView| view.publication.is_some() && view.phase.is_none() == signed;
        let view = farm.until(JobId(1), wanted).await;
        assert_eq!(view.state, JobState::InProgress);
        assert_eq!(view.publication, Some(Publication::Moderating));
        silent.stop(None);
        farm.running.stop().await;
    }
}

/// Promise: what is published passed by the policy of now, its words too. A job that waited while the operator changed the
/// policy is asked again about its words before its clip is signed.
#[tokio::test(flavor = "multi_thread")]
async fn words_that_passed_by_an_older_policy_are_judged_by_that_of_now() {
    let farm = TestFarm::start().await;
    let mut other = submission(2);
    other.spec.render.prompt = "a blue cube turns".to_owned();
    for job in [submission(1), other] {
        let job = farm.submit(job).await.expect("admitted").job;
        farm.until(job, |view| view.moderation.input.is_some()).await;
    }
    let before = farm.running.desk.policy().version;
    let rules = farm.folder.path().join("policy/rules.toml");
    let mut text = std::fs::read_to_string(&rules).expect("reads");
    text.push_str("[[rule]]\ncategory = \"hate\"\nscore = 0.99\nall_of = [\"against\"]\n");
    let text = text.replacen("against = [", "against = [\"red ball\", ", 1);
    std::fs::write(&rules, text).expect("writes");
    let farm = farm.restart().await;
    let now = farm.running.desk.policy().version;
    assert_ne!(now, before);
    let mut worker = Worker::fresh(&farm, "a").await;
    let order = worker.finish_order().await;
    assert_eq!(order.shard.job, JobId(1));
    worker.say(FromWorker::Started(held(&order))).await;
    let (draft, _file, _) = worker.draft(&order).await;
    let refused = worker.signature(&order, draft.manifest.clone()).await;
    refused.expect_err("the words do not pass any more");
    let view = farm.until(JobId(1), |view| view.ended.is_some()).await;
    assert_eq!(view.state, JobState::Failed(FailWhy::Ended(EndWhy::Blocked)));
    let (held, cause, detail, gpu) = (held(&order), Cause::Ended, String::new(), Millis(1));
    worker.say(FromWorker::Failed { held, cause, detail, gpu }).await;
    // What passes by both goes on; a worker of before that has its words judged once the clip is there.
    let mut old = Worker::old(&farm, "b").await;
    worker.die();
    let order = old.finish_order().await;
    assert_eq!(order.shard.job, JobId(2));
    old.carry_out(&order).await;
    let view = farm.until(JobId(2), |view| view.state == JobState::Completed).await;
    assert_eq!(view.moderation.input.map(|verdict| verdict.policy), Some(now));
    assert_eq!(farm.metric("zoetrope_inputs_total{input=\"rejudged\"}"), 2.0);
    farm.running.stop().await;
}

/// A provider on loopback that gives each request the next of these answers, and the last one for ever. An empty
/// answer hangs.
async fn provider(answers: Vec<String>) -> String {
    let mut answers = answers.into_iter().peekable();
    answering(move || {
        let only = answers.peek().cloned().unwrap_or_default();
        if answers.len() > 1 { answers.next().unwrap_or_default() } else { only }
    })
    .await
}

/// The same that gives each request the next answer of these.
pub(crate) async fn answering(mut next: impl FnMut() -> String + Send + 'static) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = next();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let whole = |seen: &[u8]| {
                    let text = String::from_utf8_lossy(seen).to_lowercase();
                    let (head, body) = text.split_once("\r\n\r\n")?;
                    let length = head.split("content-length: ").nth(1)?.lines().next()?;
                    Some(body.len() >= length.trim().parse().ok()?)
                };
                while whole(&seen) != Some(true) {
                    if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                if answer.is_empty() {
                    return std::future::pending().await;
                }
                stream.write_all(answer.as_bytes()).await.ok();
            });
        }
    });
    format!("http://{address}/v1/moderations")
}

/// An answer of a provider about one text, with this score for hate.
pub(crate) fn says(hate: f64, flagged: bool) -> String {
    let words = Category::of_api().iter().map(|category| category.word());
    let is = |word| flagged && word == "hate";
    let categories: serde_json::Map<_, _> =
        words.clone().map(|word| (word.to_owned(), is(word).into())).collect();
    let score = |word| if word == "hate" { hate } else { 0.01 };
    let scores: serde_json::Map<_, _> =
        words.map(|word| (word.to_owned(), score(word).into())).collect();
    let result = serde_json::json!(
        {"flagged": flagged, "categories": categories, "category_scores": scores}
    );
    http(200, &serde_json::json!({"id": "modr-1", "model": "m", "results": [result]}).to_string())
}

pub(crate) fn http(status: u16, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

async fn with_provider(answers: Vec<String>) -> TestFarm {
    with_remote(provider(answers).await, RemoteMode::Join).await
}

/// A farm that asks this provider.
pub(crate) async fn with_remote(url: String, mode: RemoteMode) -> TestFarm {
    let farm = TestFarm::with(|config| {
        config.moderation.remote = Some(RemoteModeration {
            url,
            key_file: None,
            model: "m".to_owned(),
            mode,
            timeout_seconds: 1,
            allow: vec!["127.0.0.1".to_owned()],
        });
    })
    .await;
    // Otherwise the first question is one that nobody is there to answer.
    let up = async {
        while !farm.running.metrics.text().contains("zoetrope_sidecar_up{sidecar=\"moderation\"} 1")
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, up).await.expect("moderation comes up");
    farm
}

/// Promise: a remote provider judges beside the embedded rules, and the higher score counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_remote_provider_blocks_what_the_rules_let_pass() {
    let farm = with_provider(vec![says(0.2, false), says(0.9, false), says(0.1, true)]).await;
    let blocked = JobState::Failed(FailWhy::Ended(EndWhy::Blocked));
    farm.submit(submission(1)).await.expect("admitted");
    let view = farm.until(JobId(1), |view| !view.judging).await;
    let verdict = view.moderation.input.expect("a verdict");
    assert_eq!(verdict.outcome, Outcome::Pass, "{verdict:?}");
    for n in [2, 3] {
        let mut asked = submission(n);
        asked.spec.render.prompt = format!("a red ball number {n} bounces");
        farm.submit(asked).await.expect("admitted");
        let view = farm.until(JobId(n), |view| view.state == blocked).await;
        let verdict = view.moderation.input.expect("a verdict");
        assert_eq!(verdict.categories, [Category::Hate], "{verdict:?}");
    }
    let mut bad = submission(4);
    bad.spec.render.prompt = "hardcore porn".to_owned();
    farm.submit(bad).await.expect("admitted");
    farm.until(JobId(4), |view| view.state == blocked).await;
    farm.running.stop().await;
}

/// Promise: a provider that is down, hangs or lies lets nothing pass: the job waits, and goes on when there is an
/// answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_remote_provider_that_fails_or_lies_makes_jobs_wait() {
    let lies = [
        String::new(),
        http(500, "{}"),
        http(302, ""),
        http(200, ""),
        http(200, "{\"results\":[]}"),
        says(1.5, false),
        says(0.1, true).replace("\"flagged\":true", "\"flagged\":false"),
        http(200, &format!("{{\"results\":[{}]}}", " ".repeat(2 << 20))),
    ];
    for lie in lies {
        let farm = with_provider(vec![lie.clone(), says(0.1, false)]).await;
        farm.submit(submission(1)).await.expect("admitted");
        let why = farm.until_why(JobId(1), "asked 1 times").await;
        assert!(why.contains("dependency_down"), "{why}");
        // The second question is answered.
        farm.until(JobId(1), |view| !view.judging).await;
        farm.running.stop().await;
    }
}
