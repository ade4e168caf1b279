//! Holds the Rust H3 beside the published Python packages: same weights, same inputs, same outputs.
//!
//! The golden files are made by `scripts/parity/make.py`. Errors are the largest difference over the largest
//! absolute value of the reference: at most 1e-4 a module and 1e-3 a whole render in f32, 2e-2 with bf16 blocks.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use zoetrope_protocol::clip::chunk_range;
use zoetrope_protocol::wire::Phase;
use zoetrope_protocol::{ArtifactId, RenderSpec, Size};
use zoetrope_worker::engine::{
    ClipSink, Ended, Engine, EngineError, Frames, Observer, Piece, render_digest,
};
use zoetrope_worker::model::artifact::Bundle;
use zoetrope_worker::model::h3::H3Engine;
use zoetrope_worker::model::h3::audio_vae::{self, AudioVae};
use zoetrope_worker::model::h3::config::{self, Config};
use zoetrope_worker::model::h3::flow::sigmas;
use zoetrope_worker::model::h3::layout::Layout;
use zoetrope_worker::model::h3::text::{self, TextEncoder};
use zoetrope_worker::model::h3::transformer::Transformer;
use zoetrope_worker::model::h3::video_vae::{self, Tiling, VideoVae};
use zoetrope_worker::model::weights::{Key, Precision, Weights, Width};

const MODULE: f64 = 1e-4;
const RENDER: f64 = 1e-3;
const NARROW: f64 = 2e-2;
/// What the engine is told of its weights: anything will do.
const WEIGHTS: ArtifactId = ArtifactId([7; 32]);
const TILES: Tiling = Tiling::Tiles { side: 48, overlap: 16 };

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

fn tiny() -> PathBuf {
    golden().join("h3-tiny")
}

/// The tensors of a golden file.
struct Golden(Bundle);

impl Golden {
    fn open(name: &str) -> Self {
        let path = golden().join(format!("h3-{name}.safetensors"));
        Golden(Bundle::from_bytes(&std::fs::read(path).unwrap()).unwrap())
    }

    fn take<const N: usize>(&mut self, name: &str) -> Tensor {
        self.0.remove(name, &[-1; N]).unwrap()
    }
}

/// Largest difference over the largest absolute value of the reference.
fn error(ours: &Tensor, reference: &Tensor) -> f64 {
    assert_eq!(ours.size(), reference.size());
    let (ours, reference) = (ours.to_kind(Kind::Double), reference.to_kind(Kind::Double));
    let difference = (ours - &reference).abs().max().double_value(&[]);
    difference / reference.abs().max().double_value(&[])
}

#[track_caller]
fn assert_close(what: &str, ours: &Tensor, reference: &Tensor, limit: f64) {
    let error = error(ours, reference);
    println!("{what}: error {error:.1e}, limit {limit:.0e}");
    assert!(error <= limit, "{what}: error {error:.1e} is over {limit:.0e}");
}

fn weights(part: &str, precision: Precision, widths: fn(&str) -> Width) -> Weights {
    Weights::open(&tiny().join(part), Device::Cpu, precision, widths).unwrap()
}

fn tiny_config() -> Config {
    Config::read(&tiny()).unwrap()
}

fn limit(precision: Precision, full: f64) -> f64 {
    if precision == Precision::Full { full } else { NARROW }
}

/// The pictures of the golden files have every third row and fifth column.
fn sparse(frames: &Tensor) -> Tensor {
    frames.slice(2, None, None, 3).slice(3, None, None, 5)
}

#[test]
fn the_text_path_conditions_as_the_reference() {
    let mut golden = Golden::open("render");
    let tokenizer = text::read_tokenizer(&tiny()).unwrap();
    let tokens = text::tokenize(&tokenizer, &spec().prompt).unwrap();
    assert_eq!(tokens, Vec::<i64>::try_from(golden.take::<1>("ids")).unwrap());
    let reference = golden.take::<2>("text");
    for precision in [Precision::Full, Precision::Mixed] {
        let weights = weights("text_encoder", precision, config::text_width);
        let encoder = TextEncoder::load(weights, &tiny_config().text, Device::Cpu).unwrap();
        let ours = encoder.forward(&tokens).unwrap();
        assert_close(&format!("text {precision:?}"), &ours, &reference, limit(precision, MODULE));
    }
}

