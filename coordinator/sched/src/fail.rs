//! What a failed attempt means for its job: retried, where and when, or given up. The failure policy's table.

use crate::core::Core;
use crate::job::{Live, Lost, Outage, SoftFailure, Standing};
use crate::node::NodeId;
use crate::output::{FailWhy, JobState, Output};
use crate::quarantine::End;
use crate::slab::Slot;
use crate::timer::Timer;
use crate::worker::Running;
use zoetrope_protocol::id::{AttemptNumber, Fence, Millis, ShardId};
use zoetrope_protocol::job::{ArtifactRef, Cause, Role, Stage};

/// A role may be lost so often.
const GONE_MAX: usize = 2;

/// What a cause says about the job and about the worker.
struct Verdict {
    /// Counts against the job.
    soft: bool,
    /// Counts against the worker.
    fault: bool,
    /// The shard goes elsewhere if it can.
    avoid: bool,
}

impl Verdict {
    /// `progressed`: the attempt added to the chain. `again`: it ran out of memory before. `late`: this cause came so
    /// often that it counts.
    fn of(cause: Cause, progressed: bool, again: bool, late: bool) -> Self {
        let (soft, fault, avoid) = match cause {
            Cause::EngineError
            | Cause::Stalled
            | Cause::Timeout
            | Cause::TooQuick
            | Cause::WorkerLost => (!progressed, true, true),
            Cause::MachineLost => (late && !progressed, false, true),
            Cause::CheckFailed => (true, true, true),
            Cause::OutOfMemory => (late, false, again),
            Cause::Refused => (false, false, true),
            Cause::Drained
            | Cause::Preempted
            | Cause::DependencyDown
            | Cause::ArtifactMissing
            | Cause::Ended => (false, false, false),
        };
        Verdict { soft, fault, avoid }
    }
}

impl Core {
    /// Decides what becomes of a shard whose attempt ended on `worker`. The attempt's books are closed already.
    pub(crate) fn fail(
        &mut self,
        worker: Slot,
        running: &Running,
        cause: Cause,
        out: &mut Vec<Output>,
    ) {
        let (slot, now) = (running.job, self.state.now);
        let node = self.state.workers[worker].node;
        self.park(slot);
        let position = usize::from(self.state.jobs[slot].position);
        let live = self.live(slot);
        if running.progressed {
            live.outage = None;
        }
        if cause == Cause::OutOfMemory {
            live.memory_failures += 1;
            live.shard_memory_failures += 1;
        }
        if cause == Cause::MachineLost {
            live.machine_losses += 1;
        }
        let memory_failures = live.memory_failures;
        let again = live.shard_memory_failures > 1;
        let machine_losses = live.machine_losses;
        let tries = live.attempts[position];
        let config = &self.state.config;
        let late = match cause {
            Cause::MachineLost => machine_losses >= config.machine_failures,
            _ => memory_failures >= config.memory_failures,
        };
        let verdict = Verdict::of(cause, running.progressed, again, late);
        let end = if verdict.fault { End::Fault } else { End::Other };
        self.record(node, running, end, out);
        let attempt = running.fence.attempt;
        let live = self.live(slot);
        live.front = true;
        if cause == Cause::Preempted {
            live.preemptions += 1;
            live.preempted = Some(Box::new((now, live.newest_step())));
        }

        if verdict.soft {
            live.soft.push(SoftFailure { node, stage: running.stage, attempt, cause });
        }
        if verdict.avoid {
            live.shun(node);
        } else if cause == Cause::OutOfMemory {
            live.maker = Some(node);
        }
        if self.poisoned(slot, verdict.soft) || tries >= self.state.config.attempts_max {
            self.give_up(slot, cause, out);
            return;
        }
        match cause {
            Cause::OutOfMemory if self.too_large(slot) => self.give_up(slot, cause, out),
            Cause::DependencyDown => match (self.back_off(slot), self.suspect(node, slot)) {
                (None, _) => self.give_up(slot, cause, out),
                // It is down for all: the gate says when it is tried again, and by whom.
                (Some(_), true) => {
                    let seq = self.state.jobs[slot].seq;
                    self.advance(slot, out);
                    self.limit_waiting(slot, seq);
                }
                (Some(until), false) => {
                    // The others do not say so. The second time this node may be the only one that cannot reach it; a
                    // hiccup is no reason to leave a good worker idle for the rest of the shard.
                    let live = self.live(slot);
                    if live.outage.as_ref().is_some_and(|outage| outage.tries > 1) {
                        live.shun(node);
                    }
                    self.wait(slot, Standing::BackingOff { until }, until);
                }
            },
            Cause::ArtifactMissing => match self.newest_input(slot, running.stage) {
                Some(gone) => self.lose_artifact(slot, gone, out),
                None => self.advance(slot, out),
            },
            _ => {
                if verdict.avoid && waits(cause, verdict.soft) {
                    self.retry_later(slot);
                }
                self.advance(slot, out);
            }
        }
    }

