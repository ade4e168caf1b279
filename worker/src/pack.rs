//! Artifacts in fewer bytes, without loss, where that pays.
//!
//! Whether it pays is decided by the content alone: the same artifact has the same bytes, and so the same address,
//! on every worker of a version. The address is that of the bytes as they are stored. Called by the gpu thread's
//! courier; knows no link.

use std::borrow::Cow;
use zoetrope_protocol::wire::ARTIFACT_BYTES_MAX;

/// Head of a packed artifact. Read as the length that a safetensors file begins with, it is one that none has.
const MAGIC: [u8; 4] = *b"ZTP1";
const HEAD_BYTES: usize = 4 + 1 + 8;
/// Packed are only artifacts that lose an eighth or more: below it the time to pack costs more than it saves on
/// a link of 1 Gbit/s.
const PAYS: u64 = 8;
/// So much of an artifact is tried first: packing it takes a quarter of a millisecond.
const SAMPLE_BYTES: usize = 64 << 10;
/// The level that packs some hundred megabytes a second; the next ones are slower and save little on noise.
const LEVEL: i32 = 1;

/// What an artifact's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Mostly numbers of four bytes (or two): equal places of them are alike.
    Words,
    /// Mostly pixels of three bytes: each is like the one before.
    Pixels,
}

impl Content {
    fn stride(self) -> usize {
        match self {
            Content::Words => 4,
            Content::Pixels => 3,
        }
    }

    /// First all first bytes, then all second ones, and so on; pixels as differences to the one before.
    fn sort(self, bytes: &[u8]) -> Vec<u8> {
        let mut sorted = Vec::with_capacity(bytes.len());
        // Written so that the compiler works on many bytes at once: a checkpoint is sorted beside the next step.
        match self {
            Content::Words => {
                let (words, rest) = bytes.as_chunks::<4>();
                for place in 0..4 {
                    let byte = |word: &[u8; 4]| (u32::from_le_bytes(*word) >> (8 * place)) as u8;
                    sorted.extend(words.iter().map(byte));
                    sorted.extend(rest.get(place));
                }
            }
            Content::Pixels => {
                for place in 0..3 {
                    let plane = bytes.get(place..).unwrap_or_default().iter().step_by(3);
                    sorted.extend(plane.clone().next());
                    let pairs = plane.clone().skip(1).zip(plane);
                    sorted.extend(pairs.map(|(byte, before)| byte.wrapping_sub(*before)));
                }
            }
        }
        sorted
    }

    /// The opposite of `sort`.
    fn unsort(self, sorted: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; sorted.len()];
        let mut from = sorted.iter();
        for place in 0..self.stride() {
            let mut before = 0u8;
            for byte in bytes.iter_mut().skip(place).step_by(self.stride()) {
                let Some(next) = from.next() else { return bytes };
                *byte = match self {
                    Content::Words => *next,
                    Content::Pixels => before.wrapping_add(*next),
                };
                before = *byte;
            }
        }
        bytes
    }
}

/// Bytes that say they are packed and are not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packed artifact is damaged: {0}")]
pub struct PackError(String);

/// The bytes to store: packed if it pays, otherwise as they are.
pub fn pack(bytes: Vec<u8>, content: Content) -> Vec<u8> {
    let sample = &bytes[..bytes.len().min(SAMPLE_BYTES)];
    match squeeze(sample, content) {
        Some(small) if pays(sample, &small) => {}
        _ => return bytes,
    }
    match squeeze(&bytes, content) {
        Some(small) if pays(&bytes, &small) => small,
        _ => bytes,
    }
}

fn pays(bytes: &[u8], small: &[u8]) -> bool {
    small.len() as u64 * PAYS <= bytes.len() as u64 * (PAYS - 1)
}

fn squeeze(bytes: &[u8], content: Content) -> Option<Vec<u8>> {
    let small = zstd::bulk::compress(&content.sort(bytes), LEVEL).ok()?;
    let mut packed = Vec::with_capacity(HEAD_BYTES + small.len());
    packed.extend(MAGIC);
    packed.push(content.stride() as u8);
    packed.extend((bytes.len() as u64).to_le_bytes());
    packed.extend(small);
    Some(packed)
}

/// The bytes as they were before [`pack`].
///
/// # Errors
/// `PackError` if they are packed and damaged, or longer than any artifact.
pub fn unpack(bytes: Vec<u8>) -> Result<Vec<u8>, PackError> {
    match unpacked(&bytes)? {
        Cow::Borrowed(_) => Ok(bytes),
        Cow::Owned(raw) => Ok(raw),
    }
}

fn unpacked(bytes: &[u8]) -> Result<Cow<'_, [u8]>, PackError> {
    if !bytes.starts_with(&MAGIC) {
        return Ok(Cow::Borrowed(bytes));
    }
    let bad = |reason: &str| PackError(reason.to_owned());
    let head = bytes.get(..HEAD_BYTES).ok_or_else(|| bad("its head is cut off"))?;
    let content = match head[4] {
        4 => Content::Words,
        3 => Content::Pixels,
        other => return Err(PackError(format!("content {other}, expected 3 or 4"))),
    };
    let mut length = [0; 8];
    length.copy_from_slice(&head[5..]);
    let length = u64::from_le_bytes(length);
    let fits = usize::try_from(length).ok().filter(|_| length <= ARTIFACT_BYTES_MAX);
    let length = fits.ok_or_else(|| PackError(format!("{length} bytes unpacked")))?;
    let sorted = zstd::bulk::decompress(&bytes[HEAD_BYTES..], length)
        .map_err(|error| PackError(error.to_string()))?;
    if sorted.len() != length {
        return Err(PackError(format!("{} bytes instead of {length}", sorted.len())));
    }
    Ok(Cow::Owned(content.unsort(&sorted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(count: usize) -> Vec<u8> {
        (0..count * 3).map(|n| (n / 97 % 251) as u8).collect()
    }

    #[test]
    fn what_pays_is_packed_and_comes_back_the_same() {
        for bytes in [pixels(1), pixels(1_000), [pixels(333), vec![1, 2]].concat()] {
            for content in [Content::Words, Content::Pixels] {
                let packed = pack(bytes.clone(), content);
                assert_eq!(
                    packed,
                    pack(bytes.clone(), content),
                    "the same content, the same bytes"
                );
                assert_eq!(unpack(packed), Ok(bytes.clone()));
            }
        }
        assert!(pack(pixels(1_000), Content::Pixels).len() < 1_000);
    }

    #[test]
    fn noise_stays_as_it_is() {
        let mut state = 1u64;
        let noise: Vec<u8> = (0..600_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        assert_eq!(pack(noise.clone(), Content::Words), noise);
        assert_eq!(unpack(noise.clone()), Ok(noise));
    }

    #[test]
    fn damage_is_an_error_not_a_panic() {
        let packed = pack(pixels(5_000), Content::Pixels);
        assert!(packed.starts_with(&MAGIC));
        for cut in [3, 4, HEAD_BYTES - 1, HEAD_BYTES, packed.len() - 1] {
            let cut = unpack(packed[..cut].to_vec());
            assert!(cut.is_err() || cut == Ok(packed[..3].to_vec()), "{cut:?}");
        }
        let mut long = packed.clone();
        long[5..13].fill(255);
        assert!(unpack(long).is_err());
        let mut other = packed;
        other[4] = 7;
        assert!(unpack(other).is_err());
    }
}
