//! The books: the core and the job table, changed by journal entries alone.
//!
//! Live and in recovery the same `apply` runs, so a restart rebuilds exactly what was there. Pure: the time
//! comes with the record.

use super::intake::{Intake, Waiting};
use crate::jobs::rescan::{Batch, Failing};
use crate::jobs::{
    ClipProofs, JobRow, JobTable, MarkRows, Moderation, ModerationTable, Rescan, RescanOrder,
    RescanState, Share, ShareId, Submission, TableRows, WorkerFacts,
};
use crate::journal::{Form, SnapshotBytes};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use zoetrope_protocol::codec::{self, CodecError};
use zoetrope_protocol::id::{ArtifactId, Epoch, Fence, JobId, Millis, WorkerId};
use zoetrope_protocol::job::ClipFacts;
use zoetrope_protocol::mark::Issued;
use zoetrope_protocol::moderation::{Audience, Outcome, Verdict};
use zoetrope_protocol::provenance::{Proofs, SignedClaim};
use zoetrope_protocol::wire::{Held, Order};
use zoetrope_sched::input::{Ask, EndWhy};
use zoetrope_sched::output::{FailWhy, JobState};
use zoetrope_sched::{Config, Core, Input, Output, State};

/// One record of the journal. Fields and variants are appended, never reordered: they are its format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it happened.
    pub now: Millis,
    /// Who led.
    pub epoch: Epoch,
    /// What happened.
    pub entry: Entry,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// An input of the core.
    Core(Input),
    /// A job was admitted.
    Admitted {
        /// The request.
        submission: Box<Submission>,
        /// What the core must know of it, with the estimates of that moment.
        ask: Ask,
    },
    /// A worker said hello.
    Joined {
        /// Its number.
        worker: WorkerId,
        /// What is remembered of it.
        facts: WorkerFacts,
        /// The core's part of it: `WorkerJoined`.
        input: Input,
    },
    /// A clip was measured.
    Measured {
        /// The job.
        job: JobId,
        /// The finish attempt.
        fence: Fence,
        /// The measures.
        facts: ClipFacts,
    },
    /// The caller deleted the job.
    Deleted {
        /// The job.
        job: JobId,
    },
    /// The files of a job are past their time.
    Expired {
        /// The job.
        job: JobId,
    },
    /// A job was admitted whose words are to be judged before the core hears of it.
    Asked {
        /// The request.
        submission: Box<Submission>,
        /// What the core will be told, with the estimates of that moment.
        ask: Ask,
        /// For whom its clip is.
        audience: Audience,
    },
    /// A job's words were judged.
    Judged {
        /// The job.
        job: JobId,
        /// The verdict.
        verdict: Verdict,
    },
    /// There was no verdict on a job's words.
    NotJudged {
        /// The job.
        job: JobId,
    },
    /// Whoever judges is there (again).
    ModerationUp,
    /// The clip of a finish attempt was judged.
    ClipJudged {
        /// The job.
        job: JobId,
        /// The attempt.
        fence: Fence,
        /// The verdict.
        verdict: Verdict,
    },
    /// A claim of the job's clip was signed. Durable before the worker gets the signature.
    Signed {
        /// The job.
        job: JobId,
        /// What the signer noted.
        claim: SignedClaim,
    },
    /// The pointer was flipped, for these reasons. The core's part of it is `Published`.
    Proven {
        /// The job.
        job: JobId,
        /// The proofs.
        proofs: Proofs,
    },
    /// An operator has everything stored judged anew.
    RescanBegan {
        /// How.
        order: Box<RescanOrder>,
    },
    /// A rescan looked at some more rows, and takes down what fails unless it only looks.
    RescanWent {
        /// What it came to.
        batch: Box<Batch>,
    },
    /// An operator ended the rescan.
    RescanCancelled,
    /// A share link to a clip was made.
    Shared {
        /// The job.
        job: JobId,
        /// The link.
        share: Box<Share>,
    },
    /// A share link shows nothing any more.
    ShareRevoked {
        /// The link.
        share: ShareId,
    },
    /// A download of a share link whose downloads are limited began.
    ShareRead {
        /// The link.
        share: ShareId,
    },
    /// A mark was issued for the job's clip. Durable before a worker hears of it.
    Marked {
        /// The job.
        job: JobId,
        /// The mark.
        issued: Issued,
    },
    /// The intermediate artifacts of an ended job are past their time.
    CleanedUp {
        /// The job.
        job: JobId,
    },
    /// The words of a job that the core knows were judged again, by another policy than before.
    Rejudged {
        /// The job.
        job: JobId,
        /// The verdict.
        verdict: Verdict,
    },
    /// Who goes on with the journal, and by which decisions: the first entry of a start.
    DecisionsSet {
        /// Their number.
        decisions: u32,
    },
}

