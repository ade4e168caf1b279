//! The fleet as placing sees it: which worker may get new work, which are free, how many fit a shard.

use crate::core::Core;
use crate::job::Job;
use crate::slab::Slot;
use crate::state::KindIx;
use crate::worker::{Doing, Worker};
use zoetrope_protocol::id::WorkerId;
use zoetrope_protocol::job::Class;

/// In quarantine for so many kinds at once, a worker gets nothing at all.
pub(crate) const KINDS_TOO_MANY: usize = 2;

impl Core {
    /// Whether a worker may get new work of some kind, as its node and its own state say.
    pub(crate) fn may_get_work(&self, worker: &Worker) -> bool {
        let node = &self.state.nodes[worker.node];
        worker.connected
            && worker.drain.is_none()
            && !node.cordoned
            && node.quarantined().count() < KINDS_TOO_MANY
    }

    /// Enters a worker into its group. It becomes free by `feed`.
    pub(crate) fn enter_fleet(&mut self, slot: Slot) {
        let available = self.may_get_work(&self.state.workers[slot]);
        let worker = &mut self.state.workers[slot];
        worker.available = available;
        worker.barred = self.state.nodes[worker.node].quarantined().collect();
        let worker = &self.state.workers[slot];
        let group = self.index.group(&self.state, worker.vram_bytes, &worker.said.serves);
        if self.index.group_of.len() <= slot as usize {
            self.index.group_of.resize(slot as usize + 1, u32::MAX);
        }
        self.index.group_of[slot as usize] = group;
        let group = &mut self.index.groups[group as usize];
        group.members += 1;
        if available {
            group.available += 1;
            for kind in &worker.barred {
                group.count_quarantined(*kind, true);
            }
            // Beside one in quarantine it may be the only one for a kind.
            self.index.served_anew |= group.available == 1 || !group.quarantined.is_empty();
        }
        self.enter_victims(slot);
    }

    /// Takes a worker out of its group; to be called before what it can do or its node changes.
    pub(crate) fn leave_fleet(&mut self, slot: Slot) {
        self.leave_victims(slot);
        let worker = &self.state.workers[slot];
        let available = worker.available;
        let group = &mut self.index.groups[self.index.group_of[slot as usize] as usize];
        group.members -= 1;
        if available {
            group.available -= 1;
            self.index.served_anew |= group.available == 0 || !group.quarantined.is_empty();
            for kind in &worker.barred {
                group.count_quarantined(*kind, false);
            }
            self.index.free -= u32::from(group.free.remove(&free_key(worker, slot)));
            // A shard that avoids other workers may have no choice left.
            self.todo.scarred = true;
        }
    }

    /// Changes a worker in what concerns the fleet.
    pub(crate) fn change_worker(&mut self, slot: Slot, change: impl FnOnce(&mut Worker)) {
        self.leave_fleet(slot);
        change(&mut self.state.workers[slot]);
        self.enter_fleet(slot);
        self.todo.workers.push(slot);
    }

    /// The worker's gpu is free again.
    pub(crate) fn set_idle(&mut self, slot: Slot) {
        self.state.workers[slot].doing = Doing::Idle;
        self.todo.workers.push(slot);
    }

    /// Whether a worker is idle and may get work.
    pub(crate) fn can_work(&self, slot: Slot) -> bool {
        let worker = self.state.workers.get(slot);
        worker.is_some_and(|worker| worker.available && worker.doing == Doing::Idle)
    }

    /// Enters a worker that can work among the free.
    pub(crate) fn set_free(&mut self, slot: Slot) {
        let worker = &self.state.workers[slot];
        let group = self.index.group_of[slot as usize];
        let new = self.index.groups[group as usize].free.insert(free_key(worker, slot));
        self.index.free += u32::from(new);
    }

    pub(crate) fn unset_free(&mut self, slot: Slot) {
        if self.index.free == 0 {
            return;
        }
        let key = free_key(&self.state.workers[slot], slot);
        let group = &mut self.index.groups[self.index.group_of[slot as usize] as usize];
        self.index.free -= u32::from(group.free.remove(&key));
    }

    /// Device memory that the job's current shard needs: its kind's, more after it ran out of memory.
    pub(crate) fn need(&self, job: &Job) -> u64 {
        let mut need = self.state.kinds[self.state.kind_of(job) as usize].vram_bytes;
        let failures = job.live.as_ref().map_or(0, |live| live.shard_memory_failures);
        // The first time the worker may only have kept too much loaded.
        for _ in 1..failures {
            let growth = need / 100 * u64::from(self.state.config.memory_growth_percent);
            need = need.saturating_add(growth.max(1));
        }
        need
    }