#[test]
fn rows_sit_where_the_reference_puts_them() {
    let mut golden = Golden::open("render");
    let tokens = golden.take::<1>("ids").size()[0] as u32;
    let layout = Layout::new(spec().shape(), tokens);
    let ours = Tensor::from_slice(layout.positions.as_flattened()).reshape([-1, 3]);
    assert!(ours.equal(&golden.take::<2>("positions")), "equal to the last bit");
}

#[test]
fn both_sigma_grids_are_those_of_the_reference() {
    let mut golden = Golden::open("render");
    for (name, shift) in [("sigmas_video", 12.0), ("sigmas_audio", 3.0)] {
        let reference = Vec::<f32>::try_from(golden.take::<1>(name)).unwrap();
        assert_eq!(sigmas(spec().steps, shift), reference, "{name}");
    }
}

#[test]
fn one_forward_gives_the_velocities_of_the_reference() {
    let mut golden = Golden::open("render");
    let [text, video, audio, to_video, to_audio] =
        ["text", "start_video", "start_audio", "velocity_video", "velocity_audio"]
            .map(|name| golden.take::<2>(name));
    for precision in [Precision::Full, Precision::Mixed] {
        let weights = weights("transformer", precision, config::transformer_width);
        let net = Transformer::load(weights, &tiny_config().transformer, Device::Cpu).unwrap();
        let layout = Layout::new(spec().shape(), text.size()[0] as u32);
        let prepared = net.prepare(&text, layout).unwrap();
        let tables = net.tables(&[[0.25, 0.625]]).unwrap();
        let ours = net.forward(&video, &audio, &tables[0], &prepared).unwrap();
        let limit = limit(precision, MODULE);
        assert_close(&format!("video velocity {precision:?}"), &ours.0, &to_video, limit);
        assert_close(&format!("audio velocity {precision:?}"), &ours.1, &to_audio, limit);
    }
}

/// All frames of a latent clip, decoded as the engine does it.
fn decode(vae: &VideoVae, latents: &Tensor, tiling: Tiling) -> Tensor {
    let latents = vae.denormalise(latents).unwrap();
    let chunks = (latents.size()[1] - 2) / 5;
    let mut frames: Vec<Tensor> = Vec::new();
    let mut before = None;
    for index in 0..chunks as u32 {
        let chunk = VideoVae::chunk_latents(&latents, index).unwrap();
        let (added, shared) = vae.decode_chunk(&chunk, tiling).unwrap();
        if let Some(before) = &before {
            VideoVae::cross_fade(before, &added).unwrap();
        }
        frames.push(added);
        before = Some(shared);
    }
    frames.extend(before);
    Tensor::cat(&frames, 1)
}

#[test]
fn pictures_decode_as_the_reference_whole_and_tiled_in_one_chunk_and_three() {
    for precision in [Precision::Full, Precision::Mixed] {
        let mut golden = Golden::open("pictures");
        let weights = weights("vae", precision, config::video_vae_width);
        let vae = VideoVae::load(weights, &tiny_config().video_vae, Device::Cpu).unwrap();
        for chunks in [1, 3] {
            let latents = golden.take::<4>(&format!("latents{chunks}"));
            for (word, tiling) in [("whole", Tiling::Whole), ("tiled", TILES)] {
                let ours = sparse(&decode(&vae, &latents, tiling));
                let reference = golden.take::<4>(&format!("{word}{chunks}"));
                let what = format!("{word}, {chunks} chunks, {precision:?}");
                assert_close(&what, &ours, &reference, limit(precision, MODULE));
            }
        }
    }
}

