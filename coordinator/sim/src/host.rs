//! The coordinator's process around the real parts of it: books, ledger, sessions, recovery. What the actors do
//! with threads, sockets and clocks is done here with events; what they decide is decided by the same code.

use crate::client::Answer;
use crate::disk::Disk;
use crate::plan::Plan;
use crate::world::{Event, World};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use zoetrope_coordinator::dispatch::books::{Books, Effects, Entry};
use zoetrope_coordinator::dispatch::ledger::{Ledger, snapshot_due};
use zoetrope_coordinator::dispatch::{DispatchLimits, opening};
use zoetrope_coordinator::link::LinkLimits;
use zoetrope_coordinator::link::session::Session;
use zoetrope_coordinator::models::Models;
use zoetrope_protocol::id::{ArtifactId, JobId, Millis, TenantId, WorkerId};
use zoetrope_protocol::wire::ToWorker;
use zoetrope_sched::input::TenantPolicy;
use zoetrope_sched::{Config, Input, Output};

/// The wall clock at the beginning.
const WALL: u64 = 1_700_000_000_000;
/// The soonest that a wake-up follows another, as in the dispatch actor.
const WAKE_MIN: u64 = 10;

/// Something that waits for the disk.
pub enum Effect {
    /// What the core wants.
    Output(Box<Output>),
    /// Nobody uses these any more.
    Delete(Vec<ArtifactId>),
    /// Tell a worker something.
    Tell(WorkerId, Box<ToWorker>),
    /// Remove a pointer.
    Unpublish(JobId),
    /// Answer a caller.
    Answer(usize, Answer),
}

/// A machine that runs the coordinator.
pub struct Host {
    /// Its disk.
    pub disk: Disk,
    /// Starts so far.
    pub life: u64,
    /// Its process, while it runs.
    pub running: Option<Running>,
    /// It stands still until this moment.
    pub paused_until: u64,
    /// How far its clock is off, in milliseconds.
    pub skew: i64,
    /// Syncs take longer until this moment.
    pub slow_until: u64,
    /// Nothing can be written until this moment.
    pub full_until: u64,
    /// The process dies when this many more syncs have begun, at this point.
    pub dies: Option<(u64, Point)>,
    /// An old copy of the machine: it talks to workers, and no caller talks to it.
    pub stray: bool,
}

/// A moment around a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before anything is written.
    BeforeWrite,
    /// Written, not synced.
    BeforeSync,
    /// On disk, and nobody knows.
    AfterSync,
    /// On disk and told, all effects carried out.
    AfterEffects,
}

/// A coordinator's process.
pub struct Running {
    pub books: Books,
    pub ledger: Ledger<Effect>,
    pub sessions: BTreeMap<u64, Session>,
    pub links: BTreeMap<WorkerId, u64>,
    pub workers: BTreeMap<u64, WorkerId>,
    pub deletes: VecDeque<(u64, ArtifactId)>,
    /// Encoded records that the journal's thread has not written.
    queue: Vec<Vec<u8>>,
    /// The last record that was written.
    written: u64,
    syncing: bool,
    saving: bool,
    snapshot_at: u64,
    alarm: Option<Millis>,
}

impl Host {
    /// A machine with an empty disk.
    pub fn new(_plan: &Plan) -> Host {
        Host {
            disk: Disk::default(),
            life: 0,
            running: None,
            paused_until: 0,
            skew: 0,
            slow_until: 0,
            full_until: 0,
            dies: None,
            stray: false,
        }
    }
}

/// The models of every simulated farm.
pub fn models(plan: &Plan) -> Models {
    thread_local! {
        static MODELS: Models = Models::with(&[]).expect("the embedded manifest is good");
    }
    let models = MODELS.with(Clone::clone);
    let cut = plan.decode_chunks.map(|chunks| (models.default().manifest.id.clone(), chunks));
    models.cut(&cut.into_iter().collect()).expect("the default model is in the table")
}

/// A worker may load weights for so long.
const LOAD_SECONDS: u64 = 900;

