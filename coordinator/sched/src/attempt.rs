//! What workers report of their attempts. A report counts only under the current fence; the first verdict on an
//! attempt wins, all later ones are ignored.

use crate::core::Core;
use crate::job::{AppendError, Live, Standing, step_of};
use crate::output::{Ignored, Output};
use crate::quarantine::End;
use crate::slab::Slot;
use crate::timer::Timer;
use crate::worker::{Doing, Leaves, Running, Taken};
use zoetrope_protocol::id::{Millis, ShardId, WorkerId};
use zoetrope_protocol::job::{ArtifactRef, Cause, Class, Role, Stage};
use zoetrope_protocol::mutant::{Mutant, on};
use zoetrope_protocol::wire::{Held, StopWhen};

impl Core {
    /// The attempt as its worker names it.
    pub(crate) fn held(&self, running: &Running) -> Held {
        let job = &self.state.jobs[running.job];
        let shard = ShardId { job: job.id, stage: running.stage, index: job.index() };
        Held { shard, fence: running.fence }
    }

    /// The running attempt that a report is about; otherwise the report is ignored.
    fn reported(
        &mut self,
        worker: WorkerId,
        held: Held,
        word: Word,
        out: &mut Vec<Output>,
    ) -> Option<(Slot, Running)> {
        let slot = self.connected(worker, out)?;
        if on(Mutant::NoFence) {
            let mut running =
                self.state.workers.iter().filter_map(|(slot, w)| Some((slot, *w.running()?)));
            let found = running.find(|(_, running)| self.held(running).shard == held.shard);
            if found.is_some() {
                return found;
            }
        }
        match self.state.workers[slot].doing {
            Doing::Running(running) if self.held(&running) == held => {
                // It was told the number that it has now.
                self.live(running.job).lost = None;
                return Some((slot, running));
            }
            Doing::Stopping { held: stopped, .. } if stopped == held => {
                if let Word::Last(gpu) = word {
                    // What it was stopped for is told already. This only says that the gpu is free.
                    self.end_stopping(slot, Some(gpu));
                    self.set_idle(slot);
                } else {
                    out.push(Output::Ignored { why: Ignored::StaleFence });
                }
                return None;
            }
            _ => {}
        }
        let known = self.job_slot(held.shard.job).is_some();
        let why = if known { Ignored::StaleFence } else { Ignored::NoSuchJob };
        out.push(Output::Ignored { why });
        let doing = self.state.workers[slot].running();
        let same = doing.is_some_and(|running| self.held(running).shard == held.shard);
        if word == Word::More && !same {
            // A zombie: it works on what nobody waits for.
            out.push(Output::Stop { worker, held, when: StopWhen::Now });
        }
        None
    }

    pub(crate) fn artifact_stored(
        &mut self,
        worker: WorkerId,
        held: Held,
        artifact: ArtifactRef,
        out: &mut Vec<Output>,
    ) {
        let Some((slot, running)) = self.reported(worker, held, Word::More, out) else { return };
        let job = &mut self.state.jobs[running.job];
        let (id, limits) = (job.id, (job.steps, job.chunks));
        let live = job.live.as_mut().expect("a running job is live");
        let mut answered = false;
        match live.append(running.stage, limits, artifact) {
            Ok(old) => {
                answered = true;
                live.outage = None;
                if live.preempted.is_some() {
                    self.todo.preempt = true;
                }
                if let Doing::Running(running) = &mut self.state.workers[slot].doing {
                    // The files of a clip are no link of the chain: whoever is next makes them again.
                    running.progressed |= running.stage != Stage::Finish;
                }
                if let Some(old) = old {
                    out.push(Output::Forget { job: id, artifacts: vec![old] });
                }
            }
            Err(AppendError::NothingNew) => {
                out.push(Output::Ignored { why: Ignored::NothingToDo });
            }
            Err(AppendError::Foreign) => out.push(Output::Ignored { why: Ignored::Senseless }),
        }
        if answered {
            self.dependency_answers();
        }
    }

