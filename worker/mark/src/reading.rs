//! What a film shows of a mark: the picture that stands still, folded into one tile.
//!
//! A reading is taken where the film is, without keys: 4,096 numbers that say nothing of the picture. Whoever has
//! the key finds the id in it. The worker's proof that a clip is marked is such a reading of the encoded file.

use crate::code;
use crate::key::{MarkId, MarkKey, PIXEL_CHIPS, SOUND_CHIPS, TILE_SIDE};
use crate::picture::chips_of_short_side;
use crate::spectrum::{CELLS, SIDE, Square};

/// Small detail: standard deviation in pixels of what is taken for the picture and subtracted.
const DETAIL_SIGMA: f32 = 1.6;
/// Detail is measured against its size within so many pixels on each side.
const AROUND: usize = 8;
/// Added to that size, so that noise in flat places is not blown up.
const FLAT: f32 = 0.5;
/// One place counts no more than so much.
const CLIP: f32 = 3.0;
/// A value of 1 in a reading's bytes.
const UNIT: f32 = 32.0;
/// Agreement with the sync signs below which a reading at a known place is no mark: 3.5e-9 by Hoeffding's bound,
/// and 2^-7 of these pass the check of the code.
pub const AGREEMENT_KNOWN: f32 = 6.2;

/// Adds up what stands still in frames of one size.
pub struct Stills {
    width: usize,
    height: usize,
    sum: Vec<f32>,
    detail: Vec<f32>,
    line: Vec<f32>,
    kernel: Vec<f32>,
    frames: u32,
}

impl Stills {
    /// None yet. Frames are at least 32 pixels wide and high.
    pub fn new(width: usize, height: usize) -> Stills {
        let reach = (DETAIL_SIGMA * 2.5).ceil() as i32;
        let bump = |at: i32| (-((at * at) as f32) / (2.0 * DETAIL_SIGMA * DETAIL_SIGMA)).exp();
        let whole: f32 = (-reach..=reach).map(bump).sum();
        let area = width * height;
        Stills {
            width,
            height,
            sum: vec![0.0; area],
            detail: vec![0.0; area],
            line: vec![0.0; area],
            kernel: (-reach..=reach).map(|at| bump(at) / whole).collect(),
            frames: 0,
        }
    }

    /// One more frame: luma, a byte a pixel. One of another size is left out.
    pub fn add(&mut self, luma: &[u8]) {
        let (width, height) = (self.width, self.height);
        if luma.len() != width * height || width == 0 {
            return;
        }
        self.take_detail(luma);
        // The size of the detail around each place, from sums over a square.
        let squares: Vec<f32> = self.detail.iter().map(|value| value * value).collect();
        box_mean(&squares, &mut self.line, width, height, AROUND);
        let places = self.sum.iter_mut().zip(&self.detail).zip(&self.line);
        for ((sum, detail), size) in places {
            *sum += (detail / (size.sqrt() + FLAT)).clamp(-CLIP, CLIP);
        }
        self.frames += 1;
    }

    /// All that was added to another one of the same size; one of another is left out.
    pub fn add_all(&mut self, other: &Stills) {
        if self.size() != other.size() {
            return;
        }
        for (sum, more) in self.sum.iter_mut().zip(&other.sum) {
            *sum += more;
        }
        self.frames += other.frames;
    }

    /// The frame less its blurred self.
    fn take_detail(&mut self, luma: &[u8]) {
        let (width, height) = (self.width, self.height);
        let reach = self.kernel.len() / 2;
        for y in 0..height {
            let line = &mut self.line[y * width..][..width];
            line.fill(0.0);
            for (tap, weight) in self.kernel.iter().enumerate() {
                let from = (y + tap).saturating_sub(reach).min(height - 1);
                for (sum, value) in line.iter_mut().zip(&luma[from * width..][..width]) {
                    *sum += weight * f32::from(*value);
                }
            }
        }
        let mut padded = vec![0.0f32; width + 2 * reach];
        for y in 0..height {
            let line = &self.line[y * width..][..width];
            padded[..reach].fill(line[0]);
            padded[reach..reach + width].copy_from_slice(line);
            padded[reach + width..].fill(line[width - 1]);
            let detail = &mut self.detail[y * width..][..width];
            for (value, luma) in detail.iter_mut().zip(&luma[y * width..]) {
                *value = f32::from(*luma);
            }
            for (tap, weight) in self.kernel.iter().enumerate() {
                for (value, blurred) in detail.iter_mut().zip(&padded[tap..]) {
                    *value -= weight * blurred;
                }
            }
        }
    }

