//! The turning angles of a sequence's rows: one frequency table for all axes of their positions.
//!
//! Source: huggingface/diffusers 0.42.1 `transformer_minimax_h3.py`, `MiniMaxH3RotaryPosEmbed`.

use super::nn::Result;
use tch::{Device, Kind, Tensor};

/// Every row's turns.
pub struct Rope {
    /// `(n, 1, c / 2)` complex numbers of length 1, for heads of c channels.
    turns: Tensor,
}

/// `1 / theta^(2 i / 2 count)` for i below `count`, in f32.
pub fn frequencies(count: i64, theta: f64) -> Vec<f32> {
    (0..count).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / (2 * count) as f32)).collect()
}

impl Rope {
    /// The turns of positions with one or more axes: the axes' angles stand side by side, and the channels after
    /// them do not turn.
    ///
    /// # Shapes
    /// `positions`: n rows of `axes` values. `channels`: of a head; at least `2 · axes · frequencies`, and even.
    pub fn new(
        positions: &[f32],
        axes: i64,
        frequencies: &[f32],
        channels: i64,
        device: Device,
    ) -> Result<Self> {
        let positions = Tensor::f_from_slice(positions)?.f_reshape([-1, axes, 1])?;
        let angles = positions.f_mul(&Tensor::f_from_slice(frequencies)?)?;
        let turning = axes * frequencies.len() as i64;
        let angles = angles.f_reshape([-1, 1, turning])?.f_to_dtype(Kind::Float, false, false)?;
        let angles = angles.f_constant_pad_nd([0, channels / 2 - turning])?.f_to(device)?;
        Ok(Rope { turns: Tensor::f_complex(&angles.f_cos()?, &angles.f_sin()?)? })
    }

    /// Turns the channels of every head in place; pairs are neighbours.
    ///
    /// # Shapes
    /// `x`: `(n, a, c)` f32, contiguous.
    pub fn turn(&self, x: &Tensor) -> Result<()> {
        let mut pairs = x.f_unflatten(-1, [-1, 2])?.f_view_as_complex()?;
        let _ = pairs.f_mul_(&self.turns)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_swaps_a_pair_and_leaves_the_rest() {
        let quarter = std::f32::consts::FRAC_PI_2;
        let rope = Rope::new(&[0.0, 1.0], 1, &[quarter], 4, Device::Cpu).unwrap();
        let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0].repeat(2)).reshape([2, 1, 4]);
        rope.turn(&x).unwrap();
        let turned = Vec::<f32>::try_from(x.round().reshape([-1])).unwrap();
        assert_eq!(turned, [1.0, 2.0, 3.0, 4.0, -2.0, 1.0, 3.0, 4.0]);
    }
}