    pub(crate) fn shard_finished(
        &mut self,
        worker: WorkerId,
        held: Held,
        outputs: Vec<ArtifactRef>,
        gpu: Millis,
        out: &mut Vec<Output>,
    ) {
        let last = Word::Last(gpu);
        let Some((slot, running)) = self.reported(worker, held, last, out) else { return };
        let job = &self.state.jobs[running.job];
        let chain = &self.state.models[job.model as usize].chain;
        let (steps, chunks) = (job.steps, job.chunks);
        let last = job.position as usize + 1 == chain.len();
        if !self.is_confirmed(&running, &outputs) && self.is_too_quick(&running, gpu) {
            self.drop_quick(slot, &running, &outputs, gpu, out);
            return;
        }
        let live = self.state.jobs[running.job].live.as_mut().expect("a running job is live");
        if !take_outputs(live, &running, (steps, chunks), &outputs) {
            // It claims to be done and is not: fewer steps than ordered, or no clip.
            let steps = running.stage == Stage::Denoise;
            let cause = if steps { Cause::TooQuick } else { Cause::EngineError };
            self.end_attempt(slot, Some(cause), Some(gpu), out);
            self.set_idle(slot);
            self.fail(slot, &running, cause, out);
            return;
        }
        self.end_attempt(slot, None, Some(gpu), out);
        self.set_idle(slot);
        self.dependency_answers();
        let node = self.state.workers[slot].node;
        let owner = self.owner(running.job);
        self.state.workers[slot].last_job = Some((owner, self.state.jobs[owner].seq));
        self.record(node, &running, End::Good, out);
        self.accepted(&running);
        let live = self.state.jobs[running.job].live.as_mut().expect("a running job is live");
        if last {
            live.finished = Some((running.fence, outputs));
        }
        live.maker = Some(node);
        live.front = false;
        if !last {
            // A clip may still be refused: then whoever failed to make it is remembered.
            live.avoid.clear();
        }
        live.outage = None;
        self.advance(running.job, out);
    }

    pub(crate) fn shard_failed(
        &mut self,
        worker: WorkerId,
        held: Held,
        cause: Cause,
        gpu: Millis,
        out: &mut Vec<Output>,
    ) {
        let last = Word::Last(gpu);
        let Some((slot, running)) = self.reported(worker, held, last, out) else { return };
        // The worker was told to stop, not why.
        let cause = match (cause, running.leaves) {
            (Cause::Preempted | Cause::Drained, Some(Leaves::Preempted { .. })) => Cause::Preempted,
            (Cause::Preempted, _) => Cause::Drained,
            (other, _) => other,
        };
        self.end_attempt(slot, Some(cause), Some(gpu), out);
        self.set_idle(slot);
        self.fail(slot, &running, cause, out);
    }

    pub(crate) fn stalled(&mut self, worker: WorkerId, held: Held, out: &mut Vec<Output>) {
        if let Some((slot, _)) = self.reported(worker, held, Word::More, out) {
            self.stop_and_fail(slot, Cause::Stalled, out);
        }
    }

    /// Ends a running attempt by an order, and lets its shard go on elsewhere.
    pub(crate) fn stop_and_fail(&mut self, slot: Slot, cause: Cause, out: &mut Vec<Output>) {
        let Some(running) = self.state.workers[slot].running().copied() else { return };
        self.stop(slot, cause, out);
        self.fail(slot, &running, cause, out);
    }

    /// Ends a running attempt by an order. Its gpu counts as taken, by its tenant too, until the worker has said that it
    /// is free.
    pub(crate) fn stop(&mut self, slot: Slot, cause: Cause, out: &mut Vec<Output>) {
        let worker = &self.state.workers[slot];
        let (id, connected) = (worker.id, worker.connected);
        let Some(held) = worker.running().map(|running| self.held(running)) else { return };
        if !connected {
            // It will ask what to go on with when it returns.
            return self.end_attempt(slot, Some(cause), None, out);
        }
        let until = self.state.now.plus(self.state.config.stop_wait);
        let Some(taken) = self.tell_end(slot, Some(cause), None, out) else { return };
        self.state.workers[slot].doing = Doing::Stopping { held, until, taken };
        self.set_timer(until, Timer::Stopping { worker: id });
        out.push(Output::Stop { worker: id, held, when: StopWhen::Now });
    }

    /// The books of an attempt's end: told, the tenant's charge corrected, its place given back. What the worker
    /// and the shard do next is the caller's.
    pub(crate) fn end_attempt(
        &mut self,
        slot: Slot,
        cause: Option<Cause>,
        reported: Option<Millis>,
        out: &mut Vec<Output>,
    ) {
        if let Some(taken) = self.tell_end(slot, cause, reported, out) {
            self.state.workers[slot].doing = Doing::Idle;
            self.settle(taken, reported);
        }
    }

    /// Tells that an attempt ended; gives what its tenant has taken for it.
    #[inline(always)]
    fn tell_end(
        &mut self,
        slot: Slot,
        cause: Option<Cause>,
        reported: Option<Millis>,
        out: &mut Vec<Output>,
    ) -> Option<Taken> {
        let worker = &self.state.workers[slot];
        let running = *worker.running()?;
        let held = self.held(&running);
        let Running { job, rank, kind, since, charged_ms, hard_limit, .. } = running;
        // One without a report took the gpu all the while. No report is taken that says more than can be: what is told is
        // learned from. But for its limit, since an attempt also ran while no leader was there to see it.
        let elapsed = self.state.now.minus(since);
        let gpu = reported.map_or(elapsed, |reported| reported.min(elapsed.max(hard_limit)));
        out.push(Output::AttemptEnded { held, worker: worker.id, cause, gpu });
        self.live(job).lost = None;
        self.leave_victims(slot);
        self.end_claim(slot);
        Some(Taken { tenant: self.state.jobs[job].tenant, rank, kind, since, charged_ms })
    }

