//! Who gets what: brings free workers and ready shards together until no free worker could run any admissible
//! shard. Order: class, the tenant's turn, rank and slack within the tenant, affinity, best fit in memory.

use crate::core::Core;
use crate::index::{Queue, Turn};
use crate::job::{Live, Standing};
use crate::keys::Key;
use crate::output::{Affinity, JobState, Output};
use crate::slab::Slot;
use crate::state::KindIx;
use crate::worker::{Doing, Running, Worker};
use zoetrope_protocol::id::{AttemptNumber, Fence, Millis, ShardId};
use zoetrope_protocol::job::{Class, Stage};

/// What an input made possible; empty between inputs. A slot in it may have been emptied since.
#[derive(Debug, Default)]
pub(crate) struct Todo {
    /// Workers that may be free now.
    pub workers: Vec<Slot>,
    /// Jobs whose shard may be placeable now.
    pub shards: Vec<Slot>,
    /// Tenants that fell below their cap.
    pub tenants: Vec<u32>,
    /// A worker went: shards that avoid some workers may have no choice left.
    pub scarred: bool,
    /// Ready shards for which no worker was free: a lower class may have to make room.
    pub wanting: Vec<Slot>,
    /// Attempts that leave for a shard that was placed elsewhere meanwhile.
    pub spare: Vec<Slot>,
    /// An attempt may be preempted that could not before.
    pub preempt: bool,
}

impl Todo {
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
            && self.shards.is_empty()
            && self.tenants.is_empty()
            && self.wanting.is_empty()
            && self.spare.is_empty()
            && !self.scarred
            && !self.preempt
    }
}

/// A ready shard that a worker could take.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    turn: Turn,
    key: Key,
    kind: KindIx,
}

impl Core {
    /// Places all that became possible.
    pub(crate) fn place_all(&mut self, out: &mut Vec<Output>) {
        loop {
            if !self.todo.workers.is_empty() {
                let mut slots = std::mem::take(&mut self.todo.workers);
                slots.sort_by_key(|slot| self.state.workers.get(*slot).map(|worker| worker.id));
                slots.dedup();
                for slot in slots.drain(..) {
                    self.feed(slot, out);
                }
                if self.todo.workers.is_empty() {
                    // Keep the allocation.
                    self.todo.workers = slots;
                }
            } else if let Some(place) = self.todo.tenants.pop() {
                self.place_of_tenant(place, out);
            } else if self.todo.scarred {
                self.todo.scarred = false;
                self.todo.shards.extend(&self.index.scarred);
            } else if !self.todo.shards.is_empty() {
                let mut slots = std::mem::take(&mut self.todo.shards);
                slots.retain(|slot| self.ready(*slot));
                slots.sort_by_key(|slot| self.order_of(*slot));
                slots.dedup();
                for slot in slots.drain(..) {
                    self.place_shard(slot, out);
                }
                if self.todo.shards.is_empty() {
                    self.todo.shards = slots;
                }
            } else {
                break;
            }
        }
        self.make_room(out);
    }

    pub(crate) fn ready(&self, slot: Slot) -> bool {
        self.state.jobs.get(slot).is_some_and(|job| job.standing() == Standing::Ready)
    }

    fn order_of(&self, slot: Slot) -> (Class, u64, Key) {
        let job = &self.state.jobs[slot];
        let time = self.virtual_time(job.tenant, self.state.kind_of(job), job.rank);
        (job.rank, time, self.key_of(slot))
    }

    /// Gives a worker work as long as it is free and there is some.
    fn feed(&mut self, slot: Slot, out: &mut Vec<Output>) {
        while self.can_work(slot) {
            // Nobody else is free as a rule, and then nobody has to know that this one is.
            let only = self.index.free == 0;
            if !only {
                self.set_free(slot);
            }
            let Some((due, chosen)) = self.pick(slot) else {
                self.set_free(slot);
                return;
            };
            let worker = &mut self.state.workers[slot];
            worker.passed_over = if due == chosen { 0 } else { worker.passed_over + 1 };
            // The shard may have a better place: this worker's turn only says that the shard is next.
            let alone = only || self.index.free == 1;
            let to = if alone { slot } else { self.best_worker(chosen).unwrap_or(slot) };
            self.assign(chosen, to, out);
        }
    }

    fn place_shard(&mut self, slot: Slot, out: &mut Vec<Output>) {
        if !self.ready(slot) {
            return;
        }
        let job = &self.state.jobs[slot];
        let kind = self.state.kind_of(job);
        let held = self.state.paused(kind) || self.gated();
        if self.state.tenants[job.tenant as usize].capped() || held {
            return;
        }
        match self.best_worker(slot) {
            Some(worker) => self.assign(slot, worker, out),
            None => self.todo.wanting.push(slot),
        }
    }

