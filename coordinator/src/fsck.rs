//! Holds the store against the books: every pointer and artifact, that it is there, whole, proven, and somebody's.
//!
//! Runs in the leading coordinator beside everything else, one at a time, and reads no faster than
//! `READ_BYTES_A_SECOND`. What looks wrong is asked about once more before it is told, because jobs go on. Without
//! `repair` nothing is changed; with it only what needs no decision: pointers are what the journal says they are, and
//! what nobody uses goes the way of all that is unused. A lost clip is told and left to a person.
//! Called by the door; asks the dispatch actor and the store.

use crate::dispatch::DispatchMsg;
use crate::farm::{Farm, FarmMsg, Unavailable};
use crate::jobs::{Asset, Assets, JobRow};
use crate::storage;
use crate::store::{Store, StoreError};
use futures::TryStreamExt;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use zoetrope_protocol::id::{ArtifactId, JobId};
use zoetrope_protocol::provenance::Proofs;
use zoetrope_sched::output::JobState;

/// Jobs of one question to the dispatch actor: copying their rows takes some 50 µs.
pub const PAGE_JOBS: usize = 128;
/// Artifacts and pointers of one question: each is looked up in some 100 ns.
const PAGE_NAMES: usize = 512;
/// Half of what a slow disk gives, so that renders and downloads have the rest.
const READ_BYTES_A_SECOND: u64 = 64 << 20;
/// Findings that are kept; all are counted.
const FINDINGS_MAX: usize = 1_000;
/// Younger files may belong to an upload or a write that is still under way: the longest takes minutes.
pub(crate) const UNDER_WAY: Duration = Duration::from_secs(3_600);

/// How to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Mend what needs no decision.
    pub repair: bool,
    /// Compare lengths only, and read nothing.
    pub quick: bool,
}

/// A job as the books have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The job.
    pub job: JobId,
    /// Its published files, if it must have them.
    pub assets: Option<Assets>,
    /// What its clip was published with.
    pub proofs: Option<Proofs>,
    /// What else it needs: artifacts of an unfinished job, the record of a clip's frames.
    pub working: BTreeSet<ArtifactId>,
    /// Whether it has ended.
    pub ended: bool,
}

impl Listed {
    /// Of a row.
    pub fn of(row: &JobRow, proofs: Option<&Proofs>) -> Listed {
        let published = row.state == JobState::Completed && row.keeps_pointer();
        // A rescan judges the clip by it.
        let record = row.record.filter(|_| published).map(|record| record.artifact);
        let working = row.working.iter().copied().chain(record).collect();
        Listed {
            job: row.job,
            assets: row.assets.clone().filter(|_| published),
            proofs: proofs.cloned(),
            working,
            ended: row.is_terminal(),
        }
    }
}

/// What is wrong with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A published clip has no pointer.
    PointerMissing,
    /// A pointer names other files than the journal.
    PointerWrong,
    /// A pointer of a job that has no clip, or none any more.
    PointerStale,
    /// A published file is not there.
    AssetMissing,
    /// A published file has other bytes or another length.
    AssetDamaged,
    /// A published clip has no proofs, or they are of other bytes.
    ProofsWrong,
    /// What a job needs is not there.
    ArtifactMissing,
    /// What a job needs has other bytes.
    ArtifactDamaged,
    /// An artifact that no job uses.
    ArtifactUnused,
    /// A file of an upload that was never finished.
    UploadLeft,
    /// A file that is none of the farm's. Nobody but a person knows what it is, so it stays.
    Stranger,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub fault: Fault,
    /// Of which job.
    pub job: Option<String>,
    /// Which artifact or file.
    pub name: Option<String>,
    /// Whether it was mended.
    pub repaired: bool,
}

/// What is known so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `running`, `done`, `failed`; or `never`.
    pub state: &'static str,
    /// What it does.
    pub step: &'static str,
    /// Whether it mends.
    pub repair: bool,
    /// Whether it reads nothing.
    pub quick: bool,
    /// Jobs that were looked at.
    pub jobs: u64,
    /// Artifacts that were held against their address.
    pub artifacts: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is wrong.
    pub problems: u64,
    /// What of it was mended.
    pub repaired: u64,
    /// The first of them.
    pub findings: Vec<Finding>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Why it cannot go on.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("the farm does not answer")]
    Farm(#[from] Unavailable),
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
}

/// The check of one coordinator.
pub struct Fsck {
    store: Arc<Store>,
    report: Mutex<Report>,
}

