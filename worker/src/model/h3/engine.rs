//! The stages of an H3 render, one straight function each: load, run, hand on bytes.
//!
//! Owns the order of a render and what its artifacts hold. Decides nothing about jobs, reads no clock. A stage's
//! weights are loaded when it first runs; small models keep all of them, of large ones only the running stage's
//! stay. Called on the gpu thread.

use super::audio_vae::{self, AudioVae};
use super::config::{self, Config};
use super::flow::{Point, euler_step, points, sigmas};
use super::layout::Layout;
use super::text::{TextEncoder, read_tokenizer, tokenize_within};
use super::transformer::{Tables, Transformer};
use super::video_vae::{self, Tiling, VideoVae};
use crate::engine::{ClipSink, Ended, Engine, EngineError, Frames, Observer, Piece, render_digest};
use crate::model::artifact::Bundle;
use crate::model::noise::{Stream, normal};
use crate::model::weights::{Precision, Weights, Width};
use crate::model::{Fault, ModelError};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, NoGradGuard, Tensor};
use tokenizers::Tokenizer;
use zoetrope_protocol::clip::{AUDIO_CHANNELS, PATCH, SPATIAL_COMPRESSION};
use zoetrope_protocol::wire::Phase;
use zoetrope_protocol::{ArtifactId, ClipShape, RenderSpec};

/// A folder up to this size keeps the weights of all stages loaded.
const KEEP_ALL_BYTES_MAX: u64 = 4 << 30;

type ModelResult<T> = Result<T, ModelError>;

/// The H3 model of one folder. Lives on one thread, which computes no gradients while it does.
pub struct H3Engine {
    folder: PathBuf,
    /// The folder's fingerprint.
    fingerprint: ArtifactId,
    device: Device,
    precision: Precision,
    tiling: Tiling,
    config: Config,
    keep_all: bool,
    text: Option<(Tokenizer, TextEncoder)>,
    /// With the tables of the schedule of so many steps.
    transformer: Option<(Transformer, u32, Tables)>,
    video_vae: Option<VideoVae>,
    audio_vae: Option<AudioVae>,
    _no_grad: NoGradGuard,
}

/// The parts of the model that are loaded together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Text,
    Transformer,
    VideoVae,
    AudioVae,
}

/// What the denoising loop changes.
struct Latents {
    /// Steps done.
    step: u32,
    /// (n of video, 96) f32.
    video: Tensor,
    /// (n of sound, 32) f32.
    audio: Tensor,
}

impl H3Engine {
    /// Reads the configs of a folder; weights are loaded by the stages, in the precision that is quickest on the device.
    /// `fingerprint` is the folder's: artifacts of other weights are bad input. Sets torch's thread count for the process.
    ///
    /// # Errors
    /// `ModelError` of stage `open` if a config is missing, damaged, or one that this code cannot run.
    pub fn open(
        folder: &Path,
        fingerprint: ArtifactId,
        device: Device,
        threads: usize,
    ) -> ModelResult<Self> {
        let precision = Precision::of(device);
        Self::open_with(folder, fingerprint, device, threads, precision, Tiling::RELEASED)
    }

    /// As [`H3Engine::open`], in a precision and tiling of the caller's.
    ///
    /// # Errors
    /// As [`H3Engine::open`].
    pub fn open_with(
        folder: &Path,
        fingerprint: ArtifactId,
        device: Device,
        threads: usize,
        precision: Precision,
        tiling: Tiling,
    ) -> ModelResult<Self> {
        crate::model::keep_freed_memory();
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        let config = Config::read(folder).map_err(ModelError::at("open"))?;
        let bytes = folder_bytes(folder).map_err(ModelError::at("open"))?;
        Ok(H3Engine {
            folder: folder.to_owned(),
            fingerprint,
            device,
            precision,
            tiling,
            config,
            keep_all: bytes <= KEEP_ALL_BYTES_MAX,
            text: None,
            transformer: None,
            video_vae: None,
            audio_vae: None,
            _no_grad: tch::no_grad_guard(),
        })
    }