/// The limits of every simulated farm.
pub fn limits(plan: &Plan) -> DispatchLimits {
    let policy = |cap: &u32| TenantPolicy { weight: 1, running_max: *cap };
    let numbered = (1..).zip(&plan.caps);
    DispatchLimits {
        jobs_of_tenant: 1_000_000,
        jobs_of_farm: 1_000_000,
        journal_waiting: 1_000_000,
        snapshot_every: plan.snapshot_every,
        checkpoint_every: plan.checkpoint_every,
        verdict_grace: Config::default().verdict_grace.plus(Millis(LOAD_SECONDS * 1_000)),
        tenant: TenantPolicy { weight: 1, running_max: 4 },
        tenants: numbered.map(|(tenant, cap)| (TenantId(tenant), policy(cap))).collect(),
        vram_bytes: BTreeMap::new(),
        keep_unused: Duration::from_millis(plan.keep_unused),
        keep: plan.keep,
    }
}

/// How patient links are.
pub fn link_limits(plan: &Plan) -> LinkLimits {
    // Five steps, at least 10 s: what a slow gpu does not keep.
    let stall = Duration::from_millis((plan.step_ms * 5).max(10_000));
    LinkLimits { stall, load: Duration::from_secs(LOAD_SECONDS), connections: 10_000 }
}

impl World {
    /// The running process of a life; none once that has ended.
    pub fn process(&mut self, host: usize, life: u64) -> Option<&mut Running> {
        let host = &mut self.hosts[host];
        if host.life == life { host.running.as_mut() } else { None }
    }

    /// What a host's clock shows.
    pub fn wall(&self, host: usize) -> Millis {
        Millis((WALL + self.now).saturating_add_signed(self.hosts[host].skew))
    }

    /// Starts the process: recovery, then a new epoch.
    pub fn start(&mut self, host: usize) {
        if self.hosts[host].running.is_some() {
            return;
        }
        let found = match self.hosts[host].disk.recover() {
            Ok(found) => found,
            Err(broken) => return self.checker.breaks(format!("recovery fails: {broken}")),
        };
        let at = &mut self.hosts[host];
        at.life += 1;
        let stray = at.stray;
        if !stray {
            self.checker.recovered(&found.books, found.next);
        }
        let snapshot_at = snapshot_due(found.next, found.replayed, self.plan.snapshot_every);
        self.hosts[host].running = Some(Running {
            books: found.books,
            ledger: Ledger::new(found.next),
            sessions: BTreeMap::new(),
            links: BTreeMap::new(),
            workers: BTreeMap::new(),
            deletes: VecDeque::new(),
            queue: Vec::new(),
            written: found.next - 1,
            syncing: false,
            saving: false,
            snapshot_at,
            alarm: None,
        });
        let limits = limits(&self.plan);
        if let Some(running) = &self.hosts[host].running {
            for entry in opening(&running.books, &models(&self.plan), &limits) {
                self.record(host, entry);
            }
        }
        if !stray {
            self.sweep(host);
        }
        self.commit(host);
        self.tell_old_connections(host);
    }

    /// Artifacts that no job used when the process started.
    fn sweep(&mut self, host: usize) {
        self.store.forget_fresh();
        let Some(running) = &self.hosts[host].running else { return };
        let unused = |a: &&ArtifactId| !running.books.table.uses(a);
        let unused: Vec<ArtifactId> = self.store.list().filter(unused).copied().collect();
        for job in running.books.table.without_pointer() {
            self.store.pointers.remove(&job);
        }
        self.delete_later(host, unused);
    }

    /// A restarted coordinator answers packets of connections that died with its last process.
    fn tell_old_connections(&mut self, host: usize) {
        let life = self.hosts[host].life;
        let old = self.conns.iter().filter(|(_, c)| c.host == host && c.life != life);
        let old: Vec<u64> = old.map(|(id, _)| *id).collect();
        for conn in old {
            let after = self.chance.range(0, 1_000);
            self.at(after, Event::Closed { conn, to_host: false });
        }
    }

    /// The process dies; its disk keeps what it must and what it likes.
    pub fn crash(&mut self, host: usize) {
        let at = &mut self.hosts[host];
        if at.running.take().is_none() {
            return;
        }
        at.dies = None;
        at.paused_until = 0;
        at.disk.crash(&mut self.chance);
        let after = self.chance.range(200, 8_000);
        if !self.hosts[host].stray {
            self.at(after, Event::Start { host });
        }
    }

