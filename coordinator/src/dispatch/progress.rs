//! The progress board: the latest word on each running job. Never journalled, never an input of the core.
//!
//! Links write, the dispatch actor reads. Only the newest value counts, so it cannot fill up: one entry for
//! each unfinished job. What it shows of a job never goes back.

use crate::jobs::{JobRow, PhaseView};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use zoetrope_protocol::id::JobId;
use zoetrope_protocol::wire::Phase;

/// Percent at the end of `Encode`.
const ENCODED: u32 = 5;
/// Percent at the end of `Denoise`: it takes most of the time.
const DENOISED: u32 = 75;
/// Percent at the end of decoding frames.
const DECODED: u32 = 95;
/// The most that an unfinished job shows; 100 is for completed ones.
const ALMOST: u32 = 99;

#[derive(Clone, Copy, Debug)]
struct Latest {
    percent: u8,
    phase: Option<PhaseView>,
}

/// The latest progress of all jobs.
#[derive(Debug, Default)]
pub struct ProgressBoard {
    latest: Mutex<BTreeMap<JobId, Latest>>,
}

impl ProgressBoard {
    /// A running attempt reports.
    pub fn report(&self, job: JobId, phase: PhaseView) {
        let percent = percent(phase);
        let mut board = self.board();
        let latest = board.entry(job).or_insert(Latest { percent: 0, phase: None });
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
            Some(latest) => (latest.percent.max(floor), latest.phase),
            None => (floor, None),
        }
    }

    fn board(&self) -> MutexGuard<'_, BTreeMap<JobId, Latest>> {
        // A value is replaced whole, so a panic elsewhere leaves no half of it.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn progress_never_goes_back_and_is_never_100() {
        let board = ProgressBoard::default();
        let job = JobId(1);
        let view = |phase, done, total| PhaseView { phase, done, total };
        let shown = |board: &ProgressBoard| board.board().get(&job).map(|latest| latest.percent);
        board.report(job, view(Phase::Denoising, 3, 4));
        assert_eq!(shown(&board), Some(57));
        board.report(job, view(Phase::Denoising, 1, 4));
        assert_eq!(shown(&board), Some(57));
        board.report(job, view(Phase::Muxing, u32::MAX, 7));
        assert_eq!(shown(&board), Some(99));
    }
}
