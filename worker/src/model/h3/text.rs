//! Prompt to conditioning: the tokenizer and the text path of Qwen3-VL.
//!
//! The presentation is that of the published t2va pipeline: the prompt as it is, no chat template, no special
//! tokens. The conditioning is the stream after `text_encoder_layer` layers, before any last norm; the layers
//! above it, the head and the vision tower are not loaded.
//!
//! Source: huggingface/diffusers 0.42.1 `modular_pipelines/minimax_h3/encoders.py`, `MiniMaxH3TextEncoderStep`;
//! huggingface/transformers 5.23.0 `models/qwen3_vl/modeling_qwen3_vl.py`, `Qwen3VLTextModel`.

use super::config::{TextConfig, TextEncoderConfig};
use crate::model::Fault;
use crate::model::nn::{HeadKeys, Heads, Linear, Result, RmsNorm, SelfAttention};
use crate::model::rope::{Rope, frequencies};
use crate::model::weights::{Scope, Weights};
use std::path::Path;
use tch::{Device, Tensor};
use tokenizers::Tokenizer;

struct TextLayer {
    before_attention: RmsNorm,
    attention: SelfAttention,
    before_feed_forward: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl TextLayer {
    fn new(at: &Scope<'_>, config: &TextConfig) -> Result<Self> {
        let (d, inner, epsilon) =
            (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
        const KEYS: HeadKeys = HeadKeys {
            projections: ["q_proj", "k_proj", "v_proj", "o_proj"],
            norms: Some(["q_norm", "k_norm"]),
        };
        let heads = Heads {
            d,
            count: config.num_attention_heads,
            keys: config.num_key_value_heads,
            channels: config.head_dim,
            turning: config.head_dim,
            bias: false,
            causal: true,
            epsilon,
        };
        let linear = |at: Scope<'_>, input, output| Linear::without_bias(&at, input, output);
        Ok(TextLayer {
            before_attention: RmsNorm::new(&at.at("input_layernorm"), d, epsilon)?,
            attention: SelfAttention::new(&at.at("self_attn"), heads, KEYS)?,
            before_feed_forward: RmsNorm::new(&at.at("post_attention_layernorm"), d, epsilon)?,
            gate: linear(at.at("mlp.gate_proj"), d, inner)?,
            up: linear(at.at("mlp.up_proj"), d, inner)?,
            down: linear(at.at("mlp.down_proj"), inner, d)?,
        })
    }

    /// `x`: (n, d).
    fn forward(&self, x: &Tensor, rope: &Rope) -> Result {
        let normed = self.before_attention.forward(x)?;
        let x = x.f_add(&self.attention.forward(&normed, Some(rope))?)?;
        let normed = self.before_feed_forward.forward(&x)?;
        let inner = self.gate.forward(&normed)?.f_silu()?.f_mul(&self.up.forward(&normed)?)?;
        x.f_add(&self.down.forward(&inner)?)
    }
}

/// The text path, as deep as the conditioning needs it.
pub struct TextEncoder {
    embedding: Tensor,
    layers: Vec<TextLayer>,
    frequencies: Vec<f32>,
    channels: i64,
    device: Device,
    tokens_max: usize,
}

impl TextEncoder {
    /// Takes the weights below `model.language_model`.
    ///
    /// # Errors
    /// `Fault::Weights` if they are not those of the config.
    pub fn load(
        weights: Weights,
        config: &TextEncoderConfig,
        device: Device,
    ) -> Result<Self, Fault> {
        let encoder = Self::new(&weights, config, device)?;
        let layers = config.text_encoder_layer;
        weights.finish(|key| is_beyond_text(key, layers))?;
        Ok(encoder)
    }

    /// As [`TextEncoder::load`], without the check that nothing is left over.
    ///
    /// # Errors
    /// If torch fails.
    pub fn new(weights: &Weights, config: &TextEncoderConfig, device: Device) -> Result<Self> {
        let at = weights.root().at("model.language_model");
        let text = &config.text_config;
        let embedding =
            at.at("embed_tokens").tensor("weight", &[text.vocab_size, text.hidden_size])?;
        let layers = (0..config.text_encoder_layer)
            .map(|index| TextLayer::new(&at.at("layers").at(index), text))
            .collect::<Result<_>>()?;
        let frequencies = frequencies(text.head_dim / 2, text.theta());
        let tokens_max = usize::try_from(text.max_position_embeddings).unwrap_or(usize::MAX);
        Ok(TextEncoder {
            embedding,
            layers,
            frequencies,
            channels: text.head_dim,
            device,
            tokens_max,
        })
    }

    /// Tokens that a prompt may have.
    pub fn tokens_max(&self) -> usize {
        self.tokens_max
    }

    /// The conditioning of a tokenized prompt.
    ///
    /// # Shapes
    /// The result: `(n, hidden_size)`, one row a token, in the type of the embedding.
    /// # Errors
    /// `Fault::Input` if there is no token, or more than the model has positions for.
    pub fn forward(&self, tokens: &[i64]) -> Result<Tensor, Fault> {
        if tokens.is_empty() || tokens.len() > self.tokens_max {
            let (count, most) = (tokens.len(), self.tokens_max);
            return Err(Fault::Input(format!("the prompt has {count} tokens, not 1 to {most}")));
        }
        let ids = Tensor::f_from_slice(tokens)?.f_to(self.device)?;
        let mut x = Tensor::f_embedding(&self.embedding, &ids, -1, false, false)?;
        let positions: Vec<f32> = (0..tokens.len()).map(|row| row as f32).collect();
        let rope = Rope::new(&positions, 1, &self.frequencies, self.channels, self.device)?;
        for layer in &self.layers {
            x = layer.forward(&x, &rope)?;
        }
        Ok(x)
    }
}

/// Whether the text path does without a key: the vision tower, the head, the layers above the conditioning.
pub fn is_beyond_text(key: &str, layers: i64) -> bool {
    let Some(rest) = key.strip_prefix("model.language_model.") else {
        return key.starts_with("model.visual.") || key == "lm_head.weight";
    };
    let layer = rest.strip_prefix("layers.").and_then(|rest| rest.split('.').next());
    rest == "norm.weight"
        || layer.and_then(|index| index.parse::<i64>().ok()).is_some_and(|index| index >= layers)
}

/// Reads `tokenizer/tokenizer.json`.
///
/// # Errors
/// `Fault::File` if it is missing or damaged.
pub fn read_tokenizer(folder: &Path) -> Result<Tokenizer, Fault> {
    let path = folder.join("tokenizer/tokenizer.json");
    Tokenizer::from_file(&path).map_err(|error| Fault::file(&path, error))
}

/// The tokens of a prompt, as the published pipeline presents it.
///
/// # Errors
/// `Fault::Input` if the tokenizer refuses it.
pub fn tokenize(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<i64>, Fault> {
    let encoding =
        tokenizer.encode(prompt, false).map_err(|error| Fault::Input(error.to_string()))?;
    Ok(encoding.get_ids().iter().map(|id| i64::from(*id)).collect())
}

/// As [`tokenize`], of so much of the prompt's beginning as makes no more than `most` tokens. What is behind it is left out as
/// text and not as tokens, so that what a tokenizer puts behind every prompt stays.
///
/// # Errors
/// `Fault::Input` if the tokenizer refuses it.
pub fn tokenize_within(
    tokenizer: &Tokenizer,
    prompt: &str,
    most: usize,
) -> Result<Vec<i64>, Fault> {
    let whole = tokenize(tokenizer, prompt)?;
    if whole.len() <= most {
        return Ok(whole);
    }
    let ends: Vec<usize> = prompt.char_indices().map(|(at, _)| at).collect();
    // More text is more tokens, or nearly so: what is found fits, though a little more might.
    let (mut known, mut over, mut fits) = (0, ends.len(), Vec::new());
    while over - known > 1 {
        let middle = known.midpoint(over);
        let tokens = tokenize(tokenizer, &prompt[..ends[middle]])?;
        if tokens.len() <= most {
            (known, fits) = (middle, tokens);
        } else {
            over = middle;
        }
    }
    Ok(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: a prompt that is longer than the model counts as far as it fits, and keeps what stands behind every prompt.
    #[test]
    fn a_long_prompt_counts_as_far_as_it_fits() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/toybox");
        let tokenizer = read_tokenizer(Path::new(folder)).expect("the tokenizer");
        let of = |prompt: &str| tokenize_within(&tokenizer, prompt, 1_024).expect("tokens");
        let behind = of(" ");
        assert_eq!(behind.len(), 32);
        for ball in ["ball ", "ball-"] {
            let long = of(&ball.repeat(6_400));
            assert_eq!(long.len(), 1_024);
            assert_eq!(long[..992], of(&ball.repeat(992))[..992]);
            assert_eq!(long[992..], behind);
        }
    }
}
