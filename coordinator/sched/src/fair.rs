//! Whose turn it is: tenants, their virtual time in each class, and the queues of ready shards.
//!
//! Start-time fair queueing in integers. A (class, tenant) pair is a flow with a virtual time for each pool of
//! workers that serve the same, by that pool's clock (`clocks.rs`): GPU-milliseconds charged there, divided by the
//! weight. The flow with the smallest goes first. It is charged the expected time when a shard is placed, and
//! corrected by the reported time at its end. A flow that begins to wait starts no earlier than the one that is
//! served next, so an idle tenant saves up no credit; two flows that both wait for the same workers all the time
//! never differ by more than one longest shard each (and the slack of affinity). One that can use but a few of the
//! workers of its clock falls behind those that can use more; by how much is bounded (`lag_max`).

use crate::clocks::ClockIx;
use crate::core::Core;
use crate::index::{Queue, Turn};
use crate::input::TenantPolicy;
use crate::job::{Job, Standing};
use crate::keys::{Key, Keys, NEW};
use crate::output::{Ignored, Output};
use crate::slab::Slot;
use crate::state::KindIx;
use crate::turns::Seat;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use zoetrope_protocol::id::{Millis, TenantId};
use zoetrope_protocol::job::Class;
use zoetrope_protocol::mutant::{Mutant, on};

/// Virtual time of one GPU-millisecond at weight 1. The largest weight, so that no charge is rounded to nothing;
/// 64 bits then hold 580 years of a thousand GPUs.
pub(crate) const UNIT: u64 = 1_000;

/// A tenant. Never removed: the operator's table bounds them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tenant {
    pub id: TenantId,
    pub policy: TenantPolicy,
    /// Gpus that its attempts have taken: those that run, and those that are being stopped.
    pub running: u32,
    /// Unfinished jobs that never began.
    pub queued: u32,
    /// Unfinished jobs.
    pub unfinished: u32,
    /// When a job was admitted last, by class.
    pub came: [Millis; 3],
}

impl Tenant {
    /// Whether it runs as many shards as it may.
    pub fn capped(&self) -> bool {
        self.running >= self.policy.running_max + u32::from(on(Mutant::QuotaOffByOne))
    }

    /// Virtual time for so much GPU time.
    pub fn charge(&self, gpu_ms: u64) -> u64 {
        gpu_ms.saturating_mul(UNIT) / u64::from(self.policy.weight)
    }
}

impl Core {
    pub(crate) fn set_tenant(&mut self, id: TenantId, policy: TenantPolicy, out: &mut Vec<Output>) {
        let policy = TenantPolicy { weight: policy.weight.clamp(1, UNIT as u32), ..policy };
        let Some(&place) = self.index.tenants.get(&id) else {
            let place = self.state.tenants.len() as u32;
            let came = [Millis(0); 3];
            let tenant = Tenant { id, policy, running: 0, queued: 0, unfinished: 0, came };
            self.state.tenants.push(tenant);
            self.index.tenants.insert(id, place);
            self.index.flows.push(Default::default());
            return;
        };
        if self.state.tenants[place as usize].policy == policy {
            out.push(Output::Ignored { why: Ignored::NothingToDo });
            return;
        }
        self.change_tenant(place, |tenant| tenant.policy = policy);
    }

    /// Changes a tenant's policy or its running shards, and lists or unlists its flows as its cap then asks for.
    #[inline(always)]
    pub(crate) fn change_tenant(&mut self, place: u32, change: impl FnOnce(&mut Tenant)) {
        let tenant = &mut self.state.tenants[place as usize];
        let before = tenant.capped();
        change(tenant);
        let after = tenant.capped();
        if before != after {
            self.change_cap(place, after);
        }
    }

    /// A tenant comes to its cap, or falls below it.
    fn change_cap(&mut self, place: u32, capped: bool) {
        for class in Class::ALL {
            if capped {
                self.unlist(place, class);
                continue;
            }
            // What a tenant could not use for its cap is no credit.
            for (clock, floor) in self.floors(place, class) {
                self.raise(place, class, clock, floor);
            }
            self.list(place, class);
        }
        if !capped {
            self.todo.tenants.push(place);
        }
    }

    /// Enters a flow's turn for each kind that it waits for, in place of an earlier one. Only for tenants below
    /// their cap.
    pub(crate) fn list(&mut self, place: u32, class: Class) {
        let tenant = self.state.tenants[place as usize].id;
        for queue in &self.index.flows[place as usize][class as usize].queues {
            let virtual_time = self.state.clocks[queue.clock as usize].time(place, class);
            let turn = Some(Turn { virtual_time, tenant, place });
            self.index.turns[queue.kind as usize][class as usize].set(queue.seat, turn);
        }
    }

    /// The opposite of `list`.
    pub(crate) fn unlist(&mut self, place: u32, class: Class) {
        for queue in &self.index.flows[place as usize][class as usize].queues {
            self.index.turns[queue.kind as usize][class as usize].set(queue.seat, None);
        }
    }

