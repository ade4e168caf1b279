//! Workers and the nodes behind them: hello, loss, leaving, a new epoch. A worker is one connection; a node is
//! what outlives it: the operator's cordon, and what is remembered of its faults.

use crate::core::Core;
use crate::drain::Drain;
use crate::input::Capacity;
use crate::job::{Job, Lost, Standing};
use crate::node::{Node, NodeId};
use crate::output::{GoneHow, Ignored, Output};
use crate::slab::Slot;
use crate::state::KindIx;
use crate::table::spread;
use crate::timer::Timer;
use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::{AttemptNumber, Epoch, Fence, Millis, ModelId, WorkerId};
use zoetrope_protocol::job::{Cause, Class, Stage};
use zoetrope_protocol::mutant::{Mutant, on};
use zoetrope_protocol::wire::{Held, Identity, Kept};

/// One connection of one boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Worker {
    pub id: WorkerId,
    pub node: NodeId,
    /// Apart, for placing rarely asks: the rest of a worker is smaller without it.
    pub said: Box<Said>,
    pub vram_bytes: u64,
    /// False from `EpochBegan` until it says hello.
    pub connected: bool,
    pub drain: Option<Drain>,
    /// Whether it may get new work of some kind; and the kinds that it is in quarantine for. Both follow from the
    /// rest and are kept by `enter_fleet`, for placing asks for them all the time.
    pub available: bool,
    pub barred: Vec<KindIx>,
    pub doing: Doing,
    /// The kind that it ran last, so whose weights are probably loaded.
    pub hot: Option<KindIx>,
    /// How often in a row affinity let it pass over a shard that was due.
    pub passed_over: u32,
    /// The job of its last finished attempt: slot and number.
    pub last_job: Option<(Slot, u64)>,
}

/// What a worker said of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Said {
    pub identity: Identity,
    /// The host that it runs on; empty if nobody knows.
    pub machine: String,
    /// Sorted, once each.
    pub serves: Vec<(ModelId, Stage)>,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Doing {
    Idle,
    Running(Running),
    /// The core is through with this attempt, the worker perhaps not yet.
    Stopping {
        held: Held,
        until: Millis,
        taken: Taken,
    },
}

/// A gpu that a tenant has taken: it counts against its limit and its share until it is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub tenant: u32,
    pub rank: Class,
    pub kind: KindIx,
    pub since: Millis,
    /// What the tenant was charged, in GPU-milliseconds.
    pub charged_ms: u64,
}

/// A running attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub job: Slot,
    pub stage: Stage,
    pub kind: KindIx,
    pub fence: Fence,
    pub since: Millis,
    pub hard_limit: Millis,
    /// What the tenant was charged, in GPU-milliseconds.
    pub charged_ms: u64,
    /// Steps that were done when it began.
    pub from_step: u32,
    /// It added an artifact to the chain.
    pub progressed: bool,
    /// The class that it was placed in.
    pub rank: Class,
    /// It was told to leave after the step in hand, and why.
    pub leaves: Option<Leaves>,
    /// It was told to take far longer than expected.
    pub slow: bool,
}

/// Why an attempt leaves its worker after the step in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Leaves {
    /// For a shard of a higher class: the job of this place, as long as that one waits.
    Preempted { claim: Option<Slot> },
    /// An operator moves its job.
    Moved,
}

impl Worker {
    pub fn running(&self) -> Option<&Running> {
        if let Doing::Running(running) = &self.doing { Some(running) } else { None }
    }
}

impl Core {
    pub(crate) fn worker_slot(&self, worker: WorkerId) -> Option<Slot> {
        let workers = &self.state.workers;
        let is = |slot| workers.get(slot).is_some_and(|there| there.id == worker);
        self.index.workers.find(spread(worker.0), is)
    }

    /// The place of a connected worker; otherwise the input is ignored.
    pub(crate) fn connected(&self, worker: WorkerId, out: &mut Vec<Output>) -> Option<Slot> {
        let slot = self.worker_slot(worker).filter(|slot| self.state.workers[*slot].connected);
        if slot.is_none() {
            out.push(Output::Ignored { why: Ignored::NoSuchWorker });
        }
        slot
    }

