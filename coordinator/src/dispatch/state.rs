//! The dispatch actor's state: records what happens, holds effects back until it is on disk.

use super::books::{Books, Effects, Entry};
use super::effects::Effect;
use super::estimate::Medians;
use super::ledger::{Ledger, snapshot_due};
use super::mark::Marking;
use super::moderate::Judging;
use super::progress::ProgressBoard;
use super::rescan::Rescanning;
use super::signing::Signing;
use super::words::InputWord;
use super::{DispatchMsg, DispatchView, Report};
use crate::authority::Authority;
use crate::clock;
use crate::jobs::Keep;
use crate::journal::{JournalError, JournalMsg, SnapshotBody};
use crate::leadership::Leadership;
use crate::link::LinkMsg;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::moderation::ModerationMsg;
use crate::provenance::ProvenanceMsg;
use crate::storage::StorageMsg;
use ractor::{ActorId, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use zoetrope_protocol::id::{ArtifactId, Epoch, JobId, Millis, ShardId, TenantId, WorkerId};
use zoetrope_protocol::metric;
use zoetrope_protocol::mutant::{Mutant, on};
use zoetrope_sched::Input;
use zoetrope_sched::input::{StageNeed, TenantPolicy};
use zoetrope_sched::output::{JobState, Output};

/// The soonest that a wake-up follows another: a core that asks for the past must not spin.
const WAKE_MIN: Duration = Duration::from_millis(10);
/// Jobs whose files go at one tick; more go at the next.
const EXPIRIES_A_TICK: usize = 256;
/// After so long a pointer is removed that could not be: a store that is down answers in seconds or in hours.
const UNPUBLISH_AGAIN: Duration = Duration::from_secs(10);
/// Artifacts that are deleted at one tick: some thousand files a second is what a disk does.
const DELETES_A_TICK: usize = 1_024;
/// Artifacts that are looked at for it: a few milliseconds.
const LOOKED_AT_A_TICK: usize = 16_384;
/// How often the store is looked through for artifacts of which no decision speaks: those that an upload left
/// behind whose report never came, or a crash between a decision and its deletion.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Between two snapshots at most, however few records there are: the journal keeps two, so after twice this time nothing of
/// what was deleted is left in it.
const SNAPSHOT_EVERY: Millis = Millis(24 * 3_600_000);
/// The first one of a start comes sooner, for how old the last one is nobody knows; and late enough to be in nobody's way.
const SNAPSHOT_FIRST: Millis = Millis(3_600_000);

/// Reports that are taken in together at most: a fraction of a millisecond for each.
const REPORTS_MAX: usize = 256;

/// The limits that the configuration sets.
#[derive(Clone, Debug)]
pub struct DispatchLimits {
    /// Unfinished jobs of one tenant.
    pub jobs_of_tenant: u32,
    /// Unfinished jobs of the farm.
    pub jobs_of_farm: u64,
    /// Records that may wait for the disk before submits are refused.
    pub journal_waiting: u64,
    /// Records between two snapshots.
    pub snapshot_every: u64,
    /// Latents are stored after every so many steps.
    pub checkpoint_every: u32,
    /// How long the core waits for a verdict after a hard limit.
    pub verdict_grace: Millis,
    /// What a tenant has of which the configuration says nothing.
    pub tenant: TenantPolicy,
    /// Tenants of which it does.
    pub tenants: BTreeMap<TenantId, TenantPolicy>,
    /// Device memory that each stage of a model needs, in bytes; 0 for models that are not named.
    pub vram_bytes: BTreeMap<String, u64>,
    /// Artifacts that nobody uses stay so long, for a person who looks.
    pub keep_unused: Duration,
    /// How long what led to a clip stays after the job's end.
    pub keep: Keep,
}

impl DispatchLimits {
    /// What a tenant has.
    pub fn policy_of(&self, tenant: TenantId) -> TenantPolicy {
        self.tenants.get(&tenant).copied().unwrap_or(self.tenant)
    }
}

/// What the dispatch actor needs.
pub struct DispatchArguments {
    /// The recovered books.
    pub books: Books,
    /// The number of the next record.
    pub next: u64,
    /// Records that the start replayed.
    pub replayed: u64,
    /// Where records go.
    pub journal: ActorRef<JournalMsg>,
    /// The last record on disk.
    pub synced: watch::Receiver<u64>,
    /// Records that wait for the disk.
    pub waiting: Arc<AtomicU64>,
    /// The models of the farm.
    pub models: Arc<Models>,
    /// Who issues join tokens.
    pub authority: Arc<Authority>,
    /// What running jobs do.
    pub board: Arc<ProgressBoard>,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
    /// The limits.
    pub limits: DispatchLimits,
    /// The version of the moderation policy.
    pub policy: ArtifactId,
    /// Whether a snapshot is due at once: records were lost, and an operator accepted it.
    pub snapshot_now: bool,
    /// Whether this coordinator leads.
    pub leadership: Arc<Leadership>,
}

/// A worker's link.
pub(super) struct Link {
    pub(super) actor: ActorRef<LinkMsg>,
}

/// The state of the dispatch actor.
pub struct DispatchState {
    pub(super) myself: ActorRef<DispatchMsg>,
    pub(super) books: Books,
    pub(super) models: Arc<Models>,
    pub(super) authority: Arc<Authority>,
    pub(super) board: Arc<ProgressBoard>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limits: DispatchLimits,
    pub(super) medians: Medians,
    pub(super) links: BTreeMap<WorkerId, Link>,
    pub(super) workers: HashMap<ActorId, WorkerId>,
    pub(super) storage: Option<ActorRef<StorageMsg>>,
    pub(super) provenance: Option<ActorRef<ProvenanceMsg>>,
    pub(super) moderation: Option<ActorRef<ModerationMsg>>,
    /// The version of the policy that verdicts must be of.
    pub(super) policy: ArtifactId,
    /// Clips that are being judged.
    pub(super) judging: Judging,
    /// Clips that are being proven, to be signed.
    pub(super) signing: Signing,
    /// How far the rescan is, beside what the books say.
    pub(super) rescanning: Rescanning,
    /// Questions to the watermark sidecar.
    pub(super) marking: Marking,
    pub(super) placed: BTreeMap<ShardId, Instant>,
    /// When unfinished jobs were said to end, as they were admitted. Those of an earlier run are not measured.
    pub(super) estimates: BTreeMap<JobId, Millis>,
    pub(super) waiting: Arc<AtomicU64>,
    pub(super) pools: BTreeSet<String>,
    pub(super) leadership: Arc<Leadership>,
    /// Reports that came one after the other, to be taken in together.
    reports: VecDeque<(ActorId, Report)>,
    journal: ActorRef<JournalMsg>,
    ledger: Ledger<Effect>,
    snapshot_at: u64,
    /// When one is due whatever was recorded.
    snapshot_by: Millis,
    /// The last record in a snapshot that is there or was ordered.
    saved: u64,
    deletes: VecDeque<(Instant, ArtifactId)>,
    /// Held by the batch of deletions that is out.
    deleting: Arc<Semaphore>,
    /// Jobs whose clip the storage sidecar was told to publish and has not answered for.
    pub(super) publishing: BTreeSet<JobId>,
    /// Jobs whose pointer it was told to remove and has not answered for.
    pub(super) unpublishing: BTreeSet<JobId>,
    /// Those whose pointer it could not remove.
    unpublishes: VecDeque<(Instant, JobId)>,
    /// When the store is looked through next.
    sweep_at: Instant,
    alarm: Option<(Millis, JoinHandle<()>)>,
    _tasks: [Task; 2],
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl DispatchState {
    pub(super) fn new(
        myself: ActorRef<DispatchMsg>,
        arguments: DispatchArguments,
    ) -> DispatchState {
        let DispatchArguments { books, next, journal, synced, waiting, models, authority, .. } =
            arguments;
        let DispatchArguments { board, metrics, limits, policy, snapshot_now, leadership, .. } =
            arguments;
        let replayed = arguments.replayed;
        let snapshot_at =
            if snapshot_now { next } else { snapshot_due(next, replayed, limits.snapshot_every) };
        let tasks = [
            Task(tokio::spawn(watch_sync(synced, myself.clone()))),
            Task(tokio::spawn(tick(myself.clone()))),
        ];
        DispatchState {
            myself,
            books,
            models,
            authority,
            board,
            metrics,
            limits,
            medians: Medians::default(),
            links: BTreeMap::new(),
            workers: HashMap::new(),
            storage: None,
            provenance: None,
            moderation: None,
            policy,
            judging: Judging::default(),
            signing: Signing::default(),
            rescanning: Rescanning::default(),
            marking: Marking::default(),
            placed: BTreeMap::new(),
            estimates: BTreeMap::new(),
            waiting,
            pools: BTreeSet::new(),
            leadership,
            reports: VecDeque::new(),
            journal,
            ledger: Ledger::new(next),
            snapshot_at,
            snapshot_by: clock::now().plus(SNAPSHOT_FIRST),
            saved: next.saturating_sub(1).saturating_sub(replayed),
            deletes: VecDeque::new(),
            deleting: Arc::new(Semaphore::new(1)),
            publishing: BTreeSet::new(),
            unpublishing: BTreeSet::new(),
            unpublishes: VecDeque::new(),
            sweep_at: Instant::now(),
            alarm: None,
            _tasks: tasks,
        }
    }

    /// The first records of a start: a new epoch, and the limits, models and tenants as they are configured now.
    pub(super) fn begin(&mut self) {
        let epoch = next_epoch(&self.books);
        for entry in opening(&self.books, &self.models.clone(), &self.limits) {
            self.record(entry);
        }
        for model in self.models.all() {
            let chain = self.books.core.chain(model.id);
            if chain.is_some_and(|chain| chain != model.chain()) {
                let model = &model.manifest.id;
                tracing::warn!(%model, "its jobs keep their stages: decode_chunks takes effect at a start without unfinished ones");
            }
        }
        self.metrics.set(&metric::EPOCH, &[], epoch.0 as f64);
        self.metrics.set(&metric::LEADER, &[], 1.0);
    }

    /// Keeps a report until the mailbox holds no more of them: where a large fleet reports, many wait there, and
    /// taken in together they go into one append, with what each needs fetched from memory while those before it
    /// are worked on.
    pub(super) fn reported(
        &mut self,
        link: ActorId,
        report: Report,
    ) -> Result<(), ActorProcessingErr> {
        self.reports.push_back((link, report));
        let told = self.reports.len() > 1 || self.myself.cast(DispatchMsg::Reported).is_ok();
        if told && self.reports.len() < REPORTS_MAX {
            return Ok(());
        }
        self.take_reports();
        self.commit()
    }

    /// Takes in the reports that wait.
    pub(super) fn take_reports(&mut self) {
        while let Some((link, report)) = self.reports.pop_front() {
            let coming = self.reports.iter();
            let reporters = coming.filter_map(|(link, _)| self.workers.get(link).copied());
            self.books.core.foresee(reporters);
            self.report(link, report);
        }
    }

    /// Puts an entry on its way to the disk and into the books. Its effects wait for the disk.
    pub(super) fn record(&mut self, entry: Entry) {
        let kind = InputWord::of(&entry).word();
        let began = Instant::now();
        let Effects { outputs, free, judge } =
            self.ledger.record(&mut self.books, clock::now(), entry);
        self.metrics.observe(&metric::DECISION_DURATION, &[], began.elapsed());
        self.metrics.count(&metric::INPUTS, &[kind]);
        for output in outputs {
            if matches!(output, Output::Ignored { .. }) {
                self.metrics.count(&metric::INPUTS_IGNORED, &[kind]);
            }
            if let Output::JobMoved { job, state: JobState::Failed(_) } = output {
                // Answers are made before the sync: what they show of the job is its last.
                self.board.failed(job);
            }
            self.ledger.after_sync(Effect::Output(Box::new(output)));
        }
        if !free.is_empty() {
            self.ledger.after_sync(Effect::Delete(free));
        }
        for job in judge {
            self.ledger.after_sync(Effect::Judge(job));
        }
    }

    /// Runs `effect` once all that was recorded so far is on disk; at once if it is.
    pub(super) fn after_sync(&mut self, effect: Effect) {
        self.ledger.after_sync(effect);
    }

    /// Ends every message: sends what was recorded to the journal, and does what waits for nothing.
    pub(super) fn commit(&mut self) -> Result<(), ActorProcessingErr> {
        // Carrying out an effect may record more, which then waits for its own sync.
        self.carry_out();
        let staged = self.ledger.take_staged();
        if !staged.is_empty() {
            self.waiting.fetch_add(staged.len() as u64, Ordering::Relaxed);
            self.journal.cast(JournalMsg::Append(staged)).map_err(|_| "the journal is gone")?;
            self.set_alarm();
        }
        let next = self.ledger.recorded() + 1;
        if next > self.snapshot_at {
            self.snapshot_at = next + self.limits.snapshot_every;
            self.save(JournalMsg::Snapshot)?;
        }
        Ok(())
    }

    fn save(&mut self, how: fn(SnapshotBody) -> JournalMsg) -> Result<(), ActorProcessingErr> {
        let snapshot = self.books.snapshot();
        let body = Box::new(move |form| {
            snapshot.encode_as(form).map_err(|e| JournalError::Write(e.to_string()))
        });
        self.saved = self.ledger.recorded();
        self.snapshot_by = clock::now().plus(SNAPSHOT_EVERY);
        Ok(self.journal.cast(how(body)).map_err(|_| "the journal is gone")?)
    }

    /// Whoever starts next, perhaps another release, then finds the books as they are, and does not decide once more
    /// what was decided here. Only a leader's: another may have gone on from what this one wrote.
    pub(super) fn save_last(&mut self, reply: RpcReplyPort<()>) -> Result<(), ActorProcessingErr> {
        self.commit()?;
        if self.leadership.is_held() && self.ledger.recorded() > self.saved {
            self.save(JournalMsg::LastSnapshot)?;
        }
        // Who asked may have waited long enough.
        drop(reply.send(()));
        Ok(())
    }

    fn carry_out(&mut self) {
        // A coordinator that may no longer lead does nothing; the next tick looks again.
        while self.leadership.is_held()
            && let Some(effect) = self.ledger.due()
        {
            self.effect(effect);
        }
    }

    pub(super) fn synced(&mut self, through: u64) {
        self.ledger.synced(through);
    }

    /// Whether the journal is so far behind that submits are refused.
    pub(super) fn is_behind(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= self.limits.journal_waiting
    }

    pub(super) fn wake(&mut self) {
        self.alarm = None;
        if self.books.next_wakeup().is_some_and(|at| at <= clock::now().max(self.books.now())) {
            self.record(Entry::Core(Input::TimePassed));
        }
        self.set_alarm();
    }

    fn set_alarm(&mut self) {
        let wanted = self.books.next_wakeup();
        if self.alarm.as_ref().map(|(at, _)| *at) == wanted {
            return;
        }
        if let Some((_, sleeping)) = self.alarm.take() {
            sleeping.abort();
        }
        let Some(at) = wanted else { return };
        let wait = Duration::from_millis(at.minus(clock::now()).0).max(WAKE_MIN);
        let myself = self.myself.clone();
        let sleep = async move {
            tokio::time::sleep(wait).await;
            // Without a dispatch actor nobody needs waking.
            drop(myself.cast(DispatchMsg::Wake));
        };
        self.alarm = Some((at, tokio::spawn(sleep)));
    }

    pub(super) fn tick(&mut self) {
        let now = clock::now();
        for job in self.books.table.expired(now, EXPIRIES_A_TICK) {
            self.record(Entry::Expired { job });
            self.after_sync(Effect::Unpublish(job));
        }
        for job in self.books.table.left_behind(now, self.limits.keep, EXPIRIES_A_TICK) {
            self.record(Entry::CleanedUp { job });
        }
        self.snapshot_due();
        self.sweep_due();
        self.unpublish_due();
        self.delete_due();
        self.judging_due();
        self.signing_due();
        self.rescan_due();
        self.marking_due();
        self.gauges();
        // Looks at everything, so only where a developer or a test is watching.
        if cfg!(debug_assertions)
            && let Err(broken) = self.books.core.check()
        {
            tracing::error!(broken, "the core contradicts itself");
        }
        // A wake-up whose time moved with the system's clock is set anew.
        if self.books.next_wakeup().is_some_and(|at| at <= now) && self.alarm.is_none() {
            self.record(Entry::Core(Input::TimePassed));
        }
    }

    /// What was deleted leaves the journal with the second snapshot behind it, so there is one a day, however little happens:
    /// `commit` takes it.
    fn snapshot_due(&mut self) {
        if clock::now() < self.snapshot_by || !self.leadership.is_held() {
            return;
        }
        if self.ledger.recorded() == self.saved {
            // Two snapshots of one record would be one.
            self.record(Entry::Core(Input::TimePassed));
        }
        self.snapshot_at = self.ledger.recorded();
    }

    pub(super) fn unpublished(&mut self, job: JobId) {
        self.unpublishing.remove(&job);
    }

    pub(super) fn unpublish_later(&mut self, job: JobId) {
        self.unpublishing.remove(&job);
        self.unpublishes.push_back((Instant::now() + UNPUBLISH_AGAIN, job));
    }

    fn unpublish_due(&mut self) {
        if !self.leadership.is_held() {
            return;
        }
        let now = Instant::now();
        for _ in 0..EXPIRIES_A_TICK {
            let Some((_, job)) = self.unpublishes.pop_front_if(|(at, _)| *at <= now) else {
                return;
            };
            self.unpublish(job);
        }
    }

    pub(super) fn delete_later(&mut self, artifacts: Vec<ArtifactId>) {
        let due = Instant::now() + self.limits.keep_unused;
        self.deletes.extend(artifacts.into_iter().map(|artifact| (due, artifact)));
    }

    /// Which of these nobody uses and nobody is about to delete.
    pub(super) fn unused(&self, mut artifacts: Vec<ArtifactId>) -> Vec<ArtifactId> {
        artifacts.retain(|artifact| !self.books.table.uses(artifact));
        if !artifacts.is_empty() {
            let going: HashSet<ArtifactId> = self.deletes.iter().map(|(_, of)| *of).collect();
            artifacts.retain(|artifact| !going.contains(artifact));
        }
        artifacts
    }

    /// Has the store looked through, at the start and then now and again.
    fn sweep_due(&mut self) {
        let now = Instant::now();
        if now < self.sweep_at || !self.leadership.is_held() {
            return;
        }
        let message = StorageMsg::Sweep { back: self.myself.clone() };
        if self.storage.as_ref().is_some_and(|storage| storage.cast(message).is_ok()) {
            self.sweep_at = now + SWEEP_EVERY;
        }
    }

    /// The store has these; those that no job uses go, unless a job comes to use them meanwhile.
    pub(super) fn swept(&mut self, artifacts: Vec<ArtifactId>) {
        let unused = artifacts.into_iter().filter(|artifact| !self.books.table.uses(artifact));
        let unused: Vec<ArtifactId> = unused.collect();
        if !unused.is_empty() {
            tracing::info!(count = unused.len(), "artifacts that no job uses will go");
            self.delete_later(unused);
        }
    }

    fn delete_due(&mut self) {
        if !self.leadership.is_held() {
            return;
        }
        // One batch at a time: where the store is slow or down they would pile up.
        let Ok(turn) = self.deleting.clone().try_acquire_owned() else { return };
        let now = Instant::now();
        let (mut due, mut looked_at) = (Vec::new(), 0);
        while due.len() < DELETES_A_TICK
            && looked_at < LOOKED_AT_A_TICK
            && let Some((_, artifact)) = self.deletes.pop_front_if(|(at, _)| *at <= now)
        {
            looked_at += 1;
            // Another job may have made the same bytes since.
            if !self.books.table.uses(&artifact) {
                due.push(artifact);
            }
        }
        if due.is_empty() {
            return;
        }
        let (artifacts, back) = (due.clone(), self.myself.clone());
        let message = StorageMsg::Delete { artifacts, turn, back };
        if self.storage.as_ref().is_none_or(|storage| storage.cast(message).is_err()) {
            self.delete_later(due);
        }
    }

    pub(super) fn observe(&self, reply: RpcReplyPort<DispatchView>) {
        let view = DispatchView {
            recorded: self.ledger.recorded(),
            synced: self.ledger.on_disk(),
            held: self.ledger.held(),
            links: self.links.len(),
            unfinished: self.books.core.counts().unfinished() + self.books.intake.len() as u64,
            deleting: self.deletes.len(),
        };
        // Who asked may be gone.
        drop(reply.send(view));
    }
}

impl Drop for DispatchState {
    fn drop(&mut self) {
        if let Some((_, sleeping)) = self.alarm.take() {
            sleeping.abort();
        }
    }
}

/// The epoch of the next leader.
fn next_epoch(books: &Books) -> Epoch {
    let last = books.core.epoch().0;
    Epoch(if on(Mutant::EpochReused) { last.max(1) } else { last + 1 })
}

/// The first entries of a start: a new epoch, and the limits, models and tenants as they are configured now.
pub fn opening(books: &Books, models: &Models, limits: &DispatchLimits) -> Vec<Entry> {
    let mut inputs = vec![Input::EpochBegan { epoch: next_epoch(books) }];
    // Journalled, for a replay knows no settings: what was decided by one it would decide by another.
    let grace = limits.verdict_grace;
    if books.core.config().verdict_grace != grace {
        inputs.push(Input::VerdictGraceSet { grace });
    }
    for model in models.all() {
        let name = &model.manifest.id;
        // Always said: the memory that it needs may be configured anew.
        let vram_bytes = limits.vram_bytes.get(name).copied().unwrap_or(0);
        let need = |stage| StageNeed {
            stage,
            // Segments are finished without the model.
            vram_bytes: if model.decodes_apart(stage) { 0 } else { vram_bytes },
        };
        let chain = model.chain().into_iter().map(need).collect();
        inputs.push(Input::ModelSet { model: model.id, name: name.clone(), chain });
    }
    // Also those of which the configuration says nothing, or nothing any more: what all others have may be another now.
    let known = books.core.tenants().map(|known| (known.tenant, Some(known.policy)));
    let named = limits.tenants.keys().map(|tenant| (*tenant, None));
    let mut tenants: BTreeMap<TenantId, Option<TenantPolicy>> = named.collect();
    tenants.extend(known);
    for (tenant, before) in tenants {
        let policy = limits.policy_of(tenant);
        if before != Some(policy) {
            inputs.push(Input::TenantSet { tenant, policy });
        }
    }
    inputs.into_iter().map(Entry::Core).collect()
}

async fn watch_sync(mut synced: watch::Receiver<u64>, dispatch: ActorRef<DispatchMsg>) {
    while synced.changed().await.is_ok() {
        let through = *synced.borrow_and_update();
        if dispatch.cast(DispatchMsg::Synced(through)).is_err() {
            return;
        }
    }
}

async fn tick(dispatch: ActorRef<DispatchMsg>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        every.tick().await;
        if dispatch.cast(DispatchMsg::Tick).is_err() {
            return;
        }
    }
}
