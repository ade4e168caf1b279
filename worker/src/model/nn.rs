//! The few layers that the networks share, and the one attention function.
//!
//! Every layer knows its shape before it sees a weight, so that loading checks it. Norms compute in f32 whatever
//! the type of their input, and return that type.

use super::weights::Scope;
use tch::{Kind, TchError, Tensor};

/// Result of torch calls.
pub type Result<T = Tensor, E = TchError> = std::result::Result<T, E>;

/// `x W^T + b`, computed in the type of the weight.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Takes `weight` (output, input) and `bias` (output).
    pub fn new(at: &Scope<'_>, input: i64, output: i64) -> Result<Self> {
        let weight = at.tensor("weight", &[output, input])?;
        Ok(Linear { weight, bias: Some(at.tensor("bias", &[output])?) })
    }

    /// Takes `weight` alone.
    pub fn without_bias(at: &Scope<'_>, input: i64, output: i64) -> Result<Self> {
        Ok(Linear { weight: at.tensor("weight", &[output, input])?, bias: None })
    }

    /// A convolution with kernel 1, whose weight is (output, input, 1, …), as a linear layer on the last axis.
    pub fn pointwise(at: &Scope<'_>, input: i64, output: i64, axes: usize) -> Result<Self> {
        let mut shape = vec![output, input];
        shape.resize(2 + axes, 1);
        let weight = at.tensor("weight", &shape)?.f_reshape([output, input])?;
        Ok(Linear { weight, bias: Some(at.tensor("bias", &[output])?) })
    }

    /// (…, input) to (…, output). The input is brought to the type of the weight.
    pub fn forward(&self, x: &Tensor) -> Result {
        x.f_to_dtype(self.kind(), false, false)?.f_linear(&self.weight, self.bias.as_ref())
    }

    /// The layer that makes some of the outputs: where these are an array of `shape`, those at `index` of `dim`.
    pub fn outputs(&self, shape: &[i64], dim: i64, index: i64) -> Result<Self> {
        let weight = self.weight.f_reshape([shape, &[-1]].concat())?.f_select(dim, index)?;
        let weight = weight.f_flatten(0, -2)?;
        let pick = |bias: &Tensor| bias.f_reshape(shape)?.f_select(dim, index)?.f_flatten(0, -1);
        Ok(Linear { weight, bias: self.bias.as_ref().map(pick).transpose()? })
    }

    /// The type that it computes in.
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }
}

/// Root-mean-square norm over the last axis, with or without a gain.
pub struct RmsNorm {
    /// The gain (d), f32.
    pub gain: Option<Tensor>,
    /// Added to the mean square.
    pub epsilon: f64,
}

impl RmsNorm {
    /// Takes `weight` (d).
    pub fn new(at: &Scope<'_>, d: i64, epsilon: f64) -> Result<Self> {
        Ok(RmsNorm { gain: Some(at.tensor("weight", &[d])?), epsilon })
    }

    /// Norm without a gain.
    pub fn plain(epsilon: f64) -> Self {
        RmsNorm { gain: None, epsilon }
    }

    /// f32 of the same shape.
    pub fn wide(&self, x: &Tensor) -> Result {
        let d = *x.size().last().unwrap_or(&0);
        let x = x.f_to_dtype(Kind::Float, false, false)?;
        x.f_rms_norm(d, self.gain.as_ref(), self.epsilon)
    }

    /// The same shape and type.
    pub fn forward(&self, x: &Tensor) -> Result {
        self.wide(x)?.f_to_dtype(x.f_kind()?, false, false)
    }
}

/// Mean and variance norm over the last axis, in f32.
pub struct LayerNorm {
    gain: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    /// Takes `weight` (d) and `bias` (d).
    pub fn new(at: &Scope<'_>, d: i64, epsilon: f64) -> Result<Self> {
        let gain = at.tensor("weight", &[d])?;
        Ok(LayerNorm { gain, bias: at.tensor("bias", &[d])?, epsilon })
    }

