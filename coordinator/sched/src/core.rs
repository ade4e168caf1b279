//! The core itself: takes an input, calls the room that owns it, places what became possible. Admits jobs and
//! ends them; a job's end is decided here once.

use crate::clocks::{Clock, ClockIx};
use crate::config::Config;
use crate::index::Index;
use crate::input::{Ask, Input, StageNeed};
use crate::job::{CHAIN_MAX, Job, Standing};
use crate::output::{FailWhy, GoneHow, Ignored, JobState, Output};
use crate::part::cut;
use crate::place::Todo;
use crate::slab::Slot;
use crate::state::{Kind, KindIx, Model, State};
use crate::table::hash_of;
use crate::view::{Gauges, JobPhase, ShardPhase};
use zoetrope_protocol::id::{Epoch, JobId, Millis, ModelId, WorkerId};
use zoetrope_protocol::job::{ArtifactRef, Cause, Class, Stage};
use zoetrope_protocol::mutant::{Mutant, on};

/// Where nobody expects anything: a minute a stage.
pub(crate) const EXPECTED_UNKNOWN_MS: u32 = 60_000;

/// The scheduler core.
pub struct Core {
    pub(crate) state: State,
    pub(crate) index: Index,
    /// Empty between inputs.
    pub(crate) todo: Todo,
}

impl Core {
    /// A core that knows nothing yet.
    pub fn new(config: Config) -> Self {
        Core { state: State::new(config), index: Index::default(), todo: Todo::default() }
    }

    /// Takes in what happened at `now` and appends what is to be done. Total: it never fails, and an input that is
    /// late or senseless leaves an `Output::Ignored`. A `now` before an earlier one counts as that one. Whoever has many
    /// inputs waiting calls [`foresee`](Core::foresee) before each: a large fleet is handled a third faster then.
    pub fn handle(&mut self, now: Millis, input: Input, out: &mut Vec<Output>) {
        let before = self.state.now;
        self.state.now = now.max(before);
        if let Input::EpochBegan { epoch } = input {
            // Before the timers: what is due goes to the workers of the new epoch.
            self.begin_epoch(epoch, self.state.now.minus(before), out);
            self.fire_timers(out);
        } else {
            self.fire_timers(out);
            self.take_in(input, out);
        }
        self.set_clocks();
        self.place_all(out);
    }

