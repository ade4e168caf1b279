//! The progress board: the latest word on each running job. Never journalled, never an input of the core.
//!
//! Links write, the dispatch actor reads. Only the newest value counts, so it cannot fill up: one entry for
//! each unfinished job, and for the last ones that failed. What it shows of a job never goes back, not even when the
//! coordinator is killed: a percent is shown once it is kept, in a small file beside the journal or, where
//! coordinators share a bucket and no folder, in the store. The file is not synced, so after a loss of power the
//! steps in the store are the floor; it decides nothing, so losing it harms nobody else.

use crate::jobs::{JobRow, PhaseView};
use crate::store::Store;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{JobId, ShardId};
use zoetrope_protocol::job::Stage;
use zoetrope_protocol::wire::Phase;
use zoetrope_sched::output::JobState;

/// Percent at the end of `Encode`.
const ENCODED: u32 = 5;
/// Percent at the end of `Denoise`: it takes most of the time.
const DENOISED: u32 = 75;
/// Percent at the end of decoding frames.
const DECODED: u32 = 95;
/// Percent that a decode shard beside others comes to.
const SPREAD: u8 = 85;
/// The most that an unfinished job shows; 100 is for completed ones.
const ALMOST: u32 = 99;
/// Jobs that failed of which the percent is still shown: those that a caller may be polling. Later it may go back to
/// the steps in the store.
const FAILED_MAX: usize = 1_000;
/// How often changed percents are written: callers poll about once a second. 10,000 running jobs take 180 KB.
const KEEP_EVERY: Duration = Duration::from_millis(250);
/// The same in a bucket, where each write is billed.
const KEEP_EVERY_IN_STORE: Duration = Duration::from_secs(2);

/// Where percents are kept.
#[derive(Clone)]
pub enum Kept {
    /// In a file.
    File(PathBuf),
    /// In the store.
    Store(Arc<Store>),
}

impl Kept {
    async fn read(&self) -> Vec<u8> {
        match self {
            Kept::File(file) => std::fs::read(file).unwrap_or_default(),
            Kept::Store(store) => store.progress().await.unwrap_or_default(),
        }
    }

    async fn write(&self, bytes: Vec<u8>) -> std::io::Result<()> {
        match self {
            Kept::File(file) => {
                let (target, draft) = (file.clone(), file.with_extension("draft"));
                let write = move || {
                    std::fs::write(&draft, bytes).and_then(|()| std::fs::rename(&draft, &target))
                };
                tokio::task::spawn_blocking(write).await.map_err(std::io::Error::other)?
            }
            Kept::Store(store) => store.keep_progress(bytes).await.map_err(std::io::Error::other),
        }
    }

