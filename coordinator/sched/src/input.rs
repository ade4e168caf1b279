//! Everything that can happen. Journalled before anything that follows from it leaves the process; the order of variants and fields is the
//! journal's format, so they are appended, never reordered.

use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::{Epoch, Fence, JobId, Millis, ModelId, ShardId, TenantId, WorkerId};
use zoetrope_protocol::job::{ArtifactRef, Cause, Class, Stage};
use zoetrope_protocol::wire::{DrainKind, Held, Identity};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A leader took over (also after each restart). All workers are unconnected until they say hello; their
    /// running attempts are kept for a grace time, then placed elsewhere.
    EpochBegan {
        /// Greater than every epoch before.
        epoch: Epoch,
    },
    /// A model is in the coordinator's table. Repeating it changes nothing. As long as jobs are on their way through another
    /// chain that one stays, with this name and what its stages need now.
    ModelSet {
        /// Its number.
        model: ModelId,
        /// Its name, for `why`.
        name: String,
        /// Its stages in order, with the device memory that each needs.
        chain: Vec<StageNeed>,
    },
    /// A tenant's share and limits; also changes them.
    TenantSet {
        /// The tenant.
        tenant: TenantId,
        /// What the operator set.
        policy: TenantPolicy,
    },
    /// A job was admitted.
    Submitted {
        /// The job.
        job: JobId,
        /// What the core must know of it.
        ask: Ask,
    },
    /// The job is to end: its caller cancelled or deleted it, or it can never succeed.
    EndAsked {
        /// The job.
        job: JobId,
        /// Why.
        why: EndWhy,
    },
    /// A worker said hello.
    WorkerJoined {
        /// Its number: greater than every number before.
        worker: WorkerId,
        /// Who it is. An older worker of the same node and boot is replaced by it and its attempts move over if
        /// held; one of the same node and another boot is lost.
        identity: Identity,
        /// What it can do.
        capacity: Capacity,
        /// Attempts that it still holds.
        held: Vec<Held>,
    },
    /// The link's verdict: the worker is gone or silent.
    WorkerLost {
        /// The worker.
        worker: WorkerId,
        /// How it was noticed.
        how: LostHow,
    },
    /// The worker's last word: it holds nothing any more.
    WorkerLeft {
        /// The worker.
        worker: WorkerId,
    },
    /// An operator, or the worker itself, wants the worker emptied.
    DrainAsked {
        /// The worker.
        worker: WorkerId,
        /// How.
        drain: DrainKind,
    },
    /// An operator stops (or lets again) new work to a worker.
    CordonSet {
        /// The worker.
        worker: WorkerId,
        /// Whether it is cordoned.
        cordoned: bool,
    },
    /// An artifact of an attempt is safe in the store.
    ArtifactStored {
        /// Who sent it.
        worker: WorkerId,
        /// Which attempt made it.
        held: Held,
        /// What it is.
        artifact: ArtifactRef,
    },
    /// The attempt made its last artifact; all of `outputs` are safe in the store.
    ShardFinished {
        /// Who says so.
        worker: WorkerId,
        /// The attempt.
        held: Held,
        /// What it made.
        outputs: Vec<ArtifactRef>,
        /// Time on the gpu thread.
        gpu: Millis,
    },
    /// The attempt ended without its last artifact.
    ShardFailed {
        /// Who says so.
        worker: WorkerId,
        /// The attempt.
        held: Held,
        /// Why.
        cause: Cause,
        /// Time on the gpu thread.
        gpu: Millis,
    },
    /// The link's verdict on a running attempt: no progress within the stall limit.
    Stalled {
        /// The worker.
        worker: WorkerId,
        /// The attempt.
        held: Held,
    },
    /// The job's clip can be read by its caller.
    Published {
        /// The job.
        job: JobId,
    },
    /// The clip could not be published: a proof is missing or the store refused.
    PublishFailed {
        /// The job.
        job: JobId,
        /// Why: `DependencyDown` is tried again; of `CheckFailed` and `ArtifactMissing` the clip is made again; all else
        /// ends the job.
        cause: Cause,
    },
    /// A stored artifact turned out to be gone or damaged.
    ArtifactGone {
        /// The job that needed it.
        job: JobId,
        /// Which one.
        artifact: ArtifactRef,
    },
    /// Time passed: the moment that `next_wakeup` named is here.
    TimePassed,
    /// An operator wants the job to go on elsewhere, and what it failed so far to be forgotten. A denoising shard
    /// leaves its worker after the step in hand; any other ends where it runs, and the next one moves.
    MoveAsked {
        /// The job.
        job: JobId,
        /// The worker that is to go on with it; any other than its present one if none is named.
        to: Option<WorkerId>,
    },
    /// How long verdicts are waited for, as the operator's settings make it ([`verdict_grace`]). Repeating it changes
    /// nothing.
    ///
    /// [`verdict_grace`]: crate::Config::verdict_grace
    VerdictGraceSet {
        /// From a hard limit on.
        grace: Millis,
    },
}

/// What one stage of a model needs of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageNeed {
    /// The stage.
    pub stage: Stage,
    /// Device memory, in bytes.
    pub vram_bytes: u64,
}

/// A tenant's share and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantPolicy {
    /// Share of the GPU time, 1 to 1,000.
    pub weight: u32,
    /// Shards that may run at one time; above it jobs wait.
    pub running_max: u32,
}

/// What the core must know of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its class.
    pub class: Class,
    /// The model.
    pub model: ModelId,
    /// Denoising steps.
    pub steps: u32,
    /// Expected GPU time of each stage of the model's chain, in its order.
    pub expected: Vec<Millis>,
    /// The moment by which the caller needs it. A tie-break, and the job's end when it has passed.
    pub deadline: Option<Millis>,
    /// The expected times are measured, so a result in a fraction of them is suspect.
    pub learned: bool,
    /// How its decode is cut, for models with a stage of their own for that.
    pub decode: Decode,
}

/// How the decode of a clip is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decode {
    /// Decode chunks of the clip; 0 where that is not known.
    pub chunks: u16,
    /// Shards that they are spread over, at most as many as chunks; 0 is one.
    pub shards: u16,
}

/// Why a job is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EndWhy {
    /// Its caller cancelled it.
    Cancelled,
    /// Its caller deleted it.
    Deleted,
    /// Its prompt, media or clip was blocked.
    Blocked,
    /// Nobody could judge its prompt or media for too long.
    Unmoderated,
}

/// What a worker can be given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Device memory, in bytes.
    pub vram_bytes: u64,
    /// Models on its disk, with the stages that it may be given.
    pub serves: Vec<(ModelId, Vec<Stage>)>,
    /// The host that it runs on, as long as that runs; empty if nobody knows.
    pub machine: String,
}

/// How the loss of a worker was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LostHow {
    /// No frame for the loss limit.
    Silence,
    /// The connection ended.
    Closed,
}

/// One attempt's number and place, for views.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The shard.
    pub shard: ShardId,
    /// The attempt's fence.
    pub fence: Fence,
    /// Where it runs.
    pub worker: WorkerId,
}
