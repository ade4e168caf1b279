//! Encoder and decoder: blocks that are normed first, learned positions, one attention of 6 heads of 64.
//!
//! # Shapes
//! `b` is 1; `n` places of the sound, `t` tokens, `d` width, `a` heads.

use super::config::{HEADS, LAYERS, MELS, PLACES, TOKENS, VOCABULARY, WIDTH};
use crate::model::nn::{LayerNorm, Linear, Result};
use crate::model::weights::Scope;
use tch::Tensor;

const EPSILON: f64 = 1e-5;

/// A convolution of kernel 3 in time.
struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
}

impl Conv {
    fn new(at: &Scope<'_>, input: i64, stride: i64) -> Result<Conv> {
        let weight = at.tensor("weight", &[WIDTH, input, 3])?;
        Ok(Conv { weight, bias: at.tensor("bias", &[WIDTH])?, stride })
    }

    fn forward(&self, x: &Tensor) -> Result {
        let x = x.f_to_dtype(self.weight.f_kind()?, false, false)?;
        x.f_conv1d(&self.weight, Some(&self.bias), [self.stride], [1], [1], 1)?.f_gelu("none")
    }
}

/// Attention, without what it looks at.
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

/// Keys and values: (b, a, n, d / a).
struct Seen {
    keys: Tensor,
    values: Tensor,
}

impl Attention {
    fn new(at: &Scope<'_>) -> Result<Attention> {
        Ok(Attention {
            query: Linear::new(&at.at("q_proj"), WIDTH, WIDTH)?,
            key: Linear::without_bias(&at.at("k_proj"), WIDTH, WIDTH)?,
            value: Linear::new(&at.at("v_proj"), WIDTH, WIDTH)?,
            out: Linear::new(&at.at("out_proj"), WIDTH, WIDTH)?,
        })
    }

    fn see(&self, x: &Tensor) -> Result<Seen> {
        Ok(Seen { keys: heads(&self.key.forward(x)?)?, values: heads(&self.value.forward(x)?)? })
    }

    fn forward(&self, x: &Tensor, seen: &Seen, causal: bool) -> Result {
        let query = heads(&self.query.forward(x)?)?;
        let mixed = Tensor::f_scaled_dot_product_attention::<&Tensor>(
            &query,
            &seen.keys,
            &seen.values,
            None,
            0.0,
            causal,
            None,
            false,
        )?;
        let (b, t) = (mixed.size()[0], mixed.size()[2]);
        self.out.forward(&mixed.f_transpose(1, 2)?.f_reshape([b, t, WIDTH])?)
    }
}

/// (b, t, d) to (b, a, t, d / a).
fn heads(x: &Tensor) -> Result {
    let (b, t, d) = x.size3()?;
    x.f_reshape([b, t, HEADS, d / HEADS])?.f_transpose(1, 2)
}

struct FeedForward {
    norm: LayerNorm,
    up: Linear,
    down: Linear,
}

impl FeedForward {
    fn new(at: &Scope<'_>) -> Result<FeedForward> {
        Ok(FeedForward {
            norm: LayerNorm::new(&at.at("final_layer_norm"), WIDTH, EPSILON)?,
            up: Linear::new(&at.at("fc1"), WIDTH, 4 * WIDTH)?,
            down: Linear::new(&at.at("fc2"), 4 * WIDTH, WIDTH)?,
        })
    }

    fn add_to(&self, x: &Tensor) -> Result {
        let up = self.up.forward(&self.norm.forward(x)?)?.f_gelu("none")?;
        x.f_add(&self.down.forward(&up)?)
    }
}

struct EncoderLayer {
    norm: LayerNorm,
    own: Attention,
    feed: FeedForward,
}

/// From mel bands to what the decoder looks at.
pub(super) struct Encoder {
    conv1: Conv,
    conv2: Conv,
    positions: Tensor,
    layers: Vec<EncoderLayer>,
    norm: LayerNorm,
}

impl Encoder {
    pub fn new(at: &Scope<'_>) -> Result<Encoder> {
        let layer = |n: i64| -> Result<EncoderLayer> {
            let at = at.at("layers").at(n);
            Ok(EncoderLayer {
                norm: LayerNorm::new(&at.at("self_attn_layer_norm"), WIDTH, EPSILON)?,
                own: Attention::new(&at.at("self_attn"))?,
                feed: FeedForward::new(&at)?,
            })
        };
        Ok(Encoder {
            conv1: Conv::new(&at.at("conv1"), MELS, 1)?,
            conv2: Conv::new(&at.at("conv2"), WIDTH, 2)?,
            positions: at.tensor("embed_positions.weight", &[PLACES, WIDTH])?,
            layers: (0..LAYERS).map(layer).collect::<Result<_>>()?,
            norm: LayerNorm::new(&at.at("layer_norm"), WIDTH, EPSILON)?,
        })
    }

