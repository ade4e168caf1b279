//! Judging what is stored anew, in batches, by a policy that may be another than that of now. Takes nothing down: the
//! dispatch actor does.

use super::{Asker, ClipFault, Desk, JUDGE_TIMEOUT, RescanItem, Unjudged, fetch};
use crate::jobs::rescan::{Batch, FAILING_MAX, Failing, PolicyTexts};
use crate::store::Store;
use futures::StreamExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zoetrope_moderation::judge::{self, Asked};
use zoetrope_moderation::{EngineError, Policy};
use zoetrope_protocol::id::{JobId, Millis};
use zoetrope_protocol::job::ArtifactRef;
use zoetrope_protocol::moderation::{Audience, FrameRecord, Outcome, Verdict};

/// The desk of the rescan that goes on: its policy may be another than that of now.
#[derive(Default)]
pub(super) struct Rescans {
    desk: Mutex<Option<Used>>,
    /// The row that cannot be judged, of the rescan that began then, and since when.
    stuck: Mutex<Option<(Millis, JobId, Instant)>>,
}

/// Of the rescan that began then, and when it was last asked.
struct Used {
    began: Millis,
    desk: Arc<Desk>,
    at: Instant,
}

/// A desk that is not asked for so long is let go: its rescan has ended, and its nets take some hundred megabytes. A batch takes
/// half a minute at most, and a rescan that waits for its turn asks again within seconds.
pub(super) const IDLE: Duration = Duration::from_secs(120);

impl Rescans {
    pub(super) async fn desk(
        &self,
        began: Millis,
        policy: Option<PolicyTexts>,
        live: &Arc<Desk>,
        models: &Path,
    ) -> Result<Arc<Desk>, String> {
        let lock = || self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = lock().as_mut().filter(|used| used.began == began) {
            used.at = Instant::now();
            return Ok(used.desk.clone());
        }
        let (live, models) = (live.clone(), models.to_owned());
        let load = move || -> Result<Desk, String> {
            let Some(texts) = policy else {
                return live.again().map_err(|error| error.to_string());
            };
            let policy = Policy::of_texts(&texts.policy, &texts.rules, &texts.pairs);
            let policy = policy.map_err(|error| error.to_string())?;
            live.by(policy, &models).map_err(|error| error.to_string())
        };
        let loaded = tokio::task::spawn_blocking(load).await.map_err(|error| error.to_string())?;
        let desk = Arc::new(loaded?);
        *lock() = Some(Used { began, desk: desk.clone(), at: Instant::now() });
        Ok(desk)
    }

