//! The laws of a clip: frames, latent frames, sound latents, decode chunks, canvases.
//!
//! They stand here once, because the coordinator estimates with them and the worker renders by them.
//! Plain integers; no tensor and no float decides a length. Source: the H3 architecture as described in
//! `ARCHITECTURE.md` ("The model").

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Frames a second of every clip the farm publishes.
pub const FPS: u32 = 24;
/// Sound samples a second and channel.
pub const SAMPLE_RATE: u32 = 32_000;
/// Sound latents a second and channel.
pub const AUDIO_LATENTS_PER_SECOND: u32 = 40;
/// Channels of the sound.
pub const AUDIO_CHANNELS: u32 = 2;
/// Pixels that one latent covers, along each side of the picture.
pub const SPATIAL_COMPRESSION: u32 = 16;
/// Latents that one packed row covers, along each side of the picture.
pub const PATCH: u32 = 2;
/// Frames that each decode chunk adds.
pub const CHUNK_FRAMES: u32 = 17;
/// Latent frames between the starts of two decode chunks.
pub const CHUNK_LATENTS: u32 = 5;
/// Frames that two neighbouring decode chunks share, and that are cross-faded.
pub const OVERLAP_FRAMES: u32 = 5;
/// Latent frames that two neighbouring decode chunks share.
pub const OVERLAP_LATENTS: u32 = 2;
/// The longest clip that a single render may have, in seconds: 2,880 frames, 850 latent frames.
pub const SECONDS_MAX: u32 = 120;
/// The longest side of a picture, in pixels.
pub const SIDE_MAX: u32 = 4096;

/// Most pictures in a clip's spritesheet: five by five.
pub const SPRITES_MAX: u32 = 25;

/// The frame that a clip's thumbnail shows: at a third of its length.
pub fn thumbnail_frame(frames: u32) -> u32 {
    frames / 3
}

/// How many pictures a clip's spritesheet has.
pub fn sprites(frames: u32) -> u32 {
    frames.min(SPRITES_MAX)
}

/// Columns and rows of the spritesheet.
pub fn sprite_grid(frames: u32) -> (u32, u32) {
    let sprites = sprites(frames);
    let columns = (1..).find(|n| n * n >= sprites).unwrap_or(1);
    (columns, sprites.div_ceil(columns))
}

/// The frame that picture `n` of the spritesheet shows: the middle of its share of the clip.
pub fn sprite_frame(n: u32, frames: u32) -> u32 {
    let (n, sprites) = (u64::from(n), u64::from(sprites(frames)));
    let frame = (2 * n + 1) * u64::from(frames) / (2 * sprites.max(1));
    u32::try_from(frame).unwrap_or(u32::MAX)
}

/// Width and height of a picture in pixels, written `WxH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Size {
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// A text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected WIDTHxHEIGHT with sides of 1 to {SIDE_MAX} pixels, for example 288x512")]
pub struct SizeError;

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let (width, height) = text.split_once('x').ok_or(SizeError)?;
        let side = |digits: &str| -> Result<u32, SizeError> {
            // `parse` alone would take "+288", and "0288" would make two names for one size.
            if digits.starts_with(['+', '0']) {
                return Err(SizeError);
            }
            digits.parse().ok().filter(|side| (1..=SIDE_MAX).contains(side)).ok_or(SizeError)
        };
        Ok(Size { width: side(width)?, height: side(height)? })
    }
}

impl Size {
    /// Pixels of the picture.
    pub fn area(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Whether a model of this family can render the canvas: both sides are whole packed rows.
    pub fn is_canvas(self) -> bool {
        let side = SPATIAL_COMPRESSION * PATCH;
        self.width > 0
            && self.height > 0
            && self.width.is_multiple_of(side)
            && self.height.is_multiple_of(side)
    }
}

/// All lengths of one render, derived from the canvas and the number of frames that were asked for.
///
/// The model renders whole chunks, so `rendered_frames` is at least `asked_frames`; the end is trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClipShape {
    /// What the model renders, in pixels.
    pub canvas: Size,
    /// Frames of the published clip.
    pub asked_frames: u32,
}

impl ClipShape {
    /// Decode chunks: the least `n` with `17 n + 5` frames or more, and at least one.
    pub fn chunks(self) -> u32 {
        self.asked_frames.saturating_sub(OVERLAP_FRAMES).div_ceil(CHUNK_FRAMES).max(1)
    }

    /// Frames that the model renders: `17 n + 5`.
    pub fn rendered_frames(self) -> u32 {
        CHUNK_FRAMES * self.chunks() + OVERLAP_FRAMES
    }

    /// Latent frames: `5 n + 2`.
    pub fn latent_frames(self) -> u32 {
        CHUNK_LATENTS * self.chunks() + OVERLAP_LATENTS
    }

