//! The history checker: hears of every record, order, answer and pointer, and holds them against the farm's
//! promises. It knows what was said and done, not what the parts think.
//!
//! Promises by their numbers: 1 nothing lost, 2 decided once, 3 published once, 4 fenced, 5 within limits, 6 cancel
//! is final, 7 live, 8 fair, 9 same bytes, 10 the books balance. Not yet here, for there is nothing to hold them
//! against: the three proofs of a publication beside the measures (3), kill at a step of real tensors (9).

mod end;
mod holdings;
mod watch;

use crate::plan::Plan;
use std::collections::{BTreeMap, BTreeSet};
use watch::Watch;
use zoetrope_coordinator::dispatch::books::{Books, Entry};
use zoetrope_coordinator::dispatch::publish::AV_GAP_MAX_MICROS;
use zoetrope_coordinator::jobs::Assets;
use zoetrope_protocol::id::{ArtifactId, Epoch, JobId, Millis};
use zoetrope_protocol::job::{ArtifactRef, Role, Stage};
use zoetrope_protocol::wire::{Held, Order, ToWorker};
use zoetrope_sched::output::JobState;
use zoetrope_sched::{Config, Input, Output};

/// A longer journal is not replayed at every restart, only at the end.
const REPLAY_MAX: usize = 20_000;

/// A record that was made.
struct Made {
    at: Millis,
    entry: Entry,
    outputs: Vec<Output>,
}

/// Watches one schedule.
pub struct Checker {
    broken: Option<String>,
    check_every: u64,
    inputs: u64,
    log: Vec<Made>,
    watch: Watch,
    /// Jobs that callers were told of, by caller.
    acknowledged: BTreeMap<usize, JobId>,
    deleted_jobs: BTreeSet<JobId>,
    /// Attempts that workers were told of.
    told: BTreeSet<(u64, Held2)>,
    epochs: BTreeMap<Epoch, u64>,
    pointers: BTreeMap<JobId, Assets>,
    keys: BTreeMap<[u8; 32], JobId>,
    lost: BTreeSet<ArtifactId>,
    /// Steps of a job that were told to be safe.
    safe: BTreeMap<JobId, u32>,
    /// When the last record was made, in virtual time.
    pub last_record_at: u64,
    /// Jobs that ended with a clip.
    pub completed: u64,
    /// Jobs that ended without one.
    pub failed: u64,
}

/// An attempt in an order that sorts.
type Held2 = (JobId, Stage, u16, Epoch, u32);

fn sortable(held: &Held) -> Held2 {
    let Held { shard, fence } = held;
    (shard.job, shard.stage, shard.index, fence.epoch, fence.attempt.0)
}

impl Checker {
    /// A checker that has seen nothing.
    pub fn new(plan: &Plan) -> Checker {
        Checker {
            broken: None,
            check_every: plan.check_every,
            inputs: 0,
            log: Vec::new(),
            watch: Watch::default(),
            acknowledged: BTreeMap::new(),
            deleted_jobs: BTreeSet::new(),
            told: BTreeSet::new(),
            epochs: BTreeMap::new(),
            pointers: BTreeMap::new(),
            keys: BTreeMap::new(),
            lost: BTreeSet::new(),
            safe: BTreeMap::new(),
            last_record_at: 0,
            completed: 0,
            failed: 0,
        }
    }

    /// Something is broken; the first counts.
    pub fn breaks(&mut self, broken: String) {
        self.broken.get_or_insert(broken);
    }

    fn hold(&mut self, result: Result<(), String>) {
        if let Err(broken) = result {
            self.breaks(broken);
        }
    }

    /// What is broken, if something is.
    pub fn verdict(&mut self) -> Result<(), String> {
        self.broken.take().map_or(Ok(()), Err)
    }

    /// Records of the journal.
    pub fn records(&self) -> u64 {
        self.log.len() as u64
    }

    /// A record was made and applied.
    pub fn recorded(
        &mut self,
        now: u64,
        at: Millis,
        entry: &Entry,
        outputs: &[Output],
        books: &Books,
    ) {
        self.last_record_at = now;
        self.inputs += 1;
        let thorough = self.inputs.is_multiple_of(self.check_every);
        let seen = self.watch.see(&books.core, entry, outputs, thorough);
        self.hold(seen);
        if thorough {
            self.hold(books.core.check());
        }
        if let Entry::Admitted { submission, .. } = entry
            && let Some(key) = submission.idempotency
            && let Some(before) = self.keys.insert(key, submission.job)
        {
            let job = submission.job;
            self.breaks(format!("one job for a key: {before} and {job} have the same"));
        }
        for output in outputs {
            if let Output::JobMoved { job, state: JobState::Completed } = output {
                self.hold(proven(books, *job));
            }
        }
        self.log.push(Made { at, entry: entry.clone(), outputs: outputs.to_vec() });
    }

    /// The coordinator recovered these books; its next record has this number.
    pub fn recovered(&mut self, books: &Books, next: u64) {
        let result = self.recovery(books, next);
        self.hold(result);
    }

    fn recovery(&mut self, books: &Books, next: u64) -> Result<(), String> {
        let kept = (next - 1) as usize;
        if kept > self.log.len() {
            return Err(format!("recovery found {kept} records, {} were made", self.log.len()));
        }
        self.log.truncate(kept);
        self.keys.clear();
        for made in &self.log {
            if let Entry::Admitted { submission, .. } = &made.entry
                && let Some(key) = submission.idempotency
            {
                self.keys.insert(key, submission.job);
            }
        }
        for job in self.acknowledged.values() {
            if books.table.row(*job).is_none() {
                return Err(format!(
                    "nothing lost: {job} was acknowledged and is gone after a restart"
                ));
            }
        }
        if self.log.len() <= REPLAY_MAX {
            self.replay(books)?;
        }
        for (_, held) in &self.told {
            if !self.watch.was_ordered(held) {
                return Err(format!("{held:?} was ordered and its record is gone after a restart"));
            }
        }
        Ok(())
    }

