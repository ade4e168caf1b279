//! What the core's outputs mean to those outside, followed record by record: who runs what, who may, and what
//! was promised. Outputs that it does not know yet pass unseen.

use super::holdings::Holdings;
use super::{Held2, input_of, sortable};
use std::collections::{BTreeMap, BTreeSet};
use zoetrope_coordinator::dispatch::books::Entry;
use zoetrope_protocol::id::*;
use zoetrope_protocol::job::{ArtifactRef, Cause, Role, Stage};
use zoetrope_protocol::wire::Held;
use zoetrope_sched::input::Input;
use zoetrope_sched::output::{JobState, Output};
use zoetrope_sched::{Core, view::WorkerState};

/// What was said so far.
#[derive(Default)]
pub struct Watch {
    running: BTreeMap<WorkerId, Held>,
    ordered: BTreeSet<Held2>,
    highest: BTreeMap<ShardId, AttemptNumber>,
    /// By which numbers a worker may know what it does of a shard, since that was last ordered: a welcome that gives a new
    /// one may be lost.
    known: BTreeMap<ShardId, BTreeSet<AttemptNumber>>,
    states: BTreeMap<JobId, JobState>,
    tenants: BTreeMap<JobId, TenantId>,
    running_max: BTreeMap<TenantId, u32>,
    /// What counts as stored for a job: its chain, then its clip.
    stored: Holdings,
    publishing: BTreeMap<JobId, Vec<ArtifactRef>>,
    /// What led to a clip, of jobs that ended, until it is cleaned up.
    left: Holdings,
    /// Jobs of which an artifact was found missing.
    shaken: BTreeSet<JobId>,
    identities: BTreeMap<WorkerId, (String, u64)>,
    /// The boot that each node has now.
    boots: BTreeMap<String, (u64, WorkerId)>,
    /// On which boot of which node an attempt ran.
    places: BTreeMap<Held2, (String, u64)>,
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
    /// Whether an order for this attempt was ever put out.
    pub fn was_ordered(&self, held: &Held2) -> bool {
        self.ordered.contains(held)
    }

    /// A job that one of these artifacts belongs to.
    pub fn user_of(&self, gone: &BTreeSet<ArtifactId>) -> Option<(JobId, ArtifactId)> {
        gone.iter().find_map(|artifact| {
            let user = self.stored.user_of(artifact).or_else(|| self.left.user_of(artifact))?;
            Some((user, *artifact))
        })
    }

    /// Whether an artifact of this attempt is on its job's chain.
    pub fn counts(&self, held: Held, artifact: &ArtifactRef) -> bool {
        self.stored.of(held.shard.job).contains(artifact)
    }

    /// Whether an artifact of the job was found missing, so that steps have to be made again.
    pub fn is_shaken(&self, job: JobId) -> bool {
        self.shaken.contains(&job)
    }

    fn ended(&self, job: JobId) -> bool {
        matches!(self.states.get(&job), Some(JobState::Completed | JobState::Failed(_)))
    }

    /// Takes in a record and what it caused.
    pub fn see(
        &mut self,
        core: &Core,
        entry: &Entry,
        out: &[Output],
        thorough: bool,
    ) -> Result<(), String> {
        match entry {
            Entry::Deleted { job } | Entry::Expired { job } => {
                self.stored.remove(*job);
                self.left.remove(*job);
            }
            Entry::CleanedUp { job } => {
                hold!(self.ended(*job), "{job} runs, and is cleaned up");
                self.left.remove(*job);
            }
            _ => {}
        }
        let input = input_of(entry);
        if let Some(input) = &input {
            self.take_in(input, out)?;
        }
        for output in out {
            if let Some(input) = &input {
                self.accepted(input, output)?;
            }
            self.output(core, output)?;
        }
        if matches!(entry, Entry::Deleted { job } if self.ended(*job)) {
            let Entry::Deleted { job } = entry else { return Ok(()) };
            self.stored.remove(*job);
            self.left.remove(*job);
        }
        if thorough {
            for view in core.workers() {
                let told = self.running.get(&view.worker).copied();
                let placed = view.running.map(|at| Held { shard: at.shard, fence: at.fence });
                hold!(told == placed, "{} runs {placed:?}, told was {told:?}", view.worker);
            }
        }
        Ok(())
    }

