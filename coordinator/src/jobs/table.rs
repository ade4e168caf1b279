//! The job table: one row a job, and the indexes that the API needs. Pure: time is an argument.
//!
//! Rows are what a snapshot holds; every index is built again from them. A deleted job keeps its row without its words,
//! because its id stays a valid cursor, but no view shows it. Where there is no room, ended rows leave: `leaving.rs`.

use super::history::{AttemptRecord, steps_of};
use super::leaving::Leaving;
use super::retention::LeftBehind;
use super::{
    Assets, ClipProofs, History, JobRow, JobView, Keep, ListQuery, MarkRows, MarkTable, Page,
    ProofTable, Share, ShareId, ShareTable, Submission,
};
use crate::farm::NoSuchCursor;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use zoetrope_protocol::id::{ArtifactId, Fence, JobId, Millis, ModelId, TenantId, WorkerId};
use zoetrope_protocol::job::{ArtifactRef, ClipFacts, Role, Stage};
use zoetrope_protocol::mark::Issued;
use zoetrope_protocol::mutant::{Mutant, on};
use zoetrope_protocol::provenance::{Proofs, SignedClaim};
use zoetrope_protocol::wire::{Profile, ServedModel};
use zoetrope_sched::output::{JobState, Output};

/// How long an `Idempotency-Key` is known.
pub const KEY_KEPT: Millis = Millis(24 * 3_600_000);
/// How long a request can be recognised as resent.
pub const RESEND_KEPT: Millis = Millis(120_000);
/// Workers remembered for `resolved_model`; the oldest leave.
const WORKERS_MAX: usize = 20_000;

/// What is remembered of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFacts {
    /// Its node name.
    pub node: String,
    /// Its pool.
    pub pool: String,
    /// What it serves.
    pub gpu_kind: String,
    /// Its models.
    pub models: Vec<ServedModel>,
}

impl WorkerFacts {
    /// What the table keeps of a profile.
    pub fn of(node: &str, profile: &Profile) -> WorkerFacts {
        WorkerFacts {
            node: node.to_owned(),
            pool: profile.pool.clone(),
            gpu_kind: profile.gpu_kind.clone(),
            models: profile.models.clone(),
        }
    }
}

/// What a snapshot holds of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRows {
    /// All rows.
    pub rows: Vec<Arc<JobRow>>,
    /// All remembered workers.
    pub workers: Vec<(WorkerId, WorkerFacts)>,
    /// Names of the models, by number.
    pub models: Vec<(ModelId, String)>,
}

/// The place of a job in the total order.
type Place = (Millis, JobId);

/// The place of a job in lists, whose order is that of what they show: `created_at` in whole seconds, then the id.
fn listed(row: &JobRow) -> Place {
    (Millis(row.created.seconds() * 1_000), row.job)
}

/// What makes two requests the same: who sent what.
type Content = (TenantId, [u8; 32]);

/// All jobs.
#[derive(Clone, Debug, Default)]
pub struct JobTable {
    rows: BTreeMap<JobId, Arc<JobRow>>,
    order: BTreeSet<Place>,
    /// The same by the seconds that callers see, as lists are: of all, and of each tenant. Without the deleted ones,
    /// which a page would have to walk by.
    listed: BTreeSet<Place>,
    of_tenant: BTreeMap<TenantId, BTreeSet<Place>>,
    keys: BTreeMap<[u8; 32], (Millis, JobId)>,
    keys_age: BTreeSet<(Millis, [u8; 32])>,
    contents: BTreeMap<Content, BTreeSet<Place>>,
    contents_age: BTreeSet<Place>,
    expiries: BTreeSet<Place>,
    left: LeftBehind,
    leaving: Leaving,
    users: BTreeMap<ArtifactId, BTreeSet<JobId>>,
    workers: BTreeMap<WorkerId, WorkerFacts>,
    models: BTreeMap<ModelId, String>,
    proofs: ProofTable,
    shares: ShareTable,
    marks: MarkTable,
}

