//! One worker's connection and its only owner: frames in and out, fences, heartbeats, and verdicts of time.
//!
//! Progress goes to the board; reports and verdicts go to `DispatchActor`. What a frame is, its session knows;
//! never decides what it means.

use super::draft::{Draft, Drafts};
use super::endpoint::Established;
use super::fetch::NotSent;
use super::session::{Act, Claim, FRAMES_MAX, Session};
use super::upload::{self, Uploads};
use super::{FrameError, LinkLimits, close_number, fetch, read_counted_frame};
use crate::dispatch::{DispatchMsg, Evidence, ProgressBoard, Report, SignAsk};
use crate::metrics::Metrics;
use crate::store::Store;
use quinn::{Connection, RecvStream, SendStream};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, Epoch, WorkerId};
use zoetrope_protocol::job::{ArtifactRef, Cause};
use zoetrope_protocol::metric;
use zoetrope_protocol::version::LinkVersion;
use zoetrope_protocol::wire::{
    COORDINATORS_MAX, CloseCode, FRAME_BYTES_MAX, FromWorker, HEARTBEAT, Held, Identity, Kept,
    Profile, ToWorker,
};
use zoetrope_sched::input::LostHow;

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
    /// A clip came whose marks are to be read.
    Drafted {
        /// The attempt.
        held: Held,
        /// The clip.
        draft: Arc<Draft>,
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
    /// What the worker asked for was not sent.
    NotSent(ArtifactId, NotSent),
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
    /// Where clips go that are not signed yet.
    pub drafts: Drafts,
    /// Where progress goes.
    pub board: Arc<ProgressBoard>,
    /// Where bytes are counted.
    pub metrics: Arc<Metrics>,
    /// How patient it is.
    pub limits: LinkLimits,
    /// Where workers find the coordinators of the farm.
    pub coordinators: watch::Receiver<Vec<String>>,
}

