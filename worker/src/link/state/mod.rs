//! What `LinkActor` does with each message. Called by the actor only.
//!
//! Here: frames, orders, reports and time; beside it the connection, the artifacts and the leave.

mod artifacts;
mod connection;
mod leaving;

use super::line::UpLine;
use super::transfer::{Lost, Transfers};
use super::{LinkArguments, LinkMsg, LinkView};
use crate::exit::ExitCode;
use crate::gpu::GpuMsg;
use crate::gpu::attempt::{Attempt, AttemptKey, Progress, Report};
use crate::gpu::courier::{CourierError, Given};
use leaving::{Leaving, within};
use ractor::{ActorRef, RpcReplyPort};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::{Semaphore, watch};
use zoetrope_agent::{Agent, Entry, Ordered};
use zoetrope_protocol::job::Cause;
use zoetrope_protocol::wire::{
    COORDINATORS_MAX, CloseCode, FromWorker, Held, Kept, Order, StopWhen, ToWorker,
};
use zoetrope_protocol::{Epoch, Millis, WorkerId};

/// Uploads that may be on their way at once: the three files of a finished clip.
const SENDS_MAX: usize = 3;
/// The longest address of a coordinator: the longest host name, and a port.
const ADDRESS_BYTES_MAX: usize = 260;
/// The longest detail of a failure, in characters.
const DETAIL_MAX: usize = 1_000;

enum Connection {
    Down { tries: u32 },
    Up(Up),
}

struct Up {
    line: UpLine,
    heard: Instant,
    beat: Instant,
    welcomed: bool,
    sends: Arc<Semaphore>,
}

/// An attempt of the table.
struct Work {
    attempt: Arc<Attempt>,
    progress: watch::Receiver<Option<Progress>>,
    /// When the farm last heard of it, and how many bytes had moved for it then.
    told: (Instant, u64),
}

/// The state of a link.
pub struct LinkState {
    arguments: LinkArguments,
    gpu: Option<ActorRef<GpuMsg>>,
    connection: Connection,
    session: u64,
    /// All addresses to dial: those of the configuration, and those that the farm told.
    coordinators: String,
    worker: Option<WorkerId>,
    agent: Agent<Work>,
    transfers: Transfers,
    spool_shown: i64,
    leaving: Option<Leaving>,
    /// When the last link that was welcomed was lost; before the first one, when we began to dial.
    offline_since: Instant,
    /// The last look at the time.
    ticked: Instant,
}

impl LinkState {
    pub(in crate::link) fn new(arguments: LinkArguments) -> Self {
        LinkState {
            coordinators: arguments.coordinator.clone(),
            arguments,
            gpu: None,
            connection: Connection::Down { tries: 0 },
            session: 0,
            worker: None,
            agent: Agent::default(),
            transfers: Transfers::default(),
            spool_shown: 0,
            leaving: None,
            offline_since: Instant::now(),
            ticked: Instant::now(),
        }
    }

    pub(in crate::link) fn start(&mut self, myself: &ActorRef<LinkMsg>, gpu: ActorRef<GpuMsg>) {
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

    pub(in crate::link) fn heard(
        &mut self,
        myself: &ActorRef<LinkMsg>,
        session: u64,
        frame: ToWorker,
    ) {
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
            ToWorker::MarksRead { held, draft, reading } => {
                self.transfers.read(held.shard, draft, reading);
                self.show_spool();
            }
            ToWorker::NotStored { held, artifact, reason } => {
                tracing::warn!(%artifact, reason, "an artifact was not stored");
                self.transfers.not_stored(held.shard, artifact, &reason, now);
                self.show_spool();
            }
            ToWorker::NoArtifact(artifact) => {
                let reason = format!("the store has no artifact {artifact}");
                let patience = self.arguments.times.patience;
                self.transfers.received(artifact, Err(Lost::Gone(reason)), patience, now);
            }
            ToWorker::StoreDown(artifact) => {
                let reason = format!("artifact {artifact} cannot be read from the store now");
                let patience = self.arguments.times.patience;
                self.transfers.received(artifact, Err(Lost::Down(reason)), patience, now);
            }
            ToWorker::Heartbeat => {}
            ToWorker::Coordinators(told) => self.told(told),
            ToWorker::Terms { held, terms } => {
                self.claim_answered(held.shard, Ok(Given::Terms(terms)));
            }
            ToWorker::Signed { held, signature } => {
                self.claim_answered(held.shard, Ok(Given::Signature(signature)));
            }
            ToWorker::NotSigned { held, cause, reason } => {
                tracing::warn!(shard = %held.shard, %cause, reason, "a clip was not signed");
                self.claim_answered(held.shard, Err((cause, reason)));
            }
        }
    }

