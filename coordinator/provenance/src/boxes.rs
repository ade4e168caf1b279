//! The boxes of an MP4 (ISO/IEC 14496-12, 4.2), as far as the farm reads them itself: those at the top of a file, those in
//! a box, and the tables of a film. Strict: what a file of ours has no need for is not read. Knows no player.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

/// The kind of box that has a manifest (C2PA 2.2, A.5).
const MANIFEST: [u8; 16] = [
    0xd8, 0xfe, 0xc3, 0xd6, 0x1b, 0x0e, 0x48, 0x3c, 0x92, 0x97, 0x58, 0x28, 0x87, 0x7e, 0xc4, 0x81,
];
/// Boxes at the top of a file: ours have five.
const BOXES_MAX: usize = 64;
/// The tables of a film: 120 s take 100 KB.
const TABLES_BYTES_MAX: u64 = 16 << 20;

/// A box at the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Top {
    /// Where it begins.
    pub at: u64,
    /// How long it is, with its head.
    pub bytes: u64,
    /// Its kind.
    pub kind: [u8; 4],
    /// Whether it has a C2PA manifest.
    pub manifest: bool,
}

/// The boxes at the top, which fill the file; none if they do not.
///
/// # Errors
/// If the file cannot be read.
pub fn tops(file: &mut (impl Read + Seek)) -> std::io::Result<Option<Vec<Top>>> {
    let end = file.seek(SeekFrom::End(0))?;
    let (mut at, mut tops) = (0, Vec::new());
    while at < end {
        if end - at < 8 || tops.len() == BOXES_MAX {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 32];
        let there = head.len().min((end - at) as usize);
        file.read_exact(&mut head[..there])?;
        let kind = [head[4], head[5], head[6], head[7]];
        let (bytes, head_bytes) = match number(&head[..4]) {
            1 => (number(&head[8..16]), 16),
            bytes => (bytes, 8),
        };
        if bytes < head_bytes || bytes > end - at {
            return Ok(None);
        }
        let word = head_bytes as usize;
        let manifest =
            &kind == b"uuid" && bytes >= head_bytes + 16 && head[word..word + 16] == MANIFEST;
        tops.push(Top { at, bytes, kind, manifest });
        at += bytes;
    }
    Ok(Some(tops))
}

/// The tables of a film, with their head: its only `moov`; none if there is none, or another one, or it is too large.
///
/// # Errors
/// If the file cannot be read.
pub fn tables(file: &mut (impl Read + Seek), tops: &[Top]) -> std::io::Result<Option<Vec<u8>>> {
    let mut all = tops.iter().filter(|top| &top.kind == b"moov");
    let (Some(top), None) = (all.next(), all.next()) else { return Ok(None) };
    if top.bytes > TABLES_BYTES_MAX {
        return Ok(None);
    }
    let mut tables = vec![0; top.bytes as usize];
    file.seek(SeekFrom::Start(top.at))?;
    file.read_exact(&mut tables)?;
    Ok(Some(tables))
}

/// What stands around a manifest in its box: its head, its kind, version and flags, the word `manifest`, and a place that is
/// not used (C2PA 2.2, A.5.1).
pub const AROUND_MANIFEST: u64 = 8 + 16 + 4 + 9 + 8;

/// The manifest store in its box; none if it is longer than `most`, or its box is not built as the library builds it.
///
/// # Errors
/// If the file cannot be read.
pub fn manifest(
    file: &mut (impl Read + Seek),
    top: &Top,
    most: usize,
) -> std::io::Result<Option<Vec<u8>>> {
    let bytes = top.bytes.checked_sub(AROUND_MANIFEST).filter(|bytes| *bytes <= most as u64);
    let Some(bytes) = bytes.filter(|_| top.manifest) else { return Ok(None) };
    file.seek(SeekFrom::Start(top.at))?;
    let mut around = [0; AROUND_MANIFEST as usize];
    file.read_exact(&mut around)?;
    let right = [&[0; 4][..], b"manifest\0", &[0; 8]].concat();
    // A long head would have moved all of it.
    if around[8..24] != MANIFEST || around[24..] != right {
        return Ok(None);
    }
    let mut store = vec![0; bytes as usize];
    file.read_exact(&mut store)?;
    Ok(Some(store))
}

/// Up to eight bytes, the highest first.
pub fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The boxes in a box, as places of their content in `within`; none if they do not fill it.
pub fn parts(tables: &[u8], within: Range<usize>) -> Option<Vec<([u8; 4], Range<usize>)>> {
    let (mut at, mut parts) = (within.start, Vec::new());
    while at < within.end {
        let head = tables.get(at..at + 8)?;
        let bytes = usize::try_from(number(&head[..4])).ok()?;
        // No table of ours needs a long head.
        if bytes < 8 || bytes > within.end - at {
            return None;
        }
        parts.push(([head[4], head[5], head[6], head[7]], at + 8..at + bytes));
        at += bytes;
    }
    Some(parts)
}
