//! The root of a worker: starts the link and the gpu, watches over both, and ends the worker.
//!
//! It restarts nothing. A worker whose link or gpu has died holds state that nobody can trust any more, so
//! the process ends with its own exit code, and the farm gives its attempts to others. Used by the command
//! line, and by tests that drive a whole worker.

use crate::cache::ArtifactCache;
use crate::exit::ExitCode;
use crate::finish::Finisher;
use crate::gpu::{GpuActor, GpuArguments, GpuMsg, OpenEngine};
use crate::link::{LinkActor, LinkArguments, LinkMsg, LinkTimes};
use crate::metrics::Metrics;
use quinn::{ClientConfig, Endpoint};
use ractor::{
    Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent, async_trait,
};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::oneshot;
use zoetrope_protocol::Millis;
use zoetrope_protocol::wire::{DrainKind, Profile};

/// What SIGTERM means: a drain with this deadline. Kubernetes and most machines kill after 30 s.
pub const LEAVE_WITHIN: Millis = Millis(25_000);

/// What SIGUSR1 means: a drain with this deadline. Clouds take a spot machine back 120 s after their notice.
pub const NOTICE_WITHIN: Millis = Millis(110_000);

/// What the root is told.
pub enum RootMsg {
    /// The system asks the process to end: the first time within [`LEAVE_WITHIN`], the second time at once.
    Signal,
    /// The machine will be taken back: leave within [`NOTICE_WITHIN`].
    Notice,
    /// End now: all is said, or nothing can be.
    End(ExitCode),
    /// The parts, for tests and `/healthz`.
    Parts(RpcReplyPort<(ActorRef<LinkMsg>, ActorRef<GpuMsg>)>),
}

/// What a worker is made of.
pub struct WorkerArguments {
    /// `HOST:PORT` of the coordinator, or of several, separated by commas.
    pub coordinator: String,
    /// The node's name, as in its certificate.
    pub node: String,
    /// Socket.
    pub endpoint: Endpoint,
    /// mTLS of the link.
    pub config: ClientConfig,
    /// What this worker can do.
    pub profile: Profile,
    /// Opens engines on the gpu thread.
    pub open: OpenEngine,
    /// Makes clips.
    pub finisher: Finisher,
    /// Artifacts on disk.
    pub cache: Arc<ArtifactCache>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// Set while the coordinator has welcomed this worker.
    pub linked: Arc<AtomicBool>,
    /// Times of the link.
    pub times: LinkTimes,
    /// Beyond the hard limit, when the gpu thread counts as stuck.
    pub stuck_after: Duration,
}

/// A worker that runs.
pub struct Worker {
    /// Its root.
    pub root: ActorRef<RootMsg>,
    /// How it ended, once it has.
    pub ended: oneshot::Receiver<ExitCode>,
}

impl Worker {
    /// Starts a worker. It dials at once.
    ///
    /// # Errors
    /// If an actor or the gpu thread cannot be started.
    pub async fn start(arguments: WorkerArguments) -> Result<Worker, SpawnErr> {
        let (end, ended) = oneshot::channel();
        let (root, _) = Actor::spawn(None, RootActor, (arguments, end)).await?;
        Ok(Worker { root, ended })
    }
}

struct RootActor;

struct RootState {
    link: ActorRef<LinkMsg>,
    gpu: ActorRef<GpuMsg>,
    signals: u32,
    end: Option<oneshot::Sender<ExitCode>>,
}

#[async_trait]
impl Actor for RootActor {
    type Msg = RootMsg;
    type State = RootState;
    type Arguments = (WorkerArguments, oneshot::Sender<ExitCode>);

    async fn pre_start(
        &self,
        myself: ActorRef<RootMsg>,
        (arguments, end): (WorkerArguments, oneshot::Sender<ExitCode>),
    ) -> Result<RootState, ActorProcessingErr> {
        let link = LinkArguments {
            root: myself.clone(),
            coordinator: arguments.coordinator,
            node: arguments.node,
            boot: rand::random(),
            profile: arguments.profile,
            endpoint: arguments.endpoint,
            config: arguments.config,
            cache: arguments.cache.clone(),
            metrics: arguments.metrics.clone(),
            linked: arguments.linked,
            times: arguments.times,
        };
        let (link, _) = Actor::spawn_linked(None, LinkActor, link, myself.get_cell()).await?;
        let gpu = GpuArguments {
            root: myself.clone(),
            link: link.clone(),
            open: arguments.open,
            finisher: arguments.finisher,
            cache: arguments.cache,
            metrics: arguments.metrics,
            stuck_after: arguments.stuck_after,
        };
        let (gpu, _) = Actor::spawn_linked(None, GpuActor, gpu, myself.get_cell()).await?;
        link.cast(LinkMsg::Start { gpu: gpu.clone() })?;
        Ok(RootState { link, gpu, signals: 0, end: Some(end) })
    }

    async fn handle(
        &self,
        myself: ActorRef<RootMsg>,
        msg: RootMsg,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            RootMsg::Signal => state.signal(&myself),
            RootMsg::Notice => state.notice(&myself),
            RootMsg::End(code) => state.end(&myself, code),
            RootMsg::Parts(reply) => {
                reply.send((state.link.clone(), state.gpu.clone())).ok(); // the asker may be gone
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => {
                tracing::error!(actor = %who.get_id(), %error, "a part of the worker died");
                state.end(&myself, ExitCode::PartDied);
            }
            // Only the end of the worker stops a part cleanly.
            SupervisionEvent::ActorTerminated(..) => state.end(&myself, ExitCode::PartDied),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl RootState {
    fn signal(&mut self, myself: &ActorRef<RootMsg>) {
        self.signals += 1;
        let kind = match self.signals {
            1 => DrainKind::Deadline(LEAVE_WITHIN),
            _ => DrainKind::Immediate,
        };
        let leave = LinkMsg::Leave { kind, code: ExitCode::Left };
        if self.signals > 2 || self.link.cast(leave).is_err() {
            self.end(myself, ExitCode::LeftUnheard);
        }
    }

    fn notice(&mut self, myself: &ActorRef<RootMsg>) {
        let kind = DrainKind::Deadline(NOTICE_WITHIN);
        let leave = LinkMsg::Leave { kind, code: ExitCode::Left };
        if self.link.cast(leave).is_err() {
            self.end(myself, ExitCode::LeftUnheard);
        }
    }

    fn end(&mut self, myself: &ActorRef<RootMsg>, code: ExitCode) {
        if let Some(end) = self.end.take() {
            end.send(code).ok(); // a test may not care how it ended
            myself.stop_children(Some("the worker ends".into()));
            myself.stop(None);
        }
    }
}
