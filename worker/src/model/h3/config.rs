//! What a MiniMax-H3 folder says of its networks, and which of their parts stay f32.
//!
//! The structs mirror the folder's `config.json` files, name by name, with the released values as defaults.
//! Source: the constructors of huggingface/diffusers 0.42.1 `transformer_minimax_h3.py`,
//! `autoencoder_kl_minimax_h3.py`, `autoencoder_kl_minimax_h3_audio.py`; transformers' `Qwen3VLTextConfig`.

use crate::model::weights::Width;
use crate::model::{Fault, read_json};
use serde::Deserialize;
use std::path::Path;

/// The transformer over the packed sequence.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct TransformerConfig {
    /// Heads. Heads × dim may be wider than the stream.
    pub num_attention_heads: i64,
    /// Channels of a head.
    pub attention_head_dim: i64,
    /// Width of the stream.
    pub hidden_size: i64,
    /// Blocks.
    pub num_layers: i64,
    /// Blocks over the text alone.
    pub num_refiner_layers: i64,
    /// Inner width of the feed-forwards.
    pub ffn_dim: i64,
    /// Channels of a video latent.
    pub in_channels: i64,
    /// Channels of a sound latent.
    pub audio_in_channels: i64,
    /// Latents that one row covers: time, height, width. Only (1, 2, 2) is known.
    pub patch_size: [i64; 3],
    /// Width of the text's conditioning.
    pub text_dim: i64,
    /// Channels of the sinusoidal time embedding.
    pub freq_dim: i64,
    /// Inner width of the time embedder.
    pub time_embed_hidden_dim: i64,
    /// Width of what all AdaLN projections read.
    pub time_embed_dim: i64,
    /// Rotary frequencies of an axis.
    pub rope_freq_dim: i64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Epsilon of the block norms.
    pub norm_eps: f64,
    /// Epsilon of the query and key norms.
    pub qk_norm_eps: f64,
    /// Epsilon of the last norms.
    pub final_norm_eps: f64,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        TransformerConfig {
            num_attention_heads: 56,
            attention_head_dim: 128,
            hidden_size: 5376,
            num_layers: 50,
            num_refiner_layers: 2,
            ffn_dim: 14336,
            in_channels: 24,
            audio_in_channels: 32,
            patch_size: [1, 2, 2],
            text_dim: 5120,
            freq_dim: 256,
            time_embed_hidden_dim: 5376,
            time_embed_dim: 2688,
            rope_freq_dim: 16,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            qk_norm_eps: 1e-5,
            final_norm_eps: 1e-5,
        }
    }
}

impl TransformerConfig {
    /// Values of a packed video row.
    pub fn video_row(&self) -> i64 {
        self.in_channels * self.patch_size.iter().product::<i64>()
    }
}

/// The video autoencoder. Only its decoder is built.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VideoVaeConfig {
    /// Channels of a pixel.
    pub out_channels: i64,
    /// Channels of a latent.
    pub latent_channels: i64,
    /// Their product is the pixels of a latent along a side.
    pub spatial_downsample_factors: Vec<i64>,
    /// Their product is the frames of a latent.
    pub temporal_downsample_factors: Vec<i64>,
    /// Blocks.
    pub decoder_num_layers: i64,
    /// Heads.
    pub decoder_num_attention_heads: i64,
    /// Channels of a head.
    pub decoder_attention_head_dim: i64,
    /// Learned tokens beside the latents.
    pub decoder_num_register_tokens: i64,
    /// Inner width of the feed-forwards, in widths of the stream.
    pub decoder_ffn_mult: i64,
    /// Base of the rotary frequencies.
    pub decoder_rope_theta: f64,
    /// Share of a head's channels that turn.
    pub decoder_rope_dim_ratio: f64,
    /// Epsilon of the norms.
    pub decoder_norm_eps: f64,
    /// Frames that a chunk adds.
    pub clip_length: i64,
    /// Latent frames at the end of an encoded chunk that were dropped.
    pub token_drop: i64,
    /// Mean of each latent channel.
    pub latents_mean: Vec<f64>,
    /// Deviation of each latent channel.
    pub latents_std: Vec<f64>,
}

