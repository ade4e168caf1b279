//! A worker's process around the real agent: dialling, greeting, reports, uploads, leaving. As the worker's link
//! actor does it, with events for sockets. The gpu is in `gpu.rs`.

use crate::gpu::{GpuRun, Work};
use crate::net::Way;
use crate::plan;
use crate::world::{Event, World};
use std::collections::{BTreeSet, VecDeque};
use zoetrope_agent::{Agent, AttemptKey, Entry, Ordered, Report};
use zoetrope_protocol::Stage;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, Epoch, Millis};
use zoetrope_protocol::job::{ArtifactRef, Cause};
use zoetrope_protocol::wire::{
    ArtifactHeader, DrainKind, FromWorker, Held, Identity, Kept, LOSS_AFTER, Order, Profile,
    ServedModel, StopWhen, ToWorker,
};

/// Tries of one upload, over connections that live.
const TRIES_MAX: u32 = 3;
/// From the last byte sent to the acknowledgement.
const ANSWER: u64 = 60_000;
/// How long uploads wait for a lost link.
const OFFLINE: u64 = 600_000;
/// A leaving worker waits so long for a connection.
const LEAVE_OFFLINE: u64 = 15_000;

/// A worker's machine and process.
pub struct Worker {
    /// The name in its certificate.
    pub node: String,
    /// Two workers share a host.
    machine: String,
    /// Of the running process; grows with each.
    pub boot: u64,
    /// Connections of this boot.
    pub session: u64,
    /// The process runs.
    pub alive: bool,
    /// It stands still until this moment.
    pub paused_until: u64,
    /// How its gpu is.
    pub gpu: plan::Gpu,
    /// Its way to the coordinator.
    pub way: Way,
    /// What it holds and whom it follows.
    pub agent: Agent<Work>,
    /// What its gpu does.
    pub run: Option<GpuRun>,
    /// Attempts behind that.
    pub waiting: VecDeque<AttemptKey>,
    /// Artifacts on its disk.
    pub cache: BTreeSet<ArtifactId>,
    /// Artifacts on their way to the store.
    pub uploads: Vec<Upload>,
    /// Counts units of work, so that an old one is not taken for a new one.
    pub turn: u64,
    conn: Option<Line>,
    tries: u32,
    down_since: u64,
    leaving: Option<Leaving>,
    /// The newest epoch that this boot was welcomed in.
    welcomed_in: Epoch,
}

/// A connection that is up.
#[derive(Clone, Copy, Debug)]
struct Line {
    conn: u64,
    welcomed: bool,
    heard: u64,
}

/// That the process ends.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    until: Option<u64>,
    since: u64,
    said: bool,
}

/// An artifact on its way to the store.
#[derive(Clone, Copy, Debug)]
pub struct Upload {
    pub key: AttemptKey,
    pub artifact: ArtifactRef,
    /// When it goes out; none while its answer is awaited.
    due: Option<u64>,
    sent: u64,
    tries: u32,
}

impl Worker {
    /// A machine that was not started yet.
    pub fn new(number: usize, gpu: plan::Gpu) -> Worker {
        Worker {
            node: format!("node-{number}"),
            machine: format!("host-{}", number / 2),
            boot: 0,
            session: 0,
            alive: false,
            paused_until: 0,
            gpu,
            way: Way::default(),
            agent: Agent::default(),
            run: None,
            waiting: VecDeque::new(),
            cache: BTreeSet::new(),
            uploads: Vec::new(),
            turn: 0,
            conn: None,
            tries: 0,
            down_since: 0,
            leaving: None,
            welcomed_in: Epoch(0),
        }
    }

    /// Whether its heartbeat goes out on this connection.
    pub fn beats(&self, conn: u64, now: u64) -> bool {
        let up = self.conn.is_some_and(|line| line.conn == conn && line.welcomed);
        self.alive && up && self.paused_until <= now
    }

    /// What it serves.
    pub fn served() -> Vec<ServedModel> {
        let stages = Stage::ALL.to_vec();
        vec![ServedModel { id: "toybox".to_owned(), fingerprint: ArtifactId([7; 32]), stages }]
    }

    fn profile(&self) -> Profile {
        Profile {
            pool: "pool".to_owned(),
            gpu_kind: "simulated".to_owned(),
            vram_bytes: 80 << 30,
            version: "0".to_owned(),
            models: Worker::served(),
            machine: self.machine.clone(),
        }
    }