/// One is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl Fsck {
    /// None has run yet.
    pub fn new(store: Arc<Store>) -> Arc<Fsck> {
        let report = Report { state: "never", ..Report::default() };
        Arc::new(Fsck { store, report: Mutex::new(report) })
    }

    /// What is known of the last one.
    pub fn report(&self) -> Report {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one, on a task of its own.
    ///
    /// # Errors
    /// `Busy`.
    pub fn start(self: &Arc<Self>, farm: Farm, options: Options) -> Result<Report, Busy> {
        let report = {
            let mut report = self.lock();
            if report.state == "running" {
                return Err(Busy);
            }
            let Options { repair, quick } = options;
            *report = Report { state: "running", repair, quick, ..Report::default() };
            report.clone()
        };
        let own = self.clone();
        tokio::spawn(async move {
            let run = Run { fsck: own.clone(), farm, options };
            // On a task of its own, so that its end is told however it ends.
            let ended = tokio::spawn(async move { run.all().await }).await;
            let error = match ended {
                Ok(ended) => ended.err().map(|error| error.to_string()),
                Err(error) => Some(format!("it broke off: {error}")),
            };
            let mut report = own.lock();
            report.step = "";
            report.state = if error.is_none() { "done" } else { "failed" };
            report.error = error;
            let Report { jobs, artifacts, problems, repaired, .. } = *report;
            tracing::info!(state = report.state, jobs, artifacts, problems, repaired, "fsck");
        });
        Ok(report)
    }
}

struct Run {
    fsck: Arc<Fsck>,
    farm: Farm,
    options: Options,
}

/// How an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Good,
    Missing,
    Damaged,
}

impl Run {
    async fn all(&self) -> Result<(), Stopped> {
        self.step("jobs");
        self.jobs().await?;
        self.step("pointers");
        self.pointers().await?;
        self.step("artifacts");
        self.unused().await?;
        self.step("uploads");
        self.uploads().await?;
        if self.options.repair {
            // What goes was decided: from here on the farm may sweep by itself again.
            self.store().allow_sweeps().await?;
        }
        Ok(())
    }

    fn store(&self) -> &Arc<Store> {
        &self.fsck.store
    }

    fn step(&self, step: &'static str) {
        self.fsck.lock().step = step;
    }

    fn found(&self, fault: Fault, job: Option<JobId>, name: Option<String>, repaired: bool) {
        let job = job.map(|job| job.to_string());
        tracing::warn!(?fault, job, name, repaired, "fsck found something");
        let mut report = self.fsck.lock();
        report.problems += 1;
        report.repaired += u64::from(repaired);
        if report.findings.len() < FINDINGS_MAX {
            report.findings.push(Finding { fault, job, name, repaired });
        }
    }