    /// Whether a worker fits a shard and may get it now or once it is free, but for what the shard avoids.
    /// `need` is at least what the kind needs.
    pub(crate) fn fits(&self, slot: Slot, kind: KindIx, need: u64) -> bool {
        let worker = &self.state.workers[slot];
        // Its group knows what it serves, and is looked at all the time.
        let group = &self.index.groups[self.index.group_of[slot as usize] as usize];
        worker.vram_bytes >= need
            && group.kinds.contains(&kind)
            && worker.available
            && !worker.barred.contains(&kind)
    }

    /// How many workers fit, free or not.
    pub(crate) fn count_fitting(&self, kind: KindIx, need: u64) -> u32 {
        self.index.fitting(kind, need).map(|g| g.available - g.quarantined(kind)).sum()
    }

    /// How many workers fit that the shard does not avoid.
    pub(crate) fn count_unavoided(&self, job: &Job) -> u32 {
        let (kind, need) = (self.state.kind_of(job), self.need(job));
        let avoid = job.live.as_ref().map_or(&[][..], |live| &live.avoid);
        let avoided = avoid.iter().filter(|node| {
            let worker = self.state.nodes.get(**node).and_then(|node| node.worker);
            worker.is_some_and(|slot| self.fits(slot, kind, need))
        });
        self.count_fitting(kind, need) - avoided.count() as u32
    }

    /// Whether a worker that serves the shard's kind may run it: memory, and what the shard avoids.
    pub(crate) fn may_take(&self, job: &Job, worker: &Worker) -> bool {
        let Some(live) = &job.live else { return true };
        if live.wish.as_ref().is_some_and(|wish| self.against(job, **wish, worker)) {
            return false;
        }
        if live.shard_memory_failures > 1 && worker.vram_bytes < self.need(job) {
            return false;
        }
        if !live.avoid.contains(&worker.node) {
            return true;
        }
        live.retry_at <= self.state.now && self.count_unavoided(job) == 0
    }

    /// The best free worker for a ready shard: with the kind loaded; else the one that made its inputs; else the
    /// smallest that fits. The lowest id of equals.
    pub(crate) fn best_worker(&self, slot: Slot) -> Option<Slot> {
        if self.index.free == 0 {
            return None;
        }
        let job = &self.state.jobs[slot];
        let (kind, need) = (self.state.kind_of(job), self.need(job));
        let good = |free: &&(u32, WorkerId, Slot)| {
            let worker = &self.state.workers[free.2];
            self.may_take(job, worker) && !worker.barred.contains(&kind)
        };
        if let Some(last) = self.tried_last() {
            // One after the other: a worker that alone cannot reach what is down holds nobody for long.
            let free = self.index.fitting(kind, need).flat_map(|group| group.free.iter());
            let next = free.filter(good).min_by_key(|(_, id, _)| (*id <= last, *id));
            return next.map(|free| free.2);
        }
        let hot = hot_number(Some(kind));
        for group in self.index.fitting(kind, need) {
            let range = group.free.range((hot, WorkerId(0), 0)..);
            if let Some(found) = range.take_while(|free| free.0 == hot).find(good) {
                return Some(found.2);
            }
        }
        let maker = job.live.as_ref().and_then(|live| live.maker);
        let maker = maker.and_then(|node| self.state.nodes.get(node)?.worker);
        if let Some(slot) = maker {
            let worker = &self.state.workers[slot];
            let fits = worker.doing == Doing::Idle && self.fits(slot, kind, need);
            if fits && self.may_take(job, worker) {
                return Some(slot);
            }
        }
        self.index.fitting(kind, need).find_map(|g| g.free.iter().find(good)).map(|free| free.2)
    }

    /// Whether any worker is free that serves the kind.
    pub(crate) fn any_free(&self, kind: KindIx) -> bool {
        self.index.fitting(kind, 0).any(|group| !group.free.is_empty())
    }

    /// How many workers are free that serve the kind.
    pub(crate) fn count_free(&self, kind: KindIx) -> usize {
        self.index.fitting(kind, 0).map(|group| group.free.len()).sum()
    }

    /// Lets all free workers that serve a kind look for work anew.
    pub(crate) fn look_again(&mut self, kind: KindIx) {
        let groups = self.index.fitting(kind, 0);
        let free: Vec<Slot> = groups.flat_map(|g| g.free.iter().map(|free| free.2)).collect();
        self.todo.workers.extend(free);
    }

    /// Whether a class's flows may have shards of a kind placed at all, cap aside.
    pub(crate) fn waiting(&self, kind: KindIx, class: Class) -> bool {
        !self.index.turns[kind as usize][class as usize].is_empty() && !self.state.paused(kind)
    }
}

fn hot_number(hot: Option<KindIx>) -> u32 {
    hot.map_or(0, |kind| u32::from(kind) + 1)
}

pub(crate) fn free_key(worker: &Worker, slot: Slot) -> (u32, WorkerId, Slot) {
    (hot_number(worker.hot), worker.id, slot)
}
