//! Latents to frames: the ViT decoder, its tiles and its chunks.
//!
//! Owns the geometry of decoding. A chunk is 7 latent frames, which share two with the next; it becomes 17 frames
//! and 5 that the next chunk cross-fades with, so a clip is decoded with the memory of one chunk. A chunk's
//! picture is cut into tiles of 256 pixels that overlap by 64 or more and are blended: the released frames are
//! the blended ones.
//!
//! Source: huggingface/diffusers 0.42.1 `models/autoencoders/autoencoder_kl_minimax_h3.py`.

use super::config::VideoVaeConfig;
use crate::model::Fault;
use crate::model::nn::{
    HeadKeys, Heads, LayerNorm, Linear, Result, RmsNorm, SelfAttention, SwiGlu,
};
use crate::model::rope::Rope;
use crate::model::weights::{Scope, Weights};
use tch::{Device, Kind, Tensor};
use zoetrope_protocol::clip::{
    CHUNK_FRAMES, CHUNK_LATENTS, OVERLAP_FRAMES, OVERLAP_LATENTS, SPATIAL_COMPRESSION,
};

/// Mean of the pixels that the decoder makes, of 1.
const PIXEL_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Deviation of the pixels that the decoder makes, of 1.
const PIXEL_DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// Whether pictures are decoded in overlapping tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiling {
    /// As released.
    Tiles {
        /// Side of a tile in pixels.
        side: i64,
        /// Least overlap of two tiles in pixels.
        overlap: i64,
    },
    /// The whole picture at once; other frames, more memory.
    Whole,
}

impl Tiling {
    /// What the released frames were made with.
    pub const RELEASED: Tiling = Tiling::Tiles { side: 256, overlap: 64 };
}

/// Tiles along one side of a picture: where each begins, how long all are, how far neighbours overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tiles {
    starts: Vec<i64>,
    length: i64,
    overlaps: Vec<i64>,
}

impl Tiles {
    /// The fewest tiles that cover `length` pixels; what is too much widens the overlaps in turn, by whole latents.
    fn along(length: i64, tiling: Tiling) -> Self {
        let (side, overlap) = match tiling {
            Tiling::Tiles { side, overlap } if side < length => (side, overlap),
            _ => return Tiles { starts: vec![0], length, overlaps: Vec::new() },
        };
        let step = i64::from(SPATIAL_COMPRESSION);
        let gaps = usize::try_from((length - overlap + side - overlap - 1) / (side - overlap) - 1)
            .expect("a picture longer than a tile has gaps");
        let covered = side * (gaps as i64 + 1) - overlap * gaps as i64;
        let mut overlaps = vec![overlap; gaps];
        for extra in 0..((covered - length) / step) as usize {
            overlaps[extra % gaps] += step;
        }
        let mut starts = vec![0];
        for overlap in &overlaps {
            starts.push(starts[starts.len() - 1] + side - overlap);
        }
        Tiles { starts, length: side, overlaps }
    }
}

/// Latents of a chunk that become frames together: from, to, step, of the latents and of the chunk's frames.
///
/// A latent is decoded to four frames; of those of every fifth latent the first three repeat the last.
struct Run {
    latents: [i64; 3],
    frames: [i64; 3],
    /// Frames of each latent.
    each: i64,
}

/// The 7 latents and 22 frames of a chunk: those that begin five latents, and the two stretches between.
const RUNS: [Run; 3] = [
    Run { latents: [0, 7, 5], frames: [0, 22, 17], each: 1 },
    Run { latents: [1, 5, 1], frames: [1, 17, 1], each: 4 },
    Run { latents: [6, 7, 1], frames: [18, 22, 1], each: 4 },
];

/// Of a block's attention; its norms have no gains.
const KEYS: HeadKeys = HeadKeys { projections: ["to_q", "to_k", "to_v", "to_out.0"], norms: None };

/// `MiniMaxH3VideoTransformerBlock` with its attention.
struct Block {
    norm1: RmsNorm,
    attention: SelfAttention,
    scale1: Tensor,
    norm2: RmsNorm,
    feed_forward: SwiGlu,
    scale2: Tensor,
}

