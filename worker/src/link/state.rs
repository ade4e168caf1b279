//! What `LinkActor` does with each message. Called by the actor only.

use super::dial::{DialError, Line, dial};
use super::line::{UpLine, close_code};
use super::stream::{StreamError, receive_artifact, send_artifact};
use super::table::{AttemptTable, Entry, LIVE_MAX};
use super::transfer::{Transfers, UploadId};
use super::{LinkArguments, LinkMsg, LinkView};
use crate::exit::ExitCode;
use crate::gpu::GpuMsg;
use crate::gpu::attempt::{AttemptKey, Progress, Report};
use crate::gpu::courier::{CourierError, FetchRequest, StoreRequest};
use crate::root::RootMsg;
use quinn::RecvStream;
use ractor::{ActorRef, RpcReplyPort};
use rand::Rng;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use zoetrope_protocol::job::Cause;
use zoetrope_protocol::wire::{
    ArtifactHeader, CloseCode, DrainKind, FromWorker, Held, Identity, Kept, Order, StopWhen,
    ToWorker,
};
use zoetrope_protocol::{ArtifactId, Epoch, Millis, Stage, WorkerId};

/// First wait before dialling again; doubles up to [`REDIAL_MAX`], with jitter so that a farm of workers
/// does not return in one instant.
const REDIAL_MIN: Duration = Duration::from_millis(100);
const REDIAL_MAX: Duration = Duration::from_secs(2);
/// Two processes of one identity push each other out; this makes it once in two seconds.
const TRIES_REPLACED: u32 = 5;
/// Uploads that may be on their way at once: the three files of a finished clip.
const SENDS_MAX: usize = 3;
/// Told to stop at once, the gpu thread has so long to reach a boundary before we leave without it.
const LEAVE_GRACE: Duration = Duration::from_secs(5);
/// Without a connection nobody hears the last reports; waiting longer than a restart of the coordinator
/// takes is of no use.
const LEAVE_OFFLINE: Duration = Duration::from_secs(15);
/// With nothing to report but our leave, one redial is enough: our silence says the same.
const LEAVE_OFFLINE_IDLE: Duration = Duration::from_secs(3);
/// The longest detail of a failure, in characters.
const DETAIL_MAX: usize = 1_000;

enum Connection {
    Down { tries: u32, since: Instant },
    Up(Up),
}

struct Up {
    line: UpLine,
    heard: Instant,
    beat: Instant,
    welcomed: bool,
    sends: Arc<Semaphore>,
}

struct Leaving {
    code: ExitCode,
    /// When we go, whatever still runs.
    until: Option<Instant>,
    since: Instant,
    said: bool,
}

/// The state of a link.
pub struct LinkState {
    arguments: LinkArguments,
    gpu: Option<ActorRef<GpuMsg>>,
    connection: Connection,
    session: u64,
    epoch: Epoch,
    worker: Option<WorkerId>,
    table: AttemptTable,
    transfers: Transfers,
    spool_shown: i64,
    leaving: Option<Leaving>,
}

impl LinkState {
    pub(super) fn new(arguments: LinkArguments) -> Self {
        LinkState {
            arguments,
            gpu: None,
            connection: Connection::Down { tries: 0, since: Instant::now() },
            session: 0,
            epoch: Epoch(0),
            worker: None,
            table: AttemptTable::default(),
            transfers: Transfers::default(),
            spool_shown: 0,
            leaving: None,
        }
    }