/// What an entry caused.
#[derive(Debug, Default)]
pub struct Effects {
    /// What the core wants done.
    pub outputs: Vec<Output>,
    /// Artifacts that nobody uses any more.
    pub free: Vec<ArtifactId>,
    /// Jobs whose words are to be judged now.
    pub judge: Vec<JobId>,
}

/// The core and the job table.
pub struct Books {
    /// The scheduler core.
    pub core: Core,
    /// The read model.
    pub table: JobTable,
    /// Jobs whose words are not judged yet.
    pub intake: Intake,
    /// What was judged.
    pub moderation: ModerationTable,
    /// The rescan that goes on, or the last one.
    pub rescan: Option<Rescan>,
    decisions: Option<u32>,
    now: Millis,
}

/// What a snapshot holds. The first field is its version.
#[derive(Serialize, Deserialize)]
pub struct Snapshot {
    version: u32,
    now: Millis,
    core: State,
    table: TableRows,
    intake: Vec<(JobId, Waiting)>,
    moderation: Vec<(JobId, Arc<Moderation>)>,
    proofs: Vec<(JobId, ClipProofs)>,
    rescan: Option<Rescan>,
    shares: Vec<(JobId, Vec<Share>)>,
    marks: MarkRows,
    decisions: Option<u32>,
}

const SNAPSHOT_VERSION: u32 = 8;
/// Rows of moderation beyond those of the job table, before they are swept.
const MODERATION_SLACK: usize = 10_000;

/// A snapshot that this program cannot read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes are none.
    #[error("the snapshot does not decode")]
    Decode(#[from] CodecError),
    /// Another version.
    #[error(
        "the snapshot is of version {0}, this program reads {SNAPSHOT_VERSION}: go on with the release that wrote it, \
         or give up its jobs and clips and begin with a new data folder"
    )]
    Version(u32),
}

impl Books {
    /// Empty books.
    pub fn new(config: Config) -> Books {
        Books {
            core: Core::new(config),
            table: JobTable::default(),
            intake: Intake::default(),
            moderation: ModerationTable::default(),
            rescan: None,
            decisions: None,
            now: Millis(0),
        }
    }

    /// Takes in one entry.
    pub fn apply(&mut self, now: Millis, entry: Entry) -> Effects {
        if let Entry::DecisionsSet { decisions } = entry {
            self.decisions = Some(decisions);
            // No time passes by it: how long nobody led is told by the epoch that begins next.
            return Effects::default();
        }
        let before = self.now;
        let now = now.max(before);
        self.now = now;
        let mut effects = Effects::default();
        if let Entry::Core(Input::EpochBegan { .. }) = &entry {
            self.intake.excuse(now, now.minus(before));
        }
        match entry {
            Entry::Core(input) => self.input(now, input, &mut effects),
            Entry::Admitted { submission, ask } => {
                let job = submission.job;
                self.table.admit(now, *submission);
                self.input(now, Input::Submitted { job, ask }, &mut effects);
            }
            Entry::Joined { worker, facts, input } => {
                self.table.worker_joined(worker, facts);
                self.input(now, input, &mut effects);
            }
            Entry::Measured { job, fence, facts } => self.table.measured(job, fence, facts),
            Entry::Deleted { job } => {
                if self.table.row(job).is_some_and(|row| !row.is_terminal()) {
                    let input = Input::EndAsked { job, why: EndWhy::Deleted };
                    self.input(now, input, &mut effects);
                }
                effects.free.extend(self.table.delete(job));
            }
            Entry::Expired { job } => effects.free.extend(self.table.drop_assets(job)),
            Entry::Shared { job, share } => self.table.shared(job, *share),
            Entry::ShareRevoked { share } => self.table.share_revoked(now, share),
            Entry::ShareRead { share } => self.table.share_read(now, share),
            Entry::CleanedUp { job } => effects.free.extend(self.table.clean_up(job)),
            Entry::Signed { job, claim } => self.table.signed(job, claim),
            Entry::Marked { job, issued } => self.table.marked(job, issued),
            Entry::Proven { job, proofs } => {
                self.input(now, Input::Published { job }, &mut effects);
                self.table.proven(job, proofs);
            }
            Entry::Asked { submission, ask, audience } => {
                let job = submission.job;
                self.table.admit(now, *submission);
                self.moderation.admit(job, audience);
                if self.moderation.len() > self.table.len() + MODERATION_SLACK {
                    let table = &self.table;
                    self.moderation.keep(|job| table.row(job).is_some());
                }
                self.intake.admit(now, job, ask);
                effects.judge.push(job);
            }
            Entry::Judged { job, verdict } => self.judged(now, job, verdict, &mut effects),
            Entry::NotJudged { job } => self.intake.failed(now, job),
            Entry::ModerationUp => effects.judge.extend(self.intake.ask_all(now)),
            Entry::ClipJudged { job, fence, verdict } => {
                let passed = verdict.outcome == Outcome::Pass;
                self.moderation.output(job, fence, verdict);
                if !passed {
                    let input = Input::EndAsked { job, why: EndWhy::Blocked };
                    self.input(now, input, &mut effects);
                }
            }
            Entry::Rejudged { job, verdict } => {
                let passed = verdict.outcome == Outcome::Pass;
                self.moderation.input(job, verdict);
                if !passed {
                    let input = Input::EndAsked { job, why: EndWhy::Blocked };
                    self.input(now, input, &mut effects);
                }
            }
            Entry::RescanBegan { order } => self.rescan = Some(Rescan::begin(now, *order)),
            Entry::RescanWent { batch } => self.rescan_went(now, *batch, &mut effects),
            Entry::RescanCancelled => {
                if let Some(rescan) = self.rescan.as_mut().filter(|rescan| rescan.is_running()) {
                    rescan.end(now, RescanState::Cancelled);
                }
            }
            Entry::DecisionsSet { .. } => {}
        }
        let fired = self.intake.fire(now);
        effects.judge.extend(fired.ask);
        for (job, why) in fired.end {
            self.end_waiting(now, job, why, &mut effects);
        }
        effects
    }