impl Block {
    fn new(at: &Scope<'_>, config: &VideoVaeConfig) -> Result<Self> {
        let (d, epsilon) = (config.width(), config.decoder_norm_eps);
        let heads = Heads {
            d,
            count: config.decoder_num_attention_heads,
            keys: config.decoder_num_attention_heads,
            channels: config.decoder_attention_head_dim,
            turning: config.turning() / 6 * 6,
            bias: true,
            causal: false,
            epsilon,
        };
        Ok(Block {
            norm1: RmsNorm::new(&at.at("norm1"), d, epsilon)?,
            attention: SelfAttention::new(&at.at("attn"), heads, KEYS)?,
            scale1: at.tensor("scale1", &[d])?,
            norm2: RmsNorm::new(&at.at("norm2"), d, epsilon)?,
            feed_forward: SwiGlu::new(&at.at("ff"), d, d * config.decoder_ffn_mult, true)?,
            scale2: at.tensor("scale2", &[d])?,
        })
    }

    /// `x`: (n, d) f32, changed in place.
    fn forward(&self, mut x: Tensor, rope: &Rope) -> Result {
        let mixed = self.attention.forward(&self.norm1.wide(&x)?, Some(rope))?;
        x = x.f_addcmul_(&wide(&mixed)?, &self.scale1)?;
        let fed = self.feed_forward.forward(&self.norm2.wide(&x)?)?;
        x.f_addcmul_(&wide(&fed)?, &self.scale2)
    }
}

fn wide(x: &Tensor) -> Result {
    x.f_to_dtype(Kind::Float, false, false)
}

/// `AutoencoderKLMiniMaxH3`, its decoder.
pub struct VideoVae {
    config: VideoVaeConfig,
    device: Device,
    mean: Tensor,
    deviation: Tensor,
    post_quant_conv: Linear,
    proj_in: Linear,
    register_tokens: Tensor,
    blocks: Vec<Block>,
    norm_out: LayerNorm,
    proj_out: Linear,
    /// The part of `proj_out` that makes a latent's last frame.
    proj_last: Linear,
    frequencies: Vec<f32>,
}

impl VideoVae {
    /// Takes the decoder's weights of `vae/`.
    ///
    /// # Errors
    /// `Fault::Weights` if they are not those of the config.
    pub fn load(weights: Weights, config: &VideoVaeConfig, device: Device) -> Result<Self, Fault> {
        let vae = Self::new(&weights, config, device)?;
        weights.finish(is_of_encoder)?;
        Ok(vae)
    }

    /// As [`VideoVae::load`], without the check that nothing is left over.
    ///
    /// # Errors
    /// If torch fails.
    pub fn new(weights: &Weights, config: &VideoVaeConfig, device: Device) -> Result<Self> {
        let (root, d, c) = (weights.root(), config.width(), config.latent_channels);
        let at = root.at("decoder");
        let channels = |values: &[f64]| {
            let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
            Tensor::f_from_slice(&values)?.f_to(device)
        };
        let (frames, area) = (config.patch_frames(), config.patch() * config.patch());
        let proj_out = Linear::new(&at.at("proj_out"), d, config.out_channels * frames * area)?;
        let proj_last = proj_out.outputs(&[config.out_channels, frames, area], 1, frames - 1)?;
        let tokens = config.decoder_num_register_tokens;
        Ok(VideoVae {
            config: config.clone(),
            device,
            mean: channels(&config.latents_mean)?,
            deviation: channels(&config.latents_std)?,
            post_quant_conv: Linear::pointwise(&root.at("post_quant_conv"), c, c, 3)?,
            proj_in: Linear::new(&at.at("proj_in"), c, d)?,
            register_tokens: at.tensor("register_tokens", &[1, tokens, d])?.f_squeeze_dim(0)?,
            blocks: (0..config.decoder_num_layers)
                .map(|index| Block::new(&at.at("transformer_blocks").at(index), config))
                .collect::<Result<_>>()?,
            norm_out: LayerNorm::new(&at.at("norm_out"), d, config.decoder_norm_eps)?,
            proj_out,
            proj_last,
            frequencies: frequencies(config.turning(), config.decoder_rope_theta),
        })
    }

    /// Latents as the transformer makes them to latents as the decoder takes them.
    ///
    /// # Shapes
    /// `latents` and the result: (c, t, h, w) f32.
    /// # Errors
    /// If torch fails.
    pub fn denormalise(&self, latents: &Tensor) -> Result {
        let per_channel = |values: &Tensor| values.f_reshape([-1, 1, 1, 1]);
        let spread = latents.f_to(self.device)?.f_mul(&per_channel(&self.deviation)?)?;
        spread.f_add(&per_channel(&self.mean)?)
    }