    pub(super) fn start(&mut self, myself: &ActorRef<LinkMsg>, gpu: ActorRef<GpuMsg>) {
        self.gpu = Some(gpu);
        let (link, period) = (myself.clone(), self.arguments.times.tick);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(period);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if link.cast(LinkMsg::Tick).is_err() {
                    return;
                }
            }
        });
        self.redial(myself);
    }

    // --- the connection ---

    fn redial(&mut self, myself: &ActorRef<LinkMsg>) {
        let Connection::Down { tries, .. } = &mut self.connection else { return };
        let wait = REDIAL_MIN.saturating_mul(1 << (*tries).min(5)).min(REDIAL_MAX);
        let wait = wait.mul_f64(rand::rng().random_range(0.5..=1.0));
        let wait = if *tries == 0 { Duration::ZERO } else { wait };
        *tries += 1;
        self.session += 1;
        let (session, link) = (self.session, myself.clone());
        let (endpoint, config) = (self.arguments.endpoint.clone(), self.arguments.config.clone());
        let address = self.arguments.coordinator.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let line = dial(&endpoint, config, &address).await;
            link.cast(LinkMsg::Dialled { session, line }).ok();
        });
    }

    pub(super) fn dialled(
        &mut self,
        myself: &ActorRef<LinkMsg>,
        session: u64,
        line: Result<Line, DialError>,
    ) {
        if session != self.session {
            return;
        }
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                if let Connection::Down { tries, .. } = &self.connection
                    && tries.is_power_of_two()
                {
                    tracing::warn!(%error, tries, "no link yet, dialling again");
                }
                self.redial(myself);
                return;
            }
        };
        let line = UpLine::start(line, session, myself);
        let now = Instant::now();
        let identity =
            Identity { node: self.arguments.node.clone(), boot: self.arguments.boot, session };
        let profile = self.arguments.profile.clone();
        let hello = FromWorker::Hello { identity, profile, held: self.table.held() };
        let said = line.say(&hello);
        self.connection = Connection::Up(Up {
            line,
            heard: now,
            beat: now,
            welcomed: false,
            sends: Arc::new(Semaphore::new(SENDS_MAX)),
        });
        if !said {
            self.drop_line(myself, CloseCode::Protocol, "the greeting could not be said");
        }
    }

    pub(super) fn lost(&mut self, myself: &ActorRef<LinkMsg>, session: u64, reason: &str) {
        if session == self.session && matches!(self.connection, Connection::Up(_)) {
            self.drop_line(myself, CloseCode::Silent, reason);
        }
    }

    /// Ends the connection, if it has not ended itself, and dials again.
    fn drop_line(&mut self, myself: &ActorRef<LinkMsg>, code: CloseCode, reason: &str) {
        let now = Instant::now();
        let mut tries = 1;
        if let Connection::Up(up) = &self.connection {
            // A link that was good is tried again soon; one that was never welcomed backs off further.
            tries = if up.welcomed { 1 } else { 3 };
            if was_replaced(&up.line.connection) {
                tracing::error!(
                    node = self.arguments.node,
                    "another process has this node's identity: give each worker its own --data"
                );
                tries = TRIES_REPLACED;
            }
            up.line.connection.close(close_code(code), reason.as_bytes());
        }
        let leaving = self.leaving.as_ref().is_some_and(|leaving| leaving.said);
        if !leaving {
            tracing::warn!(reason, "the link is lost");
        }
        self.connection = Connection::Down { tries, since: now };
        self.arguments.linked.store(false, Ordering::Relaxed);
        self.worker = None;
        self.transfers.link_lost(now);
        if leaving {
            self.gone();
        } else {
            self.redial(myself);
        }
    }

    fn up(&self) -> Option<&Up> {
        match &self.connection {
            Connection::Up(up) if up.welcomed => Some(up),
            _ => None,
        }
    }

    /// Says a frame on a welcomed connection. What is said into the void is made good by the next `Hello`.
    fn say(&self, frame: &FromWorker) {
        if let Some(up) = self.up()
            && !up.line.say(frame)
        {
            up.line.connection.close(close_code(CloseCode::Silent), b"the queue is full");
        }
    }

    // --- frames ---

    pub(super) fn heard(&mut self, myself: &ActorRef<LinkMsg>, session: u64, frame: ToWorker) {
        if session != self.session {
            return;
        }
        let now = Instant::now();
        let Connection::Up(up) = &mut self.connection else { return };
        up.heard = now;
        if !up.welcomed && !matches!(frame, ToWorker::Welcome { .. } | ToWorker::Heartbeat) {
            self.drop_line(myself, CloseCode::Protocol, "the coordinator spoke before its welcome");
            return;
        }
        match frame {
            ToWorker::Welcome { worker, epoch, keep } => {
                self.welcomed(myself, worker, epoch, &keep)
            }
            ToWorker::Order(order) => self.ordered(order),
            ToWorker::Stop { held, when } => self.stop(held, when),
            ToWorker::Drain(kind) => self.leave(kind, ExitCode::Left),
            ToWorker::Stored { held, artifact } => {
                self.transfers.stored(held.shard, artifact);
                self.show_spool();
            }
            ToWorker::NotStored { held, artifact, reason } => {
                tracing::warn!(%artifact, reason, "an artifact was not stored");
                self.transfers.not_stored(held.shard, artifact, &reason, now);
                self.show_spool();
            }
            ToWorker::NoArtifact(artifact) => {
                let reason = format!("the store has no artifact {artifact}");
                self.transfers.received(artifact, Err((reason, false)));
            }
            ToWorker::Heartbeat => {}
        }
    }

    fn welcomed(
        &mut self,
        myself: &ActorRef<LinkMsg>,
        worker: WorkerId,
        epoch: Epoch,
        keep: &[Kept],
    ) {
        if epoch < self.epoch {
            let reason = "the welcome is of an older epoch";
            self.drop_line(myself, CloseCode::Protocol, reason);
            return;
        }
        let Connection::Up(up) = &mut self.connection else { return };
        up.welcomed = true;
        up.beat = Instant::now();
        self.epoch = epoch;
        self.worker = Some(worker);
        self.arguments.linked.store(true, Ordering::Relaxed);
        let dropped = self.table.keep(keep);
        tracing::info!(
            %worker,
            epoch = epoch.0,
            session = self.session,
            kept = keep.len(),
            dropped = dropped.len(),
            "linked"
        );
        for entry in dropped {
            self.give_up(&entry);
        }
        if let Some(leaving) = &self.leaving {
            self.say(&FromWorker::Leaving { within: within(leaving.until) });
        }
        let begun: Vec<Held> =
            self.table.live().filter(|entry| entry.begun).map(|entry| entry.held).collect();
        for held in begun {
            self.say(&FromWorker::Started(held));
        }
        self.say_reports();
        self.advance(myself);
    }

    /// An attempt that nobody wants any more: it stops, and what it sends reaches nobody.
    fn give_up(&mut self, entry: &Entry) {
        entry.attempt.stop(StopWhen::Now, Cause::Ended);
        self.transfers.give_up(Some(entry.attempt.key), &CourierError::GivenUp);
        self.show_spool();
    }

    fn ordered(&mut self, order: Order) {
        let held = Held { shard: order.shard, fence: order.fence };
        if self.table.find(held).is_some() {
            return; // said twice
        }
        if let Some(reason) = self.refusal(&order) {
            self.refuse(held, reason);
            return;
        }
        // The coordinator gave this shard anew, so it no longer counts on the older attempt.
        if let Some(key) = self.table.live_of(order.shard)
            && let Some(entry) = self.table.remove(key)
        {
            self.give_up(&entry);
        }
        if self.table.live().count() >= LIVE_MAX {
            self.refuse(held, "the gpu is busy".into());
            return;
        }
        let attempt = self.table.insert(order);
        let Some(gpu) = &self.gpu else { return };
        if gpu.cast(GpuMsg::Run(attempt.clone())).is_err() {
            // `WorkerRoot` has been told by supervision and ends the process.
            self.table.remove(attempt.key);
        }
    }

    fn refusal(&self, order: &Order) -> Option<String> {
        if order.fence.epoch < self.epoch {
            let (old, new) = (order.fence.epoch.0, self.epoch.0);
            return Some(format!("the order is of epoch {old}, and this worker has seen {new}"));
        }
        if self.leaving.is_some() {
            return Some("the worker is leaving".into());
        }
        let (model, stage): (&str, Stage) = (&order.spec.model, order.shard.stage);
        let served = self.arguments.profile.models.iter().find(|served| served.id == model);
        match served {
            None => Some(format!("this worker has no model `{model}`")),
            Some(served) if !served.stages.contains(&stage) => {
                Some(format!("this worker does not serve {stage} of `{model}`"))
            }
            Some(_) => None,
        }
    }

    fn refuse(&self, held: Held, detail: String) {
        tracing::info!(shard = %held.shard, detail, "an order was refused");
        self.say(&FromWorker::Failed { held, cause: Cause::Refused, detail, gpu: Millis(0) });
    }

    fn stop(&mut self, held: Held, when: StopWhen) {
        let Some(entry) = self.table.find(held) else { return };
        // The wire does not say why; the core knows, and takes its own cause.
        let cause = match when {
            StopWhen::Now => Cause::Ended,
            StopWhen::AfterStep => Cause::Preempted,
        };
        let attempt = entry.attempt.clone();
        attempt.stop(when, cause);
        if when == StopWhen::Now {
            self.transfers.give_up(Some(attempt.key), &CourierError::GivenUp);
            self.show_spool();
        }
    }

    // --- artifacts ---

    pub(super) fn incoming(
        &mut self,
        myself: &ActorRef<LinkMsg>,
        session: u64,
        header: ArtifactHeader,
        mut stream: RecvStream,
    ) {
        if session != self.session || !self.transfers.expects(header.artifact, header.bytes) {
            stream.stop(close_code(CloseCode::Protocol)).ok();
            return;
        }
        let (link, path) = (myself.clone(), self.arguments.cache.temporary_path());
        tokio::spawn(async move {
            let result = receive_artifact(stream, header, path).await;
            let artifact = header.artifact;
            link.cast(LinkMsg::Received { session, artifact, result }).ok();
        });
    }

    pub(super) fn store(&mut self, myself: &ActorRef<LinkMsg>, request: StoreRequest) {
        match self.table.entry(request.key) {
            Some(entry) => {
                let shard = entry.held.shard;
                self.transfers.store(request, shard, Instant::now());
                self.show_spool();
                self.send_due(myself);
            }
            // Dropped meanwhile: the answer's sender is dropped too, and the gpu thread gives up.
            None => drop(request),
        }
    }

    pub(super) fn fetch(&mut self, request: FetchRequest) {
        if self.table.entry(request.key).is_some() {
            self.transfers.fetch(request);
            self.ask_due();
        }
    }

    fn send_due(&mut self, myself: &ActorRef<LinkMsg>) {
        let Some(up) = self.up() else { return };
        let (connection, sends) = (up.line.connection.clone(), up.sends.clone());
        for send in self.transfers.to_send(Instant::now()) {
            let Some(entry) = self.table.entry(send.key) else { continue };
            let header = ArtifactHeader {
                held: Some(entry.held),
                role: Some(send.artifact.role),
                artifact: send.artifact.artifact,
                bytes: send.artifact.bytes,
            };
            let (link, session) = (myself.clone(), self.session);
            let (connection, sends) = (connection.clone(), sends.clone());
            tokio::spawn(async move {
                let Ok(_turn) = sends.acquire().await else { return };
                let result = send_artifact(connection, header, send.payload).await;
                link.cast(LinkMsg::Sent { session, upload: send.id, result }).ok();
            });
        }
    }

    fn ask_due(&mut self) {
        if self.up().is_none() {
            return;
        }
        for artifact in self.transfers.to_ask(Instant::now()) {
            self.say(&FromWorker::Fetch(artifact));
        }
    }

    pub(super) fn sent(&mut self, session: u64, upload: UploadId, result: Result<(), StreamError>) {
        if session == self.session {
            let result = result.map_err(|error| error.to_string());
            self.transfers.sent(upload, result, Instant::now());
        }
    }

    pub(super) fn received(
        &mut self,
        session: u64,
        artifact: ArtifactId,
        result: Result<PathBuf, StreamError>,
    ) {
        // A whole file is good whatever became of its connection; a failure of an old one is old news.
        if result.is_ok() || session == self.session {
            let result = result.map_err(|error| {
                let again = !matches!(error, StreamError::Damaged(_));
                (error.to_string(), again)
            });
            self.transfers.received(artifact, result);
        }
    }

    fn show_spool(&mut self) {
        let now = i64::try_from(self.transfers.spool_bytes()).unwrap_or(i64::MAX);
        self.arguments.metrics.spool_changed(now - self.spool_shown);
        self.spool_shown = now;
    }

    // --- attempts ---

    pub(super) fn began(&mut self, key: AttemptKey) {
        let Some(entry) = self.table.entry(key) else { return };
        entry.begun = true;
        let held = entry.held;
        self.say(&FromWorker::Started(held));
    }

    pub(super) fn ended(&mut self, key: AttemptKey, mut report: Report) {
        if let Report::Failed { detail, .. } = &mut report
            && let Some((at, _)) = detail.char_indices().nth(DETAIL_MAX)
        {
            detail.truncate(at);
        }
        self.table.ended(key, report);
        self.say_reports();
        self.consider_leaving();
    }

    fn say_reports(&mut self) {
        if self.up().is_none() {
            return;
        }
        let frames: Vec<FromWorker> = self
            .table
            .unsent()
            .map(|(held, report)| match report.clone() {
                Report::Finished { outputs, facts, gpu } => {
                    FromWorker::Finished { held, outputs, facts, gpu }
                }
                Report::Failed { cause, detail, gpu } => {
                    FromWorker::Failed { held, cause, detail, gpu }
                }
            })
            .collect();
        for frame in &frames {
            self.say(frame);
        }
        self.table.sent_all(self.session, Instant::now());
    }

    fn say_progress(&mut self) {
        let mut frames = Vec::new();
        for entry in self.table.live() {
            let mut progress = entry.progress.clone();
            if !progress.has_changed().unwrap_or(false) {
                continue;
            }
            let newest = *progress.borrow_and_update();
            if let Some(Progress { phase, done, total }) = newest {
                let frame = FromWorker::Progress { held: entry.held, phase, done, total };
                frames.push((entry.attempt.key, progress, frame));
            }
        }
        for (key, seen, frame) in frames {
            self.say(&frame);
            if let Some(entry) = self.table.entry(key) {
                entry.progress = seen;
            }
        }
    }

    // --- time ---

    pub(super) fn tick(&mut self, myself: &ActorRef<LinkMsg>) {
        let now = Instant::now();
        let times = self.arguments.times;
        match &mut self.connection {
            Connection::Down { since, .. } => {
                if now.saturating_duration_since(*since) >= times.patience.offline {
                    let reason = "the coordinator was out of reach for too long".to_string();
                    self.transfers.give_up(None, &CourierError::Down(reason));
                    self.show_spool();
                }
            }
            Connection::Up(up) => {
                if now.saturating_duration_since(up.heard) >= times.loss_after {
                    let reason = "the coordinator is silent";
                    self.drop_line(myself, CloseCode::Silent, reason);
                } else if up.welcomed {
                    // Half a tick early, so that every second tick is a heartbeat and not every third.
                    let due = now.saturating_duration_since(up.beat) + times.tick / 2;
                    if due >= times.heartbeat {
                        up.beat = now;
                        self.say(&FromWorker::Heartbeat);
                    }
                    self.transfers.overdue(times.patience, now);
                    self.table.forget_arrived(self.session, now);
                    self.say_progress();
                }
            }
        }
        self.advance(myself);
    }

    /// Does what has become due.
    fn advance(&mut self, myself: &ActorRef<LinkMsg>) {
        self.send_due(myself);
        self.ask_due();
        self.show_spool();
        self.consider_leaving();
    }

    // --- leaving ---

    pub(super) fn leave(&mut self, kind: DrainKind, code: ExitCode) {
        let now = Instant::now();
        let until = match kind {
            DrainKind::Immediate => Some(now + LEAVE_GRACE),
            DrainKind::Step | DrainKind::Shard => None,
            DrainKind::Deadline(within) => Some(now + Duration::from_millis(within.0)),
        };
        let leaving = self.leaving.get_or_insert(Leaving { code, until, since: now, said: false });
        // A second order only makes it sooner.
        leaving.until = match (leaving.until, until) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => old.or(new),
        };
        if code != ExitCode::Left {
            leaving.code = code;
        }
        let until = leaving.until;
        tracing::info!(?kind, "leaving");
        self.say(&FromWorker::Leaving { within: within(until) });
        if let Some(gpu) = &self.gpu {
            gpu.cast(GpuMsg::Drain(kind)).ok(); // if it is dead, `WorkerRoot` knows
        }
        self.consider_leaving();
    }

    fn consider_leaving(&mut self) {
        let now = Instant::now();
        let Some(leaving) = &self.leaving else { return };
        if leaving.said {
            return;
        }
        let late = leaving.until.is_some_and(|until| now >= until);
        let patience = if self.table.has_unsent() { LEAVE_OFFLINE } else { LEAVE_OFFLINE_IDLE };
        let offline = now.saturating_duration_since(leaving.since) >= patience;
        if late {
            self.abandon_all();
        }
        if self.table.live().next().is_some() {
            return;
        }
        match self.up() {
            Some(up) => {
                let said = up.line.say_last(&FromWorker::Left);
                if let Some(leaving) = &mut self.leaving {
                    leaving.said = true;
                }
                if !said {
                    self.gone();
                }
            }
            None if late || offline => self.gone(),
            None => {}
        }
    }

    /// Time is up: what still runs is reported as drained, and the gpu thread goes down with the process.
    fn abandon_all(&mut self) {
        let live: Vec<(AttemptKey, Millis)> =
            self.table.live().map(|one| (one.attempt.key, one.attempt.worked_ms())).collect();
        for (key, gpu) in live {
            let detail = "the worker's time was up before the next boundary".to_string();
            self.table.ended(key, Report::Failed { cause: Cause::Drained, detail, gpu });
        }
        self.transfers.give_up(None, &CourierError::GivenUp);
        self.say_reports();
    }

    pub(super) fn said_goodbye(&mut self, session: u64) {
        if session == self.session {
            self.gone();
        }
    }

    fn gone(&mut self) {
        let Some(leaving) = &self.leaving else { return };
        let heard = leaving.said;
        let code = match leaving.code {
            ExitCode::Left if !heard => ExitCode::LeftUnheard,
            code => code,
        };
        self.arguments.root.cast(RootMsg::End(code)).ok(); // a dead root has ended the process already
    }

    pub(super) fn observe(&self, reply: RpcReplyPort<LinkView>) {
        let view = LinkView {
            session: self.session,
            welcomed: self.up().is_some(),
            worker: self.worker,
            epoch: self.epoch,
            live: self.table.live().count(),
            spool_bytes: self.transfers.spool_bytes(),
        };
        reply.send(view).ok(); // the asker may have stopped waiting
    }
}

/// Our newest connection was closed in favour of a newer one, which is not ours.
fn was_replaced(connection: &quinn::Connection) -> bool {
    let replaced = close_code(CloseCode::Replaced);
    matches!(
        connection.close_reason(),
        Some(quinn::ConnectionError::ApplicationClosed(close)) if close.error_code == replaced
    )
}

fn within(until: Option<Instant>) -> Millis {
    // No deadline: the hard limit of any order is at most two hours.
    let left = until.map_or(Duration::from_secs(7_200), |until| {
        until.saturating_duration_since(Instant::now())
    });
    Millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}