    /// Puts an entry on its way to the disk and into the books.
    pub fn record(&mut self, host: usize, entry: Entry) {
        let now = self.wall(host);
        let Host { running: Some(running), stray, .. } = &mut self.hosts[host] else { return };
        let watched = (!*stray).then(|| entry.clone());
        let before = watched.as_ref().map(|_| running.books.now().max(now));
        // The jobs of this world are admitted as judged ones: its intake is empty.
        let Effects { outputs, free, .. } = running.ledger.record(&mut running.books, now, entry);
        if let (Some(entry), Some(at)) = (watched, before) {
            self.checker.recorded(self.now, at, &entry, &outputs, &running.books);
        }
        for output in outputs {
            running.ledger.after_sync(Effect::Output(Box::new(output)));
        }
        if !free.is_empty() {
            running.ledger.after_sync(Effect::Delete(free));
        }
    }

    /// Records an input of the core.
    pub fn input(&mut self, host: usize, input: Input) {
        self.record(host, Entry::Core(input));
    }

    /// Runs an effect once all that was recorded so far is on disk.
    pub fn after_sync(&mut self, host: usize, effect: Effect) {
        if let Some(running) = &mut self.hosts[host].running {
            running.ledger.after_sync(effect);
        }
    }

    /// Ends whatever the dispatch actor was told: effects that wait for nothing, then the journal.
    pub fn commit(&mut self, host: usize) {
        loop {
            let Some(running) = &mut self.hosts[host].running else { return };
            let Some(effect) = running.ledger.due() else { break };
            self.effect(host, effect);
        }
        let Some(running) = &mut self.hosts[host].running else { return };
        running.queue.extend(running.ledger.take_staged());
        self.set_alarm(host);
        self.snapshot(host);
        self.write(host);
    }

    fn dies_at(&mut self, host: usize, point: Point) -> bool {
        let dies = &mut self.hosts[host].dies;
        match dies {
            Some((syncs, at)) if *at == point => {
                *syncs = syncs.saturating_sub(1);
                let now = *syncs == 0;
                if now {
                    self.crash(host);
                }
                now
            }
            _ => false,
        }
    }

    /// The journal's thread takes all that waits.
    fn write(&mut self, host: usize) {
        let Some(running) = &self.hosts[host].running else { return };
        if running.syncing || running.queue.is_empty() {
            return;
        }
        if self.dies_at(host, Point::BeforeWrite) {
            return;
        }
        if self.hosts[host].full_until > self.now {
            // The journal's thread gives up, and the process ends with it.
            return self.crash(host);
        }
        let slow = self.hosts[host].slow_until > self.now;
        let takes = if slow { self.chance.range(500, 5_000) } else { self.chance.range(1, 12) };
        let at = &mut self.hosts[host];
        let Some(running) = &mut at.running else { return };
        let bodies = std::mem::take(&mut running.queue);
        at.disk.write(running.written + 1, &bodies);
        running.written += bodies.len() as u64;
        running.syncing = true;
        let (life, through) = (at.life, running.written);
        if !self.dies_at(host, Point::BeforeSync) {
            self.at(takes, Event::Sync { host, life, through });
        }
    }

    /// A sync returned: the journal's thread says so, and goes on.
    pub fn sync_returned(&mut self, host: usize, life: u64, through: u64) {
        let Some(running) = self.process(host, life) else { return };
        running.syncing = false;
        self.hosts[host].disk.sync(through);
        if self.dies_at(host, Point::AfterSync) {
            return;
        }
        self.at(0, Event::Synced { host, life, through });
        self.write(host);
    }

    /// The dispatch actor hears of a sync.
    pub fn synced(&mut self, host: usize, life: u64, through: u64) {
        let Some(running) = self.process(host, life) else { return };
        running.ledger.synced(through);
        self.commit(host);
        self.dies_at(host, Point::AfterEffects);
    }

    /// Saves the state behind all records so far, once it is time.
    fn snapshot(&mut self, host: usize) {
        let life = self.hosts[host].life;
        let every = self.plan.snapshot_every;
        let Some(running) = &mut self.hosts[host].running else { return };
        let next = running.ledger.recorded() + 1;
        if next <= running.snapshot_at {
            return;
        }
        running.snapshot_at = next + every;
        if running.saving {
            return;
        }
        running.saving = true;
        let through = next - 1;
        let body = match running.books.snapshot().encode() {
            Ok(body) => body,
            Err(error) => return self.checker.breaks(format!("a snapshot: {error}")),
        };
        self.flush_before_snapshot(host);
        self.hosts[host].disk.begin_segment(through);
        let after = self.chance.range(5, 300);
        self.at(after, Event::Saved { host, life, through, body });
    }