    fn take_in(&mut self, input: &Input, out: &[Output]) -> Result<(), String> {
        let ignored = out.iter().any(|output| matches!(output, Output::Ignored { .. }));
        match input {
            Input::Submitted { job, ask } => {
                self.tenants.entry(*job).or_insert(ask.tenant);
            }
            Input::TenantSet { tenant, policy } => {
                self.running_max.insert(*tenant, policy.running_max);
            }
            Input::ArtifactStored { held, artifact, .. } if !ignored => {
                self.stored.add(held.shard.job, &[*artifact]);
            }
            // The last word of an attempt that was stopped says only that its gpu is free.
            Input::ShardFinished { held, outputs, .. } if ended_well(out, held) => {
                self.stored.add(held.shard.job, outputs);
            }
            Input::ShardFailed { held, cause: Cause::ArtifactMissing, .. } => {
                self.shaken.insert(held.shard.job);
            }
            Input::PublishFailed { job, .. } => {
                self.shaken.insert(*job);
            }
            Input::ArtifactGone { job, artifact } => {
                self.shaken.insert(*job);
                self.stored.retain(*job, |other| other.artifact != artifact.artifact);
            }
            Input::WorkerJoined { worker, identity, held, .. } => {
                let place = (identity.node.clone(), identity.boot);
                self.identities.entry(*worker).or_insert(place);
                let before = self.boots.insert(identity.node.clone(), (identity.boot, *worker));
                let new_boot = before.is_none_or(|(boot, _)| boot != identity.boot);
                let welcome =
                    |o: &Output| matches!(o, Output::Welcome { worker: w, .. } if w == worker);
                hold!(
                    !new_boot || out.iter().any(welcome),
                    "identity: a new boot of {} is not welcome",
                    identity.node
                );
                for output in out {
                    let Output::Welcome { keep, .. } = output else { continue };
                    let foreign = keep.iter().find(|kept| !held.contains(&kept.held));
                    hold!(
                        foreign.is_none(),
                        "identity: {} is told to keep {foreign:?}, which it does not hold",
                        identity.node
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A result counts only from the worker and the attempt that were ordered.
    fn accepted(&self, input: &Input, output: &Output) -> Result<(), String> {
        let Output::AttemptEnded { worker, held, cause, gpu } = output else { return Ok(()) };
        match input {
            Input::ShardFinished { worker: by, held: of, gpu: used, .. }
            | Input::ShardFailed { worker: by, held: of, gpu: used, .. } => {
                // Other shards may end at the same moment without a report of theirs, having lasted just as long.
                let stopped = matches!(cause, Some(Cause::Timeout | Cause::Drained | Cause::Ended));
                let another = stopped && held.shard != of.shard;
                let reported = used == gpu && *used > Millis(0) && !another;
                hold!(
                    (by, of) == (worker, held) || !reported,
                    "fenced: a report of {of:?} by {by} ended {held:?} on {worker}"
                );
            }
            _ => {}
        }
        let by = matches!(input, Input::ShardFinished { worker: w, held: h, .. }
            if (w, h) == (worker, held));
        hold!(cause.is_some() || by, "fenced: a result of {held:?} counts that nobody gave");
        Ok(())
    }

    fn begin(&mut self, worker: WorkerId, held: Held) -> Result<(), String> {
        let Held { shard, fence } = held;
        hold!(!self.ended(shard.job), "decided once: {shard} runs and its job has ended");
        let before = self.running.insert(worker, held);
        hold!(before.is_none(), "fenced: {worker} runs two attempts, {before:?} and {held:?}");
        let tenant = self.tenants.get(&shard.job);
        let of_tenant = |held: &&Held| self.tenants.get(&held.shard.job) == tenant;
        let running = self.running.values().filter(of_tenant).count() as u32;
        let most = tenant.and_then(|tenant| self.running_max.get(tenant));
        hold!(
            Some(&running) <= most,
            "within limits: {tenant:?} runs {running} shards of {most:?}"
        );
        let twice = self.running.values().filter(|other| other.shard == shard).count();
        hold!(twice == 1, "fenced: {shard} runs twice");
        let highest = self.highest.insert(shard, fence.attempt);
        hold!(highest < Some(fence.attempt), "fenced: {shard} has an attempt number twice");
        self.note(worker, held);
        Ok(())
    }

    fn note(&mut self, worker: WorkerId, held: Held) {
        self.ordered.insert(sortable(&held));
        if let Some(place) = self.identities.get(&worker) {
            self.places.insert(sortable(&held), place.clone());
        }
    }

    fn output(&mut self, core: &Core, output: &Output) -> Result<(), String> {
        match output {
            Output::Assign { worker, shard, fence, inputs, .. } => {
                hold!(fence.epoch == core.epoch(), "fenced: an order of an old epoch");
                let view = core.worker(*worker).ok_or("an order to nobody")?;
                let away = matches!(view.state, WorkerState::Away | WorkerState::Draining);
                hold!(!away && !view.cordoned, "an order to a worker that is {}", view.state);
                self.starts_from_the_newest(*shard, inputs)?;
                self.known.insert(*shard, BTreeSet::from([fence.attempt]));
                self.begin(*worker, Held { shard: *shard, fence: *fence })?;
            }
            Output::Welcome { worker, keep } => {
                for kept in keep {
                    let held = Held { shard: kept.held.shard, fence: kept.fence };
                    hold!(kept.fence.epoch == core.epoch(), "fenced: kept in an old epoch");
                    let here = self.identities.get(worker);
                    let ran = self.places.get(&sortable(&kept.held));
                    hold!(ran == here, "identity: {worker} keeps what ran on {ran:?}");
                    let shard = kept.held.shard;
                    let known = self.known.entry(shard).or_default();
                    let newest = known.contains(&kept.held.fence.attempt);
                    hold!(newest, "fenced: an attempt is kept that has a successor");
                    known.insert(kept.fence.attempt);
                    let moved = self.running.iter().find(|(_, running)| running.shard == shard);
                    match moved.map(|(worker, _)| *worker) {
                        // The same attempt on a new connection.
                        Some(before) => {
                            self.running.remove(&before);
                            self.running.insert(*worker, held);
                            self.note(*worker, held);
                        }
                        None => self.begin(*worker, held)?,
                    }
                }
            }
            Output::AttemptEnded { held, cause, .. } => {
                if *cause == Some(Cause::TooQuick) {
                    // What it stored does not count.
                    self.shaken.insert(held.shard.job);
                }
                let ran = self.running.iter().find(|(_, running)| *running == held);
                let worker = *ran.ok_or("an attempt ended that did not run")?.0;
                self.running.remove(&worker);
            }
            Output::Stop { worker, .. } | Output::Drain { worker, .. } => {
                hold!(!self.gone.contains(worker), "{worker} is gone and gets an order");
            }
            Output::JobMoved { job, state } => {
                let before = self.states.get(job).copied();
                hold!(!self.ended(*job), "decided once: {job} was {before:?} and is {state:?}");
                self.states.insert(*job, *state);
                match state {
                    JobState::Completed => {
                        let clip = self.publishing.remove(job).unwrap_or_default();
                        let mut left = self.stored.remove(*job);
                        left.retain(|artifact| !clip.contains(artifact));
                        self.stored.add(*job, &clip);
                        self.left.add(*job, &left);
                    }
                    JobState::Failed(_) => {
                        let left = self.stored.remove(*job);
                        self.left.add(*job, &left);
                    }
                    _ => {}
                }
            }
            Output::Publish { job, outputs, .. } => {
                hold!(!self.ended(*job), "cancel is final: {job} is published after its end");
                self.publishing.insert(*job, outputs.clone());
            }
            Output::Forget { job, artifacts } => {
                let completed = self.states.get(job) == Some(&JobState::Completed);
                let stored = self.stored.of(*job);
                let kept = |a: &ArtifactRef| completed && stored.contains(a);
                hold!(!artifacts.iter().any(kept), "{job}'s published clip is forgotten");
                self.stored.retain(*job, |artifact| !artifacts.contains(artifact));
            }
            Output::WorkerGone { worker, .. } => {
                hold!(self.gone.insert(*worker), "{worker} is gone twice");
            }
            _ => {}
        }
        Ok(())
    }

    /// An attempt starts from artifacts that are stored, and from the newest latents.
    fn starts_from_the_newest(&self, shard: ShardId, inputs: &[ArtifactRef]) -> Result<(), String> {
        let stored = self.stored.of(shard.job);
        for artifact in inputs {
            let there = stored.contains(artifact);
            hold!(there, "{shard} is to start from {artifact:?}, which is not stored");
        }
        if shard.stage != Stage::Denoise || self.shaken.contains(&shard.job) {
            return Ok(());
        }
        let newest = stored.iter().map(|a| step_of(a.role)).max().unwrap_or(0);
        let from = inputs.iter().map(|a| step_of(a.role)).max().unwrap_or(0);
        hold!(from >= newest, "resumes: {shard} starts at step {from}, step {newest} is stored");
        Ok(())
    }
}

fn ended_well(out: &[Output], held: &Held) -> bool {
    let well = |output: &Output| matches!(output, Output::AttemptEnded { held: of, cause: None, .. } if of == held);
    out.iter().any(well)
}

fn step_of(role: Role) -> u32 {
    if let Role::Latents { step } = role { step } else { 0 }
}