    /// (1, 80, 3000) to (1, 1500, d).
    pub fn forward(&self, mels: &Tensor) -> Result {
        let x = self.conv2.forward(&self.conv1.forward(mels)?)?;
        let mut x = x.f_transpose(1, 2)?.f_add(&self.positions)?;
        for layer in &self.layers {
            let normed = layer.norm.forward(&x)?;
            let own = layer.own.forward(&normed, &layer.own.see(&normed)?, false)?;
            x = layer.feed.add_to(&x.f_add(&own)?)?;
        }
        self.norm.forward(&x)
    }
}

struct DecoderLayer {
    own_norm: LayerNorm,
    own: Attention,
    sound_norm: LayerNorm,
    sound: Attention,
    feed: FeedForward,
}

/// What the decoder has seen so far.
pub(super) struct Past {
    sound: Vec<Seen>,
    own: Vec<Option<Seen>>,
    tokens: i64,
}

impl Past {
    /// Of a sound, before the first token.
    pub fn new(decoder: &Decoder, sound: &Tensor) -> Result<Past> {
        let sound =
            decoder.layers.iter().map(|layer| layer.sound.see(sound)).collect::<Result<_>>()?;
        Ok(Past { sound, own: decoder.layers.iter().map(|_| None).collect(), tokens: 0 })
    }
}

/// From tokens to what comes next.
pub(super) struct Decoder {
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<DecoderLayer>,
    norm: LayerNorm,
}

impl Decoder {
    pub fn new(at: &Scope<'_>) -> Result<Decoder> {
        let layer = |n: i64| -> Result<DecoderLayer> {
            let at = at.at("layers").at(n);
            Ok(DecoderLayer {
                own_norm: LayerNorm::new(&at.at("self_attn_layer_norm"), WIDTH, EPSILON)?,
                own: Attention::new(&at.at("self_attn"))?,
                sound_norm: LayerNorm::new(&at.at("encoder_attn_layer_norm"), WIDTH, EPSILON)?,
                sound: Attention::new(&at.at("encoder_attn"))?,
                feed: FeedForward::new(&at)?,
            })
        };
        Ok(Decoder {
            tokens: at.tensor("embed_tokens.weight", &[VOCABULARY, WIDTH])?,
            positions: at.tensor("embed_positions.weight", &[TOKENS, WIDTH])?,
            layers: (0..LAYERS).map(layer).collect::<Result<_>>()?,
            norm: LayerNorm::new(&at.at("layer_norm"), WIDTH, EPSILON)?,
        })
    }

    /// The logits behind each of these tokens, which follow those before: (t, v).
    pub fn forward(&self, tokens: &[i64], past: &mut Past) -> Result {
        let t = tokens.len() as i64;
        let ids = Tensor::f_from_slice(tokens)?;
        let places = self.positions.f_narrow(0, past.tokens, t)?;
        let mut x = self.tokens.f_index_select(0, &ids)?.f_add(&places)?.f_unsqueeze(0)?;
        for (n, layer) in self.layers.iter().enumerate() {
            let normed = layer.own_norm.forward(&x)?;
            let new = layer.own.see(&normed)?;
            let seen = match past.own[n].take() {
                None => new,
                Some(old) => Seen {
                    keys: Tensor::f_cat(&[&old.keys, &new.keys], 2)?,
                    values: Tensor::f_cat(&[&old.values, &new.values], 2)?,
                },
            };
            // Several tokens come only at the beginning; one alone may look at all that is there.
            x = x.f_add(&layer.own.forward(&normed, &seen, t > 1)?)?;
            past.own[n] = Some(seen);
            let normed = layer.sound_norm.forward(&x)?;
            x = x.f_add(&layer.sound.forward(&normed, &past.sound[n], false)?)?;
            x = layer.feed.add_to(&x)?;
        }
        past.tokens += t;
        self.norm.forward(&x)?.f_squeeze_dim(0)?.f_matmul(&self.tokens.f_tr()?)
    }
}
