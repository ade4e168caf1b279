//! The turning angles of the packed sequence's rows: one frequency table for the three axes.
//!
//! Source: huggingface/diffusers 0.42.1 `transformer_minimax_h3.py`, `MiniMaxH3RotaryPosEmbed`.

use crate::model::nn::Result;
use tch::{Device, Kind, Tensor};

/// Cosines and sines of every row's angles.
pub struct Rope {
    /// `(n, 1, c)` f32.
    pub cos: Tensor,
    /// `(n, 1, c)` f32.
    pub sin: Tensor,
}

/// `1 / theta^(2 i / 2 count)` for i below `count`, in f32.
pub fn frequencies(count: i64, theta: f64) -> Vec<f32> {
    (0..count).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / (2 * count) as f32)).collect()
}

impl Rope {
    /// The angles of positions with one or more axes: the axes' angles stand side by side.
    ///
    /// # Shapes
    /// `positions`: n rows of `axes` values. The tables: `(n, 1, axes · frequencies)`.
    pub fn new(positions: &[f32], axes: i64, frequencies: &[f32], device: Device) -> Result<Self> {
        let positions = Tensor::f_from_slice(positions)?.f_reshape([-1, axes, 1])?;
        let angles = positions.f_mul(&Tensor::f_from_slice(frequencies)?)?;
        let angles = angles.f_reshape([-1, 1, axes * frequencies.len() as i64])?.f_to(device)?;
        let angles = angles.f_to_dtype(Kind::Float, false, false)?;
        Ok(Rope { cos: angles.f_cos()?, sin: angles.f_sin()? })
    }
}
