//! Times the bare model: one denoising step and the decode of a clip, without queue, link and encoder.
//!
//! Owns the clock that the model code has not. Called by `zoetrope-worker bench`, to be held
//! beside `scripts/parity/bench.py`, which times the reference with the same folder and threads and
//! prints the same names.

use crate::engine::{ClipSink, Ended, Engine, EngineError, Frames, Observer};
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::Instant;
use zoetrope_protocol::RenderSpec;
use zoetrope_protocol::wire::Phase;

/// Seconds of each part of a render: on the clock (`_s`), and of all cores of the process (`_cpu_s`), which
/// says more where other work shares the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// The prompt, with the load of the text encoder.
    pub encode_s: f64,
    /// From the order to the first step: load, noise, tables, refined text.
    pub prepare_s: f64,
    /// One denoising step, the mean of all but the first.
    pub step_s: f64,
    /// The same, of all cores.
    pub step_cpu_s: f64,
    /// All denoising steps.
    pub denoise_s: f64,
    /// The sound, by a decoder that is warm.
    pub sound_s: f64,
    /// The same, of all cores.
    pub sound_cpu_s: f64,
    /// The frames, by a decoder that is warm.
    pub decode_s: f64,
    /// The same, of all cores.
    pub decode_cpu_s: f64,
    /// A whole render, with all loads.
    pub total_s: f64,
    /// Frames that came.
    pub frames: u32,
    /// Samples that came, of each channel.
    pub samples: u64,
}

/// A moment on both clocks.
#[derive(Clone, Copy)]
struct Moment {
    wall_s: f64,
    cpu_s: f64,
}

struct Clock(Instant);

impl Clock {
    fn now(&self) -> Moment {
        Moment { wall_s: self.0.elapsed().as_secs_f64(), cpu_s: cpu_seconds() }
    }
}

/// User and system time of this process, in steps of 10 ms; 0 where there is no `/proc`.
fn cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ, fixed on Linux
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in parentheses, may hold spaces. utime and stime are the 12th and 13th word after it.
    let words = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks = words.skip(11).take(2).filter_map(|word| word.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

struct Watch<'a> {
    clock: &'a Clock,
    begun: Option<Moment>,
    steps: Vec<Moment>,
}

impl Observer for Watch<'_> {
    fn progress(&mut self, phase: Phase, _done: u32, _total: u32) -> ControlFlow<()> {
        if phase == Phase::Denoising {
            self.begun.get_or_insert_with(|| self.clock.now());
        }
        ControlFlow::Continue(())
    }

    fn step_done(
        &mut self,
        _step: u32,
        _total: u32,
        _latents: &mut dyn FnMut() -> Result<Vec<u8>, EngineError>,
    ) -> Result<ControlFlow<()>, EngineError> {
        self.steps.push(self.clock.now());
        Ok(ControlFlow::Continue(()))
    }
}

struct Counter<'a> {
    clock: &'a Clock,
    sounded: Option<Moment>,
    frames: u32,
    samples: u64,
}

impl ClipSink for Counter<'_> {
    fn sound(&mut self, samples: &[f32]) -> Result<(), EngineError> {
        self.samples = samples.len() as u64 / 2;
        self.sounded = Some(self.clock.now());
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
    let clock = Clock(Instant::now());
    let mut watch = Watch { clock: &clock, begun: None, steps: Vec::new() };
    let stopped = |stage| EngineError::Failed { stage, reason: "stopped unasked".into() };
    let prompt = engine.encode(spec, &mut watch)?.ok_or_else(|| stopped("encode"))?;
    let encoded = clock.now();
    let (ended, latents) = engine.denoise(spec, &prompt, None, &mut watch)?;
    let (Ended::Done, Some(latents)) = (ended, latents) else {
        return Err(stopped("denoise"));
    };
    let mut sink = Counter { clock: &clock, sounded: None, frames: 0, samples: 0 };
    engine.decode(spec, &latents, &mut sink, &mut watch)?;
    let total_s = clock.now().wall_s;
    // Once more: the first time loads the decoders and warms up, as the first step does.
    let decoding = clock.now();
    let mut sink = Counter { clock: &clock, sounded: None, frames: 0, samples: 0 };
    engine.decode(spec, &latents, &mut sink, &mut watch)?;
    let end = clock.now();
    let begun = watch.begun.unwrap_or(encoded);
    let sounded = sink.sounded.unwrap_or(decoding);
    // The first step also warms up, unless it is the only one.
    let (from, steps) = match watch.steps.as_slice() {
        [] | [_] => (begun, 1.0),
        [first, rest @ ..] => (*first, rest.len() as f64),
    };
    let last = watch.steps.last().copied().unwrap_or(begun);
    Ok(Timing {
        encode_s: encoded.wall_s,
        prepare_s: begun.wall_s - encoded.wall_s,
        step_s: (last.wall_s - from.wall_s) / steps,
        step_cpu_s: (last.cpu_s - from.cpu_s) / steps,
        denoise_s: last.wall_s - begun.wall_s,
        sound_s: sounded.wall_s - decoding.wall_s,
        sound_cpu_s: sounded.cpu_s - decoding.cpu_s,
        decode_s: end.wall_s - sounded.wall_s,
        decode_cpu_s: end.cpu_s - sounded.cpu_s,
        total_s,
        frames: sink.frames,
        samples: sink.samples,
    })
}
