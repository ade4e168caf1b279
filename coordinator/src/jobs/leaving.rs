//! Which rows leave the job table when it is full: ended ones of which nothing is left, oldest first. Decides nothing about
//! files; built again from the rows of a snapshot.

use super::JobRow;
use std::collections::BTreeSet;
use zoetrope_protocol::id::{JobId, Millis};

/// Rows kept: at about 2.5 KiB each, 1 KiB of it history, they take 750 MB, what a small machine can spare.
pub const ROWS_MAX: usize = 300_000;
/// Bytes of what callers wrote, in all rows: 5 KiB for each of the 100,000 unfinished jobs that a farm holds by default. A
/// prompt may have 128 KiB, so a limit of rows alone would bound nothing.
pub const WORDS_BYTES_MAX: u64 = 512 << 20;

/// Rows that may leave, by age, and how much of the table's room is taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving {
    may_leave: BTreeSet<(Millis, JobId)>,
    words_bytes: u64,
}

impl Leaving {
    /// A row came.
    pub fn came(&mut self, row: &JobRow) {
        self.words_bytes += row.words_bytes();
        self.changed(row);
    }

    /// A row changed, but for its words.
    pub fn changed(&mut self, row: &JobRow) {
        if row.may_leave() {
            self.may_leave.insert((row.created, row.job));
        } else if row.ended.is_some() {
            self.may_leave.remove(&(row.created, row.job));
        }
    }

    /// A row lost what its caller wrote, so many bytes.
    pub fn forgot_words(&mut self, bytes: u64) {
        self.words_bytes = self.words_bytes.saturating_sub(bytes);
    }

    /// A row left.
    pub fn left(&mut self, row: &JobRow) {
        self.forgot_words(row.words_bytes());
        self.may_leave.remove(&(row.created, row.job));
    }

    /// Of a table of so many rows, the one that has to leave before another comes.
    pub fn next(&self, rows: usize) -> Option<(Millis, JobId)> {
        let full = rows >= ROWS_MAX || self.words_bytes >= WORDS_BYTES_MAX;
        self.may_leave.first().filter(|_| full).copied()
    }

    /// Whether what callers wrote leaves no room, and nothing that ended can make some.
    pub fn is_full(&self) -> bool {
        self.words_bytes >= WORDS_BYTES_MAX && self.may_leave.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::JobTable;
    use super::*;
    use zoetrope_sched::input::EndWhy;
    use zoetrope_sched::output::{FailWhy, JobState};

    fn row(job: u128, state: JobState) -> JobRow {
        let mut table = JobTable::default();
        table.admit(Millis(job as u64), crate::testing::submission(job));
        let mut row = table.row(JobId(job)).expect("a row").clone();
        row.state = state;
        row.ended = row.is_terminal().then_some(Millis(1_000));
        row
    }

    /// Promise: however many old clips still live, what ended behind them makes room.
    #[test]
    fn what_lives_keeps_nothing_else_from_leaving() {
        let mut leaving = Leaving::default();
        for job in 0..100 {
            leaving.came(&row(job, JobState::Queued));
        }
        assert_eq!(leaving.next(ROWS_MAX), None, "what runs never leaves");
        let ended = JobState::Failed(FailWhy::Ended(EndWhy::Cancelled));
        let mut behind = row(100, JobState::Queued);
        leaving.came(&behind);
        behind = row(100, ended);
        leaving.changed(&behind);
        assert_eq!(leaving.next(ROWS_MAX - 1), None, "there is room");
        assert_eq!(leaving.next(ROWS_MAX), Some((Millis(100), JobId(100))));
        leaving.left(&behind);
        assert_eq!(leaving.next(ROWS_MAX), None);
    }

    /// Promise: long prompts fill the table as many rows do; then what ended leaves, and without such there is no room.
    #[test]
    fn words_are_counted() {
        let mut leaving = Leaving::default();
        let mut long = row(1, JobState::Queued);
        long.spec.render.prompt = "w".repeat(128 << 10);
        for _ in 0..WORDS_BYTES_MAX / (128 << 10) {
            assert!(!leaving.is_full());
            leaving.came(&long);
        }
        assert!(leaving.is_full());
        let mut ended = row(2, JobState::Failed(FailWhy::Ended(EndWhy::Cancelled)));
        leaving.came(&ended);
        assert!(!leaving.is_full(), "one can leave");
        assert_eq!(leaving.next(2), Some((Millis(2), JobId(2))));
        let words = ended.words_bytes();
        ended.forget_words();
        assert_eq!(ended.words_bytes(), 0);
        leaving.forgot_words(words);
        leaving.left(&ended);
        assert!(leaving.is_full());
    }
}
