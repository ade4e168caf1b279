//! The marks of a clip, as coordinator and worker speak of them: what is to be embedded, and what the finished file
//! shows of it.
//!
//! Plain data for the wire and the journal: fields and variants are appended, never reordered. How a mark is made
//! and read is the business of the package `zoetrope-mark`.

use crate::id::ArtifactId;
use serde::{Deserialize, Serialize};

/// Chips of the picture's tile.
pub const PIXEL_CHIPS: usize = 64 * 64;
/// Chips of the sound's tile.
pub const SOUND_CHIPS: usize = 40 * 24;
/// The largest artwork of a visible mark: a PNG of 512×512 with few colours takes a tenth, and four of these fit into a
/// control frame.
pub const ARTWORK_BYTES_MAX: usize = 256 << 10;
/// The highest that an artwork is drawn, in shares of the picture's short side.
pub const ARTWORK_HEIGHT_SHARE: f32 = 0.16;
/// The widest that a mark is drawn, in shares of the picture's width.
pub const VISIBLE_WIDTH_SHARE: f32 = 0.42;
/// The longest name that is drawn as a visible mark, in characters: more would not fit into a narrow clip.
pub const MARK_NAME_CHARS_MAX: usize = 24;
/// The kind of the mark in the picture, as soft bindings name it.
pub const PICTURE_ALG: &str = "org.zoetrope.mark.video.1";
/// The kind of the mark in the sound.
pub const SOUND_ALG: &str = "org.zoetrope.mark.audio.1";

/// What a worker embeds in a clip. The same for every attempt of a job, so that a retry makes the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkOrder {
    /// The picture's tile, a bit for each of [`PIXEL_CHIPS`], row by row, the lowest bit of a byte first.
    pub pixels: Vec<u8>,
    /// The sound's tile, a bit for each of [`SOUND_CHIPS`].
    pub sound: Vec<u8>,
    /// What everybody sees.
    pub visible: Visible,
}

/// The mark that everybody sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Visible {
    /// A name, drawn in white with a soft halo; at most [`MARK_NAME_CHARS_MAX`] characters.
    Name(String),
    /// A picture of the tenant's: PNG with alpha, at most [`ARTWORK_BYTES_MAX`] bytes.
    Artwork(Vec<u8>),
}

/// What a finished clip shows of its marks, read back from the encoded file without any key: the evidence that the
/// coordinator judges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkRecord {
    /// The file that was read: the clip before it is signed.
    pub clip: ArtifactId,
    /// The picture's tile, a value for each of [`PIXEL_CHIPS`].
    pub picture: Vec<i8>,
    /// The sound's.
    pub sound: SoundMark,
    /// Whether it was made with 1.4 times the usual strength, because the usual one did not come back.
    pub strong: bool,
}

/// What the coordinator, which has the key, read in a clip that is not signed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DraftReading {
    /// It shows its mark all along.
    Marked {
        /// Whether its sound shows it too, so that the manifest may name it.
        in_sound: bool,
    },
    /// It does not, or is no clip as it was ordered.
    Unmarked,
    /// It could not be read now, which says nothing of the clip: the worker reads it itself.
    Unread,
}

/// What a clip's sound shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SoundMark {
    /// The clip has no sound.
    Silent,
    /// Too little of it is loud enough to carry a mark; it was not marked.
    Quiet,
    /// A value for each of [`SOUND_CHIPS`].
    Heard(Vec<i8>),
}

/// The mark of a job, once and for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Counts the marks of a farm. Never used twice.
    pub serial: u32,
    /// Which of the farm's keys it was made with.
    pub epoch: u32,
    /// What the clip carries: a permutation of the serial, by that key.
    pub mark: u32,
}

/// The chips of a tile as bits: +1 is 1.
pub fn pack(chips: &[i8]) -> Vec<u8> {
    let byte = |eight: &[i8]| {
        let bits = eight.iter().enumerate();
        bits.fold(0, |byte, (bit, chip)| byte | u8::from(*chip > 0) << bit)
    };
    chips.chunks(8).map(byte).collect()
}

/// The chips of packed bits, if they are `count`.
pub fn unpack(bits: &[u8], count: usize) -> Option<Vec<i8>> {
    let chip = |index: usize| if bits[index / 8] >> (index % 8) & 1 == 1 { 1 } else { -1 };
    (bits.len() == count.div_ceil(8)).then(|| (0..count).map(chip).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_is_packed_and_unpacked() {
        let chips: Vec<i8> =
            (0..SOUND_CHIPS).map(|index| if index % 7 % 3 == 0 { 1 } else { -1 }).collect();
        let bits = pack(&chips);
        assert_eq!(bits.len(), 120);
        assert_eq!(unpack(&bits, SOUND_CHIPS), Some(chips));
        assert_eq!(unpack(&bits, PIXEL_CHIPS), None);
        assert_eq!(unpack(&bits[1..], SOUND_CHIPS), None);
    }
}
