//! From samples to what the network sees: the logarithm of 80 mel bands, 100 times a second, of 30 s.

use super::config::MELS;
use crate::model::nn::Result;
use tch::{Device, Kind, Tensor};

const RATE: f64 = 16_000.0;
/// Samples of a transform: 25 ms.
const WINDOW: i64 = 400;
/// Samples between two: 10 ms.
const HOP: i64 = 160;
/// Samples of 30 s.
const SAMPLES: usize = 480_000;
/// Bands of a transform.
const BANDS: i64 = WINDOW / 2 + 1;

/// The window of the transform, and the bands' weights.
pub(super) struct Mels {
    window: Tensor,
    filters: Tensor,
}

impl Mels {
    pub fn new() -> Result<Mels> {
        let window = Tensor::f_hann_window(WINDOW, (Kind::Float, Device::Cpu))?;
        let filters = Tensor::f_from_slice(&filters())?.f_reshape([MELS, BANDS])?;
        Ok(Mels { window, filters })
    }

    /// (1, 80, 3000).
    ///
    /// # Source
    /// openai/whisper `whisper/audio.py`, `log_mel_spectrogram`.
    pub fn of(&self, samples: &[f32]) -> Result {
        let mut padded = vec![0.0f32; SAMPLES];
        let heard = samples.len().min(SAMPLES);
        padded[..heard].copy_from_slice(&samples[..heard]);
        // Mirrored at both ends, so that the first transform has its middle at the first sample.
        let sound = Tensor::f_from_slice(&padded)?.f_reshape([1, 1, -1])?;
        let sound = sound.f_reflection_pad1d([WINDOW / 2, WINDOW / 2])?.f_flatten(0, -1)?;
        let frames = sound.f_unfold(0, WINDOW, HOP)?.f_mul(&self.window)?;
        // (3001, 201): the last frame is left out, as in the reference.
        let spectrum = frames.f_fft_rfft(WINDOW, -1, "backward")?;
        let power = spectrum.f_abs()?.f_square()?.f_narrow(0, 0, SAMPLES as i64 / HOP)?;
        let mels = self.filters.f_matmul(&power.f_tr()?)?;
        let log = mels.f_clamp_min(1e-10)?.f_log10()?;
        let floor = log.f_max()?.f_sub_scalar(8.0)?;
        log.f_maximum(&floor)?.f_add_scalar(4.0)?.f_div_scalar(4.0)?.f_unsqueeze(0)
    }
}

/// Triangles on Slaney's mel scale, each of area 1: (80, 201). As librosa's `filters.mel`.
fn filters() -> Vec<f32> {
    let hertz = |mel: f64| {
        let linear = mel * 200.0 / 3.0;
        if mel < 15.0 { linear } else { 1_000.0 * (6.4f64.ln() / 27.0 * (mel - 15.0)).exp() }
    };
    let mel = |hertz: f64| 15.0 + (hertz / 1_000.0).ln() * 27.0 / 6.4f64.ln();
    let most = mel(RATE / 2.0);
    let edges: Vec<f64> =
        (0..MELS + 2).map(|n| hertz(most * n as f64 / (MELS + 1) as f64)).collect();
    let weight = |band: usize, at: f64| {
        let (low, middle, high) = (edges[band], edges[band + 1], edges[band + 2]);
        let rises = (at - low) / (middle - low);
        let falls = (high - at) / (high - middle);
        (rises.min(falls).max(0.0) * 2.0 / (high - low)) as f32
    };
    let at = |n: i64| n as f64 * RATE / WINDOW as f64;
    (0..MELS as usize)
        .flat_map(|band| (0..BANDS).map(move |n| (band, n)))
        .map(|(band, n)| weight(band, at(n)))
        .collect()
}