    /// f32 of the same shape.
    pub fn forward(&self, x: &Tensor) -> Result {
        let x = x.f_to_dtype(Kind::Float, false, false)?;
        x.f_layer_norm(self.gain.size(), Some(&self.gain), Some(&self.bias), self.epsilon, false)
    }
}

/// Feed-forward with a gate: `W2 (a · silu(b))`, where `W1 x = [a | b]`.
pub struct SwiGlu {
    up: Linear,
    down: Linear,
}

impl SwiGlu {
    /// Takes `net.0.proj` (2 inner, d) and `net.2` (d, inner), with biases if `bias`.
    pub fn new(at: &Scope<'_>, d: i64, inner: i64, bias: bool) -> Result<Self> {
        let linear = if bias { Linear::new } else { Linear::without_bias };
        let up = linear(&at.at("net.0.proj"), d, 2 * inner)?;
        Ok(SwiGlu { up, down: linear(&at.at("net.2"), inner, d)? })
    }

    /// (…, d) to (…, d).
    pub fn forward(&self, x: &Tensor) -> Result {
        let halves = self.up.forward(x)?.f_chunk(2, -1)?;
        self.down.forward(&halves[1].f_silu()?.f_mul(&halves[0])?)
    }
}

/// Turns the first `2 c` channels of every head: pairs are (i, i + c), where c is the width of the tables.
///
/// # Shapes
/// `x`: (…, n, a, d). `cos`, `sin`: (n, 1, c), with 2 c at most d. The result has the shape and type of `x`.
pub fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result {
    let c = *cos.size().last().unwrap_or(&0);
    let d = *x.size().last().unwrap_or(&0);
    let (first, second) = (x.f_narrow(-1, 0, c)?, x.f_narrow(-1, c, c)?);
    let turned_first = first.f_mul(cos)?.f_sub(&second.f_mul(sin)?)?;
    let turned_second = second.f_mul(cos)?.f_add(&first.f_mul(sin)?)?;
    if 2 * c == d {
        return Tensor::f_cat(&[turned_first, turned_second], -1);
    }
    Tensor::f_cat(&[turned_first, turned_second, x.f_narrow(-1, 2 * c, d - 2 * c)?], -1)
}

/// `softmax(q k^T / sqrt(d)) v`, full or causal. Fewer key heads than query heads share them in turn.
///
/// # Shapes
/// `q`: (b, a, n, d). `k`, `v`: (b, a or a divisor of it, m, d). The result: (b, a, n, d).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Result {
    let grouped = q.size().get(1) != k.size().get(1);
    // Torch's fused kernel: with libtorch 2.13 it uses a processor's bf16 instructions, also the tiles of AMX, and
    // never holds the scores. One of our own, a part of the queries after the other, took 2.3 times as long.
    Tensor::f_scaled_dot_product_attention(q, k, v, None::<Tensor>, 0.0, causal, None, grouped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, a: i64, n: i64) -> Tensor {
        let count = (a * n * 32) as usize;
        let values =
            crate::model::noise::normal(seed, crate::model::noise::Stream::Video, 0, count);
        Tensor::from_slice(&values).reshape([1, a, n, 32])
    }

    #[test]
    fn attention_is_what_its_formula_says_in_both_precisions() {
        let (q, k, v) = (noise(1, 2, 1300), noise(2, 2, 1300), noise(3, 2, 1300));
        let narrow = |x: &Tensor| x.to_kind(Kind::BFloat16);
        let scores: Tensor = q.matmul(&k.transpose(-2, -1)) / 32f64.sqrt();
        let plain = scores.softmax(-1, Kind::Float).matmul(&v);
        let exact = attention(&q, &k, &v, false).unwrap();
        let close = attention(&narrow(&q), &narrow(&k), &narrow(&v), false).unwrap();
        let error = |x: Tensor| {
            let difference = (x.to_kind(Kind::Float) - &plain).abs().max().double_value(&[]);
            difference / plain.abs().max().double_value(&[])
        };
        assert!(error(exact) < 1e-5);
        assert!(error(close) < 2e-2);
    }
}
