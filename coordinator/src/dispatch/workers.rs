//! What links say of their workers becomes inputs; and what operators see and want of workers.

use super::Report;
use super::books::{Books, Entry};
use super::effects::Effect;
use super::state::{DispatchState, Link};
use crate::farm::{MoveRefused, NoSuchWorker, WorkerRow};
use crate::jobs::WorkerFacts;
use crate::link::LinkMsg;
use crate::models::{Model, Models};
use crate::storage::StorageMsg;
use ractor::{ActorId, ActorRef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use zoetrope_protocol::id::{JobId, ModelId, WorkerId};
use zoetrope_protocol::job::{Cause, Class, Stage};
use zoetrope_protocol::metric;
use zoetrope_protocol::wire::{DrainKind, Held, Identity, MACHINE_BYTES_MAX, Profile, ToWorker};
use zoetrope_sched::Input;
use zoetrope_sched::input::{Capacity, LostHow, Placed};
use zoetrope_sched::view::{JobPhase, ShardPhase, WorkerState, WorkerView};

/// The entry of a worker's hello, and the number that it gets.
pub fn joined(
    books: &Books,
    models: &Models,
    identity: Identity,
    profile: &Profile,
    held: Vec<Held>,
) -> (WorkerId, Entry) {
    let worker = books.core.next_worker_id();
    let facts = WorkerFacts::of(&identity.node, profile);
    let serves = |id: &str| models.all().iter().find(|m| m.manifest.id == id).map(|m| m.id);
    let served = profile.models.iter();
    let serves: Vec<(ModelId, Vec<Stage>)> =
        served.filter_map(|m| Some((serves(&m.id)?, m.stages.clone()))).collect();
    if serves.is_empty() {
        tracing::warn!(node = identity.node, "a worker has none of the farm's models");
    }
    for model in profile.models.iter().filter(|model| finishes_alone(&model.stages)) {
        let whole = |m: &&Model| m.manifest.id == model.id && m.decode_chunks.is_none();
        if models.all().iter().any(|m| whole(&m)) {
            let (node, model) = (&identity.node, &model.id);
            tracing::warn!(
                node,
                model,
                "it makes clips of what others decode, but without `decode_chunks` nobody does: it will decode"
            );
        }
    }
    // A longer name is none: it would be kept for every worker.
    let known = profile.machine.len() <= MACHINE_BYTES_MAX;
    let machine = if known { profile.machine.clone() } else { String::new() };
    let capacity = Capacity { vram_bytes: profile.vram_bytes, serves, machine };
    let input = Input::WorkerJoined { worker, identity, capacity, held };
    (worker, Entry::Joined { worker, facts, input })
}

fn finishes_alone(stages: &[Stage]) -> bool {
    stages.contains(&Stage::Finish) && !stages.contains(&Stage::Decode)
}

/// Models of which a worker has other files than those that came before it, each with one of those. What the one makes of a
/// render the other refuses, so jobs that meet both fail.
pub fn other_weights<'a>(
    before: impl Iterator<Item = &'a WorkerFacts> + Clone,
    facts: &'a WorkerFacts,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    facts.models.iter().filter_map(move |model| {
        // The first that has it speaks for all: thousands may be there.
        let others = before.clone().filter(|other| other.node != facts.node);
        let (node, other) = others
            .filter_map(|other| {
                let has = other.models.iter().find(|has| has.id == model.id)?;
                Some((&*other.node, has))
            })
            .next()?;
        (other.fingerprint != model.fingerprint).then_some((&*model.id, node))
    })
}

/// Whether this worker makes the job's clip at this moment, as this attempt.
pub fn finishes(books: &Books, worker: WorkerId, held: Held) -> bool {
    let running = books.core.worker(worker).and_then(|view| view.running);
    let this = |placed: Placed| placed.shard == held.shard && placed.fence == held.fence;
    held.shard.stage == Stage::Finish && running.is_some_and(this)
}