    fn up(&self) -> Option<u64> {
        self.conn.filter(|line| line.welcomed).map(|line| line.conn)
    }
}

impl World {
    // --- the process ---

    /// The process starts.
    pub fn boot(&mut self, worker: usize) {
        let of = &mut self.workers[worker];
        if of.alive {
            return;
        }
        of.alive = true;
        of.boot += 1;
        of.session = 0;
        of.paused_until = 0;
        of.agent = Agent::default();
        of.leaving = None;
        of.tries = 0;
        of.down_since = self.now;
        of.welcomed_in = Epoch(0);
        self.redial(worker);
    }

    /// The process dies without a word.
    pub fn kill(&mut self, worker: usize, back_after: u64) {
        let of = &mut self.workers[worker];
        if !of.alive {
            return;
        }
        of.alive = false;
        of.conn = None;
        of.run = None;
        of.waiting.clear();
        of.uploads.clear();
        of.turn += 1;
        of.paused_until = 0;
        if self.chance.one_in(4) {
            self.workers[worker].cache.clear();
        }
        self.at(back_after, Event::Boot { worker });
    }

    // --- the connection ---

    fn redial(&mut self, worker: usize) {
        let of = &mut self.workers[worker];
        of.session += 1;
        let wait = (100 << of.tries.min(5)).min(2_000);
        let wait = if of.tries == 0 { 0 } else { wait };
        of.tries += 1;
        let (boot, session) = (of.boot, of.session);
        let wait = self.chance.range(wait / 2, wait);
        self.at(wait, Event::Dial { worker, boot, session });
    }

    /// A dial reaches a coordinator, or fails.
    pub fn dial(&mut self, worker: usize, boot: u64, session: u64) {
        let of = &self.workers[worker];
        if !of.alive || (of.boot, of.session) != (boot, session) || of.conn.is_some() {
            return;
        }
        // An old copy of the machine has the same address.
        let stray = self.hosts.len() > 1 && self.hosts[1].running.is_some();
        let host = usize::from(stray && self.chance.one_in(2));
        let there = self.hosts[host].running.is_some() && self.hosts[host].paused_until <= self.now;
        if !there || !self.passes(worker, true) || !self.passes(worker, false) {
            return self.redial(worker);
        }
        let conn = self.open(worker, host);
        let of = &mut self.workers[worker];
        of.conn = Some(Line { conn, welcomed: false, heard: self.now });
        let identity = Identity { node: of.node.clone(), boot, session };
        let hello =
            FromWorker::Hello { identity, profile: of.profile(), held: of.agent.table.held() };
        self.send(conn, true, &hello);
    }

    /// Ends the connection and dials again.
    fn drop_line(&mut self, worker: usize, close: bool) {
        let now = self.now;
        let of = &mut self.workers[worker];
        let Some(line) = of.conn.take() else { return };
        of.tries = if line.welcomed { 1 } else { 3 };
        of.down_since = now;
        for upload in &mut of.uploads {
            upload.due = Some(now);
        }
        let said = of.leaving.is_some_and(|leaving| leaving.said);
        if close {
            self.close(line.conn, false);
        }
        if said {
            self.gone(worker);
        } else {
            self.redial(worker);
        }
    }

    /// The end of a connection arrives.
    pub fn worker_loses(&mut self, conn: u64) {
        let Some(of) = self.conns.remove(&conn) else { return };
        if self.workers[of.worker].conn.is_some_and(|line| line.conn == conn) {
            self.drop_line(of.worker, false);
        }
    }

    /// Says a frame on a welcomed connection. What is said into the void is made good by the next hello.
    pub fn say(&mut self, worker: usize, frame: &FromWorker) {
        if let Some(conn) = self.workers[worker].up() {
            self.send(conn, true, frame);
        }
    }

