//! What led to a clip stays for a while after its job's end: who ended when with something left. Pure: time is an
//! argument. Decides nothing about a clip itself; the job table asks it what is due.

use super::JobRow;
use std::collections::BTreeSet;
use zoetrope_protocol::id::{JobId, Millis};

/// How long the intermediate artifacts of a job stay after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Of one that has its clip: long enough to look at what made it.
    pub completed: Millis,
    /// Of one that ended otherwise: long enough to find out why.
    pub failed: Millis,
}

/// Jobs that ended and whose intermediate artifacts are still there, by their end.
#[derive(Clone, Debug, Default)]
pub(super) struct LeftBehind {
    completed: BTreeSet<(Millis, JobId)>,
    failed: BTreeSet<(Millis, JobId)>,
}

impl LeftBehind {
    fn of(&mut self, row: &JobRow) -> &mut BTreeSet<(Millis, JobId)> {
        if row.failed() { &mut self.failed } else { &mut self.completed }
    }

    /// A job ended, if it did: what is left of it waits for its time.
    pub fn note(&mut self, row: &JobRow) {
        if let Some(since) = row.left_since().filter(|_| row.intermediates().next().is_some()) {
            self.of(row).insert((since, row.job));
        }
    }

    /// Nothing is left of a job.
    pub fn forget(&mut self, row: &JobRow) {
        if let Some(since) = row.left_since() {
            self.of(row).remove(&(since, row.job));
        }
    }

    /// Jobs of which all that is left is due to go.
    pub fn due(&self, now: Millis, keep: Keep, at_most: usize) -> Vec<JobId> {
        let due = |ended: &BTreeSet<(Millis, JobId)>, keep: Millis| -> Vec<JobId> {
            let due = ended.iter().take_while(|(since, _)| since.plus(keep) <= now);
            due.take(at_most).map(|(_, job)| *job).collect()
        };
        let mut jobs = due(&self.completed, keep.completed);
        jobs.extend(due(&self.failed, keep.failed));
        jobs
    }
}
