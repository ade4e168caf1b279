//! Carries out what the core decided, once the input behind it is on disk. Has no choices of its own.

use super::books::Entry;
use super::state::DispatchState;
use super::words::{FailWord, LossWord, UseWord};
use crate::link::LinkMsg;
use crate::storage::StorageMsg;
use std::time::{Duration, Instant};
use zoetrope_protocol::id::{ArtifactId, JobId, Millis, WorkerId};
use zoetrope_protocol::job::{Cause, Stage};
use zoetrope_protocol::metric;
use zoetrope_protocol::wire::{CloseCode, Held, ToWorker};
use zoetrope_sched::Input;
use zoetrope_sched::input::LostHow;
use zoetrope_sched::output::{GoneHow, Ignored, JobState, Output};

/// Something to do after a sync.
pub enum Effect {
    /// What the core wants.
    Output(Box<Output>),
    /// Nobody uses these artifacts any more.
    Delete(Vec<ArtifactId>),
    /// Tell a worker something.
    Tell(WorkerId, Box<ToWorker>),
    /// Have a job's words judged.
    Judge(JobId),
    /// Remove a job's pointer.
    Unpublish(JobId),
    /// Answer a caller.
    Answer(Box<dyn FnOnce() + Send>),
}

impl DispatchState {
    pub(super) fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Output(output) => self.output(*output),
            Effect::Delete(artifacts) => self.delete_later(artifacts),
            Effect::Tell(worker, message) => self.tell(worker, LinkMsg::Send(message)),
            Effect::Judge(job) => self.judge(job),
            Effect::Unpublish(job) => self.unpublish(job),
            Effect::Answer(answer) => answer(),
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Welcome { worker, keep } => {
                if !keep.is_empty() {
                    let pool = self.pool(worker);
                    self.metrics.count(&metric::WORKERS_REATTACHED, &[&pool]);
                }
                let epoch = self.books.core.epoch();
                for kept in &keep {
                    self.board.begin(Held { shard: kept.held.shard, fence: kept.fence });
                }
                self.tell(worker, LinkMsg::Welcome { worker, epoch, keep });
            }
            Output::Assign { worker, shard, affinity, .. } => {
                self.metrics.count(&metric::PLACEMENTS, &[affinity.word()]);
                let every = self.limits.checkpoint_every;
                let Some(order) = self.books.order(output, every) else { return };
                self.placed.insert(shard, Instant::now());
                self.board.begin(Held { shard, fence: order.fence });
                if shard.stage == Stage::Finish {
                    return self.mark_order(worker, order);
                }
                self.tell(worker, LinkMsg::Send(Box::new(ToWorker::Order(order))));
            }
            Output::Stop { worker, held, when } => {
                self.tell_if_there(worker, ToWorker::Stop { held, when });
            }
            Output::Drain { worker, drain } => self.tell_if_there(worker, ToWorker::Drain(drain)),
            Output::Publish { job, fence, outputs } => self.publish(job, fence, &outputs, None),
            Output::JobMoved { job, state } => self.job_moved(job, state),
            Output::AttemptEnded { held, worker, cause, gpu } => {
                self.attempt_ended(held, worker, cause, gpu);
            }
            Output::Quarantined { worker, model, stage, until } => {
                let pool = self.pool(worker);
                self.metrics.count(&metric::QUARANTINES, &[&pool, stage.word()]);
                tracing::warn!(%worker, model = model.0, %stage, until = until.0, "a worker is in quarantine");
            }
            Output::Slow { held, worker } => {
                self.metrics.count(&metric::ATTEMPTS_SLOW, &[held.shard.stage.word()]);
                tracing::info!(%worker, shard = %held.shard, "an attempt is slow");
            }
            Output::WorkerGone { worker, how } => self.worker_gone(worker, how),
            Output::Ignored { why: Ignored::StaleFence } => {
                self.metrics.count(&metric::STALE_RESULTS, &["core"]);
            }
            // The books have taken these in; nobody outside waits for them.
            Output::StageBegan { .. } | Output::Forget { .. } | Output::Ignored { .. } => {}
        }
    }

    /// A link that does not take a message is gone, and that is news for the core.
    fn tell(&mut self, worker: WorkerId, message: LinkMsg) {
        let taken = self.links.get(&worker).is_some_and(|link| link.actor.cast(message).is_ok());
        if !taken && self.links.remove(&worker).is_some() {
            self.record(Entry::Core(Input::WorkerLost { worker, how: LostHow::Closed }));
        }
    }

    /// The core may stop or drain a worker that it has just given up.
    pub(super) fn tell_if_there(&mut self, worker: WorkerId, message: ToWorker) {
        if self.links.contains_key(&worker) {
            self.tell(worker, LinkMsg::Send(Box::new(message)));
        }
    }

    fn worker_gone(&mut self, worker: WorkerId, how: GoneHow) {
        if let Some(how) = LossWord::of(how) {
            self.metrics.count(&metric::WORKERS_LOST, &[&self.pool(worker), how.word()]);
        }
        let Some(link) = self.links.remove(&worker) else { return };
        self.workers.remove(&link.actor.get_id());
        let reason = "another connection took over, or it was given up".to_owned();
        // A link that is gone is as good as closed.
        drop(link.actor.cast(LinkMsg::Close { code: CloseCode::Replaced, reason }));
    }

    pub(super) fn pool(&self, worker: WorkerId) -> String {
        let facts = self.books.table.worker(worker);
        facts.map_or_else(|| "unknown".to_owned(), |facts| facts.pool.clone())
    }

    /// A pointer that stays points at nothing that anybody can ask for; once the job's row has gone it would look like
    /// one of another journal's, and nothing would be swept any more.
    pub(super) fn unpublish(&mut self, job: JobId) {
        let message = StorageMsg::Unpublish { job, back: self.myself.clone() };
        if self.storage.as_ref().is_some_and(|storage| storage.cast(message).is_ok()) {
            self.unpublishing.insert(job);
        } else {
            self.unpublish_later(job);
        }
    }

    fn attempt_ended(&mut self, held: Held, worker: WorkerId, cause: Option<Cause>, gpu: Millis) {
        let stage = held.shard.stage;
        let pool = self.pool(worker);
        let word = cause.map_or("none", Cause::word);
        self.metrics.count(&metric::ATTEMPTS, &[stage.word(), word]);
        let seconds = Duration::from_millis(gpu.0).as_secs_f64();
        let used = if cause.is_none() { UseWord::Useful } else { UseWord::Lost };
        self.metrics.add(&metric::GPU_SECONDS, &[&pool, used.word()], seconds);
        self.board.end(held);
        let began = self.placed.remove(&held.shard);
        let Some(row) = self.books.table.row(held.shard.job) else { return };
        let model = row.spec.render.model.clone();
        if let (None, Some(began)) = (cause, began) {
            self.metrics.observe(
                &metric::ATTEMPT_DURATION,
                &[stage.word(), &model],
                began.elapsed(),
            );
        }
        // A resumed shard says nothing of a whole one; its first attempt is whole.
        let resumes = matches!(stage, Stage::Denoise | Stage::Decode);
        let whole = !resumes || held.fence.attempt.0 == 1;
        if cause.is_none() && whole && gpu.0 > 0 {
            let spec = row.spec.render.clone();
            if let Some(model) = self.models.find(&model) {
                // A stage takes what all its shards take.
                let shards = match stage {
                    Stage::Decode => model.decode(spec.shape()).shards,
                    _ => 1,
                };
                let gpu = Millis(gpu.0.saturating_mul(shards.into()));
                self.medians.add(model.id, stage, &spec, gpu);
            }
        }
    }

    /// How wrong the estimate at admission was; its quotient by the turnarounds is the farm's error.
    fn hold_estimate(&mut self, job: JobId, state: JobState) {
        if matches!(state, JobState::Queued | JobState::InProgress) {
            return;
        }
        let Some(said) = self.estimates.remove(&job) else { return };
        let row = self.books.table.row(job).filter(|_| state == JobState::Completed);
        let Some((created, ended)) = row.and_then(|row| Some((row.created, row.ended?))) else {
            return;
        };
        let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
        self.metrics.add(&metric::ESTIMATE_ERROR, &[], seconds(ended.0.abs_diff(said.0)));
        self.metrics.add(&metric::ESTIMATED, &[], seconds(ended.minus(created).0));
    }

    fn job_moved(&mut self, job: JobId, state: JobState) {
        self.hold_estimate(job, state);
        let Some(row) = self.books.table.row(job) else { return };
        let class = row.spec.class.word();
        let model = row.spec.render.model.clone();
        let since = |then: Millis, now: Option<Millis>| {
            Duration::from_millis(now.unwrap_or(then).minus(then).0)
        };
        match state {
            JobState::Queued => {}
            JobState::InProgress => {
                let waited = since(row.created, row.in_progress);
                self.metrics.observe(&metric::JOB_WAIT, &[class, &model], waited);
            }
            JobState::Completed => {
                let took = since(row.created, row.ended);
                self.metrics.observe(&metric::JOB_TURNAROUND, &[class, &model], took);
                self.metrics.count(&metric::JOBS_FINISHED, &[class, &model, "none"]);
                let seconds = f64::from(row.spec.render.seconds());
                self.metrics.add(&metric::VIDEO_SECONDS, &[&model], seconds);
                self.board.forget(job);
                tracing::info!(%job, took_ms = took.as_millis() as u64, "a job is completed");
            }
            JobState::Failed(why) => {
                let failed = FailWord::of(why);
                let code = failed.word();
                self.metrics.count(&metric::JOBS_FINISHED, &[class, &model, failed.fault()]);
                self.metrics.count(&metric::JOBS_FAILED, &[code]);
                self.board.failed(job);
                tracing::info!(%job, code, "a job ended without a clip");
            }
        }
    }
}
