//! Judging what is stored anew, in batches, by a policy that may be another than that of now. Takes nothing down: the
//! dispatch actor does.

use super::{ClipFault, Desk, RescanItem, Unjudged, fetch};
use crate::jobs::rescan::{Batch, Failing, PolicyTexts};
use crate::store::Store;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use zoetrope_moderation::{Engine, EngineError, Policy};
use zoetrope_protocol::id::Millis;
use zoetrope_protocol::moderation::Outcome;

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

/// Judges one after the other, on one thread, so that jobs that wait for a verdict have the rest of the machine.
///
/// An error means that nothing can be judged now. A clip without evidence is not judged, and said to be so.
pub(super) async fn judge_anew(
    engine: &Arc<Engine>,
    store: &Store,
    items: Vec<RescanItem>,
) -> Result<Batch, String> {
    let mut batch = Batch::default();
    for item in items {
        let job = item.job;
        let record = match item.record {
            None => None,
            Some(None) => Some(None),
            Some(Some((record, asked))) => match fetch(store, record).await {
                Ok(record) => Some(Some((record, asked))),
                Err(ClipFault::NoEvidence) => Some(None),
                Err(ClipFault::Down) => return Err(format!("the record of {job} cannot be read")),
            },
        };
        let (engine, audience, words) = (engine.clone(), item.audience, item.words);
        let judge = move || -> Result<Option<Failing>, Option<EngineError>> {
            let texts: Vec<&str> = words.iter().map(String::as_str).collect();
            let verdict = match engine.judge_texts(&texts, audience) {
                // By another policy its words may hide more: nobody can judge it, however often it is tried.
                Err(EngineError::TooLong(_)) => return Err(None),
                judged => judged.map_err(Some)?,
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
        };
        let judged = tokio::task::spawn_blocking(judge).await.map_err(|error| error.to_string())?;
        match judged {
            Ok(None) => batch.passed += 1,
            Ok(Some(failing)) => batch.failing.push(failing),
            Err(None) => batch.unjudged.push(job),
            Err(Some(error)) => return Err(error.to_string()),
        }
    }
    Ok(batch)
}