impl JobTable {
    /// The table of a snapshot.
    pub fn from_rows(saved: TableRows) -> JobTable {
        let mut table = JobTable {
            workers: saved.workers.into_iter().collect(),
            models: saved.models.into_iter().collect(),
            ..JobTable::default()
        };
        let newest = saved.rows.iter().map(|row| row.created).max().unwrap_or_default();
        for row in saved.rows {
            table.index(&row, newest);
            table.rows.insert(row.job, row);
        }
        table
    }

    /// What a snapshot must hold; rows are shared, so this is quick.
    pub fn to_rows(&self) -> TableRows {
        TableRows {
            rows: self.rows.values().cloned().collect(),
            workers: self.workers.iter().map(|(id, facts)| (*id, facts.clone())).collect(),
            models: self.models.iter().map(|(id, name)| (*id, name.clone())).collect(),
        }
    }

    fn index(&mut self, row: &JobRow, now: Millis) {
        let place = (row.created, row.job);
        self.order.insert(place);
        if !row.deleted {
            self.listed.insert(listed(row));
            self.of_tenant.entry(row.spec.tenant).or_default().insert(listed(row));
        }
        if let Some(key) = row.idempotency.filter(|_| row.created.plus(KEY_KEPT) > now) {
            self.keys.insert(key, place);
            self.keys_age.insert((row.created, key));
        }
        if row.created.plus(RESEND_KEPT) > now {
            self.contents.entry((row.spec.tenant, row.content)).or_default().insert(place);
            self.contents_age.insert(place);
        }
        if let Some(expires) = row.expires().filter(|_| !row.assets_gone) {
            self.expiries.insert((expires, row.job));
        }
        for artifact in row.uses() {
            self.users.entry(artifact).or_default().insert(row.job);
        }
        self.left.note(row);
        self.leaving.came(row);
    }

    /// A job was admitted.
    pub fn admit(&mut self, now: Millis, submission: Submission) {
        self.forget_old(now, submission.spec.tenant);
        let Submission { job, spec, content, idempotency } = submission;
        let row = JobRow {
            job,
            spec,
            content,
            idempotency,
            created: now,
            state: JobState::Queued,
            in_progress: None,
            ended: None,
            steps_done: 0,
            resolved_model: None,
            gpu: Millis(0),
            facts: None,
            publishing: None,
            assets: None,
            assets_gone: false,
            deleted: false,
            working: BTreeSet::new(),
            history: History::default(),
            record: None,
            taken_down: None,
        };
        self.index(&row, now);
        self.rows.insert(job, Arc::new(row));
    }

    /// Makes room for a row of this tenant.
    fn forget_old(&mut self, now: Millis, tenant: TenantId) {
        while let Some((at, key)) =
            self.keys_age.first().copied().filter(|k| k.0.plus(KEY_KEPT) <= now)
        {
            self.keys_age.remove(&(at, key));
            self.keys.remove(&key);
        }
        while let Some(place) =
            self.contents_age.first().copied().filter(|p| p.0.plus(RESEND_KEPT) <= now)
        {
            self.contents_age.remove(&place);
            self.drop_content(place);
        }
        while let Some(place) = self.leaving.next(self.rows.len(), tenant) {
            self.remove_row(place);
        }
    }

    /// Whether there is no room for another job's words.
    pub fn is_full(&self) -> bool {
        self.leaving.is_full()
    }

    /// Whether this tenant's words leave no room for another job of it.
    pub fn is_full_of(&self, tenant: TenantId) -> bool {
        self.leaving.is_full_of(tenant)
    }

    fn drop_content(&mut self, place: (Millis, JobId)) {
        let Some(row) = self.rows.get(&place.1) else { return };
        let key = (row.spec.tenant, row.content);
        if let Some(places) = self.contents.get_mut(&key) {
            places.remove(&place);
            if places.is_empty() {
                self.contents.remove(&key);
            }
        }
    }