#[test]
fn sound_decodes_as_the_reference() {
    let mut golden = Golden::open("sound");
    let latents = golden.take::<3>("latents");
    let weights = weights("audio_vae", Precision::Mixed, config::audio_vae_width);
    let vae = AudioVae::load(weights, &tiny_config().audio_vae, Device::Cpu).unwrap();
    let ours = vae.decode(&vae.denormalise(&latents).unwrap()).unwrap();
    assert_close("sound", &ours, &golden.take::<2>("samples"), MODULE);
}

fn spec() -> RenderSpec {
    RenderSpec {
        model: "h3-tiny".into(),
        prompt: "a large red ball bounces on the grass at midnight .".into(),
        canvas: Size { width: 96, height: 64 },
        deliver: Size { width: 96, height: 64 },
        frames: 56,
        seed: 5,
        steps: 8,
        audio: true,
    }
}

/// Keeps all that an engine says; stops after a step if asked to.
#[derive(Default)]
struct Keep {
    stop_after: Option<u32>,
    latents: Vec<Vec<u8>>,
    phases: Vec<(Phase, u32, u32)>,
    rgb: Vec<u8>,
    samples: Vec<f32>,
}

impl Observer for Keep {
    fn progress(&mut self, phase: Phase, done: u32, total: u32) -> ControlFlow<()> {
        self.phases.push((phase, done, total));
        ControlFlow::Continue(())
    }

