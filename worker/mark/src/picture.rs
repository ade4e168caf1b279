//! The mark in pixels: embedding frame by frame.
//!
//! The tile repeats over the frame from its upper left. The field, each chip a soft bump, is made once for a clip;
//! a frame gets it times what the eye forgives at each place: more where the picture is rough, less where it is flat.
//! The mark stands still while the picture moves, so a reader averages the picture away.

use crate::key::TILE_SIDE;

/// Softness of a chip: standard deviation in chips.
const CHIP_SIGMA: f32 = 0.55;
/// Block of pixels for which the strength is decided.
const BLOCK: usize = 2;
/// Blocks on each side of a place whose roughness counts: 10 × 10 pixels.
const REACH: usize = 2;

/// What the mark changes in a frame at most, in levels of 255 (root of the mean square): 42.4 dB. A frame that forgives more
/// gets less, and at least so much of it.
const CHANGE_MAX: f32 = 1.93;
const SHARE_MIN: f32 = 0.85;
/// Where a large picture is darker than this, in levels, more is forgiven, and most from so many levels below on: half a level
/// is rounded away, and one up or down in black is seen by nobody where chips are small to the eye.
const DARK: f32 = 48.0;
const DARK_LEVELS: f32 = 32.0;
const DARK_LIFT: f32 = 0.9;

/// How strongly a clip is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// What is tried first.
    Normal,
    /// 1.4 times that, where the normal mark did not come back from the encoded file.
    Strong,
}

impl Strength {
    fn factor(self) -> f32 {
        match self {
            Strength::Normal => 1.0,
            Strength::Strong => 1.4,
        }
    }
}

/// Chips on the short side of a picture: the most of 80, 120 and 240 that leave a chip 2 pixels. Below 160 pixels a
/// chip has 2 pixels, and the mark is read where its place is known, not searched.
pub fn chips_of_short_side(width: usize, height: usize) -> u32 {
    match width.min(height) {
        0..160 => (width.min(height) / 2) as u32,
        160..240 => 80,
        240..480 => 120,
        _ => 240,
    }
}

/// Marks the frames of one clip.
pub struct PictureMarker {
    width: usize,
    height: usize,
    field: Vec<f32>,
    /// Its standard deviation: what a place that forgives 1 is changed by.
    alpha: f32,
    /// By how much the wanted strength is above the normal one.
    factor: f32,
    blocks: Blocks,
}

impl PictureMarker {
    /// A marker for frames of this size. `tile`: chips, row by row.
    pub fn new(tile: &[i8], width: usize, height: usize, strength: Strength) -> PictureMarker {
        let chip = width.min(height) as f32 / chips_of_short_side(width, height) as f32;
        // Where chips are small, the encoder takes more of them away; small pictures are rarely rough.
        let (alpha, dark_lift) =
            if width.min(height) < 480 { (1.5, 0.0) } else { (1.05, DARK_LIFT) };
        let field = field(tile, width, height, chip);
        let (factor, blocks) = (strength.factor(), Blocks::new(width, height, dark_lift));
        PictureMarker { width, height, field, alpha, factor, blocks }
    }

    /// Marks one frame in place: 8-bit RGB, row by row. A frame of another size is left alone.
    pub fn mark(&mut self, rgb: &mut [u8]) {
        if self.width != 0 && rgb.len() == self.width * self.height * 3 {
            mark(self, rgb);
        }
    }
}

/// Made twice, also with the wide registers that all but old processors have: a third of the time. Both give the same
/// bytes, for neither fuses or reorders what it computes.
#[multiversion::multiversion(targets("x86_64+avx2"))]
fn mark(marker: &mut PictureMarker, rgb: &mut [u8]) {
    let (width, height) = (marker.width, marker.height);
    marker.blocks.look(rgb, width, height);
    let change = (marker.alpha * marker.blocks.forgiven()).max(f32::MIN_POSITIVE);
    let share = (CHANGE_MAX / change).clamp(SHARE_MIN, 1.0);
    let strength = marker.alpha * marker.factor * share;
    let columns = marker.blocks.columns;
    let rows = rgb.chunks_exact_mut(width * 3).zip(marker.field.chunks_exact(width));
    for (y, (row, field)) in rows.enumerate() {
        let gains = &marker.blocks.gain[y / BLOCK * columns..][..columns];
        change_row(row, field, gains, strength);
    }
}

