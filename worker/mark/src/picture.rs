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
        let (width, height) = (self.width, self.height);
        if width == 0 || rgb.len() != width * height * 3 {
            return;
        }
        self.blocks.look(rgb, width, height);
        let change = (self.alpha * self.blocks.forgiven()).max(f32::MIN_POSITIVE);
        let share = (CHANGE_MAX / change).clamp(SHARE_MIN, 1.0);
        let strength = self.alpha * self.factor * share;
        let columns = self.blocks.columns;
        let rows = rgb.chunks_exact_mut(width * 3).zip(self.field.chunks_exact(width));
        for (y, (row, field)) in rows.enumerate() {
            let gains = &self.blocks.gain[y / BLOCK * columns..][..columns];
            let pairs = row.chunks_mut(3 * BLOCK).zip(field.chunks(BLOCK));
            for ((pixels, field), gain) in pairs.zip(gains) {
                let gain = gain * strength;
                for (pixel, field) in pixels.chunks_exact_mut(3).zip(field) {
                    let d = field * gain;
                    // Rounds to the nearest; `as` cuts off.
                    let d = (d + 0.5f32.copysign(d)) as i16;
                    for value in pixel {
                        *value = (i16::from(*value) + d).clamp(0, 255) as u8;
                    }
                }
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

/// What the eye forgives, for each block of a frame.
struct Blocks {
    columns: usize,
    rows: usize,
    /// How much more is forgiven in the dark.
    dark_lift: f32,
    sums: Vec<[f32; 2]>,
    line: Vec<[f32; 2]>,
    gain: Vec<f32>,
    smooth: Vec<f32>,
}

impl Blocks {
    fn new(width: usize, height: usize, dark_lift: f32) -> Blocks {
        let (columns, rows) = (width.div_ceil(BLOCK), height.div_ceil(BLOCK));
        Blocks {
            columns,
            rows,
            dark_lift,
            sums: vec![[0.0; 2]; columns * rows],
            line: vec![[0.0; 2]; columns * rows],
            gain: vec![0.0; columns * rows],
            smooth: vec![0.0; columns * rows],
        }
    }

    /// Root of the mean square of what the places of the frame forgive.
    fn forgiven(&self) -> f32 {
        let squares = self.gain.iter().map(|gain| gain * gain).sum::<f32>();
        (squares / self.gain.len().max(1) as f32).sqrt()
    }

    fn look(&mut self, rgb: &[u8], width: usize, height: usize) {
        let (columns, rows) = (self.columns, self.rows);
        for (row, pair) in rgb.chunks(width * 3 * BLOCK).enumerate() {
            let sums = &mut self.sums[row * columns..][..columns];
            sums.fill([0.0; 2]);
            for line in pair.chunks_exact(width * 3) {
                for (sum, pixels) in sums.iter_mut().zip(line.chunks(3 * BLOCK)) {
                    for pixel in pixels.chunks_exact(3) {
                        let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
                        let luma = (54 * r + 183 * g + 19 * b) as f32 / 256.0;
                        sum[0] += luma;
                        sum[1] += luma * luma;
                    }
                }
            }
        }
        let add = |a: [f32; 2], b: [f32; 2]| [a[0] + b[0], a[1] + b[1]];
        box_sum(&self.sums, &mut self.line, columns, rows, [0.0; 2], add);
        for row in 0..rows {
            let tall = span(row, rows) * BLOCK;
            let tall = tall.min(height);
            for column in 0..columns {
                let count = (tall * span(column, columns) * BLOCK) as f32;
                let [sum, squares] = self.line[row * columns + column];
                let mean = sum / count;
                let deviation = (squares / count - mean * mean).max(0.0).sqrt();
                let rough = (0.55 + 0.11 * deviation).clamp(0.55, 2.6);
                let light = (1.15 - 0.3 * (mean - 110.0).abs() / 110.0).clamp(0.7, 1.2);
                let dark = self.dark_lift * ((DARK - mean) / DARK_LEVELS).clamp(0.0, 1.0);
                self.smooth[row * columns + column] = rough * light * (1.0 + dark);
            }
        }
        box_sum(&self.smooth, &mut self.gain, columns, rows, 0.0, |a, b| a + b);
        for row in 0..rows {
            for column in 0..columns {
                self.gain[row * columns + column] /=
                    (span(row, rows) * span(column, columns)) as f32;
            }
        }
    }
}

/// Places within reach of one, itself included.
fn span(place: usize, length: usize) -> usize {
    (place + REACH).min(length - 1) - place.saturating_sub(REACH) + 1
}

/// Sums over the places within reach, in both directions.
fn box_sum<T: Copy>(
    from: &[T],
    into: &mut [T],
    columns: usize,
    rows: usize,
    zero: T,
    add: impl Fn(T, T) -> T,
) {
    let mut line = vec![zero; columns];
    for row in 0..rows {
        line.fill(zero);
        for near in row.saturating_sub(REACH)..=(row + REACH).min(rows - 1) {
            for (sum, value) in line.iter_mut().zip(&from[near * columns..][..columns]) {
                *sum = add(*sum, *value);
            }
        }
        let into = &mut into[row * columns..][..columns];
        for (column, sum) in into.iter_mut().enumerate() {
            let near = column.saturating_sub(REACH)..=(column + REACH).min(columns - 1);
            *sum = line[near].iter().copied().fold(zero, &add);
        }
    }
}
