//! Which frames of a clip are sampled: two a second, the first after each cut, the first and the last.
//!
//! Fed frame by frame in order, on whatever thread has them; looks at a small part of each picture only.

use sha2::{Digest, Sha256};
use zoetrope_protocol::id::ArtifactId;
use zoetrope_protocol::moderation::{FRAMES_MAX, SAMPLE_EVERY};

/// Points of a frame that are compared with the frame before: 16 rows of 16.
const GRID: usize = 16;
/// A cut is a mean change of so much of 255 ...
const CUT: u32 = 28;
/// ... no sooner than so many frames after the last sample: flicker must not sample everything.
const CUT_APART: u32 = 6;

/// Decides which frames are sampled, and digests those.
pub struct Sampler {
    width: usize,
    height: usize,
    frames: u32,
    next: u32,
    last_sample: Option<u32>,
    samples: usize,
    before: Vec<u8>,
    digest: Sha256,
}

impl Sampler {
    /// A sampler of a clip of `frames` frames of this size.
    pub fn new(width: u32, height: u32, frames: u32) -> Sampler {
        Sampler {
            width: width as usize,
            height: height as usize,
            frames,
            next: 0,
            last_sample: None,
            samples: 0,
            before: Vec::new(),
            digest: Sha256::new(),
        }
    }

    /// Takes the next frame (RGB, row by row); its index, if it is to be scored.
    pub fn see(&mut self, rgb: &[u8]) -> Option<u32> {
        let index = self.next;
        self.next += 1;
        let small = self.shrink(rgb);
        let change = difference(&self.before, &small);
        self.before = small;
        let due = self.last_sample.is_none_or(|last| index - last >= SAMPLE_EVERY);
        let cut = change >= CUT
            && self.last_sample.is_some_and(|last| index - last >= CUT_APART)
            // The regular samples of the rest, and the last one, must still find room.
            && self.samples + (self.frames / SAMPLE_EVERY) as usize + 2 < FRAMES_MAX;
        if !(due || cut || index + 1 == self.frames) {
            return None;
        }
        self.last_sample = Some(index);
        self.samples += 1;
        self.digest.update(rgb);
        Some(index)
    }

    /// Frames seen, and the digest of the sampled ones.
    pub fn finish(self) -> (u32, ArtifactId) {
        (self.next, ArtifactId(self.digest.finalize().into()))
    }

    fn shrink(&self, rgb: &[u8]) -> Vec<u8> {
        let mut small = Vec::with_capacity(GRID * GRID);
        for row in 0..GRID {
            for column in 0..GRID {
                let (y, x) = (
                    (2 * row + 1) * self.height / (2 * GRID),
                    (2 * column + 1) * self.width / (2 * GRID),
                );
                let at = 3 * (y * self.width + x);
                let sum: u32 =
                    rgb.get(at..at + 3).unwrap_or_default().iter().map(|c| u32::from(*c)).sum();
                small.push((sum / 3) as u8);
            }
        }
        small
    }
}

fn difference(a: &[u8], b: &[u8]) -> u32 {
    let sum: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    sum / (GRID * GRID) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(frames: u32, shade: impl Fn(u32) -> u8) -> Vec<u32> {
        let mut sampler = Sampler::new(32, 32, frames);
        (0..frames).filter_map(|n| sampler.see(&vec![shade(n); 32 * 32 * 3])).collect()
    }

    #[test]
    fn two_a_second_the_ends_and_what_follows_a_cut() {
        assert_eq!(sampled(1, |_| 0), [0]);
        assert_eq!(sampled(30, |_| 0), [0, 12, 24, 29]);
        assert_eq!(sampled(36, |n| if n < 20 { 0 } else { 200 }), [0, 12, 20, 32, 35]);
    }

    #[test]
    fn flicker_does_not_sample_everything() {
        let all = sampled(240, |n| if n % 2 == 0 { 0 } else { 255 });
        assert!(all.len() <= 42, "{}", all.len());
        assert!(all.windows(2).all(|pair| pair[1] - pair[0] <= SAMPLE_EVERY));
        let long = sampled(120 * 24, |n| if n % 2 == 0 { 0 } else { 255 });
        assert!(long.len() <= FRAMES_MAX);
    }

    #[test]
    fn the_digest_is_that_of_the_sampled_frames() {
        let mut sampler = Sampler::new(2, 1, 3);
        let sampled: Vec<_> = (1..=3).map(|n: u8| sampler.see(&[n; 6])).collect();
        assert_eq!(sampled, [Some(0), None, Some(2)]);
        let two = [[1u8; 6], [3u8; 6]].concat();
        assert_eq!(sampler.finish(), (3, ArtifactId::of(&two)));
    }
}
