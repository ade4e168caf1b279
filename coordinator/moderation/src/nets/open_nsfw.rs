//! Yahoo's open_nsfw (BSD-2): a ResNet-50-thin that says how likely a picture shows nudity.

use super::{NetError, PictureNet, of_each};
use crate::models::NetName;
use image::RgbImage;
use image::imageops::{FilterType, crop_imm, resize};

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
    let numbers = pictures.iter().flat_map(seen).collect();
    let outputs = net.run([pictures.len(), side, side, 3], numbers)?;
    let each = of_each(NetName::OpenNsfw, pictures.len(), &outputs)?;
    Ok(each.into_iter().map(|[_, nsfw]| nsfw).collect())
}

fn seen(picture: &RgbImage) -> Vec<f32> {
    let scaled = resize(picture, SCALED, SCALED, FilterType::Triangle);
    let edge = (SCALED - SEEN) / 2;
    let seen = crop_imm(&scaled, edge, edge, SEEN, SEEN).to_image();
    let less_mean = |pixel: &image::Rgb<u8>| {
        let [r, g, b] = pixel.0.map(f32::from);
        [b - MEAN[0], g - MEAN[1], r - MEAN[2]]
    };
    seen.pixels().flat_map(less_mean).collect()
}
