//! How often latents are stored on the way: as the operator says, or as often as it costs at most 1 % of the time.
//!
//! Pure: durations come in, numbers of steps go out. Used by the gpu thread's observer alone.

use std::time::Duration;

/// Checkpoints may take a hundredth of the time of the steps: below what a render's time varies by itself.
const STEPS_A_COST: u32 = 100;

/// A checkpoint may be on its way beside the next step if that takes a tenth of the step: a kill meanwhile costs that much
/// more than the one step that it costs anyway.
const WAYS_A_STEP: u32 = 10;

/// What is known of checkpoints of one shape, from one attempt to the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// What the gpu thread spends on one.
    cost: Option<Duration>,
    /// How long the last one was on its way to the store.
    way: Option<Duration>,
}

/// The rhythm of one attempt's checkpoints.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The operator's number of steps; none: by what is measured.
    fixed: Option<u32>,
    /// The step of the last checkpoint, or the one before the attempt's first.
    last: Option<u32>,
    known: Known,
}

impl Pace {
    /// The pace of an order; `known` is of checkpoints of the same shape.
    pub fn new(checkpoint_every: u32, known: Known) -> Self {
        let fixed = (checkpoint_every > 0).then_some(checkpoint_every);
        Pace { fixed, last: None, known }
    }

    /// Whether the worker itself says how often: then no step waits for a checkpoint, and one that is not stored costs no
    /// more than what a kill would.
    pub fn is_own(&self) -> bool {
        self.fixed.is_none()
    }

    /// Whether the step after one that took so long waits until the checkpoint is safe. An operator who names a number wants
    /// it to be the most that is ever redone.
    pub fn waits(&self, took: Duration) -> bool {
        self.fixed.is_some() && self.known.way.is_none_or(|way| way * WAYS_A_STEP > took)
    }

    /// A checkpoint was on its way for so long.
    pub fn arrived(&mut self, way: Duration) {
        self.known.way = Some(way);
    }

    /// Whether a step that took so long is to be stored.
    pub fn due(&mut self, step: u32, took: Duration) -> bool {
        let last = *self.last.get_or_insert(step.saturating_sub(1));
        match self.fixed {
            Some(every) => step.is_multiple_of(every),
            None => step.saturating_sub(last) >= self.every(took),
        }
    }

    /// Steps from one checkpoint to the next; 1 as long as nothing is known.
    fn every(&self, took: Duration) -> u32 {
        let cost = self.known.cost.unwrap_or_default().as_micros() * u128::from(STEPS_A_COST);
        u32::try_from(cost.div_ceil(took.as_micros().max(1))).unwrap_or(u32::MAX).max(1)
    }

    /// A checkpoint was made, and held the gpu thread up for so long.
    pub fn made(&mut self, step: u32, cost: Duration) {
        self.last = Some(step);
        // Half old, half new: one slow answer of the disk does not decide.
        let before = self.known.cost;
        self.known.cost = Some(before.map_or(cost, |before| (before + cost) / 2));
    }

    /// What is known now.
    pub fn known(&self) -> Known {
        self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn of(cost: Duration) -> Known {
        Known { cost: Some(cost), way: None }
    }

    fn stored(pace: &mut Pace, steps: u32, step: Duration, cost: Duration) -> Vec<u32> {
        let mut all = Vec::new();
        for done in 1..=steps {
            if pace.due(done, step) {
                pace.made(done, cost);
                all.push(done);
            }
        }
        all
    }

    /// Promise: checkpoints cost at most 1 % of the steps' time, and every step is stored where that is cheap.
    #[test]
    fn the_pace_follows_from_step_time_and_cost() {
        let mut cheap = Pace::new(0, Known::default());
        assert_eq!(stored(&mut cheap, 4, 1_000 * MS, 10 * MS), [1, 2, 3, 4]);
        let mut dear = Pace::new(0, Known::default());
        // The first says what it costs; then every third: 25 ms of 3 s.
        assert_eq!(stored(&mut dear, 8, 1_000 * MS, 25 * MS), [1, 4, 7]);
        let mut known = Pace::new(0, dear.known());
        assert_eq!(stored(&mut known, 8, 1_000 * MS, 25 * MS), [3, 6]);
        for (step, cost) in [(70, 3), (400, 4), (400, 5), (20_000, 900), (1, 50)] {
            let (step, cost) = (step * MS, cost * MS);
            let count = stored(&mut Pace::new(0, of(cost)), 1_000, step, cost).len() as u32;
            assert!(cost * count * 100 <= step * 1_000, "{count} of {step:?}");
        }
    }

    /// Promise: an operator's number is kept, whatever it costs, from whatever step an attempt goes on.
    #[test]
    fn an_operators_number_is_kept() {
        let mut pace = Pace::new(2, Known::default());
        assert!(pace.waits(1_000 * MS), "nothing is known of the way");
        pace.arrived(100 * MS);
        assert!(!pace.waits(1_000 * MS), "what a kill costs more is a tenth of a step");
        assert!(pace.waits(999 * MS));
        pace.arrived(101 * MS);
        assert!(pace.waits(1_000 * MS), "the way became longer");
        let mut next = Pace::new(1, pace.known());
        assert!(next.waits(1_000 * MS) && !next.waits(1_010 * MS), "the next attempt knows it");
        next.arrived(MS);
        assert!(!next.waits(10 * MS));
        assert!(!Pace::new(0, Known::default()).waits(MS), "its pace is its worker's own");
        assert_eq!(stored(&mut pace, 5, MS, 1_000 * MS), [2, 4]);
        let mut resumed = Pace::new(0, of(20 * MS));
        assert!(!resumed.due(6, 1_000 * MS), "one step after the latents that it began from");
        assert!(resumed.due(7, 1_000 * MS));
    }
}
