//! Reads ahead: a word of each record that an input will need. The records lie apart, and each is found by the one
//! before; asked for here, they come from memory side by side and not one after the other. Decides nothing and
//! changes nothing: without it the outputs are the same.

use crate::core::Core;
use crate::job::Job;
use crate::slab::Slot;
use crate::state::KindIx;
use std::hint::black_box;
use zoetrope_protocol::job::Class;

impl Core {
    /// What the end of a worker's attempt will need, and its next one.
    pub(crate) fn read_ahead(&self, slot: Slot) {
        self.read_next(slot);
        let worker = &self.state.workers[slot];
        let Some(running) = worker.running() else { return };
        if let Some(node) = self.state.nodes.get(worker.node)
            && let Some((_, record)) = node.records.first()
        {
            black_box(record.trial);
        }
        let Some(job) = self.state.jobs.get(running.job) else { return };
        read_job(job);
        let flow = &self.index.flows[job.tenant as usize][job.rank as usize];
        black_box(flow.queues.first().map(|queue| queue.kind));
    }

    /// The shard that comes next for a worker, and the one behind it.
    fn read_next(&self, worker: Slot) {
        let group = &self.index.groups[self.index.group_of[worker as usize] as usize];
        for class in Class::ALL {
            let turns = |kind: &KindIx| &self.index.turns[*kind as usize][class as usize];
            let waiting = group.kinds.iter().filter(|kind| !turns(kind).is_empty());
            let Some(kind) = waiting.min_by_key(|kind| turns(kind).order()) else { continue };
            let Some(turn) = turns(kind).first() else { continue };
            let flow = &self.index.flows[turn.place as usize][class as usize];
            if let Some(keys) = flow.queue(*kind) {
                if let Some(job) = self.state.jobs.get(keys.first().slot) {
                    read_job(job);
                }
                black_box(keys.second());
            }
            return;
        }
    }
}

fn read_job(job: &Job) {
    black_box(job.seq);
    black_box(job.position);
    if let Some(live) = &job.live {
        black_box(live.attempts[0]);
        black_box(live.newest_step());
        black_box(live.leftover.len());
        black_box(live.maker);
    }
}