    /// Looks whether a folder has all that the stages will load, and what they take it for: by its configs, its tokenizer
    /// and the heads of its files, so within a second whatever it holds.
    ///
    /// # Errors
    /// `ModelError` of stage `open`: what is missing, damaged, or of another shape.
    pub fn check(folder: &Path) -> ModelResult<()> {
        let check = || -> Result<(), Fault> {
            let config = Config::read(folder)?;
            let device = Device::Cpu;
            let held = |part: &str, load: &dyn Fn(Weights) -> Result<(), Fault>| {
                let part = folder.join(part);
                match load(Weights::heads(&part)?) {
                    Err(Fault::Weights(problems)) => Err(Fault::file(&part, told(&problems))),
                    checked => checked,
                }
            };
            read_tokenizer(folder)?;
            held("text_encoder", &|weights| {
                TextEncoder::load(weights, &config.text, device).map(drop)
            })?;
            held("transformer", &|weights| {
                Transformer::load(weights, &config.transformer, device).map(drop)
            })?;
            held("vae", &|weights| VideoVae::load(weights, &config.video_vae, device).map(drop))?;
            held("audio_vae", &|weights| {
                AudioVae::load(weights, &config.audio_vae, device).map(drop)
            })
        };
        check().map_err(ModelError::at("open"))
    }

    /// Drops what a large model must not hold beside `part`.
    fn make_room(&mut self, part: Part) {
        if self.keep_all {
            return;
        }
        if part != Part::Text {
            self.text = None;
        }
        if part != Part::Transformer {
            self.transformer = None;
        }
        // The two autoencoders serve one stage.
        if part != Part::VideoVae && part != Part::AudioVae {
            (self.video_vae, self.audio_vae) = (None, None);
        }
    }

    fn weights(&self, part: &str, widths: fn(&str) -> Width) -> Result<Weights, Fault> {
        Weights::open(&self.folder.join(part), self.device, self.precision, widths)
    }

    fn text(&mut self) -> Result<&(Tokenizer, TextEncoder), Fault> {
        self.make_room(Part::Text);
        if self.text.is_none() {
            let tokenizer = read_tokenizer(&self.folder)?;
            let weights = self.weights("text_encoder", config::text_width)?;
            let encoder = TextEncoder::load(weights, &self.config.text, self.device)?;
            self.text = Some((tokenizer, encoder));
        }
        Ok(self.text.as_ref().expect("set above"))
    }

    /// The transformer and the AdaLN tables of a schedule.
    fn transformer(&mut self, steps: &[[Point; 2]]) -> Result<(&Transformer, &Tables), Fault> {
        self.make_room(Part::Transformer);
        let count = steps.len() as u32;
        if self.transformer.as_ref().is_none_or(|(_, of, _)| *of != count) {
            let kept = self.transformer.take().filter(|_| self.keep_all);
            let mut transformer = match kept {
                Some((transformer, _, _)) => transformer,
                None => {
                    let weights = self.weights("transformer", config::transformer_width)?;
                    Transformer::load(weights, &self.config.transformer, self.device)?
                }
            };
            // In the order of `Level`.
            let times: Vec<[f32; 2]> = steps.iter().map(|both| both.map(Point::timestep)).collect();
            let tables = transformer.tables(&times)?;
            if !self.keep_all {
                transformer.forget_modulation();
            }
            self.transformer = Some((transformer, count, tables));
        }
        let (transformer, _, tables) = self.transformer.as_ref().expect("set above");
        Ok((transformer, tables))
    }

    fn video_vae(&mut self) -> Result<&VideoVae, Fault> {
        self.make_room(Part::VideoVae);
        if self.video_vae.is_none() {
            let weights = self.weights("vae", config::video_vae_width)?;
            self.video_vae = Some(VideoVae::load(weights, &self.config.video_vae, self.device)?);
        }
        Ok(self.video_vae.as_ref().expect("set above"))
    }

    fn audio_vae(&mut self) -> Result<&AudioVae, Fault> {
        self.make_room(Part::AudioVae);
        if self.audio_vae.is_none() {
            let weights = self.weights("audio_vae", config::audio_vae_width)?;
            self.audio_vae = Some(AudioVae::load(weights, &self.config.audio_vae, self.device)?);
        }
        Ok(self.audio_vae.as_ref().expect("set above"))
    }

