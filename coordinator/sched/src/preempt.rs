//! Room for a higher class: which attempt leaves its worker after the step in hand, and when none may.
//!
//! A ready shard of a higher class for which no worker is free claims one attempt of a lower class. Only denoising
//! is preempted: its latents are stored at the step's end, so nothing is done twice. A job of class flex that has
//! waited long enough ranks as default.

use crate::core::Core;
use crate::job::{Job, Live};
use crate::keys::Keys;
use crate::output::Output;
use crate::slab::Slot;
use crate::state::KindIx;
use crate::timer::Timer;
use crate::worker::{Doing, Leaves};
use std::cmp::Reverse;
use zoetrope_protocol::id::{Millis, WorkerId};
use zoetrope_protocol::job::{Class, Stage};
use zoetrope_protocol::wire::StopWhen;

/// So many waiting shards, and so many attempts of a group, are looked at for one input: beyond it the next input
/// goes on. It bounds the time of a decision where nearly all may not be preempted.
const LOOK_MAX: usize = 64;

/// An attempt that may be preempted. The best first: the lowest class, then the least often preempted, then the
/// youngest, which has the longest way to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Victim {
    pub rank: Reverse<Class>,
    pub preemptions: u32,
    pub since: Reverse<Millis>,
    pub worker: WorkerId,
    pub slot: Slot,
}

/// Whether an attempt can be preempted now.
enum Now {
    Yes,
    /// Only from a moment on.
    From(Millis),
    /// Not before it has stored more, if ever.
    No,
}

/// Who makes room for a shard.
enum Found {
    /// The attempt on the worker of this place.
    Victim(Slot),
    /// Nobody before this moment.
    From(Millis),
    None,
}

impl Core {
    /// The worker's attempt as one that a higher class may preempt.
    fn victim(&self, slot: Slot) -> Option<Victim> {
        let worker = self.state.workers.get(slot).filter(|worker| worker.available)?;
        let running = worker.running().filter(|running| running.stage == Stage::Denoise)?;
        let live = self.state.jobs[running.job].live.as_ref()?;
        let allowed = running.rank > Class::Priority
            && running.leaves.is_none()
            && live.preemptions < self.state.config.preempt_max;
        allowed.then_some(Victim {
            rank: Reverse(running.rank),
            preemptions: live.preemptions,
            since: Reverse(running.since),
            worker: worker.id,
            slot,
        })
    }

    /// Enters the worker's attempt among those that may be preempted, if it is one.
    pub(crate) fn enter_victims(&mut self, slot: Slot) {
        let Some(victim) = self.victim(slot) else { return };
        let group = &mut self.index.groups[self.index.group_of[slot as usize] as usize];
        if group.victims.insert(victim) {
            self.index.victims += 1;
            self.todo.preempt = true;
        }
    }

    /// The opposite; to be called before the worker or its attempt changes.
    pub(crate) fn leave_victims(&mut self, slot: Slot) {
        let Some(victim) = self.victim(slot) else { return };
        let group = &mut self.index.groups[self.index.group_of[slot as usize] as usize];
        self.index.victims -= u32::from(group.victims.remove(&victim));
    }

    /// After all was placed: lets attempts of lower classes leave for shards that still wait.
    pub(crate) fn make_room(&mut self, out: &mut Vec<Output>) {
        let spare = std::mem::take(&mut self.todo.spare);
        let mut wanting = std::mem::take(&mut self.todo.wanting);
        let again = std::mem::take(&mut self.todo.preempt);
        for slot in wanting.drain(..) {
            if self.wants_room(slot) && !self.take_spare(slot, &spare) {
                self.preempt_for(slot, out);
            }
        }
        if self.todo.wanting.is_empty() {
            // Keep the allocation.
            self.todo.wanting = wanting;
        }
        if again && self.index.victims > 0 && !self.gated() {
            for slot in self.waiting_long() {
                self.preempt_for(slot, out);
            }
        }
    }

    /// Whether a shard waits for a worker alone, and nobody leaves for it yet.
    fn wants_room(&self, slot: Slot) -> bool {
        self.ready(slot) && {
            let job = &self.state.jobs[slot];
            let tenant = &self.state.tenants[job.tenant as usize];
            job.rank < Class::Flex
                && !self.gated()
                && !tenant.capped()
                && !self.state.paused(self.state.kind_of(job))
                && !self.index.claims.contains_key(&slot)
        }
    }

