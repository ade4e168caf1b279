//! What an outsider can hold against the outputs: it knows only what was said, not what the core thinks.

use std::collections::{BTreeMap, BTreeSet};
use zoetrope_protocol::id::*;
use zoetrope_protocol::job::{ArtifactRef, Cause, Class, Stage};
use zoetrope_protocol::wire::{Held, StopWhen};
use zoetrope_sched::input::Input;
use zoetrope_sched::output::{JobState, Output};
use zoetrope_sched::{Core, view::WorkerState};

#[derive(Default)]
pub struct Watch {
    /// All attempts ever ordered.
    pub attempts: Vec<Held>,
    /// What runs, by worker.
    running: BTreeMap<WorkerId, Held>,
    highest: BTreeMap<ShardId, AttemptNumber>,
    /// By which numbers a worker may know what it does of a shard, since that was last ordered.
    known: BTreeMap<ShardId, BTreeSet<AttemptNumber>>,
    states: BTreeMap<JobId, JobState>,
    submitted: BTreeSet<JobId>,
    stored: BTreeMap<JobId, Vec<ArtifactRef>>,
    /// What `Publish` said last.
    published: BTreeMap<JobId, Vec<ArtifactRef>>,
    tenants: BTreeMap<JobId, TenantId>,
    running_max: BTreeMap<TenantId, u32>,
    /// On which boot of which node an attempt ran.
    places: BTreeMap<(ShardId, AttemptNumber), (String, u64)>,
    identities: BTreeMap<WorkerId, (String, u64)>,
    /// Boots that are to be emptied, also while they are away or lost.
    drained: BTreeSet<(String, u64)>,
    classes: BTreeMap<JobId, Class>,
    /// How often a job was preempted, and when last.
    preempted: BTreeMap<JobId, (u32, Millis)>,
    joined: BTreeSet<WorkerId>,
    gone: BTreeSet<WorkerId>,
}

macro_rules! hold {
    ($condition:expr, $($sentence:tt)+) => {
        if !$condition {
            return Err(format!($($sentence)+));
        }
    };
}

impl Watch {
    pub fn ended(&self, job: JobId) -> bool {
        self.states.get(&job).is_some_and(|state| *state != JobState::InProgress)
    }

    /// Every job that was submitted has ended.
    pub fn all_ended(&self) -> Result<(), String> {
        for job in &self.submitted {
            hold!(self.ended(*job), "{job} has not ended");
        }
        hold!(self.running.is_empty(), "an attempt has not ended");
        Ok(())
    }

    pub fn see(&mut self, core: &Core, input: &Input, out: &[Output]) -> Result<(), String> {
        self.take_in(input);
        for output in out {
            if let Output::AttemptEnded { worker, held, cause: None, .. } = output {
                let by = matches!(input, Input::ShardFinished { worker: w, held: h, .. }
                    if (w, h) == (worker, held));
                hold!(by, "a result counts that nobody gave");
            }
            self.output(core, output)?;
            self.stopped(core, input, output, out)?;
            self.preempts(core, input, output)?;
        }
        match input {
            Input::DrainAsked { worker, .. } if core.worker(*worker).is_some() => {
                self.drained.insert(self.identities[worker].clone());
            }
            Input::WorkerLeft { worker } => {
                let left = self.identities.get(worker);
                self.drained.retain(|boot| Some(boot) != left);
            }
            _ => {}
        }
        for view in core.workers() {
            let told = self.running.get(&view.worker);
            let placed = view.running.map(|at| Held { shard: at.shard, fence: at.fence });
            hold!(told.copied() == placed, "{} runs {placed:?}, told was {told:?}", view.worker);
        }
        Ok(())
    }

