//! Two-dimensional Fourier transforms of a square, and what folds are compared with in them.

use crate::fft::{Complex, Fft};

/// Cells on a side of a fold: two for each chip, so that a cut between chips costs little.
pub const SIDE: usize = 128;
/// Cells of a fold.
pub const CELLS: usize = SIDE * SIDE;
/// Softness of a bump in cells, as it comes back from a picture.
const BUMP_SIGMA: f32 = 1.0;

/// Plans and buffers for squares of [`SIDE`].
pub struct Square {
    line: Fft,
    turned: Vec<Complex>,
    bump: Vec<f32>,
}

impl Default for Square {
    fn default() -> Self {
        Square::new()
    }
}

impl Square {
    /// Plans the transforms.
    pub fn new() -> Square {
        // The transform of a Gaussian bump is one.
        let tap = |place: usize| {
            let frequency = place.min(SIDE - place) as f32 * std::f32::consts::TAU / SIDE as f32;
            (-frequency * frequency * BUMP_SIGMA * BUMP_SIGMA / 2.0).exp()
        };
        let bump = (0..CELLS).map(|cell| tap(cell / SIDE) * tap(cell % SIDE)).collect();
        Square { line: Fft::new(SIDE), turned: vec![Complex::default(); CELLS], bump }
    }

    fn transform(&mut self, cells: &mut [Complex], line: impl Fn(&Fft, &mut [Complex])) {
        for _ in 0..2 {
            cells.chunks_exact_mut(SIDE).for_each(|row| line(&self.line, row));
            for (row, values) in cells.chunks_exact(SIDE).enumerate() {
                for (column, value) in values.iter().enumerate() {
                    self.turned[column * SIDE + row] = *value;
                }
            }
            cells.copy_from_slice(&self.turned);
        }
    }

    /// To frequencies.
    pub fn forward(&mut self, cells: &mut [Complex]) {
        self.transform(cells, Fft::forward);
    }

    /// And back, not scaled.
    pub fn inverse(&mut self, cells: &mut [Complex]) {
        self.transform(cells, Fft::inverse);
    }

    /// What is left of a fold when its strong frequencies are held back, by the root of their size, matched with a chip's bump: of
    /// variance 1. A lattice in the picture is strong in few; where all counted the same, so would what the encoder took away.
    pub fn matched(&mut self, fold: &[f32]) -> Vec<f32> {
        let mut cells: Vec<Complex> = fold.iter().map(|value| Complex::new(*value, 0.0)).collect();
        self.forward(&mut cells);
        for (cell, bump) in cells.iter_mut().zip(&self.bump) {
            let norm = cell.norm();
            *cell = if norm > 1e-12 { *cell * (bump / norm.sqrt()) } else { Complex::default() };
        }
        cells[0] = Complex::default();
        self.inverse(&mut cells);
        let mut real: Vec<f32> = cells.iter().map(|cell| cell.re).collect();
        let variance = real.iter().map(|value| value * value).sum::<f32>() / CELLS as f32;
        let scale = 1.0 / variance.sqrt().max(1e-12);
        real.iter_mut().for_each(|value| *value *= scale);
        real
    }
}
