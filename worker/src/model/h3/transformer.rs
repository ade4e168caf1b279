//! The transformer over the packed sequence: one stack of blocks, full attention, AdaLN by row kind.
//!
//! What does not change from step to step is computed once a render: the AdaLN tables ([`Tables`]), the angles
//! and the refined text ([`Prepared`]). The residual stream has the type of the blocks; norms, modulation and
//! both ends are f32. Rows of one kind are neighbours, so a table row is applied to a segment at a time.
//!
//! Source: huggingface/diffusers 0.42.1 `models/transformers/transformer_minimax_h3.py`; class names below.

use super::config::TransformerConfig;
use super::layout::{LEVELS, Layout, Segment, TAGS};
use crate::model::Fault;
use crate::model::nn::{HeadKeys, Heads, Linear, Result, RmsNorm, SelfAttention, SwiGlu, normed};
use crate::model::rope::{Rope, frequencies};
use crate::model::weights::{Scope, Weights};
use tch::{Device, Kind, Tensor};

/// Of a row's position: time, height, width.
const AXES: i64 = 3;

/// `MiniMaxH3Attention`.
fn self_attention(at: &Scope<'_>, config: &TransformerConfig) -> Result<SelfAttention> {
    const KEYS: HeadKeys = HeadKeys {
        projections: ["to_q", "to_k", "to_v", "to_out.0"],
        norms: Some(["norm_q", "norm_k"]),
    };
    let heads = Heads {
        d: config.hidden_size,
        count: config.num_attention_heads,
        keys: config.num_attention_heads,
        channels: config.attention_head_dim,
        turning: 2 * AXES * config.rope_freq_dim,
        bias: false,
        causal: false,
        epsilon: config.qk_norm_eps,
    };
    SelfAttention::new(at, heads, KEYS)
}

/// `MiniMaxH3TokenRefinerBlock`.
struct RefinerBlock {
    norm1: RmsNorm,
    attention: SelfAttention,
    norm2: RmsNorm,
    feed_forward: SwiGlu,
}

