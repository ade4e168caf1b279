//! Which mark each clip carries. Pure; part of the job table.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use zoetrope_protocol::id::JobId;
use zoetrope_protocol::mark::Issued;

/// What a snapshot holds of the marks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkRows {
    next: u32,
    issued: Vec<(JobId, Issued)>,
}

/// The marks of all clips, by job and by what a clip carries.
#[derive(Clone, Debug, Default)]
pub struct MarkTable {
    // Grows with every mark and never shrinks: a serial of a clip that was deleted is not used again.
    next: u32,
    issued: BTreeMap<JobId, Issued>,
    jobs: BTreeMap<u32, JobId>,
}

impl MarkTable {
    /// The table of a snapshot.
    pub fn from_rows(rows: MarkRows) -> MarkTable {
        let jobs = rows.issued.iter().map(|(job, issued)| (issued.mark, *job)).collect();
        MarkTable { next: rows.next, issued: rows.issued.into_iter().collect(), jobs }
    }

    /// What a snapshot must hold.
    pub fn to_rows(&self) -> MarkRows {
        let issued = self.issued.iter().map(|(job, issued)| (*job, *issued)).collect();
        MarkRows { next: self.next, issued }
    }

    pub(super) fn issue(&mut self, job: JobId, issued: Issued) {
        self.next = self.next.max(issued.serial.saturating_add(1));
        // The first one holds: attempts of a job carry the same mark, and a mark leads to one job.
        if !self.issued.contains_key(&job) && !self.jobs.contains_key(&issued.mark) {
            self.issued.insert(job, issued);
            self.jobs.insert(issued.mark, job);
        }
    }

    pub(super) fn forget(&mut self, job: JobId) {
        if let Some(issued) = self.issued.remove(&job) {
            self.jobs.remove(&issued.mark);
        }
    }

    /// The first serial that was never used; none once all are.
    pub fn next(&self) -> Option<u32> {
        (self.next < u32::MAX).then_some(self.next)
    }

    /// The mark of a job's clip.
    pub fn of(&self, job: JobId) -> Option<Issued> {
        self.issued.get(&job).copied()
    }

    /// The job whose clip carries a mark.
    pub fn job_of(&self, mark: u32) -> Option<JobId> {
        self.jobs.get(&mark).copied()
    }

    /// Any mark that was issued: the farm's key must be the one that made it.
    pub fn any(&self) -> Option<Issued> {
        self.issued.values().next_back().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: a mark leads to one job, and a serial is never used twice, also not after its clip was deleted.
    #[test]
    fn a_mark_leads_to_one_job_and_is_not_used_again() {
        let mut table = MarkTable::default();
        let mark = |serial, mark| Issued { serial, epoch: 0, mark };
        table.issue(JobId(1), mark(0, 70));
        table.issue(JobId(1), mark(1, 71));
        table.issue(JobId(2), mark(2, 70));
        assert_eq!((table.of(JobId(1)), table.job_of(70)), (Some(mark(0, 70)), Some(JobId(1))));
        assert_eq!((table.of(JobId(2)), table.job_of(71)), (None, None));
        assert_eq!(table.next(), Some(3));
        table.forget(JobId(1));
        assert_eq!((table.of(JobId(1)), table.job_of(70), table.next()), (None, None, Some(3)));
        let rows = table.to_rows();
        assert_eq!(MarkTable::from_rows(rows.clone()).to_rows(), rows);
    }
}
