//! Times the bare model: one denoising step and the decode of a clip, without queue, link and encoder.
//!
//! Owns the clock that the model code has not. Called by `zoetrope-worker bench` and by the example `bare`, to
//! be held beside `scripts/parity/bench.py`, which times the reference with the same folder and threads.

use crate::engine::{ClipSink, Ended, Engine, EngineError, Frames, Observer};
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::Instant;
use zoetrope_protocol::RenderSpec;
use zoetrope_protocol::wire::Phase;

/// Seconds of each part of a render.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// The prompt, with the load of the text encoder.
    pub encode_s: f64,
    /// From the order to the first step: load, noise, tables, refined text.
    pub prepare_s: f64,
    /// Each denoising step.
    pub steps_s: Vec<f64>,
    /// The median of them.
    pub step_s: f64,
    /// The sound, with the load of its decoder.
    pub sound_s: f64,
    /// The frames, with the load of their decoder.
    pub decode_s: f64,
    /// All of it.
    pub total_s: f64,
    /// Frames that came.
    pub frames: u32,
    /// Samples that came, of each channel.
    pub samples: u64,
}

struct Watch {
    start: Instant,
    marks: Vec<(Phase, u32, f64)>,
    steps: Vec<f64>,
    frames: u32,
    samples: u64,
}

impl Watch {
    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

impl Observer for Watch {
    fn progress(&mut self, phase: Phase, done: u32, _total: u32) -> ControlFlow<()> {
        self.marks.push((phase, done, self.now()));
        ControlFlow::Continue(())
    }

    fn step_done(
        &mut self,
        _step: u32,
        _total: u32,
        _latents: &mut dyn FnMut() -> Result<Vec<u8>, EngineError>,
    ) -> Result<ControlFlow<()>, EngineError> {
        self.steps.push(self.now());
        Ok(ControlFlow::Continue(()))
    }
}

struct Counter {
    start: Instant,
    sound_at: Option<f64>,
    frames: u32,
    samples: u64,
}

impl ClipSink for Counter {
    fn sound(&mut self, samples: &[f32]) -> Result<(), EngineError> {
        self.samples = samples.len() as u64 / 2;
        self.sound_at = Some(self.start.elapsed().as_secs_f64());
        Ok(())
    }

    fn frames(&mut self, frames: Frames<'_>) -> Result<(), EngineError> {
        self.frames += frames.count;
        Ok(())
    }
}

/// Renders `spec` once, throwing the clip away.
///
/// # Errors
/// What the engine answers.
pub fn time(engine: &mut dyn Engine, spec: &RenderSpec) -> Result<Timing, EngineError> {
    let start = Instant::now();
    let mut watch = Watch { start, marks: Vec::new(), steps: Vec::new(), frames: 0, samples: 0 };
    let prompt = engine.encode(spec, &mut watch)?;
    let encoded = watch.now();
    let (ended, latents) = engine.denoise(spec, &prompt, None, &mut watch)?;
    let denoised = watch.now();
    let (Ended::Done, Some(latents)) = (ended, latents) else {
        return Err(EngineError::Failed { stage: "denoise", reason: "stopped unasked".into() });
    };
    let mut sink = Counter { start, sound_at: None, frames: 0, samples: 0 };
    engine.decode(spec, &latents, &mut sink, &mut watch)?;
    let total = watch.now();
    (watch.frames, watch.samples) = (sink.frames, sink.samples);
    let first = watch.marks.iter().find(|(phase, _, _)| *phase == Phase::Denoising);
    let first = first.map_or(encoded, |(_, _, at)| *at);
    let mut previous = first;
    let steps_s: Vec<f64> = watch
        .steps
        .iter()
        .map(|at| std::mem::replace(&mut previous, *at))
        .zip(&watch.steps)
        .map(|(from, to)| to - from)
        .collect();
    let mut sorted = steps_s.clone();
    sorted.sort_by(f64::total_cmp);
    let sound_at = sink.sound_at.unwrap_or(denoised);
    Ok(Timing {
        encode_s: encoded,
        prepare_s: first - encoded,
        step_s: sorted.get(sorted.len() / 2).copied().unwrap_or_default(),
        steps_s,
        sound_s: sound_at - denoised,
        decode_s: total - sound_at,
        total_s: total,
        frames: watch.frames,
        samples: watch.samples,
    })
}
