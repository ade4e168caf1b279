//! `zoetrope-worker render` and `bench`: the bare engine, without a farm.
//!
//! What the benchmark compares with other programs: the same engine as in a farm, on one thread, with a clock around
//! each part; and the same finishing, with `--finish-as-farm` moderation and marks included, so that what a farm takes
//! longer is the farm's.

use super::engines::{Engines, judges};
use super::{BenchArgs, RenderArgs};
use crate::asked::Alarm;
use crate::engine::{Ended, Engine, EngineError, Observer};
use crate::finish::{ClipMarks, FinishedClip, Finisher, TempFolder};
use crate::link::stream::Payload;
use anyhow::{Context, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use zoetrope_mark::MasterKey;
use zoetrope_mark::picture::Strength;
use zoetrope_protocol::clip::{FPS, SECONDS_MAX};
use zoetrope_protocol::mark::{MarkOrder, Visible, pack};
use zoetrope_protocol::model::Manifest;
use zoetrope_protocol::wire::Phase;
use zoetrope_protocol::{ArtifactId, RenderSpec};

/// Tries to remove the files of a render that goes on.
const REMOVALS_MAX: u32 = 20;

/// What a render took and made.
#[derive(Serialize)]
struct Timings {
    model: String,
    size: String,
    frames: u32,
    steps: u32,
    seed: u64,
    encode_ms: u64,
    denoise_ms: u64,
    step_ms: Vec<u64>,
    decode_and_encode_ms: u64,
    close_ms: u64,
    /// What finishing took in its parts, some of them beside each other.
    parts_ms: BTreeMap<&'static str, u64>,
    total_ms: u64,
    clip_bytes: u64,
    clip_sha256: String,
    latents_sha256: String,
    av_gap_micros: u32,
}

struct Clock {
    began: Instant,
    step_ms: Vec<u64>,
    quiet: bool,
}

fn ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Observer for Clock {
    fn progress(&mut self, phase: Phase, done: u32, total: u32) -> ControlFlow<()> {
        if phase == Phase::Denoising && done == 0 {
            self.began = Instant::now();
        }
        if !self.quiet && total > 0 {
            eprint!("\r{phase:?} {done}/{total}        ");
        }
        ControlFlow::Continue(())
    }

    fn step_done(
        &mut self,
        _step: u32,
        _total: u32,
        _latents: &mut dyn FnMut() -> Result<Vec<u8>, EngineError>,
    ) -> Result<ControlFlow<()>, EngineError> {
        self.step_ms.push(ms(self.began));
        self.began = Instant::now();
        Ok(ControlFlow::Continue(()))
    }
}

fn spec(args: &RenderArgs, manifest: &Manifest) -> anyhow::Result<RenderSpec> {
    let size = args.size.as_ref().unwrap_or(&manifest.default_size);
    let canvas = size.parse().with_context(|| format!("--size {size}"))?;
    let default_seconds = manifest.default_seconds.parse().unwrap_or(4);
    let seconds = args.seconds.unwrap_or(default_seconds);
    let frames = args.frames.unwrap_or(seconds.saturating_mul(FPS));
    if frames == 0 || frames > SECONDS_MAX * FPS {
        bail!("--seconds or --frames: 1 to {SECONDS_MAX} seconds, at {FPS} frames each");
    }
    Ok(RenderSpec {
        model: manifest.id.clone(),
        prompt: args.prompt.clone(),
        canvas,
        deliver: canvas,
        frames,
        seed: args.seed,
        steps: args.steps.unwrap_or(manifest.num_inference_steps.default),
        audio: manifest.generate_audio && !args.silent,
    })
}

/// Renders one clip into a file.
pub fn render(args: &RenderArgs) -> anyhow::Result<()> {
    let engines = Engines::new(&args.engine, None)?;
    let Some(manifest) = engines.manifests.first() else { bail!("no model: give --model FOLDER") };
    let spec = spec(args, manifest)?;
    let folder = args.output.parent().filter(|parent| !parent.as_os_str().is_empty());
    let temp = TempFolder::new(folder.unwrap_or(Path::new(".")))?;
    leave_nothing(temp.path.clone())?;
    let judges =
        args.finish_as_farm.then(|| judges(&args.moderation, &Alarm::default())).transpose()?;
    let mark = args.finish_as_farm.then(mark);
    let finisher = engines.finisher(&args.tools, &temp.path, judges)?;
    let mut engine = engines.open(&spec.model)?;
    let mut make = |quiet| make(engine.as_mut(), &finisher, &spec, mark.as_ref(), quiet);
    if args.warm {
        make(true)?;
    }
    let (clip, timings) = make(args.json)?;

    let write = || format!("cannot write {}", args.output.display());
    match &clip.clip.payload {
        Payload::File { path, .. } => {
            std::fs::copy(path, &args.output).map(|_| ()).with_context(write)?;
        }
        Payload::Memory(bytes) => std::fs::write(&args.output, bytes).with_context(write)?,
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&timings)?);
    } else {
        eprintln!("\r{} in {} ms            ", args.output.display(), timings.total_ms);
    }
    Ok(())
}

