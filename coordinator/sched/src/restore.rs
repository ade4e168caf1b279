//! Snapshots: the state is the core; the index is built anew from it.

use crate::core::Core;
use crate::index::Index;
use crate::job::Standing;
use crate::place::Todo;
use crate::slab::Slot;
use crate::state::State;
use crate::table::{hash_of, spread};
use crate::timer::Timer;
use crate::worker::{Leaves, Running};
use zoetrope_protocol::job::Class;

impl Core {
    /// What a snapshot must hold. Encode it with the codec, or clone it for another thread.
    pub fn snapshot(&self) -> &State {
        &self.state
    }

    /// The core whose snapshot this is: it gives the same outputs from here on. The state must be one that
    /// `snapshot` gave; bytes from elsewhere are not checked.
    pub fn from_snapshot(state: State) -> Self {
        let index = Index::default();
        let mut core = Core { state, index, todo: Todo::default() };
        core.index_tables();
        core.index_workers();
        core.index.served = core.served();
        core.index.served_anew = false;
        core.index_jobs();
        core.todo = Todo::default();
        core
    }

    fn index_tables(&mut self) {
        let (state, index) = (&self.state, &mut self.index);
        index.tenants = (0..).zip(&state.tenants).map(|(place, t)| (t.id, place)).collect();
        index.flows.resize_with(state.tenants.len(), Default::default);
        index.models = (0..).zip(&state.models).map(|(place, m)| (m.id, place)).collect();
        index.nodes = state.nodes.iter().map(|(id, node)| (node.name.clone(), id)).collect();
        let drained = state.timers.iter().filter_map(|(at, timer)| match timer {
            Timer::Drained { node, boot, drain } => Some(((*node, *boot), (*at, *drain))),
            _ => None,
        });
        index.drained = drained.collect();
        index.sort_kinds(state);
    }

    fn index_workers(&mut self) {
        let workers = self.state.workers.iter();
        let slots: Vec<Slot> = workers.map(|(slot, _)| slot).collect();
        for slot in slots {
            let worker = &self.state.workers[slot];
            self.index.workers.insert(spread(worker.id.0), slot);
            if let Some(Running { leaves: Some(Leaves::Preempted { claim: Some(job) }), .. }) =
                worker.running()
            {
                self.index.claims.insert(*job, slot);
            }
            self.enter_fleet(slot);
            if self.can_work(slot) {
                self.set_free(slot);
            }
        }
    }

    fn index_jobs(&mut self) {
        let mut ready = Vec::new();
        let mut aging = Vec::new();
        let slots: Vec<Slot> = self.state.jobs.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            let job = &self.state.jobs[slot];
            if job.part.is_none() {
                self.index.jobs.insert(hash_of(job.id), slot);
            }
            if let Some(deadline) = job.deadline {
                self.index.deadlines.insert((deadline, slot));
            }
            let young = self.ages_at(slot) > self.state.now;
            if job.rank == Class::Flex && job.part.is_none() && young {
                aging.push((job.seq, slot));
            }
            if job.standing() == Standing::Ready {
                if job.live.as_ref().is_some_and(|live| live.choosy()) {
                    self.index.scarred.insert(slot);
                }
                ready.push((job.tenant, job.rank, self.state.kind_of(job), self.key_of(slot)));
            }
            self.count(slot);
        }
        aging.sort_unstable();
        for (seq, slot) in aging {
            self.index.aging.push(seq, slot);
        }
        for (place, class, kind, key) in ready {
            self.line_up(place, class, kind, key);
        }
        for place in 0..self.state.tenants.len() as u32 {
            if !self.state.tenants[place as usize].capped() {
                for class in Class::ALL {
                    self.list(place, class);
                }
            }
        }
    }
}