    fn remove_row(&mut self, place: (Millis, JobId)) {
        self.drop_content(place);
        self.contents_age.remove(&place);
        self.order.remove(&place);
        let Some(row) = self.rows.remove(&place.1) else { return };
        self.leaving.left(&row);
        self.proofs.forget(row.job);
        self.shares.forget(row.job);
        self.marks.forget(row.job);
        self.unlist(&row);
        if let Some(key) = row.idempotency {
            // A key that was forgotten after its day may have made another job since.
            if self.keys.get(&key) == Some(&place) {
                self.keys.remove(&key);
            }
            self.keys_age.remove(&(row.created, key));
        }
    }

    fn unlist(&mut self, row: &JobRow) {
        let place = listed(row);
        self.listed.remove(&place);
        if let Some(places) = self.of_tenant.get_mut(&row.spec.tenant) {
            places.remove(&place);
            if places.is_empty() {
                self.of_tenant.remove(&row.spec.tenant);
            }
        }
    }

    /// A worker said hello.
    pub fn worker_joined(&mut self, worker: WorkerId, facts: WorkerFacts) {
        self.workers.insert(worker, facts);
        while self.workers.len() > WORKERS_MAX {
            self.workers.pop_first();
        }
    }

    /// What is known of a worker.
    pub fn worker(&self, worker: WorkerId) -> Option<&WorkerFacts> {
        self.workers.get(&worker)
    }

    /// A model has this number and name.
    pub fn model_set(&mut self, model: ModelId, name: String) {
        self.models.insert(model, name);
    }

    /// The name that a number had so far.
    pub fn model_name(&self, model: ModelId) -> Option<&str> {
        self.models.get(&model).map(String::as_str)
    }

    /// A clip was measured. An attempt that was stopped may still say so after its successor did: that changes nothing.
    pub fn measured(&mut self, job: JobId, fence: Fence, facts: ClipFacts) {
        let newer = |row: &Arc<JobRow>| row.facts.is_none_or(|(known, _)| known <= fence);
        if self.rows.get(&job).is_some_and(newer) {
            self.change(job, |row| row.facts = Some((fence, facts)));
        }
    }

    /// A mark was issued for the job's clip.
    pub fn marked(&mut self, job: JobId, issued: Issued) {
        let known = self.rows.get(&job).is_some_and(|row| !row.deleted);
        // Its serial is used up, whatever became of the job.
        self.marks.issue(job, issued);
        if !known {
            self.marks.forget(job);
        }
    }

    /// The marks that were issued.
    pub fn marks(&self) -> &MarkTable {
        &self.marks
    }

    /// The marks of a snapshot.
    pub fn restore_marks(&mut self, rows: MarkRows) {
        self.marks = MarkTable::from_rows(rows);
    }

    /// A claim of the job's clip was signed.
    pub fn signed(&mut self, job: JobId, claim: SignedClaim) {
        if self.rows.get(&job).is_some_and(|row| !row.is_terminal()) {
            self.proofs.signed(job, claim);
        }
    }

    /// The proofs of the job's clip closed on its stored bytes. A job that ended otherwise meanwhile needs none.
    pub fn proven(&mut self, job: JobId, proofs: Proofs) {
        let completed = |row: &Arc<JobRow>| row.state == JobState::Completed && !row.deleted;
        if self.rows.get(&job).is_some_and(completed) {
            self.proofs.proven(job, proofs);
        }
    }

    /// What was signed and proven.
    pub fn proofs(&self) -> &ProofTable {
        &self.proofs
    }

    /// A link to the job's clip was made.
    pub fn shared(&mut self, job: JobId, share: Share) {
        if self.rows.get(&job).is_some_and(|row| !row.deleted) {
            self.shares.add(job, share);
        }
    }

    /// A link shows nothing any more.
    pub fn share_revoked(&mut self, now: Millis, share: ShareId) {
        self.shares.change(share, |share| share.revoked = share.revoked.or(Some(now)));
    }

    /// A download of a link began.
    pub fn share_read(&mut self, now: Millis, share: ShareId) {
        self.shares.change(share, |share| {
            share.downloads = share.downloads.saturating_add(1);
            share.downloaded = Some(now);
        });
    }