/// Adds to each pixel of a row the field times what its block forgives.
#[inline(always)]
fn change_row(row: &mut [u8], field: &[f32], gains: &[f32], strength: f32) {
    const AT_ONCE: usize = 64;
    let parts = row.chunks_mut(3 * AT_ONCE).zip(field.chunks(AT_ONCE));
    for ((pixels, field), gains) in parts.zip(gains.chunks(AT_ONCE / BLOCK)) {
        let mut wide = [0.0; AT_ONCE];
        for (wide, gain) in wide.chunks_exact_mut(BLOCK).zip(gains) {
            wide.fill(gain * strength);
        }
        let mut change = [0i16; AT_ONCE];
        for ((change, field), gain) in change.iter_mut().zip(field).zip(&wide) {
            let d = field * gain;
            // Rounds to the nearest; `as` cuts off.
            *change = (d + 0.5f32.copysign(d)) as i32 as i16;
        }
        for (pixel, change) in pixels.chunks_exact_mut(3).zip(&change) {
            for value in pixel {
                *value = (i16::from(*value) + change).clamp(0, 255) as u8;
            }
        }
    }
}

/// The tile over a picture as soft bumps, of variance 1.
fn field(tile: &[i8], width: usize, height: usize, chip: f32) -> Vec<f32> {
    let across = Bumps::new(width, chip);
    let down = Bumps::new(height, chip);
    let mut field = vec![0.0; width * height];
    let mut line = vec![0.0f32; TILE_SIDE];
    for (y, taps) in down.taps.iter().enumerate() {
        line.fill(0.0);
        for (row, weight) in taps {
            for (value, chip) in line.iter_mut().zip(&tile[row * TILE_SIDE..][..TILE_SIDE]) {
                *value += weight * f32::from(*chip);
            }
        }
        for (value, taps) in field[y * width..][..width].iter_mut().zip(&across.taps) {
            *value = taps.iter().map(|(column, weight)| weight * line[*column]).sum();
        }
    }
    let variance = field.iter().map(|value| value * value).sum::<f32>() / field.len().max(1) as f32;
    let scale = 1.0 / variance.sqrt().max(1e-6);
    field.iter_mut().for_each(|value| *value *= scale);
    field
}

/// For each pixel of a line, the chips that reach it and how much of each.
struct Bumps {
    taps: Vec<Vec<(usize, f32)>>,
}

impl Bumps {
    fn new(length: usize, chip: f32) -> Bumps {
        let taps = |pixel: usize| {
            let place = (pixel as f32 + 0.5) / chip - 0.5;
            let first = place.floor() as i64 - 2;
            (first..first + 6)
                .map(|index| {
                    let distance = (place - index as f32) / CHIP_SIGMA;
                    let weight = (-distance * distance / 2.0).exp();
                    (index.rem_euclid(TILE_SIDE as i64) as usize, weight)
                })
                .collect()
        };
        Bumps { taps: (0..length).map(taps).collect() }
    }
}

/// What the eye forgives, for each block of a frame. All lists: a value for each block, row by row.
struct Blocks {
    columns: usize,
    rows: usize,
    /// How much more is forgiven in the dark.
    dark_lift: f32,
    /// Blocks within reach of each column.
    spans: Vec<f32>,
    /// Of the lumas of a block, and of their squares.
    sums: Vec<f32>,
    squares: Vec<f32>,
    near_sums: Vec<f32>,
    near_squares: Vec<f32>,
    rough: Vec<f32>,
    gain: Vec<f32>,
    /// Lumas of a row of pixels.
    lumas: Vec<f32>,
}

