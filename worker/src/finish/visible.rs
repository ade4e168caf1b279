//! The mark that everybody sees: the farm's name, or a tenant's artwork, small, white with a soft halo, in a corner that
//! changes every three seconds.
//!
//! Drawn into the frames before the invisible mark, so that it carries that one too. Pure: pixels in, pixels out; the
//! same frames give the same bytes. Called on the encoder's thread.

use super::FinishError;
use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use image::imageops::{self, FilterType};
use zoetrope_protocol::clip::FPS;
use zoetrope_protocol::mark::{ARTWORK_HEIGHT_SHARE, VISIBLE_WIDTH_SHARE, Visible};

/// Latin letters of DejaVu Sans Bold; see `font/README.md`.
const FONT: &[u8] = include_bytes!("font/DejaVuSans-Bold-Latin.ttf");
/// Frames in one corner: three seconds, so that every cut of some length has it in a place that was not cut off.
const STAY: u32 = 3 * FPS;
/// Height of the letters' line in shares of the picture's short side.
const TEXT_SHARE: f32 = 0.062;
/// The least height at which letters can be read, in pixels.
const TEXT_MIN: f32 = 11.0;
/// From the edge, in shares of the short side.
const MARGIN_SHARE: f32 = 0.045;
/// How much of the picture a white pixel of the mark covers.
const OPACITY: f32 = 0.82;
/// How much the halo darkens at most: enough for white letters on a white sky.
const HALO: f32 = 0.55;

/// What is drawn, with its halo, and where.
pub(super) struct Emblem {
    width: usize,
    height: usize,
    margin: usize,
    picture: Layer,
}

/// A picture with premultiplied color over a halo: `frame = frame * keep + add`.
struct Layer {
    width: usize,
    height: usize,
    keep: Vec<f32>,
    add: Vec<[f32; 3]>,
}

impl Emblem {
    /// For frames of this size.
    ///
    /// # Errors
    /// `Check` if the artwork is no picture, or nothing of it can be seen.
    pub(super) fn new(
        visible: &Visible,
        width: usize,
        height: usize,
    ) -> Result<Emblem, FinishError> {
        let short = width.min(height) as f32;
        let widest = width as f32 * VISIBLE_WIDTH_SHARE;
        let drawn = match visible {
            Visible::Name(name) => name_of(name, (short * TEXT_SHARE).max(TEXT_MIN), widest)?,
            Visible::Artwork(png) => artwork_of(png, short * ARTWORK_HEIGHT_SHARE, widest)?,
        };
        let picture = Layer::with_halo(&drawn, (short / 110.0).max(1.2));
        let margin = (short * MARGIN_SHARE) as usize;
        Ok(Emblem { width, height, margin, picture })
    }

    /// Draws it into frame `index` (RGB). A frame of another size is left alone.
    pub(super) fn draw(&self, index: u32, rgb: &mut [u8]) {
        let Layer { width, height, keep, add } = &self.picture;
        if rgb.len() != self.width * self.height * 3 {
            return;
        }
        // The layer's own border is halo, so the letters stand a little further in.
        let far = |size: usize, own: usize| size.saturating_sub(own + self.margin);
        let (left, top) = (self.margin, self.margin);
        let (right, bottom) = (far(self.width, *width), far(self.height, *height));
        // Neighbours in time are far apart, so that no crop holds all of them off.
        let (x, y) = match index / STAY % 4 {
            0 => (right, bottom),
            1 => (left, top),
            2 => (right, top),
            _ => (left, bottom),
        };
        let rows = keep.chunks_exact(*width).zip(add.chunks_exact(*width));
        for (row, (keep, add)) in rows.enumerate().take(self.height.saturating_sub(y)) {
            let line = &mut rgb[((y + row) * self.width + x) * 3..];
            let pixels = line.chunks_exact_mut(3).take(self.width - x);
            for (pixel, (keep, add)) in pixels.zip(keep.iter().zip(add)) {
                for (value, add) in pixel.iter_mut().zip(add) {
                    *value = (f32::from(*value) * keep + add + 0.5) as u8;
                }
            }
        }
    }
}

/// Color and coverage of each pixel.
struct Drawn {
    width: usize,
    height: usize,
    pixels: Vec<([f32; 3], f32)>,
}

