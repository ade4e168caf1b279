//! The invariants. Held after every input in tests, and now and then in production: it looks at everything.

use crate::core::Core;
use crate::index::{Queue, Turn};
use crate::job::Standing;
use crate::keys::{Key, Keys};
use crate::state::KindIx;
use crate::timer::Timer;
use crate::turns::Turns;
use crate::view::Counts;
use crate::worker::Doing;
use std::collections::{BTreeMap, BTreeSet};
use zoetrope_protocol::job::{Class, Stage};

/// Ends the check with a sentence unless the condition holds.
macro_rules! hold {
    ($condition:expr, $($sentence:tt)+) => {
        if !$condition {
            return Err(format!($($sentence)+));
        }
    };
}

impl Core {
    /// Holds all invariants against the state.
    ///
    /// # Errors
    /// A sentence about the first one that is broken.
    pub fn check(&self) -> Result<(), String> {
        hold!(self.todo.is_empty(), "something was left undone");
        let due = self.next_wakeup().is_none_or(|at| self.index.due <= at);
        hold!(due, "something is due before the core looks for it");
        self.check_jobs()?;
        self.check_tenants()?;
        self.check_workers()?;
        self.check_groups()?;
        self.check_clocks()?;
        self.check_drained()?;
        self.check_preemption()?;
        self.check_work()?;
        self.check_live()
    }

    fn check_jobs(&self) -> Result<(), String> {
        let jobs = &self.state.jobs;
        let whole = jobs.iter().filter(|(_, job)| job.part.is_none()).count();
        hold!(whole == self.index.jobs.len(), "the index of jobs has another length");
        hold!(self.by_age().count() == whole, "a job is missing in the list by age");
        self.check_parts()?;
        let (mut scarred, mut aging) = (0, 0);
        for (slot, job) in jobs.iter() {
            let id = job.id;
            let at = self.job_slot(id);
            hold!(at == Some(self.owner(slot)), "{id} is not where the index says");
            let chain = &self.state.models[job.model as usize].chain;
            hold!((job.position as usize) < chain.len(), "{id} is beyond its chain");
            if let Some(deadline) = job.deadline {
                hold!(deadline > self.state.now, "{id} outlived its deadline");
                hold!(self.index.deadlines.contains(&(deadline, slot)), "{id} has no timer");
            }
            let young = job.rank == Class::Flex && self.ages_at(slot) > self.state.now;
            let listed = self.index.aging.has(job.seq);
            hold!(listed == (young && job.part.is_none()), "{id} is wrong among those that age");
            aging += usize::from(listed);
            let age = self.state.now.minus(job.submitted);
            hold!(age < self.state.config.job_age_max, "{id} is too old");
            let timed = |until| {
                let timer = Timer::Job { slot, seq: job.seq };
                until > self.state.now && self.state.timers.contains(&(until, timer))
            };
            let flow = &self.index.flows[job.tenant as usize][job.rank as usize];
            let queue = flow.queue(self.state.kind_of(job));
            let queued = queue.is_some_and(|queue| queue.contains(self.key_of(slot)));
            match job.standing() {
                Standing::Ready => {
                    hold!(queued, "{id} is ready and in no queue");
                    let avoids = job.live.as_ref().is_some_and(|live| live.choosy());
                    hold!(
                        avoids == self.index.scarred.contains(&slot),
                        "{id} is wrong among those that avoid a worker"
                    );
                    scarred += usize::from(avoids);
                }
                Standing::BackingOff { until } | Standing::PublishBackingOff { until } => {
                    hold!(timed(until), "{id} backs off for ever");
                }
                Standing::Running { worker } => {
                    let worker = self.state.workers.get(worker);
                    let running = worker.and_then(|worker| worker.running());
                    hold!(running.is_some_and(|r| r.job == slot), "{id} runs nowhere");
                }
                Standing::Parted => {}
                Standing::Publishing => {
                    let finished = job.live.as_ref().is_some_and(|live| live.finished.is_some());
                    hold!(finished, "{id} is published without a clip");
                }
            }
            hold!(
                queued == (job.standing() == Standing::Ready),
                "{id} is in a queue and not ready"
            );
            if let Some(live) = &job.live {
                let most = live.attempts.iter().max().copied().unwrap_or(0);
                hold!(most <= self.state.config.attempts_max, "{id} was tried too often");
            }
        }
        hold!(scarred == self.index.scarred.len(), "a shard is scarred and not ready");
        hold!(aging == self.index.aging.len(), "one that ended ages");
        let timed = jobs.iter().filter(|(_, job)| job.deadline.is_some()).count();
        hold!(timed == self.index.deadlines.len(), "a deadline has no job");
        self.check_counts()
    }