impl Default for VideoVaeConfig {
    fn default() -> Self {
        VideoVaeConfig {
            out_channels: 3,
            latent_channels: 24,
            spatial_downsample_factors: vec![2, 2, 2, 2, 1, 1],
            temporal_downsample_factors: vec![1, 2, 2, 1, 1, 1],
            decoder_num_layers: 36,
            decoder_num_attention_heads: 32,
            decoder_attention_head_dim: 64,
            decoder_num_register_tokens: 4,
            decoder_ffn_mult: 4,
            decoder_rope_theta: 100.0,
            decoder_rope_dim_ratio: 0.75,
            decoder_norm_eps: 1e-5,
            clip_length: 17,
            token_drop: 3,
            latents_mean: vec![0.0; 24],
            latents_std: vec![1.0; 24],
        }
    }
}

impl VideoVaeConfig {
    /// Width of the stream.
    pub fn width(&self) -> i64 {
        self.decoder_num_attention_heads * self.decoder_attention_head_dim
    }

    /// Pixels of a latent along a side.
    pub fn patch(&self) -> i64 {
        self.spatial_downsample_factors.iter().product()
    }

    /// Channels of a head for which angles are made; those turn that are whole pairs for each of the three axes.
    pub fn turning(&self) -> i64 {
        (self.decoder_attention_head_dim as f64 * self.decoder_rope_dim_ratio) as i64
    }

    /// Frames of a latent.
    pub fn patch_frames(&self) -> i64 {
        self.temporal_downsample_factors.iter().product()
    }
}

/// The sound autoencoder. Only its decoder is built.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct AudioVaeConfig {
    /// Width between the latents and the decoder.
    pub latent_dim: i64,
    /// Channels of a latent.
    pub latent_channels: i64,
    /// Channels before the first upsampling; each halves them.
    pub decoder_dim: i64,
    /// Upsampling rates; their product is the samples of a latent.
    pub decoder_rates: Vec<i64>,
    /// Kernels of the upsamplings.
    pub decoder_kernel_sizes: Vec<i64>,
    /// Kernels of the parallel residual blocks.
    pub resblock_kernel_sizes: Vec<i64>,
    /// Dilations of each residual block.
    pub resblock_dilation_sizes: Vec<Vec<i64>>,
    /// Samples a second.
    pub sampling_rate: i64,
    /// Mean of each latent channel; absent means 0.
    pub latents_mean: Option<Vec<f64>>,
    /// Deviation of each latent channel; absent means 1.
    pub latents_std: Option<Vec<f64>>,
}

impl Default for AudioVaeConfig {
    fn default() -> Self {
        AudioVaeConfig {
            latent_dim: 2048,
            latent_channels: 32,
            decoder_dim: 1024,
            decoder_rates: vec![5, 5, 2, 2, 2, 2, 2],
            decoder_kernel_sizes: vec![9, 9, 4, 4, 4, 4, 4],
            resblock_kernel_sizes: vec![3, 7, 11],
            resblock_dilation_sizes: vec![vec![1, 3, 5]; 3],
            sampling_rate: 32_000,
            latents_mean: None,
            latents_std: None,
        }
    }
}

/// The text path of Qwen3-VL.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TextConfig {
    /// Tokens.
    pub vocab_size: i64,
    /// Width of the stream.
    pub hidden_size: i64,
    /// Inner width of the feed-forwards.
    pub intermediate_size: i64,
    /// Layers of the stack; only those below [`TextEncoderConfig::text_encoder_layer`] are built.
    pub num_hidden_layers: i64,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads.
    pub num_key_value_heads: i64,
    /// Channels of a head.
    pub head_dim: i64,
    /// Most tokens of a prompt.
    pub max_position_embeddings: i64,
    /// Epsilon of the norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies, in the older place.
    #[serde(default)]
    pub rope_theta: Option<f64>,
    /// The rotary parameters, in the newer place.
    #[serde(default)]
    pub rope_parameters: Option<RopeParameters>,
}

/// The part of Qwen3-VL's rotary parameters that text alone needs: its three axes are one where all positions
/// are of text.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RopeParameters {
    /// Base of the frequencies.
    pub rope_theta: f64,
}

