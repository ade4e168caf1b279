//! Images from outside: decoded within limits, or refused. What is refused was never handed to a net.
//!
//! A bomb is a file whose picture is much larger than its bytes: the size is read before anything is decoded.

use crate::classifier::hash;
use crate::faces::LOOKS_MAX;
use image::codecs::gif::GifDecoder;
use image::{
    AnimationDecoder, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage,
};
use std::io::Cursor;

/// The largest file.
pub const BYTES_MAX: usize = 20 << 20;
/// The longest side.
const SIDE_MAX: u32 = 16_384;
/// The most pixels, of all frames together: 8K video has 33 million in one.
const PIXELS_MAX: u64 = 40_000_000;
/// Memory of a decoder: such a picture with four 16-bit channels.
const ALLOC_MAX: u64 = 512 << 20;
/// Frames of an animation that are looked at; one with more is refused.
const ANIMATION_FRAMES_MAX: usize = 64;

/// Different frames that are looked at in one request, over all its images: each is seen by three nets, which takes up
/// to 330 ms of one core, so 11 s in all, and 5 s more where they are large.
pub const REQUEST_FRAMES_MAX: usize = 32;
/// Two frames are one to the nets if no channel of any pixel differs by more, of 255: dithering and noise of a codec.
const ALIKE: u8 = 8;
/// Bits in which the perceptual hashes of such frames may differ; others are not compared pixel by pixel.
const ALIKE_BITS: u32 = 8;

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
    #[error(
        "the animation has more than {ANIMATION_FRAMES_MAX} frames, or more than {PIXELS_MAX} pixels in all of them"
    )]
    Frames,
    /// Too many that differ, in all images of a request.
    #[error(
        "at most {REQUEST_FRAMES_MAX} different frames are looked at in one request, over all its images"
    )]
    Different,
    /// Faces would have to be looked for in too many parts.
    #[error(
        "the frames of the image are too long and narrow: faces would be looked for {0} times, at most {LOOKS_MAX} are"
    )]
    Parts(usize),
    /// Several pictures in a format of which we read the first alone.
    #[error("an animated PNG or WebP is not looked at: send a GIF, or its frames one by one")]
    Animated,
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
    alone(format, bytes)?;
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
    let mut decoder = reader.into_decoder().map_err(decode)?;
    if decoder.total_bytes() > ALLOC_MAX {
        return Err(ImageError::Pixels { width, height });
    }
    // As everybody shows it: on its head a face is none.
    let turn = decoder.orientation().map_err(decode)?;
    let picture = DynamicImage::from_decoder(decoder).map_err(decode)?;
    let mut picture = DynamicImage::ImageRgb8(on_white(&picture));
    picture.apply_orientation(turn);
    Ok(vec![picture.into_rgb8()])
}

/// Whether a file of this format is all that a decoder reads of it: nothing stands behind its end, and no picture behind its
/// first, of which others show more than we look at. A GIF is looked at frame by frame.
///
/// # Errors
/// `Polyglot`, `Animated`; `Decode` for a JPEG without an end.
pub fn alone(format: ImageFormat, bytes: &[u8]) -> Result<(), ImageError> {
    if let Some(behind) = behind(format, bytes) {
        return Err(ImageError::Polyglot(behind));
    }
    // Whatever stood behind such a picture would count as part of it.
    if format == ImageFormat::Jpeg && jpeg_end(bytes).is_none() {
        return Err(ImageError::Decode("the JPEG has no end".into()));
    }
    if is_animated(format, bytes) {
        return Err(ImageError::Animated);
    }
    Ok(())
}

/// The pictures that differ, in their order. A hash alone would take a picture and its blurred twin for one, so that what
/// the nets know in the one would hide behind the other: equal are pictures whose pixels are.
///
/// # Errors
/// `Different` if there are more than `most`.
pub fn distinct(pictures: Vec<RgbImage>, most: usize) -> Result<Vec<RgbImage>, ImageError> {
    let mut kept: Vec<(u64, RgbImage)> = Vec::new();
    for picture in pictures {
        let hash = hash(&picture);
        let known = |(of, other): &(u64, RgbImage)| {
            (of ^ hash).count_ones() <= ALIKE_BITS && is_alike(other, &picture)
        };
        if kept.iter().any(known) {
            continue;
        }
        if kept.len() >= most {
            return Err(ImageError::Different);
        }
        kept.push((hash, picture));
    }
    Ok(kept.into_iter().map(|(_, picture)| picture).collect())
}

