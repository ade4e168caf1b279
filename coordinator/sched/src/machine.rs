//! Machines: workers of one host that are lost together were lost with it, which is no fault of theirs, nor of what
//! they ran. A host is named as long as it runs; what outlives that is remembered by node.

use crate::core::Core;
use crate::node::NodeId;
use crate::slab::Slot;
use crate::state::KindIx;
use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::{AttemptNumber, Millis, ShardId};
use zoetrope_protocol::job::Cause;

/// A worker that was lost a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Loss {
    pub node: NodeId,
    pub at: Millis,
    /// What it ran.
    pub attempt: Option<(ShardId, KindIx, AttemptNumber)>,
    /// It counts as lost with its machine.
    pub with_machine: bool,
}

impl Core {
    /// A worker is being lost: whether its machine is, as another of its workers says that was lost just before. That
    /// one then counts as lost with the machine, too.
    pub(crate) fn lost_with_machine(&mut self, worker: Slot) -> bool {
        let worker = &self.state.workers[worker];
        if worker.said.machine.is_empty() {
            return false;
        }
        let (now, node) = (self.state.now, worker.node);
        let attempt = worker
            .running()
            .map(|running| (self.held(running).shard, running.kind, running.fence.attempt));
        let machine = worker.said.machine.clone();
        let window = self.state.config.machine_window;
        let mut losses = self.state.losses.remove(&machine).unwrap_or_default();
        // One node that comes and goes is no machine.
        losses.retain(|loss| loss.at.plus(window) >= now && loss.node != node);
        let with_machine = !losses.is_empty();
        losses.push(Loss { node, at: now, attempt, with_machine: false });
        if with_machine {
            for loss in losses.iter_mut().filter(|loss| !loss.with_machine) {
                loss.with_machine = true;
                self.blame_machine(*loss);
            }
        }
        self.state.losses.insert(machine, losses);
        with_machine
    }

    /// A node was lost with its machine: what it ran then counts against nobody. The second time within a day it has
    /// to prove itself at all that it ran.
    fn blame_machine(&mut self, loss: Loss) {
        if let Some((shard, kind, attempt)) = loss.attempt {
            self.forgive_attempt(loss.node, kind, (shard, attempt));
            // Of a part it is the part that remembers.
            if let Some(slot) = self.shard_slot(shard)
                && let Some(live) = &mut self.state.jobs[slot].live
            {
                let before = live.soft.len();
                let lost = (loss.node, shard.stage, attempt, Cause::WorkerLost);
                live.soft.retain(|soft| (soft.node, soft.stage, soft.attempt, soft.cause) != lost);
                live.machine_losses += u32::from(live.soft.len() < before);
            }
        }
        let (again, trial) = (self.state.config.machine_again, self.state.config.probation);
        let Some(node) = self.state.nodes.get_mut(loss.node) else { return };
        let twice = node.machine_lost.is_some_and(|before| before.plus(again) > loss.at);
        node.machine_lost = Some(loss.at);
        if twice {
            for (_, record) in &mut node.records {
                record.trial = trial;
            }
        }
    }

    /// Forgets losses that no other can follow any more.
    pub(crate) fn forget_losses(&mut self) {
        let (now, window) = (self.state.now, self.state.config.machine_window);
        self.state.losses.retain(|_, losses| {
            losses.retain(|loss| loss.at.plus(window) >= now);
            !losses.is_empty()
        });
    }
}