    /// A frame of a coordinator arrives.
    pub fn worker_hears(&mut self, conn: u64, bytes: &[u8]) {
        let Some(of) = self.conns.get(&conn) else { return };
        let (worker, cut) = (of.worker, of.cut);
        let now = self.now;
        let Some(line) = self.workers[worker].conn.as_mut() else { return };
        if line.conn != conn || cut {
            return;
        }
        line.heard = now;
        let welcomed = line.welcomed;
        let frame: ToWorker = match codec::decode(bytes) {
            Ok(frame) => frame,
            Err(error) => return self.checker.breaks(format!("a coordinator's frame: {error}")),
        };
        if !welcomed && !matches!(frame, ToWorker::Welcome { .. } | ToWorker::Heartbeat) {
            return self.drop_line(worker, true);
        }
        match frame {
            ToWorker::Welcome { epoch, keep, .. } => self.welcomed(worker, epoch, &keep),
            ToWorker::Order(order) => self.ordered(worker, order),
            ToWorker::Stop { held, when } => self.stop(worker, held, when),
            ToWorker::Drain(kind) => self.leave(worker, kind),
            ToWorker::Stored { held, artifact } => {
                let acked = self.workers[worker].take_uploads(held, artifact);
                self.checker.stored_was_told(held, &acked);
                self.gpu_goes_on(worker);
            }
            ToWorker::NotStored { held, artifact, .. } => {
                self.upload_failed(worker, held, artifact);
            }
            ToWorker::NoArtifact(artifact) => self.not_fetched(worker, artifact),
            // One address for all; a simulated store is not down for a read; and simulated clips are published unsigned, so nobody asks for terms.
            ToWorker::Coordinators(_)
            | ToWorker::Terms { .. }
            | ToWorker::Signed { .. }
            | ToWorker::NotSigned { .. }
            | ToWorker::StoreDown(_)
            | ToWorker::MarksRead { .. }
            | ToWorker::Heartbeat => {}
        }
    }

    fn welcomed(&mut self, worker: usize, epoch: Epoch, keep: &[Kept]) {
        let instant = self.instant();
        let of = &mut self.workers[worker];
        let Ok(dropped) = of.agent.welcomed(epoch, keep, instant) else {
            return self.drop_line(worker, true);
        };
        if epoch < of.welcomed_in {
            let (now, before) = (epoch.0, of.welcomed_in.0);
            let broken = format!("fenced: {} follows epoch {now} after {before}", of.node);
            return self.checker.breaks(broken);
        }
        of.welcomed_in = epoch;
        if let Some(line) = &mut of.conn {
            line.welcomed = true;
        }
        for entry in dropped {
            self.give_up(worker, &entry);
        }
        let of = &self.workers[worker];
        if let Some(leaving) = of.leaving {
            self.say(worker, &FromWorker::Leaving { within: within(leaving.until, self.now) });
        }
        let begun = self.workers[worker].agent.table.live().filter(|e| e.begun).map(|e| e.held);
        let begun: Vec<Held> = begun.collect();
        for held in begun {
            self.say(worker, &FromWorker::Started(held));
        }
        self.say_reports(worker);
        self.send_due(worker);
        self.fetch_again(worker);
        self.consider_leaving(worker);
    }

    fn give_up(&mut self, worker: usize, entry: &Entry<Work>) {
        self.workers[worker].uploads.retain(|upload| upload.key != entry.key);
        self.gpu_given_up(worker, entry.key);
    }

    fn ordered(&mut self, worker: usize, order: Order) {
        let held = Held { shard: order.shard, fence: order.fence };
        let of = &mut self.workers[worker];
        if order.fence.epoch < of.welcomed_in {
            let broken = format!("fenced: {} is given an order of an old epoch", of.node);
            return self.checker.breaks(broken);
        }
        let leaving = of.leaving.is_some();
        match of.agent.ordered(&order, &Worker::served(), leaving) {
            Ordered::Again => return,
            Ordered::Refused(detail) => {
                let refused =
                    FromWorker::Failed { held, cause: Cause::Refused, detail, gpu: Millis(0) };
                return self.say(worker, &refused);
            }
            Ordered::Taken { replaced: Some(entry) } => self.give_up(worker, &entry),
            Ordered::Taken { replaced: None } => {}
        }
        let of = &mut self.workers[worker];
        let key = of.agent.table.insert(held, |_| Work::new(order)).key;
        of.waiting.push_back(key);
        self.gpu_next(worker);
    }

    fn stop(&mut self, worker: usize, held: Held, when: StopWhen) {
        let cause = match when {
            StopWhen::Now => Cause::Ended,
            StopWhen::AfterStep => Cause::Preempted,
        };
        let Some(key) = self.workers[worker].agent.table.find(held).map(|entry| entry.key) else {
            return;
        };
        self.stop_attempt(worker, key, when, cause);
    }