    /// A new leader, so long after the last thing that the farm took in.
    pub(crate) fn begin_epoch(&mut self, epoch: Epoch, gap: Millis, out: &mut Vec<Output>) {
        if epoch <= self.state.epoch {
            out.push(Output::Ignored { why: Ignored::OldEpoch });
            return;
        }
        self.state.epoch = epoch;
        let slots: Vec<Slot> = self.state.workers.iter().map(|(slot, _)| slot).collect();
        for slot in &slots {
            self.change_worker(*slot, |worker| {
                worker.connected = false;
                match &mut worker.doing {
                    Doing::Stopping { taken, .. } => taken.since = taken.since.plus(gap),
                    // What was reported meanwhile nobody took in: it is no fault of the worker's.
                    Doing::Running(running) => running.since = running.since.plus(gap),
                    Doing::Idle => {}
                }
            });
            self.end_stopping(*slot, None);
        }
        self.excuse_outages(gap);
        if !slots.is_empty() {
            let at = self.state.now.plus(self.state.config.reattach_grace);
            self.set_timer(at, Timer::Grace { epoch });
        }
        let mut next = self.state.oldest;
        while let Some(slot) = next {
            if self.state.jobs[slot].standing() == Standing::Publishing {
                self.put_out_publish(slot, out);
            }
            next = self.state.jobs[slot].younger;
        }
    }

    /// The grace is over: who has not come back is lost.
    pub(crate) fn lose_those_away(&mut self, out: &mut Vec<Output>) {
        let mut away: Vec<(WorkerId, Slot)> = self
            .state
            .workers
            .iter()
            .filter(|(_, worker)| !worker.connected)
            .map(|(slot, worker)| (worker.id, slot))
            .collect();
        away.sort_unstable();
        for (_, slot) in away {
            self.remove_worker(slot, GoneHow::NotBack, out);
        }
    }

    pub(crate) fn join_worker(
        &mut self,
        id: WorkerId,
        identity: Identity,
        capacity: Capacity,
        held: &[Held],
        out: &mut Vec<Output>,
    ) {
        if id < self.state.next_worker || self.worker_slot(id).is_some() {
            out.push(Output::Ignored { why: Ignored::NothingToDo });
            return;
        }
        self.state.next_worker = WorkerId(id.0.saturating_add(1));
        let node = self.node_named(&identity.node);
        let before = self.state.nodes[node].worker;
        if let Some(old) = before {
            let was = &self.state.workers[old].said.identity;
            let same_boot = was.boot == identity.boot || on(Mutant::BootLeftOut);
            if same_boot && was.session >= identity.session {
                // An older connection of the same boot: its hello was overtaken.
                out.push(Output::Ignored { why: Ignored::NothingToDo });
                out.push(Output::WorkerGone { worker: id, how: GoneHow::Replaced });
                return;
            }
            if same_boot {
                self.reconnect(old, id, identity, capacity, held, out);
                return;
            }
            self.remove_worker(old, GoneHow::NewBoot, out);
        }
        let boot = identity.boot;
        let drain = self.take_up_drain(node, boot);
        let (vram_bytes, said) = ability(identity, capacity);
        let worker = Worker {
            id,
            node,
            said: Box::new(said),
            vram_bytes,
            connected: true,
            drain,
            available: false,
            barred: Vec::new(),
            doing: Doing::Idle,
            hot: None,
            passed_over: 0,
            last_job: None,
        };
        let slot = self.state.workers.insert(worker);
        self.index.workers.insert(spread(id.0), slot);
        let known = self.state.nodes.get_mut(node).expect("it was named above");
        known.worker = Some(slot);
        known.seen = self.state.now;
        self.enter_fleet(slot);
        let found = held.iter().find_map(|held| Some((*held, self.lost_one(node, boot, *held)?)));
        let mut keep = Vec::new();
        if let Some((held, job)) = found {
            let lost = self.undo_loss(job);
            let fence = self.run(job, slot, out);
            self.live(job).lost = lost;
            keep.push(Kept { held, fence });
        }
        let goes_on = !keep.is_empty();
        out.push(Output::Welcome { worker: id, keep });
        self.repeat_drain(slot, goes_on, out);
        self.todo.workers.push(slot);
    }