    /// The latents of chunk `index` of a clip. (c, t, h, w) to (c, 7, h, w).
    ///
    /// # Errors
    /// If the clip has no such chunk.
    pub fn chunk_latents(latents: &Tensor, index: u32) -> Result {
        let start = i64::from(index * CHUNK_LATENTS);
        latents.f_narrow(1, start, i64::from(CHUNK_LATENTS + OVERLAP_LATENTS))
    }

    /// Decodes one chunk: the frames that it adds, and those that the next chunk cross-fades with.
    ///
    /// # Shapes
    /// `latents`: (c, 7, h, w) f32, denormalised. The results: (3, 17, H, W) and (3, 5, H, W) f32, in the decoder's
    /// pixel space (see [`to_rgb`]).
    /// # Errors
    /// If torch fails.
    pub fn decode_chunk(&self, latents: &Tensor, tiling: Tiling) -> Result<(Tensor, Tensor)> {
        let frames = self.decode_picture(latents, tiling)?;
        let (added, shared) = (i64::from(CHUNK_FRAMES), i64::from(OVERLAP_FRAMES));
        Ok((frames.f_narrow(1, 0, added)?, frames.f_narrow(1, added, shared)?))
    }

    /// Fades from the last frames of the chunk before into the first frames of this one, in place.
    ///
    /// # Errors
    /// If torch fails.
    pub fn cross_fade(before: &Tensor, added: &Tensor) -> Result<()> {
        let extent = i64::from(OVERLAP_FRAMES);
        let rest: Vec<f32> = shares(extent).iter().map(|share| 1.0 - share).collect();
        let rest = Tensor::f_from_slice(&rest)?.f_reshape([-1, 1, 1])?.f_to(added.device())?;
        let mut head = added.f_narrow(1, 0, extent)?;
        let _ = head.f_lerp_tensor_(before, &rest)?;
        Ok(())
    }

    /// (c, 7, h, w) to (3, 22, 16 h, 16 w), tile by tile.
    fn decode_picture(&self, latents: &Tensor, tiling: Tiling) -> Result {
        let (_, t, h, w) = latents.size4()?;
        let patch = self.config.patch();
        let (down, across) = (Tiles::along(h * patch, tiling), Tiles::along(w * patch, tiling));
        let rope = self.rope(t, down.length / patch, across.length / patch)?;
        // By run, by row of tiles, by tile.
        let mut tiles = RUNS.map(|_| Vec::with_capacity(down.starts.len()));
        for top in &down.starts {
            let rows = latents.f_narrow(2, top / patch, down.length / patch)?;
            let mut row = RUNS.map(|_| Vec::with_capacity(across.starts.len()));
            for left in &across.starts {
                let tile = rows.f_narrow(3, left / patch, across.length / patch)?;
                for (run, pixels) in row.iter_mut().zip(self.decode(&tile, &rope)?) {
                    run.push(pixels);
                }
            }
            for (run, row) in tiles.iter_mut().zip(row) {
                run.push(row);
            }
        }
        let frames = i64::from(CHUNK_FRAMES + OVERLAP_FRAMES);
        let size = [self.config.out_channels, frames, h, patch, w, patch];
        let picture = Tensor::f_empty(size, (Kind::Float, self.device))?;
        for (run, tiles) in RUNS.iter().zip(&tiles) {
            let [start, end, step] = run.frames;
            let place = picture.f_slice(1, start, end, step)?.f_unflatten(1, [-1, run.each])?;
            stitch(tiles, &down, &across, patch, &place)?;
        }
        picture.f_reshape([size[0], frames, h * patch, w * patch])
    }

    /// `MiniMaxH3VideoViTDecoder3d`: one tile, (c, 7, h, w) to a view (3, t, f, h, 16, w, 16) for each run.
    fn decode(&self, latents: &Tensor, rope: &Rope) -> Result<Vec<Tensor>> {
        let (c, t, h, w) = latents.size4()?;
        let d = self.config.width();
        // (c, t, h, w) to (t h w, c)
        let rows = latents.f_permute([1, 2, 3, 0])?.f_reshape([t * h * w, c])?;
        let rows = wide(&self.proj_in.forward(&self.post_quant_conv.forward(&rows)?)?)?;
        let nothing = Tensor::f_zeros([1, d], (Kind::Float, self.device))?;
        let mut x = Tensor::f_cat(&[&rows, &self.register_tokens, &nothing], 0)?;
        for block in &self.blocks {
            x = block.forward(x, rope)?;
        }
        let rows = self.norm_out.forward(&x.f_narrow(0, 0, t * h * w)?)?;
        let rows = rows.f_reshape([t, h * w, d])?;
        let (p, out) = (self.config.patch(), self.config.out_channels);
        let project = |run: &Run| -> Result {
            let [start, end, step] = run.latents;
            let head = if run.each == 1 { &self.proj_last } else { &self.proj_out };
            let pixels = head.forward(&rows.f_slice(0, start, end, step)?)?;
            let pixels = pixels.f_reshape([-1, h, w, out, run.each, p, p])?;
            pixels.f_permute([3, 0, 4, 1, 5, 2, 6])
        };
        RUNS.iter().map(project).collect()
    }