    /// The first shards of each class and kind that want room and could have it.
    fn waiting_long(&self) -> Vec<Slot> {
        let mut found = Vec::new();
        for class in [Class::Priority, Class::Default] {
            for kind in 0..self.state.kinds.len() as KindIx {
                let below = |victim: &Victim| victim.rank.0 > class;
                let possible = self.waiting(kind, class)
                    && self.index.fitting(kind, 0).any(|g| g.victims.first().is_some_and(below));
                if !possible {
                    continue;
                }
                let turns = self.index.turns[kind as usize][class as usize].iter();
                let queues = turns.filter_map(|turn| {
                    self.index.flows[turn.place as usize][class as usize].queue(kind)
                });
                let slots = queues.flat_map(Keys::iter).map(|key| key.slot);
                found.extend(slots.filter(|slot| self.wants_room(*slot)).take(LOOK_MAX));
            }
        }
        found
    }

    /// An attempt that leaves anyway may leave for this shard.
    fn take_spare(&mut self, slot: Slot, spare: &[Slot]) -> bool {
        let job = &self.state.jobs[slot];
        let (kind, need) = (self.state.kind_of(job), self.need(job));
        let found = spare.iter().copied().find(|at| {
            let Some(worker) = self.state.workers.get(*at) else { return false };
            let leaves = worker.running().and_then(|running| running.leaves);
            leaves == Some(Leaves::Preempted { claim: None })
                && self.fits(*at, kind, need)
                && self.may_take(job, worker)
        });
        if let Some(worker) = found {
            self.claim(slot, worker);
        }
        found.is_some()
    }

    fn preempt_for(&mut self, slot: Slot, out: &mut Vec<Output>) {
        match self.find_victim(slot) {
            Found::Victim(victim) => self.preempt(victim, slot, out),
            Found::From(at) => self.set_timer(at, Timer::Preempt),
            Found::None => {}
        }
    }

    /// The attempt that should leave for a shard.
    fn find_victim(&self, slot: Slot) -> Found {
        let job = &self.state.jobs[slot];
        let (kind, need, class) = (self.state.kind_of(job), self.need(job), job.rank);
        let mut from: Option<Millis> = None;
        let mut found = None;
        for group in self.index.fitting(kind, need) {
            let below = group.victims.iter().take_while(|victim| victim.rank.0 > class);
            for victim in below.take(LOOK_MAX) {
                let worker = &self.state.workers[victim.slot];
                if worker.barred.contains(&kind) || !self.may_take(job, worker) {
                    continue;
                }
                match self.preemptible(victim.slot, class) {
                    Now::Yes => {
                        if found.is_none_or(|best| *victim < best) {
                            found = Some(*victim);
                        }
                        break;
                    }
                    Now::From(at) => from = Some(from.map_or(at, |before| before.min(at))),
                    Now::No => {}
                }
            }
        }
        match (found, from) {
            (Some(victim), _) => Found::Victim(victim.slot),
            (None, Some(at)) => Found::From(at),
            (None, None) => Found::None,
        }
    }

    /// Whether a class may preempt a worker's attempt at this moment.
    fn preemptible(&self, slot: Slot, class: Class) -> Now {
        let config = &self.state.config;
        let Some(running) = self.state.workers[slot].running() else { return Now::No };
        let job = &self.state.jobs[running.job];
        let Some(live) = &job.live else { return Now::No };
        if self.rank_now(job) <= class {
            return Now::No;
        }
        let (done, steps) = (u64::from(live.newest_step()), u64::from(job.steps));
        let last = 100_u64.saturating_sub(config.preempt_last_percent.into());
        // One more step is in hand, and the last one is finished rather than stopped.
        if done + 1 >= steps || done * 100 >= steps * last {
            return Now::No;
        }
        match live.preempted.as_deref().copied() {
            Some((_, step)) if live.newest_step() < step.saturating_add(config.preempt_steps) => {
                Now::No
            }
            Some((at, _)) if at.plus(config.preempt_pause) > self.state.now => {
                Now::From(at.plus(config.preempt_pause))
            }
            _ => Now::Yes,
        }
    }

    fn preempt(&mut self, victim: Slot, slot: Slot, out: &mut Vec<Output>) {
        self.leave_victims(victim);
        self.claim(slot, victim);
        self.put_out_leave(victim, out);
    }

