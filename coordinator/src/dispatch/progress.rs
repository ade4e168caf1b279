//! The progress board: the latest word on each running job. Never journalled, never an input of the core.
//!
//! Links write, the dispatch actor reads, and says which attempts run: what others report is nobody's, for a link may
//! have something to say after the end. Only the newest value counts, so it cannot fill up: one entry for
//! each job that began, and for the last ones that failed. What it shows of a job never goes back, not even when the
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
use zoetrope_protocol::id::JobId;
use zoetrope_protocol::job::Stage;
use zoetrope_protocol::wire::{Held, Phase};
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

#[derive(Clone, Debug, Default)]
struct Latest {
    percent: u8,
    /// What callers see: as much of it as is in the file.
    shown: u8,
    /// What is in the file.
    kept: u8,
    /// The job failed: what is shown stays.
    over: bool,
    /// What was reported last; none if nothing was since an attempt ended.
    phase: Option<PhaseView>,
    /// The attempts that run, the newest last: several of a decode that is spread, else one.
    running: Vec<Held>,
}

impl Latest {
    /// What is being done. Whatever a worker does first, it gets ready for it.
    fn doing(&self) -> Option<PhaseView> {
        let stage = self.running.last()?.shard.stage;
        let ready = PhaseView { stage, phase: Phase::Loading, done: 0, total: 1 };
        Some(self.phase.unwrap_or(ready))
    }
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
    /// An attempt runs, or goes on under another fence.
    pub fn begin(&self, held: Held) {
        let mut board = self.board();
        let latest = board.entry(held.shard.job).or_default();
        if latest.over {
            return;
        }
        latest.running.retain(|other| other.shard != held.shard);
        latest.running.push(held);
    }

    /// An attempt reports. One that does not run any more is not believed: its job may have ended.
    pub fn report(&self, held: Held, phase: PhaseView) {
        let percent = match held.shard.stage {
            // One of several: how far they all are, no single one says.
            Stage::Decode => percent(phase).min(SPREAD),
            _ => percent(phase),
        };
        let mut board = self.board();
        let latest = board.get_mut(&held.shard.job);
        let Some(latest) = latest.filter(|latest| latest.running.contains(&held)) else { return };
        latest.percent = latest.percent.max(percent);
        latest.phase = Some(phase);
    }

    /// The attempt ended: it does nothing any more, the percent stays.
    pub fn end(&self, held: Held) {
        if let Some(latest) = self.board().get_mut(&held.shard.job) {
            latest.running.retain(|other| other.shard != held.shard);
            latest.phase = None;
        }
    }

    /// The job is completed: all know how far it is.
    pub fn forget(&self, job: JobId) {
        self.board().remove(&job);
    }