impl Layer {
    /// Around what is drawn a soft dark halo, `sigma` pixels wide.
    fn with_halo(drawn: &Drawn, sigma: f32) -> Layer {
        let border = (sigma * 3.0).ceil() as usize;
        let (width, height) = (drawn.width + 2 * border, drawn.height + 2 * border);
        let mut cover = vec![0.0f32; width * height];
        let mut color = vec![[0.0f32; 3]; width * height];
        for y in 0..drawn.height {
            for x in 0..drawn.width {
                let (rgb, alpha) = drawn.pixels[y * drawn.width + x];
                cover[(y + border) * width + x + border] = alpha;
                color[(y + border) * width + x + border] = rgb;
            }
        }
        let halo = blurred(&cover, width, height, sigma);
        // Blurred thin strokes are faint: lifted, so that the halo is dense next to them.
        let dark = |value: f32| (value * 2.2).min(1.0) * HALO;
        let keep = cover.iter().zip(&halo);
        let keep = keep.map(|(cover, halo)| (1.0 - cover * OPACITY) * (1.0 - dark(*halo)));
        let add = cover.iter().zip(&color);
        let add = add.map(|(cover, rgb)| rgb.map(|value| value * cover * OPACITY));
        Layer { width, height, keep: keep.collect(), add: add.collect() }
    }
}

/// A name in white letters.
fn name_of(name: &str, height: f32, widest: f32) -> Result<Drawn, FinishError> {
    let font = FontRef::try_from_slice(FONT)
        .map_err(|error| FinishError::Check(format!("the font of the mark: {error}")))?;
    let width_at = |scale: f32| {
        let font = font.as_scaled(PxScale::from(scale));
        let mut last = None;
        name.chars().fold(0.0, |width, letter| {
            let id = font.glyph_id(letter);
            let kern = last.replace(id).map_or(0.0, |last| font.kern(last, id));
            width + kern + font.h_advance(id)
        })
    };
    // A long name is made smaller until it fits.
    let scale = height.min(height * widest / width_at(height).max(1.0));
    let (width, font) = (width_at(scale).ceil() as usize + 1, font.as_scaled(scale));
    let lines = (font.height().ceil() as usize).max(1);
    let mut pixels = vec![([255.0; 3], 0.0f32); width.max(1) * lines];
    let (mut x, mut last) = (0.0, None);
    for letter in name.chars() {
        let id = font.glyph_id(letter);
        x += last.replace(id).map_or(0.0, |last| font.kern(last, id));
        let glyph = id.with_scale_and_position(scale, point(x, font.ascent()));
        x += font.h_advance(id);
        let Some(outline) = font.outline_glyph(glyph) else { continue };
        let bounds = outline.px_bounds();
        outline.draw(|column, row, cover| {
            let column = bounds.min.x as i64 + i64::from(column);
            let row = bounds.min.y as i64 + i64::from(row);
            let inside = (0..width as i64).contains(&column) && (0..lines as i64).contains(&row);
            if inside {
                let pixel = &mut pixels[row as usize * width + column as usize].1;
                *pixel = (*pixel + cover).min(1.0);
            }
        });
    }
    Ok(Drawn { width: width.max(1), height: lines, pixels })
}

/// A tenant's picture, made to fit.
fn artwork_of(png: &[u8], highest: f32, widest: f32) -> Result<Drawn, FinishError> {
    let picture = image::load_from_memory_with_format(png, image::ImageFormat::Png)
        .map_err(|error| FinishError::Check(format!("the artwork of the mark: {error}")))?;
    let (width, height) = (picture.width().max(1) as f32, picture.height().max(1) as f32);
    let scale = (highest / height).min(widest / width);
    let side = |length: f32| ((length * scale).round() as u32).max(1);
    let (wide, high) = (side(width), side(height));
    let small = imageops::resize(&picture.to_rgba8(), wide, high, FilterType::CatmullRom);
    if small.pixels().all(|pixel| pixel.0[3] == 0) {
        return Err(FinishError::Check("the artwork of the mark cannot be seen".into()));
    }
    let pixel = |pixel: &image::Rgba<u8>| {
        let [r, g, b, alpha] = pixel.0.map(f32::from);
        ([r, g, b], alpha / 255.0)
    };
    let pixels = small.pixels().map(pixel).collect();
    Ok(Drawn { width: wide as usize, height: high as usize, pixels })
}

