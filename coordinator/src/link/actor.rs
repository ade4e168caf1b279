//! One worker's connection and its only owner: frames in and out, fences, heartbeats, and verdicts of time.
//!
//! Progress goes to the board; reports and verdicts go to `DispatchActor`. Never decides what they mean.

use super::endpoint::Established;
use super::upload::{self, Uploads};
use super::{Fences, FrameError, LinkLimits, close_number, fetch, read_frame};
use crate::dispatch::{DispatchMsg, ProgressBoard, Report};
use crate::jobs::PhaseView;
use crate::metrics::Metrics;
use crate::store::Store;
use quinn::{Connection, RecvStream, SendStream};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, Epoch, ShardId, WorkerId};
use zoetrope_protocol::job::ArtifactRef;
use zoetrope_protocol::metric;
use zoetrope_protocol::wire::{
    CloseCode, FRAME_BYTES_MAX, FromWorker, HEARTBEAT, Held, Identity, Kept, LOSS_AFTER, Phase,
    Profile, ToWorker,
};
use zoetrope_sched::input::LostHow;

/// Frames of one worker that wait for this actor; its reader waits beyond that.
const FRAMES_MAX: usize = 64;
/// Frames that wait to be written: a worker has one order at a time, so a full queue is a worker that does not
/// read.
const OUT_MAX: usize = 256;
/// Artifacts that are sent to one worker at a time; as many may wait again ten times.
const FETCHES_MAX: usize = 4;
/// Fetches that one worker may have open.
const FETCHES_OPEN_MAX: usize = 40;

/// Owns one connection.
pub struct LinkActor;

/// What a link is told.
pub enum LinkMsg {
    /// The worker sent a frame.
    Frame(FromWorker, OwnedSemaphorePermit),
    /// The control stream or the connection ended.
    Ended {
        /// With which code to close, where the peer broke a rule.
        code: Option<CloseCode>,
        /// Why.
        reason: String,
    },
    /// The core knows the worker: greet it.
    Welcome {
        /// Its number.
        worker: WorkerId,
        /// The leader's epoch.
        epoch: Epoch,
        /// What it goes on with.
        keep: Vec<Kept>,
    },
    /// Tell the worker this.
    Send(Box<ToWorker>),
    /// An artifact is safe in the store.
    Uploaded {
        /// The attempt.
        held: Held,
        /// What it is.
        artifact: ArtifactRef,
    },
    /// An upload counts as never sent.
    NotUploaded {
        /// The attempt.
        held: Held,
        /// Its address.
        artifact: ArtifactId,
        /// For the worker's log.
        reason: String,
    },
    /// The store does not have what the worker asked for.
    NotThere(ArtifactId),
    /// A second passed.
    Tick,
    /// Close the connection and end.
    Close {
        /// With this code.
        code: CloseCode,
        /// For the log.
        reason: String,
    },
}

/// What a link needs.
pub struct LinkArguments {
    /// The greeted connection.
    pub established: Established,
    /// Who is told.
    pub dispatch: ActorRef<DispatchMsg>,
    /// Where artifacts are.
    pub store: Arc<Store>,
    /// Where progress goes.
    pub board: Arc<ProgressBoard>,
    /// Where bytes are counted.
    pub metrics: Arc<Metrics>,
    /// How patient it is.
    pub limits: LinkLimits,
}

/// When an attempt last moved on.
struct Motion {
    held: Held,
    phase: Option<(Phase, u32)>,
    since: Instant,
    told: bool,
}

/// One worker's connection.
pub struct LinkState {
    connection: Connection,
    identity: Identity,
    hello: Option<(Profile, Vec<Held>)>,
    /// Frames that came before the welcome; none after it.
    early: Option<Vec<FromWorker>>,
    dispatch: ActorRef<DispatchMsg>,
    store: Arc<Store>,
    board: Arc<ProgressBoard>,
    metrics: Arc<Metrics>,
    limits: LinkLimits,
    out: mpsc::Sender<ToWorker>,
    fences: Fences,
    motion: BTreeMap<ShardId, Motion>,
    last_frame: Instant,
    fetches: Arc<Semaphore>,
    fetches_open: Arc<Semaphore>,
    close: CloseCode,
    /// Dropped with the state: no task outlives its link.
    tasks: JoinSet<()>,
}

