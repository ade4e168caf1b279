//! Virtual time: one queue of events, one thread, one seed. Events are carried out by the rooms beside this one;
//! here is only who may hear them now: a process that stands still hears them later, a dead one never.

use crate::chance::Chance;
use crate::check::Checker;
use crate::client::{Ask, Client};
use crate::faults::Fault;
use crate::host::Host;
use crate::net::Conn;
use crate::plan::Plan;
use crate::store::{Flip, Store};
use crate::worker::Worker;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};
use zoetrope_coordinator::jobs::Assets;
use zoetrope_protocol::id::{ArtifactId, JobId};
use zoetrope_protocol::job::ArtifactRef;
use zoetrope_protocol::wire::{ArtifactHeader, Held};

/// Something that happens at a moment.
#[derive(Clone, Debug)]
pub enum Event {
    /// A second passed, for everyone.
    Pulse,
    /// A frame of a control stream arrives.
    Frame { conn: u64, to_host: bool, bytes: Vec<u8> },
    /// The end of a connection arrives.
    Closed { conn: u64, to_host: bool },
    /// An artifact's stream has arrived at the coordinator.
    Upload { conn: u64, header: ArtifactHeader, whole: bool },
    /// The store took an artifact, or not.
    Put { conn: u64, held: Held, artifact: ArtifactRef, stored: bool },
    /// An artifact's stream has arrived at a worker.
    Fetched { conn: u64, artifact: ArtifactId },
    /// A worker dials.
    Dial { worker: usize, boot: u64, session: u64 },
    /// The unit of work on a gpu is done.
    Unit { worker: usize, boot: u64, turn: u64 },
    /// A worker's process starts.
    Boot { worker: usize },
    /// A sync returned.
    Sync { host: usize, life: u64, through: u64 },
    /// The dispatch actor hears of it.
    Synced { host: usize, life: u64, through: u64 },
    /// A snapshot is on disk.
    Saved { host: usize, life: u64, through: u64, body: Vec<u8> },
    /// The core's moment.
    Wake { host: usize, life: u64, at: u64 },
    /// The storage sidecar gets to a publication.
    Flip { host: usize, life: u64, job: JobId, assets: Box<Assets> },
    /// Its answer.
    Flipped { host: usize, life: u64, job: JobId, flip: Result<Flip, ()> },
    /// A coordinator's process starts.
    Start { host: usize },
    /// A caller does something.
    Call { client: usize, ask: Ask },
    /// A fault.
    Fault(Fault),
}

struct Timed {
    at: u64,
    seq: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

/// The farm and all that is around it.
pub struct World {
    /// The schedule.
    pub plan: Plan,
    /// All chance in it.
    pub chance: Chance,
    /// Virtual time, in milliseconds.
    pub now: u64,
    /// Events so far.
    pub events: u64,
    /// From here on there are no more faults.
    pub healed: bool,
    restarted: bool,
    /// The coordinator, and perhaps an old copy of its machine.
    pub hosts: Vec<Host>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// The callers, one for each job.
    pub clients: Vec<Client>,
    /// Connections that are not over.
    pub conns: BTreeMap<u64, Conn>,
    /// The store.
    pub store: Store,
    /// Who watches.
    pub checker: Checker,
    pub(crate) next_conn: u64,
    queue: BinaryHeap<Timed>,
    seq: u64,
    base: Instant,
}

/// What a run was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// Events.
    pub events: u64,
    /// Journal records.
    pub records: u64,
    /// Jobs that ended with a clip.
    pub completed: u64,
    /// Jobs that ended without one.
    pub failed: u64,
    /// Restarts of the coordinator.
    pub restarts: u64,
}

/// After the faults every job must end within this time. The longest way: three quarantines of 10 minutes and as
/// many retries, each up to its hard limit.
const HEALED_MS: u64 = 6 * 3_600_000;

/// Runs a schedule.
///
/// # Errors
/// What was broken, in words. That a part panicked too, so that its seed is told and the next ones run.
pub fn run(plan: Plan) -> Result<Ran, String> {
    let mut world = World::new(plan);
    let went = panic::catch_unwind(AssertUnwindSafe(|| {
        world.begin();
        world.go()
    }));
    let result = went.unwrap_or_else(|_| Err("a part of the farm panicked, see above".to_owned()));
    result.map_err(|broken| format!("at {} ms: {broken}", world.now))?;
    Ok(world.ran())
}

impl World {
    fn new(plan: Plan) -> World {
        let chance = Chance::new(plan.seed);
        World {
            chance,
            now: 0,
            events: 0,
            healed: false,
            restarted: false,
            hosts: Vec::new(),
            workers: Vec::new(),
            clients: Vec::new(),
            conns: BTreeMap::new(),
            store: Store::default(),
            checker: Checker::new(&plan),
            next_conn: 1,
            queue: BinaryHeap::new(),
            seq: 0,
            base: Instant::now(),
            plan,
        }
    }

    fn begin(&mut self) {
        self.hosts.push(Host::new(&self.plan));
        self.at(0, Event::Start { host: 0 });
        for worker in 0..self.plan.gpus.len() {
            self.workers.push(Worker::new(worker, self.plan.gpus[worker]));
            let after = self.chance.range(0, 2_000);
            self.at(after, Event::Boot { worker });
        }
        self.make_clients();
        self.plan_faults();
        self.at(1_000, Event::Pulse);
    }

    /// Something happens after so many milliseconds.
    pub fn at(&mut self, after: u64, event: Event) {
        self.seq += 1;
        self.queue.push(Timed { at: self.now + after, seq: self.seq, event });
    }

