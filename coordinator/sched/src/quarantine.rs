//! Workers that fail a kind too often get nothing of it for a while, and are forgiven with time. Kept by node,
//! so that a new connection or boot does not wash it off.

use crate::core::Core;
use crate::fleet::KINDS_TOO_MANY;
use crate::node::{Node, NodeId};
use crate::output::Output;
use crate::state::KindIx;
use crate::timer::Timer;
use crate::worker::{Running, Worker};
use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::{AttemptNumber, JobId, Millis, ShardId};

/// How a node did at a kind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Attempts that ended, also the good ones.
    pub attempts: u64,
    /// The latest faults, the newest last.
    pub faults: Vec<Fault>,
    /// Quarantines in a row.
    pub strikes: u32,
    /// Until when it is in quarantine.
    pub until: Option<Millis>,
    /// When the last one ended.
    pub released: Millis,
    /// Attempts that must succeed before it is trusted again.
    pub trial: u32,
}

/// An attempt that counts against a node.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// Its number among the node's attempts of the kind.
    pub number: u64,
    pub shard: ShardId,
    pub attempt: AttemptNumber,
    pub at: Millis,
}

/// What the end of an attempt says of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It made its artifact.
    Good,
    Fault,
    /// Nothing: it was preempted, say.
    Other,
}

impl Node {
    /// The kinds that it is in quarantine for.
    pub fn quarantined(&self) -> impl Iterator<Item = KindIx> {
        let records = self.records.iter();
        records.filter(|(_, record)| record.until.is_some()).map(|(kind, _)| *kind)
    }

    fn record(&mut self, kind: KindIx) -> &mut Record {
        let at = match self.records.iter().position(|(k, _)| *k == kind) {
            Some(at) => at,
            None => {
                self.records.push((kind, Record::default()));
                self.records.len() - 1
            }
        };
        &mut self.records[at].1
    }
}

impl Record {
    fn jobs(&self) -> usize {
        let mut jobs: Vec<JobId> = self.faults.iter().map(|fault| fault.shard.job).collect();
        jobs.sort_unstable();
        jobs.dedup();
        jobs.len()
    }
}

impl Core {
    /// Counts an attempt that ended.
    pub(crate) fn record(
        &mut self,
        node: NodeId,
        running: &Running,
        end: End,
        out: &mut Vec<Output>,
    ) {
        let Some(known) = self.state.nodes.get_mut(node) else { return };
        let record = known.record(running.kind);
        record.attempts += 1;
        match end {
            End::Good => record.trial = record.trial.saturating_sub(1),
            End::Fault => {
                let shard = self.held(running).shard;
                self.blame(node, running.kind, (shard, running.fence.attempt), out);
            }
            End::Other => {}
        }
    }

    /// Holds an attempt that ended against its node, and puts the node in quarantine if it is one fault too many. Of an
    /// attempt that had seemed to be good it may be known only now.
    pub(crate) fn blame(
        &mut self,
        node: NodeId,
        kind: KindIx,
        (shard, attempt): (ShardId, AttemptNumber),
        out: &mut Vec<Output>,
    ) {
        let (now, config) = (self.state.now, &self.state.config);
        let Some(known) = self.state.nodes.get_mut(node) else { return };
        let record = known.record(kind);
        let number = record.attempts;
        record.faults.push(Fault { number, shard, attempt, at: now });
        let window = u64::from(config.fault_window);
        record.faults.retain(|fault| {
            fault.number + window > number && fault.at.plus(config.fault_forgotten) > now
        });
        let enough = record.trial > 0 || record.jobs() >= config.fault_max as usize;
        if record.until.is_none() && enough {
            self.quarantine(node, kind, out);
        }
    }

    fn quarantine(&mut self, node: NodeId, kind: KindIx, out: &mut Vec<Output>) {
        let now = self.state.now;
        if !self.may_quarantine(node, kind) {
            // Nobody else, or too many already: the release, the model or a dependency is at fault.
            let until = now.plus(self.state.config.kind_pause);
            self.state.kinds[kind as usize].paused_until = Some(until);
            self.index.served_anew = true;
            self.set_timer(until, Timer::Resume { kind });
            return;
        }
        let worker = self.state.nodes[node].worker;
        if let Some(slot) = worker {
            self.leave_fleet(slot);
        }
        let config = &self.state.config;
        let Some(known) = self.state.nodes.get_mut(node) else { return };
        let record = known.record(kind);
        if record.released.plus(config.quarantine_clean) <= now {
            record.strikes = 0;
        }
        let last = config.quarantine.len() - 1;
        let until = now.plus(config.quarantine[last.min(record.strikes as usize)]);
        record.strikes += 1;
        record.trial = 0;
        record.until = Some(until);
        let jobs: Vec<JobId> = record.faults.iter().map(|fault| fault.shard.job).collect();
        if let Some(slot) = worker {
            self.enter_fleet(slot);
            self.todo.workers.push(slot);
            let of = &self.state.kinds[kind as usize];
            let (worker, model, stage) = (self.state.workers[slot].id, of.model, of.stage);
            out.push(Output::Quarantined { worker, model, stage, until });
        }
        self.set_timer(until, Timer::Release { node, kind });
        let stage = self.state.kinds[kind as usize].stage;
        for job in jobs {
            // The worker is guilty, so the jobs are not.
            let Some(slot) = self.job_slot(job) else { continue };
            for slot in self.shards_of(slot) {
                if let Some(live) = &mut self.state.jobs[slot].live {
                    live.soft.retain(|soft| !(soft.node == node && soft.stage == stage));
                }
            }
        }
    }

