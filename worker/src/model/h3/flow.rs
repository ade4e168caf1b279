//! The two sigma schedules of a render, and the Euler step. Plain numbers, except for the step.
//!
//! Sigma 1 is noise and 0 is clean; a timestep is 1 - sigma; the velocity points to the data. n points of the
//! grid are n - 1 forwards; both schedules have the same points before their shifts.

use crate::model::nn::Result;
use tch::Tensor;

/// The sigma grid of one modality, from 1 to 0, in f32.
///
/// `steps + 1` even points from 1 to 0, each moved to `shift σ / (1 + (shift - 1) σ)`. Neighbours that f32
/// cannot tell apart are one.
///
/// # Source
/// huggingface/diffusers 0.42.1 `schedulers/scheduling_minimax_h3.py`, `set_timesteps`.
pub fn sigmas(steps: u32, shift: f64) -> Vec<f32> {
    let shift = shift as f32;
    let mut grid: Vec<f32> =
        even_points(steps + 1).map(|base| shift * base / (1.0 + (shift - 1.0) * base)).collect();
    grid.dedup();
    grid
}

/// `count` even points from 1 to 0 as torch counts them: the second half from the end, each with one rounding, as its
/// kernels for AVX2 and later do.
fn even_points(count: u32) -> impl Iterator<Item = f32> {
    let step = -1.0 / (count - 1) as f32;
    (0..count).map(move |index| {
        if index < count / 2 {
            step.mul_add(index as f32, 1.0)
        } else {
            -step * (count - 1 - index) as f32
        }
    })
}

/// One point of both schedules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Share of noise before the step, 0 to 1.
    pub sigma: f32,
    /// Share of noise after it, below `sigma`.
    pub sigma_next: f32,
}

impl Point {
    /// What the transformer is told: 1 is clean.
    pub fn timestep(self) -> f32 {
        1.0 - self.sigma
    }
}

/// The steps of a grid.
pub fn points(sigmas: &[f32]) -> Vec<Point> {
    sigmas.windows(2).map(|pair| Point { sigma: pair[0], sigma_next: pair[1] }).collect()
}

/// Takes one Euler step. No noise is added, so the result is all that a resume needs.
///
/// # Shapes
/// `latents`, `velocity` and the result: `(n, c)`, f32; `c` is 96 for video rows, 32 for sound rows.
/// # Source
/// huggingface/diffusers 0.42.1 `schedulers/scheduling_minimax_h3.py`, `step`.
pub fn euler_step(latents: &Tensor, velocity: &Tensor, point: Point) -> Result {
    // The clean estimate takes its sigma from the timestep: 1 - (1 - σ) is not always σ in f32.
    let sigma = f64::from(1.0 - point.timestep());
    let ratio = point.sigma_next / point.sigma;
    let clean = latents.f_add(&velocity.f_mul_scalar(sigma)?)?;
    let kept = latents.f_mul_scalar(f64::from(ratio))?;
    kept.f_add(&clean.f_mul_scalar(f64::from(1.0 - ratio))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n_steps_take_n_plus_one_points_from_noise_to_clean() {
        for steps in [1, 4, 8, 50] {
            for shift in [3.0, 12.0] {
                let grid = sigmas(steps, shift);
                assert_eq!(grid.len() as u32, steps + 1);
                assert_eq!((grid[0], grid[steps as usize]), (1.0, 0.0));
                assert!(grid.windows(2).all(|pair| pair[1] < pair[0]));
            }
        }
    }

    // Of torch 2.13.0: `base = linspace(1, 0, 51)`, then `shift * base / (1 + (shift - 1) * base)`.
    #[rustfmt::skip]
    const OF_VIDEO: [u32; 51] = [
        0x3f800000, 0x3f7f90bb, 0x3f7f1d3b, 0x3f7ea53f, 0x3f7e2885, 0x3f7da6c0, 0x3f7d1fa3,
        0x3f7c92d8, 0x3f7bffff, 0x3f7b66b6, 0x3f7ac688, 0x3f7a1f01, 0x3f796f97, 0x3f78b7bc,
        0x3f77f6d1, 0x3f772c23, 0x3f7656f2, 0x3f757664, 0x3f74898d, 0x3f738f63, 0x3f7286bc,
        0x3f716e50, 0x3f7044a7, 0x3f6f081f, 0x3f6db6db, 0x3f6c4ec5, 0x3f6acd74, 0x3f693027,
        0x3f6773b9, 0x3f659480, 0x3f638e39, 0x3f615bed, 0x3f5ef7bd, 0x3f5c5abc, 0x3f597c9a,
        0x3f56535a, 0x3f52d2d4, 0x3f4eec1a, 0x3f4a8ca9, 0x3f459d30, 0x3f400000, 0x3f398e9a,
        0x3f321643, 0x3f2952a6, 0x3f1ee584, 0x3f124924, 0x3f02b931, 0x3ede1281, 0x3eaaaaaa,
        0x3e49714f, 0x00000000,
    ];
    #[rustfmt::skip]
    const OF_SOUND: [u32; 51] = [
        0x3f800000, 0x3f7e4531, 0x3f7c7e3e, 0x3f7aaaaa, 0x3f78c9e9, 0x3f76db6d, 0x3f74de9b,
        0x3f72d2d2, 0x3f70b767, 0x3f6e8ba4, 0x3f6c4ec6, 0x3f6a0001, 0x3f679e7a, 0x3f65294a,
        0x3f629f7a, 0x3f5fffff, 0x3f5d49c2, 0x3f5a7b95, 0x3f579436, 0x3f549249, 0x3f51745d,
        0x3f4e38e5, 0x3f4ade32, 0x3f476278, 0x3f43c3c4, 0x3f400000, 0x3f3c14e5, 0x3f37ffff,
        0x3f33bea3, 0x3f2f4dea, 0x3f2aaaaa, 0x3f25d174, 0x3f20be82, 0x3f1b6db6, 0x3f15da89,
        0x3f100000, 0x3f09d89e, 0x3f035e51, 0x3ef914c1, 0x3eeaaaa9, 0x3edb6db6, 0x3ecb4b4a,
        0x3eba2e8c, 0x3ea80001, 0x3e94a529, 0x3e7ffffe, 0x3e53dcb1, 0x3e249249, 0x3de38e38,
        0x3d6c4ec5, 0x00000000,
    ];

    /// Promise: a render has the reference's sigmas, bit for bit.
    #[test]
    fn fifty_steps_have_the_points_of_the_reference() {
        for (shift, expected) in [(12.0, OF_VIDEO), (3.0, OF_SOUND)] {
            let bits: Vec<u32> = sigmas(50, shift).iter().map(|sigma| sigma.to_bits()).collect();
            assert_eq!(bits, expected, "shift {shift}");
        }
    }

    #[test]
    fn the_shift_moves_points_towards_noise() {
        assert_eq!(sigmas(2, 3.0), [1.0, 0.75, 0.0]);
        assert_eq!(sigmas(2, 12.0)[1], 6.0 / 6.5);
    }

    #[test]
    fn the_last_step_ends_at_the_clean_estimate() {
        let latents = Tensor::from_slice(&[1.0f32, 2.0]);
        let velocity = Tensor::from_slice(&[4.0f32, -4.0]);
        let end = euler_step(&latents, &velocity, Point { sigma: 0.5, sigma_next: 0.0 }).unwrap();
        assert_eq!(Vec::<f32>::try_from(end).unwrap(), [3.0, 0.0]);
    }
}