    fn take_in(&mut self, input: &Input) {
        match input {
            Input::Submitted { job, ask } => {
                self.submitted.insert(*job);
                self.tenants.entry(*job).or_insert(ask.tenant);
                self.classes.entry(*job).or_insert(ask.class);
            }
            Input::TenantSet { tenant, policy } => {
                self.running_max.insert(*tenant, policy.running_max);
            }
            Input::ArtifactStored { held, artifact, .. } => {
                self.stored.entry(held.shard.job).or_default().push(*artifact);
            }
            Input::ArtifactGone { job, artifact } => {
                if let Some(stored) = self.stored.get_mut(job) {
                    stored.retain(|other| other.artifact != artifact.artifact);
                }
            }
            Input::ShardFinished { held, outputs, .. } => {
                self.stored.entry(held.shard.job).or_default().extend(outputs);
            }
            Input::WorkerJoined { worker, identity, .. } => {
                self.joined.insert(*worker);
                let place = (identity.node.clone(), identity.boot);
                self.identities.entry(*worker).or_insert(place);
            }
            _ => {}
        }
    }

    /// An attempt that the core ends by itself is stopped, if there is a link to say so.
    fn stopped(
        &self,
        core: &Core,
        input: &Input,
        output: &Output,
        out: &[Output],
    ) -> Result<(), String> {
        let Output::AttemptEnded { worker, held, .. } = output else { return Ok(()) };
        let told = match input {
            Input::ShardFinished { held: said, .. } | Input::ShardFailed { held: said, .. } => {
                said == held
            }
            Input::WorkerJoined { worker: joined, .. } => joined == worker,
            _ => false,
        };
        let linked = core.worker(*worker).is_some_and(|view| view.state != WorkerState::Away);
        let stop = |output: &Output| matches!(output, Output::Stop { worker: w, held: h, .. } if (w, h) == (worker, held));
        hold!(told || !linked || out.iter().any(stop), "{held:?} is not stopped");
        Ok(())
    }