    /// The gpu of a stopped attempt is free, or not to be waited for any more.
    pub(crate) fn end_stopping(&mut self, slot: Slot, reported: Option<Millis>) {
        if let Doing::Stopping { taken, .. } = self.state.workers[slot].doing {
            self.stopped(slot, taken, reported);
        }
    }

    #[cold]
    fn stopped(&mut self, slot: Slot, taken: Taken, reported: Option<Millis>) {
        self.state.workers[slot].doing = Doing::Idle;
        self.settle(taken, reported);
    }

    /// A tenant gives a gpu back: its charge is corrected.
    #[inline(always)]
    fn settle(&mut self, taken: Taken, reported: Option<Millis>) {
        let Taken { tenant: place, rank: class, kind, since, charged_ms } = taken;
        let elapsed = self.state.now.minus(since);
        // No attempt took longer than it lasted; one without a report took the gpu all the while.
        let used = reported.unwrap_or(elapsed).min(elapsed);
        let tenant = &self.state.tenants[place as usize];
        let clock = self.state.kinds[kind as usize].clock;
        let time = self.state.clocks[clock as usize].time(place, class);
        let corrected =
            time.saturating_sub(tenant.charge(charged_ms)).saturating_add(tenant.charge(used.0));
        self.set_virtual_time(place, class, clock, corrected);
        self.change_tenant(place, |tenant| tenant.running -= 1);
    }

    /// Moves a job whose shard does not run to where its chain of artifacts ends.
    pub(crate) fn advance(&mut self, slot: Slot, out: &mut Vec<Output>) {
        let job = &self.state.jobs[slot];
        if job.part.is_some() && self.is_decoded(slot) {
            self.part_done(slot, out);
        } else if job.live.as_ref().is_some_and(|live| live.finished.is_some()) {
            self.publish(slot, out);
        } else {
            self.make_ready(slot);
        }
    }

    /// The shard where the chain ends becomes ready.
    pub(crate) fn make_ready(&mut self, slot: Slot) {
        let now = self.state.now;
        let before = self.gauges(slot);
        let job = &self.state.jobs[slot];
        let chain = &self.state.models[job.model as usize].chain;
        let mut stages = [Stage::Encode; crate::job::CHAIN_MAX];
        for (stage, kind) in stages.iter_mut().zip(chain) {
            *stage = self.state.kinds[*kind as usize].stage;
        }
        let length = chain.len();
        let job = &mut self.state.jobs[slot];
        let live = job.live.as_mut().expect("only a job that began becomes ready again");
        let position = live.next_position(&stages[..length], job.steps, job.chunks);
        if position != job.position {
            // Another shard: whoever failed the last one may do well at this one.
            live.front = false;
            live.avoid.clear();
            live.lost = None;
            live.machine_losses = 0;
            live.shard_memory_failures = 0;
            live.quick.clear();
        }
        job.position = position;
        let cut =
            job.shards > 1 && job.part.is_none() && stages[usize::from(position)] == Stage::Decode;
        live.standing = if cut { Standing::Parted } else { Standing::Ready };
        live.since = now;
        if job.submitted.plus(self.state.config.flex_ages) <= now && job.rank == Class::Flex {
            job.rank = Class::Default;
        }
        if cut {
            self.recount(slot, &before);
            self.make_parts(slot);
            return;
        }
        self.enqueue(slot);
        self.recount(slot, &before);
        self.todo.shards.push(slot);
    }
}

/// Whether more reports of the same attempt can follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    More,
    /// With the time on the gpu thread.
    Last(Millis),
}

/// Takes a finished attempt's outputs into the chain; whether the stage's own output is among them, or was stored
/// before. If not, nothing of them is taken.
fn take_outputs(
    live: &mut Live,
    running: &Running,
    (steps, chunks): (u32, (u16, u16)),
    outputs: &[ArtifactRef],
) -> bool {
    let made = |is: fn(Role) -> bool| outputs.iter().any(|output| is(output.role));
    let there = match running.stage {
        Stage::Encode => live.prompt.is_some() || made(|role| role == Role::Prompt),
        Stage::Denoise => {
            let newest = outputs.iter().map(|output| step_of(output.role)).max();
            live.newest_step().max(newest.unwrap_or(0)) == steps
        }
        Stage::Decode => live.would_decode(outputs, chunks),
        Stage::Finish => made(|role| role == Role::Clip),
    };
    if !there {
        return false;
    }
    match running.stage {
        Stage::Encode | Stage::Denoise | Stage::Decode => {
            for artifact in outputs {
                // What was told by `ArtifactStored` before is nothing new.
                if let Ok(Some(old)) = live.append(running.stage, (steps, chunks), *artifact) {
                    live.leftover.push(old);
                }
            }
        }
        Stage::Finish => {}
    }
    true
}