    fn step_done(
        &mut self,
        step: u32,
        _total: u32,
        latents: &mut dyn FnMut() -> Result<Vec<u8>, EngineError>,
    ) -> Result<ControlFlow<()>, EngineError> {
        self.latents.push(latents()?);
        let stop = self.stop_after == Some(step);
        Ok(if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

impl ClipSink for Keep {
    fn sound(&mut self, samples: &[f32]) -> Result<(), EngineError> {
        assert!(self.rgb.is_empty(), "the sound comes first");
        self.samples.extend(samples);
        Ok(())
    }

    fn frames(&mut self, frames: Frames<'_>) -> Result<(), EngineError> {
        assert!(frames.count <= 17, "at most one chunk at a time");
        self.rgb.extend(frames.rgb);
        Ok(())
    }
}

fn engine(precision: Precision) -> H3Engine {
    H3Engine::open_with(&tiny(), WEIGHTS, Device::Cpu, 1, precision, TILES).unwrap()
}

/// A latents artifact of step 0 that holds the reference's noise, so that both start alike.
fn start(golden: &mut Golden, spec: &RenderSpec) -> Vec<u8> {
    let mut bundle = Bundle::default();
    let digest = render_digest(spec, WEIGHTS).to_string();
    let steps = spec.steps.to_string();
    for (key, value) in [("kind", "latents"), ("spec", &digest), ("step", "0"), ("steps", &steps)] {
        bundle.about.insert(key.into(), value.into());
    }
    bundle.insert("video", golden.take::<2>("start_video"));
    bundle.insert("audio", golden.take::<2>("start_audio"));
    bundle.to_bytes().unwrap()
}

/// Renders the golden prompt from the golden noise and compares all that comes out.
fn compare_render(precision: Precision, limit: f64) {
    let mut golden = Golden::open("render");
    let (mut engine, mut keep) = (engine(precision), Keep::default());
    let prompt = engine.encode(&spec(), &mut keep).unwrap().unwrap();
    let noise = start(&mut golden, &spec());
    let (ended, bytes) = engine.denoise(&spec(), &prompt, Some(&noise), &mut keep).unwrap();
    assert_eq!(ended, Ended::Done);
    let bytes = bytes.unwrap();
    assert_eq!(keep.latents.last(), Some(&bytes), "the last step's artifact is the result");
    let mut end = Bundle::from_bytes(&bytes).unwrap();
    for (name, reference) in [("video", "end_video"), ("audio", "end_audio")] {
        let ours = end.remove(name, &[-1, -1]).unwrap();
        let what = format!("{name} latents after 8 steps, {precision:?}");
        assert_close(&what, &ours, &golden.take::<2>(reference), limit);
    }
    let mut clip = Keep::default();
    engine.decode(&spec(), &bytes, &mut clip, &mut keep).unwrap();
    let samples = Tensor::from_slice(&clip.samples).reshape([-1, 2]).transpose(0, 1);
    let reference = golden.take::<2>("samples");
    // 56 frames are 93 1/3 sound latents: a third of a latent at the end is silence.
    let made = reference.size()[1];
    let silence = samples.narrow(1, made, samples.size()[1] - made);
    assert_eq!((silence.size()[1], silence.abs().max().double_value(&[])), (266, 0.0));
    let samples = samples.narrow(1, 0, made);
    // Random weights make the sound decoder, which is f32 in both, magnify what bf16 did to its input: measured 0.18 at the
    // furthest sample, 0.013 by root mean square. Another processor rounds in another order.
    let limit_sound = if precision == Precision::Full { limit } else { 0.5 };
    assert_close(&format!("samples, {precision:?}"), &samples, &reference, limit_sound);
    let usual = |x: &Tensor| x.square().mean(Kind::Double).sqrt().double_value(&[]);
    let away = usual(&(&samples - &reference)) / usual(&reference);
    println!("samples, {precision:?}: {away:.1e} away by root mean square");
    assert!(away <= if precision == Precision::Full { limit } else { 0.05 }, "{away}");
    let rgb = Tensor::from_slice(&clip.rgb).reshape([56, 64, 96, 3]).permute([3, 0, 1, 2]);
    let pixels = |values: [f32; 3]| Tensor::from_slice(&values).reshape([3, 1, 1, 1]);
    let frames = golden.take::<4>("frames");
    let scale = 0.229 * 255.0 * frames.abs().max().double_value(&[]);
    let reference = frames * pixels([0.229, 0.224, 0.225]) + pixels([0.485, 0.456, 0.406]);
    let reference = reference.clamp(0.0, 1.0) * 255.0;
    let away = (sparse(&rgb).to_kind(Kind::Float) - reference).abs();
    let (furthest, mean_square) = (away.max(), away.square().mean(Kind::Double));
    let (furthest, usual) = (furthest.double_value(&[]), mean_square.sqrt().double_value(&[]));
    println!(
        "pixels, {precision:?}: {furthest:.3} of 255, root mean square {usual:.3}, scale {scale:.0}"
    );
    // Rounding alone is 0.29 by root mean square. Another processor rounds bf16 in another order, and random weights magnify
    // that in single pixels (under 12 levels on one, 16 on another): all of them together say more.
    assert!(usual <= 0.5 + limit * scale / 10.0, "pixels are {usual} of 255 away");
    let magnified = if precision == Precision::Full { 1.0 } else { 4.0 };
    assert!(furthest <= 0.5 + magnified * limit * scale, "a pixel is {furthest} of 255 away");
}

#[test]
fn a_whole_render_gives_the_frames_and_samples_of_the_reference() {
    compare_render(Precision::Full, RENDER);
}

#[test]
fn a_whole_render_with_bf16_blocks_stays_close() {
    compare_render(Precision::Mixed, NARROW);
}

#[test]
fn resuming_at_any_step_gives_the_same_bytes() {
    let (mut engine, mut whole) = (engine(Precision::Mixed), Keep::default());
    let spec = RenderSpec { frames: 22, steps: 4, ..spec() };
    let prompt = engine.encode(&spec, &mut whole).unwrap().unwrap();
    let (_, last) = engine.denoise(&spec, &prompt, None, &mut whole).unwrap();
    assert_eq!(whole.latents.len(), 4);
    for step in 1..=4 {
        let mut part = Keep { stop_after: Some(step), ..Keep::default() };
        let (ended, none) = engine.denoise(&spec, &prompt, None, &mut part).unwrap();
        assert_eq!((ended, none), (Ended::Stopped, None));
        assert_eq!(part.latents.last(), whole.latents.get(step as usize - 1));
        // Another process, another engine.
        let mut other = self::engine(Precision::Mixed);
        let latents = part.latents.last().map(Vec::as_slice);
        let (ended, bytes) = other.denoise(&spec, &prompt, latents, &mut Keep::default()).unwrap();
        assert_eq!((ended, &bytes), (Ended::Done, &last), "resumed at step {step}");
    }
}

#[test]
fn artifacts_of_another_render_are_bad_input() {
    let (mut engine, mut keep) = (engine(Precision::Mixed), Keep::default());
    let spec = RenderSpec { frames: 22, steps: 2, ..spec() };
    let prompt = engine.encode(&spec, &mut keep).unwrap().unwrap();
    let (_, latents) = engine.denoise(&spec, &prompt, None, &mut keep).unwrap();
    let latents = latents.unwrap();
    let first = keep.latents[0].clone();
    let bad = |answer: Result<(), EngineError>| {
        assert!(matches!(answer, Err(EngineError::BadInput(_))), "{answer:?}");
    };
    let (keep, sink) = (&mut Keep::default(), &mut Keep::default());
    let other = RenderSpec { seed: 6, ..spec.clone() };
    bad(engine.decode(&other, &latents, sink, keep).map(drop));
    bad(engine.decode(&spec, &first, sink, keep).map(drop));
    bad(engine.decode(&spec, &prompt, sink, keep).map(drop));
    bad(engine.decode(&spec, &latents[..latents.len() - 4], sink, keep).map(drop));
    bad(engine.denoise(&other, &prompt, Some(&latents), keep).map(drop));
    bad(engine.denoise(&spec, &latents, None, keep).map(drop));
    let asked = RenderSpec { prompt: "another".into(), ..spec.clone() };
    bad(engine.denoise(&asked, &prompt, None, keep).map(drop));
    let canvas = RenderSpec { canvas: Size { width: 90, height: 64 }, ..spec.clone() };
    bad(engine.denoise(&canvas, &prompt, None, keep).map(drop));
    let mut retrained =
        H3Engine::open_with(&tiny(), ArtifactId([8; 32]), Device::Cpu, 1, Precision::Full, TILES)
            .unwrap();
    bad(retrained.decode(&spec, &latents, sink, keep).map(drop));
    bad(retrained.denoise(&spec, &prompt, None, keep).map(drop));
    bad(engine.encode(&RenderSpec { prompt: String::new(), ..spec }, keep).map(drop));
    assert!(sink.rgb.is_empty() && sink.samples.is_empty());
}

#[test]
fn clips_are_trimmed_to_what_was_asked() {
    let (mut engine, mut keep) = (engine(Precision::Mixed), Keep::default());
    for (frames, audio) in [(1, true), (22, true), (24, false), (40, true)] {
        let spec = RenderSpec { frames, audio, steps: 1, ..spec() };
        let prompt = engine.encode(&spec, &mut keep).unwrap().unwrap();
        let (_, latents) = engine.denoise(&spec, &prompt, None, &mut keep).unwrap();
        let mut clip = Keep::default();
        engine.decode(&spec, &latents.unwrap(), &mut clip, &mut keep).unwrap();
        assert_eq!(clip.rgb.len(), frames as usize * 64 * 96 * 3);
        let samples = if audio { 2 * spec.shape().asked_samples() as usize } else { 0 };
        assert_eq!(clip.samples.len(), samples, "{frames} frames");
    }
}

/// Promise: the decode of one clip on several workers has the bytes of one.
#[test]
fn pieces_have_the_frames_of_the_whole() {
    let (mut engine, mut keep) = (engine(Precision::Mixed), Keep::default());
    // Five chunks, the last one cut short.
    let spec = RenderSpec { frames: 80, audio: true, steps: 1, ..spec() };
    let prompt = engine.encode(&spec, &mut keep).unwrap().unwrap();
    let (_, latents) = engine.denoise(&spec, &prompt, None, &mut keep).unwrap();
    let latents = latents.unwrap();
    let mut whole = Keep::default();
    engine.decode(&spec, &latents, &mut whole, &mut keep).unwrap();
    let chunks = spec.shape().chunks();
    assert_eq!(chunks, 5);
    for of in [2, 3, 5] {
        let mut shared = Keep::default();
        for index in 0..of {
            let chunks = chunk_range(chunks, index, of);
            let (piece, mut clip) = (Piece { sound: index == 0, chunks }, Keep::default());
            engine.decode_piece(&spec, &latents, &piece, &mut clip, &mut keep).unwrap();
            shared.rgb.append(&mut clip.rgb);
            shared.samples.append(&mut clip.samples);
        }
        assert!(shared.rgb == whole.rgb && shared.samples == whole.samples, "{of} pieces");
    }
    let none = Piece { sound: false, chunks: 5..6 };
    assert!(engine.decode_piece(&spec, &latents, &none, &mut whole, &mut keep).is_err());
}

#[test]
fn the_embedded_model_loads_whole_and_renders() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/toybox");
    let mut engine = H3Engine::open(&folder, WEIGHTS, Device::Cpu, 1).unwrap();
    let canvas = Size { width: 160, height: 288 };
    let spec = RenderSpec { model: "toybox".into(), canvas, frames: 22, steps: 2, ..spec() };
    let (mut keep, mut clip) = (Keep::default(), Keep::default());
    let prompt = engine.encode(&spec, &mut keep).unwrap().unwrap();
    let (_, latents) = engine.denoise(&spec, &prompt, None, &mut keep).unwrap();
    engine.decode(&spec, &latents.unwrap(), &mut clip, &mut keep).unwrap();
    assert_eq!(clip.rgb.len(), 22 * 160 * 288 * 3);
    assert_eq!(clip.samples.len() as u64, 2 * spec.shape().asked_samples());
}

#[test]
fn model_code_has_no_async_clock_environment_or_global_seed() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            files += 1;
            for word in ["async ", ".await", "Instant", "SystemTime", "std::env", "manual_seed"] {
                assert!(!text.contains(word), "{} has {word:?}", path.display());
            }
        }
    }
    assert!(files > 10);
}

