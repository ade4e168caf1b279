//! The few layers that the networks share, and the one attention function.
//!
//! Every layer knows its shape before it sees a weight, so that loading checks it. Norms compute in f32 whatever
//! the type of their input, and return that type. What is fresh is changed in place: on a processor most of the time
//! beside the products goes into reading and writing rows.

use super::rope::Rope;
use super::weights::Scope;
use tch::{Device, Kind, TchError, Tensor};

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

    /// The layer that makes the outputs of `layers` side by side. None of them may have a bias, or all.
    fn joined(layers: &[Linear]) -> Result<Self> {
        let weights: Vec<&Tensor> = layers.iter().map(|layer| &layer.weight).collect();
        let biases: Option<Vec<&Tensor>> = layers.iter().map(|layer| layer.bias.as_ref()).collect();
        let bias = biases.map(|biases| Tensor::f_cat(&biases, 0)).transpose()?;
        Ok(Linear { weight: Tensor::f_cat(&weights, 0)?, bias })
    }

    /// The layer whose outputs are (count, channels), with the channels at `order` of each.
    fn reordered(&self, count: i64, order: &Tensor) -> Result<Self> {
        let order = |of: &Tensor| -> Result {
            of.f_unflatten(0, [count, -1])?.f_index_select(1, order)?.f_flatten(0, 1)
        };
        let bias = self.bias.as_ref().map(order).transpose()?;
        Ok(Linear { weight: order(&self.weight)?, bias })
    }

    /// The type that it computes in.
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }
}

/// Root-mean-square norm over the last axis, with a gain; [`normed`] is the one without.
pub struct RmsNorm {
    /// The gain (d), f32.
    gain: Tensor,
    /// Added to the mean square.
    pub epsilon: f64,
}

impl RmsNorm {
    /// Takes `weight` (d).
    pub fn new(at: &Scope<'_>, d: i64, epsilon: f64) -> Result<Self> {
        Ok(RmsNorm { gain: at.tensor("weight", &[d])?, epsilon })
    }

    /// f32 of the same shape, nobody else's.
    pub fn wide(&self, x: &Tensor) -> Result {
        normed(x, self.epsilon)?.f_mul_(&self.gain)
    }

    /// The gain into factors that come after the norm.
    pub fn gained(&self, mut factors: Tensor) -> Result {
        factors.f_mul_(&self.gain)
    }

    /// The same shape and type.
    pub fn forward(&self, x: &Tensor) -> Result {
        self.wide(x)?.f_to_dtype(x.f_kind()?, false, false)
    }
}

/// Rows divided by their root mean square: f32 of the same shape, nobody else's.
pub fn normed(x: &Tensor, epsilon: f64) -> Result {
    let d = *x.size().last().unwrap_or(&0);
    let is_wide = x.f_kind()? == Kind::Float;
    let mut wide = x.f_to_dtype(Kind::Float, false, false)?;
    if wide.device().is_cuda() {
        return wide.f_rms_norm(d, None::<&Tensor>, epsilon);
    }
    // Where torch has no kernel for it, it squares the rows into memory first: 1.5 times as long.
    let length = wide.f_norm_scalaropt_dim(2.0, [-1].as_slice(), true)?;
    let mean = length.f_square()?.f_div_scalar_(d as f64)?;
    let factor = mean.f_add_scalar(epsilon)?.f_rsqrt_()?;
    if is_wide { wide.f_mul(&factor) } else { wide.f_mul_(&factor) }
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

    /// The type that it computes in.
    pub fn kind(&self) -> Kind {
        self.down.kind()
    }

    /// (…, d) to (…, d).
    pub fn forward(&self, x: &Tensor) -> Result {
        let mut halves = self.up.forward(x)?.f_chunk(2, -1)?;
        let gate = halves[1].f_silu_()?;
        self.down.forward(&halves[0].f_mul(&gate)?)
    }
}

/// What a self-attention looks like.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Width of a row.
    pub d: i64,
    /// Heads of the queries.
    pub count: i64,
    /// Heads of keys and values: as many, or a divisor.
    pub keys: i64,
    /// Channels of a head.
    pub channels: i64,
    /// Channels of a head that turn with the position: the first ones.
    pub turning: i64,
    /// Whether the projections have biases.
    pub bias: bool,
    /// Whether a row sees only those before it.
    pub causal: bool,
    /// Of the norm of queries and keys.
    pub epsilon: f64,
}