    /// A job leaves for a higher class at most three times, 30 s apart, and priority jobs never.
    fn preempts(&mut self, core: &Core, input: &Input, output: &Output) -> Result<(), String> {
        match output {
            Output::AttemptEnded { held, cause: Some(Cause::Preempted), .. } => {
                let job = held.shard.job;
                let (times, last) = self.preempted.entry(job).or_insert((0, Millis(0)));
                (*times, *last) = (*times + 1, core.now());
                hold!(*times <= 3, "{job} was preempted {times} times");
                hold!(
                    self.classes.get(&job) != Some(&Class::Priority),
                    "{job} is of the highest class"
                );
                hold!(
                    held.shard.stage == Stage::Denoise,
                    "{job} loses a stage that cannot be kept"
                );
            }
            Output::Stop { worker, held, when: StopWhen::AfterStep } => {
                let draining =
                    core.worker(*worker).is_some_and(|view| view.state == WorkerState::Draining);
                // A drain, a move, or an order that is said once more to a worker that came back.
                let other = matches!(input, Input::WorkerJoined { .. } | Input::MoveAsked { .. });
                if draining || other {
                    return Ok(());
                }
                let job = held.shard.job;
                let last = self.preempted.get(&job).map(|(_, last)| *last);
                let pause = last.is_none_or(|last| core.now() >= last.plus(Millis(30_000)));
                hold!(pause, "{job} is preempted again at once");
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, worker: WorkerId, held: Held) -> Result<(), String> {
        let Held { shard, fence } = held;
        hold!(!self.ended(shard.job), "{shard} runs and its job has ended");
        let before = self.running.insert(worker, held);
        hold!(before.is_none(), "{worker} runs two attempts");
        let tenant = self.tenants.get(&shard.job);
        let of_tenant = |held: &&Held| self.tenants.get(&held.shard.job) == tenant;
        let running = self.running.values().filter(of_tenant).count() as u32;
        let most = tenant.and_then(|tenant| self.running_max.get(tenant));
        hold!(Some(&running) <= most, "{tenant:?} runs {running} shards of {most:?}");
        let twice = self.running.values().filter(|other| other.shard == shard).count();
        hold!(twice == 1, "{shard} runs twice");
        let highest = self.highest.insert(shard, fence.attempt);
        hold!(highest < Some(fence.attempt), "{shard} has an attempt number twice");
        self.attempts.push(held);
        self.places.insert((held.shard, fence.attempt), self.identities[&worker].clone());
        Ok(())
    }

    fn output(&mut self, core: &Core, output: &Output) -> Result<(), String> {
        match output {
            Output::Assign { worker, shard, fence, inputs, .. } => {
                hold!(fence.epoch == core.epoch(), "an order of an old epoch");
                let view = core.worker(*worker).ok_or("an order to nobody")?;
                let state = view.state;
                let fine = !matches!(state, WorkerState::Away | WorkerState::Draining);
                hold!(fine && !view.cordoned, "an order to a worker that is {state}");
                let boot = &self.identities[worker];
                hold!(!self.drained.contains(boot), "an order to {boot:?}, which was drained");
                let barred = view.quarantines.iter().any(|q| q.stage == shard.stage);
                let model = core.job(shard.job).map(|job| job.model);
                let barred = barred && view.quarantines.iter().any(|q| Some(q.model) == model);
                let _ = barred; // Faults of the same input may follow the order.
                let stored = self.stored.get(&shard.job);
                for artifact in inputs {
                    let there = stored.is_some_and(|all| all.contains(artifact));
                    hold!(there, "{shard} is to start from {artifact:?}, which is not there");
                }
                self.known.insert(*shard, BTreeSet::from([fence.attempt]));
                self.begin(*worker, Held { shard: *shard, fence: *fence })?;
            }
            Output::Welcome { worker, keep } => {
                hold!(keep.len() <= 1, "{worker} keeps two attempts");
                for kept in keep {
                    let held = Held { shard: kept.held.shard, fence: kept.fence };
                    hold!(kept.fence.epoch == core.epoch(), "an attempt is kept in an old epoch");
                    let here = &self.identities[worker];
                    hold!(
                        self.places.get(&(kept.held.shard, kept.held.fence.attempt)) == Some(here),
                        "a foreign attempt is kept"
                    );
                    let known = self.known.entry(kept.held.shard).or_default();
                    let newest = known.contains(&kept.held.fence.attempt);
                    hold!(newest, "an attempt is kept that has a successor");
                    known.insert(kept.fence.attempt);
                    let shard = kept.held.shard;
                    let moved = self.running.iter().find(|(_, running)| running.shard == shard);
                    match moved.map(|(worker, _)| *worker) {
                        // The same attempt on a new connection.
                        Some(before) => {
                            self.running.remove(&before);
                            self.running.insert(*worker, held);
                            self.places.insert((held.shard, held.fence.attempt), here.clone());
                            self.attempts.push(held);
                        }
                        None => self.begin(*worker, held)?,
                    }
                }
            }
            Output::AttemptEnded { held, .. } => {
                let ran = self.running.iter().find(|(_, running)| *running == held);
                let worker = *ran.ok_or("an attempt ended that did not run")?.0;
                self.running.remove(&worker);
            }
            Output::Stop { worker, .. } | Output::Drain { worker, .. } => {
                hold!(!self.gone.contains(worker), "{worker} is gone and gets an order");
            }
            Output::JobMoved { job, state } => {
                hold!(self.submitted.contains(job), "{job} moved and was never submitted");
                hold!(!self.ended(*job), "{job} ended twice");
                let before = self.states.insert(*job, *state);
                let again = before.is_some() && *state == JobState::InProgress;
                hold!(!again, "{job} began twice");
            }
            Output::StageBegan { job, .. } => {
                hold!(!self.ended(*job), "{job} goes on after its end");
            }
            Output::Publish { job, outputs, .. } => {
                hold!(!self.ended(*job), "{job} is published after its end");
                self.published.insert(*job, outputs.clone());
            }
            Output::Forget { job, artifacts } => {
                let completed = self.states.get(job) == Some(&JobState::Completed);
                let published = self.published.get(job).filter(|_| completed);
                let kept = |artifact| published.is_some_and(|all| all.contains(artifact));
                hold!(!artifacts.iter().any(kept), "{job}'s published clip is forgotten");
                if let Some(stored) = self.stored.get_mut(job) {
                    stored.retain(|artifact| !artifacts.contains(artifact));
                }
            }
            Output::WorkerGone { worker, .. } => {
                hold!(self.joined.contains(worker), "{worker} is gone and was never there");
                hold!(self.gone.insert(*worker), "{worker} is gone twice");
            }
            Output::Slow { worker, held } => {
                hold!(self.running.get(worker) == Some(held), "{held:?} is slow and does not run");
            }
            Output::Quarantined { .. } | Output::Ignored { .. } => {}
        }
        Ok(())
    }
}