impl TextConfig {
    /// Base of the rotary frequencies.
    pub fn theta(&self) -> f64 {
        let newer = self.rope_parameters.as_ref().map(|rope| rope.rope_theta);
        newer.or(self.rope_theta).unwrap_or(5_000_000.0)
    }
}

/// `text_encoder/config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TextEncoderConfig {
    /// The stack.
    pub text_config: TextConfig,
    /// Which hidden state is the conditioning: 0 is the embedding, k the output of the k-th layer, never
    /// normalised. The published pipeline has it as a constant, smaller models as a key.
    #[serde(default = "released_text_layer")]
    pub text_encoder_layer: i64,
}

fn released_text_layer() -> i64 {
    50
}

/// `scheduler_config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ScheduleConfig {
    /// How far the sigma grid is shifted towards noise.
    pub shift: f64,
}

/// All configs of a folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `text_encoder/`.
    pub text: TextEncoderConfig,
    /// `transformer/`.
    pub transformer: TransformerConfig,
    /// `vae/`.
    pub video_vae: VideoVaeConfig,
    /// `audio_vae/`.
    pub audio_vae: AudioVaeConfig,
    /// `scheduler/`: the shift of the video.
    pub video_shift: f64,
    /// `audio_scheduler/`: the shift of the sound.
    pub audio_shift: f64,
}

impl Config {
    /// The published 33B model.
    pub fn released() -> Self {
        let text_config = TextConfig {
            vocab_size: 151_936,
            hidden_size: 5120,
            intermediate_size: 25_600,
            num_hidden_layers: 64,
            num_attention_heads: 64,
            num_key_value_heads: 8,
            head_dim: 128,
            max_position_embeddings: 262_144,
            rms_norm_eps: 1e-6,
            rope_theta: Some(5_000_000.0),
            rope_parameters: None,
        };
        Config {
            text: TextEncoderConfig { text_config, text_encoder_layer: released_text_layer() },
            transformer: TransformerConfig::default(),
            video_vae: VideoVaeConfig::default(),
            audio_vae: AudioVaeConfig::default(),
            video_shift: 12.0,
            audio_shift: 3.0,
        }
    }

    /// Reads all `config.json` files of a folder.
    ///
    /// # Errors
    /// `Fault::File` if one is missing or of another kind, `Fault::Input` if this code cannot run it.
    pub fn read(folder: &Path) -> Result<Self, Fault> {
        let shift = |name: &str| -> Result<f64, Fault> {
            let config: ScheduleConfig =
                read_json(&folder.join(name).join("scheduler_config.json"))?;
            Ok(config.shift)
        };
        let config = Config {
            text: read_json(&folder.join("text_encoder/config.json"))?,
            transformer: read_json(&folder.join("transformer/config.json"))?,
            video_vae: read_json(&folder.join("vae/config.json"))?,
            audio_vae: read_json(&folder.join("audio_vae/config.json"))?,
            video_shift: shift("scheduler")?,
            audio_shift: shift("audio_scheduler")?,
        };
        config.check()?;
        Ok(config)
    }