/// From here on a signal ends the process at once, as it does without this, but without the files on the way.
fn leave_nothing(temp: PathBuf) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = move || {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = terminate.recv() => SignalKind::terminate(),
            }
        });
        // The render goes on meanwhile, and may put a file there.
        for _ in 0..REMOVALS_MAX {
            if std::fs::remove_dir_all(&temp).is_ok() || !temp.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // As a shell says it of a program that a signal has ended.
        std::process::exit(128 + number.as_raw_value());
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}

/// A mark as a farm's coordinator would order it. Nobody can look it up: the key is no farm's.
fn mark() -> MarkOrder {
    let key = MasterKey([0; 32]).epoch(0);
    let tiles = key.tiles(key.mark_of(0));
    let visible = Visible::Name("Zoetrope".into());
    MarkOrder { pixels: pack(&tiles.pixels), sound: pack(&tiles.sound), visible }
}

/// All stages of one clip, with a clock around each.
fn make(
    engine: &mut dyn Engine,
    finisher: &Finisher,
    spec: &RenderSpec,
    mark: Option<&MarkOrder>,
    quiet: bool,
) -> anyhow::Result<(FinishedClip, Timings)> {
    let mut clock = Clock { began: Instant::now(), step_ms: vec![], quiet };
    let total = Instant::now();
    let began = Instant::now();
    let prompt = engine.encode(spec, &mut clock)?.context("the render stopped")?;
    let encode_ms = ms(began);
    let began = Instant::now();
    let (ended, latents) = engine.denoise(spec, &prompt, None, &mut clock)?;
    let denoise_ms = ms(began);
    let (Ended::Done, Some(latents)) = (ended, latents) else { bail!("the render stopped") };
    let began = Instant::now();
    let marks = mark.map(|order| ClipMarks::new(order, Strength::Normal)).transpose()?;
    let mut sink = finisher.begin_with(spec, marks)?;
    engine.decode(spec, &latents, sink.as_mut(), &mut clock)?;
    let decode_and_encode_ms = ms(began);
    let began = Instant::now();
    let clip = sink.close(None)?.scored()?;
    let close_ms = ms(began);
    let total_ms = ms(total);
    let timings = Timings {
        model: spec.model.clone(),
        size: spec.canvas.to_string(),
        frames: spec.frames,
        steps: spec.steps,
        seed: spec.seed,
        encode_ms,
        denoise_ms,
        step_ms: clock.step_ms,
        decode_and_encode_ms,
        close_ms,
        parts_ms: clip.parts.iter().map(|(part, took)| (*part, took.as_millis() as u64)).collect(),
        total_ms,
        clip_bytes: clip.clip.payload.bytes(),
        clip_sha256: clip.clip.artifact.to_string(),
        latents_sha256: ArtifactId::of(&latents).to_string(),
        av_gap_micros: clip.facts.av_gap_micros,
    };
    Ok((clip, timings))
}

/// Times the bare engine.
pub fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let engines = Engines::new(&args.engine, None)?;
    let Some(manifest) = engines.manifests.first() else { bail!("no model: give --model FOLDER") };
    let size = args.size.as_ref().unwrap_or(&manifest.default_size);
    let canvas = size.parse().with_context(|| format!("--size {size}"))?;
    let spec = RenderSpec {
        model: manifest.id.clone(),
        prompt: "a large red rubber ball bounces in the centre, on grass in daylight".into(),
        canvas,
        deliver: canvas,
        frames: args.frames,
        seed: 1,
        steps: args.steps,
        audio: manifest.generate_audio,
    };
    let mut engine = engines.open(&spec.model)?;
    let timing = crate::bare::time(engine.as_mut(), &spec)?;
    println!("{}", serde_json::to_string_pretty(&timing)?);
    Ok(())
}