    /// Frames so far.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// All that was added, folded into [`CELLS`] cells of half a chip: the mean of each cell over the picture.
    pub fn fold(&self, place: Place) -> Vec<f32> {
        let across = cells_of(self.width, place.left, place.chip);
        let down = cells_of(self.height, place.top, place.chip);
        let mut fold = vec![0.0f32; CELLS];
        let mut line = [0.0f32; SIDE + 1];
        for (y, (row, share)) in down.iter().enumerate() {
            line.fill(0.0);
            for (value, (cell, share)) in self.sum[y * self.width..].iter().zip(&across) {
                let second = value * share;
                line[*cell] += value - second;
                line[cell + 1] += second;
            }
            line[0] += std::mem::take(&mut line[SIDE]);
            let next = (row + 1) % SIDE;
            for (column, value) in line[..SIDE].iter().enumerate() {
                fold[row * SIDE + column] += value * (1.0 - share);
                fold[next * SIDE + column] += value * share;
            }
        }
        let (across, down) = (weights(&across), weights(&down));
        for (row, down) in down.iter().enumerate() {
            for (column, across) in across.iter().enumerate() {
                let weight = across * down;
                let cell = &mut fold[row * SIDE + column];
                *cell = if weight > 0.0 { *cell / weight } else { 0.0 };
            }
        }
        fold
    }
}

/// Where the tiles lie in a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Side of a chip in pixels.
    pub chip: f32,
    /// Pixels that were cut off at the left before the first.
    pub left: f32,
    /// And at the top.
    pub top: f32,
}

impl Place {
    /// Of a clip that was marked at the size `canvas`, scaled to cover `deliver` and cut, centred.
    pub fn delivered(canvas: (usize, usize), deliver: (usize, usize)) -> Place {
        let chips = chips_of_short_side(canvas.0, canvas.1) as f32;
        let ratio = |deliver: usize, canvas: usize| deliver as f32 / canvas.max(1) as f32;
        let scale = ratio(deliver.0, canvas.0).max(ratio(deliver.1, canvas.1));
        let cut = |deliver: usize, canvas: usize| (canvas as f32 * scale - deliver as f32) / 2.0;
        Place {
            chip: canvas.0.min(canvas.1) as f32 / chips * scale,
            left: cut(deliver.0, canvas.0),
            top: cut(deliver.1, canvas.1),
        }
    }
}

/// For each pixel of a line the cell at or before it, and the share of the one behind.
fn cells_of(length: usize, cut: f32, chip: f32) -> Vec<(usize, f32)> {
    let cells = 2.0 / chip;
    let of = |pixel: usize| {
        let at = (pixel as f32 + 0.5 + cut) * cells;
        let whole = at.floor();
        ((whole as usize) % SIDE, at - whole)
    };
    (0..length).map(of).collect()
}

fn weights(cells: &[(usize, f32)]) -> [f32; SIDE] {
    let mut weights = [0.0; SIDE];
    for (cell, share) in cells {
        weights[*cell] += 1.0 - share;
        weights[(cell + 1) % SIDE] += share;
    }
    weights
}

/// Means over squares that reach so far on each side, cut at the edges.
fn box_mean(from: &[f32], into: &mut [f32], width: usize, height: usize, reach: usize) {
    let mut columns = vec![0.0f32; width];
    let mut before = vec![0.0f64; width + 1];
    for row in 0..reach.min(height) {
        for (sum, value) in columns.iter_mut().zip(&from[row * width..][..width]) {
            *sum += value;
        }
    }
    for y in 0..height {
        if y + reach < height {
            for (sum, value) in columns.iter_mut().zip(&from[(y + reach) * width..][..width]) {
                *sum += value;
            }
        }
        if y > reach {
            for (sum, value) in columns.iter_mut().zip(&from[(y - reach - 1) * width..][..width]) {
                *sum -= value;
            }
        }
        let mut running = 0.0f64;
        for (sum, value) in before[1..].iter_mut().zip(&columns) {
            running += f64::from(*value);
            *sum = running;
        }
        let tall = (y + reach).min(height - 1) - y.saturating_sub(reach) + 1;
        for (x, into) in into[y * width..][..width].iter_mut().enumerate() {
            let (first, last) = (x.saturating_sub(reach), (x + reach).min(width - 1));
            let sum = before[last + 1] - before[first];
            // Sums that are subtracted again may end a little below zero.
            *into = (sum as f32 / ((last - first + 1) * tall) as f32).max(0.0);
        }
    }
}

