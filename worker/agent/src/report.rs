//! An attempt's name within its process, and how it ended.

use zoetrope_protocol::Millis;
use zoetrope_protocol::job::{ArtifactRef, Cause, ClipFacts};
use zoetrope_protocol::wire::{FromWorker, Held};

/// Names an attempt within this process. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptKey(pub u64);

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// All outputs are acknowledged.
    Finished {
        /// What it made.
        outputs: Vec<ArtifactRef>,
        /// Of a `Finish` shard.
        facts: Option<ClipFacts>,
        /// Time on the gpu thread, waiting left out.
        gpu: Millis,
    },
    /// There is no last artifact.
    Failed {
        /// Why.
        cause: Cause,
        /// For the operator.
        detail: String,
        /// Time on the gpu thread, waiting left out.
        gpu: Millis,
    },
}

impl Report {
    /// The frame that says it.
    pub fn frame(&self, held: Held) -> FromWorker {
        match self.clone() {
            Report::Finished { outputs, facts, gpu } => {
                FromWorker::Finished { held, outputs, facts, gpu }
            }
            Report::Failed { cause, detail, gpu } => {
                FromWorker::Failed { held, cause, detail, gpu }
            }
        }
    }
}