    /// The laws that `protocol::clip` has as constants, and the agreement of the parts.
    fn check(&self) -> Result<(), Fault> {
        let (video, audio, net) = (&self.video_vae, &self.audio_vae, &self.transformer);
        let text = &self.text.text_config;
        let is_even = |channels: i64| channels > 0 && channels % 2 == 0;
        let of_channels = |values: &Option<Vec<f64>>| {
            values.as_ref().is_none_or(|values| values.len() as i64 == audio.latent_channels)
        };
        let halvings = u32::try_from(audio.decoder_rates.len()).unwrap_or(u32::MAX);
        let ups = audio.decoder_rates.iter().zip(&audio.decoder_kernel_sizes);
        let laws = [
            (net.patch_size == [1, 2, 2], "patch_size must be 1, 2, 2"),
            (
                video.patch() == 16 && video.patch_frames() == 4,
                "the vae must compress 16 and 4 times",
            ),
            (
                video.clip_length == 17 && video.token_drop == 3,
                "clip_length and token_drop must be 17 and 3",
            ),
            (video.out_channels == 3, "the vae must make RGB"),
            (audio.sampling_rate == 32_000, "the sound must have 32,000 samples a second"),
            (
                audio.decoder_rates.iter().product::<i64>() == 800,
                "a sound latent must be 800 samples",
            ),
            (
                audio.decoder_kernel_sizes.len() == audio.decoder_rates.len()
                    && ups.clone().all(|(rate, kernel)| *rate > 0 && kernel >= rate),
                "decoder_kernel_sizes must have one for each of decoder_rates, at least as large",
            ),
            (
                audio.decoder_dim.checked_shr(halvings).is_some_and(|last| last > 0),
                "decoder_dim must be at least 1 after it was halved for each of decoder_rates",
            ),
            (
                !audio.resblock_kernel_sizes.is_empty()
                    && audio.resblock_kernel_sizes.len() == audio.resblock_dilation_sizes.len(),
                "resblock_kernel_sizes and resblock_dilation_sizes must be as many, at least one",
            ),
            (
                of_channels(&audio.latents_mean) && of_channels(&audio.latents_std),
                "the sound's latents_mean or latents_std has another length",
            ),
            (
                net.in_channels == video.latent_channels,
                "in_channels and the vae's latent_channels differ",
            ),
            (
                net.audio_in_channels == audio.latent_channels,
                "audio_in_channels and latent_channels differ",
            ),
            (net.text_dim == text.hidden_size, "text_dim and hidden_size differ"),
            (
                (0..text.num_hidden_layers).contains(&self.text.text_encoder_layer),
                "text_encoder_layer must be from 0 to below num_hidden_layers: the last state is normalised",
            ),
            (
                text.num_key_value_heads > 0
                    && text.num_attention_heads > 0
                    && text.num_attention_heads % text.num_key_value_heads == 0,
                "num_key_value_heads must divide the text's num_attention_heads",
            ),
            // Channels turn in pairs.
            (is_even(text.head_dim), "head_dim must be even"),
            (is_even(net.attention_head_dim), "attention_head_dim must be even"),
            (is_even(video.decoder_attention_head_dim), "decoder_attention_head_dim must be even"),
            (is_even(net.freq_dim), "freq_dim must be even"),
            (
                net.num_attention_heads > 0 && video.decoder_num_attention_heads > 0,
                "num_attention_heads and decoder_num_attention_heads must be at least 1",
            ),
            (
                video.decoder_rope_dim_ratio <= 1.0 && video.turning() >= 6,
                "decoder_rope_dim_ratio must be at most 1, and turn a pair of channels for each axis",
            ),
            (
                video.latents_mean.len() as i64 == video.latent_channels,
                "latents_mean has another length",
            ),
            (
                video.latents_std.len() as i64 == video.latent_channels,
                "latents_std has another length",
            ),
            (
                net.rope_freq_dim > 0
                    && net.rope_freq_dim.saturating_mul(6) <= net.attention_head_dim,
                "rope_freq_dim must be at least 1, and no more than a head has channels for",
            ),
        ];
        match laws.iter().find(|(holds, _)| !holds) {
            Some((_, reason)) => Err(Fault::Input((*reason).into())),
            None => Ok(()),
        }
    }
}

// The table of types. Whatever no row names is narrow. Source: `_keep_in_fp32_modules` of the reference; norms
// and the video autoencoder's input projections are wide here in addition, which costs next to nothing.
const TRANSFORMER_WIDE: [&str; 4] = ["proj_in.", "proj_out.", "time_embedder.", "norm"];
// Its last projection is narrow, as published: what it rounds is below one level of an 8-bit pixel.
const VIDEO_VAE_WIDE: [&str; 5] =
    ["post_quant_conv.", "decoder.proj_in.", "register_tokens", "norm", "scale"];
const TEXT_WIDE: [&str; 1] = ["norm."];

fn width(key: &str, wide: &[&str]) -> Width {
    if wide.iter().any(|part| key.contains(part)) { Width::Wide } else { Width::Narrow }
}

/// The type of a tensor of the transformer.
pub fn transformer_width(key: &str) -> Width {
    width(key, &TRANSFORMER_WIDE)
}