/// The published key list of one part, without what `ignored` accepts.
fn published(part: &str, ignored: impl Fn(&str) -> bool) -> Vec<Key> {
    let text = std::fs::read_to_string(golden().join("h3-released-keys.txt")).unwrap();
    let mut keys = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [of, name, shape] = words[..] else { panic!("three words a line: {line}") };
        if of == part && !ignored(name) {
            let shape = shape.split('x').map(|side| side.parse().unwrap()).collect();
            keys.push((name.to_owned(), shape));
        }
    }
    keys.sort();
    keys
}

#[track_caller]
fn assert_same_keys(weights: Weights, published: Vec<Key>) {
    let mut asked = weights.finish(|_| false).unwrap();
    asked.sort();
    let difference = asked.iter().zip(&published).find(|(ours, theirs)| ours != theirs);
    assert_eq!(difference, None);
    assert_eq!(asked.len(), published.len());
}

#[test]
fn the_released_config_asks_for_the_published_keys_and_shapes() {
    let released = Config::released();
    let listing = Weights::listing();
    TextEncoder::new(&listing, &released.text, Device::Cpu).unwrap();
    assert_same_keys(listing, published("text_encoder", |key| text::is_beyond_text(key, 50)));
    let listing = Weights::listing();
    Transformer::new(&listing, &released.transformer, Device::Cpu).unwrap();
    assert_same_keys(listing, published("transformer", |_| false));
    let listing = Weights::listing();
    VideoVae::new(&listing, &released.video_vae, Device::Cpu).unwrap();
    assert_same_keys(listing, published("vae", video_vae::is_of_encoder));
    let listing = Weights::listing();
    AudioVae::new(&listing, &released.audio_vae, Device::Cpu).unwrap();
    assert_same_keys(listing, published("audio_vae", audio_vae::is_of_encoder));
}