    /// The same boot on a new connection: what runs there goes on if the worker still holds it.
    fn reconnect(
        &mut self,
        slot: Slot,
        id: WorkerId,
        identity: Identity,
        capacity: Capacity,
        held: &[Held],
        out: &mut Vec<Output>,
    ) {
        let old = self.state.workers[slot].id;
        out.push(Output::WorkerGone { worker: old, how: GoneHow::Replaced });
        self.index.workers.remove(spread(old.0), slot);
        // Welcome drops what it does not name.
        self.end_stopping(slot, None);
        self.leave_fleet(slot);
        let epoch = self.state.epoch;
        let (vram_bytes, said) = ability(identity, capacity);
        let worker = &mut self.state.workers[slot];
        worker.id = id;
        *worker.said = said;
        worker.connected = true;
        worker.vram_bytes = vram_bytes;
        self.index.workers.insert(spread(id.0), slot);
        self.enter_fleet(slot);
        let mut keep = Vec::new();
        if let Some(running) = self.state.workers[slot].running().copied() {
            let here = self.held(&running);
            let since = self.known_by(&running).attempt;
            let named = held.iter().find(|named| self.is_attempt(**named, here, since));
            if let Some(held) = named.or(on(Mutant::ReattachByName).then_some(&here)) {
                // The same attempt goes on, so it keeps its number; the epoch is that of its new leader.
                let fence = Fence { epoch, attempt: running.fence.attempt };
                self.state.workers[slot].doing = Doing::Running(Running { fence, ..running });
                keep.push(Kept { held: *held, fence });
            } else {
                // Perhaps the order never left, or the report was lost with the link: nobody is to blame.
                self.end_attempt(slot, Some(Cause::WorkerLost), None, out);
                self.fail(slot, &running, Cause::Drained, out);
            }
        }
        let goes_on = !keep.is_empty();
        out.push(Output::Welcome { worker: id, keep });
        self.repeat_drain(slot, goes_on, out);
        self.todo.workers.push(slot);
    }

    /// Whether a boot that comes back names the attempt that it has in the books. A welcome may have been lost on its way,
    /// and the epoch with it: the number alone tells attempts of a shard apart. All numbers since the one that it
    /// surely knew are of the same work, for nobody else had the shard.
    fn is_attempt(&self, named: Held, here: Held, since: AttemptNumber) -> bool {
        named.shard == here.shard
            && (since..=here.fence.attempt).contains(&named.fence.attempt)
            && named.fence.epoch <= self.state.epoch
    }

    /// The fence by which its boot surely knew a running attempt. One that was lost and taken up again has a new
    /// number, and the welcome that said so may be lost too.
    fn known_by(&self, running: &Running) -> Fence {
        let live = self.state.jobs[running.job].live.as_ref();
        let lost = live.and_then(|live| live.lost.as_deref());
        lost.map_or(running.fence, |lost| lost.fence)
    }

    /// The lost attempt of a returning boot, if its shard was not placed again since and may run.
    fn lost_one(&self, node: NodeId, boot: u64, held: Held) -> Option<Slot> {
        let slot = self.shard_slot(held.shard)?;
        let job = &self.state.jobs[slot];
        let lost = job.live.as_ref()?.lost.as_deref()?;
        let current = held.shard.stage == self.state.stage_of(job);
        let last = AttemptNumber(job.live.as_ref()?.attempts[usize::from(job.position)]);
        let newest = Fence { epoch: lost.fence.epoch, attempt: last };
        let same = lost.node == node
            && lost.boot == boot
            && self.is_attempt(held, Held { shard: held.shard, fence: newest }, lost.fence.attempt)
            && lost.position == job.position;
        let ready = job.standing() == Standing::Ready;
        let allowed = !self.state.tenants[job.tenant as usize].capped();
        (current && same && ready && allowed).then_some(slot)
    }