    /// The job failed: what was shown of it stays, and nothing is added. Said twice is as good as once.
    pub fn failed(&self, job: JobId) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut board = self.board();
        let Some(latest) = board.get_mut(&job).filter(|latest| !latest.over) else { return };
        let Latest { shown, kept, .. } = *latest;
        *latest = Latest { percent: shown, shown, kept, over: true, ..Latest::default() };
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
            stage: Stage::Denoise,
            phase: Phase::Denoising,
            done: row.steps_done,
            total: row.spec.render.steps,
        };
        let floor = if row.steps_done == 0 { 0 } else { percent(steps) };
        match self.board().get(&row.job) {
            Some(latest) => (latest.shown.max(floor), latest.doing()),
            None => (floor, None),
        }
    }

    /// All percents, if the file has others.
    fn changed(&self) -> Option<Vec<(JobId, u8)>> {
        let board = self.board();
        let changed = board.values().any(|latest| latest.percent != latest.kept);
        changed.then(|| board.iter().map(|(job, latest)| (*job, latest.percent)).collect())
    }

    /// These percents are in the file now.
    fn show(&self, kept: &[(JobId, u8)]) {
        let mut board = self.board();
        for (job, percent) in kept {
            if let Some(latest) = board.get_mut(job) {
                latest.kept = *percent;
                if !latest.over {
                    latest.shown = latest.shown.max(*percent);
                }
            }
        }
    }

    /// The board of the last run, as far as it was kept; an empty one if it is not there or not whole.
    pub async fn restore(kept: &Kept, standing: impl Fn(JobId) -> Standing) -> ProgressBoard {
        let bytes = kept.read().await;
        let kept: Vec<(JobId, u8)> = codec::decode_trusted(&bytes).unwrap_or_default();
        let of = |percent: u8, over: bool| {
            let running = Vec::new();
            Latest { percent, shown: percent, kept: percent, over, phase: None, running }
        };
        let (mut latest, mut failed) = (BTreeMap::new(), VecDeque::new());
        for (job, percent) in kept.into_iter().filter(|(_, percent)| *percent < 100) {
            let over = match standing(job) {
                Standing::Unfinished => false,
                Standing::Failed => true,
                Standing::Over => continue,
            };
            if over {
                failed.push_back(job);
            }
            latest.insert(job, of(percent, over));
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

fn percent(PhaseView { phase, done, total, .. }: PhaseView) -> u8 {
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
    use zoetrope_protocol::id::{AttemptNumber, Epoch, Fence, ShardId};

    fn attempt(job: u128, stage: Stage, number: u32) -> Held {
        let fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(number) };
        Held { shard: ShardId { job: JobId(job), stage, index: 0 }, fence }
    }

    fn view(phase: Phase, done: u32, total: u32) -> PhaseView {
        PhaseView { stage: Stage::Finish, phase, done, total }
    }

    /// A first attempt that has begun.
    fn begun(board: &ProgressBoard, job: u128, stage: Stage) -> Held {
        let held = attempt(job, stage, 1);
        board.begin(held);
        held
    }

    #[test]
    fn progress_never_goes_back_and_is_never_100() {
        let board = ProgressBoard::default();
        let job = JobId(1);
        let finish = begun(&board, 1, Stage::Finish);
        let shown = |board: &ProgressBoard| board.board().get(&job).map(|latest| latest.percent);
        board.report(finish, view(Phase::Denoising, 3, 4));
        assert_eq!(shown(&board), Some(57));
        board.report(finish, view(Phase::Denoising, 1, 4));
        assert_eq!(shown(&board), Some(57));
        let decode = begun(&board, 1, Stage::Decode);
        board.report(decode, view(Phase::Decoding, 3, 3));
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
            let finish = begun(&board, job.0, Stage::Finish);
            board.report(finish, view(Phase::Muxing, 1, 2));
            board.show(&[(job, 97)]);
            board.failed(job);
            assert_eq!((shown(&board, job), board.changed()), (Some(97), None));
        }
        assert_eq!(shown(&board, JobId(0)), None, "the oldest leaves");
        assert_eq!(shown(&board, JobId(1)), Some(97));
    }

    /// A link keeps the fence of an attempt that was told to stop, and its worker goes on until it hears of it.
    #[test]
    fn what_is_reported_of_an_attempt_that_ended_changes_nothing() {
        let board = ProgressBoard::default();
        let percent = |job| board.board().get(&JobId(job)).map(|latest| latest.percent);
        let late = view(Phase::Muxing, 1, 2);
        for job in [1, 2, 3] {
            let held = begun(&board, job, Stage::Finish);
            board.report(held, view(Phase::Decoding, 1, 2));
            board.end(held);
        }
        board.show(&[(JobId(1), 85)]);
        board.failed(JobId(1));
        board.forget(JobId(2));
        board.begin(attempt(1, Stage::Finish, 1));
        for job in [1, 2, 3] {
            board.report(attempt(job, Stage::Finish, 1), late);
        }
        assert_eq!([percent(1), percent(2), percent(3)], [Some(85), None, Some(85)]);
        assert!(board.changed().is_some_and(|kept| !kept.contains(&(JobId(2), 98))));
        board.report(attempt(4, Stage::Finish, 1), late);
        assert_eq!(percent(4), None, "nobody would take it away");
        // The next attempt is believed, the one before is not.
        board.begin(attempt(3, Stage::Finish, 2));
        board.report(attempt(3, Stage::Finish, 1), late);
        assert_eq!(percent(3), Some(85));
        board.report(attempt(3, Stage::Finish, 2), late);
        assert_eq!(percent(3), Some(98));
    }

    /// The answer to a cancel shows a percent; what is being written meanwhile must not be shown later.
    #[test]
    fn what_is_kept_behind_the_end_of_a_job_is_not_shown() {
        let board = ProgressBoard::default();
        let held = begun(&board, 1, Stage::Finish);
        board.report(held, view(Phase::Decoding, 1, 2));
        let kept = board.changed().expect("it is not kept yet");
        board.failed(JobId(1));
        board.show(&kept);
        let shown = || board.board().get(&JobId(1)).map(|latest| latest.shown);
        assert_eq!(shown(), Some(0));
        // Nor after a restart.
        let again = board.changed().expect("the file says more");
        assert_eq!(again, [(JobId(1), 0)]);
        board.show(&again);
        board.failed(JobId(1));
        assert_eq!((shown(), board.changed()), (Some(0), None));
    }

    /// 5.4: a stage is shown unless the job waits for a worker.
    #[test]
    fn an_attempt_does_something_from_its_beginning_to_its_end() {
        let board = ProgressBoard::default();
        let doing = || board.board().get(&JobId(1)).and_then(Latest::doing);
        let stage = || doing().map(|view| (view.stage, view.phase));
        let finish = begun(&board, 1, Stage::Finish);
        assert_eq!(stage(), Some((Stage::Finish, Phase::Loading)));
        board.report(finish, view(Phase::Sound, 0, 1));
        assert_eq!(stage(), Some((Stage::Finish, Phase::Sound)));
        board.end(finish);
        assert_eq!(stage(), None);
    }

    #[tokio::test]
    async fn what_was_shown_is_there_after_a_kill() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("progress");
        let board = Arc::new(ProgressBoard::default());
        let shown = |board: &ProgressBoard| board.board().get(&JobId(1)).map(|latest| latest.shown);
        let finish = begun(&board, 1, Stage::Finish);
        board.report(finish, view(Phase::Decoding, 1, 2));
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
