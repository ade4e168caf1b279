//! The door's view of the farm: what HTTP handlers may ask, and what they get.
//!
//! Handlers hold a [`Farm`] and nothing else of the actors. Every call has a timeout; a farm that does not
//! answer is an [`Unavailable`], which the door turns into 503. Nothing here decides anything.

use crate::dispatch::shares::{OpenShare, Shared};
use crate::fsck::Listed;
use crate::jobs::rescan::Left;
use crate::jobs::shares::{Read, Variant};
use crate::jobs::{
    Asset, History, JobView, ListQuery, Page, Rescan, RescanOrder, Share, ShareId, Submission,
};
use bytes::Bytes;
use futures::stream::BoxStream;
use ractor::{ActorRef, RpcReplyPort};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use zoetrope_protocol::id::{ArtifactId, JobId, Millis, TenantId, WorkerId};
use zoetrope_protocol::job::ExpiresAfter;
use zoetrope_protocol::moderation::Audience;
use zoetrope_protocol::provenance::Proofs;
use zoetrope_protocol::wire::DrainKind;

/// The longest that a handler waits for the farm: a durable submit takes some ten milliseconds, so a farm that
/// needs longer than this is stuck, and the caller is better off trying again.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// What may be asked of the dispatch actor from outside.
pub enum FarmMsg {
    /// Admit a job, whose clip is for this audience; answered when it is durable.
    Submit(Box<Submission>, Audience, RpcReplyPort<Result<JobView, SubmitRefused>>),
    /// One job of a tenant, unless deleted.
    Read(TenantId, JobId, RpcReplyPort<Option<JobView>>),
    /// A page of a tenant's jobs.
    List(TenantId, ListQuery, RpcReplyPort<Result<Page, NoSuchCursor>>),
    /// End a job; answered when its terminal state is durable.
    Cancel(TenantId, JobId, RpcReplyPort<Result<JobView, CancelRefused>>),
    /// Cancel if unfinished, then hide it for ever; answered when that is durable. `false`: no such job.
    Delete(TenantId, JobId, RpcReplyPort<bool>),
    /// The job that a request with this idempotency key made in the last 24 h, also one that was deleted since.
    FindKeyed([u8; 32], RpcReplyPort<Option<JobView>>),
    /// For a resent request without idempotency key: the newest job of the last 120 s with this content hash.
    FindResent(TenantId, [u8; 32], RpcReplyPort<Option<JobView>>),
    /// What a tenant's video was published with; none if it is not published.
    Proofs(TenantId, JobId, RpcReplyPort<Option<Proofs>>),
    /// Make a share link to a tenant's video; answered when it is durable.
    Share(TenantId, JobId, NewShare, RpcReplyPort<Shared>),
    /// The share links of a tenant's video; none if there is no such video.
    Shares(TenantId, JobId, RpcReplyPort<Option<Vec<Share>>>),
    /// Revoke a share link; answered when that is durable. None: no such link.
    Unshare(TenantId, JobId, ShareId, RpcReplyPort<Option<Share>>),
    /// Follow a share link to one of its files, the first unless named. A download that counts is durable before the
    /// answer.
    OpenShare(ShareId, Option<Variant>, Read, RpcReplyPort<OpenShare>),
    /// So many jobs behind this one, in the order of their ids, with what the store must have of them.
    Listed(Option<JobId>, usize, RpcReplyPort<Vec<Listed>>),
    /// The same of one job.
    ListedOne(JobId, RpcReplyPort<Option<Listed>>),
    /// Which of these jobs must not have a pointer.
    PointerStale(Vec<JobId>, RpcReplyPort<Vec<JobId>>),
    /// Whether there is a job among these that the journal does not know.
    PointerUnknown(Vec<JobId>, RpcReplyPort<bool>),
    /// Which of these artifacts no job uses and nobody is about to delete.
    Unused(Vec<ArtifactId>, RpcReplyPort<Vec<ArtifactId>>),
    /// The job whose clip carries this mark, of whichever tenant; none that was deleted.
    Marked(u32, RpcReplyPort<Option<(TenantId, JobView)>>),
    /// The first serial of a mark that was not issued.
    MarksIssued(RpcReplyPort<u32>),
    /// Why a job waits, or how it has ended, in words; none if there is no such job. `None` as tenant: any tenant's.
    Why(Option<TenantId>, JobId, RpcReplyPort<Option<String>>),
    /// One job of any tenant with its history, for operators; none if there is no such job.
    History(JobId, RpcReplyPort<Option<(JobView, History)>>),
    /// Whether the farm answers: nothing is looked up.
    Ready(RpcReplyPort<()>),
    /// All workers, for operators.
    Workers(RpcReplyPort<Vec<WorkerRow>>),
    /// Drain workers, by number or node name: all at once, so that work of one does not go to the next. None if one of
    /// them is not there.
    Drain(Vec<String>, DrainKind, RpcReplyPort<Result<(), NoSuchWorker>>),
    /// Stop (or allow again) new work to a worker; `false`: no such worker.
    Cordon(String, bool, RpcReplyPort<bool>),
    /// Let a job go on elsewhere: on this worker (by number or node name), or on any but its present one; answered
    /// when it is durable.
    Move(JobId, Option<String>, RpcReplyPort<Result<(), MoveRefused>>),
    /// Jobs of all tenants, newest first, for operators.
    AllJobs(ListQuery, RpcReplyPort<Result<Page, NoSuchCursor>>),
    /// Have everything stored judged anew; answered when that is durable.
    Rescan(Box<RescanOrder>, RpcReplyPort<Result<Rescan, RescanRefused>>),
    /// End the rescan.
    RescanCancel(RpcReplyPort<Result<Rescan, RescanRefused>>),
    /// The rescan that goes on or the last one, and what it has not judged.
    RescanView(RpcReplyPort<Option<(Rescan, Left)>>),
    /// A new join token for so many workers, good for so long; answered when it is durable.
    JoinToken {
        /// How many workers may join with it, 1 to 1,000.
        uses: u32,
        /// How long it is good, at most 24 h.
        ttl: Millis,
        /// The token's text.
        reply: RpcReplyPort<String>,
    },
}