    /// The attempt is to stop; at once, if it waits for somebody else.
    pub fn stop_attempt(&mut self, worker: usize, key: AttemptKey, when: StopWhen, cause: Cause) {
        let of = &mut self.workers[worker];
        if let Some(entry) = of.agent.table.entry(key) {
            entry.work.stop(when, cause);
        }
        if when == StopWhen::Now {
            of.uploads.retain(|upload| upload.key != key);
            self.gpu_goes_on(worker);
        }
    }

    // --- reports ---

    /// An attempt ended on the gpu.
    pub fn ended(&mut self, worker: usize, key: AttemptKey, report: Report) {
        self.workers[worker].agent.table.ended(key, report);
        self.say_reports(worker);
        self.consider_leaving(worker);
    }

    fn say_reports(&mut self, worker: usize) {
        let now = self.instant();
        let of = &mut self.workers[worker];
        if of.up().is_none() {
            return;
        }
        for frame in of.agent.reports(of.session, now) {
            self.say(worker, &frame);
        }
    }

    // --- artifacts ---

    /// Takes an upload on.
    pub fn store_artifact(&mut self, worker: usize, key: AttemptKey, artifact: ArtifactRef) {
        let of = &mut self.workers[worker];
        of.cache.insert(artifact.artifact);
        of.uploads.push(Upload { key, artifact, due: Some(self.now), sent: 0, tries: 0 });
        self.send_due(worker);
    }

    fn send_due(&mut self, worker: usize) {
        let now = self.now;
        let Some(conn) = self.workers[worker].up() else { return };
        let wrong = self.workers[worker].gpu == plan::Gpu::WrongDigest && !self.healed;
        let of = &mut self.workers[worker];
        let mut headers = Vec::new();
        for upload in of.uploads.iter_mut().filter(|u| u.due.is_some_and(|due| due <= now)) {
            let Some(entry) = of.agent.table.entry(upload.key) else { continue };
            upload.due = None;
            upload.sent = now;
            let ArtifactRef { role, artifact, bytes } = upload.artifact;
            headers.push(ArtifactHeader {
                held: Some(entry.held),
                role: Some(role),
                artifact,
                bytes,
            });
        }
        for header in headers {
            let whole = !(wrong && self.chance.one_in(2));
            // A stream of its own: in no order with the frames.
            self.carry(conn, true, false, Event::Upload { conn, header, whole });
        }
    }

    fn upload_failed(&mut self, worker: usize, held: Held, artifact: ArtifactId) {
        let shard = held.shard;
        let of = &mut self.workers[worker];
        let keys: Vec<AttemptKey> = of.keys_of(shard);
        let mine = |u: &&mut Upload| keys.contains(&u.key) && u.artifact.artifact == artifact;
        let Some(upload) = of.uploads.iter_mut().find(mine) else { return };
        upload.tries += 1;
        if upload.tries < TRIES_MAX {
            upload.due = Some(self.now + 1_000 * u64::from(upload.tries));
            return;
        }
        let key = upload.key;
        self.workers[worker].uploads.retain(|upload| upload.key != key);
        self.gpu_failed(worker, key, Cause::DependencyDown);
    }

    // --- time ---