    /// A tenant may run more: free workers did not see its shards before.
    fn place_of_tenant(&mut self, place: u32, out: &mut Vec<Output>) {
        for class in Class::ALL {
            if self.state.tenants[place as usize].capped() {
                return;
            }
            let flow = &self.index.flows[place as usize][class as usize];
            let mut first = Vec::new();
            for Queue { kind, keys, .. } in &flow.queues {
                if self.state.paused(*kind) {
                    continue;
                }
                // Of those that go anywhere no more than there are workers for; others may not take some of these.
                let free = self.count_free(*kind);
                let mut any = 0;
                first.extend(keys.iter().copied().take_while(|key| {
                    any += usize::from(key.is_new() || self.goes_anywhere(key.slot));
                    free > 0 && any <= free
                }));
                self.todo.preempt = true;
            }
            first.sort_unstable();
            for key in first {
                if self.state.tenants[place as usize].capped() {
                    return;
                }
                self.place_shard(key.slot, out);
            }
        }
    }

    /// Whether any worker may run a begun job's shard that serves its kind.
    fn goes_anywhere(&self, slot: Slot) -> bool {
        let live = self.state.jobs[slot].live.as_ref();
        live.is_none_or(|live| !live.choosy() && live.shard_memory_failures < 2)
    }

    /// The shard that a free worker should run: the one that is due, and the one that affinity makes of it.
    fn pick(&self, slot: Slot) -> Option<(Slot, Slot)> {
        if self.gated() {
            return None;
        }
        let worker = &self.state.workers[slot];
        let group = &self.index.groups[self.index.group_of[slot as usize] as usize];
        for class in Class::ALL {
            let mut due: Option<Candidate> = None;
            let mut hot: Option<Candidate> = None;
            for &kind in &group.kinds {
                if !self.waiting(kind, class) || worker.barred.contains(&kind) {
                    continue;
                }
                // Who comes later anyway is asked only where affinity may let it pass.
                let loaded = worker.hot == Some(kind);
                let turns = &self.index.turns[kind as usize][class as usize];
                if !loaded && due.is_some_and(|due| turns.all_after(due.turn)) {
                    continue;
                }
                let Some(candidate) = self.first_for(kind, class, worker) else { continue };
                if loaded {
                    hot = Some(candidate);
                }
                if due.is_none_or(|due| (candidate.turn, candidate.key) < (due.turn, due.key)) {
                    due = Some(candidate);
                }
            }
            let Some(due) = due else { continue };
            let chosen = self.preferred(slot, class, due, hot);
            return Some((due.key.slot, chosen));
        }
        None
    }

    /// The first shard of a kind that this worker may take.
    fn first_for(&self, kind: KindIx, class: Class, worker: &Worker) -> Option<Candidate> {
        // Of one that is new any worker may, and its record may be far away.
        let takes = |key: &Key| key.is_new() || self.may_take(&self.state.jobs[key.slot], worker);
        self.index.turns[kind as usize][class as usize].find_map(|turn| {
            let flow = &self.index.flows[turn.place as usize][class as usize];
            let key = flow.queue(kind)?.find(takes)?;
            Some(Candidate { turn, key, kind })
        })
    }

    /// Affinity: a shard of the loaded kind, else the next shard of the job that the worker just worked on, may
    /// pass the one that is due, within the neighbourhood and only so often in a row.
    fn preferred(&self, slot: Slot, class: Class, due: Candidate, hot: Option<Candidate>) -> Slot {
        let worker = &self.state.workers[slot];
        let loaded = worker.hot == Some(due.kind);
        if loaded || worker.passed_over >= self.state.config.affinity_run_max {
            return due.key.slot;
        }
        // By the weight of who is passed: it is that tenant which lags.
        let passed = &self.state.tenants[due.turn.place as usize];
        let slack = passed.charge(self.state.config.affinity_slack.0);
        let near = |other: &Candidate| {
            let same_tenant = other.turn.place == due.turn.place;
            other.turn.virtual_time <= due.turn.virtual_time.saturating_add(slack)
                && (!same_tenant || other.key.equals(&due.key))
        };
        let next = || self.continued(slot, class);
        hot.filter(near).or_else(|| next().filter(near)).unwrap_or(due).key.slot
    }

