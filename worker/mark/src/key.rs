//! Keys of the mark: the farm's master key, the key of an epoch, and what follows from it: where each bit of the
//! payload lies in a tile and with which sign, and which mark id a serial has.
//!
//! All of it comes from SHA-256 and ChaCha20 alone, and a golden file holds it: a changed library must not orphan
//! old clips. The master key never leaves the coordinator; a worker gets finished tiles.

use crate::code::{self, CODE_BITS};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Chips on a side of the picture's tile.
pub const TILE_SIDE: usize = 64;
/// Chips of the picture's tile.
pub const PIXEL_CHIPS: usize = TILE_SIDE * TILE_SIDE;
/// Of these, chips with known signs.
const PIXEL_SYNC: usize = 1_024;
/// Bands of the sound's tile, 93.75 Hz each, from 281.25 Hz.
pub const SOUND_BANDS: usize = 40;
/// Columns of the sound's tile, 64 ms each.
pub const SOUND_COLUMNS: usize = 24;
/// Chips of the sound's tile; chip `band + SOUND_BANDS * column`.
pub const SOUND_CHIPS: usize = SOUND_BANDS * SOUND_COLUMNS;
/// Of these, chips with known signs.
const SOUND_SYNC: usize = 240;

/// What a clip carries: a permutation of its serial, so that ids tell nothing of how many clips there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MarkId(pub u32);

impl MarkId {
    /// Id and check as they lie in the tiles, the highest bit first: what a soft binding of the clip's manifest holds.
    pub fn codeword(self) -> [u8; 8] {
        code::encode(self.0).to_be_bytes()
    }
}

impl fmt::Display for MarkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The farm's secret. One a farm, for ever.
#[derive(Clone)]
pub struct MasterKey(pub [u8; 32]);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey")
    }
}

impl MasterKey {
    /// The key of an epoch.
    pub fn epoch(&self, epoch: u32) -> MarkKey {
        let seed = derive(&self.0, "epoch", epoch);
        MarkKey {
            epoch,
            pixels: Layout::new(derive(&seed, "pixels", 0), PIXEL_CHIPS, PIXEL_SYNC),
            sound: Layout::new(derive(&seed, "sound", 0), SOUND_CHIPS, SOUND_SYNC),
            ids: derive(&seed, "ids", 0),
            issued: Arc::default(),
        }
    }
}

fn derive(secret: &[u8; 32], purpose: &str, number: u32) -> [u8; 32] {
    let hash = Sha256::new().chain_update(b"zoetrope mark 1\0").chain_update(secret);
    let hash = hash.chain_update(purpose.as_bytes()).chain_update(b"\0");
    hash.chain_update(number.to_le_bytes()).finalize().into()
}

/// The key of one epoch.
#[derive(Clone)]
pub struct MarkKey {
    /// Which epoch.
    pub epoch: u32,
    /// Of the picture.
    pub(crate) pixels: Layout,
    /// Of the sound.
    pub(crate) sound: Layout,
    ids: [u8; 32],
    /// Codewords of marks that were issued, as far as they are known.
    pub(crate) issued: Arc<Vec<u64>>,
}

/// The tiles that a worker embeds: one chip a byte, +1 or -1, the picture's row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// `PIXEL_CHIPS` chips.
    pub pixels: Vec<i8>,
    /// `SOUND_CHIPS` chips.
    pub sound: Vec<i8>,
}

impl MarkKey {
    /// The mark id of a serial.
    pub fn mark_of(&self, serial: u32) -> MarkId {
        let (mut left, mut right) = ((serial >> 16) as u16, serial as u16);
        for round in 0..8 {
            (left, right) = (right, left ^ self.half(round, right));
        }
        MarkId(u32::from(left) << 16 | u32::from(right))
    }

    /// The serial of a mark id. Every id has one; most were never issued.
    pub fn serial_of(&self, mark: MarkId) -> u32 {
        let (mut left, mut right) = ((mark.0 >> 16) as u16, mark.0 as u16);
        for round in (0..8).rev() {
            (left, right) = (right ^ self.half(round, left), left);
        }
        u32::from(left) << 16 | u32::from(right)
    }