    /// The steps of both schedules, video and sound.
    fn schedule(&self, steps: u32) -> Result<Vec<[Point; 2]>, Fault> {
        let video = points(&sigmas(steps, self.config.video_shift));
        let audio = points(&sigmas(steps, self.config.audio_shift));
        if video.len() != steps as usize || audio.len() != steps as usize {
            return Err(Fault::Input(format!("{steps} steps are more than f32 can tell apart")));
        }
        Ok(video.into_iter().zip(audio).map(|(video, audio)| [video, audio]).collect())
    }

    /// Noise, or the latents of an earlier attempt.
    fn start(&self, spec: &RenderSpec, resume: Option<&[u8]>) -> Result<Latents, Fault> {
        if let Some(bytes) = resume {
            return self.read_latents(spec, bytes);
        }
        let shape = spec.shape();
        let noise = |stream: Stream, rows: u64, width: i64| -> Result<Tensor, Fault> {
            let values = normal(spec.seed, stream, 0, rows as usize * width as usize);
            Ok(Tensor::f_from_slice(&values)?.f_reshape([-1, width])?.f_to(self.device)?)
        };
        let net = &self.config.transformer;
        Ok(Latents {
            step: 0,
            video: noise(Stream::Video, shape.video_rows(), net.video_row())?,
            audio: noise(Stream::Audio, shape.audio_rows(), net.audio_in_channels)?,
        })
    }

    fn read_latents(&self, spec: &RenderSpec, bytes: &[u8]) -> Result<Latents, Fault> {
        let mut bundle = Bundle::from_bytes(bytes)?;
        bundle.expect("kind", "latents")?;
        bundle.expect("spec", &render_digest(spec, self.fingerprint).to_string())?;
        bundle.expect("steps", &spec.steps.to_string())?;
        let step = bundle.word("step")?.parse().ok().filter(|step| *step <= spec.steps);
        let step = step.ok_or_else(|| Fault::Input("the artifact's step is no step".into()))?;
        let (shape, net) = (spec.shape(), &self.config.transformer);
        let mut rows = |name: &str, rows: u64, width: i64| -> Result<Tensor, Fault> {
            let tensor = bundle.remove(name, &[rows as i64, width])?;
            if tensor.f_kind()? != Kind::Float {
                return Err(Fault::Input(format!("{name} is not F32")));
            }
            Ok(tensor.f_to(self.device)?)
        };
        Ok(Latents {
            step,
            video: rows("video", shape.video_rows(), net.video_row())?,
            audio: rows("audio", shape.audio_rows(), net.audio_in_channels)?,
        })
    }
}

impl Latents {
    /// The artifact's bytes.
    fn to_bytes(&self, spec: &RenderSpec, weights: ArtifactId) -> Result<Vec<u8>, Fault> {
        let mut bundle = Bundle::default();
        for (key, value) in [
            ("kind", "latents".to_owned()),
            ("spec", render_digest(spec, weights).to_string()),
            ("step", self.step.to_string()),
            ("steps", spec.steps.to_string()),
        ] {
            bundle.about.insert(key.to_owned(), value);
        }
        bundle.insert("video", self.video.shallow_clone());
        bundle.insert("audio", self.audio.shallow_clone());
        bundle.to_bytes()
    }

    fn check_finite(&self) -> Result<(), Fault> {
        for rows in [&self.video, &self.audio] {
            // A sum is no number as soon as one value is none, and needs no tensor of its own.
            if !rows.f_sum(Kind::Double)?.f_double_value(&[])?.is_finite() {
                return Err(Fault::NotFinite("latents"));
            }
        }
        Ok(())
    }
}

/// Says which model, weights and prompt embeddings belong to; renders of one prompt share them.
fn prompt_digest(spec: &RenderSpec, weights: ArtifactId) -> String {
    ArtifactId::of(format!("{}\n{weights}\n{}", spec.model, spec.prompt).as_bytes()).to_string()
}

/// What a spec must keep for this code to render it.
fn check_spec(spec: &RenderSpec) -> Result<ClipShape, Fault> {
    if !spec.canvas.is_canvas() || spec.frames == 0 || spec.steps == 0 {
        let RenderSpec { canvas, frames, steps, .. } = spec;
        return Err(Fault::Input(format!(
            "cannot render {frames} frames of {canvas} in {steps} steps"
        )));
    }
    Ok(spec.shape())
}

