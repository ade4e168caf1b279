//! Promise: another policy can judge everything that is stored anew, without a decode; what fails it is taken down,
//! also if the coordinator is restarted midway; a dry run only looks.

use crate::moderation::{answering, finish_with, http, is_published, policy, says, with_remote};
use crate::worker::Worker;
use crate::{PATIENCE, TestFarm, submission};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use zoetrope_coordinator::dispatch::shares::Shared;
use zoetrope_coordinator::farm::{FarmMsg, NewShare, RescanRefused, ShareRefused};
use zoetrope_coordinator::jobs::rescan::{Left, PolicyTexts};
use zoetrope_coordinator::jobs::shares::{Read, Variant};
use zoetrope_coordinator::jobs::{Rescan, RescanOrder, RescanState, ShareId};
use zoetrope_coordinator::moderation::settings::RemoteMode;
use zoetrope_protocol::id::JobId;
use zoetrope_protocol::moderation::{Category, FrameRecord, Utterance};
use zoetrope_sched::input::EndWhy;
use zoetrope_sched::output::{FailWhy, JobState};

/// The policy of the tests, which also finds these words, and frames of this score, too much.
fn stricter(farm: &TestFarm) -> PolicyTexts {
    let folder = farm.folder.path();
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("reads");
    let text = std::fs::read_to_string(policy(folder)).expect("reads");
    let rule = "[[rule]]\ncategory = \"illicit\"\nscore = 0.99\nall_of = [\"new\"]\n";
    let rules = read("policy/rules.toml");
    let (lists, own) = rules.split_once("\n[[rule]]\n").expect("rules");
    PolicyTexts {
        policy: text.replace("{ nsfw = 0.80 }", "{ nsfw = 0.20 }"),
        rules: format!(
            "{}\n{rule}[[rule]]\n{own}",
            lists.replacen("[lists]\n", "[lists]\nnew = [\"kite\"]\n", 1)
        ),
        pairs: String::new(),
    }
}

async fn begin(farm: &TestFarm, order: RescanOrder) -> Result<Rescan, RescanRefused> {
    farm.farm().ask(|reply| FarmMsg::Rescan(Box::new(order), reply)).await.expect("answers")
}

async fn until_done(farm: &TestFarm) -> Rescan {
    until(farm, |rescan| !rescan.is_running()).await.0
}