#[ractor::async_trait]
impl Actor for LinkActor {
    type Msg = LinkMsg;
    type State = LinkState;
    type Arguments = LinkArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<LinkMsg>,
        arguments: LinkArguments,
    ) -> Result<LinkState, ActorProcessingErr> {
        let LinkArguments { established, dispatch, store, board, metrics, limits } = arguments;
        let Established { connection, send, receive, identity, profile, held } = established;
        let (out, queue) = mpsc::channel(OUT_MAX);
        let fences = Fences::default();
        let uploads = Uploads {
            link: myself.clone(),
            store: store.clone(),
            fences: fences.clone(),
            metrics: metrics.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(read(receive, myself.clone()));
        tasks.spawn(write(send, queue, myself.clone()));
        tasks.spawn(upload::accept(connection.clone(), uploads));
        tasks.spawn(tick(myself.clone()));
        metrics.shift(&metric::QUIC_CONNECTIONS, &[], 1.0);
        Ok(LinkState {
            connection,
            identity,
            hello: Some((profile, held)),
            early: Some(Vec::new()),
            dispatch,
            store,
            board,
            metrics,
            limits,
            out,
            fences,
            motion: BTreeMap::new(),
            last_frame: Instant::now(),
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            fetches_open: Arc::new(Semaphore::new(FETCHES_OPEN_MAX)),
            close: CloseCode::Stopping,
            tasks,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<LinkMsg>,
        state: &mut LinkState,
    ) -> Result<(), ActorProcessingErr> {
        state.say_hello(&myself);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<LinkMsg>,
        message: LinkMsg,
        state: &mut LinkState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LinkMsg::Frame(frame, _permit) => state.frame(&myself, frame),
            LinkMsg::Ended { code, reason } => state.ended(&myself, code, &reason),
            LinkMsg::Welcome { worker, epoch, keep } => state.welcome(&myself, worker, epoch, keep),
            LinkMsg::Send(message) => state.send(&myself, *message),
            LinkMsg::Uploaded { held, artifact } => {
                state.report(&myself, Report::Stored { held, artifact })
            }
            LinkMsg::NotUploaded { held, artifact, reason } => {
                state.send(&myself, ToWorker::NotStored { held, artifact, reason });
            }
            LinkMsg::NotThere(artifact) => state.send(&myself, ToWorker::NoArtifact(artifact)),
            LinkMsg::Tick => state.tick(&myself),
            LinkMsg::Close { code, reason } => state.shut(&myself, code, &reason),
        }
        Ok(())
    }
}

impl LinkState {
    fn say_hello(&mut self, myself: &ActorRef<LinkMsg>) {
        let Some((profile, held)) = self.hello.take() else { return };
        let identity = self.identity.clone();
        let hello = DispatchMsg::Hello { link: myself.clone(), identity, profile, held };
        self.tell(myself, hello);
    }

    /// A dispatch actor that is gone takes the process with it; until then the link stops.
    fn tell(&mut self, myself: &ActorRef<LinkMsg>, message: DispatchMsg) {
        if self.dispatch.cast(message).is_err() {
            myself.stop(None);
        }
    }

    fn report(&mut self, myself: &ActorRef<LinkMsg>, report: Report) {
        self.tell(myself, DispatchMsg::Report { link: myself.get_id(), report });
    }

    fn send(&mut self, myself: &ActorRef<LinkMsg>, message: ToWorker) {
        if let ToWorker::Order(order) = &message {
            let held = Held { shard: order.shard, fence: order.fence };
            self.fences.add(held);
            self.motion.insert(
                held.shard,
                Motion { held, phase: None, since: Instant::now(), told: false },
            );
        }
        if self.out.try_send(message).is_err() {
            self.lost(myself, LostHow::Silence, CloseCode::Silent, "the worker does not read");
        }
    }

    fn welcome(
        &mut self,
        myself: &ActorRef<LinkMsg>,
        worker: WorkerId,
        epoch: Epoch,
        keep: Vec<Kept>,
    ) {
        let now = Instant::now();
        self.fences.welcome(&keep);
        for kept in &keep {
            let held = Held { shard: kept.held.shard, fence: kept.fence };
            self.motion.insert(held.shard, Motion { held, phase: None, since: now, told: false });
        }
        tracing::info!(%worker, node = self.identity.node, kept = keep.len(), "a worker is connected");
        self.send(myself, ToWorker::Welcome { worker, epoch, keep });
        for frame in self.early.take().into_iter().flatten() {
            self.frame(myself, frame);
        }
    }

    fn frame(&mut self, myself: &ActorRef<LinkMsg>, frame: FromWorker) {
        self.last_frame = Instant::now();
        // Reports that come before the welcome carry fences that the core is about to replace.
        if let Some(early) = &mut self.early
            && !matches!(frame, FromWorker::Heartbeat)
        {
            early.push(frame);
            if early.len() > FRAMES_MAX {
                self.shut(myself, CloseCode::Protocol, "too many reports before the welcome");
            }
            return;
        }
        match frame {
            FromWorker::Hello { .. } => self.shut(myself, CloseCode::Protocol, "a second hello"),
            FromWorker::Heartbeat => {}
            FromWorker::Started(held) => self.moved(held, None),
            FromWorker::Progress { held, phase, done, total } => {
                self.moved(held, Some(PhaseView { phase, done, total }));
            }
            FromWorker::Finished { held, outputs, facts, gpu } => {
                let held = self.over(held);
                self.report(myself, Report::Finished { held, outputs, facts, gpu });
            }
            FromWorker::Failed { held, cause, detail, gpu } => {
                let held = self.over(held);
                self.report(myself, Report::Failed { held, cause, detail, gpu });
            }
            FromWorker::Fetch(artifact) => self.fetch(myself, artifact),
            FromWorker::Leaving { within } => self.report(myself, Report::Leaving { within }),
            FromWorker::Left => {
                self.report(myself, Report::Left);
                self.shut(myself, CloseCode::Leaving, "all is said");
            }
        }
    }

    fn moved(&mut self, held: Held, phase: Option<PhaseView>) {
        let Some(held) = self.fences.current(&held) else { return };
        let Some(motion) = self.motion.get_mut(&held.shard) else { return };
        let now = phase.map(|view| (view.phase, view.done));
        if motion.phase != now || phase.is_none() {
            motion.phase = now.or(motion.phase);
            motion.since = Instant::now();
        }
        if let Some(view) = phase {
            self.board.report(held.shard.job, view);
        }
    }

    /// The attempt ended: returns it under its present fence, or as it came if it is none of ours.
    fn over(&mut self, held: Held) -> Held {
        let Some(held) = self.fences.current(&held) else { return held };
        self.fences.remove(&held);
        self.motion.remove(&held.shard);
        held
    }

    fn fetch(&mut self, myself: &ActorRef<LinkMsg>, artifact: ArtifactId) {
        let Ok(open) = self.fetches_open.clone().try_acquire_owned() else {
            return self.shut(myself, CloseCode::Protocol, "too many open fetches");
        };
        let (connection, store) = (self.connection.clone(), self.store.clone());
        let (metrics, turns, myself) = (self.metrics.clone(), self.fetches.clone(), myself.clone());
        self.tasks.spawn(async move {
            let turn = turns.acquire_owned().await;
            if !fetch::send(connection, store, metrics, artifact).await {
                // A link that is gone has nobody to tell.
                drop(myself.cast(LinkMsg::NotThere(artifact)));
            }
            drop((turn, open));
        });
    }

    fn tick(&mut self, myself: &ActorRef<LinkMsg>) {
        while self.tasks.try_join_next().is_some() {}
        if self.last_frame.elapsed() > Duration::from_millis(LOSS_AFTER.0) {
            return self.lost(myself, LostHow::Silence, CloseCode::Silent, "no frame in time");
        }
        let mut stalled = Vec::new();
        for motion in self.motion.values_mut().filter(|m| !m.told) {
            let limit = match motion.phase {
                None | Some((Phase::Loading, _)) => self.limits.load,
                Some(_) => self.limits.stall,
            };
            if motion.since.elapsed() > limit {
                motion.told = true;
                stalled.push(motion.held);
            }
        }
        for held in stalled {
            self.report(myself, Report::Stalled { held });
        }
        self.send(myself, ToWorker::Heartbeat);
    }

    fn ended(&mut self, myself: &ActorRef<LinkMsg>, code: Option<CloseCode>, reason: &str) {
        self.lost(myself, LostHow::Closed, code.unwrap_or(CloseCode::Stopping), reason);
    }

    fn lost(&mut self, myself: &ActorRef<LinkMsg>, how: LostHow, code: CloseCode, reason: &str) {
        self.tell(myself, DispatchMsg::LinkLost { link: myself.get_id(), how });
        self.shut(myself, code, reason);
    }

    fn shut(&mut self, myself: &ActorRef<LinkMsg>, code: CloseCode, reason: &str) {
        tracing::info!(node = self.identity.node, ?code, reason, "a link is closed");
        self.close = code;
        self.connection.close(close_number(code), reason.as_bytes());
        myself.stop(None);
    }
}

/// The connection ends with its owner, however that ends.
impl Drop for LinkState {
    fn drop(&mut self) {
        self.metrics.shift(&metric::QUIC_CONNECTIONS, &[], -1.0);
        // Closing it twice changes nothing.
        self.connection.close(close_number(self.close), b"");
    }
}

async fn read(mut stream: RecvStream, link: ActorRef<LinkMsg>) {
    let permits = Arc::new(Semaphore::new(FRAMES_MAX));
    let (code, reason) = loop {
        match read_frame::<FromWorker>(&mut stream, FRAME_BYTES_MAX).await {
            Ok(frame) => {
                let Ok(permit) = permits.clone().acquire_owned().await else { return };
                if link.cast(LinkMsg::Frame(frame, permit)).is_err() {
                    return;
                }
            }
            Err(FrameError::Ended) => break (None, "the worker ended the stream".to_owned()),
            Err(FrameError::Broken(reason)) => break (None, reason),
            Err(error) => break (Some(CloseCode::BadFrame), error.to_string()),
        }
    };
    // A link that is gone knows.
    drop(link.cast(LinkMsg::Ended { code, reason }));
}

async fn write(
    mut stream: SendStream,
    mut queue: mpsc::Receiver<ToWorker>,
    link: ActorRef<LinkMsg>,
) {
    let reason = loop {
        let Some(message) = queue.recv().await else { return };
        let frame = match codec::frame(&message) {
            Ok(frame) => frame,
            Err(error) => break error.to_string(),
        };
        if let Err(error) = stream.write_all(&frame).await {
            break error.to_string();
        }
    };
    drop(link.cast(LinkMsg::Ended { code: None, reason }));
}

async fn tick(link: ActorRef<LinkMsg>) {
    let mut every = tokio::time::interval(Duration::from_millis(HEARTBEAT.0));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        every.tick().await;
        if link.cast(LinkMsg::Tick).is_err() {
            return;
        }
    }
}
