//! A rescan: everything stored is judged anew, by another policy or by that of now. What it is, how far it is, and
//! what it found. Pure; a part of the books, so a restart goes on where it was.
//!
//! Rows are walked in the order of their creation. A published clip is judged by its words and by the record that was
//! kept beside it. Of a job that was not finished when the rescan began only the words are, for its clip is judged when it
//! is published; where that is by another policy than the rescan's, it is looked at once more at the end of the walk.

use super::JobRow;
use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::{JobId, Millis};
use zoetrope_protocol::moderation::{Category, Verdict};

/// Jobs that fail which a report names; all are counted.
pub const NAMED_MAX: usize = 1_000;
/// Bytes of the three texts of a policy: twice those of the built-in one, some thousand lines of pairs. It goes through the
/// journal in one record of at most 1 MiB (`wire::FRAME_BYTES_MAX`), and again in every snapshot until the rescan ends.
pub const POLICY_BYTES_MAX: usize = 256 << 10;
/// Jobs of one batch that fail, for the same record: a verdict has 1.2 KiB at most, nearly all of it 64 spans of 14 bytes.
pub const FAILING_MAX: usize = 500;
/// Rows a second, at most: a million in nine minutes, where the scores of words can be taken as they are.
pub const RATE_MAX: u32 = 2_000;
/// Rows a second if nothing is said: a fifth of a core, as reading the words of one anew takes some 20 ms.
pub const RATE_DEFAULT: u32 = 10;

/// The texts of a policy: its file and its two lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyTexts {
    /// `policy.toml`.
    pub policy: String,
    /// The rules that it names.
    pub rules: String,
    /// The pairs that it names.
    pub pairs: String,
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescanOrder {
    /// By which policy; none: by that of now.
    pub policy: Option<PolicyTexts>,
    /// Whether it only looks.
    pub dry_run: bool,
    /// Rows a second, 1 to [`RATE_MAX`].
    pub per_second: u32,
}

/// How a rescan ended, or that it did not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RescanState {
    /// It goes on.
    Running,
    /// All rows were looked at.
    Done,
    /// An operator ended it.
    Cancelled,
}

/// A job that fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// The job.
    pub job: JobId,
    /// Whether it is the clip that fails; otherwise the words do.
    pub output: bool,
    /// By which verdict.
    pub verdict: Verdict,
}

/// What a batch of rows came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The last row of it, by creation; none if there was none left.
    pub through: Option<(Millis, JobId)>,
    /// Rows that were judged and pass.
    pub passed: u32,
    /// Rows that fail.
    pub failing: Vec<Failing>,
    /// Rows that cannot be judged: no record was kept, or other nets than the policy's made it.
    pub unjudged: Vec<JobId>,
}

/// A rescan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescan {
    /// What was asked.
    pub order: RescanOrder,
    /// When it began.
    pub began: Millis,
    /// When it ended.
    pub ended: Option<Millis>,
    /// How it stands.
    pub state: RescanState,
    /// The last row that was looked at.
    pub through: Option<(Millis, JobId)>,
    /// Rows that were judged and pass; of jobs that were not finished in time, once their clip was judged too.
    pub passed: u64,
    /// Rows that fail.
    pub failed: u64,
    /// Rows that cannot be judged.
    pub unjudged: u64,
    /// The first of those that fail, with the categories.
    pub failing: Vec<(JobId, Vec<Category>)>,
    /// The first of those that cannot be judged.
    pub unjudgeable: Vec<JobId>,
}

impl Rescan {
    /// A rescan that begins.
    pub fn begin(now: Millis, order: RescanOrder) -> Rescan {
        Rescan {
            order,
            began: now,
            ended: None,
            state: RescanState::Running,
            through: None,
            passed: 0,
            failed: 0,
            unjudged: 0,
            failing: Vec::new(),
            unjudgeable: Vec::new(),
        }
    }

    /// Whether a job is looked at again at the end of the walk: its clip is judged by another policy, and was not there
    /// when the rescan began. So it is the same for as long as the rescan goes on.
    pub fn comes_back_to(&self, row: &JobRow) -> bool {
        let was_there = row.ended.is_some_and(|ended| ended < self.began);
        self.order.policy.is_some() && !was_there && row.keeps_pointer()
    }

    /// Whether it goes on.
    pub fn is_running(&self) -> bool {
        self.state == RescanState::Running
    }

    /// Takes in a batch. One without a last row ends the rescan.
    pub fn went(&mut self, now: Millis, batch: &Batch) {
        self.passed += u64::from(batch.passed);
        self.failed += batch.failing.len() as u64;
        self.unjudged += batch.unjudged.len() as u64;
        for one in &batch.failing {
            if self.failing.len() < NAMED_MAX {
                self.failing.push((one.job, one.verdict.categories.clone()));
            }
        }
        let room = NAMED_MAX.saturating_sub(self.unjudgeable.len());
        self.unjudgeable.extend(batch.unjudged.iter().take(room));
        match batch.through {
            Some(through) => self.through = Some(through),
            None => self.end(now, RescanState::Done),
        }
    }

    /// Ends it. The policy's texts are not needed any more.
    pub fn end(&mut self, now: Millis, state: RescanState) {
        self.state = state;
        self.ended = Some(now);
        self.order.policy = None;
    }
}

/// What a rescan has not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Rows that it did not look at yet.
    pub rows: u64,
    /// Jobs that it passed before they were finished, and whose clips it has not judged: those that are left when it is done
    /// were not finished then either. Not known where it was done before the coordinator started.
    pub pending: Option<u64>,
}