/// One worker's connection.
pub struct LinkState {
    connection: Connection,
    identity: Identity,
    version: LinkVersion,
    hello: Option<(Profile, Vec<Held>)>,
    session: Session,
    dispatch: ActorRef<DispatchMsg>,
    store: Arc<Store>,
    drafts: Drafts,
    board: Arc<ProgressBoard>,
    metrics: Arc<Metrics>,
    coordinators: watch::Receiver<Vec<String>>,
    greeted: bool,
    out: mpsc::Sender<ToWorker>,
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
        let LinkArguments { established, dispatch, store, board, metrics, limits, .. } = arguments;
        let LinkArguments { mut coordinators, drafts, .. } = arguments;
        coordinators.mark_changed();
        let Established { connection, send, receive, identity, profile, .. } = established;
        let Established { held, version, hello_bytes, .. } = established;
        let (out, queue) = mpsc::channel(OUT_MAX);
        let session = Session::new(limits, Instant::now());
        let uploads = Uploads {
            link: myself.clone(),
            store: store.clone(),
            drafts: drafts.clone(),
            fences: session.fences().clone(),
            metrics: metrics.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(read(receive, version, myself.clone(), metrics.clone()));
        tasks.spawn(write(send, queue, myself.clone(), metrics.clone()));
        tasks.spawn(upload::accept(connection.clone(), uploads));
        tasks.spawn(tick(myself.clone()));
        metrics.shift(&metric::QUIC_CONNECTIONS, &[], 1.0);
        count_control(&metrics, "in", hello_bytes);
        Ok(LinkState {
            connection,
            identity,
            version,
            hello: Some((profile, held)),
            session,
            dispatch,
            store,
            drafts,
            board,
            metrics,
            coordinators,
            greeted: false,
            out,
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
            LinkMsg::Drafted { held, draft } => {
                let link = myself.get_id();
                state.tell(&myself, DispatchMsg::Drafted { link, held, draft });
            }
            LinkMsg::NotUploaded { held, artifact, reason } => {
                state.send(&myself, ToWorker::NotStored { held, artifact, reason });
            }
            LinkMsg::NotSent(artifact, NotSent::Missing) => {
                state.send(&myself, ToWorker::NoArtifact(artifact));
            }
            LinkMsg::NotSent(artifact, NotSent::Down) => {
                state.send(&myself, ToWorker::StoreDown(artifact));
            }
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
        // What the worker cannot read would cost its link. Who sends news must do without their effect on old workers.
        if message.since() > self.version {
            tracing::warn!(node = self.identity.node, "a worker is too old to be told something");
            return;
        }
        self.session.says(&message, Instant::now());
        if matches!(message, ToWorker::Signed { .. }) {
            self.drafts.forget();
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
        let early = self.session.welcome(&keep, Instant::now());
        let (node, link, kept) = (&self.identity.node, self.version, keep.len());
        tracing::info!(%worker, node, %link, kept, "a worker is connected");
        self.send(myself, ToWorker::Welcome { worker, epoch, keep });
        self.greeted = true;
        self.tell_coordinators(myself);
        for frame in early {
            self.frame(myself, frame);
        }
    }

    /// A worker of a farm with one coordinator needs to know no other.
    fn tell_coordinators(&mut self, myself: &ActorRef<LinkMsg>) {
        if !self.greeted || !self.coordinators.has_changed().unwrap_or(false) {
            return;
        }
        let known: Vec<String> = self.coordinators.borrow_and_update().clone();
        if known.len() > 1 {
            let known = known.into_iter().take(COORDINATORS_MAX).collect();
            self.send(myself, ToWorker::Coordinators(known));
        }
    }

    fn frame(&mut self, myself: &ActorRef<LinkMsg>, frame: FromWorker) {
        if let Some(act) = self.session.frame(frame, Instant::now()) {
            self.act(myself, act);
        }
    }

    fn act(&mut self, myself: &ActorRef<LinkMsg>, act: Act) {
        match act {
            Act::Report(report) => {
                let last = report == Report::Left;
                if matches!(report, Report::Finished { .. } | Report::Failed { .. }) {
                    self.drafts.forget();
                }
                self.report(myself, report);
                if last {
                    self.shut(myself, CloseCode::Leaving, "all is said");
                }
            }
            Act::Sign(claim) => self.sign(myself, *claim),
            Act::Show(held, view) => self.board.report(held, view),
            Act::Fetch(artifact) => self.fetch(myself, artifact),
            Act::Say(message) => {
                if matches!(*message, ToWorker::NotSigned { .. }) {
                    // All that a link refuses by itself is what comes from replaced attempts.
                    self.metrics.count(&metric::STALE_RESULTS, &["link"]);
                }
                self.send(myself, *message);
            }
            Act::Shut(code, reason) => self.shut(myself, code, reason),
            Act::Silent => {
                self.lost(myself, LostHow::Silence, CloseCode::Silent, "no frame in time");
            }
        }
    }

    /// Has a claim signed, of a clip whose bytes are here to be proven.
    fn sign(&mut self, myself: &ActorRef<LinkMsg>, claim: Claim) {
        let Claim { held, unsigned, manifest, proven, scores } = claim;
        if !proven && self.version >= LinkVersion::PROVEN {
            return self.shut(myself, CloseCode::Protocol, "a claim of a clip that is not proven");
        }
        let draft = self.drafts.kept(unsigned);
        if proven && draft.is_none() {
            let (cause, reason) = (Cause::ArtifactMissing, "the clip is not here".to_owned());
            return self.send(myself, ToWorker::NotSigned { held, cause, reason });
        }
        let evidence = draft.filter(|_| proven).map(|draft| Evidence { draft, scores });
        let ask = Box::new(SignAsk { held, unsigned, manifest, evidence });
        self.tell(myself, DispatchMsg::SignAsked { link: myself.get_id(), ask });
    }

    fn fetch(&mut self, myself: &ActorRef<LinkMsg>, artifact: ArtifactId) {
        let Ok(open) = self.fetches_open.clone().try_acquire_owned() else {
            return self.shut(myself, CloseCode::Protocol, "too many open fetches");
        };
        let (connection, store) = (self.connection.clone(), self.store.clone());
        let (metrics, turns, myself) = (self.metrics.clone(), self.fetches.clone(), myself.clone());
        self.tasks.spawn(async move {
            let turn = turns.acquire_owned().await;
            if let Err(why) = fetch::send(connection, store, metrics, artifact).await {
                // A link that is gone has nobody to tell.
                drop(myself.cast(LinkMsg::NotSent(artifact, why)));
            }
            drop((turn, open));
        });
    }

    fn tick(&mut self, myself: &ActorRef<LinkMsg>) {
        while self.tasks.try_join_next().is_some() {}
        for act in self.session.tick(Instant::now()) {
            if act == Act::Silent {
                return self.act(myself, act);
            }
            self.act(myself, act);
        }
        self.drafts.forget_late();
        self.send(myself, ToWorker::Heartbeat);
        self.tell_coordinators(myself);
    }

    fn ended(&mut self, myself: &ActorRef<LinkMsg>, code: Option<CloseCode>, reason: &str) {
        self.lost(myself, LostHow::Closed, code.unwrap_or(CloseCode::Stopping), reason);
    }

    fn lost(&mut self, myself: &ActorRef<LinkMsg>, how: LostHow, code: CloseCode, reason: &str) {
        self.tell(myself, DispatchMsg::LinkLost { link: myself.get_id(), how });
        self.shut(myself, code, reason);
    }

    fn shut(&mut self, myself: &ActorRef<LinkMsg>, code: CloseCode, reason: &str) {
        if code == CloseCode::BadFrame {
            let node = &self.identity.node;
            tracing::warn!(node, reason, "a worker said what this version cannot read");
        }
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

fn count_control(metrics: &Metrics, direction: &str, bytes: usize) {
    metrics.add(&metric::LINK_BYTES, &[direction, "control"], bytes as f64);
}

async fn read(
    mut stream: RecvStream,
    version: LinkVersion,
    link: ActorRef<LinkMsg>,
    metrics: Arc<Metrics>,
) {
    let permits = Arc::new(Semaphore::new(FRAMES_MAX));
    let (code, reason) = loop {
        let read = read_counted_frame::<FromWorker>(&mut stream, FRAME_BYTES_MAX).await;
        if let Ok((_, bytes)) = &read {
            count_control(&metrics, "in", *bytes);
        }
        match read {
            Ok((frame, _)) if frame.since() > version => {
                let reason = "a frame that the agreed version of the link does not have";
                break (Some(CloseCode::BadFrame), reason.to_owned());
            }
            Ok((frame, _)) => {
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
    metrics: Arc<Metrics>,
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
        count_control(&metrics, "out", frame.len());
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