/// The entries of a link's report, in their order.
pub fn entries(books: &Books, worker: WorkerId, report: &Report) -> Vec<Entry> {
    let core = match report {
        Report::Stored { held, artifact } => {
            Input::ArtifactStored { worker, held: *held, artifact: *artifact }
        }
        Report::Finished { held, outputs, facts, gpu } => {
            let (held, gpu) = (*held, *gpu);
            let input = Input::ShardFinished { worker, held, outputs: outputs.clone(), gpu };
            let (job, fence) = (held.shard.job, held.fence);
            // Of another's attempt they would stand in the way of what that one measures.
            let facts = facts.filter(|_| finishes(books, worker, held));
            let measured = facts.map(|facts| Entry::Measured { job, fence, facts });
            return measured.into_iter().chain([Entry::Core(input)]).collect();
        }
        Report::Failed { held, cause, gpu, .. } => {
            Input::ShardFailed { worker, held: *held, cause: *cause, gpu: *gpu }
        }
        Report::Stalled { held } => Input::Stalled { worker, held: *held },
        Report::Leaving { within } => {
            Input::DrainAsked { worker, drain: DrainKind::Deadline(*within) }
        }
        Report::Left => Input::WorkerLeft { worker },
        // Nothing happened yet; what was signed is an entry of its own.
        Report::TermsAsked { .. } => return Vec::new(),
    };
    vec![Entry::Core(core)]
}

/// Whether it is the worker that an operator means by its number (`worker_7` or `7`) or its node name.
fn is_named(view: &WorkerView, name: &str) -> bool {
    let number = name.strip_prefix("worker_").unwrap_or(name).parse::<u64>().ok();
    Some(view.worker.0) == number || view.identity.node == name
}

impl DispatchState {
    pub(super) fn hello(
        &mut self,
        link: ActorRef<LinkMsg>,
        identity: Identity,
        profile: Profile,
        held: Vec<Held>,
    ) {
        let facts = WorkerFacts::of(&identity.node, &profile);
        let before = self.links.keys().filter_map(|worker| self.books.table.worker(*worker));
        for (model, other) in other_weights(before, &facts) {
            tracing::error!(
                node = facts.node,
                other,
                model,
                "two workers have other files under the same model: jobs that meet both fail. Give both the same model \
                 folder, or one of the two another id"
            );
        }
        let (worker, entry) = joined(&self.books, &self.models, identity, &profile, held);
        // A worker chooses its pool anew each time that it comes.
        self.pools.insert(self.metrics.known_pool(&profile.pool));
        self.workers.insert(link.get_id(), worker);
        self.links.insert(worker, Link { actor: link });
        self.record(entry);
    }

    pub(super) fn report(&mut self, link: ActorId, report: Report) {
        // A link that was given up may still have had something to say.
        let Some(worker) = self.workers.get(&link).copied() else { return };
        match &report {
            Report::Failed { held, cause, detail, .. } => {
                let detail: String = detail.chars().take(1_000).collect();
                tracing::info!(%worker, shard = %held.shard, %cause, detail, "an attempt failed");
            }
            Report::Stalled { held } => {
                tracing::warn!(%worker, shard = %held.shard, "an attempt stands still");
            }
            Report::Left => {
                self.links.remove(&worker);
                self.workers.remove(&link);
            }
            _ => {}
        }
        for entry in entries(&self.books, worker, &report) {
            self.record(entry);
        }
        match report {
            Report::Stored { held, artifact } => {
                let stored = ToWorker::Stored { held, artifact: artifact.artifact };
                self.after_sync(Effect::Tell(worker, Box::new(stored)));
                self.foresee(held, artifact);
            }
            Report::TermsAsked { held } => self.terms_asked(worker, held),
            _ => {}
        }
    }

    pub(super) fn link_lost(&mut self, link: ActorId, how: LostHow) {
        let Some(worker) = self.workers.remove(&link) else { return };
        self.links.remove(&worker);
        self.record(Entry::Core(Input::WorkerLost { worker, how }));
    }

    pub(super) fn storage_up(&mut self, storage: ActorRef<StorageMsg>) {
        self.metrics.set(&metric::SIDECAR_UP, &["storage"], 1.0);
        self.storage = Some(storage);
        // What the last one was at ended with it, and it answers for none.
        for job in std::mem::take(&mut self.publishing) {
            self.published(job, Err(Cause::DependencyDown));
        }
        for job in std::mem::take(&mut self.unpublishing) {
            self.unpublish_later(job);
        }
    }