    /// Tells a worker's attempt to leave after the step in hand.
    pub(crate) fn put_out_leave(&self, slot: Slot, out: &mut Vec<Output>) {
        let worker = &self.state.workers[slot];
        if let Some(running) = worker.running() {
            let held = self.held(running);
            out.push(Output::Stop { worker: worker.id, held, when: StopWhen::AfterStep });
        }
    }

    fn set_leaves(&mut self, slot: Slot, leaves: Leaves) {
        if let Doing::Running(running) = &mut self.state.workers[slot].doing {
            running.leaves = Some(leaves);
        }
    }

    /// The attempt on a worker leaves for this shard.
    fn claim(&mut self, slot: Slot, worker: Slot) {
        self.set_leaves(worker, Leaves::Preempted { claim: Some(slot) });
        self.index.claims.insert(slot, worker);
    }

    /// The shard does not wait any more: who leaves for it, leaves for another.
    pub(crate) fn unclaim(&mut self, slot: Slot) {
        if let Some(worker) = self.index.claims.remove(&slot) {
            self.set_leaves(worker, Leaves::Preempted { claim: None });
            self.todo.spare.push(worker);
        }
    }

    /// An attempt ends: if it left for a shard, that one has its chance now, or wants room anew.
    pub(crate) fn end_claim(&mut self, worker: Slot) {
        let leaves = self.state.workers[worker].running().and_then(|running| running.leaves);
        if let Some(Leaves::Preempted { claim: Some(slot) }) = leaves {
            self.index.claims.remove(&slot);
            self.todo.wanting.push(slot);
        }
    }

    /// The class that a job is served in from now on.
    fn rank_now(&self, job: &Job) -> Class {
        let old = job.submitted.plus(self.state.config.flex_ages) <= self.state.now;
        if old { job.rank.min(Class::Default) } else { job.rank }
    }

    /// A job of class flex is old enough to be served as default. One that does not wait is when it waits next.
    pub(crate) fn promote(&mut self, slot: Slot) {
        if self.ready(slot) {
            self.uncount(slot);
            self.dequeue(slot);
            self.state.jobs[slot].rank = Class::Default;
            self.enqueue(slot);
            self.count(slot);
            self.todo.shards.push(slot);
        }
    }

    /// The invariants of preemption.
    pub(crate) fn check_preemption(&self) -> Result<(), String> {
        let mut victims = 0;
        for (slot, worker) in self.state.workers.iter() {
            let id = worker.id;
            let group = &self.index.groups[self.index.group_of[slot as usize] as usize];
            let listed = group.victims.iter().filter(|victim| victim.slot == slot).count();
            let is = self.victim(slot).is_some_and(|victim| group.victims.contains(&victim));
            if listed != usize::from(is) || is != self.victim(slot).is_some() {
                return Err(format!("{id} is listed wrongly among the preemptible"));
            }
            victims += listed;
            let leaves = worker.running().and_then(|running| running.leaves);
            if let Some(Leaves::Preempted { claim: Some(job) }) = leaves
                && self.index.claims.get(&job) != Some(&slot)
            {
                return Err(format!("{id} leaves for nobody"));
            }
        }
        let listed: usize = self.index.groups.iter().map(|group| group.victims.len()).sum();
        if listed != victims || self.index.victims as usize != victims {
            return Err("a preemptible attempt is gone".to_owned());
        }
        for (job, worker) in &self.index.claims {
            let leaves = self.state.workers.get(*worker).and_then(|worker| worker.running());
            let same = leaves.is_some_and(|running| {
                running.leaves == Some(Leaves::Preempted { claim: Some(*job) })
            });
            if !same || !self.ready(*job) {
                return Err("a claim is of no use".to_owned());
            }
        }
        for slot in self.waiting_long() {
            if matches!(self.find_victim(slot), Found::Victim(_)) {
                let id = self.state.jobs[slot].id;
                return Err(format!("{id} waits while a lower class could make room"));
            }
        }
        for (_, job) in self.state.jobs.iter() {
            let preempted = job.live.as_deref().map_or(0, |live: &Live| live.preemptions);
            if preempted > self.state.config.preempt_max {
                return Err(format!("{} was preempted too often", job.id));
            }
            if self.rank_now(job) != job.rank && job.standing() == crate::job::Standing::Ready {
                return Err(format!("{} is old and still of class flex", job.id));
            }
        }
        Ok(())
    }
}