    /// The records that survived, applied to empty books, cause the same once more and end in the same books.
    fn replay(&mut self, books: &Books) -> Result<(), String> {
        let mut again = Books::new(Config::default());
        let mut watch = Watch::default();
        for (seq, made) in (1..).zip(&self.log) {
            let effects = again.apply(made.at, made.entry.clone());
            if effects.outputs != made.outputs {
                return Err(format!("books balance: a replay differs at record {seq}"));
            }
            watch.see(&again.core, &made.entry, &made.outputs, false)?;
        }
        let ends = [again.snapshot().encode(), books.snapshot().encode()];
        let [replayed, recovered] = ends.map(|end| end.map_err(|error| error.to_string()));
        if replayed? != recovered? {
            return Err("books balance: recovery ends in other books than a full replay".to_owned());
        }
        self.watch = watch;
        Ok(())
    }

    // --- what workers were told and did ---

    /// A message leaves for a worker.
    pub fn told(&mut self, life: u64, message: &ToWorker) {
        let epoch = match message {
            ToWorker::Welcome { epoch, keep, .. } => {
                for kept in keep {
                    let held = Held { shard: kept.held.shard, fence: kept.fence };
                    self.told.insert((life, sortable(&held)));
                }
                *epoch
            }
            ToWorker::Order(order) => {
                let held = Held { shard: order.shard, fence: order.fence };
                self.told.insert((life, sortable(&held)));
                order.fence.epoch
            }
            _ => return,
        };
        let before = *self.epochs.entry(epoch).or_insert(life);
        let newest = self.epochs.last_key_value().map(|(epoch, _)| *epoch);
        if before != life || newest != Some(epoch) {
            let broken =
                format!("epochs grow: epoch {} is used by start {life} and {before}", epoch.0);
            self.breaks(broken);
        }
    }

    /// A worker was told that artifacts of an attempt are safe: from here on nobody goes behind them. `current`:
    /// the attempt is still the one that the core counts on.
    pub fn stored_was_told(&mut self, held: Held, artifacts: &[ArtifactRef]) {
        for artifact in artifacts {
            if !self.watch.counts(held, artifact) {
                continue;
            }
            if let Role::Latents { step } = artifact.role {
                let safe = self.safe.entry(held.shard.job).or_default();
                *safe = (*safe).max(step);
            }
        }
    }

    /// A worker did a unit of work: a kill redoes at most the step in hand.
    pub fn worked(&mut self, order: &Order, step: u32) {
        let job = order.shard.job;
        let safe = self.safe.get(&job).copied().unwrap_or(0);
        let redone = order.shard.stage == Stage::Denoise && step <= safe;
        let resumes = order.inputs.iter().any(|i| i.role == Role::Latents { step: safe });
        // An attempt that began before the other's step was safe does not know of it.
        if redone && resumes && !self.watch.is_shaken(job) {
            self.breaks(format!("resumes: step {step} of {job} is done again, {safe} were safe"));
        }
    }

    // --- callers ---

    /// A caller is told that this is its job.
    pub fn acknowledged(&mut self, client: usize, job: JobId) {
        let before = *self.acknowledged.entry(client).or_insert(job);
        if before != job {
            self.breaks(format!("one job for a key: a caller was told {before} and {job}"));
        }
    }

    /// A caller is told that its job is deleted.
    pub fn deleted_job(&mut self, job: Option<JobId>) {
        self.deleted_jobs.extend(job);
    }

    // --- the store ---

    /// The pointer of a job was written, or found to be the same.
    pub fn pointed(&mut self, job: JobId, assets: &Assets) {
        let before = self.pointers.entry(job).or_insert_with(|| assets.clone());
        if before != assets {
            self.breaks(format!("published once: {job} has two clips"));
        }
    }

    /// Artifacts were cleaned up.
    pub fn deleted(&mut self, gone: &BTreeSet<ArtifactId>) {
        if !gone.is_empty()
            && let Some((job, artifact)) = self.watch.user_of(gone)
        {
            self.breaks(format!("books balance: {job} uses {artifact:?}, which was cleaned up"));
        }
    }

    /// An artifact vanished: a fault.
    pub fn artifact_lost(&mut self, artifact: &ArtifactId) {
        self.lost.insert(*artifact);
    }
}

/// What was measured on a published clip.
fn proven(books: &Books, job: JobId) -> Result<(), String> {
    let row = books.table.row(job).ok_or("a job without a row is published")?;
    let Some((fence, facts)) = row.facts else {
        return Err(format!("published with a proof missing: {job} was not measured"));
    };
    let published = row.publishing.as_ref().map(|(fence, _)| *fence);
    let render = &row.spec.render;
    let good = published == Some(fence)
        && facts.av_gap_micros <= AV_GAP_MAX_MICROS
        && (facts.size, facts.frames) == (render.deliver, render.frames);
    if good { Ok(()) } else { Err(format!("published with a proof missing: {job}, {facts:?}")) }
}

/// The core's part of an entry.
fn input_of(entry: &Entry) -> Option<Input> {
    match entry {
        Entry::Core(input) | Entry::Joined { input, .. } => Some(input.clone()),
        Entry::Admitted { submission, ask } => {
            Some(Input::Submitted { job: submission.job, ask: ask.clone() })
        }
        Entry::Proven { job, .. } => Some(Input::Published { job: *job }),
        _ => None,
    }
}