    fn every(&self) -> Duration {
        match self {
            Kept::File(_) => KEEP_EVERY,
            Kept::Store(_) => KEEP_EVERY_IN_STORE,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Latest {
    percent: u8,
    /// As much of it as is in the file.
    shown: u8,
    phase: Option<PhaseView>,
}

/// How a job stands of which the file speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can still get on.
    Unfinished,
    /// It failed.
    Failed,
    /// It is completed, or nobody knows it any more.
    Over,
}

impl Standing {
    /// Of a row of the job table.
    pub fn of(row: Option<&JobRow>) -> Standing {
        match row.map(|row| row.state) {
            Some(JobState::Queued | JobState::InProgress) => Standing::Unfinished,
            Some(JobState::Failed(_)) => Standing::Failed,
            Some(JobState::Completed) | None => Standing::Over,
        }
    }
}

/// The latest progress of all jobs.
#[derive(Debug, Default)]
pub struct ProgressBoard {
    latest: Mutex<BTreeMap<JobId, Latest>>,
    failed: Mutex<VecDeque<JobId>>,
}

impl ProgressBoard {
    /// A running attempt reports.
    pub fn report(&self, shard: ShardId, phase: PhaseView) {
        let percent = match shard.stage {
            // One of several: how far they all are, no single one says.
            Stage::Decode => percent(phase).min(SPREAD),
            _ => percent(phase),
        };
        let mut board = self.board();
        let latest = board.entry(shard.job).or_insert(Latest { percent: 0, shown: 0, phase: None });
        latest.percent = latest.percent.max(percent);
        latest.phase = Some(phase);
    }

    /// The attempt ended: nothing is being done, the percent stays.
    pub fn pause(&self, job: JobId) {
        if let Some(latest) = self.board().get_mut(&job) {
            latest.phase = None;
        }
    }

    /// The job is completed: all know how far it is.
    pub fn forget(&self, job: JobId) {
        self.board().remove(&job);
    }

    /// The job failed: what was shown of it stays, and nothing is added.
    pub fn failed(&self, job: JobId) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut board = self.board();
        let Some(latest) = board.get_mut(&job) else { return };
        *latest = Latest { percent: latest.shown, phase: None, ..*latest };
        failed.push_back(job);
        if failed.len() > FAILED_MAX
            && let Some(oldest) = failed.pop_front()
        {
            board.remove(&oldest);
        }
    }

    /// Percent and phase of a job that is not completed. After a restart the steps in the store are the floor.
    pub fn of(&self, row: &JobRow) -> (u8, Option<PhaseView>) {
        let steps = PhaseView {
            phase: Phase::Denoising,
            done: row.steps_done,
            total: row.spec.render.steps,
        };
        let floor = if row.steps_done == 0 { 0 } else { percent(steps) };
        match self.board().get(&row.job) {
            Some(latest) => (latest.shown.max(floor), latest.phase),
            None => (floor, None),
        }
    }

    /// Percents that are not shown yet, with all others; none if there are no such.
    fn changed(&self) -> Option<Vec<(JobId, u8)>> {
        let board = self.board();
        let changed = board.values().any(|latest| latest.percent != latest.shown);
        changed.then(|| board.iter().map(|(job, latest)| (*job, latest.percent)).collect())
    }

    /// These percents are in the file now.
    fn show(&self, kept: &[(JobId, u8)]) {
        let mut board = self.board();
        for (job, percent) in kept {
            if let Some(latest) = board.get_mut(job) {
                latest.shown = latest.shown.max(*percent);
            }
        }
    }

    /// The board of the last run, as far as it was kept; an empty one if it is not there or not whole.
    pub async fn restore(kept: &Kept, standing: impl Fn(JobId) -> Standing) -> ProgressBoard {
        let bytes = kept.read().await;
        let kept: Vec<(JobId, u8)> = codec::decode_trusted(&bytes).unwrap_or_default();
        let of = |percent: u8| Latest { percent, shown: percent, phase: None };
        let (mut latest, mut failed) = (BTreeMap::new(), VecDeque::new());
        for (job, percent) in kept.into_iter().filter(|(_, percent)| *percent < 100) {
            match standing(job) {
                Standing::Unfinished => {}
                Standing::Failed => failed.push_back(job),
                Standing::Over => continue,
            }
            latest.insert(job, of(percent));
        }
        ProgressBoard { latest: Mutex::new(latest), failed: Mutex::new(failed) }
    }

    fn board(&self) -> MutexGuard<'_, BTreeMap<JobId, Latest>> {
        // A value is replaced whole, so a panic elsewhere leaves no half of it.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps changed percents and then shows them, until it is dropped. That they cannot be kept is said once, not at every
/// try: a full disk stays full for a while.
pub async fn keep(board: Arc<ProgressBoard>, place: Kept) {
    let mut every = tokio::time::interval(place.every());
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut stands_still = false;
    loop {
        every.tick().await;
        let Some(kept) = board.changed() else { continue };
        match place.write(codec::encode(&kept).unwrap_or_default()).await {
            Ok(()) => {
                board.show(&kept);
                if std::mem::take(&mut stands_still) {
                    tracing::info!("progress is kept again");
                }
            }
            Err(_) if stands_still => {}
            Err(error) => {
                stands_still = true;
                tracing::warn!(%error, "progress cannot be kept, and stands still");
            }
        }
    }
}

fn percent(PhaseView { phase, done, total }: PhaseView) -> u8 {
    let between = |from: u32, to: u32| {
        from + (to - from) * done.min(total).min(1 << 16) / total.clamp(1, 1 << 16)
    };
    let percent = match phase {
        Phase::Loading => 0,
        Phase::Encoding => between(0, ENCODED),
        Phase::Denoising => between(ENCODED, DENOISED),
        Phase::Decoding => between(DENOISED, DECODED),
        Phase::Sound => between(DECODED, DECODED + 2),
        Phase::Muxing => between(DECODED + 2, ALMOST),
        // Every stage sends its outputs, so this says nothing of how far the job is.
        Phase::Sending => 0,
    };
    percent.min(ALMOST) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(stage: Stage) -> ShardId {
        ShardId { job: JobId(1), stage, index: 0 }
    }

    #[test]
    fn progress_never_goes_back_and_is_never_100() {
        let board = ProgressBoard::default();
        let job = JobId(1);
        let finish = shard(Stage::Finish);
        let view = |phase, done, total| PhaseView { phase, done, total };
        let shown = |board: &ProgressBoard| board.board().get(&job).map(|latest| latest.percent);
        board.report(finish, view(Phase::Denoising, 3, 4));
        assert_eq!(shown(&board), Some(57));
        board.report(finish, view(Phase::Denoising, 1, 4));
        assert_eq!(shown(&board), Some(57));
        board.report(shard(Stage::Decode), view(Phase::Decoding, 3, 3));
        assert_eq!(shown(&board), Some(85), "others may not have begun");
        board.report(finish, view(Phase::Muxing, u32::MAX, 7));
        assert_eq!(shown(&board), Some(99));
    }

    /// Of a job that was cancelled while its frames were decoded, callers saw more than its steps say.
    #[test]
    fn a_job_that_fails_shows_no_less_than_before() {
        let board = ProgressBoard::default();
        let shown = |board: &ProgressBoard, job| board.board().get(&job).map(|latest| latest.shown);
        for job in (0..=FAILED_MAX as u128).map(JobId) {
            let finish = ShardId { job, stage: Stage::Finish, index: 0 };
            board.report(finish, PhaseView { phase: Phase::Muxing, done: 1, total: 2 });
            board.show(&[(job, 97)]);
            board.failed(job);
            assert_eq!((shown(&board, job), board.changed()), (Some(97), None));
        }
        assert_eq!(shown(&board, JobId(0)), None, "the oldest leaves");
        assert_eq!(shown(&board, JobId(1)), Some(97));
    }

    #[tokio::test]
    async fn what_was_shown_is_there_after_a_kill() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("progress");
        let board = Arc::new(ProgressBoard::default());
        let shown = |board: &ProgressBoard| board.board().get(&JobId(1)).map(|latest| latest.shown);
        board.report(shard(Stage::Finish), PhaseView { phase: Phase::Decoding, done: 1, total: 2 });
        assert_eq!(shown(&board), Some(0), "not before it is kept");
        let kept = Kept::File(file.clone());
        let keeper = tokio::spawn(keep(board.clone(), kept.clone()));
        while shown(&board) == Some(0) {
            tokio::task::yield_now().await;
        }
        keeper.abort();
        let again = ProgressBoard::restore(&kept, |_| Standing::Unfinished).await;
        assert_eq!(shown(&again), Some(85));
        assert_eq!(shown(&ProgressBoard::restore(&kept, |_| Standing::Over).await), None);
        std::fs::write(&file, b"\xff\xff").expect("writes");
        assert_eq!(shown(&ProgressBoard::restore(&kept, |_| Standing::Unfinished).await), None);
    }
}
