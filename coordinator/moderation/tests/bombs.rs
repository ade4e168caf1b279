//! Promise: an image that is made to break its reader is refused, or read, within bounds of memory and time. Both are
//! measured; each test is a process of its own under nextest, so that one's memory is not another's.

use std::time::{Duration, Instant};
use zoetrope_moderation::image_in::{ImageError, pictures};

/// What one image may take at most: a decoder's buffer, and what it gives.
const MEMORY_BYTES: u64 = 1 << 30;
/// Unoptimised and on a loaded machine: a frame of 40 million pixels took 40 s.
const TIME: Duration = Duration::from_secs(150);

/// The most memory that this process had so far.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let digits = line.map(|line| line.trim().trim_end_matches(" kB").trim().to_owned());
    digits.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

/// Reads an image; told are its size, and what that took.
fn measured(name: &str, bytes: &[u8]) -> Result<usize, ImageError> {
    let (began, before) = (Instant::now(), peak_bytes());
    let read = pictures(bytes).map(|pictures| pictures.len());
    let (took, grew) = (began.elapsed(), peak_bytes() - before);
    println!("{name}: {} bytes, {read:?}, {took:?}, {} MiB more", bytes.len(), grew >> 20);
    assert!(took < TIME, "{name}: {took:?}");
    assert!(grew < MEMORY_BYTES, "{name}: {grew} bytes");
    read
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8)
            .fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    })
}

fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let body = [&kind[..], content].concat();
    [&(content.len() as u32).to_be_bytes()[..], &body, &crc(&body).to_be_bytes()].concat()
}

/// A PNG that says it has this size, with these chunks behind its head.
fn png(width: u32, height: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    let head = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 6, 0, 0, 0]].concat();
    let head = chunk(b"IHDR", &head);
    [&b"\x89PNG\r\n\x1a\n"[..], &head, &chunks.concat(), &chunk(b"IEND", b"")].concat()
}

/// A real PNG of one grey.
fn grey(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = image::GrayImage::new(width, height);
    picture.write_to(&mut bytes, image::ImageFormat::Png).expect("encodes");
    bytes.into_inner()
}

/// A GIF of this size with so many frames of one pixel each: 19 bytes a frame.
fn gif(width: u16, height: u16, frames: usize) -> Vec<u8> {
    let mut bytes = b"GIF89a".to_vec();
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.extend([0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
    for _ in 0..frames {
        bytes.extend([0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0]);
    }
    bytes.push(0x3b);
    bytes
}

#[test]
fn a_picture_that_says_it_is_huge_is_refused_before_it_is_decoded() {
    for (width, height) in [(u32::MAX >> 1, u32::MAX >> 1), (100_000, 100_000), (40_000, 1_001)] {
        let read = measured("huge PNG", &png(width, height, &[chunk(b"IDAT", &[0; 64])]));
        assert!(matches!(read, Err(ImageError::Pixels { .. } | ImageError::Decode(_))), "{read:?}");
    }
    let read = measured("huge GIF", &gif(u16::MAX, u16::MAX, 1));
    assert!(matches!(read, Err(ImageError::Pixels { .. } | ImageError::Decode(_))), "{read:?}");
}

#[test]
fn the_largest_picture_that_is_allowed_stays_within_bounds() {
    // 40 million pixels out of some 40 KB.
    let bytes = grey(16_384, 2_441);
    assert!(bytes.len() < 1 << 20, "{}", bytes.len());
    assert_eq!(measured("zlib bomb", &bytes), Ok(1));
}

#[test]
fn a_million_frames_are_refused() {
    let bytes = gif(1, 1, 1_000_000);
    assert!(bytes.len() < 20 << 20, "{}", bytes.len());
    assert_eq!(measured("a million frames", &bytes), Err(ImageError::Frames));
}

#[test]
fn many_frames_on_a_large_canvas_are_refused_and_one_stays_within_bounds() {
    let canvas = |frames| gif(16_384, 2_441, frames);
    assert_eq!(measured("frames of 40 million pixels", &canvas(2)), Err(ImageError::Frames));
    assert_eq!(measured("one of them", &canvas(1)), Ok(1));
    // Without an end nobody can count them beforehand.
    let endless = &canvas(3)[..];
    let read = measured("frames without an end", &endless[..endless.len() - 1]);
    assert!(matches!(read, Err(ImageError::Decode(_))), "{read:?}");
}

/// The packed data of a PNG: a zlib stream.
fn packed(png: &[u8]) -> Vec<u8> {
    let (mut at, mut data) = (8, Vec::new());
    while let Some(head) = png.get(at..at + 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if &head[4..] == b"IDAT" {
            data.extend_from_slice(&png[at + 8..at + 8 + length]);
        }
        at += length + 12;
    }
    data
}

#[test]
fn chunks_that_grow_when_they_are_unpacked_stay_within_bounds() {
    let zeros = packed(&grey(16_384, 2_441));
    let small = grey(8, 8);
    let with = |chunks: Vec<u8>| [&small[..33], &chunks, &small[33..]].concat();
    // 64 texts of 40 MB each, for whoever unpacks them.
    let text = chunk(b"zTXt", &[&b"Comment\0\0"[..], &zeros].concat());
    let read = measured("compressed texts", &with(text.repeat(64)));
    assert!(matches!(read, Ok(1) | Err(ImageError::Decode(_))), "{read:?}");
    // A profile of colours of 40 MB.
    let profile = chunk(b"iCCP", &[&b"p\0\0"[..], &zeros].concat());
    let read = measured("a profile", &with(profile));
    assert!(matches!(read, Ok(1) | Err(ImageError::Decode(_))), "{read:?}");
}

#[test]
fn what_is_no_picture_or_two_files_at_once_is_refused() {
    let svg = b"<?xml version='1.0'?><!DOCTYPE l [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;&a;'>]><svg>&b;</svg>";
    assert_eq!(measured("SVG", svg), Err(ImageError::Format));
    let pdf = measured("PDF", b"%PDF-1.7\n1 0 obj\n");
    assert_eq!(pdf, Err(ImageError::Format));
    let page = [&grey(8, 8)[..], b"<html><script>alert(1)</script></html>"].concat();
    let read = measured("PNG and page", &page);
    assert!(matches!(read, Err(ImageError::Polyglot(_))), "{read:?}");
    // Its later pictures would be seen by nobody.
    let small = grey(8, 8);
    let control = chunk(b"acTL", &[0, 0, 0, 9, 0, 0, 0, 0]);
    let moving = [&small[..33], &control, &small[33..]].concat();
    assert_eq!(measured("animated PNG", &moving), Err(ImageError::Animated));
    let mut webp = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x07\0\0\x07\0\0".to_vec();
    assert_eq!(measured("animated WebP", &webp), Err(ImageError::Animated));
    webp.extend(b"<html><script>alert(1)</script></html>");
    assert!(matches!(measured("WebP and page", &webp), Err(ImageError::Polyglot(_))));
    for length in [0, 1, 7, 8, 33, 40] {
        let whole = grey(64, 64);
        let read = measured("cut off", &whole[..length.min(whole.len())]);
        assert!(read.is_err(), "{length}: {read:?}");
    }
}