fn is_alike(a: &RgbImage, b: &RgbImage) -> bool {
    let near = |(a, b): (&u8, &u8)| a.abs_diff(*b) <= ALIKE;
    a.dimensions() == b.dimensions() && a.as_raw().iter().zip(b.as_raw()).all(near)
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
    let most = ANIMATION_FRAMES_MAX.min((PIXELS_MAX / each) as usize).max(1);
    // Before the first is decoded: a frame of a few bytes takes as long as its canvas is large.
    let Some((_, frames)) = gif_layout(bytes) else {
        return Err(ImageError::Decode("the animation has no end".into()));
    };
    if frames > most {
        return Err(ImageError::Frames);
    }
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
    let end = match format {
        ImageFormat::Png => png_chunk(bytes, b"IEND")?,
        ImageFormat::Gif => gif_layout(bytes)?.0,
        ImageFormat::Jpeg => jpeg_end(bytes)?,
        ImageFormat::WebP => {
            let length = bytes.get(4..8).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))?;
            (length as usize).checked_add(8)?
        }
        _ => return None,
    };
    bytes.len().checked_sub(end).filter(|behind| *behind > 16)
}

/// Whether a PNG or WebP has pictures behind its first.
fn is_animated(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Png => png_chunk(bytes, b"acTL").is_some(),
        // The extended format, and its flag.
        ImageFormat::WebP => {
            bytes.get(12..16) == Some(b"VP8X") && bytes.get(20).is_some_and(|flags| flags & 2 != 0)
        }
        _ => false,
    }
}

/// Where the first chunk of this kind ends; none if there is none.
fn png_chunk(bytes: &[u8], kind: &[u8; 4]) -> Option<usize> {
    let mut at = 8usize;
    loop {
        let head = bytes.get(at..at.checked_add(8)?)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let end = at.checked_add(12)?.checked_add(length)?;
        match &head[4..] {
            found if found == kind => return Some(end),
            b"IEND" => return None,
            _ => at = end,
        }
    }
}

/// Where the first picture of a JPEG ends; none if it does not. A second one behind it, as telephones put there for large
/// screens, would be seen by nobody here, so it counts as another file. Segments are stepped over by their length: the
/// small picture in the head of a photo has an end of its own.
fn jpeg_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        // As decoders do: what is no marker is skipped, which also passes the packed data behind a start of scan, where
        // a 0 behind ff makes it data.
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        at += bytes[at..].iter().position(|byte| *byte != 0xff)?;
        let marker = bytes[at];
        at += 1;
        match marker {
            0xd9 => return Some(at),
            // Data; a temporary mark, restarts and a start, which have no length.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            _ => {
                let length = bytes.get(at..at + 2)?;
                at += usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
            }
        }
    }
}

/// Where the trailer of a GIF ends, and how many frames stand before it; none if there is none.
fn gif_layout(bytes: &[u8]) -> Option<(usize, usize)> {
    // A table of colours, by the byte that says whether there is one and how large it is.
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 6 << (flags & 7) };
    let (mut at, mut frames) = (13 + table(*bytes.get(10)?), 0);
    loop {
        match bytes.get(at)? {
            b',' => {
                at += 11 + table(*bytes.get(at + 9)?);
                frames += 1;
            }
            b'!' => at += 2,
            b';' => return Some((at + 1, frames)),
            _ => return None,
        }
        // Blocks of up to 255 bytes, each with its length, up to an empty one.
        while *bytes.get(at)? != 0 {
            at += 1 + usize::from(bytes[at]);
        }
        at += 1;
    }
}

#[cfg(test)]
#[path = "image_in_tests.rs"]
mod tests;