    /// Sets a flow's virtual time by a clock.
    #[inline(always)]
    pub(crate) fn set_virtual_time(&mut self, place: u32, class: Class, clock: ClockIx, to: u64) {
        let time = self.state.clocks[clock as usize].time_mut(place, class);
        if std::mem::replace(time, to) != to {
            self.list_by(place, class, clock, to);
        }
    }

    /// As `list`, for those kinds that go by a clock; nothing for a tenant at its cap.
    pub(crate) fn list_by(&mut self, place: u32, class: Class, clock: ClockIx, to: u64) {
        let tenant = &self.state.tenants[place as usize];
        if tenant.capped() {
            return;
        }
        let turn = Some(Turn { virtual_time: to, tenant: tenant.id, place });
        for queue in &self.index.flows[place as usize][class as usize].queues {
            if queue.clock == clock {
                self.index.turns[queue.kind as usize][class as usize].set(queue.seat, turn);
            }
        }
    }

    /// Raises a flow's virtual time to what a flow starts from that begins to wait.
    pub(crate) fn raise(&mut self, place: u32, class: Class, clock: ClockIx, floor: u64) {
        let time = self.state.clocks[clock as usize].time(place, class);
        self.set_virtual_time(place, class, clock, floor.max(time));
    }

    /// The clocks by which a flow waits, and where it would start now if it only began to.
    fn floors(&self, place: u32, class: Class) -> BTreeMap<ClockIx, u64> {
        let mut floors = BTreeMap::new();
        let queues = &self.index.flows[place as usize][class as usize].queues;
        for queue in queues.iter().filter(|queue| self.index.served[queue.kind as usize]) {
            let floor = self.floor(queue.kind, class);
            floors
                .entry(queue.clock)
                .and_modify(|least: &mut u64| *least = floor.min(*least))
                .or_insert(floor);
        }
        floors
    }

    pub(crate) fn key_of(&self, slot: Slot) -> Key {
        let job = &self.state.jobs[slot];
        let rank = match &job.live {
            Some(live) if live.front => 0,
            Some(_) => 1,
            None => NEW,
        };
        // A part is as urgent as its job, whose later stages wait for it.
        let later = |of: &Job| of.left_ms() - u64::from(of.expected_ms[of.position as usize]);
        let of = job.part.and_then(|part| self.state.jobs.get(part.of));
        let deadline =
            of.map_or(job.deadline, |of| of.deadline.map(|at| at.minus(Millis(later(of)))));
        let latest = deadline.map(|at| at.minus(Millis(job.left_ms())));
        Key::new(rank, latest, job.seq, slot)
    }

    /// Puts a ready shard into its flow's queue.
    pub(crate) fn enqueue(&mut self, slot: Slot) {
        let job = &self.state.jobs[slot];
        let (place, class, kind) = (job.tenant, job.rank, self.state.kind_of(job));
        if job.live.as_ref().is_some_and(|live| live.choosy()) {
            self.index.scarred.insert(slot);
        }
        let key = self.key_of(slot);
        let Some(seat) = self.line_up(place, class, kind, key) else { return };
        let clock = self.state.kinds[kind as usize].clock;
        if self.index.served[kind as usize] && !self.waits_by(place, class, kind) {
            // Begins to wait: no credit for the time before.
            self.raise(place, class, clock, self.floor(kind, class));
        }
        let tenant = &self.state.tenants[place as usize];
        if !tenant.capped() {
            let virtual_time = self.state.clocks[clock as usize].time(place, class);
            let turn = Turn { virtual_time, tenant: tenant.id, place };
            self.index.turns[kind as usize][class as usize].set(seat, Some(turn));
        }
    }

    /// Puts a key into its flow's queue. If the flow did not wait for the kind before: its seat, still without a turn.
    pub(crate) fn line_up(
        &mut self,
        place: u32,
        class: Class,
        kind: KindIx,
        key: Key,
    ) -> Option<Seat> {
        let queues = &mut self.index.flows[place as usize][class as usize].queues;
        if let Some(queue) = queues.iter_mut().find(|queue| queue.kind == kind) {
            queue.keys.insert(key);
            return None;
        }
        let seat = self.index.turns[kind as usize][class as usize].sit();
        let clock = self.state.kinds[kind as usize].clock;
        queues.push(Queue { kind, clock, seat, keys: Keys::new(key) });
        Some(seat)
    }

    /// Takes a ready shard out of its flow's queue.
    pub(crate) fn dequeue(&mut self, slot: Slot) {
        let job = &self.state.jobs[slot];
        debug_assert_eq!(job.standing(), Standing::Ready);
        let (place, class, kind) = (job.tenant, job.rank, self.state.kind_of(job));
        self.index.scarred.remove(&slot);
        self.unclaim(slot);
        let key = self.key_of(slot);
        let queues = &mut self.index.flows[place as usize][class as usize].queues;
        let Some(at) = queues.iter().position(|queue| queue.kind == kind) else { return };
        if queues[at].keys.remove(key) {
            let queue = queues.swap_remove(at);
            self.index.turns[kind as usize][class as usize].leave(queue.seat);
        }
    }
}