    fn check_counts(&self) -> Result<(), String> {
        let jobs = &self.state.jobs;
        let mut counts = Counts::default();
        for (slot, _) in jobs.iter() {
            counts.add(&self.gauges(slot));
        }
        let kept = self.index.counts;
        hold!(counts == kept, "there are {counts:?}, counted were {kept:?}");
        let whole = jobs.iter().filter(|(_, job)| job.part.is_none()).count();
        hold!(self.index.counts.unfinished() == whole as u64, "jobs are miscounted");
        let running: u64 =
            Stage::ALL.iter().map(|s| self.index.counts.shards[*s as usize][2]).sum();
        let really = self.state.workers.iter().filter(|(_, w)| w.running().is_some()).count();
        hold!(running == really as u64, "running shards are miscounted");
        Ok(())
    }

    fn check_tenants(&self) -> Result<(), String> {
        let mut counted = vec![(0, 0, 0); self.state.tenants.len()];
        for (_, job) in self.state.jobs.iter() {
            let of = &mut counted[job.tenant as usize];
            of.0 += u32::from(job.part.is_none());
            of.1 += u32::from(job.live.is_none());
            of.2 += u32::from(matches!(job.standing(), Standing::Running { .. }));
        }
        for (_, worker) in self.state.workers.iter() {
            if let Doing::Stopping { taken, .. } = worker.doing {
                counted[taken.tenant as usize].2 += 1;
            }
        }
        let mut turns = 0;
        for (place, tenant) in (0_u32..).zip(&self.state.tenants) {
            let id = tenant.id;
            hold!(self.index.tenants.get(&id) == Some(&place), "{id} is not where the index says");
            let kept = (tenant.unfinished, tenant.queued, tenant.running);
            hold!(counted[place as usize] == kept, "{id} is miscounted");
            for class in Class::ALL {
                let flow = &self.index.flows[place as usize][class as usize];
                for Queue { kind, clock, seat, .. } in &flow.queues {
                    let same = *clock == self.state.kinds[*kind as usize].clock;
                    hold!(same, "{id} waits by another clock than its kind");
                    let virtual_time = self.virtual_time(place, *kind, class);
                    let turn = Turn { virtual_time, tenant: id, place };
                    let told = self.index.turns[*kind as usize][class as usize].turn(*seat);
                    let listed = told.is_some();
                    hold!(told.is_none_or(|told| told == turn), "{id} has another's turn");
                    hold!(listed != tenant.capped(), "{id} is listed wrongly in {class}");
                    turns += usize::from(listed);
                }
            }
        }
        let listed: usize = self.index.turns.iter().flatten().map(Turns::len).sum();
        hold!(turns == listed, "a turn has no queue");
        Ok(())
    }

    fn check_workers(&self) -> Result<(), String> {
        let workers = &self.state.workers;
        hold!(workers.len() == self.index.workers.len(), "the index of workers has another length");
        let mut nodes = BTreeSet::new();
        for (slot, worker) in workers.iter() {
            let id = worker.id;
            hold!(self.worker_slot(id) == Some(slot), "{id} is not where the index says");
            hold!(id < self.state.next_worker, "{id} is greater than the next");
            let node = self.state.nodes.get(worker.node);
            hold!(node.is_some_and(|n| n.worker == Some(slot)), "{id} is not its node's worker");
            hold!(nodes.insert(worker.node), "two workers on one node");
            let grace =
                |(_, timer): &(_, Timer)| *timer == Timer::Grace { epoch: self.state.epoch };
            let awaited = worker.connected || self.state.timers.iter().any(grace);
            hold!(awaited, "{id} is away for ever");
            match worker.doing {
                Doing::Running(running) => {
                    let job = self.state.jobs.get(running.job);
                    hold!(
                        job.is_some_and(|j| j.standing() == Standing::Running { worker: slot }),
                        "{id} runs a shard that does not know it"
                    );
                    hold!(running.fence.epoch <= self.state.epoch, "{id} is ahead of its time");
                    hold!(
                        !worker.connected || running.fence.epoch == self.state.epoch,
                        "{id} runs under an old epoch"
                    );
                }
                Doing::Stopping { until, .. } => {
                    hold!(until > self.state.now, "{id} stops for ever");
                }
                Doing::Idle => {}
            }
        }
        for (id, node) in self.state.nodes.iter() {
            hold!(self.index.nodes.get(&node.name) == Some(&id), "{} is lost", node.name);
            if let Some(slot) = node.worker {
                hold!(workers.get(slot).is_some_and(|w| w.node == id), "{} has none", node.name);
            }
            for (_, record) in &node.records {
                let most = self.state.config.probation;
                hold!(record.trial <= most, "{} has a long probation", node.name);
                let over = record.until.is_some_and(|until| until <= self.state.now);
                hold!(!over, "{} is in quarantine for ever", node.name);
            }
        }
        Ok(())
    }