    /// The links to clips.
    pub fn shares(&self) -> &ShareTable {
        &self.shares
    }

    /// The links of a snapshot.
    pub fn restore_shares(&mut self, rows: Vec<(JobId, Vec<Share>)>) {
        self.shares = ShareTable::from_rows(rows);
    }

    /// The proofs of a snapshot.
    pub fn restore_proofs(&mut self, rows: Vec<(JobId, ClipProofs)>) {
        self.proofs = ProofTable::from_rows(rows);
    }

    /// An artifact of an unfinished job, made by this attempt, is safe in the store.
    pub fn stored(&mut self, now: Millis, job: JobId, fence: Fence, artifact: ArtifactRef) {
        let used = self.change(job, |row| {
            row.history.stored(now, fence, artifact);
            if let Role::Latents { step } = artifact.role {
                row.steps_done = row.steps_done.max(step);
            }
            row.working.insert(artifact.artifact);
        });
        if used {
            self.users.entry(artifact.artifact).or_default().insert(job);
        }
    }

    /// An artifact came that changed nothing.
    pub fn ignored(&mut self, job: JobId) {
        self.change(job, |row| row.history.ignored = row.history.ignored.saturating_add(1));
    }

    /// Hides a job for ever and forgets what its caller wrote. Returns artifacts that nobody uses any more.
    pub fn delete(&mut self, job: JobId) -> Vec<ArtifactId> {
        if let Some(row) = self.rows.get(&job).cloned() {
            self.leaving.forgot_words(&row);
            self.unlist(&row);
        }
        self.change(job, |row| {
            row.deleted = true;
            row.forget_words();
        });
        self.proofs.forget(job);
        self.shares.forget(job);
        self.marks.forget(job);
        self.drop_assets(job)
    }

    /// The files of a job go. Returns artifacts that nobody uses any more.
    pub fn drop_assets(&mut self, job: JobId) -> Vec<ArtifactId> {
        let Some(row) = self.rows.get(&job).cloned() else { return Vec::new() };
        if let Some(expires) = row.expires() {
            self.expiries.remove(&(expires, job));
        }
        self.left.forget(&row);
        self.release(job, |row| {
            row.assets_gone = true;
            if row.is_terminal() {
                // What was measured of the files goes with them.
                row.working.clear();
            }
        })
    }

    /// The intermediate artifacts of an ended job go. Returns those that nobody uses any more.
    pub fn clean_up(&mut self, job: JobId) -> Vec<ArtifactId> {
        let Some(row) = self.rows.get(&job).filter(|row| row.is_terminal()).cloned() else {
            return Vec::new();
        };
        self.left.forget(&row);
        let go: BTreeSet<ArtifactId> = row.intermediates().copied().collect();
        self.release(job, |row| row.working.retain(|artifact| !go.contains(artifact)))
    }

    /// Takes in one output of the core. Returns artifacts that nobody uses any more.
    pub fn output(&mut self, now: Millis, output: &Output) -> Vec<ArtifactId> {
        match output {
            Output::JobMoved { job, state } => self.moved(now, *job, *state),
            Output::StageBegan { job, stage: Stage::Denoise, worker } => self.began(*job, *worker),
            Output::Assign { worker, shard, fence, inputs, .. } => {
                let node = self.workers.get(worker).map(|facts| facts.node.clone());
                let attempt = AttemptRecord {
                    shard: *shard,
                    fence: *fence,
                    worker: *worker,
                    node,
                    from_step: steps_of(inputs),
                    began: now,
                    ended: None,
                    cause: None,
                    gpu: Millis(0),
                };
                self.change(shard.job, |row| row.history.assigned(attempt));
            }
            Output::Welcome { worker, keep } => {
                for kept in keep {
                    let shard = kept.held.shard;
                    self.change(shard.job, |row| row.history.kept(shard, kept.fence, *worker));
                }
            }
            Output::AttemptEnded { held, gpu, cause, .. } => {
                self.change(held.shard.job, |row| {
                    row.gpu = row.gpu.plus(*gpu);
                    row.history.ended(now, held.shard, held.fence, *cause, *gpu);
                });
            }
            Output::Publish { job, fence, outputs } => {
                self.change(*job, |row| row.publishing = Some((*fence, outputs.clone())));
            }
            // What an ended job leaves behind stays for a while: see `clean_up`.
            Output::Forget { job, .. } if self.row(*job).is_some_and(JobRow::is_terminal) => {}
            Output::Forget { job, artifacts } => {
                return self.release(*job, |row| {
                    for artifact in artifacts {
                        row.working.remove(&artifact.artifact);
                    }
                });
            }
            _ => {}
        }
        Vec::new()
    }

