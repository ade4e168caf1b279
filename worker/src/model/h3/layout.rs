//! The packed sequence: which row is what, where it sits in time and space, at which noise level it is.
//!
//! Order: text, keyframes, sound (left channel whole, then right), video (frame by frame, row by row). Plain
//! Rust, without torch. Rows of one kind are neighbours, so a layout is a few segments and one list of
//! positions, and everything that depends on a row's kind is done a segment at a time.
//!
//! Source: huggingface/diffusers 0.42.1 `modular_pipelines/minimax_h3/before_denoise.py`,
//! `MiniMaxH3PrepareLayoutStep` and `MiniMaxH3SetTimestepsStep`.

use zoetrope_protocol::ClipShape;
use zoetrope_protocol::clip::{AUDIO_CHANNELS, PATCH, SPATIAL_COMPRESSION};

/// The modality of a row, with the number that AdaLN knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Tag {
    /// Video rows, and the rows of a keyframe and of its vision block.
    Video = 0,
    /// Text rows.
    Text = 1,
    /// Sound rows.
    Audio = 2,
}

/// The modalities that AdaLN has parameters for.
pub const TAGS: i64 = 3;

/// Which noise level a row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Level {
    /// The video's. Text rows take it too; they reach no output head.
    Video = 0,
    /// The sound's.
    Audio = 1,
}

/// The noise levels of a sequence. A keyframe adds its own (0.999) when keyframes come.
pub const LEVELS: i64 = 2;

/// Neighbouring rows of one modality and one noise level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first row.
    pub start: i64,
    /// How many.
    pub rows: i64,
    /// What they are.
    pub tag: Tag,
    /// How noisy they are.
    pub level: Level,
}

impl Segment {
    /// Row of the AdaLN table: levels outside, modalities inside.
    pub fn table_row(self) -> i64 {
        self.level as i64 * TAGS + self.tag as i64
    }
}

/// A packed sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// The text rows.
    pub text: Segment,
    /// The sound rows.
    pub audio: Segment,
    /// The video rows that are rendered.
    pub video: Segment,
    /// `(t, h, w)` of every row.
    pub positions: Vec<[f32; 3]>,
}

impl Layout {
    /// The sequence of a render from `text` text rows.
    pub fn new(shape: ClipShape, text: u32) -> Self {
        let latent = |pixels: u32| pixels / SPATIAL_COMPRESSION;
        let grid = Grid::new(latent(shape.canvas.height), latent(shape.canvas.width));
        let origin = f64::from(text);
        let mut positions: Vec<[f64; 3]> =
            (0..text).map(|row| [f64::from(row), 0.0, 0.0]).collect();
        // One unit of time is one sound latent. Sound has no height, and sits at the first and last column.
        let ends = [grid.columns[0], grid.columns[grid.columns.len() - 1]];
        for side in ends.iter().take(AUDIO_CHANNELS as usize) {
            positions.extend(
                (0..shape.audio_latents()).map(|index| [origin + f64::from(index), 0.0, *side]),
            );
        }
        for time in frame_times(shape.latent_frames()) {
            positions.extend(grid.places().map(|(h, w)| [origin + time, h, w]));
        }
        let segment =
            |start: i64, rows: u64, tag, level| Segment { start, rows: rows as i64, tag, level };
        let text = segment(0, u64::from(text), Tag::Text, Level::Video);
        let audio = segment(text.rows, shape.audio_rows(), Tag::Audio, Level::Audio);
        let video = segment(audio.start + audio.rows, shape.video_rows(), Tag::Video, Level::Video);
        let positions: Vec<[f32; 3]> =
            positions.into_iter().map(|place| place.map(|axis| axis as f32)).collect();
        assert_eq!(positions.len() as i64, video.start + video.rows, "the layout has holes");
        Layout { text, audio, video, positions }
    }

    /// Rows in all.
    pub fn rows(&self) -> i64 {
        self.positions.len() as i64
    }

    /// All segments, in packed order.
    pub fn segments(&self) -> [Segment; 3] {
        [self.text, self.audio, self.video]
    }
}

/// The `(h, w)` of the rows of a frame: centred, of area 1 whatever the aspect, times 32, right end excluded.
struct Grid {
    rows: Vec<f64>,
    columns: Vec<f64>,
}

impl Grid {
    fn new(latent_height: u32, latent_width: u32) -> Self {
        let side = (f64::from(latent_height) * f64::from(latent_width)).sqrt();
        let axis = |latents: u32| -> Vec<f64> {
            let ratio = f64::from(latents) / side;
            let left = (1.0 - ratio) / 2.0;
            let count = latents / PATCH;
            // The order of operations is numpy's, to the last bit.
            let step = ((left + ratio) - left) / f64::from(count);
            (0..count).map(|index| (f64::from(index) * step + left) * 32.0).collect()
        };
        Grid { rows: axis(latent_height), columns: axis(latent_width) }
    }

    fn places(&self) -> impl Iterator<Item = (f64, f64)> {
        self.rows.iter().flat_map(|h| self.columns.iter().map(move |w| (*h, *w)))
    }
}

/// When each latent frame begins, in sound latents: a chunk's first covers one frame, the others four.
fn frame_times(latent_frames: u32) -> Vec<f64> {
    let mut time = 0.0;
    let mut times = Vec::with_capacity(latent_frames as usize);
    for index in 0..latent_frames {
        times.push(time);
        time += 5.0 / 3.0 * if index % 5 == 0 { 1.0 } else { 4.0 };
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoetrope_protocol::Size;

    fn layout(width: u32, height: u32, frames: u32) -> Layout {
        Layout::new(ClipShape { canvas: Size { width, height }, asked_frames: frames }, 7)
    }

    #[test]
    fn rows_stand_in_packed_order() {
        let layout = layout(288, 512, 240);
        let [text, audio, video] = layout.segments();
        assert_eq!((text.start, text.rows), (0, 7));
        assert_eq!((audio.start, audio.rows), (7, 810));
        assert_eq!((video.start, video.rows), (817, 10_368));
        assert_eq!(layout.rows(), 11_185);
        assert_eq!([text, audio, video].map(Segment::table_row), [1, 5, 0]);
    }

    #[test]
    fn picture_and_sound_share_one_clock() {
        let layout = layout(512, 512, 240);
        let at = |row: i64| layout.positions[row as usize];
        assert_eq!(at(6), [6.0, 0.0, 0.0]);
        assert_eq!(at(7), [7.0, 0.0, 0.0]);
        assert_eq!(at(7 + 405), [7.0, 0.0, 30.0], "the right channel sits at the last column");
        let frame = |index: i64| at(layout.video.start + index * 256);
        assert_eq!(frame(0), [7.0, 0.0, 0.0]);
        assert!((frame(1)[0] - (7.0 + 5.0 / 3.0)).abs() < 1e-5);
        // Five latent frames are 17 frames, which are 28 1/3 sound latents.
        assert!((frame(5)[0] - (7.0 + 17.0 * 5.0 / 3.0)).abs() < 1e-4);
        assert_eq!(at(layout.rows() - 1)[1..], [30.0, 30.0]);
    }

    #[test]
    fn space_is_centred_and_of_one_area() {
        let layout = layout(288, 512, 24);
        let first = layout.positions[layout.video.start as usize];
        let ratio = |side: f64| side / (32.0f64 * 18.0).sqrt();
        assert!((f64::from(first[1]) - 16.0 * (1.0 - ratio(32.0))).abs() < 1e-5);
        assert!((f64::from(first[2]) - 16.0 * (1.0 - ratio(18.0))).abs() < 1e-5);
    }
}