/// Blurred by a bell of this width, in both directions.
fn blurred(values: &[f32], width: usize, height: usize, sigma: f32) -> Vec<f32> {
    let reach = (sigma * 3.0).ceil() as i64;
    let bell = |at: i64| (-((at * at) as f32) / (2.0 * sigma * sigma)).exp();
    let whole: f32 = (-reach..=reach).map(bell).sum();
    let pass = |from: &[f32], across: bool| -> Vec<f32> {
        let at = |x: i64, y: i64| {
            let inside = (0..width as i64).contains(&x) && (0..height as i64).contains(&y);
            if inside { from[y as usize * width + x as usize] } else { 0.0 }
        };
        let sum = |x: i64, y: i64| {
            let taps = -reach..=reach;
            let taps = taps.map(|t| bell(t) * if across { at(x + t, y) } else { at(x, y + t) });
            taps.sum::<f32>() / whole
        };
        let places = (0..height as i64).flat_map(|y| (0..width as i64).map(move |x| (x, y)));
        places.map(|(x, y)| sum(x, y)).collect()
    };
    pass(&pass(values, true), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(visible: &Visible, level: u8, index: u32, width: usize, height: usize) -> Vec<u8> {
        let mut frame = vec![level; width * height * 3];
        Emblem::new(visible, width, height).expect("can be drawn").draw(index, &mut frame);
        frame
    }

    /// Promise: the mark is seen on white, on black and on grey: bright letters, or a dark halo around them.
    #[test]
    fn the_name_is_legible_on_light_and_on_dark() {
        let name = Visible::Name("Zoetrope".into());
        for (width, height) in [(160, 288), (288, 512), (1280, 720)] {
            for level in [0u8, 128, 255] {
                let frame = drawn(&name, level, 0, width, height);
                let brightest = frame.iter().max().copied().unwrap_or(0);
                let darkest = frame.iter().min().copied().unwrap_or(0);
                assert!(
                    brightest - darkest > 90,
                    "{width}x{height} on {level}: {darkest} to {brightest}"
                );
            }
        }
    }

    /// Promise: it changes its corner every three seconds and comes round, and touches little of the picture.
    #[test]
    fn the_corner_changes_every_three_seconds() {
        let name = Visible::Name("Zoetrope".into());
        let (width, height) = (288, 512);
        let corner = |index: u32| {
            let frame = drawn(&name, 100, index, width, height);
            let touched: Vec<usize> =
                (0..width * height).filter(|pixel| frame[pixel * 3] != 100).collect();
            assert!(touched.len() < width * height / 25, "{} pixels", touched.len());
            let mean = |values: &mut dyn Iterator<Item = usize>| {
                values.sum::<usize>() / touched.len().max(1)
            };
            let x = mean(&mut touched.iter().map(|pixel| pixel % width));
            let y = mean(&mut touched.iter().map(|pixel| pixel / width));
            (x < width / 2, y < height / 2)
        };
        let corners: Vec<_> = [0, 72, 144, 216].map(corner).to_vec();
        assert_eq!(corners, [(false, false), (true, true), (false, true), (true, false)]);
        assert_eq!((corner(71), corner(288)), (corners[0], corners[0]));
    }

    #[test]
    fn a_long_name_fits_and_artwork_keeps_its_colours() {
        let long = Visible::Name("WWWWWWWWWWWWWWWWWWWWWWWW".into());
        let emblem = Emblem::new(&long, 160, 288).expect("can be drawn");
        assert!(emblem.picture.width <= 80, "{} pixels", emblem.picture.width);
        let mut png = Vec::new();
        let red = image::RgbaImage::from_pixel(300, 100, image::Rgba([255, 0, 0, 255]));
        let target = &mut std::io::Cursor::new(&mut png);
        red.write_to(target, image::ImageFormat::Png).expect("encodes");
        let frame = drawn(&Visible::Artwork(png), 0, 0, 288, 512);
        let reddest = frame.chunks_exact(3).max_by_key(|pixel| pixel[0]).expect("pixels");
        assert!(reddest[0] > 200 && reddest[1] == 0, "{reddest:?}");
        assert!(Emblem::new(&Visible::Artwork(b"no picture".to_vec()), 288, 512).is_err());
    }
}