    /// Connected workers that serve a kind.
    pub(crate) fn count_serving(&self, kind: KindIx) -> u32 {
        self.index
            .fitting(kind, self.state.kinds[kind as usize].vram_bytes)
            .map(|g| g.members)
            .sum()
    }

    /// Whether a node may be put in quarantine for a kind: not if it is the last one that may get work of it, and only so
    /// many at one time. A second quarantine takes it off all that it serves.
    fn may_quarantine(&self, node: NodeId, kind: KindIx) -> bool {
        let (mut all, mut already) = (0, 0);
        for worker in self.others_serving(node, kind) {
            all += 1;
            already += u64::from(self.is_barred(worker, kind));
        }
        let most = (all + 1) * u64::from(self.state.config.quarantine_percent) / 100;
        if already >= most.max(1) {
            return false;
        }
        let left = |kind| {
            let mut others = self.others_serving(node, kind);
            others.any(|other| other.available && !self.is_barred(other, kind))
        };
        let quarantined: Vec<KindIx> = self.state.nodes[node].quarantined().collect();
        if quarantined.len() + 1 != KINDS_TOO_MANY {
            return left(kind);
        }
        // Looked for here, for one that is being lost is not its node's worker any more.
        let mut workers = self.state.workers.iter().map(|(_, worker)| worker);
        let own = workers.find(|worker| worker.node == node);
        let serves = |kind: &KindIx| own.is_some_and(|own| self.serves(own, *kind));
        let mut others = (0..self.state.kinds.len() as KindIx).filter(serves);
        left(kind) && others.all(|other| quarantined.contains(&other) || left(other))
    }

    fn others_serving(&self, node: NodeId, kind: KindIx) -> impl Iterator<Item = &Worker> {
        let workers = self.state.workers.iter().map(|(_, worker)| worker);
        workers.filter(move |worker| worker.node != node && self.serves(worker, kind))
    }

    fn serves(&self, worker: &Worker, kind: KindIx) -> bool {
        let of = &self.state.kinds[kind as usize];
        let said = worker.said.serves.binary_search(&(of.model, of.stage)).is_ok();
        said && worker.vram_bytes >= of.vram_bytes
    }

    /// Whether a worker gets nothing of a kind for what it failed, of that kind or of others.
    fn is_barred(&self, worker: &Worker, kind: KindIx) -> bool {
        worker.barred.contains(&kind) || worker.barred.len() >= KINDS_TOO_MANY
    }

    /// The time of a quarantine is over.
    pub(crate) fn release(&mut self, node: NodeId, kind: KindIx) {
        let now = self.state.now;
        let Some(known) = self.state.nodes.get(node) else { return };
        let over = |(k, record): &(KindIx, Record)| {
            *k == kind && record.until.is_some_and(|until| until <= now)
        };
        if known.records.iter().any(over) {
            self.lift(node, kind);
            let trial = self.state.config.probation;
            if let Some(known) = self.state.nodes.get_mut(node) {
                known.record(kind).trial = trial;
            }
        }
    }

    fn lift(&mut self, node: NodeId, kind: KindIx) {
        let now = self.state.now;
        let Some(known) = self.state.nodes.get(node) else { return };
        let worker = known.worker;
        if let Some(slot) = worker {
            self.leave_fleet(slot);
        }
        if let Some(known) = self.state.nodes.get_mut(node) {
            let record = known.record(kind);
            record.until = None;
            record.released = now;
            record.faults.clear();
        }
        if let Some(slot) = worker {
            self.enter_fleet(slot);
            self.todo.workers.push(slot);
        }
    }

    /// The pause of a kind is over.
    pub(crate) fn resume_kind(&mut self, kind: KindIx) {
        let now = self.state.now;
        let paused = &mut self.state.kinds[kind as usize].paused_until;
        if paused.is_some_and(|until| until <= now) {
            *paused = None;
            self.index.served_anew = true;
            self.look_again(kind);
            self.todo.preempt = true;
        }
    }

    /// A job proved to be poison: it counts against no worker any more. A quarantine without enough evidence ends.
    pub(crate) fn absolve_node(&mut self, node: NodeId, job: JobId, out: &mut Vec<Output>) {
        let now = self.state.now;
        let Some(known) = self.state.nodes.get_mut(node) else { return };
        let enough = self.state.config.fault_max as usize;
        let mut lifted = Vec::new();
        for (kind, record) in &mut known.records {
            let before = record.faults.len();
            record.faults.retain(|fault| fault.shard.job != job);
            let less = record.faults.len() < before;
            if less && record.until.is_some() && record.jobs() < enough {
                record.strikes -= 1;
                lifted.push(*kind);
            }
        }
        for kind in lifted {
            self.lift(node, kind);
            if let Some(slot) = self.state.nodes[node].worker {
                let of = &self.state.kinds[kind as usize];
                let (worker, model, stage) = (self.state.workers[slot].id, of.model, of.stage);
                out.push(Output::Quarantined { worker, model, stage, until: now });
            }
        }
    }

    /// Takes one attempt's fault off a node. Each shard numbers its attempts from one.
    pub(crate) fn forgive_attempt(
        &mut self,
        node: NodeId,
        kind: KindIx,
        (shard, attempt): (ShardId, AttemptNumber),
    ) {
        let Some(known) = self.state.nodes.get_mut(node) else { return };
        let record = known.records.iter_mut().find(|(of, _)| *of == kind);
        if let Some((_, record)) = record.filter(|(_, record)| record.until.is_none()) {
            record.faults.retain(|fault| (fault.shard, fault.attempt) != (shard, attempt));
        }
    }
}
