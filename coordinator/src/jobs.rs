//! What the farm remembers of each job: the read model behind the API.
//!
//! Built from journalled inputs and the core's outputs alone, so a replay builds it again. It decides nothing:
//! the core does.

pub mod history;
mod leaving;
pub mod marks;
pub mod moderation;
pub mod proofs;
pub mod rescan;
pub mod retention;
pub mod row;
pub mod shares;
pub mod table;

pub use history::{ArtifactRecord, AttemptRecord, History};
pub use marks::{MarkRows, MarkTable};
pub use moderation::{Moderation, ModerationTable};
pub use proofs::{ClipProofs, ProofTable};
pub use rescan::{Rescan, RescanOrder, RescanState};
pub use retention::Keep;
pub use row::JobRow;
pub use shares::{Share, ShareId, ShareTable};
pub use table::{JobTable, TableRows, WorkerFacts};

use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::{ArtifactId, JobId, Millis, TenantId};
use zoetrope_protocol::job::{JobSpec, Stage};
use zoetrope_protocol::wire::Phase;
use zoetrope_sched::output::JobState;

/// A request that passed the door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// Random, chosen at the door.
    pub job: JobId,
    /// What is asked.
    pub spec: JobSpec,
    /// SHA-256 over API key, path and decoded content: recognises a resent request.
    pub content: [u8; 32],
    /// SHA-256 of project, method, path and the caller's `Idempotency-Key`, if it sent one.
    pub idempotency: Option<[u8; 32]>,
}

/// One published file of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asset {
    /// Its content address (SHA-256).
    pub artifact: ArtifactId,
    /// Its size.
    pub bytes: u64,
}

/// The three files of a completed job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assets {
    /// MP4.
    pub video: Asset,
    /// WebP.
    pub thumbnail: Asset,
    /// JPEG.
    pub spritesheet: Asset,
    /// Columns of the spritesheet.
    pub sprite_columns: u32,
    /// Rows of the spritesheet.
    pub sprite_rows: u32,
}

impl Assets {
    /// The addresses of the three files.
    pub fn artifacts(&self) -> [ArtifactId; 3] {
        [self.video.artifact, self.thumbnail.artifact, self.spritesheet.artifact]
    }
}

/// All that the door may show of a job, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// The job.
    pub job: JobId,
    /// What was asked.
    pub spec: JobSpec,
    /// The content hash of the request that made it.
    pub content: [u8; 32],
    /// When it was admitted.
    pub created: Millis,
    /// Where it stands.
    pub state: JobState,
    /// When its first attempt was placed.
    pub in_progress: Option<Millis>,
    /// When it ended, completed or failed.
    pub ended: Option<Millis>,
    /// Whole percent, never decreasing; 100 exactly when completed.
    pub progress: u8,
    /// What is being done now: the phase and units of it; none while waiting and when terminal.
    pub phase: Option<PhaseView>,
    /// What the farm does with the finished clip; none before there is one, and when terminal.
    pub publication: Option<Publication>,
    /// Jobs ahead, while queued.
    pub queue_position: Option<u32>,
    /// Estimated first placement, while queued.
    pub estimated_start: Option<Millis>,
    /// Estimated publication, until terminal.
    pub estimated_completion: Option<Millis>,
    /// `model@sha256:…` of the weights that rendered it, once known.
    pub resolved_model: Option<String>,
    /// GPU time of all its attempts.
    pub gpu: Millis,
    /// Its files, exactly when completed.
    pub assets: Option<Assets>,
    /// When its files go, once completed.
    pub expires: Option<Millis>,
    /// When a rescan took it down: its files can be read no more.
    pub taken_down: Option<Millis>,
    /// What was judged of it.
    pub moderation: Moderation,
    /// Whether its words are still being judged.
    pub judging: bool,
}

/// Where a clip stands that is finished and not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Publication {
    /// It is being judged.
    Moderating,
    /// It passed; its proofs are taken, and its pointer is flipped.
    Publishing,
}

/// What a running job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseView {
    /// Of which stage's shard.
    pub stage: Stage,
    /// What.
    pub phase: Phase,
    /// Units done.
    pub done: u32,
    /// Units in all.
    pub total: u32,
}

/// Which jobs to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// Continue behind this job.
    pub after: Option<JobId>,
    /// At most so many, 0 to 100.
    pub limit: usize,
    /// Oldest first; otherwise newest first.
    pub ascending: bool,
}

/// A page of jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// Whether there are more behind them.
    pub has_more: bool,
}

/// The tenant of a view: shorthand for readers.
impl JobView {
    /// Whose job it is.
    pub fn tenant(&self) -> TenantId {
        self.spec.tenant
    }
}
