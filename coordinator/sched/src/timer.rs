//! What the core waits for, and what it does when the moment is there. A timer that has lost its object fires
//! into nothing, so nobody has to take it back.

use crate::core::Core;
use crate::drain::Drain;
use crate::job::Standing;
use crate::node::NodeId;
use crate::output::{FailWhy, JobState, Output};
use crate::slab::Slot;
use crate::state::KindIx;
use crate::worker::Doing;
use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::{Epoch, Millis, WorkerId};
use zoetrope_protocol::job::Cause;
use zoetrope_protocol::mutant::{Mutant, on};

/// Something that waits for its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Timer {
    /// A job's back-off or retry wait may be over.
    Job { slot: Slot, seq: u64 },
    /// A draining worker gets its next, harder order.
    Drain { worker: WorkerId },
    /// A worker may have been silent about a stopped attempt for too long.
    Stopping { worker: WorkerId },
    /// A quarantine may be over.
    Release { node: NodeId, kind: KindIx },
    /// A pause of a kind may be over.
    Resume { kind: KindIx },
    /// The grace after `EpochBegan` is over.
    Grace { epoch: Epoch },
    /// An attempt that was preempted before may be preempted again.
    Preempt,
    /// A dependency that is down may be tried again, or more may be placed.
    Gate,
    /// A boot that was lost while it drained will not return any more. Until then this remembers its drain.
    Drained { node: NodeId, boot: u64, drain: Drain },
}

impl Core {
    /// The moment at which the core wants `TimePassed`, if it waits for any.
    pub fn next_wakeup(&self) -> Option<Millis> {
        let timer = self.state.timers.first().map(|(at, _)| *at);
        let deadline = self.index.deadlines.first().map(|(at, _)| *at);
        let aging = self.index.aging.first().map(|slot| self.ages_at(slot));
        let ends = self.oldest_ends_at();
        [timer, deadline, aging, ends, self.state.sweep_at].into_iter().flatten().min()
    }

    fn oldest_ends_at(&self) -> Option<Millis> {
        let oldest = self.state.oldest?;
        Some(self.state.jobs[oldest].submitted.plus(self.state.config.job_age_max))
    }

    /// From here on a job of class flex ranks as default.
    pub(crate) fn ages_at(&self, slot: Slot) -> Millis {
        self.state.jobs[slot].submitted.plus(self.state.config.flex_ages)
    }

    pub(crate) fn set_timer(&mut self, at: Millis, timer: Timer) {
        self.state.timers.insert((at, timer));
        self.expect_at(at);
    }

    /// Something is due at a moment.
    pub(crate) fn expect_at(&mut self, at: Millis) {
        self.index.due = self.index.due.min(at);
    }

    /// Carries out all whose moment is there.
    pub(crate) fn fire_timers(&mut self, out: &mut Vec<Output>) {
        let now = self.state.now;
        if now < self.index.due {
            return;
        }
        while let Some((_, slot)) =
            self.index.deadlines.first().copied().filter(|(at, _)| *at <= now)
        {
            self.end_job(slot, JobState::Failed(FailWhy::DeadlineExceeded), out);
        }
        while let Some(slot) = self.state.oldest.filter(|_| self.oldest_ends_at() <= Some(now)) {
            self.end_job(slot, JobState::Failed(FailWhy::TooOld), out);
        }
        while let Some(slot) = self.index.aging.first().filter(|slot| self.ages_at(*slot) <= now) {
            self.index.aging.remove(self.state.jobs[slot].seq);
            for shard in self.shards_of(slot) {
                self.promote(shard);
            }
        }
        while let Some((at, timer)) =
            self.state.timers.first().copied().filter(|(at, _)| *at <= now)
        {
            self.state.timers.remove(&(at, timer));
            self.fire(timer, out);
        }
        if self.state.sweep_at.is_some_and(|at| at <= now) {
            self.sweep(out);
        }
        self.index.due = self.next_wakeup().unwrap_or(Millis(u64::MAX));
    }