    /// A connection ended. Its attempt ends with it.
    pub(crate) fn remove_worker(&mut self, slot: Slot, how: GoneHow, out: &mut Vec<Output>) {
        let cause = match how {
            GoneHow::Left => Cause::Drained,
            _ if self.lost_with_machine(slot) => Cause::MachineLost,
            _ => Cause::WorkerLost,
        };
        self.leave_fleet(slot);
        self.end_stopping(slot, None);
        let running = self.state.workers[slot].running().copied();
        let (id, node) = (self.state.workers[slot].id, self.state.workers[slot].node);
        let boot = self.state.workers[slot].said.identity.boot;
        if let Some(known) = self.state.nodes.get_mut(node) {
            known.worker = None;
            known.seen = self.state.now;
        }
        if let Some(drain) = self.state.workers[slot].drain
            && !matches!(how, GoneHow::Left | GoneHow::NewBoot)
        {
            self.keep_drain(node, boot, drain);
        }
        if let Some(running) = running {
            let known_by = self.known_by(&running);
            self.end_attempt(slot, Some(cause), None, out);
            self.fail(slot, &running, cause, out);
            if cause != Cause::Drained {
                self.remember_lost(&running, known_by, node, boot);
            }
        }
        self.state.workers.take(slot);
        self.index.workers.remove(spread(id.0), slot);
        out.push(Output::WorkerGone { worker: id, how });
    }

    /// The shard may be taken up again by the boot that lost it, as long as nobody else has it.
    fn remember_lost(&mut self, running: &Running, fence: Fence, node: NodeId, boot: u64) {
        let slot = running.job;
        // Its job may be over, or may have to go back to an earlier stage.
        let same = |job: &Job| self.state.stage_of(job) == running.stage;
        if !self.state.jobs.get(slot).is_some_and(same) {
            return;
        }
        let job = &mut self.state.jobs[slot];
        let position = job.position;
        let live = job.live.as_mut().filter(|live| live.standing == Standing::Ready);
        if let Some(live) = live {
            live.lost = Some(Box::new(Lost { node, boot, fence, position }));
        }
    }

    fn node_named(&mut self, name: &str) -> NodeId {
        if let Some(node) = self.index.nodes.get(name) {
            return *node;
        }
        let number = self.state.next_node;
        self.state.next_node += 1;
        let node = Node {
            number,
            name: name.to_owned(),
            worker: None,
            seen: self.state.now,
            cordoned: false,
            records: Vec::new(),
            machine_lost: None,
        };
        let id = self.state.nodes.insert(node);
        self.index.nodes.insert(name.to_owned(), id);
        id
    }

    pub(crate) fn set_cordon(&mut self, worker: WorkerId, cordoned: bool, out: &mut Vec<Output>) {
        let Some(slot) = self.worker_slot(worker) else {
            out.push(Output::Ignored { why: Ignored::NoSuchWorker });
            return;
        };
        let node = self.state.workers[slot].node;
        if self.state.nodes[node].cordoned == cordoned {
            out.push(Output::Ignored { why: Ignored::NothingToDo });
            return;
        }
        self.leave_fleet(slot);
        if let Some(node) = self.state.nodes.get_mut(node) {
            node.cordoned = cordoned;
        }
        self.enter_fleet(slot);
        self.todo.workers.push(slot);
    }
}

fn ability(identity: Identity, capacity: Capacity) -> (u64, Said) {
    let all = capacity.serves.into_iter();
    let mut serves: Vec<_> =
        all.flat_map(|(m, stages)| stages.into_iter().map(move |s| (m, s))).collect();
    serves.sort_unstable();
    serves.dedup();
    (capacity.vram_bytes, Said { identity, machine: capacity.machine, serves })
}
