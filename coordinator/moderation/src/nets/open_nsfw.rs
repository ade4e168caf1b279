//! Yahoo's open_nsfw (BSD-2): a ResNet-50-thin that says how likely a picture shows nudity.

use super::{Net, NetError, floats};
use image::RgbImage;
use image::imageops::{FilterType, crop_imm, resize};

/// Side of the scaled picture, and of the part that the net sees.
const SCALED: u32 = 256;
const SEEN: u32 = 224;
/// Mean of the training pictures, blue, green, red.
const MEAN: [f32; 3] = [104.0, 117.0, 123.0];

/// The probability of nudity, 0 to 1.
///
/// The original also passes the picture through JPEG once; that is left out, so that equal frames score equally
/// with any encoder.
///
/// # Errors
/// `NetError`.
pub(crate) fn nsfw(net: &Net, picture: &RgbImage) -> Result<f32, NetError> {
    let scaled = resize(picture, SCALED, SCALED, FilterType::Triangle);
    let edge = (SCALED - SEEN) / 2;
    let seen = crop_imm(&scaled, edge, edge, SEEN, SEEN).to_image();
    let side = SEEN as usize;
    let numbers = seen
        .pixels()
        .flat_map(|pixel| {
            let [r, g, b] = pixel.0.map(f32::from);
            [b - MEAN[0], g - MEAN[1], r - MEAN[2]]
        })
        .collect();
    let input = floats([1, side, side, 3], numbers);
    let outputs = net.run(vec![("input:0", input)], &["outputs"])?;
    match outputs.first().map(Vec::as_slice) {
        Some([_, nsfw]) => Ok(*nsfw),
        _ => Err(net.error("it gave another shape than (1, 2)")),
    }
}