    fn check_drained(&self) -> Result<(), String> {
        let timers = self.state.timers.iter().filter_map(|(at, timer)| match timer {
            Timer::Drained { node, boot, drain } => Some(((*node, *boot), (*at, *drain))),
            _ => None,
        });
        let timers: Vec<_> = timers.collect();
        let found = |(boot, drain): &(_, _)| self.index.drained.get(boot) == Some(drain);
        let same = timers.len() == self.index.drained.len() && timers.iter().all(found);
        hold!(same, "a drain is remembered and will not be forgotten, or the other way round");
        Ok(())
    }

    fn check_groups(&self) -> Result<(), String> {
        let mut free = 0;
        for (slot, worker) in self.state.workers.iter() {
            let at = self.index.group_of[slot as usize];
            let group = &self.index.groups[at as usize];
            let same = group.vram_bytes == worker.vram_bytes && group.serves == worker.said.serves;
            hold!(same, "{} is in a foreign group", worker.id);
            let known = worker.available == self.may_get_work(worker)
                && self.state.nodes[worker.node].quarantined().eq(worker.barred.iter().copied());
            hold!(known, "{} may do other things than it seems", worker.id);
            let idle = worker.doing == Doing::Idle && worker.available;
            let listed = group.free.contains(&crate::fleet::free_key(worker, slot));
            hold!(idle == listed, "{} is listed wrongly among the free", worker.id);
            free += usize::from(listed);
        }
        let listed: usize = self.index.groups.iter().map(|group| group.free.len()).sum();
        hold!(free == listed && self.index.free as usize == free, "a free worker is gone");
        let mut counted = vec![(0, 0); self.index.groups.len()];
        for (slot, worker) in self.state.workers.iter() {
            let of = &mut counted[self.index.group_of[slot as usize] as usize];
            of.0 += 1;
            of.1 += u32::from(worker.available);
        }
        for (group, counted) in self.index.groups.iter().zip(counted) {
            let kept = (group.members, group.available);
            hold!(kept == counted, "a group is miscounted");
        }
        let mut barred: Vec<BTreeMap<KindIx, u32>> = vec![BTreeMap::new(); self.index.groups.len()];
        for (slot, worker) in self.state.workers.iter().filter(|(_, worker)| worker.available) {
            let group = self.index.group_of[slot as usize] as usize;
            for kind in &worker.barred {
                *barred[group].entry(*kind).or_default() += 1;
            }
        }
        for (group, barred) in self.index.groups.iter().zip(barred) {
            let kept: BTreeMap<KindIx, u32> = group.quarantined.iter().copied().collect();
            let once = kept.len() == group.quarantined.len();
            hold!(once && kept == barred, "a group's quarantines are miscounted");
        }
        Ok(())
    }

    /// No free worker could run an admissible shard.
    fn check_live(&self) -> Result<(), String> {
        if let Some(gate) = &self.state.gate {
            let timed = self.state.timers.iter().any(|(_, timer)| *timer == Timer::Gate);
            // Or whoever comes next tries it.
            hold!(timed || gate.tokens > 0, "a dependency is down for ever");
            if gate.tokens == 0 {
                return Ok(());
            }
        }
        for (kind, turns) in self.index.turns.iter().enumerate() {
            if self.state.paused(kind as u16) {
                let until = self.state.kinds[kind].paused_until;
                hold!(until > Some(self.state.now), "a kind is paused for ever");
                continue;
            }
            if !self.any_free(kind as u16) {
                continue;
            }
            for (class, turns) in turns.iter().enumerate() {
                for turn in turns.iter() {
                    let flow = &self.index.flows[turn.place as usize][class];
                    for Key { slot, .. } in flow.queue(kind as u16).into_iter().flat_map(Keys::iter)
                    {
                        hold!(
                            self.best_worker(*slot).is_none(),
                            "{} waits while a worker is free for it",
                            self.state.jobs[*slot].id
                        );
                    }
                }
            }
        }
        Ok(())
    }
}
