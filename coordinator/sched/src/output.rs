//! Everything that the core may cause. Carried out once the input behind it is on disk.

use crate::input::{EndWhy, LostHow};
use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::{Fence, JobId, Millis, ModelId, ShardId, WorkerId};
use zoetrope_protocol::job::{ArtifactRef, Cause, Stage};
use zoetrope_protocol::wire::{DrainKind, Held, Kept, StopWhen};
use zoetrope_protocol::words;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Answer a worker's hello: its held attempts of `keep` go on, all others are dropped.
    Welcome {
        /// The worker.
        worker: WorkerId,
        /// What it goes on with.
        keep: Vec<Kept>,
    },
    /// Give a worker an order.
    Assign {
        /// To whom.
        worker: WorkerId,
        /// The shard.
        shard: ShardId,
        /// The attempt.
        fence: Fence,
        /// Inputs: for `Denoise` the prompt, and the newest latents if there are some; for `Decode` the latents, and
        /// its segments that are there already; for `Finish` the latents, or all segments.
        inputs: Vec<ArtifactRef>,
        /// The worker ends the attempt itself after this time.
        hard_limit: Millis,
        /// Into how many shards the stage of this job is cut.
        shards: u16,
        /// Whether the worker has loaded what it needs for it.
        affinity: Affinity,
    },
    /// End an attempt. Also sent for attempts that the core has replaced.
    Stop {
        /// Where.
        worker: WorkerId,
        /// The attempt.
        held: Held,
        /// How soon.
        when: StopWhen,
    },
    /// Tell a worker to take no more orders and leave.
    Drain {
        /// The worker.
        worker: WorkerId,
        /// How.
        drain: DrainKind,
    },
    /// All stages are done: check the proofs and publish. Repeated after a restart until `Published`.
    Publish {
        /// The job.
        job: JobId,
        /// The finish attempt whose clip it is.
        fence: Fence,
        /// Clip, thumbnail, spritesheet.
        outputs: Vec<ArtifactRef>,
    },
    /// The job's state changed. States move forward only.
    JobMoved {
        /// The job.
        job: JobId,
        /// Its new state.
        state: JobState,
    },
    /// A stage of the job began on a worker (again, perhaps).
    StageBegan {
        /// The job.
        job: JobId,
        /// The stage.
        stage: Stage,
        /// Where.
        worker: WorkerId,
    },
    /// An attempt ended. For metrics and history.
    AttemptEnded {
        /// The attempt.
        held: Held,
        /// Where it ran.
        worker: WorkerId,
        /// Why it ended; none when it made its artifact.
        cause: Option<Cause>,
        /// Time on the gpu thread as its worker reported it; without a report, the time that the attempt lasted.
        gpu: Millis,
    },
    /// No unfinished job needs these artifacts any more.
    Forget {
        /// The job that they were of.
        job: JobId,
        /// Which ones.
        artifacts: Vec<ArtifactRef>,
    },
    /// A worker gets no more shards of a kind until a moment.
    Quarantined {
        /// The worker.
        worker: WorkerId,
        /// The model.
        model: ModelId,
        /// The stage.
        stage: Stage,
        /// Until when.
        until: Millis,
    },
    /// A worker is gone for the core: lost, replaced by a new boot, or left.
    WorkerGone {
        /// The worker.
        worker: WorkerId,
        /// How it went.
        how: GoneHow,
    },
    /// An attempt takes far longer than expected. Nothing is done about it before its hard limit.
    Slow {
        /// The attempt.
        held: Held,
        /// Where it runs.
        worker: WorkerId,
    },
    /// The input was late or senseless and changed nothing: why.
    Ignored {
        /// A short fixed sentence.
        why: Ignored,
    },
}

words! {
    /// What a worker that gets a shard ran before.
    #[derive(Serialize, Deserialize)]
    Affinity {
        /// The same stage of the same model, so its weights are loaded.
        Hot = "hot",
        /// Something else, or nothing: it loads them first.
        Load = "load",
    }
}

/// How a worker went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GoneHow {
    /// It was lost, as its link noticed.
    Lost(LostHow),
    /// It did not return after the start of an epoch.
    NotBack,
    /// Its node was started anew.
    NewBoot,
    /// It said goodbye.
    Left,
    /// Another connection of the same boot took its place, or was there before it.
    Replaced,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum JobState {
    /// Nothing of it was placed yet.
    Queued,
    /// A shard of it was placed.
    InProgress,
    /// Published.
    Completed,
    /// Ended without a clip.
    Failed(FailWhy),
}

/// Why a job ended without a clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FailWhy {
    /// From outside.
    Ended(EndWhy),
    /// Its deadline passed.
    DeadlineExceeded,
    /// Its shards failed too often; the last cause.
    Poison(Cause),
    /// It could not be published.
    NotPublished(Cause),
    /// It is older than any job may be.
    TooOld,
}

/// Why an input changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ignored {
    /// The job is unknown or has ended.
    NoSuchJob,
    /// The job exists already.
    JobExists,
    /// The worker is unknown or gone.
    NoSuchWorker,
    /// The report's fence is not that of the running attempt.
    StaleFence,
    /// The epoch is not greater than the current one.
    OldEpoch,
    /// The model is not in the table.
    NoSuchModel,
    /// The tenant is unknown.
    NoSuchTenant,
    /// Nothing changed by it.
    NothingToDo,
    /// It contradicts itself or the tables: a chain without stages, a clip from a `Denoise` shard.
    Senseless,
}