    /// From some time on the workers that failed a shard may try it again, where no other fits.
    fn retry_later(&mut self, slot: Slot) {
        let at = self.state.now.plus(self.state.config.retry_after);
        self.live(slot).retry_at = at;
        let seq = self.state.jobs[slot].seq;
        self.set_timer(at, Timer::Job { slot, seq });
    }

    pub(crate) fn live(&mut self, slot: Slot) -> &mut Live {
        self.state.jobs[slot].live.as_mut().expect("a job that was placed is live")
    }

    /// Takes a job's shard from its worker, for the moment into no queue.
    pub(crate) fn park(&mut self, slot: Slot) {
        self.uncount(slot);
        let now = self.state.now;
        let live = self.live(slot);
        live.standing = Standing::BackingOff { until: now };
        live.since = now;
        self.count(slot);
    }

    fn wait(&mut self, slot: Slot, standing: Standing, until: Millis) {
        self.uncount(slot);
        self.live(slot).standing = standing;
        self.count(slot);
        let seq = self.state.jobs[slot].seq;
        self.set_timer(until, Timer::Job { slot, seq });
    }

    /// Whether the job failed too many workers, or too often where there are only few.
    fn poisoned(&self, slot: Slot, soft: bool) -> bool {
        let job = &self.state.jobs[slot];
        let Some(live) = job.live.as_ref().filter(|_| soft) else { return false };
        let limit = self.state.config.poison_failures as usize;
        let mut nodes: Vec<NodeId> = live.soft.iter().map(|soft| soft.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let few = self.count_serving(self.state.kind_of(job)) < self.state.config.poison_failures;
        nodes.len() >= limit || (few && live.soft.len() >= limit)
    }

    /// Whether no worker of the farm, whatever it does, has the memory that the shard now needs.
    fn too_large(&self, slot: Slot) -> bool {
        let job = &self.state.jobs[slot];
        let (kind, need) = (self.state.kind_of(job), self.need(job));
        self.index.fitting(kind, need).all(|group| group.members == 0)
    }

    /// Ends a job that failed too often. Its failures are taken off the workers: one of both is guilty, not both.
    pub(crate) fn give_up(&mut self, slot: Slot, cause: Cause, out: &mut Vec<Output>) {
        let job = &self.state.jobs[slot];
        let id = job.id;
        let soft = job.live.as_ref().map(|live| live.soft.to_vec()).unwrap_or_default();
        for failure in soft {
            self.absolve_node(failure.node, id, out);
        }
        self.end_job(slot, JobState::Failed(FailWhy::Poison(cause)), out);
    }

    /// When a job whose dependency is down is tried again; none if it has been down for too long.
    fn back_off(&mut self, slot: Slot) -> Option<Millis> {
        let now = self.state.now;
        let config = self.state.config.clone();
        let seq = self.state.jobs[slot].seq;
        let live = self.live(slot);
        let outage = live.outage.get_or_insert_with(|| Box::new(Outage { since: now, tries: 0 }));
        if outage.since.plus(config.backoff_give_up) <= now {
            return None;
        }
        let doubled = config.backoff_first.0.saturating_mul(1 << outage.tries.min(20));
        let wait = doubled.min(config.backoff_max.0);
        outage.tries += 1;
        let spread = wait.saturating_mul(config.backoff_jitter_percent.into()) / 100;
        let jitter = hash(seq, outage.tries) % (2 * spread + 1);
        Some(now.plus(Millis(wait - spread + jitter)))
    }

    /// The clip could not be published.
    pub(crate) fn publish_failed(&mut self, slot: Slot, cause: Cause, out: &mut Vec<Output>) {
        let again = if cause == Cause::DependencyDown { self.back_off(slot) } else { None };
        match (cause, again) {
            (_, Some(until)) => self.wait(slot, Standing::PublishBackingOff { until }, until),
            (Cause::CheckFailed, None) => self.refuse_clip(slot, out),
            (Cause::ArtifactMissing, None) => self.lose_clip(slot, out),
            _ => self.end_job(slot, JobState::Failed(FailWhy::NotPublished(cause)), out),
        }
    }

    /// The clip proves not to be what was ordered, so the attempt that made it failed after all: it is made again,
    /// elsewhere if that can be.
    fn refuse_clip(&mut self, slot: Slot, out: &mut Vec<Output>) {
        let cause = Cause::CheckFailed;
        let Some(fence) = self.unfinish(slot) else { return };
        let attempt = fence.attempt;
        let job = &self.state.jobs[slot];
        let (id, kind, stage) = (job.id, self.state.kind_of(job), self.state.stage_of(job));
        let position = usize::from(job.position);
        // Whoever finished a shard last made what is published.
        if let Some(node) = self.live(slot).maker {
            let shard = ShardId { job: id, stage, index: 0 };
            self.blame(node, kind, (shard, attempt), out);
            let live = self.live(slot);
            live.soft.push(SoftFailure { node, stage, attempt, cause });
            live.shun(node);
        }
        let tries = self.live(slot).attempts[position];
        if self.poisoned(slot, true) || tries >= self.state.config.attempts_max {
            return self.give_up(slot, cause, out);
        }
        self.retry_later(slot);
        self.advance(slot, out);
    }

    /// A file of the clip is gone before it was published: nobody is to blame, and it is made again.
    fn lose_clip(&mut self, slot: Slot, out: &mut Vec<Output>) {
        if self.unfinish(slot).is_none() {
            return;
        }
        if self.gone_too_often(slot, Role::Clip) {
            return self.give_up(slot, Cause::ArtifactMissing, out);
        }
        self.advance(slot, out);
    }

    /// Takes back what the last stage made; gives the fence of its attempt.
    fn unfinish(&mut self, slot: Slot) -> Option<Fence> {
        let (fence, outputs) = self.live(slot).finished.take()?;
        self.park(slot);
        let live = self.live(slot);
        for output in outputs {
            live.lose(output);
            if !live.leftover.contains(&output) {
                live.leftover.push(output);
            }
        }
        live.front = true;
        // Who checked the clip answers.
        live.outage = None;
        Some(fence)
    }

    /// The worker could not read its inputs: the newest is the suspect, for only it may be re-made at once.
    fn newest_input(&self, slot: Slot, stage: Stage) -> Option<ArtifactRef> {
        let inputs = self.state.jobs[slot].live.as_ref()?.inputs_of(stage);
        // A decode shard's own segments are only named, not read.
        let read =
            |i: &ArtifactRef| stage != Stage::Decode || !matches!(i.role, Role::Segment { .. });
        inputs.into_iter().filter(read).max_by_key(|input| match input.role {
            Role::Prompt => (0, 0),
            Role::Latents { step } => (1, step),
            Role::Segment { chunk } => (2, chunk),
            Role::Clip
            | Role::Thumbnail
            | Role::Spritesheet
            | Role::Scores
            | Role::Marks
            | Role::Draft => (3, 0),
        })
    }

    /// An artifact of a job whose shard stands in no queue is gone: goes on from what is left. A running attempt
    /// goes on too: either it has read it already, or it will say that it cannot.
    pub(crate) fn lose_artifact(&mut self, slot: Slot, gone: ArtifactRef, out: &mut Vec<Output>) {
        let owner = self.owner(slot);
        if owner != slot {
            // All parts have the same input.
            self.drop_parts(owner, Cause::ArtifactMissing, out);
            self.park(owner);
        }
        let slot = owner;
        let live = self.live(slot);
        live.lose(gone);
        // Fewer steps are done, so a running attempt may have to make room after all.
        self.todo.preempt = true;
        if self.gone_too_often(slot, gone.role) {
            self.give_up(slot, Cause::ArtifactMissing, out);
        } else if !matches!(self.state.jobs[slot].standing(), Standing::Running { .. }) {
            self.advance(slot, out);
        }
    }

    /// Notes that a role's artifact was lost; whether that was once too often.
    fn gone_too_often(&mut self, slot: Slot, role: Role) -> bool {
        let live = self.live(slot);
        live.gone.push(role);
        live.gone.iter().filter(|gone| **gone == role).count() >= GONE_MAX
    }

    /// A lost attempt goes on after all: its loss is counted against nobody. What it was, to be remembered.
    pub(crate) fn undo_loss(&mut self, slot: Slot) -> Option<Box<Lost>> {
        let job = &mut self.state.jobs[slot];
        let (id, index) = (job.id, job.index());
        let (model, position) = (job.model, usize::from(job.position));
        let lost = job.live.as_mut()?.lost.take()?;
        let kind = self.state.models[model as usize].chain[lost.position as usize];
        let stage = self.state.kinds[kind as usize].stage;
        let live = self.state.jobs[slot].live.as_mut()?;
        // Nobody had the shard since, so the last number is the one that was lost last.
        let attempt = AttemptNumber(live.attempts[position]);
        let lost_last = (lost.node, stage, attempt);
        let was = |soft: &SoftFailure| (soft.node, soft.stage, soft.attempt) == lost_last;
        let gone = [Cause::WorkerLost, Cause::MachineLost];
        live.soft.retain(|soft| !(was(soft) && gone.contains(&soft.cause)));
        live.avoid.retain(|node| *node != lost.node);
        let shard = ShardId { job: id, stage, index };
        self.forgive_attempt(lost.node, kind, (shard, attempt));
        Some(lost)
    }
}

/// Whether a worker that the shard avoids must wait before it may try again, where no other fits. One that was
/// lost had to come back first, and one that got further did well.
fn waits(cause: Cause, soft: bool) -> bool {
    match cause {
        Cause::WorkerLost | Cause::MachineLost => false,
        Cause::Refused => true,
        _ => soft,
    }
}

/// A number that looks random and is the same in every replay (SplitMix64).
pub(crate) fn hash(seq: u64, tries: u32) -> u64 {
    let mut z = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(tries.into());
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