    fn fire(&mut self, timer: Timer, out: &mut Vec<Output>) {
        match timer {
            Timer::Job { slot, seq } => self.wake_job(slot, seq, out),
            Timer::Drain { worker } => self.harden_drain(worker, out),
            Timer::Stopping { worker } => {
                let now = self.state.now;
                if on(Mutant::TimerKept) {
                    if let Some(slot) = self.worker_slot(worker) {
                        self.end_stopping(slot, None);
                        self.set_idle(slot);
                    }
                } else if let Some(slot) = self.worker_slot(worker)
                    && let Doing::Stopping { until, .. } = self.state.workers[slot].doing
                    && until <= now
                {
                    self.end_stopping(slot, None);
                    self.set_idle(slot);
                }
            }
            Timer::Release { node, kind } => self.release(node, kind),
            Timer::Resume { kind } => self.resume_kind(kind),
            Timer::Grace { epoch } => {
                if epoch == self.state.epoch {
                    self.lose_those_away(out);
                }
            }
            Timer::Preempt => self.todo.preempt = true,
            Timer::Gate => self.open_gate(),
            Timer::Drained { node, boot, .. } => {
                self.index.drained.remove(&(node, boot));
            }
        }
    }

    fn wake_job(&mut self, slot: Slot, seq: u64, out: &mut Vec<Output>) {
        let now = self.state.now;
        let Some(job) = self.state.jobs.get(slot).filter(|job| job.seq == seq) else { return };
        match job.standing() {
            Standing::BackingOff { until } if until <= now => self.advance(slot, out),
            Standing::PublishBackingOff { until } if until <= now => self.publish(slot, out),
            Standing::Ready if self.waited_too_long(slot, now) => {
                self.give_up(slot, Cause::DependencyDown, out);
            }
            Standing::Ready => self.todo.shards.push(slot),
            _ => {}
        }
    }

    /// Says once of each attempt that it takes far longer than expected.
    fn tell_slow(&mut self, out: &mut Vec<Output>) {
        let (now, factor) = (self.state.now, u64::from(self.state.config.soft_limit_factor));
        let least = self.state.config.soft_limit_least.0;
        let slow: Vec<Slot> = self
            .state
            .workers
            .iter()
            .filter_map(|(slot, worker)| Some((slot, worker.running()?)))
            .filter(|(_, r)| {
                let limit = r.charged_ms.saturating_mul(factor).max(least);
                !r.slow && now.minus(r.since).0 > limit
            })
            .map(|(slot, _)| slot)
            .collect();
        for slot in slow {
            let worker = &mut self.state.workers[slot];
            let id = worker.id;
            if let Doing::Running(running) = &mut worker.doing {
                running.slow = true;
                let running = *running;
                out.push(Output::Slow { held: self.held(&running), worker: id });
            }
        }
    }

    /// Looks at every running attempt: a backstop for verdicts that never come. And forgets old nodes.
    fn sweep(&mut self, out: &mut Vec<Output>) {
        let now = self.state.now;
        let late: Vec<Slot> = self
            .state
            .workers
            .iter()
            .filter(|(_, worker)| worker.connected)
            .filter_map(|(slot, worker)| Some((slot, worker.running()?)))
            .filter(|(_, r)| {
                r.since.plus(r.hard_limit).plus(self.state.config.verdict_grace) <= now
            })
            .map(|(slot, _)| slot)
            .collect();
        for slot in late {
            self.stop_and_fail(slot, Cause::Timeout, out);
        }
        self.tell_slow(out);
        self.forget_losses();
        let forgotten = self.state.config.node_forgotten;
        let nodes = self.state.nodes.iter();
        let old = nodes.filter(|(_, node)| {
            node.worker.is_none() && !node.cordoned && node.seen.plus(forgotten) <= now
        });
        let old: Vec<NodeId> = old.map(|(id, _)| id).collect();
        for id in old {
            self.index.nodes.remove(&self.state.nodes[id].name);
            self.state.nodes.forget(id);
        }
        let running = self.state.workers.iter().any(|(_, worker)| worker.running().is_some());
        self.state.sweep_at = running.then(|| now.plus(self.state.config.sweep_every));
    }
}