    /// The verdict on a job's words: the core hears of it, or it ends.
    fn judged(&mut self, now: Millis, job: JobId, verdict: Verdict, effects: &mut Effects) {
        let Some(waiting) = self.intake.take(job) else { return };
        let passed = verdict.outcome == Outcome::Pass;
        self.moderation.input(job, verdict);
        if passed {
            self.input(now, Input::Submitted { job, ask: waiting.ask }, effects);
        } else {
            self.end_waiting(now, job, FailWhy::Ended(EndWhy::Blocked), effects);
        }
    }

    /// A rescan went on: what fails is taken down, or ends if it is not finished.
    fn rescan_went(&mut self, now: Millis, batch: Batch, effects: &mut Effects) {
        let Some(rescan) = self.rescan.as_mut().filter(|rescan| rescan.is_running()) else {
            return;
        };
        rescan.went(now, &batch);
        if rescan.order.dry_run {
            return;
        }
        for Failing { job, output, verdict } in batch.failing {
            let Some(row) = self.table.row(job) else { continue };
            let ended = row.is_terminal();
            let fence =
                self.moderation.of(job).and_then(|known| known.output.as_ref()).map(|o| o.0);
            match fence.filter(|_| output) {
                Some(fence) => self.moderation.output(job, fence, verdict),
                None => self.moderation.input(job, verdict),
            }
            if ended {
                self.table.take_down(now, job);
            } else {
                self.input(now, Input::EndAsked { job, why: EndWhy::Blocked }, effects);
            }
        }
    }

    /// A job ends that the core never heard of.
    fn end_waiting(&mut self, now: Millis, job: JobId, why: FailWhy, effects: &mut Effects) {
        let moved = Output::JobMoved { job, state: JobState::Failed(why) };
        effects.free.extend(self.table.output(now, &moved));
        effects.outputs.push(moved);
    }

    /// The order that the core's `Assign` is, still without a mark; none if its job is not known any more.
    pub fn order(&self, assigned: Output, checkpoint_every: u32) -> Option<Order> {
        let Output::Assign { shard, fence, inputs, hard_limit, shards, .. } = assigned else {
            return None;
        };
        let spec = self.table.row(shard.job)?.spec.render.clone();
        let mark = None;
        Some(Order { shard, fence, spec, inputs, checkpoint_every, hard_limit, mark, shards })
    }

    /// When `TimePassed` is due.
    pub fn next_wakeup(&self) -> Option<Millis> {
        [self.core.next_wakeup(), self.intake.next_wakeup()].into_iter().flatten().min()
    }

