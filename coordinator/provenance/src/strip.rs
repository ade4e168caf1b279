//! What a signed MP4 was before its manifest came into it: the same file without one box, and with the places of its
//! samples where they were. So what is known of the one holds for the other. Blocks; reads the file once.
//!
//! Knows no more of the format than that (ISO/IEC 14496-12, 4.2 and 8.7.5; C2PA 2.2, A.5). A file that is built otherwise
//! has no digest here, which proves nothing for it.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use zoetrope_protocol::id::ArtifactId;

/// The kind of box that has a manifest.
const MANIFEST: [u8; 16] = [
    0xd8, 0xfe, 0xc3, 0xd6, 0x1b, 0x0e, 0x48, 0x3c, 0x92, 0x97, 0x58, 0x28, 0x87, 0x7e, 0xc4, 0x81,
];
/// Boxes at the top of a file: ours have five.
const BOXES_MAX: usize = 64;
/// The tables of a film: 120 s take 100 KB.
const TABLES_BYTES_MAX: u64 = 16 << 20;
/// The way to the places of samples.
const WAY: [[u8; 4]; 4] = [*b"trak", *b"mdia", *b"minf", *b"stbl"];

/// A box at the top: where it begins, how long it is with its head, and its kind.
struct Top {
    at: u64,
    bytes: u64,
    kind: [u8; 4],
    manifest: bool,
}

/// SHA-256 of a signed MP4 without its manifest; none if it has not exactly one, or cannot be read so far.
///
/// # Errors
/// If the file cannot be read.
pub fn unsigned(path: &Path) -> std::io::Result<Option<ArtifactId>> {
    let mut file = BufReader::with_capacity(256 << 10, File::open(path)?);
    let Some(tops) = tops(&mut file)? else { return Ok(None) };
    let mut manifests = tops.iter().filter(|top| top.manifest);
    let (Some(manifest), None) = (manifests.next(), manifests.next()) else { return Ok(None) };
    let (from, bytes) = (manifest.at, manifest.bytes);
    let mut digest = Sha256::new();
    for top in tops.iter().filter(|top| !top.manifest) {
        file.seek(SeekFrom::Start(top.at))?;
        if &top.kind != b"moov" {
            let copied = std::io::copy(&mut (&mut file).take(top.bytes), &mut digest)?;
            if copied != top.bytes {
                return Ok(None);
            }
            continue;
        }
        if top.bytes > TABLES_BYTES_MAX {
            return Ok(None);
        }
        let mut tables = vec![0; top.bytes as usize];
        file.read_exact(&mut tables)?;
        if moved_back(&mut tables, from, bytes).is_none() {
            return Ok(None);
        }
        digest.update(&tables);
    }
    Ok(Some(ArtifactId(digest.finalize().into())))
}

/// The boxes at the top, which fill the file; none if they do not.
fn tops(file: &mut BufReader<File>) -> std::io::Result<Option<Vec<Top>>> {
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

/// Up to eight bytes, the highest first.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The boxes in a box, as places of their content in `within`; none if they do not fill it.
fn parts(tables: &[u8], within: Range<usize>) -> Option<Vec<([u8; 4], Range<usize>)>> {
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

/// Moves the places of samples that lie behind the manifest back to where they were without it.
fn moved_back(tables: &mut [u8], from: u64, by: u64) -> Option<()> {
    let mut open: Vec<Range<usize>> = std::iter::once(8..tables.len()).collect();
    for kind in WAY {
        let mut inner = Vec::new();
        for within in open {
            let found = parts(tables, within)?.into_iter().filter(|(of, _)| *of == kind);
            inner.extend(found.map(|(_, content)| content));
        }
        open = inner;
    }
    for within in open {
        for (kind, content) in parts(tables, within)? {
            let width = match &kind {
                b"stco" => 4,
                b"co64" => 8,
                _ => continue,
            };
            let count = number(tables.get(content.start + 4..content.start + 8)?);
            let places = tables.get_mut(content.start + 8..content.end)?;
            if places.len() as u64 != count * width as u64 {
                return None;
            }
            for place in places.chunks_exact_mut(width) {
                let there = number(place);
                if there >= from {
                    let before = there.checked_sub(by)?.to_be_bytes();
                    place.copy_from_slice(&before[8 - width..]);
                }
            }
        }
    }
    Some(())
}
