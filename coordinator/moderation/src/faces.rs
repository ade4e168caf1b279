//! Where in pictures faces are looked for: in the whole, upright and on its side, and in parts of what is large.
//!
//! The net sees 640 pixels a side. So each picture is looked at whole, and what is longer than [`PART`] in parts too, which
//! are shrunk to a third at most. Never: what a find is worth; the policy says from which score and size on it is a face.

use crate::engine::EngineError;
use crate::image_in::ImageError;
use crate::nets::yunet::{self, Face};
use crate::nets::{Net, NetError};
use image::RgbImage;
use image::imageops::rotate90;

/// Looks at pictures of one image, at most: at 80 ms each 10 s of the 25 s that a judgement may take. The largest picture has
/// 26, and an animation of 32 different frames has so many if none is longer than two parts.
pub(crate) const LOOKS_MAX: usize = 128;
/// The side of a part. A face of 60 pixels has 20 in it: of two photos of faces on a grey picture of this size both were found
/// from some 50 pixels on, the score 0.82 and 0.84.
const PART: u32 = 1_920;
/// Parts overlap by one of so many of the long side: a face of that size has 21 pixels in the whole, where it is found;
/// a smaller one lies whole in a part.
const OVERLAP: u32 = 30;
/// Ways in which the whole is looked at: upright, and on its side. The net finds faces on their heads too (0.85 where
/// upright it says 0.94), so these are all four. Who turns a photo by hand says nothing of it in the file.
const TURNS: usize = 2;

/// The score of the surest face that is so large, 0 to 1, of the first look that finds one; none if there is none.
///
/// # Errors
/// `Image` before anything is looked at if there is too much to look at; `Net`.
pub(crate) fn surest(
    net: &Net,
    pictures: &[RgbImage],
    gate: f32,
    side_min: f32,
) -> Result<Option<f32>, EngineError> {
    let looks: usize = pictures.iter().map(|picture| TURNS + parts(picture).len()).sum();
    if looks > LOOKS_MAX {
        return Err(ImageError::Parts(looks).into());
    }
    for picture in pictures {
        let found = in_whole(net, picture, gate, side_min)?;
        let found =
            found.map_or_else(|| in_parts(net, picture, gate, side_min), |f| Ok(Some(f)))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn in_whole(
    net: &Net,
    picture: &RgbImage,
    gate: f32,
    side_min: f32,
) -> Result<Option<f32>, NetError> {
    let (width, height) = picture.dimensions();
    let (small, shrink) = yunet::shrunk(picture, [0, 0, width, height])?;
    let turns: [fn(&RgbImage) -> RgbImage; TURNS] = [RgbImage::clone, rotate90];
    for turn in turns {
        let found = large(yunet::faces(net, &turn(&small), gate)?, side_min * shrink);
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn in_parts(
    net: &Net,
    picture: &RgbImage,
    gate: f32,
    side_min: f32,
) -> Result<Option<f32>, NetError> {
    for part in parts(picture) {
        let (small, shrink) = yunet::shrunk(picture, part)?;
        let found = large(yunet::faces(net, &small, gate)?, side_min * shrink);
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The score of the surest find of this size.
fn large(found: Vec<Face>, side_min: f32) -> Option<f32> {
    found.iter().find(|face| face.width.min(face.height) >= side_min).map(|face| face.score)
}

/// The parts in which a picture is looked at, as left, upper edge, width and height: none where the whole shows enough.
fn parts(picture: &RgbImage) -> Vec<[u32; 4]> {
    let (width, height) = picture.dimensions();
    let long = width.max(height);
    if long <= PART {
        return Vec::new();
    }
    let step = PART - long / OVERLAP;
    // The last one ends where the picture does.
    let starts = |side: u32| {
        let count = 1 + side.saturating_sub(PART).div_ceil(step);
        (0..count).map(move |n| (n * step).min(side.saturating_sub(PART)))
    };
    let rows = starts(height).map(|y| (y, PART.min(height)));
    rows.flat_map(|(y, high)| starts(width).map(move |x| [x, y, PART.min(width), high])).collect()
}

#[cfg(test)]
#[path = "faces_tests.rs"]
mod tests;
