//! How records lie in etcd: many of them under one key, so that a transaction of 128 operations holds thousands.
//!
//! A chunk is its version (1), then for each record a tag, the length (4 bytes, little-endian) and its sealed
//! bytes. A record that is too long for etcd is a file in the store; its place in the chunk holds the file's
//! digest and length.

use super::record::{seal, unseal};
use sha2::{Digest, Sha256};

const VERSION: u8 = 1;
const INLINE: u8 = 0;
const APART: u8 = 1;
/// Tag and length in front of each record.
const FRAME_BYTES: usize = 5;
/// The longest body that lies in etcd itself.
pub(super) const INLINE_BYTES_MAX: usize = 4 << 10;
/// A chunk takes no further record from this size on: at 64 chunks a page, a page is at most 2.3 MiB.
pub(super) const CHUNK_BYTES: usize = 32 << 10;

/// A body that lies in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Apart {
    /// SHA-256 of the body.
    pub digest: [u8; 32],
    /// Its length.
    pub bytes: u64,
}

impl Apart {
    pub(super) fn of(body: &[u8]) -> Apart {
        Apart { digest: Sha256::digest(body).into(), bytes: body.len() as u64 }
    }

    /// Where the store has record `seq`.
    pub(super) fn name(&self, seq: u64) -> String {
        format!("record-{seq:020}-{}", hex::encode(self.digest))
    }

    /// Whether this is the body.
    pub(super) fn is(&self, body: &[u8]) -> bool {
        *self == Apart::of(body)
    }
}

/// A record as a chunk tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Its body.
    Inline(Vec<u8>),
    /// Where its body is.
    Apart(Apart),
    /// Its checksum is wrong.
    Damaged,
}

/// Puts records of consecutive numbers into chunks: the number of each chunk's first record, and its bytes.
pub(super) fn pack(first: u64, bodies: &[Vec<u8>]) -> Vec<(u64, Vec<u8>)> {
    let mut chunks: Vec<(u64, Vec<u8>)> = Vec::new();
    for (seq, body) in (first..).zip(bodies) {
        if chunks.last().is_none_or(|(_, bytes)| bytes.len() >= CHUNK_BYTES) {
            chunks.push((seq, vec![VERSION]));
        }
        let (tag, sealed) = if body.len() > INLINE_BYTES_MAX {
            let apart = Apart::of(body);
            let mut place = apart.digest.to_vec();
            place.extend_from_slice(&apart.bytes.to_le_bytes());
            (APART, seal(seq, &place))
        } else {
            (INLINE, seal(seq, body))
        };
        if let Some((_, bytes)) = chunks.last_mut() {
            bytes.push(tag);
            bytes.extend_from_slice(&(sealed.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&sealed);
        }
    }
    chunks
}

/// The records of a chunk. One that ends early tells of the records before that.
pub(super) fn unpack(first: u64, chunk: &[u8]) -> Vec<(u64, Told)> {
    let mut told = Vec::new();
    let Some((&VERSION, mut rest)) = chunk.split_first() else { return told };
    let mut seq = first;
    while let Some((head, behind)) = rest.split_at_checked(FRAME_BYTES) {
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let Some((sealed, behind)) = behind.split_at_checked(length) else { break };
        told.push((seq, one(seq, head[0], sealed)));
        (rest, seq) = (behind, seq + 1);
    }
    told
}

fn one(seq: u64, tag: u8, sealed: &[u8]) -> Told {
    match (tag, unseal(seq, sealed)) {
        (INLINE, Some(body)) => Told::Inline(body.to_vec()),
        (APART, Some(place)) => match (place.first_chunk::<32>(), place.last_chunk::<8>()) {
            (Some(digest), Some(bytes)) if place.len() == 40 => {
                Told::Apart(Apart { digest: *digest, bytes: u64::from_le_bytes(*bytes) })
            }
            _ => Told::Damaged,
        },
        _ => Told::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record::HEAD_BYTES;

    /// The most that one record adds to a chunk.
    const RECORD_BYTES_MAX: usize = FRAME_BYTES + HEAD_BYTES + INLINE_BYTES_MAX;

    #[test]
    fn records_come_back_as_they_went_and_long_ones_by_name() {
        let long = vec![7; INLINE_BYTES_MAX + 1];
        let mut bodies: Vec<Vec<u8>> = (0..200u16).map(|n| vec![n as u8; n as usize * 3]).collect();
        bodies.push(long.clone());
        let chunks = pack(11, &bodies);
        assert!(chunks.len() > 1, "more than one chunk");
        let told: Vec<_> = chunks.iter().flat_map(|(first, bytes)| unpack(*first, bytes)).collect();
        assert!(chunks.iter().all(|(_, c)| c.len() <= CHUNK_BYTES + RECORD_BYTES_MAX));
        for ((seq, told), (expected, body)) in told.iter().zip((11..).zip(&bodies)) {
            assert_eq!(*seq, expected);
            match told {
                Told::Inline(told) => assert_eq!(told, body),
                Told::Apart(apart) => assert!(apart.is(&long) && body == &long),
                Told::Damaged => panic!("record {seq} is damaged"),
            }
        }
        assert_eq!(told.len(), bodies.len());
    }

    #[test]
    fn a_flipped_bit_is_damage_and_a_cut_chunk_is_short() {
        let (first, mut chunk) = pack(1, &[b"a".to_vec(), b"b".to_vec()]).remove(0);
        let last = chunk.len() - 1;
        chunk[last] ^= 1;
        assert_eq!(unpack(first, &chunk)[1], (2, Told::Damaged));
        chunk.pop();
        assert_eq!(unpack(first, &chunk), vec![(1, Told::Inline(b"a".to_vec()))]);
        assert!(unpack(1, b"").is_empty() && unpack(1, b"\x09").is_empty());
    }
}
