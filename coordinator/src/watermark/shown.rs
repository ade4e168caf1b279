//! Whether a clip's thumbnail and spritesheet show what the clip shows. They are published with it, and nothing else is
//! proven of them: a worker that was taken over could put any picture there.
//!
//! The frames that they must show are known; those and the pictures are compared small and grey. Pure. Called by
//! `prove.rs`.

use image::{DynamicImage, ImageFormat, ImageReader, Limits};
use std::collections::BTreeMap;
use std::io::Cursor;
use zoetrope_mark::agree::Grey;
use zoetrope_mark::stretch::Look;
use zoetrope_protocol::RenderSpec;
use zoetrope_protocol::clip::{
    SIDE_MAX, Size, sprite_frame, sprite_grid, sprites, thumbnail_frame,
};

/// Pixels on the short side of what is compared: a face in it has a dozen.
const SHORT: usize = 24;
/// The farthest that a picture may be from its frame, in steps of 255. An encoder and the smaller size of a picture in the
/// sheet put them 0.5 to 1.2 apart on average (clips of 160x288 as published), and 20 at the edges of the visible mark.
const APART: f32 = 6.0;
const APART_ANYWHERE: u8 = 72;
/// What decoding one of them may take: a sheet of the largest canvas has 6 million pixels.
const DECODED_BYTES_MAX: u64 = 128 << 20;

/// The two files of a clip that show it small.
#[derive(Clone, Debug)]
pub struct Small {
    /// WebP, in the size of the clip.
    pub thumbnail: Vec<u8>,
    /// JPEG, a grid of frames.
    pub sheet: Vec<u8>,
}

/// Frames of a clip, small and grey, by their numbers.
pub(super) type Kept = BTreeMap<u32, Grey>;

/// A look that also keeps what is needed here.
pub(super) fn keeping<'a>(look: Look<'a>, frames: u32) -> Look<'a> {
    let all = (0..sprites(frames)).map(|n| sprite_frame(n, frames));
    look.keeping(all.chain([thumbnail_frame(frames)]), SHORT)
}

/// Holds the pictures against the frames that were kept.
///
/// # Errors
/// What is wrong with which.
pub(super) fn check(kept: &Kept, render: &RenderSpec, small: &Small) -> Result<(), String> {
    let RenderSpec { deliver, frames, .. } = *render;
    let thumbnail = decoded(&small.thumbnail, ImageFormat::WebP)
        .map_err(|why| format!("its thumbnail {why}"))?;
    if (thumbnail.width(), thumbnail.height()) != (deliver.width, deliver.height) {
        return Err("its thumbnail has another size".to_owned());
    }
    same(kept, thumbnail_frame(frames), &thumbnail)
        .map_err(|why| format!("its thumbnail {why}"))?;
    let sheet =
        decoded(&small.sheet, ImageFormat::Jpeg).map_err(|why| format!("its spritesheet {why}"))?;
    let (columns, rows) = sprite_grid(frames);
    let tile = Size { width: sheet.width() / columns, height: sheet.height() / rows };
    if (tile.width * columns, tile.height * rows) != (sheet.width(), sheet.height()) {
        return Err("its spritesheet has another grid".to_owned());
    }
    for n in 0..columns * rows {
        let (x, y) = (n % columns * tile.width, n / columns * tile.height);
        let picture = sheet.crop_imm(x, y, tile.width, tile.height);
        match n < sprites(frames) {
            true => same(kept, sprite_frame(n, frames), &picture),
            false if picture.to_luma8().iter().all(|value| *value < 16) => Ok(()),
            false => Err("shows more than the clip".to_owned()),
        }
        .map_err(|why| format!("picture {n} of its spritesheet {why}"))?;
    }
    Ok(())
}

fn decoded(bytes: &[u8], format: ImageFormat) -> Result<DynamicImage, String> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(SIDE_MAX), Some(SIDE_MAX));
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    reader.limits(limits);
    reader.decode().map_err(|error| format!("cannot be read: {error}"))
}

fn same(kept: &Kept, frame: u32, picture: &DynamicImage) -> Result<(), String> {
    let rgb = picture.to_rgb8();
    // BT.709, full range, as the clip's own frames come.
    let luma = |pixel: &[u8; 3]| {
        let [r, g, b] = pixel.map(u32::from);
        ((2_126 * r + 7_152 * g + 722 * b + 5_000) / 10_000) as u8
    };
    let bytes: Vec<u8> = rgb.pixels().map(|pixel| luma(&pixel.0)).collect();
    let size = (rgb.width() as usize, rgb.height() as usize);
    let kept = kept.get(&frame).ok_or("shows a frame that was not seen")?;
    let seen = Grey::shrunk(&bytes, size, SHORT).ok_or("has no pixel")?;
    match fitted(&seen, kept).and_then(|seen| seen.apart(kept)) {
        Some((mean, most)) if mean <= APART && most <= APART_ANYWHERE => Ok(()),
        Some((mean, most)) => Err(format!("shows something else: {mean:.1} apart, {most} at most")),
        None => Err("has another shape".to_owned()),
    }
}

/// With as many columns and rows as the other, where rounding made one more or less of them.
fn fitted(seen: &Grey, to: &Grey) -> Option<Grey> {
    let near = seen.width.abs_diff(to.width) <= 1 && seen.height.abs_diff(to.height) <= 1;
    let row = |y: usize| (y * seen.height / to.height).min(seen.height - 1) * seen.width;
    let column = |x: usize| (x * seen.width / to.width).min(seen.width - 1);
    let place = |(x, y): (usize, usize)| seen.luma[row(y) + column(x)];
    let places = (0..to.height).flat_map(|y| (0..to.width).map(move |x| (x, y)));
    let luma = || places.map(place).collect();
    near.then(|| Grey { width: to.width, height: to.height, luma: luma() })
}
