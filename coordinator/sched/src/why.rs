//! Why a job waits, in words: for each unfinished shard the first reason that holds. Decides nothing.

use crate::view::JobPhase;
use serde::{Deserialize, Serialize};
use std::fmt;
use zoetrope_protocol::id::{JobId, Millis, ShardId};

/// Why a shard does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    /// It runs.
    Running,
    /// All stages are done; the clip is being checked and published.
    Publishing,
    /// Placing of its kind is paused: too many workers fail it.
    Paused,
    /// An earlier stage is not done.
    Upstream,
    /// It failed on every worker that fits, and may be tried again in a while.
    BackingOff,
    /// A store or sidecar does not answer.
    DependencyDown,
    /// Its tenant runs as many shards as it may.
    Quota,
    /// No connected worker serves its model and stage.
    NoWorker,
    /// No worker that serves it has enough device memory.
    NoVram,
    /// All workers that fit drain, are cordoned or in quarantine.
    WorkersLeaving,
    /// Jobs of a higher class go first.
    ClassTurn,
    /// Another tenant's turn comes first.
    TenantTurn,
    /// All workers that fit are busy.
    WorkersBusy,
}

impl Reason {
    /// The word for it in metrics and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Running => "running",
            Reason::Publishing => "publishing",
            Reason::Paused => "paused",
            Reason::Upstream => "upstream",
            Reason::BackingOff => "backing_off",
            Reason::DependencyDown => "dependency_down",
            Reason::Quota => "quota",
            Reason::NoWorker => "no_worker",
            Reason::NoVram => "no_vram",
            Reason::WorkersLeaving => "workers_leaving",
            Reason::ClassTurn => "class_turn",
            Reason::TenantTurn => "tenant_turn",
            Reason::WorkersBusy => "workers_busy",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Who {
    /// Nobody has to: it passes.
    Nobody,
    /// The caller.
    Caller,
    /// The operator.
    Operator,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Who::Nobody => "nobody has to act",
            Who::Caller => "the caller can act",
            Who::Operator => "the operator can act",
        })
    }
}

/// Why one shard stands as it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardWhy {
    /// The shard.
    pub shard: ShardId,
    /// The first reason that holds.
    pub reason: Reason,
    /// Since when the shard stands so (ready, running, backing off); the reason itself may have changed since.
    pub since: Millis,
    /// What would free it: a sentence.
    pub frees: String,
    /// Who can act.
    pub who: Who,
}

/// Why a job stands as it does. `Display` is the text that an operator reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The job.
    pub job: JobId,
    /// How it stands.
    pub phase: JobPhase,
    /// The moment of asking.
    pub now: Millis,
    /// Its unfinished shards, in the order of the work.
    pub shards: Vec<ShardWhy>,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} is {}", self.job, self.phase.word())?;
        for shard in &self.shards {
            let (stage, index) = (shard.shard.stage, shard.shard.index);
            let cut = self.shards.iter().any(|s| s.shard.stage == stage && s.shard.index > 0);
            let number = if cut { format!(" {index}") } else { String::new() };
            let since = self.now.minus(shard.since).seconds();
            let ShardWhy { reason, frees, who, .. } = shard;
            writeln!(f, "  {stage}{number}: {reason} for {since} s; {frees} ({who})")?;
        }
        Ok(())
    }
}