    /// This moment as a monotonic clock shows it.
    pub fn instant(&self) -> Instant {
        self.base + Duration::from_millis(self.now)
    }

    fn go(&mut self) -> Result<(), String> {
        loop {
            let Some(Timed { at, event, .. }) = self.queue.pop() else {
                return Err("nothing happens any more".to_owned());
            };
            self.now = at;
            self.events += 1;
            if !self.healed && self.now >= self.plan.faults_until {
                self.heal();
            }
            self.event(event);
            self.checker.verdict()?;
            if self.healed && self.events.is_multiple_of(16) && self.is_over() {
                if self.restarted {
                    return self.check_end();
                }
                // Behind a last restart everything must still be there.
                self.restarted = true;
                self.crash(0);
            }
            if self.now > self.plan.faults_until + HEALED_MS {
                return Err(self.stuck());
            }
        }
    }

    fn event(&mut self, event: Event) {
        let event = match self.not_now(event) {
            Some(event) => event,
            None => return,
        };
        match event {
            Event::Pulse => {
                self.pulse();
                self.at(1_000, Event::Pulse);
            }
            Event::Frame { conn, to_host: true, bytes } => self.host_hears(conn, &bytes),
            Event::Frame { conn, to_host: false, bytes } => self.worker_hears(conn, &bytes),
            Event::Closed { conn, to_host: true } => self.host_loses(conn),
            Event::Closed { conn, to_host: false } => self.worker_loses(conn),
            Event::Upload { conn, header, whole } => self.uploaded(conn, header, whole),
            Event::Put { conn, held, artifact, stored } => {
                self.was_put(conn, held, artifact, stored)
            }
            Event::Fetched { conn, artifact } => self.fetched(conn, artifact),
            Event::Dial { worker, boot, session } => self.dial(worker, boot, session),
            Event::Unit { worker, boot, turn } => self.unit_done(worker, boot, turn),
            Event::Boot { worker } => self.boot(worker),
            Event::Sync { host, life, through } => self.sync_returned(host, life, through),
            Event::Synced { host, life, through } => self.synced(host, life, through),
            Event::Saved { host, life, through, body } => self.saved(host, life, through, &body),
            Event::Wake { host, life, at } => self.wake(host, life, at),
            Event::Flip { host, life, job, assets } => self.flip(host, life, job, &assets),
            Event::Flipped { host, life, job, flip } => self.flipped(host, life, job, flip),
            Event::Start { host } => self.start(host),
            Event::Call { client, ask } => self.call(client, ask),
            Event::Fault(fault) => self.fault(fault),
        }
    }

    /// An event that its process cannot hear now is put off, or lost; all others come back.
    fn not_now(&mut self, event: Event) -> Option<Event> {
        let (host, worker) = match &event {
            Event::Frame { conn, to_host, .. } | Event::Closed { conn, to_host } => {
                let conn = self.conns.get(conn)?;
                if *to_host { (Some(conn.host), None) } else { (None, Some(conn.worker)) }
            }
            Event::Upload { conn, .. } | Event::Put { conn, .. } => {
                (Some(self.conns.get(conn)?.host), None)
            }
            Event::Fetched { conn, .. } => (None, Some(self.conns.get(conn)?.worker)),
            Event::Dial { worker, .. } | Event::Unit { worker, .. } => (None, Some(*worker)),
            Event::Sync { host, .. }
            | Event::Synced { host, .. }
            | Event::Saved { host, .. }
            | Event::Wake { host, .. }
            | Event::Flip { host, .. }
            | Event::Flipped { host, .. } => (Some(*host), None),
            _ => return Some(event),
        };
        let until = match (host, worker) {
            (Some(host), _) => self.hosts[host].paused_until,
            (_, Some(worker)) => self.workers[worker].paused_until,
            _ => 0,
        };
        if until > self.now {
            // In the order in which they came: all are put off to the same moment.
            let after = until - self.now;
            self.at(after, event);
            return None;
        }
        Some(event)
    }

    fn is_over(&self) -> bool {
        let host = &self.hosts[0];
        let Some(running) = &host.running else { return false };
        let idle = running.books.core.counts().unfinished() == 0;
        idle && self.clients.iter().all(Client::is_done) && self.is_clean()
    }

    /// Whether all that nobody uses has left the store; given up after a while, so that the check says what stays.
    fn is_clean(&self) -> bool {
        let Some(running) = &self.hosts[0].running else { return false };
        let since = self.checker.last_record_at;
        let quiet = self.now > since + 3 * self.plan.keep_unused + 10_000;
        quiet && running.deletes.is_empty()
            || self.now > since + 4 * self.plan.keep_unused + 600_000
    }

    fn stuck(&self) -> String {
        let Some(running) = &self.hosts[0].running else {
            return "the coordinator is down for ever".to_owned();
        };
        let core = &running.books.core;
        let jobs = self.clients.iter().filter_map(|client| client.acknowledged());
        let waits = jobs.filter_map(|job| Some((job, core.why(running.books.now(), job)?)));
        let waits: Vec<String> = waits.take(3).map(|(job, why)| format!("{job}: {why}")).collect();
        let open = self.clients.iter().filter(|client| !client.is_done()).count();
        format!(
            "not live: {} jobs have not ended {HEALED_MS} ms after the last fault, {open} callers wait; {}",
            core.counts().unfinished(),
            waits.join("; ")
        )
    }

    fn ran(&self) -> Ran {
        Ran {
            virtual_ms: self.now,
            events: self.events,
            records: self.checker.records(),
            completed: self.checker.completed,
            failed: self.checker.failed,
            restarts: self.hosts[0].life,
        }
    }
}
