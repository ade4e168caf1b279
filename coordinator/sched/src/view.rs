//! What may be seen of the core: plain copies for views, metrics and operators. Decides nothing.

use crate::input::{Placed, TenantPolicy};
use crate::output::JobState;
use serde::{Deserialize, Serialize};
use std::fmt;
use zoetrope_protocol::id::{JobId, Millis, ModelId, TenantId, WorkerId};
use zoetrope_protocol::job::{ArtifactRef, Class, Stage};
use zoetrope_protocol::wire::Identity;

/// How a worker stands. The first that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WorkerState {
    /// Its connection ended with the last epoch; it may still return and keep its attempt.
    Away,
    /// It is being emptied.
    Draining,
    /// In quarantine for at least one kind.
    Quarantined,
    /// An operator lets it have no new work.
    Cordoned,
    /// It runs an attempt, or is stopping one.
    Busy,
    /// It waits for work.
    Idle,
}

impl WorkerState {
    /// All states.
    pub const ALL: [WorkerState; 6] = [
        WorkerState::Away,
        WorkerState::Draining,
        WorkerState::Quarantined,
        WorkerState::Cordoned,
        WorkerState::Busy,
        WorkerState::Idle,
    ];

    /// The word for it in metrics and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            WorkerState::Away => "away",
            WorkerState::Draining => "draining",
            WorkerState::Quarantined => "quarantined",
            WorkerState::Cordoned => "cordoned",
            WorkerState::Busy => "busy",
            WorkerState::Idle => "idle",
        }
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A worker gets no shards of a kind until a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineView {
    /// The model.
    pub model: ModelId,
    /// The stage.
    pub stage: Stage,
    /// Until when.
    pub until: Millis,
}

/// What may be seen of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its number.
    pub worker: WorkerId,
    /// Who it is.
    pub identity: Identity,
    /// How it stands.
    pub state: WorkerState,
    /// Whether an operator cordoned it (also while it is in another state).
    pub cordoned: bool,
    /// Device memory, in bytes.
    pub vram_bytes: u64,
    /// What it runs.
    pub running: Option<Placed>,
    /// Since when it runs that.
    pub since: Option<Millis>,
    /// The kinds that it is in quarantine for.
    pub quarantines: Vec<QuarantineView>,
}

/// What may be seen of an unfinished job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// The job.
    pub job: JobId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its class.
    pub class: Class,
    /// Its model.
    pub model: ModelId,
    /// Where it stands: `Queued` or `InProgress`, for an ended job is no longer in the core.
    pub state: JobState,
    /// The stage that runs or comes next; the last one while it is being published.
    pub stage: Stage,
    /// Whether all stages are done and only `Published` is missing.
    pub publishing: bool,
    /// When it was admitted.
    pub submitted: Millis,
    /// The moment by which the caller needs it.
    pub deadline: Option<Millis>,
    /// Its running attempt; of several the first.
    pub placed: Option<Placed>,
    /// Its newest artifacts: prompt, newest latents, or the finished outputs.
    pub artifacts: Vec<ArtifactRef>,
    /// Attempts made so far, of all stages; those of parts that are under way are left out.
    pub attempts: u32,
}

/// What may be seen of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantView {
    /// The tenant.
    pub tenant: TenantId,
    /// What the operator set.
    pub policy: TenantPolicy,
    /// Unfinished jobs that never began.
    pub queued: u32,
    /// All unfinished jobs.
    pub unfinished: u32,
    /// Running attempts, and those that are being stopped.
    pub running: u32,
}

/// How an unfinished job stands, for gauges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum JobPhase {
    /// Nothing of it was placed yet.
    Queued,
    /// A shard of it was placed, and not all stages are done.
    InProgress,
    /// All stages are done; it waits for `Published`.
    Publishing,
}

impl JobPhase {
    /// All phases, in the order of [`Counts::jobs`].
    pub const ALL: [JobPhase; 3] = [JobPhase::Queued, JobPhase::InProgress, JobPhase::Publishing];

    /// The word for it in metrics.
    pub fn word(self) -> &'static str {
        match self {
            JobPhase::Queued => "queued",
            JobPhase::InProgress => "in_progress",
            JobPhase::Publishing => "publishing",
        }
    }
}

/// How the current shard of a job stands, for gauges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ShardPhase {
    /// It could run now, if a worker were free for it.
    Ready,
    /// It waits for a dependency that is down.
    BackingOff,
    /// It runs.
    Running,
}

impl ShardPhase {
    /// All phases, in the order of [`Counts::shards`].
    pub const ALL: [ShardPhase; 3] =
        [ShardPhase::Ready, ShardPhase::BackingOff, ShardPhase::Running];

    /// The word for it in metrics.
    pub fn word(self) -> &'static str {
        match self {
            ShardPhase::Ready => "ready",
            ShardPhase::BackingOff => "backing_off",
            ShardPhase::Running => "running",
        }
    }
}

/// How many there are, for gauges. Kept step by step, so asking costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Unfinished jobs: `[class][phase]`, in the order of `Class::ALL` and [`JobPhase::ALL`].
    pub jobs: [[u64; 3]; 3],
    /// Current shards: `[stage][phase]`, in the order of `Stage::ALL` and [`ShardPhase::ALL`].
    pub shards: [[u64; 3]; 4],
    /// Expected GPU time of what waits, all stages to come: what an autoscaler feeds on.
    pub backlog: Millis,
}

/// What a job adds to the gauges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gauges {
    pub class: Class,
    /// The class that it is served in.
    pub rank: Class,
    /// It is a part of a job, which counts itself.
    pub part: bool,
    pub phase: JobPhase,
    /// Its current shard, unless all stages are done.
    pub shard: Option<(Stage, ShardPhase)>,
    /// Expected GPU time of what waits.
    pub backlog: u64,
    /// Whether anything of it was placed.
    pub begun: bool,
    /// Expected GPU time of the current shard and of all that follow.
    pub work: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, of: &Gauges) {
        self.jobs[of.class as usize][of.phase as usize] += u64::from(!of.part);
        if let Some((stage, phase)) = of.shard {
            self.shards[stage as usize][phase as usize] += 1;
        }
        self.backlog.0 += of.backlog;
    }

    pub(crate) fn take(&mut self, of: &Gauges) {
        self.jobs[of.class as usize][of.phase as usize] -= u64::from(!of.part);
        if let Some((stage, phase)) = of.shard {
            self.shards[stage as usize][phase as usize] -= 1;
        }
        self.backlog.0 -= of.backlog;
    }

    /// Unfinished jobs of a class in a phase.
    pub fn jobs_in(&self, class: Class, phase: JobPhase) -> u64 {
        self.jobs[class as usize][phase as usize]
    }

    /// Current shards of a stage in a phase.
    pub fn shards_in(&self, stage: Stage, phase: ShardPhase) -> u64 {
        self.shards[stage as usize][phase as usize]
    }

    /// All unfinished jobs.
    pub fn unfinished(&self) -> u64 {
        self.jobs.iter().flatten().sum()
    }

    /// All jobs that never began.
    pub fn queued(&self) -> u64 {
        self.jobs.iter().map(|phases| phases[JobPhase::Queued as usize]).sum()
    }
}
