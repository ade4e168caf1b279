//! Which rows leave the job table when it is full: ended ones of which nothing is left, oldest first. Where it is full of
//! words, they are those of the tenant that has most, so that nobody's long prompts drive out what others did. Decides
//! nothing about files; built again from the rows of a snapshot.

use super::JobRow;
use std::collections::{BTreeMap, BTreeSet};
use zoetrope_protocol::id::{JobId, Millis, TenantId};

/// Rows kept: at about 2.5 KiB each, 1 KiB of it history, they take 750 MB, what a small machine can spare.
pub const ROWS_MAX: usize = 300_000;
/// Bytes of what callers wrote, in all rows: 5 KiB for each of the 100,000 unfinished jobs that a farm holds by default. A
/// prompt may have 128 KiB, so a limit of rows alone would bound nothing.
pub const WORDS_BYTES_MAX: u64 = 512 << 20;
/// From here on there is no more than its share for a tenant: one that is alone has half of all.
const WORDS_BYTES_SCARCE: u64 = WORDS_BYTES_MAX / 2;
/// The share: 500 of the longest prompts, which leaves as much for seven others.
const WORDS_BYTES_SHARE: u64 = WORDS_BYTES_MAX / 8;

/// Rows that may leave, by age, and how much of the table's room is taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving {
    may_leave: BTreeSet<(Millis, JobId)>,
    words_bytes: u64,
    /// The same of each tenant.
    tenants: BTreeMap<TenantId, Own>,
}

#[derive(Clone, Debug, Default)]
struct Own {
    may_leave: BTreeSet<(Millis, JobId)>,
    words_bytes: u64,
}

impl Leaving {
    /// A row came.
    pub fn came(&mut self, row: &JobRow) {
        self.words_bytes += row.words_bytes();
        self.own(row, |own| own.words_bytes += row.words_bytes());
        self.changed(row);
    }

    /// A row changed, but for its words.
    pub fn changed(&mut self, row: &JobRow) {
        let place = (row.created, row.job);
        if row.may_leave() {
            self.may_leave.insert(place);
            self.own(row, |own| own.may_leave.insert(place));
        } else if row.ended.is_some() {
            self.stays(row);
        }
    }

    fn stays(&mut self, row: &JobRow) {
        let place = (row.created, row.job);
        self.may_leave.remove(&place);
        self.own(row, |own| own.may_leave.remove(&place));
    }

    /// A row is about to lose what its caller wrote.
    pub fn forgot_words(&mut self, row: &JobRow) {
        let bytes = row.words_bytes();
        self.words_bytes = self.words_bytes.saturating_sub(bytes);
        self.own(row, |own| own.words_bytes = own.words_bytes.saturating_sub(bytes));
    }

    /// A row left.
    pub fn left(&mut self, row: &JobRow) {
        self.forgot_words(row);
        self.stays(row);
    }

    /// Changes what is known of the row's tenant, and forgets a tenant of which there is nothing.
    fn own<T>(&mut self, row: &JobRow, change: impl FnOnce(&mut Own) -> T) {
        let own = self.tenants.entry(row.spec.tenant).or_default();
        change(own);
        if own.words_bytes == 0 && own.may_leave.is_empty() {
            self.tenants.remove(&row.spec.tenant);
        }
    }

    /// Of a table of so many rows, the one that has to leave before another of this tenant comes.
    pub fn next(&self, rows: usize, tenant: TenantId) -> Option<(Millis, JobId)> {
        if rows >= ROWS_MAX {
            return self.may_leave.first().copied();
        }
        if self.words_bytes >= WORDS_BYTES_MAX {
            let may_leave = self.tenants.values().filter(|own| !own.may_leave.is_empty());
            let most = may_leave.max_by_key(|own| own.words_bytes)?;
            return most.may_leave.first().copied();
        }
        self.beyond(tenant)?.may_leave.first().copied()
    }

