//! Images from outside: decoded within limits, or refused. What is refused was never handed to a net.
//!
//! A bomb is a file whose picture is much larger than its bytes: the size is read before anything is decoded.

use image::codecs::gif::GifDecoder;
use image::{
    AnimationDecoder, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage,
};
use std::io::Cursor;

/// The largest file.
pub const BYTES_MAX: usize = 20 << 20;
/// The longest side.
const SIDE_MAX: u32 = 16_384;
/// The most pixels: 8K video has 33 million.
const PIXELS_MAX: u64 = 40_000_000;
/// Memory of a decoder: such a picture with four 16-bit channels.
const ALLOC_MAX: u64 = 512 << 20;
/// Frames of an animation that are looked at; one with more is refused.
const ANIMATION_FRAMES_MAX: usize = 64;

/// An image that is not looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Too many bytes.
    #[error("the image has {0} bytes, at most {BYTES_MAX} are allowed")]
    Bytes(usize),
    /// No format that we decode.
    #[error("the image is no JPEG, PNG, WebP or GIF")]
    Format,
    /// Two files in one: something stands behind the end of the picture.
    #[error("the image has {0} bytes behind its end")]
    Polyglot(usize),
    /// Too many pixels.
    #[error(
        "the image has {width}x{height} pixels, at most {SIDE_MAX} a side and {PIXELS_MAX} in all are allowed"
    )]
    Pixels {
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
    },
    /// Too many frames.
    #[error("the animation has more than {ANIMATION_FRAMES_MAX} frames")]
    Frames,
    /// Broken.
    #[error("the image cannot be decoded: {0}")]
    Decode(String),
}

/// The pictures of a file: one, or the frames of an animation.
///
/// # Errors
/// `ImageError`; nothing is decoded beyond the limits.
pub fn pictures(bytes: &[u8]) -> Result<Vec<RgbImage>, ImageError> {
    if bytes.len() > BYTES_MAX {
        return Err(ImageError::Bytes(bytes.len()));
    }
    // By its first bytes alone: names and declared types are the sender's words.
    let format = image::guess_format(bytes).map_err(|_| ImageError::Format)?;
    let known = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif];
    if !known.contains(&format) {
        return Err(ImageError::Format);
    }
    if let Some(behind) = behind(format, bytes) {
        return Err(ImageError::Polyglot(behind));
    }
    let decode = |e: image::ImageError| ImageError::Decode(e.to_string());
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    let (width, height) = reader.into_dimensions().map_err(decode)?;
    let pixels = u64::from(width) * u64::from(height);
    if width == 0 || height == 0 || width.max(height) > SIDE_MAX || pixels > PIXELS_MAX {
        return Err(ImageError::Pixels { width, height });
    }
    if format == ImageFormat::Gif {
        return animation(bytes);
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    Ok(vec![on_white(&reader.decode().map_err(decode)?)])
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(ALLOC_MAX);
    limits
}

/// Every frame counts: what is hidden in the last one is shown too.
fn animation(bytes: &[u8]) -> Result<Vec<RgbImage>, ImageError> {
    let decode = |e: image::ImageError| ImageError::Decode(e.to_string());
    let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(decode)?;
    decoder.set_limits(limits()).map_err(decode)?;
    let (width, height) = decoder.dimensions();
    let each = (u64::from(width) * u64::from(height)).max(1);
    let most = ANIMATION_FRAMES_MAX.min((4 * PIXELS_MAX / each) as usize).max(1);
    let mut pictures = Vec::new();
    for frame in decoder.into_frames() {
        if pictures.len() == most {
            return Err(ImageError::Frames);
        }
        let frame = frame.map_err(decode)?.into_buffer();
        pictures.push(on_white(&DynamicImage::ImageRgba8(frame)));
    }
    if pictures.is_empty() { Err(ImageError::Decode("no frame".into())) } else { Ok(pictures) }
}

/// Transparent parts are shown on white, as pages do.
fn on_white(picture: &DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.to_rgb8();
    }
    let mut seen = RgbImage::new(picture.width(), picture.height());
    for (to, from) in seen.pixels_mut().zip(picture.to_rgba8().pixels()) {
        let [r, g, b, a] = from.0.map(u32::from);
        to.0 = [r, g, b].map(|c| ((c * a + 255 * (255 - a)) / 255) as u8);
    }
    seen
}

/// Bytes behind the end of the picture, where the format says where that is and there are more than a pad.
fn behind(format: ImageFormat, bytes: &[u8]) -> Option<usize> {
    let last =
        |mark: &[u8]| bytes.windows(mark.len()).rposition(|w| w == mark).map(|at| at + mark.len());
    let end = match format {
        ImageFormat::Png => last(b"IEND\xae\x42\x60\x82")?,
        ImageFormat::Jpeg => last(b"\xff\xd9")?,
        ImageFormat::WebP => {
            let length = bytes.get(4..8).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))?;
            (length as usize).checked_add(8)?
        }
        _ => return None,
    };
    bytes.len().checked_sub(end).filter(|behind| *behind > 16)
}

#[cfg(test)]
#[path = "image_in_tests.rs"]
mod tests;
