//! Moving a job by an operator's hand: it goes on elsewhere, and what it failed so far is forgotten.

use crate::core::Core;
use crate::job::{Job, Standing, Wish};
use crate::node::NodeId;
use crate::output::{Ignored, Output};
use crate::slab::Slot;
use crate::timer::Timer;
use crate::worker::{Doing, Leaves, Worker};
use zoetrope_protocol::id::{JobId, Millis, WorkerId};
use zoetrope_protocol::job::Stage;

impl Core {
    /// Lets a job that began go on elsewhere. A running denoising shard leaves after the step in hand.
    pub(crate) fn move_job(&mut self, job: JobId, to: Option<WorkerId>, out: &mut Vec<Output>) {
        let Some(slot) = self.known(job, out) else { return };
        let node = match to.map(|to| self.worker_slot(to)) {
            None => None,
            Some(Some(to)) => Some(self.state.workers[to].node),
            Some(None) => return out.push(Output::Ignored { why: Ignored::NoSuchWorker }),
        };
        for shard in self.shards_of(slot) {
            self.move_shard(shard, node, out);
        }
    }

    fn move_shard(&mut self, slot: Slot, node: Option<NodeId>, out: &mut Vec<Output>) {
        let standing = self.state.jobs[slot].standing();
        match standing {
            Standing::Running { worker } => self.move_running(slot, worker, node, out),
            Standing::Ready if self.state.jobs[slot].live.is_some() => {
                self.dequeue(slot);
                self.park(slot);
                self.forgive(slot, node.map(|node| (node, true)));
                self.make_ready(slot);
            }
            Standing::BackingOff { .. } => {
                self.forgive(slot, node.map(|node| (node, true)));
                self.advance(slot, out);
            }
            Standing::PublishBackingOff { .. } => {
                self.forgive(slot, None);
                self.publish(slot, out);
            }
            Standing::Ready | Standing::Parted | Standing::Publishing => {
                out.push(Output::Ignored { why: Ignored::NothingToDo });
            }
        }
    }

    /// Whether `MoveAsked` would do something.
    pub fn movable(&self, job: JobId, to: Option<WorkerId>) -> bool {
        let Some(slot) = self.job_slot(job) else { return false };
        let there = to.and_then(|to| self.worker_slot(to));
        let movable = |slot: Slot| match self.state.jobs[slot].standing() {
            Standing::Running { worker } => there != Some(worker),
            Standing::Ready => self.state.jobs[slot].live.is_some(),
            Standing::BackingOff { .. } | Standing::PublishBackingOff { .. } => true,
            Standing::Parted | Standing::Publishing => false,
        };
        self.shards_of(slot).into_iter().any(movable)
    }

    fn move_running(&mut self, slot: Slot, at: Slot, node: Option<NodeId>, out: &mut Vec<Output>) {
        let worker = &self.state.workers[at];
        let Some(running) = worker.running().filter(|_| node != Some(worker.node)) else {
            return out.push(Output::Ignored { why: Ignored::NothingToDo });
        };
        let (stage, leaves) = (running.stage, running.leaves.is_some());
        let away = (worker.node, false);
        self.forgive(slot, node.map_or(Some(away), |node| Some((node, true))));
        if stage != Stage::Denoise || leaves {
            // Nothing of it can be kept before its end; or it is on its way.
            return;
        }
        self.leave_victims(at);
        if let Doing::Running(running) = &mut self.state.workers[at].doing {
            running.leaves = Some(Leaves::Moved);
        }
        self.put_out_leave(at, out);
    }

    /// Forgets what the job failed, and notes on which node it is wanted, or not wanted.
    fn forgive(&mut self, slot: Slot, wish: Option<(NodeId, bool)>) {
        let until = self.state.now.plus(self.state.config.wish_wait);
        let job = &mut self.state.jobs[slot];
        let seq = job.seq;
        let Some(live) = &mut job.live else { return };
        live.soft.clear();
        live.avoid.clear();
        live.retry_at = Millis(0);
        live.outage = None;
        live.wish = wish.map(|(node, there)| Box::new(Wish { node, there, until }));
        if live.wish.is_some() {
            self.set_timer(until, Timer::Job { slot, seq });
        }
    }

    /// Whether a worker must not have a job, because of what an operator wants and can still have.
    pub(crate) fn against(&self, job: &Job, wish: Wish, worker: &Worker) -> bool {
        if wish.until <= self.state.now || wish.there == (wish.node == worker.node) {
            return false;
        }
        let (kind, need) = (self.state.kind_of(job), self.need(job));
        let node = self.state.nodes.get(wish.node).and_then(|node| node.worker);
        let fits = node.is_some_and(|slot| self.fits(slot, kind, need));
        if wish.there { fits } else { self.count_fitting(kind, need) > u32::from(fits) }
    }
}