    /// For how long the rescan that began then has stood before this row.
    pub(super) fn stuck_for(&self, began: Millis, job: JobId) -> Duration {
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        match *stuck {
            Some((of, at, since)) if (of, at) == (began, job) => since.elapsed(),
            _ => {
                *stuck = Some((began, job, Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// Lets a desk go that nobody has asked for so long.
    pub(super) fn forget_idle(&self, idle: Duration) {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        drop(desk.take_if(|used| used.at.elapsed() >= idle));
    }
}

/// Records that are read from the store at a time: one has a kilobyte as a rule, and may have some hundred.
const FETCHED_AT_ONCE: usize = 16;
/// Rows that are judged at a time where a remote provider is asked, which takes a tenth of a second. The desk lets no more
/// than two of them have a core.
const JUDGED_AT_ONCE: usize = 8;
/// A batch ends after this time, wherever it is: whoever waits for it takes two minutes for a sign of death, and one row
/// may take 25 s and its record as long.
const BATCH_TIME: Duration = Duration::from_secs(30);

/// A row that alone cannot be judged holds the others up for so long: what fails for a moment is tried again.
pub(super) const STUCK: Duration = Duration::from_secs(60);
/// What anybody can judge who judges at all.
const PROBE: &str = "A kite over a field.";

/// A row's record, if it needs one: none inside if there is none.
type Record = Option<Option<(FrameRecord, Asked)>>;

/// What a row came to.
enum Judged {
    Passes,
    Fails(Failing),
    /// Nobody can judge it, however often it is tried.
    Cannot,
}

/// A row that was looked at.
struct Looked {
    place: (Millis, JobId),
    again: bool,
    record: Option<ArtifactRef>,
    /// What it came to; else why it cannot be judged now.
    judged: Result<Judged, String>,
}

/// Judges rows as jobs are judged, in their order; `through` is the last one of them and of those between that need no
/// judgement. What cannot be judged now ends the batch at the row before. A row that is `stuck` has held the rescan up for
/// long: if that is for its own sake, it is passed by.
///
/// An error means that nothing can be judged now. A clip without evidence is not judged, and said to be so.
pub(super) async fn judge_anew(
    desk: &Desk,
    store: &Store,
    items: Vec<RescanItem>,
    through: Option<(Millis, JobId)>,
    stuck: impl Fn(JobId) -> bool,
) -> Result<Batch, String> {
    let began = Instant::now();
    let at_once = if desk.remote.is_some() { JUDGED_AT_ONCE } else { 1 };
    let rows = futures::stream::iter(items).map(|item| read(store, item)).buffered(FETCHED_AT_ONCE);
    let mut judged = rows.map(|row| looked_at(desk, row)).buffered(at_once);
    let mut batch = Batch::default();
    while let Some(next) = judged.next().await {
        let Looked { place, again, record, judged } = next;
        let judged = match judged {
            Ok(judged) => judged,
            Err(reason) if batch.through.is_some() => {
                tracing::warn!(reason, "the rescan cannot judge a row now");
                return Ok(batch);
            }
            Err(reason) if !stuck(place.1) || !can_judge(desk, store, record).await => {
                return Err(reason);
            }
            Err(reason) => {
                tracing::warn!(job = %place.1, reason, "the rescan goes on without a row");
                Judged::Cannot
            }
        };
        batch.through = Some(place);
        match judged {
            Judged::Passes => batch.passed += u32::from(!again),
            Judged::Fails(failing) => batch.failing.push(failing),
            Judged::Cannot => batch.unjudged.push(place.1),
        }
        if began.elapsed() > BATCH_TIME || batch.failing.len() >= FAILING_MAX {
            return Ok(batch);
        }
    }
    Ok(Batch { through, ..batch })
}

/// Whether rows can be judged, all but the one with this record: the store knows of it, and whoever judges answers.
async fn can_judge(desk: &Desk, store: &Store, record: Option<ArtifactRef>) -> bool {
    if let Some(record) = record {
        let size = tokio::time::timeout(JUDGE_TIMEOUT, store.size(&record.artifact)).await;
        if !matches!(size, Ok(Ok(_))) {
            return false;
        }
    }
    desk.scores(vec![PROBE.to_owned()], Audience::All, Asker::Rescan).await.is_ok()
}

async fn looked_at(desk: &Desk, (item, read): (RescanItem, Result<Record, String>)) -> Looked {
    let (place, again) = ((item.created, item.job), item.again);
    let record = item.record.flatten().map(|(record, _)| record);
    let judged = match read {
        Err(reason) => Err(reason),
        Ok(read) => match judge(desk, item, read).await {
            Ok(judged) => Ok(judged),
            Err(Unjudged::Engine(EngineError::TooLong(_) | EngineError::Record(_))) => {
                Ok(Judged::Cannot)
            }
            Err(Unjudged::Remote(error)) if error.is_about_the_text() => Ok(Judged::Cannot),
            Err(error) => Err(error.to_string()),
        },
    };
    Looked { place, again, record, judged }
}

async fn read(store: &Store, item: RescanItem) -> (RescanItem, Result<Record, String>) {
    let record = match &item.record {
        None => Ok(None),
        Some(None) => Ok(Some(None)),
        Some(Some((record, asked))) => match fetch(store, *record).await {
            Ok(record) => Ok(Some(Some((record, *asked)))),
            Err(ClipFault::NoEvidence | ClipFault::Gone) => Ok(Some(None)),
            Err(ClipFault::Down) => Err(format!("the record of {} cannot be read", item.job)),
        },
    };
    (item, record)
}

/// What a row comes to: its words first, which need not be read where they were before by what reads alike.
async fn judge(desk: &Desk, item: RescanItem, record: Record) -> Result<Judged, Unjudged> {
    let RescanItem { job, audience, words, input, .. } = item;
    let fails = |output, verdict: Verdict| {
        (verdict.outcome != Outcome::Pass).then_some(Judged::Fails(Failing {
            job,
            output,
            verdict,
        }))
    };
    let policy = desk.policy();
    let verdict = match input.filter(|verdict| policy.scores_texts_as(verdict.policy)) {
        // Whoever judges would say the same again.
        Some(verdict) => judge::text(policy, audience, &verdict.scores.into_iter().collect()),
        None => desk.texts(words, audience, Asker::Rescan).await?,
    };
    if let Some(failing) = fails(false, verdict) {
        return Ok(failing);
    }
    match record {
        None => Ok(Judged::Passes),
        Some(None) => Ok(Judged::Cannot),
        Some(Some((record, asked))) => {
            let verdict = desk.clip(record, asked, audience, Asker::Rescan).await?;
            Ok(fails(true, verdict).unwrap_or(Judged::Passes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use zoetrope_moderation::judge::Scores;
    use zoetrope_protocol::id::ArtifactId;
    use zoetrope_protocol::job::Role;
    use zoetrope_protocol::moderation::Category;

    /// A desk with the built-in policy without nets, with these words of it changed.
    fn desk(from: &str, to: &str) -> Desk {
        let text = include_str!("../../../configs/policy.toml")
            .replace("similarity = true", "similarity = false")
            .replace("classifier = \"nets\"", "classifier = \"card\"");
        let rules = include_str!("../../../configs/policy/rules.toml");
        assert!(text.contains(from) || rules.contains(from));
        let policy = Policy::of_texts(&text.replace(from, to), &rules.replace(from, to), "");
        let live = Desk::new(Policy::built_in().expect("a policy"));
        live.by(policy.expect("a policy"), Path::new("none")).expect("needs no nets")
    }

    /// Promise: words that were read once are not read again for other thresholds, and are where something else changed.
    #[tokio::test]
    async fn scores_are_kept_for_other_thresholds() {
        const DEFAULT: &str = "all = { review = 0.70, block = 0.75 }";
        let (old, now) = (desk("", ""), desk(DEFAULT, "all = { review = 0.50, block = 0.60 }"));
        let other = desk("[lists]\n", "[lists]\nnew = [\"kite\"]\n");
        // No words say so: only what was kept does.
        let scores = Scores::from([(Category::Violence, 6_500)]);
        let kept = judge::text(old.policy(), Audience::All, &scores);
        assert_eq!(kept.outcome, Outcome::Pass);
        let item = RescanItem {
            job: JobId(1),
            created: Millis(1),
            audience: Audience::All,
            words: vec!["a kite over a field".to_owned()],
            input: Some(kept),
            record: None,
            again: false,
        };
        let judged = |desk| judge(desk, item.clone(), None).map(|judged| judged.expect("judged"));
        assert!(matches!(judged(&old).await, Judged::Passes));
        let Judged::Fails(failing) = judged(&now).await else { panic!("it fails now") };
        assert_eq!(failing.verdict.categories, [Category::Violence]);
        assert_eq!(failing.verdict.policy, now.policy().version);
        assert!(matches!(judged(&other).await, Judged::Passes), "read anew");
    }

    /// Promise: one record that is damaged holds a rescan up for a while, and then only itself is not judged; where nothing
    /// can be judged, nothing is passed by.
    #[tokio::test]
    async fn a_damaged_record_does_not_end_the_walk() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(folder.path(), Duration::ZERO).expect("opens");
        let artifact = ArtifactId::of(b"what was there");
        let place = folder.path().join("artifacts").join(&artifact.to_string()[..2]);
        std::fs::create_dir_all(&place).expect("a folder");
        std::fs::write(place.join(artifact.to_string()), b"what is there!").expect("writes");
        let record = ArtifactRef { role: Role::Scores, artifact, bytes: 14 };
        let asked = Asked { clip: ArtifactId([1; 32]), frames: 48, audio: true };
        let item = |job, record| RescanItem {
            job: JobId(job),
            created: Millis(u64::try_from(job).expect("small")),
            audience: Audience::All,
            words: vec!["a kite".to_owned()],
            input: None,
            record,
            again: false,
        };
        let items = vec![item(1, Some(Some((record, asked)))), item(2, None)];
        let last = Some((Millis(2), JobId(2)));
        let (desk, rescans) = (desk("", ""), Rescans::default());
        let patience = Duration::from_millis(50);
        let walk = async |desk: &Desk| {
            let stuck = |job| rescans.stuck_for(Millis(9), job) >= patience;
            judge_anew(desk, &store, items.clone(), last, stuck).await
        };
        walk(&desk).await.expect_err("it may be whole in a moment");
        tokio::time::sleep(patience).await;
        let not_loaded = Desk::new(Policy::built_in().expect("a policy"));
        walk(&not_loaded).await.expect_err("nobody judges");
        let batch = walk(&desk).await.expect("goes on");
        let unjudged = vec![JobId(1)];
        assert_eq!(batch, Batch { through: last, passed: 1, unjudged, ..Batch::default() });
    }
}