    fn half(&self, round: u32, half: u16) -> u16 {
        let hash = derive(&self.ids, "round", round << 16 | u32::from(half));
        u16::from_le_bytes([hash[0], hash[1]])
    }

    /// The codewords of these serials: half a second for a million.
    pub fn words(&self, serials: Range<u32>) -> impl Iterator<Item = u64> + '_ {
        serials.map(|serial| code::encode(self.mark_of(serial).0))
    }

    /// The same key, which knows marks that were issued by their codewords: a mark too weak to be read is found among them.
    #[must_use]
    pub fn knowing(self, issued: Arc<Vec<u64>>) -> MarkKey {
        MarkKey { issued, ..self }
    }

    /// What is embedded for this id.
    pub fn tiles(&self, mark: MarkId) -> Tiles {
        let word = code::encode(mark.0);
        Tiles { pixels: self.pixels.tile(word), sound: self.sound.tile(word) }
    }
}

/// A chip of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PayloadChip {
    pub place: u16,
    pub bit: u8,
    pub sign: i8,
}

/// What a place must show to count as found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Agreement of the sync signs below which nobody looks further.
    pub worth: f32,
    /// That with which it is found.
    pub sync: f32,
    /// Agreement of all chips with the id that was read with which it is found, too.
    pub whole: f32,
    /// And with one of those that were issued.
    pub listed: Listed,
}

/// When a mark counts as found by all of its chips, of those that were issued.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    /// Agreement of the sync signs below which nobody looks for it.
    pub worth: f32,
    /// Places that are looked at, of all keys, over the chance that noise may have in all of them.
    pub places: f64,
}

impl Listed {
    /// Least agreement of all chips: by Hoeffding's bound, for each place and each of so many marks.
    fn least(self, issued: usize) -> f32 {
        (2.0 * (self.places * issued.max(1) as f64).ln()).sqrt() as f32
    }
}

/// Where sync and payload lie in a tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    chips: usize,
    /// Place and sign of each sync chip.
    pub sync: Vec<(u16, i8)>,
    pub payload: Vec<PayloadChip>,
}

impl Layout {
    fn new(seed: [u8; 32], chips: usize, sync: usize) -> Layout {
        let mut random = ChaCha20Rng::from_seed(seed);
        let mut places: Vec<u16> = (0..chips as u16).collect();
        // Fisher and Yates, without the bias of a remainder.
        for last in (1..chips).rev() {
            places.swap(last, below(&mut random, last as u32 + 1) as usize);
        }
        let mut signed = places.into_iter().map(|place| {
            let sign = if random.next_u32() & 1 == 1 { 1i8 } else { -1 };
            (place, sign)
        });
        let sync = signed.by_ref().take(sync).collect();
        let payload = signed
            .enumerate()
            .map(|(chip, (place, sign))| PayloadChip { place, bit: (chip % CODE_BITS) as u8, sign })
            .collect();
        Layout { chips, sync, payload }
    }

    fn tile(&self, word: u64) -> Vec<i8> {
        let mut tile = vec![0; self.chips];
        for (place, sign) in self.sync_signs().chain(self.payload_signs(word)) {
            tile[place as usize] = sign;
        }
        tile
    }

    /// How well chips agree with the sync signs: a self-normalised sum, `sum(sign * chip) / sqrt(sum(chip^2))`.
    /// Whatever the chips are, if the key knows nothing of them, it exceeds `z` with probability below
    /// `exp(-z^2 / 2)` (Hoeffding, for random signs).
    pub fn agreement(&self, chip: impl Fn(usize) -> f32) -> f32 {
        agreement_with(self.sync_signs(), chip)
    }

    /// As [`Layout::agreement`], of the payload chips with a codeword.
    pub fn agreement_of(&self, word: u64, chip: impl Fn(usize) -> f32) -> f32 {
        agreement_with(self.payload_signs(word), chip)
    }

