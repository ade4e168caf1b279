//! A drawn face, which the net takes for one (0.9), is found wherever it is and however it is turned.

use super::*;
use crate::models::NetName;
use crate::nets::tests::folder;
use crate::policy::Policy;
use image::Rgb;
use image::imageops::{FilterType, blur, replace, resize, rotate180, rotate270};
use rten::ThreadPool;
use std::sync::Arc;

const GATE: f32 = 0.6;

fn net() -> Net {
    let policy = Policy::built_in().expect("the policy");
    let threads = Arc::new(ThreadPool::with_num_threads(1));
    let net = Net::load(&folder(), NetName::Yunet, &policy.models, &threads);
    net.expect("`scripts/setup` fetches the nets")
}

/// A face of this width, with hair, eyes, brows, nose and mouth.
fn drawn(width: u32) -> RgbImage {
    type Shape = (f32, f32, f32, f32, [u8; 3]);
    // Ellipses by middle and half sides; the later ones lie on the earlier.
    const SHAPES: [Shape; 11] = [
        (150.0, 170.0, 90.0, 140.0, [60, 40, 30]),
        (150.0, 330.0, 32.0, 60.0, [200, 155, 130]),
        (150.0, 190.0, 75.0, 130.0, [222, 178, 150]),
        (112.0, 150.0, 25.0, 5.0, [60, 40, 30]),
        (188.0, 150.0, 25.0, 5.0, [60, 40, 30]),
        (112.0, 176.0, 20.0, 11.0, [250, 250, 250]),
        (188.0, 176.0, 20.0, 11.0, [250, 250, 250]),
        (112.0, 176.0, 10.0, 10.0, [60, 40, 30]),
        (188.0, 176.0, 10.0, 10.0, [60, 40, 30]),
        (150.0, 215.0, 11.0, 18.0, [190, 140, 115]),
        (150.0, 264.0, 32.0, 12.0, [170, 70, 70]),
    ];
    let face = RgbImage::from_fn(300, 360, |x, y| {
        let inside = |(cx, cy, a, b, _): &&Shape| {
            ((x as f32 - cx) / a).powi(2) + ((y as f32 - cy) / b).powi(2) <= 1.0
        };
        Rgb(SHAPES.iter().rev().find(inside).map_or([90, 110, 140], |shape| shape.4))
    });
    resize(&blur(&face, 3.0), width, width * 6 / 5, FilterType::Triangle)
}

fn on_canvas(width: u32, height: u32, x: u32, y: u32, face: &RgbImage) -> RgbImage {
    let mut canvas = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    replace(&mut canvas, face, i64::from(x), i64::from(y));
    canvas
}

#[test]
fn a_face_is_found_however_it_is_turned() {
    let (net, face) = (net(), drawn(300));
    let found = |picture: RgbImage| surest(&net, &[picture], GATE, 20.0).expect("looks");
    for turn in [RgbImage::clone, rotate90, rotate180, rotate270] {
        let score = found(turn(&face));
        assert!(score.is_some_and(|score| score >= GATE), "{score:?}");
    }
    assert_eq!(found(RgbImage::from_pixel(300, 360, Rgb([222, 178, 150]))), None);
}

/// Promise: a face that is small beside its picture is found. In the whole of this one it has eight pixels.
#[test]
fn a_face_on_a_large_canvas_is_found() {
    let (net, face) = (net(), drawn(200));
    let canvas = on_canvas(16_384, 2_400, 1_500, 1_000, &face);
    assert_eq!(in_whole(&net, &canvas, GATE, 20.0).expect("looks"), None);
    assert!(in_parts(&net, &canvas, GATE, 20.0).expect("looks").is_some());
    // By the policy's side, in pixels of the picture.
    let small = on_canvas(1_920, 1_080, 900, 500, &drawn(150));
    assert!(in_whole(&net, &small, GATE, 20.0).expect("looks").is_some());
    assert_eq!(in_whole(&net, &small, GATE, 200.0).expect("looks"), None);
}

/// Promise: whatever is no larger than what the whole shows lies in one part; there are few parts, and what would have more
/// than a judgement has time for is refused.
#[test]
fn parts_cover_the_picture() {
    let picture = |width, height| RgbImage::new(width, height);
    assert!(parts(&picture(PART, PART)).is_empty());
    for (width, height) in [(16_384, 2_441), (6_324, 6_324), (2_000, 16_000), (1_921, 10)] {
        let parts = parts(&picture(width, height));
        let all = TURNS + parts.len();
        assert!(parts.len() >= 2 && all <= 26, "{width}x{height}: {all}");
        let inside = |[x, y, w, h]: [u32; 4]| x + w <= width && y + h <= height;
        assert!(parts.iter().copied().all(inside));
        let side = (width.max(height) / OVERLAP).min(width).min(height);
        for at in 0..200 {
            let (left, top) = ((width - side) * at / 199, (height - side) * (at * 7 % 200) / 199);
            let holds = |[x, y, w, h]: &[u32; 4]| {
                *x <= left && *y <= top && left + side <= x + w && top + side <= y + h
            };
            assert!(parts.iter().any(holds), "{width}x{height}: {left} {top}");
        }
    }
    let thin: Vec<RgbImage> = (0..32).map(|_| picture(16_384, 76)).collect();
    let error = surest(&net(), &thin, GATE, 20.0).expect_err("refused");
    assert!(matches!(error, EngineError::Image(ImageError::Parts(_))), "{error}");
}