    /// The next shard of the worker's last job, if it is ready, of this class, and the worker may take it.
    fn continued(&self, at: Slot, class: Class) -> Option<Candidate> {
        let worker = &self.state.workers[at];
        let (slot, seq) = worker.last_job?;
        let job = self.state.jobs.get(slot).filter(|job| job.seq == seq && job.rank == class)?;
        let kind = self.state.kind_of(job);
        let tenant = &self.state.tenants[job.tenant as usize];
        let turn = Turn {
            virtual_time: self.virtual_time(job.tenant, kind, class),
            tenant: tenant.id,
            place: job.tenant,
        };
        let allowed = job.standing() == Standing::Ready
            && !tenant.capped()
            && !self.state.paused(kind)
            && self.fits(at, kind, self.need(job))
            && self.may_take(job, worker);
        allowed.then(|| Candidate { turn, key: self.key_of(slot), kind })
    }

    /// Orders a ready shard from a free worker.
    fn assign(&mut self, slot: Slot, to: Slot, out: &mut Vec<Output>) {
        // Asked first: with its attempt the kind of this shard becomes what the worker ran last.
        let kind = self.state.kind_of(&self.state.jobs[slot]);
        let hot = self.state.workers[to].hot == Some(kind);
        let affinity = if hot { Affinity::Hot } else { Affinity::Load };
        let fence = self.run(slot, to, out);
        self.passed_gate(slot, self.state.workers[to].id);
        let job = &self.state.jobs[slot];
        let stage = self.state.stage_of(job);
        let inputs = job.live.as_ref().map(|live| live.inputs_of(stage)).unwrap_or_default();
        let worker = &self.state.workers[to];
        let hard_limit = worker.running().map_or(Millis(0), |running| running.hard_limit);
        let shard = ShardId { job: job.id, stage, index: job.index() };
        let shards = if stage == Stage::Decode { job.shards } else { 1 };
        let worker = worker.id;
        out.push(Output::Assign { worker, shard, fence, inputs, hard_limit, shards, affinity });
    }

    /// Puts a ready shard on a worker under a new attempt number.
    pub(crate) fn run(&mut self, slot: Slot, to: Slot, out: &mut Vec<Output>) -> Fence {
        let now = self.state.now;
        self.count_outage(slot);
        let before = self.gauges(slot);
        self.dequeue(slot);
        let config = &self.state.config;
        let job = &self.state.jobs[slot];
        let (place, class, kind) = (job.tenant, job.rank, self.state.kind_of(job));
        let stage = self.state.kinds[kind as usize].stage;
        let charged_ms = job.expected(stage);
        let limit = charged_ms.saturating_mul(config.hard_limit_factor.into());
        let hard_limit = Millis(limit).plus(config.hard_limit_base).min(config.hard_limit_max);
        let first = job.live.is_none();
        let from_step = job.live.as_ref().map_or(0, |live| live.newest_step());
        let id = job.id;

        let job = &mut self.state.jobs[slot];
        let live = job.live.get_or_insert_with(|| Box::new(Live::new(now)));
        let tries = &mut live.attempts[job.position as usize];
        *tries += 1;
        let fence = Fence { epoch: self.state.epoch, attempt: AttemptNumber(*tries) };
        live.standing = Standing::Running { worker: to };
        live.since = now;
        live.lost = None;
        live.wish = None;
        self.recount(slot, &before);

        let tenant = &mut self.state.tenants[place as usize];
        if first {
            tenant.queued -= 1;
        }
        let (charge, lag) = (tenant.charge(charged_ms), tenant.charge(self.state.config.lag_max.0));
        let clock = self.state.kinds[kind as usize].clock;
        let of = &mut self.state.clocks[clock as usize];
        let least = of.now[class as usize].saturating_sub(lag);
        let time = of.time_mut(place, class);
        let start = least.max(*time);
        *time = start.saturating_add(charge);
        let charged = *time;
        let virtual_now = &mut of.now[class as usize];
        *virtual_now = start.max(*virtual_now);
        self.list_by(place, class, clock, charged);
        self.change_tenant(place, |tenant| tenant.running += 1);

        self.unset_free(to);
        let worker = &mut self.state.workers[to];
        worker.hot = Some(kind);
        worker.last_job = None;
        worker.doing = Doing::Running(Running {
            job: slot,
            stage,
            kind,
            fence,
            since: now,
            hard_limit,
            charged_ms,
            from_step,
            progressed: false,
            rank: class,
            leaves: None,
            slow: false,
        });
        self.enter_victims(to);
        if self.state.sweep_at.is_none() {
            let at = now.plus(self.state.config.sweep_every);
            self.state.sweep_at = Some(at);
            self.expect_at(at);
        }
        if first {
            out.push(Output::JobMoved { job: id, state: JobState::InProgress });
        }
        out.push(Output::StageBegan { job: id, stage, worker: self.state.workers[to].id });
        fence
    }
}