    /// As [`Layout::agreement`], of all chips with those that a codeword has.
    fn agreement_of_all(&self, word: u64, chip: impl Fn(usize) -> f32) -> f32 {
        agreement_with(self.sync_signs().chain(self.payload_signs(word)), chip)
    }

    fn sync_signs(&self) -> impl Iterator<Item = (u16, i8)> + '_ {
        self.sync.iter().copied()
    }

    fn payload_signs(&self, word: u64) -> impl Iterator<Item = (u16, i8)> + '_ {
        let signed = move |chip: &PayloadChip| {
            (chip.place, if word >> chip.bit & 1 == 1 { chip.sign } else { -chip.sign })
        };
        self.payload.iter().map(signed)
    }

    /// The id in a place of which nothing is known, and how well the sync signs agree there. `issued`: codewords.
    pub fn found(
        &self,
        chip: impl Fn(usize) -> f32,
        bounds: Bounds,
        issued: &[u64],
    ) -> (f32, Option<MarkId>) {
        let agreement = self.agreement(&chip);
        if agreement < bounds.worth.min(bounds.listed.worth) {
            return (agreement, None);
        }
        let bits = self.bits(&chip);
        let read = || {
            code::decode(&bits).filter(|mark| {
                agreement >= bounds.sync
                    || self.agreement_of_all(code::encode(*mark), &chip) >= bounds.whole
            })
        };
        let listed = || {
            let least = bounds.listed.least(issued.len());
            let word = code::likeliest(&bits, issued)?;
            (self.agreement_of_all(word, &chip) >= least).then(|| code::id_of(word))
        };
        // What was issued first: of a weak mark an id may be read that only resembles it.
        let mark = if agreement >= bounds.listed.worth { listed() } else { None };
        let mark = mark.or_else(|| if agreement >= bounds.worth { read() } else { None });
        (agreement, mark.map(MarkId))
    }

    /// The soft bits of the codeword.
    pub fn bits(&self, chip: impl Fn(usize) -> f32) -> [f32; CODE_BITS] {
        let mut bits = [0.0; CODE_BITS];
        for payload in &self.payload {
            bits[payload.bit as usize] += f32::from(payload.sign) * chip(payload.place as usize);
        }
        bits
    }
}

fn agreement_with(signs: impl Iterator<Item = (u16, i8)>, chip: impl Fn(usize) -> f32) -> f32 {
    let (mut sum, mut squares) = (0.0f32, 0.0f32);
    for (place, sign) in signs {
        let value = chip(place as usize);
        sum += f32::from(sign) * value;
        squares += value * value;
    }
    if squares > 0.0 { sum / squares.sqrt() } else { 0.0 }
}

