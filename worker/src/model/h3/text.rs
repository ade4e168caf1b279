//! Prompt to conditioning: the tokenizer and the text path of Qwen3-VL.
//!
//! The presentation is that of the published t2va pipeline: the prompt as it is, no chat template, no special
//! tokens. The conditioning is the stream after `text_encoder_layer` layers, before any last norm; the layers
//! above it, the head and the vision tower are not loaded.
//!
//! Source: huggingface/diffusers 0.42.1 `modular_pipelines/minimax_h3/encoders.py`, `MiniMaxH3TextEncoderStep`;
//! huggingface/transformers 5.23.0 `models/qwen3_vl/modeling_qwen3_vl.py`, `Qwen3VLTextModel`.

use super::config::{TextConfig, TextEncoderConfig};
use super::rope::{Rope, frequencies};
use crate::model::Fault;
use crate::model::nn::{Linear, Result, RmsNorm, attention, rotate};
use crate::model::weights::{Scope, Weights};
use std::path::Path;
use tch::{Device, Tensor};
use tokenizers::Tokenizer;

struct TextLayer {
    before_attention: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    before_feed_forward: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    heads: i64,
    key_heads: i64,
}

impl TextLayer {
    fn new(at: &Scope<'_>, config: &TextConfig) -> Result<Self> {
        let (d, inner, epsilon) =
            (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
        let (heads, key_heads, c) =
            (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let attention = at.at("self_attn");
        let linear = |at: Scope<'_>, input, output| Linear::without_bias(&at, input, output);
        Ok(TextLayer {
            before_attention: RmsNorm::new(&at.at("input_layernorm"), d, epsilon)?,
            q: linear(attention.at("q_proj"), d, heads * c)?,
            k: linear(attention.at("k_proj"), d, key_heads * c)?,
            v: linear(attention.at("v_proj"), d, key_heads * c)?,
            o: linear(attention.at("o_proj"), heads * c, d)?,
            norm_q: RmsNorm::new(&attention.at("q_norm"), c, epsilon)?,
            norm_k: RmsNorm::new(&attention.at("k_norm"), c, epsilon)?,
            before_feed_forward: RmsNorm::new(&at.at("post_attention_layernorm"), d, epsilon)?,
            gate: linear(at.at("mlp.gate_proj"), d, inner)?,
            up: linear(at.at("mlp.up_proj"), d, inner)?,
            down: linear(at.at("mlp.down_proj"), inner, d)?,
            heads,
            key_heads,
        })
    }

    /// `x`: (n, d).
    fn forward(&self, x: &Tensor, rope: &Rope) -> Result {
        let normed = self.before_attention.forward(x)?;
        // (n, a c) to (n, a, c), turned, to (1, a, n, c).
        let heads = |rows: Tensor, count: i64| rows.f_unflatten(-1, [count, -1]);
        let across = |rows: Tensor| rows.f_transpose(0, 1)?.f_unsqueeze(0);
        let turned = |rows: Tensor, norm: &RmsNorm| -> Result {
            let kind = rows.f_kind()?;
            let turned = rotate(&norm.wide(&rows)?, &rope.cos, &rope.sin)?;
            across(turned.f_to_dtype(kind, false, false)?)
        };
        let q = turned(heads(self.q.forward(&normed)?, self.heads)?, &self.norm_q)?;
        let k = turned(heads(self.k.forward(&normed)?, self.key_heads)?, &self.norm_k)?;
        let v = across(heads(self.v.forward(&normed)?, self.key_heads)?)?;
        let mixed = attention(&q, &k, &v, true)?.f_squeeze_dim(0)?.f_transpose(0, 1)?;
        let x = x.f_add(&self.o.forward(&mixed.f_flatten(1, 2)?)?)?;
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
        Ok(TextEncoder { embedding, layers, frequencies, device, tokens_max })
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
        let rope = Rope::new(&positions, 1, &self.frequencies, self.device)?;
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