    /// One of these leads the farm if the present coordinator no longer does.
    fn told(&mut self, told: Vec<String>) {
        let configured = self.arguments.coordinator.split(',').map(str::trim);
        let mut known: Vec<String> = configured.map(str::to_owned).collect();
        for address in told.into_iter().take(COORDINATORS_MAX) {
            let plain = address.len() <= ADDRESS_BYTES_MAX && !address.contains(',');
            if plain && !known.contains(&address) {
                known.push(address);
            }
        }
        self.coordinators = known.join(",");
    }

    fn welcomed(
        &mut self,
        myself: &ActorRef<LinkMsg>,
        worker: WorkerId,
        epoch: Epoch,
        keep: &[Kept],
    ) {
        let Connection::Up(up) = &mut self.connection else { return };
        let Ok(dropped) = self.agent.welcomed(epoch, keep, Instant::now()) else {
            let reason = "the welcome is of an older epoch";
            self.drop_line(myself, CloseCode::Protocol, reason);
            return;
        };
        up.welcomed = true;
        up.beat = Instant::now();
        self.worker = Some(worker);
        self.arguments.linked.store(true, Ordering::Relaxed);
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
        let begun = self.agent.table.live().filter(|entry| entry.begun);
        let begun: Vec<(AttemptKey, Held)> = begun.map(|entry| (entry.key, entry.held)).collect();
        for (key, held) in begun {
            self.say(&FromWorker::Started(held));
            // What it does was told to whoever led before.
            if let Some(entry) = self.agent.table.entry(key) {
                entry.work.progress.mark_changed();
            }
        }
        self.say_reports();
        self.advance(myself);
    }

    /// An attempt that nobody wants any more: it stops, and what it sends reaches nobody.
    fn give_up(&mut self, entry: &Entry<Work>) {
        entry.work.attempt.stop(StopWhen::Now, Cause::Ended);
        self.transfers.give_up(Some(entry.key), &CourierError::GivenUp);
        self.show_spool();
    }

    fn ordered(&mut self, order: Order) {
        let held = Held { shard: order.shard, fence: order.fence };
        let served = &self.arguments.profile.models;
        let replaced = match self.agent.ordered(&order, served, self.leaving.is_some()) {
            Ordered::Again => return,
            Ordered::Refused(reason) => return self.refuse(held, reason),
            Ordered::Taken { replaced } => replaced,
        };
        if let Some(entry) = replaced {
            self.give_up(&entry);
        }
        let entry = self.agent.table.insert(held, |key| {
            let attempt = Arc::new(Attempt::new(key, order));
            Work { progress: attempt.progress(), attempt, told: (Instant::now(), 0) }
        });
        let attempt = entry.work.attempt.clone();
        let Some(gpu) = &self.gpu else { return };
        if gpu.cast(GpuMsg::Run(attempt.clone())).is_err() {
            // `WorkerRoot` has been told by supervision and ends the process.
            self.agent.table.remove(attempt.key);
        }
    }

    fn refuse(&self, held: Held, detail: String) {
        tracing::info!(shard = %held.shard, detail, "an order was refused");
        self.say(&FromWorker::Failed { held, cause: Cause::Refused, detail, gpu: Millis(0) });
    }