/// Differences of a folder that are told: a config of another model has thousands.
const TOLD_MAX: usize = 8;

fn told(problems: &[String]) -> String {
    let first = problems.iter().take(TOLD_MAX).cloned().collect::<Vec<_>>().join("; ");
    match problems.len().saturating_sub(TOLD_MAX) {
        0 => first,
        more => format!("{first}; and {more} more"),
    }
}

fn folder_bytes(folder: &Path) -> Result<u64, Fault> {
    let mut files = Vec::new();
    crate::model::list_files(folder, &mut files)?;
    Ok(files.iter().filter_map(|path| Some(std::fs::metadata(path).ok()?.len())).sum())
}

/// Packed video rows to latents: (n, c 2 2) to (c, t, h, w).
fn unpack_video(rows: &Tensor, shape: ClipShape, channels: i64) -> Result<Tensor, Fault> {
    let patch = i64::from(PATCH);
    let side = |pixels: u32| i64::from(pixels / SPATIAL_COMPRESSION) / patch;
    let (t, h, w) =
        (i64::from(shape.latent_frames()), side(shape.canvas.height), side(shape.canvas.width));
    let rows = rows.f_reshape([t, h, w, channels, patch, patch])?;
    let latents = rows.f_permute([3, 0, 1, 4, 2, 5])?;
    Ok(latents.f_reshape([channels, t, h * patch, w * patch])?)
}

/// Packed sound rows to latents: (2 s, c) to (2, c, s).
fn unpack_audio(rows: &Tensor, channels: i64) -> Result<Tensor, Fault> {
    let rows = rows.f_reshape([i64::from(AUDIO_CHANNELS), -1, channels])?;
    Ok(rows.f_transpose(1, 2)?.f_contiguous()?)
}

impl Engine for H3Engine {
    fn weights(&self) -> ArtifactId {
        self.fingerprint
    }

    fn encode(
        &mut self,
        spec: &RenderSpec,
        observer: &mut dyn Observer,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        if observer.progress(Phase::Loading, 0, 1).is_break() {
            return Ok(None);
        }
        let fingerprint = self.fingerprint;
        let encoded = (|| -> Result<Option<Vec<u8>>, Fault> {
            let (tokenizer, encoder) = self.text()?;
            if observer.progress(Phase::Encoding, 0, 1).is_break() {
                return Ok(None);
            }
            let tokens = tokenize_within(tokenizer, &spec.prompt, encoder.tokens_max())?;
            let text = encoder.forward(&tokens)?;
            let mut bundle = Bundle::default();
            bundle.about.insert("kind".into(), "prompt".into());
            bundle.about.insert("of".into(), prompt_digest(spec, fingerprint));
            bundle.insert("text", text);
            bundle.to_bytes().map(Some)
        })();
        // Nothing is left to stop.
        let _: ControlFlow<()> = observer.progress(Phase::Encoding, 1, 1);
        Ok(encoded.map_err(ModelError::at("encode"))?)
    }

