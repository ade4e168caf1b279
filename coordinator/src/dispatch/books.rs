//! The books: the core and the job table, changed by journal entries alone.
//!
//! Live and in recovery the same `apply` runs, so a restart rebuilds exactly what was there. Pure: the time
//! comes with the record.

use crate::jobs::{ClipProofs, JobTable, Submission, TableRows, WorkerFacts};
use serde::{Deserialize, Serialize};
use zoetrope_protocol::codec::{self, CodecError};
use zoetrope_protocol::id::{ArtifactId, Epoch, Fence, JobId, Millis, WorkerId};
use zoetrope_protocol::job::ClipFacts;
use zoetrope_protocol::provenance::{Proofs, SignedClaim};
use zoetrope_sched::input::{Ask, EndWhy};
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
}

/// What an entry caused.
#[derive(Debug, Default)]
pub struct Effects {
    /// What the core wants done.
    pub outputs: Vec<Output>,
    /// Artifacts that nobody uses any more.
    pub free: Vec<ArtifactId>,
}

/// The core and the job table.
pub struct Books {
    /// The scheduler core.
    pub core: Core,
    /// The read model.
    pub table: JobTable,
    now: Millis,
}

/// What a snapshot holds. The first field is its version. Fields are appended; version 2 ended before the proofs.
#[derive(Serialize, Deserialize)]
pub struct Snapshot {
    version: u32,
    now: Millis,
    core: State,
    table: TableRows,
    proofs: Vec<(JobId, ClipProofs)>,
}

/// A snapshot of version 2.
#[derive(Serialize, Deserialize)]
struct SnapshotV2 {
    version: u32,
    now: Millis,
    core: State,
    table: TableRows,
}

const SNAPSHOT_VERSION: u32 = 3;

/// A snapshot that this program cannot read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes are none.
    #[error("the snapshot does not decode")]
    Decode(#[from] CodecError),
    /// Another version.
    #[error("the snapshot is of version {0}, this program reads 2 and {SNAPSHOT_VERSION}")]
    Version(u32),
}

impl Books {
    /// Empty books.
    pub fn new(config: Config) -> Books {
        Books { core: Core::new(config), table: JobTable::default(), now: Millis(0) }
    }

    /// Takes in one entry.
    pub fn apply(&mut self, now: Millis, entry: Entry) -> Effects {
        self.now = self.now.max(now);
        let now = self.now;
        let mut effects = Effects::default();
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
            Entry::Signed { job, claim } => self.table.signed(job, claim),
            Entry::Proven { job, proofs } => {
                self.input(now, Input::Published { job }, &mut effects);
                self.table.proven(job, proofs);
            }
        }
        effects
    }

    fn input(&mut self, now: Millis, input: Input, effects: &mut Effects) {
        let stored = match &input {
            Input::ArtifactStored { held, artifact, .. } => Some((held.shard.job, vec![*artifact])),
            Input::ShardFinished { held, outputs, .. } => Some((held.shard.job, outputs.clone())),
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
        match stored {
            // Nobody will use what a replaced attempt stored, unless another job has the same bytes.
            Some((_, artifacts)) if ignored => {
                let unused = artifacts.iter().filter(|a| !self.table.uses(&a.artifact));
                effects.free.extend(unused.map(|a| a.artifact));
            }
            Some((job, artifacts)) => {
                for artifact in artifacts {
                    self.table.stored(job, artifact);
                }
            }
            None => {}
        }
        for output in outputs {
            effects.free.extend(self.table.output(now, output));
        }
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
            proofs: self.table.proofs().to_rows(),
        }
    }

    /// The books of a snapshot.
    ///
    /// # Errors
    /// `Decode`, `Version`.
    pub fn from_snapshot(bytes: &[u8]) -> Result<Books, SnapshotError> {
        // A number below 251 is one byte.
        let snapshot = match bytes.first() {
            Some(2) => {
                let SnapshotV2 { version, now, core, table } = codec::decode_trusted(bytes)?;
                Snapshot { version, now, core, table, proofs: Vec::new() }
            }
            Some(3) => codec::decode_trusted(bytes)?,
            other => return Err(SnapshotError::Version(other.map_or(0, |byte| (*byte).into()))),
        };
        let mut table = JobTable::from_rows(snapshot.table);
        table.restore_proofs(snapshot.proofs);
        Ok(Books { core: Core::from_snapshot(snapshot.core), table, now: snapshot.now })
    }
}

impl Snapshot {
    /// Its bytes.
    ///
    /// # Errors
    /// Those of the codec.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(self)
    }
}
