//! The progress board: the latest word on each running job. Never journalled, never an input of the core.
//!
//! Links write, the dispatch actor reads. Only the newest value counts, so it cannot fill up: one entry for
//! each unfinished job. What it shows of a job never goes back, not even when the coordinator is killed: a
//! percent is shown once it is in a small file beside the journal. The file is not synced, so after a loss of
//! power the steps in the store are the floor; it decides nothing, so losing it harms nobody else.

use crate::jobs::{JobRow, PhaseView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{JobId, ShardId};
use zoetrope_protocol::job::Stage;
use zoetrope_protocol::wire::Phase;

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
/// How often changed percents are written: callers poll about once a second. 10,000 running jobs take 180 KB.
const KEEP_EVERY: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug)]
struct Latest {
    percent: u8,
    /// As much of it as is in the file.
    shown: u8,
    phase: Option<PhaseView>,
}

/// The latest progress of all jobs.
#[derive(Debug, Default)]
pub struct ProgressBoard {
    latest: Mutex<BTreeMap<JobId, Latest>>,
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

    /// The job ended.
    pub fn forget(&self, job: JobId) {
        self.board().remove(&job);
    }

    /// Percent and phase of an unfinished job. After a restart the steps in the store are the floor.
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

    /// The board of the last run, as far as `file` has it; an empty one if it is not there or not whole.
    pub fn restore(file: &Path, unfinished: impl Fn(JobId) -> bool) -> ProgressBoard {
        let bytes = std::fs::read(file).unwrap_or_default();
        let kept: Vec<(JobId, u8)> = codec::decode_trusted(&bytes).unwrap_or_default();
        let of = |percent: u8| Latest { percent, shown: percent, phase: None };
        let kept = kept.into_iter().filter(|(job, percent)| *percent < 100 && unfinished(*job));
        ProgressBoard { latest: Mutex::new(kept.map(|(job, p)| (job, of(p))).collect()) }
    }

    fn board(&self) -> MutexGuard<'_, BTreeMap<JobId, Latest>> {
        // A value is replaced whole, so a panic elsewhere leaves no half of it.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes changed percents to `file` and then shows them, until it is dropped.
pub async fn keep(board: Arc<ProgressBoard>, file: PathBuf) {
    let mut every = tokio::time::interval(KEEP_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        every.tick().await;
        let Some(kept) = board.changed() else { continue };
        let (target, draft) = (file.clone(), file.with_extension("draft"));
        let bytes = codec::encode(&kept).unwrap_or_default();
        let write =
            move || std::fs::write(&draft, bytes).and_then(|()| std::fs::rename(&draft, &target));
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => board.show(&kept),
            failed => tracing::warn!(?failed, "progress cannot be kept, and stands still"),
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

    #[tokio::test]
    async fn what_was_shown_is_there_after_a_kill() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("progress");
        let board = Arc::new(ProgressBoard::default());
        let shown = |board: &ProgressBoard| board.board().get(&JobId(1)).map(|latest| latest.shown);
        board.report(shard(Stage::Finish), PhaseView { phase: Phase::Decoding, done: 1, total: 2 });
        assert_eq!(shown(&board), Some(0), "not before it is kept");
        let keeper = tokio::spawn(keep(board.clone(), file.clone()));
        while shown(&board) == Some(0) {
            tokio::task::yield_now().await;
        }
        keeper.abort();
        let again = ProgressBoard::restore(&file, |_| true);
        assert_eq!(shown(&again), Some(85));
        assert_eq!(shown(&ProgressBoard::restore(&file, |_| false)), None);
        std::fs::write(&file, b"\xff\xff").expect("writes");
        assert_eq!(shown(&ProgressBoard::restore(&file, |_| true)), None);
    }
}