fn below(random: &mut ChaCha20Rng, bound: u32) -> u32 {
    let fair = u32::MAX - u32::MAX % bound;
    loop {
        let number = random.next_u32();
        if number < fair {
            return number % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_has_its_serial() {
        let key = MasterKey([7; 32]).epoch(3);
        for serial in [0, 1, 2, 65_535, 65_536, u32::MAX] {
            assert_eq!(key.serial_of(key.mark_of(serial)), serial);
        }
        assert_ne!(key.mark_of(1), MasterKey([7; 32]).epoch(4).mark_of(1));
    }

    #[test]
    fn a_tile_reads_as_what_was_written() {
        let key = MasterKey([1; 32]).epoch(0);
        let mark = key.mark_of(5);
        let tiles = key.tiles(mark);
        assert!(tiles.pixels.iter().chain(&tiles.sound).all(|chip| chip.abs() == 1));
        for (layout, tile) in [(&key.pixels, &tiles.pixels), (&key.sound, &tiles.sound)] {
            let chip = |place: usize| f32::from(tile[place]);
            assert_eq!(code::decode(&layout.bits(chip)), Some(mark.0));
            assert!((layout.agreement(chip).powi(2) - layout.sync.len() as f32).abs() < 0.1);
        }
    }

    /// Promise: a mark that is too weak for its sync signs alone is found by all of its chips, noise never, and another
    /// key's mark neither.
    #[test]
    fn a_weak_mark_is_found_by_all_of_its_chips() {
        let listed = Listed { worth: 4.4, places: 2.4e15 };
        let bounds = Bounds { worth: 4.4, sync: 7.7, whole: 10.7, listed };
        let key = MasterKey([1; 32]).epoch(0);
        let mark = key.mark_of(5);
        let tile = key.tiles(mark).pixels;
        let other = MasterKey([2; 32]).epoch(0);
        let mut random = ChaCha20Rng::seed_from_u64(3);
        let mut found = 0;
        for _ in 0..40 {
            let noise: Vec<f32> = (0..PIXEL_CHIPS)
                .map(|_| (random.next_u32() as f32 / u32::MAX as f32 - 0.5) * 3.46)
                .collect();
            // Of variance 1: the sync signs of 1,024 chips then agree by 6.1 in the mean.
            let chip = |place: usize| noise[place] + 0.19 * f32::from(tile[place]);
            let (agreement, read) = key.pixels.found(chip, bounds, &[]);
            assert!(read.is_none() || read == Some(mark), "{read:?} by {agreement}");
            found += u32::from(read.is_some());
            assert!(key.pixels.found(|place| noise[place], bounds, &[]).1.is_none());
            assert!(other.pixels.found(chip, bounds, &[]).1.is_none());
        }
        assert!(found >= 30, "{found} of 40");
    }

    /// Promise: a mark that is too weak to be read is found among those that were issued; noise never is.
    #[test]
    fn a_mark_too_weak_to_be_read_is_found_among_those_issued() {
        let bare = MasterKey([1; 32]).epoch(0);
        let issued: Vec<u64> = bare.words(0..20_000).collect();
        let mark = bare.mark_of(5);
        let tile = bare.tiles(mark).pixels;
        let bounds = Bounds {
            worth: 4.4,
            sync: 7.7,
            whole: 10.7,
            listed: Listed { worth: 3.4, places: 2e12 },
        };
        let mut random = ChaCha20Rng::seed_from_u64(3);
        let (mut read, mut found) = (0, 0);
        for _ in 0..40 {
            let noise: Vec<f32> = (0..PIXEL_CHIPS)
                .map(|_| (random.next_u32() as f32 / u32::MAX as f32 - 0.5) * 3.46)
                .collect();
            // All chips then agree by 10 in the mean, and a fifth of the bits are wrong.
            let shown = |place: usize| noise[place] + 0.16 * f32::from(tile[place]);
            read += u32::from(bare.pixels.found(shown, bounds, &[]).1.is_some());
            let one = bare.pixels.found(shown, bounds, &issued).1;
            assert!(one.is_none() || one == Some(mark), "{one:?}");
            found += u32::from(one.is_some());
            assert!(bare.pixels.found(|place| noise[place], bounds, &issued).1.is_none());
        }
        assert!(found >= 30 && found >= 2 * read, "{found} and {read} of 40");
    }

    /// Promise: a key's tiles stay as they are, or old clips could not be read.
    #[test]
    fn the_tiles_of_a_key_never_change() {
        let key = MasterKey(std::array::from_fn(|place| place as u8)).epoch(2);
        let mut text = String::new();
        for serial in [0, 1, 1_000_000] {
            let mark = key.mark_of(serial);
            let tiles = key.tiles(mark);
            let digest = |tile: &[i8]| {
                let bytes: Vec<u8> = tile.iter().map(|chip| *chip as u8).collect();
                hex::encode(Sha256::digest(bytes))
            };
            let (pixels, sound) = (digest(&tiles.pixels), digest(&tiles.sound));
            text += &format!("{serial} {mark} {:016x} {pixels} {sound}\n", code::encode(mark.0));
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden.txt");
        if std::env::var_os("ZOETROPE_BLESS").is_some() {
            std::fs::write(path, &text).expect("writes the golden file");
        }
        assert_eq!(std::fs::read_to_string(path).expect("the golden file"), text);
    }
}