    fn stop(&mut self, held: Held, when: StopWhen) {
        let Some(entry) = self.agent.table.find(held) else { return };
        // The wire does not say why; the core knows, and takes its own cause.
        let cause = match when {
            StopWhen::Now => Cause::Ended,
            StopWhen::AfterStep => Cause::Preempted,
        };
        let attempt = entry.work.attempt.clone();
        attempt.stop(when, cause);
        if when == StopWhen::Now {
            self.transfers.give_up(Some(attempt.key), &CourierError::GivenUp);
            self.show_spool();
        }
    }

    pub(in crate::link) fn began(&mut self, key: AttemptKey) {
        let Some(entry) = self.agent.table.entry(key) else { return };
        entry.begun = true;
        let held = entry.held;
        self.say(&FromWorker::Started(held));
    }

    pub(in crate::link) fn ended(&mut self, key: AttemptKey, mut report: Report) {
        if let Report::Failed { detail, .. } = &mut report
            && let Some((at, _)) = detail.char_indices().nth(DETAIL_MAX)
        {
            detail.truncate(at);
        }
        self.agent.table.ended(key, report);
        self.say_reports();
        self.consider_leaving();
    }

    fn say_reports(&mut self) {
        if self.up().is_none() {
            return;
        }
        for frame in self.agent.reports(self.session, Instant::now()) {
            self.say(&frame);
        }
    }

    fn say_progress(&mut self, now: Instant) {
        let moving = self.arguments.times.moving;
        let mut frames = Vec::new();
        for entry in self.agent.table.live() {
            let (mut progress, (told, before)) = (entry.work.progress.clone(), entry.work.told);
            let (attempt, held) = (&entry.work.attempt, entry.held);
            let carried = attempt.carried();
            let changed = progress.has_changed().unwrap_or(false);
            let newest = if changed { *progress.borrow_and_update() } else { None };
            let frame = match newest {
                Some(Progress { phase, done, total }) => {
                    Some(FromWorker::Progress { held, phase, done, total })
                }
                // Where one stands that waits for bytes says nothing; that they move does.
                None => {
                    let due = now.saturating_duration_since(told) >= moving && carried > before;
                    let waits = entry.begun && attempt.is_waiting();
                    (due && waits).then_some(FromWorker::Started(held))
                }
            };
            if let Some(frame) = frame {
                frames.push((entry.key, progress, carried, frame));
            }
        }
        for (key, seen, carried, frame) in frames {
            self.say(&frame);
            if let Some(entry) = self.agent.table.entry(key) {
                (entry.work.progress, entry.work.told) = (seen, (now, carried));
            }
        }
    }

    // --- time ---

    pub(in crate::link) fn tick(&mut self, myself: &ActorRef<LinkMsg>) {
        let now = Instant::now();
        let times = self.arguments.times;
        let late = now.saturating_duration_since(self.ticked).saturating_sub(times.tick);
        self.ticked = now;
        if late >= times.heartbeat
            && let Connection::Up(up) = &mut self.connection
        {
            // This process stood still, and frames wait unread: the clock goes on from where it stood.
            up.heard = (up.heard + late).min(now);
        }
        let offline = now.saturating_duration_since(self.offline_since) >= times.patience.offline;
        if offline && self.up().is_none() {
            // Links that come up without a welcome are none.
            let reason = "the coordinator was out of reach for too long".to_string();
            self.transfers.give_up(None, &CourierError::Down(reason));
            self.show_spool();
        }
        match &mut self.connection {
            Connection::Down { .. } => {}
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
                    self.agent.table.forget_arrived(self.session, now);
                    self.say_progress(now);
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

    pub(in crate::link) fn observe(&self, reply: RpcReplyPort<LinkView>) {
        let view = LinkView {
            session: self.session,
            welcomed: self.up().is_some(),
            worker: self.worker,
            epoch: self.agent.epoch(),
            live: self.agent.table.live().count(),
            spool_bytes: self.transfers.spool_bytes(),
        };
        reply.send(view).ok(); // the asker may have stopped waiting
    }
}
