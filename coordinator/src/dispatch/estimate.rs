//! How long a stage takes: the median of the last attempts of the same model, stage and shape; before there are
//! some, the model's first guess. When a job begins is the core's to say.

use crate::models::Model;
use std::collections::{BTreeMap, VecDeque};
use zoetrope_protocol::clip::ClipShape;
use zoetrope_protocol::id::{Millis, ModelId};
use zoetrope_protocol::job::{RenderSpec, Stage};
use zoetrope_sched::Estimate;

/// Attempts that a median is of: enough to be calm, few enough to follow a new release within the hour.
const SAMPLES: usize = 32;
/// Attempts from which on a median is believed against a single one.
const LEARNED: usize = 20;
/// Shapes that are remembered; more start from the first guess again.
const SHAPES_MAX: usize = 1_024;

type Kind = (ModelId, Stage, ClipShapeKey, u32);
type ClipShapeKey = (u32, u32, u32);

/// Measured times of stages.
#[derive(Debug, Default)]
pub struct Medians {
    samples: BTreeMap<Kind, VecDeque<u64>>,
}

fn kind(model: ModelId, stage: Stage, spec: &RenderSpec) -> Kind {
    let ClipShape { canvas, asked_frames } = spec.shape();
    (model, stage, (canvas.width, canvas.height, asked_frames), spec.steps)
}

impl Medians {
    /// A whole attempt (no resumed one) took so much GPU time.
    pub fn add(&mut self, model: ModelId, stage: Stage, spec: &RenderSpec, gpu: Millis) {
        let kind = kind(model, stage, spec);
        if self.samples.len() >= SHAPES_MAX && !self.samples.contains_key(&kind) {
            self.samples.pop_first();
        }
        let samples = self.samples.entry(kind).or_default();
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(gpu.0);
    }

    /// Expected GPU time of each stage of a job, in the order of the model's chain.
    pub fn expected(&self, model: &Model, spec: &RenderSpec) -> Vec<Millis> {
        let guess = model.expected(spec.shape(), spec.steps);
        let stages = model.chain().into_iter().zip(guess);
        stages.map(|(stage, guess)| self.median(model.id, stage, spec).unwrap_or(guess)).collect()
    }

    /// Whether all of these times are measured well enough that a far quicker attempt is suspect.
    pub fn learned(&self, model: &Model, spec: &RenderSpec) -> bool {
        let of = |stage| self.samples.get(&kind(model.id, stage, spec)).map_or(0, VecDeque::len);
        model.chain().into_iter().all(|stage| of(stage) >= LEARNED)
    }

    fn median(&self, model: ModelId, stage: Stage, spec: &RenderSpec) -> Option<Millis> {
        let samples = self.samples.get(&kind(model, stage, spec))?;
        let mut sorted: Vec<u64> = samples.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).map(|ms| Millis(*ms))
    }
}

/// GPU time that is left of a job: `percent` of it is done.
pub fn left(expected: &[Millis], percent: u8) -> Millis {
    let whole = expected.iter().fold(Millis(0), |sum, one| sum.plus(*one));
    Millis(whole.0 / 100 * u64::from(100 - percent.min(100)))
}

/// When a job ends: as the core says, but for its own work, of which its progress knows more. Of one that began and is
/// not known to the core, or has no workers now, as if nobody else waited.
pub fn end(
    now: Millis,
    known: Option<Estimate>,
    left: Option<Millis>,
    began: bool,
) -> Option<Millis> {
    match (known, left) {
        (Some(known), Some(left)) => Some(known.end.minus(known.work).plus(left).max(now)),
        (Some(known), None) => Some(known.end),
        (None, left) => left.filter(|_| began).map(|left| now.plus(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Models;
    use zoetrope_protocol::clip::Size;

    #[test]
    fn a_median_replaces_the_first_guess() {
        let models = Models::with(&[]).expect("the embedded manifest is right");
        let model = models.default();
        let size = Size { width: 288, height: 512 };
        let spec = RenderSpec {
            model: "toybox".to_owned(),
            prompt: String::new(),
            canvas: size,
            deliver: size,
            frames: 96,
            seed: 1,
            steps: 4,
            audio: true,
        };
        let mut medians = Medians::default();
        assert_eq!(medians.expected(model, &spec), model.expected(spec.shape(), 4));
        for gpu in [900, 100, 500] {
            medians.add(model.id, Stage::Denoise, &spec, Millis(gpu));
        }
        assert_eq!(medians.expected(model, &spec)[1], Millis(500));

        // Believed against a single attempt only where every stage was seen often enough.
        for stage in model.chain() {
            assert!(!medians.learned(model, &spec), "{stage} was not seen");
            (0..LEARNED).for_each(|_| medians.add(model.id, stage, &spec, Millis(500)));
        }
        assert!(medians.learned(model, &spec));
        let longer = RenderSpec { frames: 240, ..spec };
        assert!(!medians.learned(model, &longer), "another shape has times of its own");
    }

    /// Promise: who waits in a backlog is not told that only its own work lies before it.
    #[test]
    fn a_job_ends_when_the_core_says_but_for_what_its_progress_shows() {
        let (now, left) = (Millis(1_000), Some(Millis(40)));
        let known = Estimate { start: now, end: Millis(5_000), work: Millis(100) };
        assert_eq!(end(now, Some(known), left, true), Some(Millis(4_940)));
        assert_eq!(end(now, Some(known), None, true), Some(Millis(5_000)));
        // Nobody there to go on with it.
        assert_eq!(end(now, None, left, true), Some(Millis(1_040)));
        assert_eq!(end(now, None, left, false), None);
    }

    #[test]
    fn half_done_leaves_half() {
        assert_eq!(left(&[Millis(100), Millis(300)], 50), Millis(200));
    }
}