/// The type of a tensor of the video autoencoder.
pub fn video_vae_width(key: &str) -> Width {
    width(key, &VIDEO_VAE_WIDE)
}

/// The type of a tensor of the sound autoencoder: always f32, bf16 is audibly wrong.
pub fn audio_vae_width(_key: &str) -> Width {
    Width::Wide
}

/// The type of a tensor of the text encoder.
pub fn text_width(key: &str) -> Width {
    width(key, &TEXT_WIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_config_obeys_the_laws() {
        Config::released().check().unwrap();
    }

    type Damage = fn(&mut AudioVaeConfig);

    /// Promise: a damaged config is refused when it is read. What is left to the networks would end the process.
    #[test]
    fn a_damaged_config_of_the_sound_is_refused() {
        let damages: [(&str, Damage); 8] = [
            ("decoder_kernel_sizes", |sound| sound.decoder_kernel_sizes.truncate(6)),
            ("decoder_kernel_sizes", |sound| sound.decoder_kernel_sizes[0] = 1),
            ("decoder_kernel_sizes", |sound| {
                sound.decoder_rates[0] = -5;
                sound.decoder_rates[1] = -5;
            }),
            ("decoder_dim", |sound| sound.decoder_dim = 64),
            ("resblock_kernel_sizes", |sound| sound.resblock_kernel_sizes.clear()),
            ("resblock_dilation_sizes", |sound| sound.resblock_dilation_sizes.truncate(2)),
            ("latents_mean", |sound| sound.latents_mean = Some(vec![0.0; 31])),
            ("latents_std", |sound| sound.latents_std = Some(vec![])),
        ];
        for (key, damage) in damages {
            let mut config = Config::released();
            damage(&mut config.audio_vae);
            let refused = config.check().expect_err(key).to_string();
            assert!(refused.contains(key), "{refused}");
        }
    }

    /// Promise: likewise of the other parts.
    #[test]
    fn a_damaged_config_of_text_transformer_or_picture_is_refused() {
        type Damage = fn(&mut Config);
        let damages: [(&str, Damage); 13] = [
            ("text_encoder_layer", |all| all.text.text_encoder_layer = -1),
            ("text_encoder_layer", |all| all.text.text_encoder_layer = 64),
            ("num_key_value_heads", |all| all.text.text_config.num_key_value_heads = 7),
            ("num_key_value_heads", |all| all.text.text_config.num_key_value_heads = 0),
            ("head_dim", |all| all.text.text_config.head_dim = 127),
            ("attention_head_dim", |all| all.transformer.attention_head_dim = 129),
            ("freq_dim", |all| all.transformer.freq_dim = 255),
            ("rope_freq_dim", |all| all.transformer.rope_freq_dim = 22),
            ("rope_freq_dim", |all| all.transformer.rope_freq_dim = 0),
            ("decoder_attention_head_dim", |all| all.video_vae.decoder_attention_head_dim = 63),
            ("decoder_rope_dim_ratio", |all| all.video_vae.decoder_rope_dim_ratio = 1.5),
            ("decoder_rope_dim_ratio", |all| all.video_vae.decoder_rope_dim_ratio = 0.05),
            ("decoder_rope_dim_ratio", |all| all.video_vae.decoder_rope_dim_ratio = f64::NAN),
        ];
        for (key, damage) in damages {
            let mut config = Config::released();
            damage(&mut config);
            let refused = config.check().expect_err(key).to_string();
            assert!(refused.contains(key), "{refused}");
        }
    }

    #[test]
    fn heads_norms_and_time_stay_f32_and_blocks_do_not() {
        for key in ["proj_in.weight", "audio_proj_out.bias", "transformer_blocks.3.norm1.weight"] {
            assert_eq!(transformer_width(key), Width::Wide, "{key}");
        }
        for key in ["context_embedder.weight", "transformer_blocks.3.adaln_proj.linear.bias"] {
            assert_eq!(transformer_width(key), Width::Narrow, "{key}");
        }
        assert_eq!(transformer_width("transformer_blocks.0.ff.net.0.proj.weight"), Width::Narrow);
    }
}
