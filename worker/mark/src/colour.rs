//! Whether a picture has the colours of another one, but for what changes all of them alike: more or less of them, turned by a
//! filter, or none left. Grey alone does not tell a red ball from a blue one. Pure; part of `agree.rs`.

use crate::agree::{Grey, PART};

/// Colours may be turned so far, as cosine: 60 degrees.
const TURN_MIN: f32 = 0.5;
/// Where colours are fewer than so many levels (root of the mean square) there is nothing to compare: what is grey agrees with
/// every colour.
const COLOURED: f32 = 5.0;
/// How far parts may be off on average, in levels of 255. Of 16 films those at CRF 40, or darker, or in shifted colours were off
/// by up to 7, those of twice the saturation by 15, whiter or warmer light (5,500 and 7,800 K instead of 6,500) by 7 to 16, one
/// by 21; the same scene with a thing of another colour by 23 and more.
const OFF_MAX: f32 = 16.0;

/// How blue and how red each pixel of a picture is: 128 is neither.
#[derive(Clone, Debug, PartialEq)]
pub struct Tints {
    /// Blue difference.
    pub blue: Grey,
    /// Red difference.
    pub red: Grey,
}

impl Tints {
    fn at(&self, row: usize, column: usize) -> (f32, f32) {
        let value = |of: &Grey| f32::from(of.luma[row * of.width + column]) - 128.0;
        (value(&self.blue), value(&self.red))
    }
}

/// How far the colours of `part` are off those of the cut of `whole` at this place, where they are most, in levels; none where
/// one of them has no colours.
pub(crate) fn off(whole: &Tints, part: &Tints, row: usize, column: usize) -> Option<f32> {
    let (width, height) = (part.blue.width, part.blue.height);
    let places = || (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
    let pair = |(y, x): (usize, usize)| (whole.at(row + y, column + x), part.at(y, x));
    // As complex numbers: what turns and strengthens all colours alike is one factor.
    let (mut own, mut seen, mut product) = (0.0f32, 0.0f32, (0.0f32, 0.0f32));
    for (a, b) in places().map(pair) {
        own += a.0 * a.0 + a.1 * a.1;
        seen += b.0 * b.0 + b.1 * b.1;
        product.0 += b.0 * a.0 + b.1 * a.1;
        product.1 += b.1 * a.0 - b.0 * a.1;
    }
    let none = COLOURED * COLOURED * (width * height) as f32;
    if own < none || seen < none {
        return None;
    }
    let factor = (product.0 / own, product.1 / own);
    let length = factor.0.hypot(factor.1);
    if factor.0 < TURN_MIN * length {
        return Some(f32::INFINITY);
    }
    let distance = |place| {
        let (a, b): ((f32, f32), (f32, f32)) = pair(place);
        let turned = (factor.0 * a.0 - factor.1 * a.1, factor.0 * a.1 + factor.1 * a.0);
        (b.0 - turned.0).hypot(b.1 - turned.1)
    };
    let mut most = 0.0f32;
    for top in (0..height).step_by(PART).filter(|top| top + PART <= height) {
        for left in (0..width).step_by(PART).filter(|left| left + PART <= width) {
            let rows = (top..top + PART).flat_map(|y| (left..left + PART).map(move |x| (y, x)));
            most = most.max(rows.map(distance).sum::<f32>() / (PART * PART) as f32);
        }
    }
    // Stronger colours are further apart by as much.
    Some(most / length.max(1.0))
}

/// Whether the colours agree.
pub(crate) fn agrees(whole: &Tints, part: &Tints, row: usize, column: usize) -> bool {
    off(whole, part, row, column).is_none_or(|off| off <= OFF_MAX)
}
