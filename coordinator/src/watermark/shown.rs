//! Whether a clip's thumbnail and spritesheet show what the clip shows. They are published with it, and nothing else is
//! proven of them: a worker that was taken over could put any picture there.
//!
//! The frames that they must show are known; those and the pictures are compared small and grey. Pure. Called by
//! `prove.rs`.

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::collections::BTreeMap;
use std::io::Cursor;
use zoetrope_mark::agree::Grey;
use zoetrope_mark::stretch::Look;
use zoetrope_moderation::image_in;
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

/// The picture, if whoever opens the file sees that and nothing else: no later frame, no other picture behind it, none that
/// shines through, and no profile that makes other colours of it.
fn decoded(bytes: &[u8], format: ImageFormat) -> Result<DynamicImage, String> {
    image_in::alone(format, bytes).map_err(|error| format!("is not one picture: {error}"))?;
    // The extended format holds what may move or be turned; a thumbnail of ours is a simple file.
    if format == ImageFormat::WebP && bytes.get(12..16) == Some(b"VP8X") {
        return Err("has more in it than a picture".to_owned());
    }
    let reader = || {
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        let mut limits = Limits::default();
        (limits.max_image_width, limits.max_image_height) = (Some(SIDE_MAX), Some(SIDE_MAX));
        limits.max_alloc = Some(DECODED_BYTES_MAX);
        reader.limits(limits);
        reader
    };
    let broken = |error: image::ImageError| format!("cannot be read: {error}");
    if reader()
        .into_decoder()
        .and_then(|mut decoder| decoder.icc_profile())
        .map_err(broken)?
        .is_some()
    {
        return Err("has a profile of colours".to_owned());
    }
    let picture = reader().decode().map_err(broken)?;
    if picture.color().has_alpha() {
        return Err("is not opaque".to_owned());
    }
    Ok(picture)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::submission;
    use image::RgbImage;

    /// A frame of a clip, and what of it is compared.
    fn frame(render: &RenderSpec) -> RgbImage {
        RgbImage::from_fn(render.deliver.width, render.deliver.height, |x, y| {
            image::Rgb([(x / 2) as u8, (y / 4) as u8, 90])
        })
    }

    fn kept(render: &RenderSpec) -> Kept {
        let grey = DynamicImage::from(frame(render)).to_luma8();
        let size = (grey.width() as usize, grey.height() as usize);
        let all = (0..sprites(render.frames)).map(|n| sprite_frame(n, render.frames));
        all.chain([thumbnail_frame(render.frames)])
            .map(|n| (n, Grey::shrunk(grey.as_raw(), size, SHORT).expect("has pixels")))
            .collect()
    }

    fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).expect("encodes");
        bytes.into_inner()
    }

    fn sheet(render: &RenderSpec) -> DynamicImage {
        let tile = image::imageops::thumbnail(&frame(render), 72, 128);
        let (columns, rows) = sprite_grid(render.frames);
        RgbImage::from_fn(72 * columns, 128 * rows, |x, y| *tile.get_pixel(x % 72, y % 128)).into()
    }

    /// A chunk of a WebP.
    fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let mut bytes = [&kind[..], &(content.len() as u32).to_le_bytes(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        bytes
    }

    fn webp(chunks: &[Vec<u8>]) -> Vec<u8> {
        chunk(b"RIFF", &[&b"WEBP"[..], &chunks.concat()].concat())
    }

    /// A WebP in the extended format: flags, and these chunks.
    fn extended(render: &RenderSpec, flags: u8, chunks: &[Vec<u8>]) -> Vec<u8> {
        let side = |pixels: u32| (pixels - 1).to_le_bytes();
        let (width, height) = (side(render.deliver.width), side(render.deliver.height));
        let head = [&[flags, 0, 0, 0][..], &width[..3], &height[..3]].concat();
        webp(&[vec![chunk(b"VP8X", &head)], chunks.to_vec()].concat())
    }

    /// An animation of these pictures, the first of which is shown for a millisecond.
    fn animation(render: &RenderSpec, pictures: &[&DynamicImage]) -> Vec<u8> {
        let side = |pixels: u32| (pixels - 1).to_le_bytes();
        let (width, height) = (side(render.deliver.width), side(render.deliver.height));
        let mut chunks = vec![chunk(b"ANIM", &[0; 6])];
        for picture in pictures {
            // Without the head of its own file.
            let image = encoded(picture, ImageFormat::WebP)[12..].to_vec();
            let head = [&[0; 6][..], &width[..3], &height[..3], &[1, 0, 0, 0]].concat();
            chunks.push(chunk(b"ANMF", &[head, image].concat()));
        }
        extended(render, 2, &chunks)
    }

    /// Promise: a thumbnail and a spritesheet show the clip and nothing else, to whoever opens them.
    #[test]
    fn a_picture_that_shows_more_than_the_clip_is_refused() {
        let render = submission(1).spec.render;
        let kept = kept(&render);
        let right = DynamicImage::from(frame(&render));
        let thumbnail = encoded(&right, ImageFormat::WebP);
        let sheet = encoded(&sheet(&render), ImageFormat::Jpeg);
        let said = |thumbnail: &[u8], sheet: &[u8]| {
            let small = Small { thumbnail: thumbnail.to_vec(), sheet: sheet.to_vec() };
            check(&kept, &render, &small)
        };
        assert_eq!(said(&thumbnail, &sheet), Ok(()));

        let other = DynamicImage::new_rgb8(render.deliver.width, render.deliver.height);
        // Who decodes its first frame alone sees what is right.
        let moving = animation(&render, &[&right, &other]);
        let first = image::load_from_memory(&moving).expect("is an animation");
        assert_eq!(same(&kept, thumbnail_frame(render.frames), &first), Ok(()));
        let clear = DynamicImage::from(right.to_rgba8());
        let mut seen_through = clear.to_rgba8();
        seen_through.pixels_mut().for_each(|pixel| pixel.0[3] = 1);
        let image = thumbnail[12..].to_vec();
        let behind = [&thumbnail[..], &thumbnail].concat();
        for (wrong, why) in [
            (moving, "an animated PNG or WebP"),
            (extended(&render, 0, &[image.clone(), image.clone()]), "more in it than a picture"),
            (extended(&render, 0x20, &[chunk(b"ICCP", b"colours"), image]), "more in it"),
            (encoded(&seen_through.into(), ImageFormat::WebP), "is not opaque"),
            (behind, "bytes behind its end"),
        ] {
            let refused = said(&wrong, &sheet).expect_err(why);
            assert!(refused.starts_with("its thumbnail ") && refused.contains(why), "{refused}");
        }
        let profiled =
            [&sheet[..2], b"\xff\xe2\0\x14ICC_PROFILE\0\x01\x01four", &sheet[2..]].concat();
        for (wrong, why) in [
            ([&sheet[..], &sheet].concat(), "bytes behind its end"),
            (sheet[..sheet.len() - 2].to_vec(), "the JPEG has no end"),
            (profiled, "profile of colours"),
        ] {
            let refused = said(&thumbnail, &wrong).expect_err(why);
            assert!(refused.starts_with("its spritesheet ") && refused.contains(why), "{refused}");
        }
    }
}