    /// Positions from -1 to 1 along each axis, at the middles of the latents; the tokens beside them sit at 0.
    fn rope(&self, t: i64, h: i64, w: i64) -> Result<Rope> {
        let axis = |count: i64| -> Vec<f32> {
            (0..count).map(|i| 2.0 * ((i as f32 + 0.5) / count as f32) - 1.0).collect()
        };
        let (times, rows, columns) = (axis(t), axis(h), axis(w));
        let mut positions = Vec::with_capacity(times.len() * rows.len() * columns.len() * 3);
        for time in &times {
            for row in &rows {
                for column in &columns {
                    positions
                        .extend([time, row, column].map(|place| std::f32::consts::TAU * place));
                }
            }
        }
        let beside = self.config.decoder_num_register_tokens as usize + 1;
        positions.resize(positions.len() + 3 * beside, 0.0);
        let channels = self.config.decoder_attention_head_dim;
        Rope::new(&positions, 3, &self.frequencies, channels, self.device)
    }
}

/// `MiniMaxH3VideoRotaryPosEmbed`: `1 / theta^(i · 6 / turning)`.
fn frequencies(turning: i64, theta: f64) -> Vec<f32> {
    let count = turning / 6;
    (0..count).map(|i| 1.0 / (theta as f32).powf(i as f32 * (6.0 / turning as f32))).collect()
}

/// Whether decoding does without a key: the encoder.
pub fn is_of_encoder(key: &str) -> bool {
    key.starts_with("encoder.") || key.starts_with("quant_conv.")
}

/// Shares of the new picture along a fade: 0, 1/n, 2/n, …
fn shares(extent: i64) -> Vec<f32> {
    (0..extent).map(|place| place as f32 / extent as f32).collect()
}

/// Joins tiles, which are views (3, t, f, h, p, w, p), into such a picture. Each tile fades from the tile above as
/// that was decoded, then from the one on its left as that was decoded; what the next tile covers is not written.
fn stitch(
    tiles: &[Vec<Tensor>],
    down: &Tiles,
    across: &Tiles,
    patch: i64,
    picture: &Tensor,
) -> Result<()> {
    const ROWS: i64 = 3;
    const COLUMNS: i64 = 5;
    let part = |tensor: &Tensor, dim: i64, start: i64, length: i64| {
        tensor.f_narrow(dim, start / patch, length / patch)
    };
    for (i, row) in tiles.iter().enumerate() {
        for (j, tile) in row.iter().enumerate() {
            let height = down.length - down.overlaps.get(i).unwrap_or(&0);
            let width = across.length - across.overlaps.get(j).unwrap_or(&0);
            let kept = |tile: &Tensor| part(&part(tile, ROWS, 0, height)?, COLUMNS, 0, width);
            let place = part(picture, ROWS, down.starts[i], height)?;
            let mut place = part(&place, COLUMNS, across.starts[j], width)?;
            place.f_copy_(&kept(tile)?)?;
            if i > 0 {
                let overlap = down.overlaps[i - 1];
                let above = part(&tiles[i - 1][j], ROWS, down.length - overlap, overlap)?;
                fade(&mut place, &part(&above, COLUMNS, 0, width)?, overlap, ROWS)?;
            }
            if j > 0 {
                let overlap = across.overlaps[j - 1];
                let left = part(&row[j - 1], COLUMNS, across.length - overlap, overlap)?;
                fade(&mut place, &part(&left, ROWS, 0, height)?, overlap, COLUMNS)?;
            }
        }
    }
    Ok(())
}