/// The rescan, once it is so.
async fn until(farm: &TestFarm, is: impl Fn(&Rescan) -> bool) -> (Rescan, Left) {
    let asking = async {
        loop {
            let known = farm.farm().ask(FarmMsg::RescanView).await.expect("answers");
            let (rescan, left) = known.expect("a rescan");
            if is(&rescan) {
                return (rescan, left);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it comes to be so")
}

/// A clip in which somebody says this.
fn saying(words: &str) -> impl FnOnce(&mut FrameRecord) -> bool {
    let words = words.to_owned();
    |told| {
        let (start_ms, end_ms) = (100, 900);
        let one = Utterance { start_ms, end_ms, words, confidence: 9_000, no_speech: 0 };
        told.sound.as_mut().expect("a sound").speech.push(one);
        true
    }
}

async fn share(farm: &TestFarm, job: JobId) -> Shared {
    let new = NewShare {
        id: ShareId(job.0),
        variants: vec![Variant::Video],
        audience: None,
        expires_after: None,
        downloads_max: None,
        request: None,
    };
    let ask = |reply| FarmMsg::Share(submission(job.0).spec.tenant, job, new, reply);
    farm.farm().ask(ask).await.expect("answers")
}

/// Four published clips: harmless; of these words; of these frames; one that says these words.
async fn published(farm: &TestFarm) {
    let mut worker = Worker::fresh(farm, "a").await;
    let changes: [fn(&mut FrameRecord) -> bool; 4] = [
        |_| true,
        |_| true,
        |told| {
            told.scores[1].nsfw = 3_000;
            told.scores[2].nsfw = 3_000;
            true
        },
        |told| {
            told.sound.as_mut().expect("a sound").speech.push(Utterance {
                start_ms: 100,
                end_ms: 900,
                words: "Look at my kite.".to_owned(),
                confidence: 9_000,
                no_speech: 0,
            });
            true
        },
    ];
    for (n, change) in (1..).zip(changes) {
        let mut asked = submission(n);
        if n == 2 {
            asked.spec.render.prompt = "a kite in the sky".to_owned();
        }
        farm.submit(asked).await.expect("admitted");
        let job = finish_with(&mut worker, change).await;
        farm.until(job, |view| view.state == JobState::Completed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_a_new_policy_is_taken_down() {
    let farm = TestFarm::start().await;
    published(&farm).await;
    // Nobody renders this one: its worker is gone.
    let mut waits = submission(9);
    waits.spec.render.prompt = "a kite at night".to_owned();
    farm.submit(waits).await.expect("admitted");
    farm.until(JobId(9), |view| !view.judging).await;

    // By the policy of now all pass.
    let order = RescanOrder { policy: None, dry_run: false, per_second: 100 };
    begin(&farm, order.clone()).await.expect("begins");
    let done = until_done(&farm).await;
    assert_eq!((done.state, done.passed, done.failed), (RescanState::Done, 5, 0), "{done:?}");

    // A dry run says what a run would do, and does nothing.
    let policy = Some(stricter(&farm));
    let look = RescanOrder { policy: policy.clone(), dry_run: true, ..order.clone() };
    begin(&farm, look).await.expect("begins");
    let looked = until_done(&farm).await;
    assert_eq!((looked.passed, looked.failed, looked.unjudged), (1, 4, 0), "{looked:?}");
    let named: Vec<JobId> = looked.failing.iter().map(|(job, _)| *job).collect();
    assert_eq!(named, [2, 3, 4, 9].map(JobId));
    assert!((1..=4).all(|job| is_published(&farm, JobId(job))));

    share(&farm, JobId(2)).await.expect("it can be read");
    // The run: a restart in the middle loses nothing.
    let run = RescanOrder { policy, per_second: 1, ..order };
    begin(&farm, run.clone()).await.expect("begins");
    assert_eq!(begin(&farm, run).await, Err(RescanRefused::Running));
    farm.until(JobId(2), |view| view.taken_down.is_some()).await;
    let farm = farm.restart().await;
    let done = until_done(&farm).await;
    assert_eq!((done.state, done.passed, done.failed), (RescanState::Done, 1, 4), "{done:?}");
    for (job, category) in [(2, Category::Illicit), (3, Category::Sexual), (4, Category::Illicit)] {
        let view = farm.read(JobId(job)).await;
        assert!(view.taken_down.is_some() && view.state == JobState::Completed, "{view:?}");
        let output = view.moderation.output.map(|(_, verdict)| verdict);
        let verdicts = [view.moderation.input, output];
        let says = verdicts.iter().flatten().any(|verdict| verdict.categories == [category]);
        assert!(says, "{verdicts:?}");
        let gone = async {
            while is_published(&farm, JobId(job)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("the pointer goes");
        // Nor is there a way around it.
        let refused = share(&farm, JobId(job)).await;
        assert!(matches!(refused, Err(ShareRefused::Unreadable(_))), "{refused:?}");
    }
    // An old link leads to a video of which the door shows no content.
    let follow = |reply| FarmMsg::OpenShare(ShareId(2), None, Read::Head, reply);
    let (view, _, _) = farm.farm().ask(follow).await.expect("answers").expect("the link is there");
    assert!(view.taken_down.is_some());
    let ended = farm.read(JobId(9)).await.state;
    assert_eq!(ended, JobState::Failed(FailWhy::Ended(EndWhy::Blocked)));
    assert!(is_published(&farm, JobId(1)) && farm.read(JobId(1)).await.taken_down.is_none());
    farm.running.stop().await;
}

/// A record by other nets, or none, is no evidence: the clip is named, and stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_judged_is_named() {
    let farm = TestFarm::start().await;
    published(&farm).await;
    let mut texts = stricter(&farm);
    texts.policy = texts.policy.replace("listener = \"card\"", "listener = \"nets\"");
    let order = RescanOrder { policy: Some(texts), dry_run: true, per_second: 2 };
    begin(&farm, order).await.expect("begins");
    let done = until_done(&farm).await;
    assert_eq!((done.passed, done.failed, done.unjudged), (0, 1, 3), "{done:?}");
    assert_eq!(done.unjudgeable, [1, 3, 4].map(JobId));

    let order = RescanOrder { policy: None, dry_run: true, per_second: 1 };
    begin(&farm, order).await.expect("begins");
    let ended = farm.farm().ask(FarmMsg::RescanCancel).await.expect("answers").expect("ends");
    assert_eq!(ended.state, RescanState::Cancelled);
    farm.running.stop().await;
}

/// Promise: a clip that is finished while a rescan by another policy goes on is judged by that policy too, although the
/// walk has passed it.
#[tokio::test(flavor = "multi_thread")]
async fn a_clip_that_is_finished_behind_the_walk_is_judged() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    // Rows that end by themselves: the walk takes a second for each.
    for n in 2..=12 {
        let mut bad = submission(n);
        bad.spec.render.prompt = "hardcore porn".to_owned();
        farm.submit(bad).await.expect("admitted");
        farm.until(JobId(n), |view| matches!(view.state, JobState::Failed(_))).await;
    }
    let order = RescanOrder { policy: Some(stricter(&farm)), dry_run: false, per_second: 1 };
    begin(&farm, order).await.expect("begins");
    let (_, left) = until(&farm, |rescan| rescan.through.is_some()).await;
    assert_eq!(left.pending, Some(1), "it is passed, and not done");
    let mut worker = Worker::fresh(&farm, "a").await;
    let job = finish_with(&mut worker, saying("Look at my kite.")).await;
    farm.until(job, |view| view.state == JobState::Completed).await;
    let (done, left) = until(&farm, |rescan| !rescan.is_running()).await;
    assert_eq!((done.passed, done.failed, done.unjudged), (0, 1, 0), "{done:?}");
    assert_eq!(left, Left { rows: 0, pending: Some(0) });
    assert!(farm.read(job).await.taken_down.is_some());
    farm.running.stop().await;
}

/// Promise: a job that is not finished at the end of a rescan is counted as not judged, and not as one that passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_not_finished_is_said_to_be_pending() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    farm.until(JobId(1), |view| !view.judging).await;
    let order = RescanOrder { policy: Some(stricter(&farm)), dry_run: false, per_second: 10 };
    begin(&farm, order.clone()).await.expect("begins");
    let (done, left) = until(&farm, |rescan| !rescan.is_running()).await;
    assert_eq!((done.passed, done.failed, left.pending), (0, 0, Some(1)), "{done:?}");
    // Where the policy is that of now, its clip will be judged by it.
    begin(&farm, RescanOrder { policy: None, ..order }).await.expect("begins");
    let (done, left) = until(&farm, |rescan| !rescan.is_running()).await;
    assert_eq!((done.passed, done.failed, left.pending), (1, 0, Some(0)), "{done:?}");
    farm.running.stop().await;
}

/// Promise: a rescan judges as jobs are judged, by the remote provider too, also by another policy; while that is down it
/// waits, and nothing passes or is taken down.
#[tokio::test(flavor = "multi_thread")]
async fn a_rescan_asks_the_remote_provider() {
    let answer = Arc::new(Mutex::new(says(0.01, false)));
    let asked = Arc::new(AtomicUsize::new(0));
    let say = |new: String| *answer.lock().unwrap_or_else(PoisonError::into_inner) = new;
    let (next, count) = (answer.clone(), asked.clone());
    let url = answering(move || {
        count.fetch_add(1, Ordering::Relaxed);
        next.lock().unwrap_or_else(PoisonError::into_inner).clone()
    });
    let farm = with_remote(url.await, RemoteMode::Replace).await;
    let mut worker = Worker::fresh(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    // The rules that it replaces would stop that.
    let job = finish_with(&mut worker, saying("Listen. I will kill you. Goodbye.")).await;
    farm.until(job, |view| view.state == JobState::Completed).await;

    let now = RescanOrder { policy: None, dry_run: false, per_second: 10 };
    let new = RescanOrder { policy: Some(stricter(&farm)), ..now.clone() };
    for order in [now, new.clone()] {
        begin(&farm, order).await.expect("begins");
        let done = until_done(&farm).await;
        assert_eq!((done.passed, done.failed, done.unjudged), (1, 0, 0), "{done:?}");
    }

    say(http(500, "{}"));
    let before = asked.load(Ordering::Relaxed);
    begin(&farm, new.clone()).await.expect("begins");
    let (waits, _) = until(&farm, |_| asked.load(Ordering::Relaxed) > before + 1).await;
    let counts = (waits.passed, waits.failed, waits.unjudged);
    assert!(waits.is_running() && counts == (0, 0, 0), "{waits:?}");
    say(says(0.01, false));
    let done = until_done(&farm).await;
    assert_eq!((done.passed, done.failed, done.unjudged), (1, 0, 0), "{done:?}");

    // A text that it refuses is not judged, however often it is asked.
    say(http(413, "{}"));
    begin(&farm, new.clone()).await.expect("begins");
    let done = until_done(&farm).await;
    assert_eq!((done.passed, done.failed, done.unjudged), (0, 0, 1), "{done:?}");

    say(says(0.1, true));
    begin(&farm, new).await.expect("begins");
    let done = until_done(&farm).await;
    assert_eq!(done.failing, [(job, vec![Category::Hate])], "{done:?}");
    assert!(farm.read(job).await.taken_down.is_some());
    farm.running.stop().await;
}