impl Blocks {
    fn new(width: usize, height: usize, dark_lift: f32) -> Blocks {
        let (columns, rows) = (width.div_ceil(BLOCK), height.div_ceil(BLOCK));
        let each = || vec![0.0; columns * rows];
        Blocks {
            columns,
            rows,
            dark_lift,
            spans: (0..columns).map(|column| span(column, columns) as f32).collect(),
            sums: each(),
            squares: each(),
            near_sums: each(),
            near_squares: each(),
            rough: each(),
            gain: each(),
            lumas: vec![0.0; columns * BLOCK],
        }
    }

    /// Root of the mean square of what the places of the frame forgive.
    #[inline(always)]
    fn forgiven(&self) -> f32 {
        let squares = self.gain.iter().map(|gain| gain * gain).sum::<f32>();
        (squares / self.gain.len().max(1) as f32).sqrt()
    }

    #[inline(always)]
    fn look(&mut self, rgb: &[u8], width: usize, height: usize) {
        let (columns, rows) = (self.columns, self.rows);
        for (row, lines) in rgb.chunks(width * 3 * BLOCK).enumerate() {
            let sums = &mut self.sums[row * columns..][..columns];
            let squares = &mut self.squares[row * columns..][..columns];
            sums.fill(0.0);
            squares.fill(0.0);
            for line in lines.chunks_exact(width * 3) {
                for (luma, pixel) in self.lumas.iter_mut().zip(line.chunks_exact(3)) {
                    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(i32::from);
                    *luma = (54 * r + 183 * g + 19 * b) as f32 / 256.0;
                }
                let blocks = self.lumas.chunks_exact(BLOCK);
                for ((sum, squares), lumas) in sums.iter_mut().zip(squares.iter_mut()).zip(blocks) {
                    for luma in lumas {
                        *sum += luma;
                        *squares += luma * luma;
                    }
                }
            }
        }
        box_sum(&self.sums, &mut self.near_sums, columns, rows);
        box_sum(&self.squares, &mut self.near_squares, columns, rows);
        for row in 0..rows {
            let tall = (span(row, rows) * BLOCK).min(height) as f32 * BLOCK as f32;
            let of_row = row * columns..(row + 1) * columns;
            let sums =
                self.near_sums[of_row.clone()].iter().zip(&self.near_squares[of_row.clone()]);
            let rough = self.rough[of_row].iter_mut().zip(&self.spans);
            for ((rough, span), (sum, squares)) in rough.zip(sums) {
                let count = tall * span;
                let mean = sum / count;
                let deviation = (squares / count - mean * mean).max(0.0).sqrt();
                let forgiven = (0.55 + 0.11 * deviation).clamp(0.55, 2.6);
                let light = (1.15 - 0.3 * (mean - 110.0).abs() / 110.0).clamp(0.7, 1.2);
                let dark = self.dark_lift * ((DARK - mean) / DARK_LEVELS).clamp(0.0, 1.0);
                *rough = forgiven * light * (1.0 + dark);
            }
        }
        box_sum(&self.rough, &mut self.gain, columns, rows);
        for (row, gains) in self.gain.chunks_exact_mut(columns).enumerate() {
            let tall = span(row, rows) as f32;
            for (gain, span) in gains.iter_mut().zip(&self.spans) {
                *gain /= tall * span;
            }
        }
    }
}

/// Places within reach of one, itself included.
fn span(place: usize, length: usize) -> usize {
    (place + REACH).min(length - 1) - place.saturating_sub(REACH) + 1
}

/// Sums over the places within reach, in both directions.
#[inline(always)]
fn box_sum(from: &[f32], into: &mut [f32], columns: usize, rows: usize) {
    // With so many zeros before and behind that each place has all its neighbours.
    let mut line = vec![0.0; columns + 2 * REACH];
    for (row, into) in into.chunks_exact_mut(columns).enumerate() {
        let middle = &mut line[REACH..][..columns];
        middle.fill(0.0);
        for near in row.saturating_sub(REACH)..=(row + REACH).min(rows - 1) {
            for (sum, value) in middle.iter_mut().zip(&from[near * columns..][..columns]) {
                *sum += value;
            }
        }
        for (into, near) in into.iter_mut().zip(line.windows(2 * REACH + 1)) {
            *into = near.iter().sum();
        }
    }
}
