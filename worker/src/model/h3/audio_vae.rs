//! Sound latents to samples: the BigVGAN decoder, always in f32; on CUDA because the process says so (`start::settle_process`).
//!
//! Mono: the two channels of a clip are two batch items. Every activation is computed at twice the rate, between
//! two filters that the checkpoint brings along.
//!
//! Source: huggingface/diffusers 0.42.1 `models/autoencoders/autoencoder_kl_minimax_h3_audio.py`.

use super::config::AudioVaeConfig;
use crate::model::Fault;
use crate::model::nn::{Linear, Result};
use crate::model::weights::{Scope, Weights};
use tch::{Device, Tensor};

/// Taps of the filters around an activation.
const TAPS: i64 = 12;

/// A convolution of stride 1 that keeps the length.
struct Convolution {
    weight: Tensor,
    bias: Option<Tensor>,
    kernel: i64,
    dilation: i64,
}

impl Convolution {
    fn new(at: &Scope<'_>, input: i64, output: i64, kernel: i64, dilation: i64) -> Result<Self> {
        let weight = at.weight_norm(&[output, input, kernel])?;
        Ok(Convolution { weight, bias: Some(at.tensor("bias", &[output])?), kernel, dilation })
    }

    /// (b, c, s) to (b, c', s).
    fn forward(&self, x: &Tensor) -> Result {
        let padding = (self.kernel - 1) * self.dilation / 2;
        x.f_conv1d(&self.weight, self.bias.as_ref(), 1, padding, self.dilation, 1)
    }
}

/// `MiniMaxH3AudioActivation1d` around `MiniMaxH3AudioSnakeBeta`: `x + sin²(e^alpha x) / e^beta` at twice the rate.
struct Activation {
    /// (1, c, 1), e^alpha.
    frequency: Tensor,
    /// (1, c, 1), 1 / e^beta.
    size: Tensor,
    up: Tensor,
    down: Tensor,
}

impl Activation {
    fn new(at: &Scope<'_>, channels: i64) -> Result<Self> {
        let per_channel = |name: &str| -> Result {
            at.at("act").tensor(name, &[channels])?.f_exp()?.f_reshape([1, channels, 1])
        };
        let filter = |name: &str| at.at(name).tensor("filter", &[1, 1, TAPS]);
        Ok(Activation {
            frequency: per_channel("alpha")?,
            size: per_channel("beta")?.f_add_scalar(1e-9)?.f_reciprocal()?,
            up: filter("upsample")?,
            down: filter("downsample.lowpass")?,
        })
    }

    /// (b, c, s) to (b, c, s).
    fn forward(&self, x: &Tensor) -> Result {
        let (_, c, s) = x.size3()?;
        let none = None::<Tensor>;
        let (up, down) =
            (self.up.f_expand([c, 1, TAPS], false)?, self.down.f_expand([c, 1, TAPS], false)?);
        let x = x.f_replication_pad1d([5, 5])?;
        let x = x.f_conv_transpose1d(&up, none.as_ref(), 2, 0, 0, c, 1)?;
        let x = x.f_narrow(2, 15, 2 * s)?.f_mul_scalar(2.0)?;
        let wave = x.f_mul(&self.frequency)?.f_sin_()?.f_square_()?;
        let x = x.f_addcmul(&wave, &self.size)?.f_replication_pad1d([5, 6])?;
        x.f_conv1d(&down, none.as_ref(), 2, 0, 1, c)
    }
}

/// `MiniMaxH3AudioAMPBlock`.
struct ResidualBlock {
    pairs: Vec<(Activation, Convolution, Activation, Convolution)>,
}

impl ResidualBlock {
    fn new(at: &Scope<'_>, channels: i64, kernel: i64, dilations: &[i64]) -> Result<Self> {
        let pair = |(index, dilation): (usize, &i64)| -> Result<_> {
            let activations = at.at("activations");
            Ok((
                Activation::new(&activations.at(2 * index), channels)?,
                Convolution::new(
                    &at.at("convs1").at(index),
                    channels,
                    channels,
                    kernel,
                    *dilation,
                )?,
                Activation::new(&activations.at(2 * index + 1), channels)?,
                Convolution::new(&at.at("convs2").at(index), channels, channels, kernel, 1)?,
            ))
        };
        let pairs = dilations.iter().enumerate().map(pair).collect::<Result<_>>()?;
        Ok(ResidualBlock { pairs })
    }

    fn forward(&self, x: &Tensor) -> Result {
        let mut x = x.shallow_clone();
        for (first, wide, second, close) in &self.pairs {
            let inner = wide.forward(&first.forward(&x)?)?;
            x = close.forward(&second.forward(&inner)?)?.f_add_(&x)?;
        }
        Ok(x)
    }
}

/// One upsampling and the residual blocks after it, which are averaged.
struct Stage {
    weight: Tensor,
    bias: Tensor,
    rate: i64,
    padding: i64,
    blocks: Vec<ResidualBlock>,
}

impl Stage {
    fn new(at: &Scope<'_>, config: &AudioVaeConfig, index: usize) -> Result<Self> {
        let (rate, kernel) = (config.decoder_rates[index], config.decoder_kernel_sizes[index]);
        let input = config.decoder_dim >> index;
        let channels = input / 2;
        let up = at.at("ups").at(index).at(0);
        let kinds = config.resblock_kernel_sizes.iter().zip(&config.resblock_dilation_sizes);
        let first = index * config.resblock_kernel_sizes.len();
        Ok(Stage {
            weight: up.weight_norm(&[input, channels, kernel])?,
            bias: up.tensor("bias", &[channels])?,
            rate,
            padding: (kernel - rate) / 2,
            blocks: kinds
                .enumerate()
                .map(|(place, (kernel, dilations))| {
                    let at = at.at("resblocks").at(first + place);
                    ResidualBlock::new(&at, channels, *kernel, dilations)
                })
                .collect::<Result<_>>()?,
        })
    }

