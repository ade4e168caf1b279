//! YuNet (MIT): finds faces. Decoding as in OpenCV's `FaceDetectorYN`.

use super::{Net, NetError, floats, scaled_part};
use crate::models::NetName;
use fast_image_resize::FilterType;
use image::RgbImage;

/// Side of what the net sees; what is left of it is black.
const SIDE: u32 = 640;
const STRIDES: [usize; 3] = [8, 16, 32];
/// Finds that overlap more than this are one.
const OVERLAP_MAX: f32 = 0.3;
/// Faces that are told; who shows more shows enough.
const FACES_MAX: usize = 256;

/// A face, in pixels of the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Face {
    /// How sure, 0 to 1.
    pub score: f32,
    /// Left edge.
    pub x: f32,
    /// Upper edge.
    pub y: f32,
    /// Width.
    pub width: f32,
    /// Height.
    pub height: f32,
}

impl Face {
    fn overlap(&self, other: &Face) -> f32 {
        let span = |a: f32, al: f32, b: f32, bl: f32| ((a + al).min(b + bl) - a.max(b)).max(0.0);
        let both = span(self.x, self.width, other.x, other.width)
            * span(self.y, self.height, other.y, other.height);
        let either = self.width * self.height + other.width * other.height - both;
        if either > 0.0 { both / either } else { 0.0 }
    }
}

/// A part of a picture (left and upper edge, width and height) as large as the net can see it, and what its sides are now
/// of what they were.
///
/// # Errors
/// `NetError` for one without pixels, or outside the picture.
pub(crate) fn shrunk(picture: &RgbImage, part: [u32; 4]) -> Result<(RgbImage, f32), NetError> {
    let [_, _, width, height] = part;
    let shrink = (SIDE as f32 / width.max(height).max(1) as f32).min(1.0);
    let small = |length: u32| ((length as f32 * shrink) as u32).clamp(1, SIDE);
    let (width, height) = (small(width), small(height));
    let (net, filter) = (NetName::Yunet, FilterType::Bilinear);
    let bytes = scaled_part(net, picture, part, [width, height], filter)?;
    let wrong = || NetError { net: net.word(), reason: "a picture of another size".into() };
    RgbImage::from_raw(width, height, bytes).map(|small| (small, shrink)).ok_or_else(wrong)
}

/// The faces of at least this score in a picture that is no larger than the net's, the surest first.
///
/// # Errors
/// `NetError`.
pub(crate) fn faces(net: &Net, picture: &RgbImage, gate: f32) -> Result<Vec<Face>, NetError> {
    if picture.width().max(picture.height()) > SIDE {
        return Err(net.error("a picture that is larger than it can see"));
    }
    let side = SIDE as usize;
    let mut planes = vec![0.0; 3 * side * side];
    for (x, y, pixel) in picture.enumerate_pixels() {
        let at = y as usize * side + x as usize;
        for (plane, channel) in [2, 1, 0].into_iter().enumerate() {
            planes[plane * side * side + at] = f32::from(pixel.0[channel]);
        }
    }
    let names =
        ["cls_8", "cls_16", "cls_32", "obj_8", "obj_16", "obj_32", "bbox_8", "bbox_16", "bbox_32"];
    let outputs = net.run(vec![("input", floats([1, 3, side, side], planes))], &names)?;
    let mut found = Vec::new();
    for (n, stride) in STRIDES.into_iter().enumerate() {
        let (cells, classes, objects, boxes) =
            (side / stride, &outputs[n], &outputs[n + 3], &outputs[n + 6]);
        let wanted = cells * cells;
        if (classes.len(), objects.len(), boxes.len()) != (wanted, wanted, 4 * wanted) {
            return Err(net.error("it gave other shapes than its grids have"));
        }
        for cell in 0..wanted {
            let score = (classes[cell].clamp(0.0, 1.0) * objects[cell].clamp(0.0, 1.0)).sqrt();
            if score < gate {
                continue;
            }
            let step = stride as f32;
            let [dx, dy, dw, dh] = [0, 1, 2, 3].map(|i| boxes[4 * cell + i]);
            let (w, h) = (dw.exp() * step, dh.exp() * step);
            let centre = (((cell % cells) as f32 + dx) * step, ((cell / cells) as f32 + dy) * step);
            found.push(Face {
                score,
                x: centre.0 - w / 2.0,
                y: centre.1 - h / 2.0,
                width: w,
                height: h,
            });
        }
    }
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Face> = Vec::new();
    for face in found {
        if kept.len() < FACES_MAX && kept.iter().all(|other| face.overlap(other) <= OVERLAP_MAX) {
            kept.push(face);
        }
    }
    Ok(kept)
}
