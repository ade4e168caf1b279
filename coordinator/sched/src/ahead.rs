//! Reads ahead what inputs will need. The records of a large farm lie apart in memory, and each is found by the one
//! before; asked for here, they arrive while the inputs in front are worked on. Decides nothing and changes nothing:
//! without it the outputs are the same.

use crate::core::Core;
use crate::index::Turn;
use crate::slab::Slot;
use crate::state::KindIx;
use crate::table::{hash_of, spread};
use zoetrope_protocol::id::WorkerId;
use zoetrope_protocol::job::Class;

/// Of so many inputs that follow something is fetched: one step of the way for each, and an input is long enough for
/// what one step asks for to arrive.
pub const FORESEEN: usize = 4;
/// The size of a line of the cache, in bytes.
const LINE: usize = 64;
/// Lines of a record that are fetched at most: what comes behind is rarely asked for.
const LINES_MAX: usize = 6;

impl Core {
    /// Fetches from memory what reports of these workers will need: those that follow the next input, in their
    /// order. To be called before each of several inputs; only the first [`FORESEEN`] count. Changes nothing.
    pub fn foresee(&self, reporters: impl IntoIterator<Item = WorkerId>) {
        let mut steps = [None; FORESEEN];
        for (step, reporter) in steps.iter_mut().zip(reporters) {
            *step = Some(reporter);
        }
        let [next, second, third, fourth] = steps;
        if let Some(worker) = fourth {
            self.index.workers.touch(spread(worker.0));
        }
        if let Some(slot) = third.and_then(|w| self.index.workers.first(spread(w.0))) {
            self.state.workers.touch(slot);
        }
        if let Some(slot) = second.and_then(|worker| self.worker_slot(worker)) {
            let worker = &self.state.workers[slot];
            self.state.nodes.touch(worker.node);
            if let Some(running) = worker.running() {
                self.state.jobs.touch(running.job);
            }
        }
        let slot = next.and_then(|worker| self.worker_slot(worker));
        if let Some(slot) = slot {
            self.touch_attempt(slot);
        }
        let running = slot.and_then(|slot| self.state.workers[slot].running());
        self.touch_waiting(running.map(|running| running.kind));
    }

    /// What the end of a worker's attempt needs, whose job and node are there already.
    fn touch_attempt(&self, slot: Slot) {
        let worker = &self.state.workers[slot];
        let Some(running) = worker.running() else { return };
        if let Some(node) = self.state.nodes.get(worker.node) {
            node.records.iter().for_each(touch);
        }
        let Some(job) = self.state.jobs.get(running.job) else { return };
        if let Some(live) = &job.live {
            touch(&**live);
        }
        if job.position as usize + 1 == self.state.models[job.model as usize].chain.len() {
            // For its end.
            self.index.jobs.touch(hash_of(job.id));
            self.index.aging.touch(job.seq);
            for neighbour in [job.older, job.younger].into_iter().flatten() {
                self.state.jobs.touch(neighbour);
            }
        }
        touch(&self.state.tenants[job.tenant as usize]);
        if let Some(times) = self.clock_of(running.kind).times_of(job.tenant) {
            touch(times);
        }
        let flow = &self.index.flows[job.tenant as usize][job.rank as usize];
        if let [queue, ..] = &flow.queues[..] {
            touch(queue);
        }
    }

    /// The shards that will be placed next: of those whose turn it is, and of the kind that a worker has `loaded`.
    fn touch_waiting(&self, loaded: Option<KindIx>) {
        for class in Class::ALL {
            let turns = self.index.turns.iter().map(|turns| &turns[class as usize]);
            let first = (0..).zip(turns).min_by_key(|(_, turns)| turns.order());
            let Some((kind, turns)) = first.filter(|(_, turns)| !turns.is_empty()) else {
                continue;
            };
            for turn in turns.first_two() {
                self.touch_first(turn, kind, class);
            }
            if let Some(loaded) = loaded.filter(|loaded| *loaded != kind)
                && let Some(turn) = self.index.turns[loaded as usize][class as usize].first()
            {
                self.touch_first(turn, loaded, class);
            }
            return;
        }
    }

    /// The first shard of a kind of the flow whose turn it is.
    fn touch_first(&self, turn: Turn, kind: KindIx, class: Class) {
        let flow = &self.index.flows[turn.place as usize][class as usize];
        if let Some(keys) = flow.queue(kind) {
            self.state.jobs.touch(keys.first().slot);
            keys.touch_second();
        }
    }
}

/// Has a record fetched from memory, without waiting for it. Nothing where the processor's word for it is not known.
pub(crate) fn touch<T>(record: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(record).cast::<i8>();
        for line in 0..size_of::<T>().div_ceil(LINE).min(LINES_MAX) {
            // Unlike a read, it does not hold up what comes after it.
            #[allow(unsafe_code)]
            // SAFETY: a hint, which may be about any address: it reads and changes nothing that a program could see.
            unsafe {
                _mm_prefetch(start.wrapping_add(LINE * line), _MM_HINT_T0);
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = record;
}