fn bytes(values: impl Iterator<Item = f32>) -> Vec<i8> {
    values.map(|value| (value * UNIT).round().clamp(-127.0, 127.0) as i8).collect()
}

/// What a key reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Read {
    /// Agreement with the key's sync signs; see [`AGREEMENT_KNOWN`].
    pub agreement: f32,
    /// The id, if the agreement is enough and the code's check is right.
    pub mark: Option<MarkId>,
}

fn judged(agreement: f32, least: f32, bits: impl FnOnce() -> [f32; code::CODE_BITS]) -> Read {
    let mark = if agreement >= least { code::decode(&bits()).map(MarkId) } else { None };
    Read { agreement, mark }
}

/// The picture's tile as a film shows it: one value a chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PictureReading(pub Vec<i8>);

impl PictureReading {
    /// Reads a tile whose place is known.
    pub fn at(stills: &Stills, place: Place) -> PictureReading {
        let matched = Square::new().matched(&stills.fold(place));
        let chip =
            |chip: usize| matched[center(chip / TILE_SIDE) * SIDE + center(chip % TILE_SIDE)];
        PictureReading(bytes((0..PIXEL_CHIPS).map(chip)))
    }

    /// How well it agrees with a tile, all chips together: noise stays below 6, what is read with certainty is
    /// above [`TILE_AGREEMENT`].
    pub fn agreement_with(&self, tile: &[i8]) -> f32 {
        agreement_with(&self.0, tile)
    }

    /// How well the chips that tell one mark from another agree with this one: noise stays below 5.
    pub fn agreement_of(&self, key: &MarkKey, mark: MarkId) -> f32 {
        if self.0.len() != PIXEL_CHIPS {
            return 0.0;
        }
        key.pixels.agreement_of(code::encode(mark.0), |place| f32::from(self.0[place]))
    }

    /// Reads the id. Nothing if the reading has another length than a tile.
    pub fn read(&self, key: &MarkKey) -> Read {
        if self.0.len() != PIXEL_CHIPS {
            return Read { agreement: 0.0, mark: None };
        }
        let chip = |place: usize| f32::from(self.0[place]);
        let agreement = key.pixels.agreement(chip);
        judged(agreement, AGREEMENT_KNOWN, || key.pixels.bits(chip))
    }
}

/// A picture that agrees so well with its own tile is read by whoever has the key: its sync signs agree with half
/// of that, 9, and a bit of 48 chips is 1.9 standard deviations from the other value.
pub const TILE_AGREEMENT: f32 = 18.0;

pub(crate) fn center(chip: usize) -> usize {
    2 * chip + 1
}

fn agreement_with(reading: &[i8], tile: &[i8]) -> f32 {
    let pairs = reading.iter().zip(tile);
    let sum: f32 = pairs.map(|(value, chip)| f32::from(*value) * f32::from(*chip)).sum();
    let squares: f32 = reading.iter().map(|value| f32::from(*value).powi(2)).sum();
    if squares > 0.0 { sum / squares.sqrt() } else { 0.0 }
}

/// The sound's tile as a film has it: one value a chip, 0 where it is too quiet to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoundReading(pub Vec<i8>);

impl SoundReading {
    pub(crate) fn of(values: &[f32]) -> SoundReading {
        let squares = values.iter().map(|value| value * value).sum::<f32>() / SOUND_CHIPS as f32;
        let scale = 1.0 / squares.sqrt().max(1e-6);
        SoundReading(bytes(values.iter().map(|value| value * scale)))
    }

    /// As [`PictureReading::agreement_with`].
    pub fn agreement_with(&self, tile: &[i8]) -> f32 {
        agreement_with(&self.0, tile)
    }

    /// As [`PictureReading::read`].
    pub fn read(&self, key: &MarkKey) -> Read {
        if self.0.len() != SOUND_CHIPS {
            return Read { agreement: 0.0, mark: None };
        }
        let chip = |place: usize| f32::from(self.0[place]);
        let agreement = key.sound.agreement(chip);
        judged(agreement, AGREEMENT_KNOWN, || key.sound.bits(chip))
    }

    /// As [`PictureReading::agreement_of`].
    pub fn agreement_of(&self, key: &MarkKey, mark: MarkId) -> f32 {
        if self.0.len() != SOUND_CHIPS {
            return 0.0;
        }
        key.sound.agreement_of(code::encode(mark.0), |place| f32::from(self.0[place]))
    }
}
