//! Promise: another policy can judge everything that is stored anew, without a decode; what fails it is taken down,
//! also if the coordinator is restarted midway; a dry run only looks.

use crate::moderation::{finish_with, is_published, policy};
use crate::worker::Worker;
use crate::{PATIENCE, TestFarm, submission};
use std::time::Duration;
use zoetrope_coordinator::dispatch::shares::Shared;
use zoetrope_coordinator::farm::{FarmMsg, NewShare, RescanRefused, ShareRefused};
use zoetrope_coordinator::jobs::rescan::PolicyTexts;
use zoetrope_coordinator::jobs::shares::{Read, Variant};
use zoetrope_coordinator::jobs::{Rescan, RescanOrder, RescanState, ShareId};
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
    let asking = async {
        loop {
            let known = farm.farm().ask(FarmMsg::RescanView).await.expect("answers");
            let (rescan, _) = known.expect("a rescan");
            if !rescan.is_running() {
                return rescan;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it ends")
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