/// The keys of a self-attention, as its network calls them.
#[derive(Clone, Copy, Debug)]
pub struct HeadKeys {
    /// Projections to queries, keys and values, and out of the heads.
    pub projections: [&'static str; 4],
    /// Gains of the norms of queries and keys, if these have any.
    pub norms: Option<[&'static str; 2]>,
}

/// Self-attention over the rows of one sequence, with normed queries and keys.
///
/// Channels that turn together are i and i + half in the weights, and neighbours here: a turn is then one product of
/// complex numbers, and what queries and keys say of each other does not depend on the order of their channels.
pub struct SelfAttention {
    heads: Heads,
    qkv: Linear,
    /// (heads of queries and keys, c), f32.
    gain: Option<Tensor>,
    out: Linear,
}

impl SelfAttention {
    /// Takes the four projections and, where there are any, the two gains.
    pub fn new(at: &Scope<'_>, heads: Heads, keys: HeadKeys) -> Result<Self> {
        let Heads { d, count, keys: key_heads, channels: c, .. } = heads;
        let linear = if heads.bias { Linear::new } else { Linear::without_bias };
        let project = |key: &str, count: i64| linear(&at.at(key), d, count * c);
        let [q, k, v, out] = keys.projections;
        let (q, k, v) = (project(q, count)?, project(k, key_heads)?, project(v, key_heads)?);
        let out = linear(&at.at(out), count * c, d)?;
        let gains = keys.norms.map(|keys| keys.map(|key| at.at(key).tensor("weight", &[c])));
        let gains = gains.map(|[q, k]| Ok::<_, tch::TchError>((q?, k?))).transpose()?;
        if at.is_listing() {
            return Ok(SelfAttention { heads, qkv: q, gain: None, out });
        }
        let order = paired(c, heads.turning)?.f_to(q.weight.device())?;
        let gain = |(q, k): (Tensor, Tensor)| -> Result {
            let each =
                |gain: Tensor, count| gain.f_index_select(0, &order)?.f_expand([count, c], false);
            Tensor::f_cat(&[each(q, count)?, each(k, key_heads)?], 0)
        };
        let gain = gains.map(gain).transpose()?;
        let (q, k) = (q.reordered(count, &order)?, k.reordered(key_heads, &order)?);
        Ok(SelfAttention { heads, qkv: Linear::joined(&[q, k, v])?, gain, out })
    }

    /// (n, d) to (n, d). Without a rope nothing turns.
    pub fn forward(&self, x: &Tensor, rope: Option<&Rope>) -> Result {
        let Heads { count, keys, causal, epsilon, .. } = self.heads;
        // (n, a c) to (n, a, c)
        let all = self.qkv.forward(x)?.f_unflatten(-1, [count + 2 * keys, -1])?;
        let mut turned = normed(&all.f_narrow(1, 0, count + keys)?, epsilon)?;
        if let Some(gain) = &self.gain {
            turned = turned.f_mul_(gain)?;
        }
        if let Some(rope) = rope {
            rope.turn(&turned)?;
        }
        let turned = turned.f_to_dtype(all.f_kind()?, false, false)?;
        // (n, a, c) to (1, a, n, c)
        let across = |rows: &Tensor, from, count| -> Result {
            rows.f_narrow(1, from, count)?.f_transpose(0, 1)?.f_unsqueeze(0)
        };
        let (q, k) = (across(&turned, 0, count)?, across(&turned, count, keys)?);
        let v = across(&all, count + keys, keys)?;
        let mixed = attention(&q, &k, &v, causal)?.f_squeeze_dim(0)?.f_transpose(0, 1)?;
        self.out.forward(&mixed.f_flatten(1, 2)?)
    }
}

/// The order of a head's channels in which those that turn together are neighbours.
fn paired(channels: i64, turning: i64) -> Result {
    let pairs = (0..turning / 2).flat_map(|i| [i, i + turning / 2]);
    let order: Vec<i64> = pairs.chain(turning..channels).collect();
    Tensor::f_from_slice(&order)
}

/// `softmax(q k^T / sqrt(d)) v`, full or causal. Fewer key heads than query heads share them in turn.
///
/// # Shapes
/// `q`: (b, a, n, d). `k`, `v`: (b, a or a divisor of it, m, d). The result: (b, a, n, d).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Result {
    let grouped = q.size().get(1) != k.size().get(1);
    let narrow = q.f_kind()? == Kind::BFloat16 && q.device() == Device::Cpu;
    if narrow && !causal && !grouped && has_rows_only() {
        return attention_by_products(q, k, v);
    }
    // Torch's fused kernel never holds the scores, and uses the tiles of AMX for bf16: on a processor that has them,
    // products one after the other took 2.3 times as long.
    Tensor::f_scaled_dot_product_attention(q, k, v, None::<Tensor>, 0.0, causal, None, grouped)
}

/// The same by plain products, a block of queries after the other.
///
/// Without tiles torch's fused kernel computes bf16 as f32: 2,900 rows with 4 heads of 128 took it 105 ms, and these
/// products, which use the instructions for bf16, 60 ms. A block is small enough for its scores to stay in the cache.
fn attention_by_products(q: &Tensor, k: &Tensor, v: &Tensor) -> Result {
    const BLOCK: i64 = 256;
    let (b, a, n, d) = q.size4()?;
    // (b, n, a, d), as the rows of its caller lie, seen as (b, a, n, d)
    let out = Tensor::f_empty([b, n, a, d], (q.f_kind()?, q.device()))?.f_transpose(1, 2)?;
    let q = q.f_mul_scalar((d as f64).sqrt().recip())?;
    for (batch, head) in (0..b).flat_map(|batch| (0..a).map(move |head| (batch, head))) {
        let one = |x: &Tensor| x.f_select(0, batch)?.f_select(0, head);
        let (q, k, v, out) = (one(&q)?, one(k)?.f_transpose(0, 1)?, one(v)?, one(&out)?);
        for from in (0..n).step_by(BLOCK as usize) {
            let rows = BLOCK.min(n - from);
            let shares = q.f_narrow(0, from, rows)?.f_mm(&k)?.f_softmax(-1, None::<Kind>)?;
            out.f_narrow(0, from, rows)?.f_copy_(&shares.f_mm(&v)?)?;
        }
    }
    Ok(out)
}

/// Whether the processor multiplies rows of bf16, but not tiles of it (AMX).
fn has_rows_only() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        // Leaf 7 is there where bf16 is. The standard library does not name this feature yet.
        const AMX_BF16: u32 = 1 << 22;
        std::arch::is_x86_feature_detected!("avx512bf16")
            && std::arch::x86_64::__cpuid_count(7, 0).edx & AMX_BF16 == 0
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
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
        // On each processor, whichever it would take.
        let exact = attention_by_products(&q, &k, &v).unwrap();
        let close = attention_by_products(&narrow(&q), &narrow(&k), &narrow(&v)).unwrap();
        assert!(error(exact) < 1e-5);
        assert!(error(close) < 2e-2);
    }
}