    fn input(&mut self, now: Millis, input: Input, effects: &mut Effects) {
        match input {
            Input::EndAsked { job, why } if self.intake.take(job).is_some() => {
                return self.end_waiting(now, job, FailWhy::Ended(why), effects);
            }
            // Questions of an earlier process have no answer any more.
            Input::EpochBegan { .. } => effects.judge.extend(self.intake.ask_all(now)),
            _ => {}
        }
        let last = matches!(input, Input::ShardFinished { .. });
        let stored = match &input {
            Input::ArtifactStored { held, artifact, .. } => Some((*held, vec![*artifact])),
            Input::ShardFinished { held, outputs, .. } => Some((*held, outputs.clone())),
            Input::ModelSet { model, name, .. } => {
                self.table.model_set(*model, name.clone());
                None
            }
            _ => None,
        };
        let from = effects.outputs.len();
        self.core.handle(now, input, &mut effects.outputs);
        let outputs = &effects.outputs[from..];
        let ignored = outputs.iter().any(|output| matches!(output, Output::Ignored { .. }));
        let ends = |held: &Held| {
            let is = |o: &Output| matches!(o, Output::AttemptEnded { held: of, .. } if of == held);
            outputs.iter().any(is)
        };
        match stored {
            // Nobody will use what a replaced attempt stored, unless another job has the same bytes; nor what one stored
            // that was stopped, of which the core only notes that its gpu is free.
            Some((held, artifacts)) if ignored || (last && !ends(&held)) => {
                self.table.ignored(held.shard.job);
                let unused = artifacts.iter().filter(|a| !self.table.uses(&a.artifact));
                effects.free.extend(unused.map(|a| a.artifact));
            }
            Some((held, artifacts)) => {
                for artifact in artifacts {
                    self.table.stored(now, held.shard.job, held.fence, artifact);
                }
            }
            None => {}
        }
        for output in outputs {
            effects.free.extend(self.table.output(now, output));
        }
    }

    /// The decisions by which whatever follows is told, as far as anybody said.
    pub fn decisions(&self) -> Option<u32> {
        self.decisions
    }

    /// Takes these for the decisions of whatever follows, if nobody said.
    pub fn presume_decisions(&mut self, decisions: u32) {
        self.decisions.get_or_insert(decisions);
    }

    /// The newest moment that an entry carried.
    pub fn now(&self) -> Millis {
        self.now
    }

    /// A copy for a snapshot, to be encoded on another thread.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            version: SNAPSHOT_VERSION,
            now: self.now,
            core: self.core.snapshot().clone(),
            table: self.table.to_rows(),
            intake: self.intake.to_rows(),
            moderation: self.moderation.to_rows(),
            proofs: self.table.proofs().to_rows(),
            rescan: self.rescan.clone(),
            shares: self.table.shares().to_rows(),
            marks: self.table.marks().to_rows(),
            decisions: self.decisions,
        }
    }

    /// The books of a whole snapshot.
    ///
    /// # Errors
    /// `Decode`, `Version`.
    pub fn from_snapshot(bytes: &[u8]) -> Result<Books, SnapshotError> {
        Ok(Books::of(Snapshot::decode(bytes)?))
    }

    /// The books of a snapshot in either form.
    ///
    /// # Errors
    /// `Decode`, `Version`.
    pub fn restore(bytes: &SnapshotBytes) -> Result<Books, SnapshotError> {
        let mut snapshot = Snapshot::decode(&bytes.live)?;
        if !bytes.rest.is_empty() {
            let rest: Vec<Arc<JobRow>> = codec::decode_trusted(&bytes.rest)?;
            snapshot.table.rows.extend(rest);
        }
        Ok(Books::of(snapshot))
    }

    fn of(snapshot: Snapshot) -> Books {
        let mut table = JobTable::from_rows(snapshot.table);
        table.restore_proofs(snapshot.proofs);
        table.restore_shares(snapshot.shares);
        table.restore_marks(snapshot.marks);
        Books {
            core: Core::from_snapshot(snapshot.core),
            table,
            intake: Intake::from_rows(snapshot.intake),
            moderation: ModerationTable::from_rows(snapshot.moderation),
            rescan: snapshot.rescan,
            decisions: snapshot.decisions,
            now: snapshot.now,
        }
    }
}

impl Snapshot {
    fn decode(bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
        // A number below 251 is one byte. Looked at before the rest, which is of another shape in other versions.
        let version = bytes.first().map_or(0, |byte| u32::from(*byte));
        if version != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version(version));
        }
        Ok(codec::decode_trusted(bytes)?)
    }

    /// Its bytes, in one.
    ///
    /// # Errors
    /// Those of the codec.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(self)
    }

    /// Its bytes. Split, the rows of jobs that have ended and rows that are long stand apart.
    ///
    /// # Errors
    /// Those of the codec.
    pub fn encode_as(mut self, form: Form) -> Result<SnapshotBytes, CodecError> {
        let Form::Split { item_bytes } = form else { return Ok(self.encode()?.into()) };
        let mut rest = Vec::new();
        let mut live = Vec::new();
        for row in std::mem::take(&mut self.table.rows) {
            let long = !row.is_terminal() && codec::encode(&row)?.len() > item_bytes;
            if long || row.is_terminal() { rest.push(row) } else { live.push(row) }
        }
        self.table.rows = live;
        let rest = if rest.is_empty() { Vec::new() } else { codec::encode(&rest)? };
        Ok(SnapshotBytes { live: codec::encode(&self)?, rest })
    }
}