    /// (b, 2 c, s) to (b, c, s · rate).
    fn forward(&self, x: &Tensor) -> Result {
        let bias = Some(&self.bias);
        let x = x.f_conv_transpose1d(&self.weight, bias, self.rate, self.padding, 0, 1, 1)?;
        let mut sum = self.blocks[0].forward(&x)?;
        for block in &self.blocks[1..] {
            sum = sum.f_add_(&block.forward(&x)?)?;
        }
        sum.f_div_scalar(self.blocks.len() as f64)
    }
}

/// `AutoencoderKLMiniMaxH3Audio`, its decoder.
pub struct AudioVae {
    device: Device,
    mean: Tensor,
    deviation: Tensor,
    dec_in_proj: Linear,
    conv_pre: Convolution,
    stages: Vec<Stage>,
    activation_post: Activation,
    conv_post: Convolution,
}

impl AudioVae {
    /// Takes the decoder's weights of `audio_vae/`.
    ///
    /// # Errors
    /// `Fault::Weights` if they are not those of the config.
    pub fn load(weights: Weights, config: &AudioVaeConfig, device: Device) -> Result<Self, Fault> {
        let vae = Self::new(&weights, config, device)?;
        weights.finish(is_of_encoder)?;
        Ok(vae)
    }

    /// As [`AudioVae::load`], without the check that nothing is left over.
    ///
    /// # Errors
    /// If torch fails.
    pub fn new(weights: &Weights, config: &AudioVaeConfig, device: Device) -> Result<Self> {
        let (root, c) = (weights.root(), config.latent_channels);
        let at = root.at("decoder");
        let channels = |values: &Option<Vec<f64>>, otherwise: f32| {
            let values = values.as_ref().map_or(vec![otherwise; c as usize], |values| {
                values.iter().map(|value| *value as f32).collect()
            });
            Tensor::f_from_slice(&values)?.f_reshape([-1, 1])?.f_to(device)
        };
        let last = config.decoder_dim >> config.decoder_rates.len();
        let post = at.at("conv_post");
        Ok(AudioVae {
            device,
            mean: channels(&config.latents_mean, 0.0)?,
            deviation: channels(&config.latents_std, 1.0)?,
            dec_in_proj: Linear::pointwise(&root.at("dec_in_proj"), c, config.latent_dim, 1)?,
            conv_pre: Convolution::new(
                &at.at("conv_pre"),
                config.latent_dim,
                config.decoder_dim,
                7,
                1,
            )?,
            stages: (0..config.decoder_rates.len())
                .map(|index| Stage::new(&at, config, index))
                .collect::<Result<_>>()?,
            activation_post: Activation::new(&at.at("activation_post"), last)?,
            conv_post: Convolution {
                weight: post.weight_norm(&[1, last, 7])?,
                bias: None,
                kernel: 7,
                dilation: 1,
            },
        })
    }

    /// Latents as the transformer makes them to latents as the decoder takes them. (b, c, s) to the same.
    ///
    /// # Errors
    /// If torch fails.
    pub fn denormalise(&self, latents: &Tensor) -> Result {
        latents.f_to(self.device)?.f_mul(&self.deviation)?.f_add(&self.mean)
    }

    /// Decodes a whole sound.
    ///
    /// # Shapes
    /// `latents`: (b, c, s) f32, denormalised. The result: (b, 800 s) f32, -1 to 1.
    /// # Errors
    /// If torch fails.
    pub fn decode(&self, latents: &Tensor) -> Result {
        let mut x = self.dec_in_proj.forward(&latents.f_transpose(1, 2)?)?.f_transpose(1, 2)?;
        x = self.conv_pre.forward(&x)?;
        for stage in &self.stages {
            x = stage.forward(&x)?;
        }
        let x = self.conv_post.forward(&self.activation_post.forward(&x)?)?;
        x.f_clamp(-1.0, 1.0)?.f_squeeze_dim(1)
    }
}

/// Whether decoding does without a key: the encoder and its posterior.
pub fn is_of_encoder(key: &str) -> bool {
    ["encoder.", "pre_block.", "mean_proj.", "logs_proj."].iter().any(|part| key.starts_with(part))
}

/// Samples of silence that may be put at the end of a sound: the number of latents is rounded, so that of a clip
/// whose last chunk is whole may be half a latent short.
const SILENCE_SAMPLES_MAX: i64 = 400;

/// Decoded channels to interleaved samples, `count` of each channel.
///
/// # Shapes
/// `channels`: (b, s) f32.
/// # Errors
/// `Fault::NotFinite` if a value is no number, `Fault::Input` if more than rounding is missing.
pub fn interleave(channels: &Tensor, count: u64) -> Result<Vec<f32>, Fault> {
    let (b, samples) = channels.size2()?;
    let count = count as i64;
    if samples + SILENCE_SAMPLES_MAX < count {
        return Err(Fault::Input(format!("{samples} samples were made, {count} asked for")));
    }
    let trimmed = channels.f_narrow(1, 0, count.min(samples))?.f_transpose(0, 1)?;
    if trimmed.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
        return Err(Fault::NotFinite("samples"));
    }
    let trimmed = trimmed.f_to(Device::Cpu)?.f_contiguous()?.f_reshape([-1])?;
    let mut result = vec![0.0; trimmed.numel()];
    trimmed.f_copy_data(&mut result, trimmed.numel())?;
    result.resize((count * b) as usize, 0.0);
    Ok(result)
}