    fn moved(&mut self, now: Millis, job: JobId, state: JobState) {
        self.change(job, |row| {
            row.state = state;
            match state {
                JobState::Queued => {}
                JobState::InProgress => row.in_progress = row.in_progress.or(Some(now)),
                JobState::Completed => {
                    row.ended = Some(now);
                    row.assets = row.published();
                    row.record = row.judged_by();
                    // From here on they are kept as its files; the core forgets all else.
                    let mut kept: Vec<_> = row.assets.iter().flat_map(Assets::artifacts).collect();
                    kept.extend(row.record.map(|record| record.artifact));
                    row.working.retain(|artifact| !kept.contains(artifact));
                }
                JobState::Failed(_) => row.ended = Some(now),
            }
        });
        let Some(row) = self.rows.get(&job).cloned() else { return };
        if matches!(state, JobState::Failed(_)) {
            self.proofs.forget(job);
        }
        if let Some(expires) = row.expires() {
            self.expiries.insert((expires, job));
        }
        for artifact in row.uses() {
            self.users.entry(artifact).or_default().insert(job);
        }
        self.left.note(&row);
    }

    fn began(&mut self, job: JobId, worker: WorkerId) {
        let Some(row) = self.rows.get(&job) else { return };
        let name = &row.spec.render.model;
        let served =
            self.workers.get(&worker).and_then(|w| w.models.iter().find(|m| m.id == *name));
        let Some(resolved) = served.map(|m| format!("{name}@sha256:{}", m.fingerprint)) else {
            return;
        };
        self.change(job, |row| row.resolved_model = Some(resolved));
    }

    fn change(&mut self, job: JobId, change: impl FnOnce(&mut JobRow)) -> bool {
        let Some(row) = self.rows.get_mut(&job) else { return false };
        change(Arc::make_mut(row));
        self.leaving.changed(row);
        true
    }

    /// Changes what a job uses and returns what nobody uses any more.
    fn release(&mut self, job: JobId, change: impl FnOnce(&mut JobRow)) -> Vec<ArtifactId> {
        let Some(row) = self.rows.get_mut(&job) else { return Vec::new() };
        let before = row.uses();
        change(Arc::make_mut(row));
        self.leaving.changed(row);
        let after = row.uses();
        let mut free = Vec::new();
        for artifact in before.difference(&after) {
            let Some(users) = self.users.get_mut(artifact) else { continue };
            users.remove(&job);
            if users.is_empty() || on(Mutant::CleanUpReferenced) {
                self.users.remove(artifact);
                free.push(*artifact);
            }
        }
        free
    }

    /// A rescan takes a job down: its files stay until their time, and nobody reads them.
    pub fn take_down(&mut self, now: Millis, job: JobId) {
        self.change(job, |row| row.taken_down = row.taken_down.or(Some(now)));
    }

    /// The rows behind this place, oldest first.
    pub fn behind(&self, place: Option<(Millis, JobId)>) -> impl Iterator<Item = &JobRow> {
        self.order_behind(place).filter_map(|(_, job)| self.row(*job))
    }

    /// How many these are: some milliseconds for a million.
    pub fn count_behind(&self, place: Option<(Millis, JobId)>) -> usize {
        self.order_behind(place).count()
    }

