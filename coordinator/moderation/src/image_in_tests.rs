//! Bombs and disguises are refused before anything large is decoded.

use super::*;
use image::{ExtendedColorType, ImageEncoder};

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    let pixels = vec![90; (width * height * 3) as usize];
    encoder.write_image(&pixels, width, height, ExtendedColorType::Rgb8).expect("encodes");
    bytes
}

/// A PNG whose head promises another size than its data has.
fn promising(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png(8, 8);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8)
            .fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    })
}

fn gif(frames: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    let frame =
        || image::Frame::new(image::RgbaImage::from_pixel(4, 4, image::Rgba([9, 9, 9, 255])));
    encoder.encode_frames((0..frames).map(|_| frame())).expect("encodes");
    drop(encoder);
    bytes
}

#[test]
fn ordinary_pictures_are_read() {
    assert_eq!(pictures(&png(30, 20)).expect("a picture")[0].dimensions(), (30, 20));
    assert_eq!(pictures(&gif(3)).expect("an animation").len(), 3);
}

#[test]
fn a_bomb_is_refused_by_its_head() {
    let refused = |bytes: &[u8]| pictures(bytes).expect_err("refused");
    let pixels = ImageError::Pixels { width: 16_000, height: 16_000 };
    assert_eq!(refused(&promising(16_000, 16_000)), pixels);
    assert!(matches!(
        refused(&promising(100_000, 8)),
        ImageError::Pixels { .. } | ImageError::Decode(_)
    ));
    assert_eq!(refused(&gif(ANIMATION_FRAMES_MAX + 1)), ImageError::Frames);
    assert_eq!(refused(&vec![0; BYTES_MAX + 1]), ImageError::Bytes(BYTES_MAX + 1));
}

#[test]
fn other_formats_and_two_files_in_one_are_refused() {
    let svg = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='x'/></svg>";
    for bytes in [&svg[..], b"%PDF-1.7", b"", b"BM000000000000", b"\0\0\0\x18ftypavif"] {
        assert_eq!(pictures(bytes).expect_err("refused"), ImageError::Format);
    }
    let mut two = png(8, 8);
    two.extend_from_slice(b"PK\x03\x04 a zip archive stands behind the picture");
    assert!(matches!(pictures(&two), Err(ImageError::Polyglot(_))));
    // Also if it ends as a picture does.
    two.extend_from_slice(&png(8, 8)[png(8, 8).len() - 12..]);
    assert!(matches!(pictures(&two), Err(ImageError::Polyglot(_))));
    let script = [&gif(2)[..], b"/* <script>alert(1)</script> */;"].concat();
    assert!(matches!(pictures(&script), Err(ImageError::Polyglot(_))));
    let mut cut = png(8, 8);
    cut.truncate(cut.len() / 2);
    assert!(pictures(&cut).is_err());
}

fn jpeg(shade: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new(&mut bytes);
    let pixels: Vec<u8> = (0..64 * 64 * 3).map(|n: u32| (n * 37 % 251) as u8 ^ shade).collect();
    encoder.write_image(&pixels, 64, 64, ExtendedColorType::Rgb8).expect("encodes");
    bytes
}