    /// A worker by its number or its node name.
    pub(super) fn find_worker(&self, name: &str) -> Option<WorkerId> {
        let found = self.books.core.workers().find(|view| is_named(view, name));
        found.map(|view| view.worker)
    }

    pub(super) fn worker_rows(&self) -> Vec<WorkerRow> {
        self.books
            .core
            .workers()
            .map(|view| {
                let facts = self.books.table.worker(view.worker);
                let running = view.running.map(|placed| placed.shard);
                let row = running.and_then(|shard| self.books.table.row(shard.job));
                let phase = row.and_then(|row| self.board.of(row).1);
                WorkerRow {
                    worker: view.worker,
                    node: view.identity.node,
                    pool: facts.map(|f| f.pool.clone()).unwrap_or_default(),
                    gpu_kind: facts.map(|f| f.gpu_kind.clone()).unwrap_or_default(),
                    state: view.state.word().to_owned(),
                    models: facts
                        .map(|f| f.models.iter().map(|m| m.id.clone()).collect())
                        .unwrap_or_default(),
                    running: running.map(|shard| shard.to_string()),
                    progress: phase.map(|p| {
                        format!(
                            "{} {}/{}",
                            format!("{:?}", p.phase).to_lowercase(),
                            p.done,
                            p.total
                        )
                    }),
                }
            })
            .collect()
    }

    /// Drains workers. Of several, none gets the work of another meanwhile: those that were not cordoned are, until all
    /// drain. Between these inputs nothing comes of the workers, so that all are still there at the end.
    pub(super) fn drain(&mut self, names: &[String], drain: DrainKind) -> Result<(), NoSuchWorker> {
        let known: Vec<WorkerView> = self.books.core.workers().collect();
        let find = |name: &String| {
            let found = known.iter().find(|view| is_named(view, name));
            found.ok_or_else(|| NoSuchWorker(name.clone()))
        };
        let views: Vec<&WorkerView> = names.iter().map(find).collect::<Result<_, _>>()?;
        let several = views.len() > 1;
        let free = views.iter().filter(|view| several && !view.cordoned);
        let held_back: Vec<WorkerId> = free.map(|view| view.worker).collect();
        for worker in &held_back {
            self.record(Entry::Core(Input::CordonSet { worker: *worker, cordoned: true }));
        }
        for view in views {
            self.record(Entry::Core(Input::DrainAsked { worker: view.worker, drain }));
        }
        for worker in held_back {
            self.record(Entry::Core(Input::CordonSet { worker, cordoned: false }));
        }
        Ok(())
    }

    pub(super) fn cordon(&mut self, name: &str, cordoned: bool) -> bool {
        let Some(worker) = self.find_worker(name) else { return false };
        self.record(Entry::Core(Input::CordonSet { worker, cordoned }));
        true
    }

    pub(super) fn move_job(&mut self, job: JobId, to: Option<&str>) -> Result<(), MoveRefused> {
        let row = self.books.table.row(job).filter(|row| !row.deleted);
        if row.ok_or(MoveRefused::NoSuchJob)?.is_terminal() {
            return Err(MoveRefused::NothingToMove);
        }
        let to = match to {
            Some(name) => Some(self.find_worker(name).ok_or(MoveRefused::NoSuchWorker)?),
            None => None,
        };
        if !self.books.core.movable(job, to) {
            return Err(MoveRefused::NothingToMove);
        }
        self.record(Entry::Core(Input::MoveAsked { job, to }));
        Ok(())
    }

