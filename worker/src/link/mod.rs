//! The worker's link to the coordinator: dials, says what this worker is and holds, carries orders in and
//! reports out, and dials again for ever when the connection is lost.
//!
//! Owns the connection (nobody else keeps a handle), the table of attempts with their fences, and the
//! transfers. Never touches a tensor and decides nothing about jobs: it refuses what is of an older epoch and
//! otherwise does as it is told. Fed by its own reading tasks, by the gpu thread and by `WorkerRoot`.

pub mod claims;
pub mod dial;
pub mod stream;
pub mod tls;
pub mod transfer;

mod line;
mod state;

use crate::cache::ArtifactCache;
use crate::exit::ExitCode;
use crate::gpu::GpuMsg;
use crate::gpu::attempt::{AttemptKey, Report};
use crate::gpu::courier::{ClaimRequest, FetchRequest, StoreRequest};
use crate::metrics::Metrics;
use crate::root::RootMsg;
use dial::{DialError, Line};
use quinn::{ClientConfig, Endpoint, RecvStream};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent, async_trait};
use state::LinkState;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use stream::StreamError;
use tokio::sync::OwnedSemaphorePermit;
use transfer::{Patience, UploadId};
use zoetrope_protocol::wire::{
    ArtifactHeader, DrainKind, HEARTBEAT, LOSS_AFTER, Profile, ToWorker,
};
use zoetrope_protocol::{ArtifactId, Epoch, WorkerId};

/// Times of a link that tests shorten.
#[derive(Clone, Copy, Debug)]
pub struct LinkTimes {
    /// How often the state is looked over: progress goes out at most twice a second.
    pub tick: Duration,
    /// How often a heartbeat goes out.
    pub heartbeat: Duration,
    /// A coordinator that sent no frame for so long is lost.
    pub loss_after: Duration,
    /// An attempt that waits for bytes which move is told so often to go on: the farm takes one of which it hears nothing for
    /// `link.stall_seconds`, 120 unless configured otherwise, for stalled.
    pub moving: Duration,
    /// Of transfers.
    pub patience: Patience,
}

impl Default for LinkTimes {
    fn default() -> Self {
        LinkTimes {
            tick: Duration::from_millis(500),
            heartbeat: Duration::from_millis(HEARTBEAT.0),
            loss_after: Duration::from_millis(LOSS_AFTER.0),
            moving: Duration::from_secs(20),
            patience: Patience::default(),
        }
    }
}

/// What a link is told.
pub enum LinkMsg {
    /// Begin: dial, and give orders to this gpu.
    Start {
        /// The gpu.
        gpu: ActorRef<GpuMsg>,
    },
    /// A dialling task is done.
    Dialled {
        /// Which dial.
        session: u64,
        /// The connection, or why there is none.
        line: Result<Line, DialError>,
    },
    /// A frame came.
    Heard {
        /// On which connection.
        session: u64,
        /// What it says.
        frame: ToWorker,
        /// Bounds how many frames may wait here.
        permit: OwnedSemaphorePermit,
    },
    /// An artifact begins to arrive.
    Incoming {
        /// On which connection.
        session: u64,
        /// Which artifact.
        header: ArtifactHeader,
        /// Its bytes.
        stream: RecvStream,
    },
    /// A connection is over.
    Lost {
        /// Which.
        session: u64,
        /// Why.
        reason: String,
    },
    /// Time passed.
    Tick,
    /// The gpu thread took an attempt up.
    Began(AttemptKey),
    /// An artifact is to be stored.
    Store(StoreRequest),
    /// An artifact is needed.
    Fetch(FetchRequest),
    /// A clip's claim is to be signed.
    Claim(ClaimRequest),
    /// An upload's bytes were handed over, or not.
    Sent {
        /// On which connection.
        session: u64,
        /// Which upload.
        upload: UploadId,
        /// Whether.
        result: Result<(), StreamError>,
    },
    /// A fetched artifact is here, or not.
    Received {
        /// On which connection.
        session: u64,
        /// Which artifact.
        artifact: ArtifactId,
        /// The file that has it.
        result: Result<PathBuf, StreamError>,
    },
    /// An attempt ended on the gpu thread.
    Ended {
        /// Which.
        key: AttemptKey,
        /// How.
        report: Report,
    },
    /// The process is to end: take no more orders, finish as `kind` says, say so, and go.
    Leave {
        /// How soon.
        kind: DrainKind,
        /// What the process will end with.
        code: ExitCode,
    },
    /// All is said on this connection and it is closed.
    SaidGoodbye {
        /// Which.
        session: u64,
    },
    /// What an operator may see.
    Observe(RpcReplyPort<LinkView>),
}