/// A share link that is wished for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewShare {
    /// Random, chosen at the door.
    pub id: ShareId,
    /// What it reaches; at least one.
    pub variants: Vec<Variant>,
    /// For whom; none: for whom the clip was judged.
    pub audience: Option<Audience>,
    /// When it closes; none: with the clip.
    pub expires_after: Option<ExpiresAfter>,
    /// Downloads that it allows; none: any number.
    pub downloads_max: Option<u32>,
    /// Hashes of the request and of its idempotency key, if it had one.
    pub request: Option<([u8; 32], [u8; 32])>,
}

/// A share link that was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShareRefused {
    /// The tenant has no such video.
    NoSuchVideo,
    /// Its files cannot be read.
    Unreadable(Box<JobView>),
    /// The clip was judged for a laxer audience, this one.
    JudgedFor(Audience),
    /// The video has as many open ones as it may.
    TooMany,
    /// The same idempotency key was used with other content.
    KeyReused,
}

/// A submit that was not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmitRefused {
    /// The tenant's queue is full.
    TenantQueueFull {
        /// After so many seconds there is probably room for one more.
        seconds: u32,
    },
    /// The farm's queue is full, or its journal is behind.
    FarmQueueFull {
        /// The same.
        seconds: u32,
    },
    /// The same idempotency key was used with other content.
    KeyReused,
    /// A request with this key is a job already: this one. Its first answer is to be repeated.
    Replay(Box<JobView>),
    /// The estimate is after the job's deadline.
    DeadlineInfeasible,
}

/// A job that cannot be cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelRefused {
    /// The tenant has no such job.
    NoSuchJob,
    /// It has ended already.
    Terminal(Box<JobView>),
}

/// A job that cannot be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveRefused {
    /// No such job.
    NoSuchJob,
    /// The named worker is not connected.
    NoSuchWorker,
    /// It has not begun, is on that worker already, is being published, or has ended.
    NothingToMove,
}

/// A worker of this name is not connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSuchWorker(pub String);

/// A rescan that cannot begin, or that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RescanRefused {
    /// One goes on.
    Running,
    /// There was none.
    None,
}

/// A page was asked for behind an id that the tenant never had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchCursor;

/// The farm did not answer in time, or is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the farm does not answer")]
pub struct Unavailable;

/// A worker as operators see it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct WorkerRow {
    /// Its number.
    pub worker: WorkerId,
    /// Its node name.
    pub node: String,
    /// Its pool.
    pub pool: String,
    /// What it serves.
    pub gpu_kind: String,
    /// draining, quarantined, cordoned, busy or idle.
    pub state: String,
    /// Models that it has.
    pub models: Vec<String>,
    /// The shard that runs there, as text.
    pub running: Option<String>,
    /// How far that is: `denoising 3/6`.
    pub progress: Option<String>,
}

/// Reads published bytes. Implemented by the storage sidecar's store; a fake in tests.
pub trait AssetReader: Send + Sync {
    /// Streams `range` of a published asset. The error is for the log; callers see 500. `NotFound`: it is lost; `InvalidData`:
    /// it is not what was published.
    fn read(
        &self,
        asset: &Asset,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, std::io::Error>>;
}

/// What HTTP handlers hold.
#[derive(Clone)]
pub struct Farm {
    /// The dispatch actor.
    pub dispatch: ActorRef<crate::dispatch::DispatchMsg>,
    /// Where published bytes are read.
    pub assets: Arc<dyn AssetReader>,
}

impl Farm {
    /// Asks and waits at most [`ASK_TIMEOUT`].
    ///
    /// # Errors
    /// `Unavailable` if there is no answer in time or no actor any more.
    pub async fn ask<T: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<T>) -> FarmMsg + Send,
    ) -> Result<T, Unavailable> {
        let wrap = |reply| crate::dispatch::DispatchMsg::Farm(message(reply));
        match self.dispatch.call(wrap, Some(ASK_TIMEOUT)).await {
            Ok(ractor::rpc::CallResult::Success(answer)) => Ok(answer),
            _ => Err(Unavailable),
        }
    }
}