    /// A second passed for a worker.
    pub fn worker_pulse(&mut self, worker: usize) {
        if !self.workers[worker].alive || self.workers[worker].paused_until > self.now {
            return;
        }
        let (now, instant) = (self.now, self.instant());
        if let Some(line) = self.workers[worker].conn {
            let of = self.conns.get(&line.conn).map(|c| (c.host, c.life));
            let speaks = of.is_some_and(|(host, life)| {
                let at = &self.hosts[host];
                let session =
                    at.running.as_ref().is_some_and(|r| r.sessions.contains_key(&line.conn));
                session && at.life == life && at.paused_until <= now
            });
            let hears = speaks && self.passes(worker, false);
            let of = &mut self.workers[worker];
            if let Some(line) = of.conn.as_mut().filter(|_| hears) {
                line.heard = now;
            }
            if now - of.conn.map_or(now, |line| line.heard) >= LOSS_AFTER.0 {
                self.drop_line(worker, true);
            } else if line.welcomed {
                let of = &mut self.workers[worker];
                of.agent.table.forget_arrived(of.session, instant);
                let late = |u: &&Upload| u.due.is_none() && now - u.sent >= ANSWER;
                let late: Vec<Upload> = of.uploads.iter().filter(late).copied().collect();
                for upload in late {
                    if let Some(entry) = self.workers[worker].agent.table.entry(upload.key) {
                        let held = entry.held;
                        self.upload_failed(worker, held, upload.artifact.artifact);
                    }
                }
            }
        } else if now - self.workers[worker].down_since >= OFFLINE {
            let keys: Vec<AttemptKey> =
                self.workers[worker].uploads.iter().map(|u| u.key).collect();
            self.workers[worker].uploads.clear();
            for key in keys {
                self.gpu_failed(worker, key, Cause::DependencyDown);
            }
        }
        self.send_due(worker);
        self.gpu_pulse(worker);
        self.consider_leaving(worker);
    }

    // --- leaving ---

    /// The process is to end: no more orders, finish as `kind` says, say so, and go.
    pub fn leave(&mut self, worker: usize, kind: DrainKind) {
        let now = self.now;
        let until = match kind {
            DrainKind::Immediate => Some(now + 5_000),
            DrainKind::Step | DrainKind::Shard => None,
            DrainKind::Deadline(within) => Some(now + within.0),
        };
        let of = &mut self.workers[worker];
        let leaving = of.leaving.get_or_insert(Leaving { until, since: now, said: false });
        leaving.until = match (leaving.until, until) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => old.or(new),
        };
        let until = leaving.until;
        self.say(worker, &FromWorker::Leaving { within: within(until, now) });
        let when = match kind {
            DrainKind::Immediate => Some(StopWhen::Now),
            DrainKind::Step => Some(StopWhen::AfterStep),
            DrainKind::Shard | DrainKind::Deadline(_) => None,
        };
        self.stop_gpu(worker, when);
        self.consider_leaving(worker);
    }

    fn consider_leaving(&mut self, worker: usize) {
        let now = self.now;
        let of = &mut self.workers[worker];
        let Some(leaving) = of.leaving.filter(|leaving| of.alive && !leaving.said) else { return };
        let late = leaving.until.is_some_and(|until| now >= until);
        let offline = now - leaving.since >= LEAVE_OFFLINE;
        if late {
            let live: Vec<AttemptKey> = of.agent.table.live().map(|entry| entry.key).collect();
            for key in &live {
                let detail = "time is up".to_owned();
                let report = Report::Failed { cause: Cause::Drained, detail, gpu: Millis(0) };
                of.agent.table.ended(*key, report);
            }
            of.uploads.clear();
            of.run = None;
            of.waiting.clear();
            of.turn += 1;
            self.say_reports(worker);
        }
        let of = &mut self.workers[worker];
        if of.agent.table.live().next().is_some() {
            return;
        }
        if of.up().is_some() {
            if let Some(leaving) = &mut of.leaving {
                leaving.said = true;
            }
            self.say(worker, &FromWorker::Left);
        } else if late || offline {
            self.gone(worker);
        }
    }

    /// The process ends, and whoever watches over it starts it again.
    fn gone(&mut self, worker: usize) {
        let after = self.chance.range(500, 20_000);
        self.kill(worker, after);
    }
}

impl Worker {
    fn keys_of(&self, shard: zoetrope_protocol::ShardId) -> Vec<AttemptKey> {
        let of = self.agent.table.live().filter(|entry| entry.held.shard == shard);
        of.map(|entry| entry.key).collect()
    }

    /// The coordinator has an artifact, of whichever attempt of the shard.
    fn take_uploads(&mut self, held: Held, artifact: ArtifactId) -> Vec<ArtifactRef> {
        let keys = self.keys_of(held.shard);
        let mine = |u: &Upload| keys.contains(&u.key) && u.artifact.artifact == artifact;
        let taken = self.uploads.iter().filter(|u| mine(u)).map(|u| u.artifact).collect();
        self.uploads.retain(|upload| !mine(upload));
        taken
    }
}

fn within(until: Option<u64>, now: u64) -> Millis {
    Millis(until.map_or(7_200_000, |until| until.saturating_sub(now)))
}