    /// Sound latents of one channel: `round(frames / 24 · 40)`, of the rendered frames.
    pub fn audio_latents(self) -> u32 {
        (self.rendered_frames() * AUDIO_LATENTS_PER_SECOND + FPS / 2) / FPS
    }

    /// Sound samples of one channel in the published clip.
    pub fn asked_samples(self) -> u64 {
        u64::from(self.asked_frames) * u64::from(SAMPLE_RATE) / u64::from(FPS)
    }

    /// Packed video rows of the sequence that the transformer sees.
    pub fn video_rows(self) -> u64 {
        let side = SPATIAL_COMPRESSION * PATCH;
        u64::from(self.latent_frames())
            * u64::from(self.canvas.width / side)
            * u64::from(self.canvas.height / side)
    }

    /// Packed sound rows: the latents of both channels.
    pub fn audio_rows(self) -> u64 {
        u64::from(self.audio_latents()) * u64::from(AUDIO_CHANNELS)
    }
}

impl ClipShape {
    /// Frames of the published clip that a decode chunk adds: 17, of the last one all that are left of the asked.
    pub fn frames_of(self, chunk: u32) -> Range<u32> {
        let start = (CHUNK_FRAMES * chunk).min(self.asked_frames);
        let last = chunk + 1 >= self.chunks();
        let end = if last { self.asked_frames } else { start + CHUNK_FRAMES };
        start..end.min(self.asked_frames)
    }
}

/// The decode chunks that a shard takes, where `chunks` of them are cut into `of` shards: as many as the others, or
/// one more. None is without, as long as there are no more shards than chunks.
pub fn chunk_range(chunks: u32, index: u32, of: u32) -> Range<u32> {
    let of = of.max(1);
    let bound = |index: u32| {
        let bound = u64::from(chunks) * u64::from(index.min(of)) / u64::from(of);
        u32::try_from(bound).unwrap_or(chunks)
    };
    bound(index)..bound(index.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(asked_frames: u32) -> ClipShape {
        ClipShape { canvas: Size { width: 288, height: 512 }, asked_frames }
    }

    #[test]
    fn published_lengths_hold() {
        // The two lengths that the architecture's description names.
        assert_eq!((shape(124).rendered_frames(), shape(124).latent_frames()), (124, 37));
        assert_eq!((shape(243).rendered_frames(), shape(243).latent_frames()), (243, 72));
    }

    #[test]
    fn ten_seconds_render_a_little_longer_and_are_trimmed() {
        let ten = shape(240);
        assert_eq!((ten.chunks(), ten.rendered_frames(), ten.latent_frames()), (14, 243, 72));
        assert_eq!((ten.audio_latents(), ten.asked_samples()), (405, 320_000));
        assert_eq!((ten.video_rows(), ten.audio_rows()), (10_368, 810));
    }

    #[test]
    fn every_length_is_covered_by_its_render() {
        for asked in 1..=SECONDS_MAX * FPS {
            let clip = shape(asked);
            assert!(clip.rendered_frames() >= asked);
            assert_eq!(clip.latent_frames(), 5 * clip.chunks() + 2);
            assert!(asked <= 22 || clip.rendered_frames() - asked < CHUNK_FRAMES);
        }
    }

    /// Promise: chunks and shards of chunks cover a clip, each part once and in order.
    #[test]
    fn chunks_and_their_shards_cover_a_clip() {
        for asked in 1..=SECONDS_MAX * FPS {
            let clip = shape(asked);
            let frames: Vec<_> = (0..clip.chunks()).map(|chunk| clip.frames_of(chunk)).collect();
            assert_eq!((frames[0].start, frames[frames.len() - 1].end), (0, asked));
            assert!(frames.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(frames.iter().all(|frames| (1..=22).contains(&frames.len())), "{asked}");
        }
        for (chunks, of) in [(14, 1), (14, 3), (14, 14), (1, 1), (170, 64)] {
            let ranges: Vec<_> = (0..of).map(|index| chunk_range(chunks, index, of)).collect();
            assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (0, chunks));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(ranges.iter().all(|range| !range.is_empty()));
        }
        assert!(chunk_range(2, 7, 2).is_empty() && chunk_range(2, 1, 0).is_empty());
    }

    #[test]
    fn sizes_have_one_spelling() {
        assert_eq!("288x512".parse(), Ok(Size { width: 288, height: 512 }));
        for bad in
            ["288", "x", "0x1", "0288x512", "+288x512", "288x512x1", "288X512", "99999x1", ""]
        {
            assert_eq!(bad.parse::<Size>(), Err(SizeError), "{bad}");
        }
    }
}