    /// Gauges of the farm's state, once a second.
    pub(super) fn gauges(&mut self) {
        let waiting = self.waiting.load(Ordering::Relaxed);
        self.metrics.set(&metric::JOURNAL_WAITING, &[], waiting as f64);
        let counts = self.books.core.counts();
        for class in Class::ALL {
            let of = |phase| counts.jobs_in(class, phase) as f64;
            let running = of(JobPhase::InProgress) + of(JobPhase::Publishing);
            // Who waits to be judged is queued too; the core knows nothing of it.
            let queued = of(JobPhase::Queued) + self.books.intake.of_class(class) as f64;
            self.metrics.set(&metric::JOBS, &[class.word(), "queued"], queued);
            self.metrics.set(&metric::JOBS, &[class.word(), "in_progress"], running);
        }
        for stage in Stage::ALL {
            let of = |phase| counts.shards_in(stage, phase) as f64;
            self.metrics.set(
                &metric::SHARDS,
                &[stage.word(), "waiting"],
                of(ShardPhase::BackingOff),
            );
            self.metrics.set(&metric::SHARDS, &[stage.word(), "ready"], of(ShardPhase::Ready));
            self.metrics.set(&metric::SHARDS, &[stage.word(), "running"], of(ShardPhase::Running));
        }
        let mut workers = BTreeMap::new();
        for view in self.books.core.workers() {
            *workers.entry((self.pool(view.worker), view.state)).or_insert(0u32) += 1;
        }
        let shown = |pool: &str| self.metrics.known_pool(pool);
        for ((pool, state), count) in by_shown_pool(&self.pools, workers, shown) {
            self.metrics.set(&metric::WORKERS, &[&pool, state.word()], f64::from(count));
        }
    }
}

/// Workers by the name that their pool is shown under: those without a series of their own are counted together, and
/// a pool that has no worker any more has 0.
fn by_shown_pool(
    known: &BTreeSet<String>,
    workers: BTreeMap<(String, WorkerState), u32>,
    shown: impl Fn(&str) -> String,
) -> BTreeMap<(String, WorkerState), u32> {
    let none = |pool: &String| WorkerState::ALL.map(|state| ((shown(pool), state), 0));
    let mut sums: BTreeMap<(String, WorkerState), u32> = known.iter().flat_map(none).collect();
    for ((pool, state), count) in workers {
        *sums.entry((shown(&pool), state)).or_default() += count;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoetrope_protocol::id::ArtifactId;
    use zoetrope_protocol::wire::ServedModel;

    /// Promise: it is told which two workers have other files under one model, and of which.
    #[test]
    fn workers_with_other_weights_under_one_id_are_told() {
        let facts = |node: &str, models: &[(&str, u8)]| WorkerFacts {
            node: node.into(),
            pool: "default".into(),
            gpu_kind: "any".into(),
            models: models
                .iter()
                .map(|(id, byte)| ServedModel {
                    id: (*id).into(),
                    fingerprint: ArtifactId([*byte; 32]),
                    stages: vec![],
                })
                .collect(),
        };
        let before = [facts("a", &[("x", 1)]), facts("b", &[("x", 1), ("y", 2)])];
        let told = |node: &str, models: &[(&str, u8)]| -> Vec<(String, String)> {
            let facts = facts(node, models);
            let told = other_weights(before.iter(), &facts);
            told.map(|(model, other)| (model.into(), other.into())).collect()
        };
        assert_eq!(told("c", &[("x", 1), ("y", 2), ("z", 3)]), []);
        assert_eq!(told("c", &[("x", 1), ("y", 3)]), [("y".to_owned(), "b".to_owned())]);
        // The same node, started anew with another folder, is one worker.
        assert_eq!(told("b", &[("y", 3)]), []);
        assert_eq!(told("b", &[("x", 3)]), [("x".to_owned(), "a".to_owned())]);
    }

    /// Promise: the sum over all series is the number of workers, however many pools there are.
    #[test]
    fn pools_without_a_series_of_their_own_are_counted_together() {
        let known: BTreeSet<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        let idle = |pool: &str, count| ((pool.to_owned(), WorkerState::Idle), count);
        let workers = BTreeMap::from([idle("a", 1), idle("b", 2), idle("c", 4)]);
        let shown = |pool: &str| if pool == "a" { "a" } else { "other" }.to_owned();
        let sums = by_shown_pool(&known, workers, shown);
        let of = |pool: &str, state| sums.get(&(pool.to_owned(), state)).copied();
        assert_eq!(of("a", WorkerState::Idle), Some(1));
        assert_eq!(of("other", WorkerState::Idle), Some(6));
        assert_eq!(of("other", WorkerState::Busy), Some(0));
        assert_eq!(sums.len(), 2 * WorkerState::ALL.len());
    }
}