    /// A tenant that has more than its share where words are scarce.
    fn beyond(&self, tenant: TenantId) -> Option<&Own> {
        let own = self.tenants.get(&tenant).filter(|own| own.words_bytes >= WORDS_BYTES_SHARE);
        own.filter(|_| self.words_bytes >= WORDS_BYTES_SCARCE)
    }

    /// Whether what callers wrote leaves no room, and nothing that ended can make some.
    pub fn is_full(&self) -> bool {
        self.words_bytes >= WORDS_BYTES_MAX && self.may_leave.is_empty()
    }

    /// Whether this tenant has its share, and nothing of it that ended can make room.
    pub fn is_full_of(&self, tenant: TenantId) -> bool {
        self.beyond(tenant).is_some_and(|own| own.may_leave.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::JobTable;
    use super::*;
    use zoetrope_sched::input::EndWhy;
    use zoetrope_sched::output::{FailWhy, JobState};

    /// That of the rows here.
    const TENANT: TenantId = TenantId(1);

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
        assert_eq!(leaving.next(ROWS_MAX, TENANT), None, "what runs never leaves");
        let ended = JobState::Failed(FailWhy::Ended(EndWhy::Cancelled));
        let mut behind = row(100, JobState::Queued);
        leaving.came(&behind);
        behind = row(100, ended);
        leaving.changed(&behind);
        assert_eq!(leaving.next(ROWS_MAX - 1, TENANT), None, "there is room");
        assert_eq!(leaving.next(ROWS_MAX, TENANT), Some((Millis(100), JobId(100))));
        leaving.left(&behind);
        assert_eq!(leaving.next(ROWS_MAX, TENANT), None);
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
        assert_eq!(leaving.next(2, TENANT), Some((Millis(2), JobId(2))));
        leaving.forgot_words(&ended);
        ended.forget_words();
        assert_eq!(ended.words_bytes(), 0);
        leaving.left(&ended);
        assert!(leaving.is_full());
    }

    /// Promise: a tenant of long prompts makes room for its own jobs with its own, has no more than its share where room is
    /// scarce, and drives out nothing of others.
    #[test]
    fn who_has_most_words_leaves_first() {
        const OTHER: TenantId = TenantId(2);
        const LONG: u64 = 128 << 10;
        let long = |job, state, tenant| {
            let mut long = row(job, state);
            long.spec.render.prompt = "w".repeat(LONG as usize);
            long.spec.metadata.clear();
            long.spec.tenant = tenant;
            long
        };
        let gone = JobState::Failed(FailWhy::Ended(EndWhy::Cancelled));
        let mut leaving = Leaving::default();
        leaving.came(&long(1, gone, OTHER));
        // Until half of the room is taken, one tenant may have all of it.
        let runs = long(2, JobState::Queued, TENANT);
        while leaving.words_bytes < WORDS_BYTES_SCARCE {
            assert!(!leaving.is_full_of(TENANT));
            leaving.came(&runs);
        }
        assert!(leaving.is_full_of(TENANT) && !leaving.is_full_of(OTHER));
        assert_eq!((leaving.next(9, TENANT), leaving.next(9, OTHER)), (None, None));
        let own = long(3, gone, TENANT);
        leaving.came(&own);
        assert!(!leaving.is_full_of(TENANT), "its own makes room");
        assert_eq!(leaving.next(9, TENANT), Some((Millis(3), JobId(3))));
        assert_eq!(leaving.next(9, OTHER), None);
        // Full: whoever comes, what the one has left goes before an older one of the other.
        let third = long(4, JobState::Queued, TenantId(3));
        while leaving.words_bytes < WORDS_BYTES_MAX {
            leaving.came(&third);
        }
        for tenant in [OTHER, TENANT] {
            assert_eq!(leaving.next(9, tenant), Some((Millis(3), JobId(3))));
        }
        leaving.left(&own);
        leaving.came(&third);
        assert_eq!(leaving.next(9, OTHER), Some((Millis(1), JobId(1))), "nothing else is there");
        leaving.left(&long(1, gone, OTHER));
        assert!(!leaving.tenants.contains_key(&OTHER), "nothing is known of it");
        leaving.came(&third);
        assert!(leaving.is_full());
    }
}
