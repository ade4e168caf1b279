//! Judging what is stored anew, in batches, by a policy that may be another than that of now. Takes nothing down: the
//! dispatch actor does.

use super::{ClipFault, Desk, RescanItem, Unjudged, fetch};
use crate::jobs::rescan::{Batch, Failing, PolicyTexts};
use crate::store::Store;
use futures::{StreamExt, TryStreamExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use zoetrope_moderation::judge::{self, Asked};
use zoetrope_moderation::{Engine, EngineError, Policy};
use zoetrope_protocol::id::Millis;
use zoetrope_protocol::moderation::{FrameRecord, Outcome};

/// The engine of the rescan that goes on: its policy may be another than that of now.
#[derive(Default)]
pub(super) struct Rescans {
    engine: Mutex<Option<(Millis, Arc<Engine>)>>,
}

impl Rescans {
    pub(super) async fn engine(
        &self,
        began: Millis,
        policy: Option<PolicyTexts>,
        desk: &Desk,
        models: &Path,
    ) -> Result<Arc<Engine>, String> {
        let Some(texts) = policy else {
            return desk.engine().ok_or_else(|| Unjudged::NotLoaded.to_string());
        };
        let lock = || self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, engine)) = lock().as_ref().filter(|(of, _)| *of == began) {
            return Ok(engine.clone());
        }
        let models = models.to_owned();
        let load = move || -> Result<Engine, String> {
            let policy = Policy::of_texts(&texts.policy, &texts.rules, &texts.pairs);
            let policy = policy.map_err(|error| error.to_string())?;
            Engine::load(Arc::new(policy), &models).map_err(|error| error.to_string())
        };
        let loaded = tokio::task::spawn_blocking(load).await.map_err(|error| error.to_string())?;
        let engine = Arc::new(loaded?);
        *lock() = Some((began, engine.clone()));
        Ok(engine)
    }
}

/// Records that are read from the store at a time.
const FETCHED_AT_ONCE: usize = 16;
/// Rows that are judged in one go: a record has a kilobyte as a rule, and may have some hundred.
const JUDGED_AT_ONCE: usize = 64;

/// A row with its record.
type Row = (RescanItem, Option<Option<(FrameRecord, Asked)>>);

/// Judges one after the other, on one thread, so that jobs that wait for a verdict have the rest of the machine.
///
/// An error means that nothing can be judged now. A clip without evidence is not judged, and said to be so.
pub(super) async fn judge_anew(
    engine: &Arc<Engine>,
    store: &Store,
    items: Vec<RescanItem>,
) -> Result<Batch, String> {
    let rows = futures::stream::iter(items).map(|item| read(store, item));
    let mut rows = rows.buffered(FETCHED_AT_ONCE).try_chunks(JUDGED_AT_ONCE);
    let mut batch = Batch::default();
    while let Some(some) = rows.next().await {
        let some = some.map_err(|error| error.1)?;
        let engine = engine.clone();
        let judge = move || judge_some(&engine, some, batch);
        let judged = tokio::task::spawn_blocking(judge).await.map_err(|error| error.to_string())?;
        batch = judged?;
    }
    Ok(batch)
}

/// A batch with what these rows came to.
fn judge_some(engine: &Engine, rows: Vec<Row>, mut batch: Batch) -> Result<Batch, String> {
    for (item, record) in rows {
        let job = item.job;
        match judge(engine, item, record) {
            Ok(None) => batch.passed += 1,
            Ok(Some(failing)) => batch.failing.push(failing),
            Err(None) => batch.unjudged.push(job),
            Err(Some(error)) => return Err(error.to_string()),
        }
    }
    Ok(batch)
}

async fn read(store: &Store, item: RescanItem) -> Result<Row, String> {
    let record = match &item.record {
        None => None,
        Some(None) => Some(None),
        Some(Some((record, asked))) => match fetch(store, *record).await {
            Ok(record) => Some(Some((record, *asked))),
            Err(ClipFault::NoEvidence) => Some(None),
            Err(ClipFault::Down) => {
                return Err(format!("the record of {} cannot be read", item.job));
            }
        },
    };
    Ok((item, record))
}

/// Why a row fails, if it does; an error without a reason is about this row alone.
fn judge(
    engine: &Engine,
    item: RescanItem,
    record: Option<Option<(FrameRecord, Asked)>>,
) -> Result<Option<Failing>, Option<EngineError>> {
    let RescanItem { job, audience, words, input, .. } = item;
    let policy = engine.policy();
    let verdict = match input.filter(|verdict| policy.scores_texts_as(verdict.policy)) {
        // The nets would say the same again.
        Some(verdict) => judge::text(policy, audience, &verdict.scores.into_iter().collect()),
        None => {
            let texts: Vec<&str> = words.iter().map(String::as_str).collect();
            match engine.judge_texts(&texts, audience) {
                // By another policy its words may hide more: nobody can judge it, however often it is tried.
                Err(EngineError::TooLong(_)) => return Err(None),
                judged => judged.map_err(Some)?,
            }
        }
    };
    if verdict.outcome != Outcome::Pass {
        return Ok(Some(Failing { job, output: false, verdict }));
    }
    let verdict = match record {
        None => return Ok(None),
        Some(None) => return Err(None),
        Some(Some((record, asked))) => engine.judge_clip(&record, &asked, audience),
    };
    match verdict {
        Ok(verdict) if verdict.outcome == Outcome::Pass => Ok(None),
        Ok(verdict) => Ok(Some(Failing { job, output: true, verdict })),
        Err(EngineError::Record(_)) => Err(None),
        Err(error) => Err(Some(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoetrope_moderation::judge::Scores;
    use zoetrope_protocol::id::JobId;
    use zoetrope_protocol::moderation::{Audience, Category};

    /// The built-in policy without nets, with these words of it changed.
    fn engine(from: &str, to: &str) -> Engine {
        let text = include_str!("../../../configs/policy.toml")
            .replace("similarity = true", "similarity = false")
            .replace("classifier = \"nets\"", "classifier = \"card\"");
        let rules = include_str!("../../../configs/policy/rules.toml");
        assert!(text.contains(from) || rules.contains(from));
        let policy = Policy::of_texts(&text.replace(from, to), &rules.replace(from, to), "");
        Engine::load(Arc::new(policy.expect("a policy")), Path::new("none")).expect("needs no nets")
    }

    /// Promise: words that were read once are not read again for other thresholds, and are where something else changed.
    #[test]
    fn scores_are_kept_for_other_thresholds() {
        const DEFAULT: &str = "all = { review = 0.70, block = 0.75 }";
        let (old, now) = (engine("", ""), engine(DEFAULT, "all = { review = 0.50, block = 0.60 }"));
        let other = engine("[lists]\n", "[lists]\nnew = [\"kite\"]\n");
        // No words say so: only what was kept does.
        let scores = Scores::from([(Category::Violence, 6_500)]);
        let kept = judge::text(old.policy(), Audience::All, &scores);
        assert_eq!(kept.outcome, Outcome::Pass);
        let item = RescanItem {
            job: JobId(1),
            audience: Audience::All,
            words: vec!["a kite over a field".to_owned()],
            input: Some(kept),
            record: None,
        };
        assert!(judge(&old, item.clone(), None).expect("judged").is_none());
        let failing = judge(&now, item.clone(), None).expect("judged").expect("it fails now");
        assert_eq!(failing.verdict.categories, [Category::Violence]);
        assert_eq!(failing.verdict.policy, now.policy().version);
        assert!(judge(&other, item, None).expect("judged").is_none(), "read anew");
    }
}