/// What a link shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkView {
    /// Connections so far, this one included.
    pub session: u64,
    /// Whether the coordinator has welcomed this worker on a connection that lives.
    pub welcomed: bool,
    /// The number it was given.
    pub worker: Option<WorkerId>,
    /// The newest epoch seen.
    pub epoch: Epoch,
    /// Attempts that have not ended.
    pub live: usize,
    /// Unacknowledged bytes.
    pub spool_bytes: u64,
}

/// What a link is made of.
pub struct LinkArguments {
    /// Whom it serves.
    pub root: ActorRef<RootMsg>,
    /// `HOST:PORT`, or several of them separated by commas.
    pub coordinator: String,
    /// The node's name.
    pub node: String,
    /// Random, of this process.
    pub boot: u64,
    /// What this worker can do.
    pub profile: Profile,
    /// Socket; emulated workers of one process share it.
    pub endpoint: Endpoint,
    /// mTLS.
    pub config: ClientConfig,
    /// Where fetched artifacts arrive.
    pub cache: Arc<ArtifactCache>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// Shown by `/healthz`.
    pub linked: Arc<AtomicBool>,
    /// Times.
    pub times: LinkTimes,
}

/// The actor.
pub struct LinkActor;

#[async_trait]
impl Actor for LinkActor {
    type Msg = LinkMsg;
    type State = LinkState;
    type Arguments = LinkArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<LinkMsg>,
        arguments: LinkArguments,
    ) -> Result<LinkState, ActorProcessingErr> {
        Ok(LinkState::new(arguments))
    }

    async fn handle(
        &self,
        myself: ActorRef<LinkMsg>,
        msg: LinkMsg,
        state: &mut LinkState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            LinkMsg::Start { gpu } => state.start(&myself, gpu),
            LinkMsg::Dialled { session, line } => state.dialled(&myself, session, line),
            LinkMsg::Heard { session, frame, permit } => {
                state.heard(&myself, session, frame);
                drop(permit);
            }
            LinkMsg::Incoming { session, header, stream } => {
                state.incoming(&myself, session, header, stream);
            }
            LinkMsg::Lost { session, reason } => state.lost(&myself, session, &reason),
            LinkMsg::Tick => state.tick(&myself),
            LinkMsg::Began(key) => state.began(key),
            LinkMsg::Store(request) => state.store(&myself, request),
            LinkMsg::Fetch(request) => state.fetch(request),
            LinkMsg::Claim(request) => state.claim(request),
            LinkMsg::Sent { session, upload, result } => state.sent(session, upload, result),
            LinkMsg::Received { session, artifact, result } => {
                state.received(session, artifact, result);
            }
            LinkMsg::Ended { key, report } => state.ended(key, report),
            LinkMsg::Leave { kind, code } => state.leave(kind, code),
            LinkMsg::SaidGoodbye { session } => state.said_goodbye(session),
            LinkMsg::Observe(reply) => state.observe(reply),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<LinkMsg>,
        _event: SupervisionEvent,
        _state: &mut LinkState,
    ) -> Result<(), ActorProcessingErr> {
        // It has no children: its tasks end with their connection.
        Ok(())
    }
}
