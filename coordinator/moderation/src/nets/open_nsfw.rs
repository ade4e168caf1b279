//! Yahoo's open_nsfw (BSD-2): a ResNet-50-thin that says how likely a picture shows nudity.

use super::{NetError, PictureNet, of_each, scaled};
use crate::models::NetName;
use fast_image_resize::FilterType;
use image::RgbImage;

/// Side of the scaled picture, and of the part that the net sees.
const SCALED: u32 = 256;
const SEEN: u32 = 224;
/// Mean of the training pictures, blue, green, red.
const MEAN: [f32; 3] = [104.0, 117.0, 123.0];

/// The probability of nudity of each picture, 0 to 1.
///
/// The original also passes the picture through JPEG once; that is left out, so that equal frames score equally
/// with any encoder.
///
/// # Errors
/// `NetError`.
pub(crate) fn nsfw(net: &dyn PictureNet, pictures: &[RgbImage]) -> Result<Vec<f32>, NetError> {
    let side = SEEN as usize;
    let numbers = pictures.iter().map(seen).collect::<Result<Vec<_>, _>>()?.concat();
    let outputs = net.run([pictures.len(), side, side, 3], numbers)?;
    let each = of_each(NetName::OpenNsfw, pictures.len(), &outputs)?;
    Ok(each.into_iter().map(|[_, nsfw]| nsfw).collect())
}

fn seen(picture: &RgbImage) -> Result<Vec<f32>, NetError> {
    let scaled = scaled(NetName::OpenNsfw, picture, SCALED, SCALED, FilterType::Bilinear)?;
    let edge = ((SCALED - SEEN) / 2) as usize;
    let rows = scaled.chunks_exact(SCALED as usize * 3).skip(edge).take(SEEN as usize);
    let mut seen = Vec::with_capacity((SEEN * SEEN * 3) as usize);
    for row in rows {
        for pixel in row[edge * 3..][..SEEN as usize * 3].chunks_exact(3) {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
            seen.extend([b - MEAN[0], g - MEAN[1], r - MEAN[2]]);
        }
    }
    Ok(seen)
}