    async fn jobs(&self) -> Result<(), Stopped> {
        let mut after = None;
        loop {
            let page = self.farm.ask(|reply| FarmMsg::Listed(after, PAGE_JOBS, reply)).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.job);
            for listed in &page {
                self.job(listed).await?;
                self.fsck.lock().jobs += 1;
            }
        }
    }

    async fn job(&self, listed: &Listed) -> Result<(), Stopped> {
        if let Some(assets) = &listed.assets {
            self.pointer(listed, assets).await?;
            if !proven(listed, assets) && self.still(listed).await? {
                self.found(Fault::ProofsWrong, Some(listed.job), None, false);
            }
            for asset in [&assets.video, &assets.thumbnail, &assets.spritesheet] {
                let fault = match self.look(&asset.artifact, Some(asset)).await? {
                    Health::Good => continue,
                    Health::Missing => Fault::AssetMissing,
                    Health::Damaged => Fault::AssetDamaged,
                };
                if self.still(listed).await? {
                    let name = Some(asset.artifact.to_string());
                    self.found(fault, Some(listed.job), name, false);
                }
            }
        }
        for artifact in &listed.working {
            let health = self.look(artifact, None).await?;
            if health == Health::Good || !self.still(listed).await? {
                continue;
            }
            // The worker that is told that it is not there has it made again.
            let repaired = health == Health::Damaged && !listed.ended && self.options.repair;
            if repaired {
                self.store().remove(artifact).await?;
            }
            let fault = match health {
                Health::Missing => Fault::ArtifactMissing,
                _ => Fault::ArtifactDamaged,
            };
            self.found(fault, Some(listed.job), Some(artifact.to_string()), repaired);
        }
        Ok(())
    }

    async fn pointer(&self, listed: &Listed, assets: &Assets) -> Result<(), Stopped> {
        let wanted = storage::pointer(listed.job, assets);
        let fault = match self.store().pointer(listed.job).await {
            Ok(there) if there == wanted => return Ok(()),
            Ok(_) => Fault::PointerWrong,
            Err(StoreError::Missing) => Fault::PointerMissing,
            Err(error) => return Err(error.into()),
        };
        if !self.still(listed).await? {
            return Ok(());
        }
        // A clip whose proofs are not there is not made readable.
        let repair = self.options.repair && proven(listed, assets);
        if repair {
            self.store().unpublish(listed.job).await?;
            self.store().publish(listed.job, wanted).await?;
        }
        self.found(fault, Some(listed.job), None, repair);
        Ok(())
    }

    /// Whether the books still say of the job what they did: if not, what looked wrong was on its way.
    async fn still(&self, listed: &Listed) -> Result<bool, Stopped> {
        let job = listed.job;
        let now = self.farm.ask(|reply| FarmMsg::ListedOne(job, reply)).await?;
        Ok(now.as_ref() == Some(listed))
    }

    async fn look(&self, artifact: &ArtifactId, asset: Option<&Asset>) -> Result<Health, Stopped> {
        self.fsck.lock().artifacts += 1;
        let size = match self.store().size(artifact).await {
            Ok(size) => size,
            Err(StoreError::Missing) => return Ok(Health::Missing),
            Err(error) => return Err(error.into()),
        };
        if asset.is_some_and(|asset| asset.bytes != size) {
            return Ok(Health::Damaged);
        }
        if self.options.quick {
            return Ok(Health::Good);
        }
        let mut stream = match self.store().get(artifact, None).await {
            Ok(stream) => stream,
            Err(StoreError::Missing) => return Ok(Health::Missing),
            Err(error) => return Err(error.into()),
        };
        let (began, mut digest, mut read) = (Instant::now(), Sha256::new(), 0_u64);
        while let Some(chunk) = stream.try_next().await? {
            digest.update(&chunk);
            read += chunk.len() as u64;
            self.fsck.lock().bytes += chunk.len() as u64;
            let pace = Duration::from_micros(read.saturating_mul(1_000_000) / READ_BYTES_A_SECOND);
            tokio::time::sleep(pace.saturating_sub(began.elapsed())).await;
        }
        let whole = digest.finalize().as_slice() == artifact.0;
        Ok(if whole { Health::Good } else { Health::Damaged })
    }

    async fn pointers(&self) -> Result<(), Stopped> {
        let mut names = self.store().pointers();
        loop {
            let mut some = Vec::new();
            while some.len() < PAGE_NAMES
                && let Some(job) = names.try_next().await?
            {
                some.push(job);
            }
            if some.is_empty() {
                return Ok(());
            }
            for job in self.farm.ask(|reply| FarmMsg::PointerStale(some, reply)).await? {
                if self.options.repair {
                    self.store().unpublish(job).await?;
                }
                self.found(Fault::PointerStale, Some(job), None, self.options.repair);
            }
        }
    }

    async fn unused(&self) -> Result<(), Stopped> {
        let mut names = self.store().list_old(UNDER_WAY);
        loop {
            let mut some = Vec::new();
            while some.len() < PAGE_NAMES
                && let Some(artifact) = names.try_next().await?
            {
                some.push(artifact);
            }
            if some.is_empty() {
                return Ok(());
            }
            let unused = self.farm.ask(|reply| FarmMsg::Unused(some, reply)).await?;
            for artifact in &unused {
                let name = Some(artifact.to_string());
                self.found(Fault::ArtifactUnused, None, name, self.options.repair);
            }
            if self.options.repair && !unused.is_empty() {
                // The dispatch actor looks once more whether somebody uses them when it deletes.
                let told = self.farm.dispatch.cast(DispatchMsg::NotDeleted(unused));
                told.map_err(|_| Unavailable)?;
            }
        }
    }

    async fn uploads(&self) -> Result<(), Stopped> {
        for name in self.store().uploads_left(UNDER_WAY, self.options.repair).await? {
            self.found(Fault::UploadLeft, None, Some(name), self.options.repair);
        }
        let mut strangers = self.store().strangers();
        while let Some(name) = strangers.try_next().await? {
            self.found(Fault::Stranger, None, Some(name), false);
        }
        Ok(())
    }
}

/// Whether the proofs of a published clip are of exactly its file.
fn proven(listed: &Listed, assets: &Assets) -> bool {
    let proofs = listed.proofs.as_ref();
    let signed = proofs.and_then(|proofs| proofs.signed.as_ref());
    let moderated = proofs.and_then(|proofs| proofs.moderated.as_ref());
    let marked = proofs.and_then(|proofs| proofs.marked.as_ref());
    signed.zip(moderated).zip(marked).is_some_and(|((signed, moderated), marked)| {
        let unsigned = signed.unsigned;
        signed.file == assets.video.artifact
            && moderated.file == unsigned
            && marked.file == unsigned
    })
}
