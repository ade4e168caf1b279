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

/// `count` even points from 1 to 0 as torch counts them: the second half from the end.
fn even_points(count: u32) -> impl Iterator<Item = f32> {
    let step = -1.0 / (count - 1) as f32;
    (0..count).map(move |index| {
        if index < count / 2 {
            1.0 + step * index as f32
        } else {
            0.0 - step * (count - 1 - index) as f32
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