    fn take_in(&mut self, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::EpochBegan { .. } | Input::TimePassed => {}
            Input::ModelSet { model, name, chain } => self.set_model(model, name, &chain, out),
            Input::TenantSet { tenant, policy } => self.set_tenant(tenant, policy, out),
            Input::Submitted { job, ask } => self.submit(job, &ask, out),
            Input::EndAsked { job, why } => {
                if let Some(slot) = self.known(job, out) {
                    self.end_job(slot, JobState::Failed(FailWhy::Ended(why)), out);
                }
            }
            Input::WorkerJoined { worker, identity, capacity, held } => {
                self.join_worker(worker, identity, capacity, &held, out);
            }
            Input::WorkerLost { worker, how } => {
                self.drop_worker(worker, GoneHow::Lost(how), out);
            }
            Input::WorkerLeft { worker } => self.drop_worker(worker, GoneHow::Left, out),
            Input::DrainAsked { worker, drain } => self.drain_worker(worker, drain, out),
            Input::CordonSet { worker, cordoned } => self.set_cordon(worker, cordoned, out),
            Input::ArtifactStored { worker, held, artifact } => {
                self.artifact_stored(worker, held, artifact, out);
            }
            Input::ShardFinished { worker, held, outputs, gpu } => {
                self.shard_finished(worker, held, outputs, gpu, out);
            }
            Input::ShardFailed { worker, held, cause, gpu } => {
                self.shard_failed(worker, held, cause, gpu, out);
            }
            Input::Stalled { worker, held } => self.stalled(worker, held, out),
            Input::Published { job } => self.published(job, out),
            Input::PublishFailed { job, cause } => {
                let slot = self.known(job, out);
                match slot.filter(|slot| self.state.jobs[*slot].standing() == Standing::Publishing)
                {
                    Some(slot) => self.publish_failed(slot, cause, out),
                    None if slot.is_some() => {
                        out.push(Output::Ignored { why: Ignored::NothingToDo });
                    }
                    None => {}
                }
            }
            Input::ArtifactGone { job, artifact } => self.artifact_gone(job, artifact, out),
            Input::MoveAsked { job, to } => self.move_job(job, to, out),
            Input::VerdictGraceSet { grace } if grace == self.state.config.verdict_grace => {
                out.push(Output::Ignored { why: Ignored::NothingToDo });
            }
            Input::VerdictGraceSet { grace } => self.state.config.verdict_grace = grace,
        }
    }

    /// The place of an unfinished job.
    pub(crate) fn job_slot(&self, job: JobId) -> Option<Slot> {
        let jobs = &self.state.jobs;
        let is = |slot| jobs.get(slot).is_some_and(|there| there.id == job);
        self.index.jobs.find(hash_of(job), is)
    }

    /// The place of an unfinished job; otherwise the input is ignored.
    pub(crate) fn known(&self, job: JobId, out: &mut Vec<Output>) -> Option<Slot> {
        let slot = self.job_slot(job);
        if slot.is_none() {
            out.push(Output::Ignored { why: Ignored::NoSuchJob });
        }
        slot
    }

    fn drop_worker(&mut self, worker: WorkerId, how: GoneHow, out: &mut Vec<Output>) {
        match self.worker_slot(worker) {
            Some(slot) => self.remove_worker(slot, how, out),
            None => out.push(Output::Ignored { why: Ignored::NoSuchWorker }),
        }
    }

    fn set_model(&mut self, id: ModelId, name: String, chain: &[StageNeed], out: &mut Vec<Output>) {
        let rising = chain.windows(2).all(|pair| pair[0].stage < pair[1].stage);
        let known = self.index.models.get(&id).copied();
        let room = self.state.models.len() < self.state.config.models_max as usize;
        if chain.is_empty() || !rising || (known.is_none() && !room) {
            out.push(Output::Ignored { why: Ignored::Senseless });
            return;
        }
        if let Some(place) = known {
            let model = &self.state.models[place as usize];
            let stages = model.chain.iter().map(|kind| self.state.kinds[*kind as usize].stage);
            let other = !stages.eq(chain.iter().map(|need| need.stage));
            // Jobs are on their way through the old chain: it stays, with the name and the needs of now.
            let stays = other && self.state.jobs.iter().any(|(_, job)| job.model == place);
            if other && !stays {
                let kinds = chain.iter().map(|need| self.kind(id, *need)).collect();
                self.state.models[place as usize].chain = kinds;
            }
            let model = &mut self.state.models[place as usize];
            let kinds = &mut self.state.kinds;
            let mut changed = (other && !stays) || model.name != name;
            model.name = name;
            for kind in &model.chain {
                let kind = &mut kinds[*kind as usize];
                let Some(need) = chain.iter().find(|need| need.stage == kind.stage) else {
                    continue;
                };
                changed |= kind.vram_bytes != need.vram_bytes;
                kind.vram_bytes = need.vram_bytes;
            }
            if !changed {
                let why = if stays { Ignored::Senseless } else { Ignored::NothingToDo };
                out.push(Output::Ignored { why });
                return;
            }
        } else {
            let chain = chain.iter().map(|need| self.kind(id, *need)).collect();
            self.index.models.insert(id, self.state.models.len() as u16);
            self.state.models.push(Model { id, name, chain });
        }
        self.index.sort_kinds(&self.state);
        let workers: Vec<Slot> = self.state.workers.iter().map(|(slot, _)| slot).collect();
        self.todo.workers.extend(workers);
        self.todo.preempt = true;
    }

    /// The stages of a model's jobs.
    pub fn chain(&self, model: ModelId) -> Option<Vec<Stage>> {
        let place = *self.index.models.get(&model)?;
        let chain = self.state.models[usize::from(place)].chain.iter();
        Some(chain.map(|kind| self.state.kinds[*kind as usize].stage).collect())
    }

    /// The kind of a model's stage; made if there is none.
    fn kind(&mut self, model: ModelId, need: StageNeed) -> KindIx {
        let StageNeed { stage, vram_bytes } = need;
        let same = |kind: &Kind| kind.model == model && kind.stage == stage;
        let at = self.state.kinds.iter().position(same).unwrap_or_else(|| {
            let clock = self.state.clocks.len() as ClockIx;
            self.state.clocks.push(Clock::default());
            self.state.kinds.push(Kind {
                model,
                stage,
                vram_bytes,
                paused_until: None,
                relearn: 0,
                clock,
            });
            self.state.kinds.len() - 1
        });
        at as KindIx
    }

    fn submit(&mut self, id: JobId, ask: &Ask, out: &mut Vec<Output>) {
        let ignored = |why| Output::Ignored { why };
        if self.job_slot(id).is_some() {
            return out.push(ignored(Ignored::JobExists));
        }
        let Some(&tenant) = self.index.tenants.get(&ask.tenant) else {
            return out.push(ignored(Ignored::NoSuchTenant));
        };
        let Some(&model) = self.index.models.get(&ask.model) else {
            return out.push(ignored(Ignored::NoSuchModel));
        };
        let stages = self.state.models[model as usize].chain.len();
        let (chunks, shards) = cut(ask.decode.chunks, ask.decode.shards);
        let mut expected_ms = [0; CHAIN_MAX];
        expected_ms[..stages].fill(EXPECTED_UNKNOWN_MS);
        for (ours, asked) in expected_ms[..stages].iter_mut().zip(&ask.expected) {
            *ours = u32::try_from(asked.0).unwrap_or(u32::MAX);
        }
        let job = Job {
            id,
            seq: self.state.next_seq,
            tenant,
            model,
            class: ask.class,
            rank: ask.class,
            position: 0,
            steps: ask.steps.max(1),
            expected_ms,
            submitted: self.state.now,
            deadline: ask.deadline,
            learned: ask.learned,
            older: self.state.youngest,
            younger: None,
            chunks,
            shards,
            part: None,
            live: None,
        };
        self.state.next_seq += 1;
        let slot = self.state.jobs.insert(job);
        match self.state.youngest.replace(slot) {
            Some(before) => self.state.jobs[before].younger = Some(slot),
            None => {
                self.state.oldest = Some(slot);
                self.expect_at(self.state.now.plus(self.state.config.job_age_max));
            }
        }
        self.index.jobs.insert(hash_of(id), slot);
        let of = &mut self.state.tenants[tenant as usize];
        of.queued += 1;
        of.unfinished += 1;
        self.arrived(ask.class, slot);
        self.count(slot);
        if ask.class == Class::Flex {
            self.index.aging.push(self.state.jobs[slot].seq, slot);
            self.expect_at(self.state.now.plus(self.state.config.flex_ages));
        }
        self.enqueue(slot);
        if let Some(deadline) = ask.deadline {
            self.index.deadlines.insert((deadline, slot));
            self.expect_at(deadline);
            if deadline <= self.state.now {
                return self.end_job(slot, JobState::Failed(FailWhy::DeadlineExceeded), out);
            }
        }
        self.todo.shards.push(slot);
    }

    /// All stages are done: asks for the clip to be published.
    pub(crate) fn publish(&mut self, slot: Slot, out: &mut Vec<Output>) {
        self.uncount(slot);
        let now = self.state.now;
        if let Some(live) = &mut self.state.jobs[slot].live {
            live.standing = Standing::Publishing;
            live.since = now;
        }
        self.count(slot);
        self.put_out_publish(slot, out);
    }

    pub(crate) fn put_out_publish(&self, slot: Slot, out: &mut Vec<Output>) {
        let job = &self.state.jobs[slot];
        if let Some((fence, outputs)) = job.live.as_ref().and_then(|live| live.finished.clone()) {
            out.push(Output::Publish { job: job.id, fence, outputs });
        }
    }

    fn published(&mut self, job: JobId, out: &mut Vec<Output>) {
        let Some(slot) = self.known(job, out) else { return };
        match self.state.jobs[slot].standing() {
            Standing::Publishing | Standing::PublishBackingOff { .. } => {
                self.end_job(slot, JobState::Completed, out);
            }
            _ => out.push(Output::Ignored { why: Ignored::NothingToDo }),
        }
    }

    fn artifact_gone(&mut self, job: JobId, artifact: ArtifactRef, out: &mut Vec<Output>) {
        let Some(slot) = self.known(job, out) else { return };
        let has = |slot: &Slot| {
            self.state.jobs[*slot].live.as_ref().is_some_and(|live| live.has(artifact))
        };
        if !has(&slot) && !self.shards_of(slot).iter().any(has) {
            return out.push(Output::Ignored { why: Ignored::NothingToDo });
        }
        match self.state.jobs[slot].standing() {
            Standing::Running { .. } => {}
            standing => {
                match standing {
                    Standing::Ready => self.dequeue(slot),
                    Standing::Parted => self.drop_parts(slot, Cause::ArtifactMissing, out),
                    _ => {}
                }
                self.park(slot);
            }
        }
        self.lose_artifact(slot, artifact, out);
    }

    /// Stops the attempt on a worker for good: what it was to make is not wanted any more.
    pub(crate) fn end_running(&mut self, worker: Slot, cause: Cause, out: &mut Vec<Output>) {
        if self.state.workers[worker].running().is_some() {
            self.stop(worker, cause, out);
            self.todo.workers.push(worker);
        }
    }

    /// Ends a job, once and for all: its attempts are stopped, its artifacts are forgotten. A part ends its job.
    pub(crate) fn end_job(&mut self, slot: Slot, end: JobState, out: &mut Vec<Output>) {
        let slot = self.owner(slot);
        let publishing = self.state.jobs[slot].standing() == Standing::Publishing;
        if on(Mutant::CancelNotFinal) && publishing && end != JobState::Completed {
            return out.push(Output::JobMoved { job: self.state.jobs[slot].id, state: end });
        }
        match self.state.jobs[slot].standing() {
            Standing::Ready => self.dequeue(slot),
            Standing::Running { worker } => self.end_running(worker, Cause::Ended, out),
            Standing::Parted => self.drop_parts(slot, Cause::Ended, out),
            Standing::BackingOff { .. }
            | Standing::Publishing
            | Standing::PublishBackingOff { .. } => {}
        }
        self.uncount(slot);
        let Some(job) = self.state.jobs.take(slot) else { return };
        match job.older {
            Some(older) => self.state.jobs[older].younger = job.younger,
            None => self.state.oldest = job.younger,
        }
        match job.younger {
            Some(younger) => self.state.jobs[younger].older = job.older,
            None => self.state.youngest = job.older,
        }
        self.index.jobs.remove(hash_of(job.id), slot);
        if let Some(deadline) = job.deadline {
            self.index.deadlines.remove(&(deadline, slot));
        }
        if job.rank == Class::Flex {
            self.index.aging.remove(job.seq);
        }
        let tenant = &mut self.state.tenants[job.tenant as usize];
        tenant.unfinished -= 1;
        if job.live.is_none() {
            tenant.queued -= 1;
        }
        out.push(Output::JobMoved { job: job.id, state: end });
        if let Some(live) = &job.live {
            let finished = live.finished.as_ref().map(|(_, outputs)| &outputs[..]);
            let published = finished.filter(|_| end == JobState::Completed);
            let artifacts = live.all_but(published.unwrap_or_default());
            if !artifacts.is_empty() {
                out.push(Output::Forget { job: job.id, artifacts });
            }
        }
    }

    /// Takes a job out of the gauges; to be called before what they look at changes.
    pub(crate) fn uncount(&mut self, slot: Slot) {
        let gauges = self.gauges(slot);
        self.index.counts.take(&gauges);
        self.take_work(slot, &gauges);
    }

    /// Enters a job into the gauges.
    pub(crate) fn count(&mut self, slot: Slot) {
        let gauges = self.gauges(slot);
        self.index.counts.add(&gauges);
        self.add_work(slot, &gauges);
    }

    /// Enters a job into the gauges in place of what it added before.
    #[inline(always)]
    pub(crate) fn recount(&mut self, slot: Slot, before: &Gauges) {
        let gauges = self.gauges(slot);
        self.index.counts.take(before);
        self.index.counts.add(&gauges);
        if before.rank == gauges.rank {
            let work = self.work_at(slot, gauges.rank);
            work.add(&gauges);
            work.take(before);
        } else {
            self.take_work(slot, before);
            self.add_work(slot, &gauges);
        }
    }

    #[inline(always)]
    pub(crate) fn gauges(&self, slot: Slot) -> Gauges {
        let job = &self.state.jobs[slot];
        let begun = job.live.is_some();
        let phase = if begun { JobPhase::InProgress } else { JobPhase::Queued };
        let standing = job.standing();
        let (phase, shard) = match standing {
            Standing::Ready => (phase, Some(ShardPhase::Ready)),
            Standing::BackingOff { .. } => (phase, Some(ShardPhase::BackingOff)),
            Standing::Running { .. } => (phase, Some(ShardPhase::Running)),
            // Its parts count.
            Standing::Parted => (phase, None),
            Standing::Publishing | Standing::PublishBackingOff { .. } => {
                (JobPhase::Publishing, None)
            }
        };
        let current = u64::from(job.expected_ms[job.position as usize]);
        let work = match standing {
            Standing::Parted => job.left_ms() - current,
            _ if shard.is_some() => job.left_ms(),
            _ => 0,
        };
        let running = shard == Some(ShardPhase::Running);
        let runs = if running { current } else { 0 };
        let shard = shard.map(|phase| (self.state.stage_of(job), phase));
        let (class, rank, part) = (job.class, job.rank, job.part.is_some());
        Gauges { class, rank, part, phase, shard, backlog: work - runs, begun, work }
    }

    /// The number that the next worker to say hello is to have.
    pub fn next_worker_id(&self) -> WorkerId {
        self.state.next_worker
    }

    /// The current epoch; 0 before the first.
    pub fn epoch(&self) -> Epoch {
        self.state.epoch
    }

    /// The limits in force.
    pub fn config(&self) -> &Config {
        &self.state.config
    }
}