    fn denoise(
        &mut self,
        spec: &RenderSpec,
        prompt: &[u8],
        resume: Option<&[u8]>,
        observer: &mut dyn Observer,
    ) -> Result<(Ended, Option<Vec<u8>>), EngineError> {
        const STAGE: &str = "denoise";
        let shape = check_spec(spec).map_err(ModelError::at(STAGE))?;
        let width = self.config.transformer.text_dim;
        let fingerprint = self.fingerprint;
        let text = read_prompt(spec, fingerprint, prompt, width).map_err(ModelError::at(STAGE))?;
        let steps = self.schedule(spec.steps).map_err(ModelError::at(STAGE))?;
        let mut latents = self.start(spec, resume).map_err(ModelError::at(STAGE))?;
        if observer.progress(Phase::Loading, 0, 1).is_break() {
            return Ok((Ended::Stopped, None));
        }
        let (transformer, tables) = self.transformer(&steps).map_err(ModelError::at(STAGE))?;
        let layout = Layout::new(shape, text.size()[0] as u32);
        let prepared = transformer.prepare(&text, layout).map_err(ModelError::at(STAGE))?;
        if observer.progress(Phase::Denoising, latents.step, spec.steps).is_break() {
            return Ok((Ended::Stopped, None));
        }
        while latents.step < spec.steps {
            let [video, audio] = steps[latents.step as usize];
            let table = &tables[latents.step as usize];
            latents = (|| {
                let velocity =
                    transformer.forward(&latents.video, &latents.audio, table, &prepared)?;
                let next = Latents {
                    step: latents.step + 1,
                    video: euler_step(&latents.video, &velocity.0, video)?,
                    audio: euler_step(&latents.audio, &velocity.1, audio)?,
                };
                next.check_finite()?;
                Ok(next)
            })()
            .map_err(ModelError::at::<Fault>(STAGE))?;
            let mut bytes = || {
                Ok(latents.to_bytes(spec, fingerprint).map_err(ModelError::at::<Fault>(STAGE))?)
            };
            if observer.step_done(latents.step, spec.steps, &mut bytes)?.is_break()
                || observer.progress(Phase::Denoising, latents.step, spec.steps).is_break()
            {
                return Ok((Ended::Stopped, None));
            }
        }
        let bytes = latents.to_bytes(spec, fingerprint).map_err(ModelError::at(STAGE))?;
        Ok((Ended::Done, Some(bytes)))
    }

    fn decode_piece(
        &mut self,
        spec: &RenderSpec,
        latents: &[u8],
        piece: &Piece,
        sink: &mut dyn ClipSink,
        observer: &mut dyn Observer,
    ) -> Result<Ended, EngineError> {
        const STAGE: &str = "decode";
        let shape = check_spec(spec).map_err(ModelError::at(STAGE))?;
        if piece.chunks.is_empty() || piece.chunks.end > shape.chunks() {
            return Err(EngineError::BadInput(format!("no chunks {:?}", piece.chunks)));
        }
        let latents = self.read_latents(spec, latents).map_err(ModelError::at(STAGE))?;
        if latents.step != spec.steps {
            let (step, steps) = (latents.step, spec.steps);
            return Err(EngineError::BadInput(format!("latents of step {step} of {steps}")));
        }
        if observer.progress(Phase::Loading, 0, 1).is_break() {
            return Ok(Ended::Stopped);
        }
        // Both before the first of them runs: what is loaded later would count as its work.
        self.video_vae().map_err(ModelError::at(STAGE))?;
        if spec.audio && piece.sound {
            self.audio_vae().map_err(ModelError::at("sound"))?;
            if observer.progress(Phase::Sound, 0, 1).is_break() {
                return Ok(Ended::Stopped);
            }
            let samples = self.sound(spec, &latents.audio).map_err(ModelError::at("sound"))?;
            sink.sound(&samples)?;
            if observer.progress(Phase::Sound, 1, 1).is_break() {
                return Ok(Ended::Stopped);
            }
        }
        self.picture(spec, &latents.video, piece, sink, observer)
    }
}

impl H3Engine {
    fn sound(&mut self, spec: &RenderSpec, rows: &Tensor) -> Result<Vec<f32>, Fault> {
        let channels = self.config.audio_vae.latent_channels;
        let vae = self.audio_vae()?;
        let latents = vae.denormalise(&unpack_audio(rows, channels)?)?;
        audio_vae::interleave(&vae.decode(&latents)?, spec.shape().asked_samples())
    }