impl RefinerBlock {
    fn new(at: &Scope<'_>, config: &TransformerConfig) -> Result<Self> {
        let d = config.hidden_size;
        Ok(RefinerBlock {
            norm1: RmsNorm::new(&at.at("norm1"), d, config.norm_eps)?,
            attention: self_attention(&at.at("attn"), config)?,
            norm2: RmsNorm::new(&at.at("norm2"), d, config.norm_eps)?,
            feed_forward: SwiGlu::new(&at.at("ff"), d, config.ffn_dim, false)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result {
        let x = x.f_add(&self.attention.forward(&self.norm1.forward(x)?, None)?)?;
        x.f_add(&self.feed_forward.forward(&self.norm2.forward(&x)?)?)
    }
}

/// `MiniMaxH3TransformerBlock`.
struct Block {
    norm1: RmsNorm,
    attention: SelfAttention,
    norm2: RmsNorm,
    feed_forward: SwiGlu,
    /// Gone once the tables are made, where memory is short.
    modulation: Option<Linear>,
}

/// The AdaLN parameters of one block at one step, one row a (level, modality): `(levels · tags, d)` each. Scales have
/// their one and the gain of the norm in them, and are f32 as shifts are; gates have the type of the stream.
struct BlockTable {
    shift1: Tensor,
    scale1: Tensor,
    gate1: Tensor,
    shift2: Tensor,
    scale2: Tensor,
    gate2: Tensor,
}

impl Block {
    fn new(at: &Scope<'_>, config: &TransformerConfig) -> Result<Self> {
        let d = config.hidden_size;
        let modulation = at.at("adaln_proj.linear");
        Ok(Block {
            norm1: RmsNorm::new(&at.at("norm1"), d, config.norm_eps)?,
            attention: self_attention(&at.at("attn"), config)?,
            norm2: RmsNorm::new(&at.at("norm2"), d, config.norm_eps)?,
            feed_forward: SwiGlu::new(&at.at("ff"), d, config.ffn_dim, false)?,
            modulation: Some(Linear::new(&modulation, config.time_embed_dim, 6 * d * TAGS)?),
        })
    }

    /// `time`: (levels, e), activated.
    fn table(&self, time: &Tensor, d: i64) -> Result<BlockTable> {
        let modulation = self.modulation.as_ref().expect("tables are made before it is forgotten");
        // (levels, tags 6 d) to (levels tags, 6, d)
        let rows = modulation.forward(time)?.f_reshape([-1, 6, d])?;
        let kind = self.feed_forward.kind();
        let part = |index: i64, kind| rows.f_select(1, index)?.f_to_dtype(kind, false, true);
        let scale =
            |index, norm: &RmsNorm| norm.gained(part(index, Kind::Float)?.f_add_scalar(1.0)?);
        Ok(BlockTable {
            shift1: part(0, Kind::Float)?,
            scale1: scale(1, &self.norm1)?,
            gate1: part(2, kind)?,
            shift2: part(3, Kind::Float)?,
            scale2: scale(4, &self.norm2)?,
            gate2: part(5, kind)?,
        })
    }

    fn forward(&self, x: Tensor, table: &BlockTable, layout: &Prepared) -> Result {
        let parts = &layout.segments;
        let rows = modulate(&x, self.norm1.epsilon, &table.scale1, &table.shift1, parts)?;
        let mixed = self.attention.forward(&rows, Some(&layout.rope))?;
        let x = gated(x, &mixed, &table.gate1, parts)?;
        let rows = modulate(&x, self.norm2.epsilon, &table.scale2, &table.shift2, parts)?;
        gated(x, &self.feed_forward.forward(&rows)?, &table.gate2, parts)
    }
}

/// `norm(x) · scale + shift`, each segment with its table row. `scale` has its one added, and the norm's gain in it.
fn modulate(
    x: &Tensor,
    epsilon: f64,
    scale: &Tensor,
    shift: &Tensor,
    segments: &[Segment],
) -> Result {
    let normed = normed(x, epsilon)?;
    for segment in segments {
        let row = segment.table_row();
        let rows = normed.f_narrow(0, segment.start, segment.rows)?;
        let _ = shift.f_get(row)?.f_addcmul_out(&rows, &rows, &scale.f_get(row)?)?;
    }
    normed.f_to_dtype(x.f_kind()?, false, false)
}

/// `x + gate · y`, in place: no one else sees the stream.
fn gated(x: Tensor, y: &Tensor, gate: &Tensor, segments: &[Segment]) -> Result {
    for segment in segments {
        let mut rows = x.f_narrow(0, segment.start, segment.rows)?;
        let gate = gate.f_get(segment.table_row())?;
        let _ = rows.f_addcmul_(&y.f_narrow(0, segment.start, segment.rows)?, &gate)?;
    }
    Ok(x)
}

/// `MiniMaxH3AdaLayerNormOut`.
struct NormOut {
    norm: RmsNorm,
    modulation: Linear,
}

/// The AdaLN parameters of one step.
pub struct Table {
    blocks: Vec<BlockTable>,
    shift: Tensor,
    scale: Tensor,
}

/// The AdaLN parameters of a schedule, one table a step.
pub type Tables = Vec<Table>;

/// What one render needs at every step.
pub struct Prepared {
    /// (n of text, d): the text after projection and refiner.
    text: Tensor,
    rope: Rope,
    segments: Vec<Segment>,
    layout: Layout,
}

/// `MiniMaxH3Transformer3DModel`.
pub struct Transformer {
    config: TransformerConfig,
    device: Device,
    proj_in: Linear,
    audio_proj_in: Linear,
    context_embedder: Linear,
    time_embedder: [Linear; 2],
    refiner: Vec<RefinerBlock>,
    refiner_norm: RmsNorm,
    blocks: Vec<Block>,
    norm_out: NormOut,
    proj_out: Linear,
    audio_proj_out: Linear,
}

impl Transformer {
    /// Takes all weights of `transformer/`.
    ///
    /// # Errors
    /// `Fault::Weights` if they are not those of the config.
    pub fn load(
        weights: Weights,
        config: &TransformerConfig,
        device: Device,
    ) -> Result<Self, Fault> {
        let transformer = Self::new(&weights, config, device)?;
        weights.finish(|_| false)?;
        Ok(transformer)
    }

    /// As [`Transformer::load`], without the check that nothing is left over.
    ///
    /// # Errors
    /// If torch fails.
    pub fn new(weights: &Weights, config: &TransformerConfig, device: Device) -> Result<Self> {
        let at = weights.root();
        let (d, time) = (config.hidden_size, config.time_embed_dim);
        let (video, audio) = (config.video_row(), config.audio_in_channels);
        let refiner = at.at("token_refiner");
        let embedder = at.at("time_embedder");
        let hidden = config.time_embed_hidden_dim;
        let norm_out = at.at("norm_out");
        Ok(Transformer {
            config: config.clone(),
            device,
            proj_in: Linear::new(&at.at("proj_in"), video, d)?,
            audio_proj_in: Linear::new(&at.at("audio_proj_in"), audio, d)?,
            context_embedder: Linear::new(&at.at("context_embedder"), config.text_dim, d)?,
            time_embedder: [
                Linear::new(&embedder.at("linear_1"), config.freq_dim, hidden)?,
                Linear::new(&embedder.at("linear_2"), hidden, time)?,
            ],
            refiner: (0..config.num_refiner_layers)
                .map(|index| RefinerBlock::new(&refiner.at("refiner_blocks").at(index), config))
                .collect::<Result<_>>()?,
            refiner_norm: RmsNorm::new(&refiner.at("final_norm"), d, config.final_norm_eps)?,
            blocks: (0..config.num_layers)
                .map(|index| Block::new(&at.at("transformer_blocks").at(index), config))
                .collect::<Result<_>>()?,
            norm_out: NormOut {
                norm: RmsNorm::new(&norm_out.at("norm"), d, config.final_norm_eps)?,
                modulation: Linear::new(&norm_out.at("linear"), time, 2 * d)?,
            },
            proj_out: Linear::new(&at.at("proj_out"), d, video)?,
            audio_proj_out: Linear::new(&at.at("audio_proj_out"), d, audio)?,
        })
    }

    /// The AdaLN tables of a schedule: their inputs are known before the first step.
    ///
    /// `timesteps`: one row a step, one value a noise level (see [`super::layout::Level`]), 1 is clean.
    ///
    /// # Errors
    /// If torch fails.
    /// # Panics
    /// After [`Transformer::forget_modulation`].
    pub fn tables(&self, timesteps: &[[f32; LEVELS as usize]]) -> Result<Tables> {
        timesteps.iter().map(|levels| self.table(levels)).collect()
    }

    /// Drops the AdaLN projections of the blocks, two fifths of the released weights: a schedule's tables are all
    /// that a render needs of them.
    pub fn forget_modulation(&mut self) {
        for block in &mut self.blocks {
            block.modulation = None;
        }
    }

    fn table(&self, levels: &[f32]) -> Result<Table> {
        let time = self.embed_time(levels)?.f_silu()?;
        let d = self.config.hidden_size;
        let blocks =
            self.blocks.iter().map(|block| block.table(&time, d)).collect::<Result<_>>()?;
        let last = self.norm_out.modulation.forward(&time)?;
        let last = last.f_to_dtype(Kind::Float, false, false)?.f_chunk(2, -1)?;
        let scale = self.norm_out.norm.gained(last[1].f_add_scalar(1.0)?)?;
        Ok(Table { blocks, shift: last[0].f_contiguous()?, scale })
    }

    /// `Timesteps` with the cosine first, then `TimestepEmbedding`. (levels) to (levels, e), f32.
    fn embed_time(&self, levels: &[f32]) -> Result {
        let half = self.config.freq_dim / 2;
        let exponent = Tensor::f_arange(half, (Kind::Float, Device::Cpu))?
            .f_mul_scalar(-10_000f64.ln())?
            .f_div_scalar(half as f64)?;
        let angles = Tensor::f_from_slice(levels)?.f_unsqueeze(1)?.f_mul(&exponent.f_exp()?)?;
        let waves = Tensor::f_cat(&[angles.f_cos()?, angles.f_sin()?], -1)?.f_to(self.device)?;
        let [first, second] = &self.time_embedder;
        second.forward(&first.forward(&waves)?.f_silu()?)
    }

    /// What a render needs at every step: the refined text and the angles.
    ///
    /// # Shapes
    /// `text`: (n of text, text_dim), as the layout says.
    /// # Errors
    /// If torch fails.
    pub fn prepare(&self, text: &Tensor, layout: Layout) -> Result<Prepared> {
        let mut x = self.context_embedder.forward(&text.f_to(self.device)?)?;
        for block in &self.refiner {
            x = block.forward(&x)?;
        }
        let text = self.refiner_norm.forward(&x)?;
        let frequencies = frequencies(self.config.rope_freq_dim, self.config.rope_theta);
        let channels = self.config.attention_head_dim;
        let positions = layout.positions.as_flattened();
        let rope = Rope::new(positions, AXES, &frequencies, channels, self.device)?;
        Ok(Prepared { text, rope, segments: layout.segments().to_vec(), layout })
    }

    /// One forward: the velocity, which points to the data, of every video and sound row.
    ///
    /// # Shapes
    /// `video` and the first result: (n of video, 96) f32. `audio` and the second: (n of sound, 32) f32.
    /// # Errors
    /// If torch fails.
    pub fn forward(
        &self,
        video: &Tensor,
        audio: &Tensor,
        table: &Table,
        prepared: &Prepared,
    ) -> Result<(Tensor, Tensor)> {
        let kind = prepared.text.f_kind()?;
        let narrow = |rows: Tensor| rows.f_to_dtype(kind, false, false);
        let video = narrow(self.proj_in.forward(video)?)?;
        let audio = narrow(self.audio_proj_in.forward(audio)?)?;
        // The packed order of `Layout`.
        let mut x = Tensor::f_cat(&[&prepared.text, &audio, &video], 0)?;
        for (block, parameters) in self.blocks.iter().zip(&table.blocks) {
            x = block.forward(x, parameters, prepared)?;
        }
        let head = |segment: Segment, head: &Linear| -> Result {
            let rows = x.f_narrow(0, segment.start, segment.rows)?;
            let rows = normed(&rows, self.norm_out.norm.epsilon)?;
            let level = segment.level as i64;
            let scale = table.scale.f_get(level)?;
            head.forward(&table.shift.f_get(level)?.f_addcmul(&rows, &scale)?)
        };
        let layout = &prepared.layout;
        Ok((head(layout.video, &self.proj_out)?, head(layout.audio, &self.audio_proj_out)?))
    }
}