    /// The journal's thread writes and syncs what came before the snapshot before it turns to it.
    fn flush_before_snapshot(&mut self, host: usize) {
        let at = &mut self.hosts[host];
        let Some(running) = &mut at.running else { return };
        let bodies = std::mem::take(&mut running.queue);
        at.disk.write(running.written + 1, &bodies);
        running.written += bodies.len() as u64;
        at.disk.sync(running.written);
        let (life, through) = (at.life, running.written);
        self.at(1, Event::Synced { host, life, through });
    }

    /// A snapshot is on disk.
    pub fn saved(&mut self, host: usize, life: u64, through: u64, body: &[u8]) {
        let Some(running) = self.process(host, life) else { return };
        running.saving = false;
        self.hosts[host].disk.save(through, body);
    }

    fn set_alarm(&mut self, host: usize) {
        let (life, wall) = (self.hosts[host].life, self.wall(host));
        let Some(running) = &mut self.hosts[host].running else { return };
        let wanted = running.books.core.next_wakeup();
        if running.alarm == wanted {
            return;
        }
        running.alarm = wanted;
        if let Some(at) = wanted {
            let wait = at.minus(wall).0.max(WAKE_MIN);
            self.at(wait, Event::Wake { host, life, at: at.0 });
        }
    }

    /// The core's moment, as it was when the alarm was set.
    pub fn wake(&mut self, host: usize, life: u64, at: u64) {
        let wall = self.wall(host);
        let Some(running) = self.process(host, life) else { return };
        if running.alarm != Some(Millis(at)) {
            return;
        }
        running.alarm = None;
        let now = wall.max(running.books.now());
        if running.books.core.next_wakeup().is_some_and(|at| at <= now) {
            self.input(host, Input::TimePassed);
        }
        self.set_alarm(host);
        self.commit(host);
    }

    /// What nobody uses goes after a while.
    pub fn delete_later(&mut self, host: usize, artifacts: Vec<ArtifactId>) {
        let due = self.now + self.plan.keep_unused;
        if let Some(running) = &mut self.hosts[host].running {
            running.deletes.extend(artifacts.into_iter().map(|artifact| (due, artifact)));
        }
    }

    /// Deletes what is due, as the storage sidecar does; what cannot go yet is tried again.
    fn delete_due(&mut self, host: usize) {
        if self.hosts[host].stray {
            return;
        }
        let (mut kept, mut gone) = (Vec::new(), BTreeSet::new());
        loop {
            let (now, keep) = (self.now, self.plan.keep_unused);
            let Some(running) = &mut self.hosts[host].running else { return };
            let due = running.deletes.pop_front_if(|(at, _)| *at <= now);
            let Some((_, artifact)) = due else { break };
            // Another job may have made the same bytes since.
            if running.books.table.uses(&artifact) {
                continue;
            }
            let answers = self.store.answers(now);
            if !answers || !self.store.delete(&artifact, keep, now) {
                kept.push(artifact);
            } else {
                gone.insert(artifact);
            }
        }
        self.checker.deleted(&gone);
        self.delete_later(host, kept);
    }

    /// A second passed for a coordinator: what its dispatch actor and its links look at.
    pub fn host_pulse(&mut self, host: usize) {
        if self.hosts[host].paused_until > self.now {
            return;
        }
        self.links_pulse(host);
        let wall = self.wall(host);
        let Some(running) = &self.hosts[host].running else { return };
        for job in running.books.table.expired(wall, 256) {
            self.record(host, Entry::Expired { job });
        }
        let keep = self.plan.keep;
        let Some(running) = &self.hosts[host].running else { return };
        for job in running.books.table.left_behind(wall, keep, 256) {
            self.record(host, Entry::CleanedUp { job });
        }
        self.delete_due(host);
        let Some(running) = &self.hosts[host].running else { return };
        let due = running.books.core.next_wakeup().is_some_and(|at| at <= wall);
        if due && running.alarm.is_none() {
            self.input(host, Input::TimePassed);
        }
        self.commit(host);
    }
}