/// Fades the beginning of `new` from `old` in place, along patches `dim` and the pixels in them, `dim + 1`.
fn fade(new: &mut Tensor, old: &Tensor, extent: i64, dim: i64) -> Result<()> {
    let patch = new.size()[dim as usize + 1];
    // A tile in the middle may be all overlap, of which the next tile covers a part.
    let patches = (extent / patch).min(new.size()[dim as usize]);
    let rest: Vec<f32> = shares(extent).iter().map(|share| 1.0 - share).collect();
    let mut shape = [1; 7];
    (shape[dim as usize], shape[dim as usize + 1]) = (extent / patch, patch);
    let rest = Tensor::f_from_slice(&rest)?.f_reshape(shape)?.f_to(new.device())?;
    let mut head = new.f_narrow(dim, 0, patches)?;
    let old = wide(&old.f_narrow(dim, 0, patches)?)?;
    let _ = head.f_lerp_tensor_(&old, &rest.f_narrow(dim, 0, patches)?)?;
    Ok(())
}

/// Decoded frames to bytes of RGB, row by row, frame after frame.
///
/// # Shapes
/// `frames`: (3, t, H, W) f32, with the ImageNet mean and deviation. The result has t · H · W · 3 bytes.
/// # Errors
/// `Fault::NotFinite` if a value is no number, `Fault::Torch` if torch fails.
pub fn to_rgb(frames: &Tensor) -> Result<Vec<u8>, Fault> {
    let levels = |values: [f32; 3]| -> Result {
        let levels = Tensor::f_from_slice(&values.map(|value| 255.0 * value))?;
        levels.f_reshape([3, 1, 1])?.f_to(frames.device())
    };
    let (mean, deviation) = (levels(PIXEL_MEAN)?, levels(PIXEL_DEVIATION)?);
    let (c, t, height, width) = frames.size4()?;
    let bytes = Tensor::f_empty([t, height, width, c], (Kind::Uint8, frames.device()))?;
    let mut sum = Tensor::f_zeros([1], (Kind::Float, frames.device()))?;
    // Frame by frame, for a frame stays in the cache from one operation to the next.
    for frame in 0..t {
        let mut planes = mean.f_addcmul(&frames.f_select(1, frame)?, &deviation)?;
        // A sum is no number as soon as one value is none.
        sum = sum.f_add_(&planes.f_sum(Kind::Float)?)?;
        let planes = planes.f_round_()?.f_clamp_(0.0, 255.0)?;
        bytes.f_select(0, frame)?.f_permute([2, 0, 1])?.f_copy_(&planes)?;
    }
    if !sum.f_double_value(&[0])?.is_finite() {
        return Err(Fault::NotFinite("pixels"));
    }
    let bytes = bytes.f_to(Device::Cpu)?;
    let mut result = vec![0; bytes.numel()];
    bytes.f_copy_data_u8(&mut result, bytes.numel())?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiles(length: i64) -> Tiles {
        Tiles::along(length, Tiling::RELEASED)
    }

    #[test]
    fn the_fewest_tiles_cover_a_side_exactly() {
        assert_eq!(tiles(256).starts, [0]);
        assert_eq!((tiles(288).starts, tiles(288).overlaps), (vec![0, 32], vec![224]));
        assert_eq!((tiles(512).starts, tiles(512).overlaps), (vec![0, 128, 256], vec![128, 128]));
        for length in (32..=4096).step_by(32) {
            let Tiles { starts, length: side, overlaps } = tiles(length);
            assert_eq!(starts[starts.len() - 1] + side, length);
            assert!(overlaps.iter().all(|overlap| *overlap >= 64 && overlap % 16 == 0));
            let fewer = starts.len() as i64 - 1;
            assert!(fewer == 0 || side * fewer - 64 * (fewer - 1) < length);
        }
    }

    #[test]
    fn a_fade_begins_with_the_old_and_leaves_the_rest() {
        let frames = |values: &[f32]| Tensor::from_slice(values).reshape([1, -1, 1, 1]);
        let new = frames(&[0.0, 0.0, 0.0, 0.0, 0.0, 7.0]);
        VideoVae::cross_fade(&frames(&[5.0; 5]), &new).unwrap();
        let faded = Vec::<f32>::try_from((new.reshape([-1]) * 1000.0).round()).unwrap();
        assert_eq!(faded, [5000.0, 4000.0, 3000.0, 2000.0, 1000.0, 7000.0]);
    }

    #[test]
    fn pixels_are_rounded_and_clamped() {
        let frames = Tensor::zeros([3, 1, 1, 2], (Kind::Float, Device::Cpu));
        let _ = frames.get(0).get(0).get(0).get(1).fill_(100.0);
        assert_eq!(to_rgb(&frames).unwrap(), [124, 116, 104, 255, 116, 104]);
        let _ = frames.get(1).fill_(f64::NAN);
        assert!(matches!(to_rgb(&frames), Err(Fault::NotFinite(_))));
    }
}