    /// Decodes chunk after chunk: each fades in from the end of the one before, and only that end is kept. A piece
    /// that begins later decodes the chunk before it for its end alone.
    fn picture(
        &mut self,
        spec: &RenderSpec,
        rows: &Tensor,
        piece: &Piece,
        sink: &mut dyn ClipSink,
        observer: &mut dyn Observer,
    ) -> Result<Ended, EngineError> {
        const STAGE: &str = "decode";
        let (shape, tiling) = (spec.shape(), self.tiling);
        let channels = self.config.video_vae.latent_channels;
        let vae = self.video_vae().map_err(ModelError::at(STAGE))?;
        let latents = unpack_video(rows, shape, channels).map_err(ModelError::at(STAGE))?;
        let latents = vae.denormalise(&latents).map_err(ModelError::at(STAGE))?;
        let (start, end) = (piece.chunks.start, piece.chunks.end);
        let mut left = shape.frames_of(end - 1).end - shape.frames_of(start).start;
        let mut before: Option<Tensor> = None;
        for index in start.saturating_sub(1)..end {
            let done = index.saturating_sub(start);
            if observer.progress(Phase::Decoding, done, end - start).is_break() {
                return Ok(Ended::Stopped);
            }
            let (added, shared) = (|| {
                let chunk = VideoVae::chunk_latents(&latents, index)?;
                let (added, shared) = vae.decode_chunk(&chunk, tiling)?;
                if let Some(before) = &before {
                    VideoVae::cross_fade(before, &added)?;
                }
                Ok((added, shared))
            })()
            .map_err(ModelError::at::<Fault>(STAGE))?;
            if index >= start {
                emit(&added, &mut left, sink)?;
            }
            before = Some(shared);
        }
        if let Some(last) = &before {
            emit(last, &mut left, sink)?;
        }
        // Nothing is left to stop.
        let _: ControlFlow<()> = observer.progress(Phase::Decoding, end - start, end - start);
        Ok(Ended::Done)
    }
}

/// Hands on decoded frames, no more than are left of the clip.
fn emit(frames: &Tensor, left: &mut u32, sink: &mut dyn ClipSink) -> Result<(), EngineError> {
    const STAGE: &str = "decode";
    let count = (frames.size()[1] as u32).min(*left);
    if count == 0 {
        return Ok(());
    }
    let trimmed = frames.f_narrow(1, 0, i64::from(count)).map_err(ModelError::at(STAGE))?;
    let rgb = video_vae::to_rgb(&trimmed).map_err(ModelError::at(STAGE))?;
    *left -= count;
    sink.frames(Frames { rgb: &rgb, count })
}

fn read_prompt(
    spec: &RenderSpec,
    weights: ArtifactId,
    bytes: &[u8],
    width: i64,
) -> Result<Tensor, Fault> {
    let mut bundle = Bundle::from_bytes(bytes)?;
    bundle.expect("kind", "prompt")?;
    bundle.expect("of", &prompt_digest(spec, weights))?;
    bundle.remove("text", &[-1, width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let (path, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name());
            if path.is_dir() {
                copy(&path, &to.join(name));
            } else {
                fs::copy(&path, to.join(name)).unwrap();
            }
        }
    }

    /// Promise: a folder that lacks something is refused before it is announced, and not when a stage first needs it.
    #[test]
    fn a_folder_that_is_not_whole_is_refused_when_it_is_looked_at() {
        let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/toybox");
        H3Engine::check(&whole).unwrap();
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 6] = [
            ("vae", |folder| fs::remove_dir_all(folder.join("vae")).unwrap()),
            ("audio_vae", |folder| {
                fs::remove_file(folder.join("audio_vae/diffusion_pytorch_model.safetensors"))
                    .unwrap();
            }),
            ("transformer-2.safetensors", |folder| {
                let folder = folder.join("transformer");
                let index = r#"{"weight_map": {"a": "transformer-2.safetensors"}}"#;
                fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
            }),
            ("transformer", |folder| {
                let path = folder.join("transformer/diffusion_pytorch_model.safetensors");
                let half = fs::metadata(&path).unwrap().len() / 2;
                fs::File::options().write(true).open(path).unwrap().set_len(half).unwrap();
            }),
            ("text_encoder: model.language_model.embed_tokens.weight has shape", |folder| {
                let path = folder.join("text_encoder/config.json");
                let mut config: serde_json::Value =
                    serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                config["text_config"]["vocab_size"] = 97.into();
                fs::write(path, config.to_string()).unwrap();
            }),
            ("tokenizer.json", |folder| {
                fs::remove_file(folder.join("tokenizer/tokenizer.json")).unwrap();
            }),
        ];
        for (part, damage) in damages {
            let folder = tempfile::tempdir().unwrap();
            copy(&whole, folder.path());
            damage(folder.path());
            let refused = H3Engine::check(folder.path()).expect_err(part).to_string();
            assert!(refused.contains(part), "{part}: {refused}");
            assert!(refused.len() < 2_000, "{refused}");
        }
    }
}