/// Promise: what stands behind the first picture of a JPEG is refused, also if it ends as a picture does.
#[test]
fn a_jpeg_ends_with_its_first_picture() {
    let (one, other) = (jpeg(0), jpeg(255));
    assert_eq!(pictures(&one).expect("a picture")[0].dimensions(), (64, 64));
    let refused = |bytes: &[u8], behind| {
        assert_eq!(pictures(bytes).expect_err("refused"), ImageError::Polyglot(behind));
    };
    refused(&[&one[..], &other].concat(), other.len());
    let script = b"<html><script>alert(1)</script></html>\xff\xd9";
    refused(&[&one[..], script].concat(), script.len());
    // A small picture in the head has an end of its own, a comment may look like one, restarts are no end.
    let inside = [&b"Exif\0\0"[..], &other].concat();
    let length = ((inside.len() + 2) as u16).to_be_bytes();
    let head = [&b"\xff\xd8\xff\xe1"[..], &length, &inside, b"\xff\xfe\0\x04\xff\xd9"].concat();
    let nested = [&head[..], &one[2..]].concat();
    assert_eq!(pictures(&nested).expect("a picture").len(), 1);
    assert_eq!(jpeg_end(&nested), Some(nested.len()));
    assert_eq!(jpeg_end(b"\xff\xd8\xff\xda\0\x02a\xff\0b\xff\xd3c\xff\xff\xd9 behind"), Some(16));
    refused(&[&nested[..], &other].concat(), other.len());
    // Without an end, all that follows would be its data.
    let open = &one[..one.len() - 2];
    assert!(matches!(pictures(open), Err(ImageError::Decode(_))));
    assert!(matches!(pictures(&[open, &script[..38]].concat()), Err(ImageError::Decode(_))));
}

/// Promise: frames that are the same to the eye are looked at once, those that only hash alike are not, and too many
/// that differ are refused.
#[test]
fn frames_that_differ_are_looked_at_and_counted() {
    let flat = |shade: u8| RgbImage::from_pixel(4, 4, image::Rgb([shade; 3]));
    let shades = |all: &[u8]| {
        let pictures = all.iter().map(|shade| flat(*shade)).collect();
        distinct(pictures, 3).map(|kept| kept.iter().map(|p| p.get_pixel(0, 0).0[0]).collect())
    };
    assert_eq!(shades(&[9; 64]), Ok(vec![9]));
    assert_eq!(shades(&[9, 9 + ALIKE, 10 + ALIKE, 9, 200]), Ok(vec![9, 10 + ALIKE, 200]));
    assert_eq!(shades(&[0, 50, 100, 150]), Err::<Vec<u8>, _>(ImageError::Different));
    // All of these have one hash: nothing is brighter than its neighbour.
    let dark = |at| {
        let mut picture = RgbImage::from_pixel(90, 80, image::Rgb([255; 3]));
        picture.put_pixel(at, 79, image::Rgb([240, 240, 255]));
        picture
    };
    assert_eq!(distinct(vec![dark(88), dark(89), dark(88)], 64).map(|kept| kept.len()), Ok(2));
    assert_eq!(distinct(pictures(&gif(64)).expect("frames"), 1).map(|kept| kept.len()), Ok(1));
}

/// Promise: a photo is looked at as everybody shows it, which its head says.
#[test]
fn a_photo_is_turned_as_its_head_says() {
    let mut bytes = Vec::new();
    let light = |x, y| if x < 16 && y < 16 { 250 } else { 20 };
    let corner = RgbImage::from_fn(64, 32, |x, y| image::Rgb([light(x, y); 3]));
    let encoder = image::codecs::jpeg::JpegEncoder::new(&mut bytes);
    encoder.write_image(&corner, 64, 32, ExtendedColorType::Rgb8).expect("encodes");
    // The tag of the orientation alone, in one directory.
    let head = |turn: u8| {
        let exif =
            [&b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"[..], &[turn], &[0; 6]]
                .concat();
        let length = ((exif.len() + 2) as u16).to_be_bytes();
        [&b"\xff\xd8\xff\xe1"[..], &length, &exif, &bytes[2..]].concat()
    };
    for (turn, size, (x, y)) in [
        (1, (64, 32), (4, 4)),
        (3, (64, 32), (60, 28)),
        (6, (32, 64), (28, 4)),
        (8, (32, 64), (4, 60)),
        (9, (64, 32), (4, 4)),
    ] {
        let picture = &pictures(&head(turn)).expect("a picture")[0];
        assert_eq!(picture.dimensions(), size, "{turn}");
        assert!(picture.get_pixel(x, y).0[0] > 150, "{turn}: the light corner is elsewhere");
    }
}