    fn order_behind(
        &self,
        place: Option<(Millis, JobId)>,
    ) -> impl Iterator<Item = &(Millis, JobId)> {
        self.order.range((place.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
    }

    /// Whether any job uses the artifact.
    pub fn uses(&self, artifact: &ArtifactId) -> bool {
        self.users.contains_key(artifact)
    }

    /// Jobs whose files are due to go.
    pub fn expired(&self, now: Millis, at_most: usize) -> Vec<JobId> {
        self.expiries
            .iter()
            .take_while(|(at, _)| *at <= now)
            .take(at_most)
            .map(|(_, job)| *job)
            .collect()
    }

    /// Jobs whose intermediate artifacts are due to go: so long after their end.
    pub fn left_behind(&self, now: Millis, keep: Keep, at_most: usize) -> Vec<JobId> {
        self.left.due(now, keep, at_most)
    }

    /// A row, also of a deleted job.
    pub fn row(&self, job: JobId) -> Option<&JobRow> {
        self.rows.get(&job).map(Arc::as_ref)
    }

    /// All rows behind this one, in the order of their ids.
    pub fn rows_after(&self, after: Option<JobId>) -> impl Iterator<Item = &JobRow> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.rows.range((from, Bound::Unbounded)).map(|(_, row)| row.as_ref())
    }

    /// A job of a tenant, unless deleted.
    pub fn of(&self, tenant: TenantId, job: JobId) -> Option<&JobRow> {
        self.row(job).filter(|row| row.spec.tenant == tenant && !row.deleted)
    }

    /// The job that this idempotency key made, in the last 24 h.
    pub fn by_key(&self, now: Millis, key: &[u8; 32]) -> Option<&JobRow> {
        let (created, job) = self.keys.get(key)?;
        if created.plus(KEY_KEPT) <= now { None } else { self.row(*job) }
    }

    /// The newest job of the last 120 s with this content.
    pub fn resent(&self, now: Millis, tenant: TenantId, content: &[u8; 32]) -> Option<&JobRow> {
        let (created, job) = self.contents.get(&(tenant, *content))?.last()?;
        if created.plus(RESEND_KEPT) <= now { None } else { self.of(tenant, *job) }
    }

    /// A page of a tenant's jobs, or of all.
    ///
    /// # Errors
    /// `NoSuchCursor` if `after` was never a job of the tenant.
    pub fn list(
        &self,
        tenant: Option<TenantId>,
        query: ListQuery,
        view: impl Fn(&JobRow) -> JobView,
    ) -> Result<Page, NoSuchCursor> {
        let none = BTreeSet::new();
        let places = match tenant {
            Some(tenant) => self.of_tenant.get(&tenant).unwrap_or(&none),
            None => &self.listed,
        };
        let cursor = match query.after {
            None => None,
            Some(job) => {
                let row = self.row(job).ok_or(NoSuchCursor)?;
                if tenant.is_some_and(|tenant| tenant != row.spec.tenant) {
                    return Err(NoSuchCursor);
                }
                Some(listed(row))
            }
        };
        let mut range: Box<dyn Iterator<Item = &(Millis, JobId)>> = match (cursor, query.ascending)
        {
            (None, true) => Box::new(places.iter()),
            (None, false) => Box::new(places.iter().rev()),
            (Some(at), true) => Box::new(places.range((Bound::Excluded(at), Bound::Unbounded))),
            (Some(at), false) => Box::new(places.range(..at).rev()),
        };
        let mut rows = range.by_ref().filter_map(|(_, job)| self.row(*job));
        let jobs = rows.by_ref().take(query.limit).map(view).collect();
        Ok(Page { jobs, has_more: rows.next().is_some() })
    }

    /// Jobs whose clip can never be read (again).
    pub fn without_pointer(&self) -> impl Iterator<Item = JobId> {
        self.rows.values().filter(|row| !row.keeps_pointer()).map(|row| row.job)
    }

    /// Every artifact that some job uses.
    pub fn artifacts(&self) -> impl Iterator<Item = &ArtifactId> {
        self.users.keys()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no job.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
