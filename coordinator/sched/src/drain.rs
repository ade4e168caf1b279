//! Emptying a worker: at once, after the step, after the shard, or by a deadline that hardens from one to the
//! next. A draining worker gets nothing new; it is gone when it says so or falls silent. The order belongs to the boot:
//! one that is away, or was lost, hears of it when it returns.

use crate::core::Core;
use crate::node::NodeId;
use crate::output::{Ignored, Output};
use crate::slab::Slot;
use crate::timer::Timer;
use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::{Millis, WorkerId};
use zoetrope_protocol::job::{Cause, Stage};
use zoetrope_protocol::wire::{DrainKind, StopWhen};

/// A worker's drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Drain {
    /// As it was asked for.
    pub kind: DrainKind,
    /// With a deadline: when it is.
    pub at: Option<Millis>,
    /// Whether the running attempt was told to stop after its step.
    pub stepped: bool,
}

/// How hard a drain is, so that a later one can only be harder.
fn hardness(kind: DrainKind) -> u8 {
    match kind {
        DrainKind::Shard => 0,
        DrainKind::Deadline(_) => 1,
        DrainKind::Step => 2,
        DrainKind::Immediate => 3,
    }
}

impl Core {
    pub(crate) fn drain_worker(&mut self, id: WorkerId, kind: DrainKind, out: &mut Vec<Output>) {
        let Some(slot) = self.worker_slot(id) else {
            return out.push(Output::Ignored { why: Ignored::NoSuchWorker });
        };
        let at = match kind {
            DrainKind::Deadline(within) => Some(self.state.now.plus(within)),
            _ => None,
        };
        if let Some(before) = self.state.workers[slot].drain {
            let sooner = at.is_some_and(|at| before.at.is_some_and(|before| at < before));
            if hardness(kind) <= hardness(before.kind) && !sooner {
                out.push(Output::Ignored { why: Ignored::NothingToDo });
                return;
            }
        }
        let stepped = self.state.workers[slot].drain.is_some_and(|drain| drain.stepped);
        self.change_worker(slot, |worker| worker.drain = Some(Drain { kind, at, stepped }));
        if self.state.workers[slot].connected {
            out.push(Output::Drain { worker: id, drain: kind });
        }
        match kind {
            DrainKind::Immediate => self.stop_and_fail(slot, Cause::Drained, out),
            DrainKind::Step => self.stop_after_step(slot, out),
            DrainKind::Shard => {}
            DrainKind::Deadline(_) => self.harden_drain(id, out),
        }
    }

    /// With a deadline: does what is due by now, and waits for the rest.
    pub(crate) fn harden_drain(&mut self, id: WorkerId, out: &mut Vec<Output>) {
        let now = self.state.now;
        let Some(slot) = self.worker_slot(id) else { return };
        let worker = &self.state.workers[slot];
        let Some(Drain { kind: DrainKind::Deadline(_), at: Some(at), .. }) = worker.drain else {
            return;
        };
        let Some(running) = worker.running().filter(|_| worker.connected) else { return };
        let job = &self.state.jobs[running.job];
        let step_ms = match running.stage {
            Stage::Denoise => u64::from(job.expected_ms[job.position as usize] / job.steps),
            // Nothing of them can be kept, so they get all the time there is.
            Stage::Encode | Stage::Decode | Stage::Finish => 0,
        };
        let step_at = at.minus(self.state.config.drain_margin).minus(Millis(step_ms));
        if at <= now {
            self.stop_and_fail(slot, Cause::Drained, out);
        } else if step_at <= now {
            self.stop_after_step(slot, out);
            self.set_timer(at, Timer::Drain { worker: id });
        } else {
            self.set_timer(step_at, Timer::Drain { worker: id });
        }
    }

    fn stop_after_step(&mut self, slot: Slot, out: &mut Vec<Output>) {
        let worker = &self.state.workers[slot];
        let Some(running) = worker.running().copied() else { return };
        if worker.drain.is_none_or(|drain| drain.stepped) {
            return;
        }
        let (id, held, connected) = (worker.id, self.held(&running), worker.connected);
        if let Some(drain) = &mut self.state.workers[slot].drain {
            drain.stepped = true;
        }
        if connected {
            out.push(Output::Stop { worker: id, held, when: StopWhen::AfterStep });
        }
    }

    /// Says again what a worker that returned was to do: it may have been lost with the link. `goes_on`: with the
    /// attempt that it had.
    pub(crate) fn repeat_drain(&mut self, slot: Slot, goes_on: bool, out: &mut Vec<Output>) {
        let worker = &self.state.workers[slot];
        let (id, drain) = (worker.id, worker.drain);
        if let Some(drain) = drain {
            let kind =
                drain.at.map_or(drain.kind, |at| DrainKind::Deadline(at.minus(self.state.now)));
            out.push(Output::Drain { worker: id, drain: kind });
        }
        if let Some(running) = worker.running().filter(|_| goes_on)
            && (running.leaves.is_some() || drain.is_some_and(|drain| drain.stepped))
        {
            let held = self.held(running);
            out.push(Output::Stop { worker: id, held, when: StopWhen::AfterStep });
        }
        self.harden_drain(id, out);
    }

    /// A boot is lost while it drains: that is kept as long as its node is remembered.
    pub(crate) fn keep_drain(&mut self, node: NodeId, boot: u64, drain: Drain) {
        self.take_up_drain(node, boot);
        let until = self.state.now.plus(self.state.config.node_forgotten);
        self.set_timer(until, Timer::Drained { node, boot, drain });
        self.index.drained.insert((node, boot), (until, drain));
    }

    /// The drain of a boot that was lost and is back.
    pub(crate) fn take_up_drain(&mut self, node: NodeId, boot: u64) -> Option<Drain> {
        let (at, drain) = self.index.drained.remove(&(node, boot))?;
        self.state.timers.remove(&(at, Timer::Drained { node, boot, drain }));
        Some(drain)
    }
}
