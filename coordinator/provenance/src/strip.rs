//! What a signed MP4 was before its manifest came into it: the same file without one box, and with the places of its
//! samples where they were. So what is known of the one holds for the other: it plays the same. Blocks; reads the file once.
//!
//! That is so only if no sample is read from another place of the two files. So all samples must stand behind the manifest,
//! and nothing may say where samples are but the tables that are moved here (ISO/IEC 14496-12, 8.7.5; C2PA 2.2, A.5). A file
//! that is built otherwise has no digest here, which proves nothing for it.

use crate::boxes::{self, number, parts};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use zoetrope_protocol::id::ArtifactId;

/// What stands at the top of a file of ours, but for the manifest: its type, tables, samples, and what a player skips.
const KNOWN: [[u8; 4]; 4] = [*b"ftyp", *b"moov", *b"mdat", *b"free"];
/// The way to the places of samples.
const WAY: [[u8; 4]; 4] = [*b"trak", *b"mdia", *b"minf", *b"stbl"];
/// The two tables of places.
const PLACES: [[u8; 4]; 2] = [*b"stco", *b"co64"];
/// What else says where bytes are that are played: fragments, packed tables, items, and what encrypted samples need.
/// Players take some of them wherever they stand, so these words may occur nowhere among the tables. None does by chance:
/// numbers there are below 2^30, so that of four bytes in a row one is no letter.
const ELSEWHERE: [[u8; 4]; 10] = [
    *b"cmov", *b"mvex", *b"moof", *b"traf", *b"tfhd", *b"trun", *b"saio", *b"iloc", *b"sidx",
    *b"mfra",
];

/// SHA-256 of a signed MP4 without its manifest; none if it has not exactly one, right behind its type, or is not built as
/// ours are.
///
/// # Errors
/// If the file cannot be read.
pub fn unsigned(path: &Path) -> std::io::Result<Option<ArtifactId>> {
    let mut file = BufReader::with_capacity(256 << 10, File::open(path)?);
    let Some(tops) = boxes::tops(&mut file)? else { return Ok(None) };
    let [kind, manifest, rest @ ..] = tops.as_slice() else { return Ok(None) };
    let known = rest.iter().all(|top| KNOWN.contains(&top.kind));
    if &kind.kind != b"ftyp" || !manifest.manifest || !known {
        return Ok(None);
    }
    let Some(mut tables) = boxes::tables(&mut file, &tops)? else { return Ok(None) };
    if moved_back(&mut tables, manifest.at + manifest.bytes, manifest.bytes).is_none() {
        return Ok(None);
    }
    let mut digest = Sha256::new();
    for top in tops.iter().filter(|top| !top.manifest) {
        if &top.kind == b"moov" {
            digest.update(&tables);
            continue;
        }
        file.seek(SeekFrom::Start(top.at))?;
        let copied = std::io::copy(&mut (&mut file).take(top.bytes), &mut digest)?;
        if copied != top.bytes {
            return Ok(None);
        }
    }
    Ok(Some(ArtifactId(digest.finalize().into())))
}

/// Moves the places of samples back to where they were without the manifest; none if one of them is not behind it, or
/// something else says where samples are.
fn moved_back(tables: &mut [u8], behind: u64, by: u64) -> Option<()> {
    let mut open: Vec<Range<usize>> = std::iter::once(8..tables.len()).collect();
    for kind in WAY {
        let mut inner = Vec::new();
        for within in open {
            let found = parts(tables, within)?.into_iter().filter(|(of, _)| *of == kind);
            inner.extend(found.map(|(_, content)| content));
        }
        open = inner;
    }
    let mut found = Vec::new();
    for within in open {
        found.extend(parts(tables, within)?.into_iter().filter(|(kind, _)| PLACES.contains(kind)));
    }
    let words = |kinds: &[[u8; 4]]| {
        tables.windows(4).filter(|word| kinds.iter().any(|kind| kind == word)).count()
    };
    if words(&PLACES) != found.len() || words(&ELSEWHERE) > 0 {
        return None;
    }
    for (kind, content) in found {
        let width = if &kind == b"stco" { 4 } else { 8 };
        let count = number(tables.get(content.start + 4..content.start + 8)?);
        let places = tables.get_mut(content.start + 8..content.end)?;
        if places.len() as u64 != count * width as u64 {
            return None;
        }
        for place in places.chunks_exact_mut(width) {
            let there = number(place);
            if there < behind {
                return None;
            }
            let before = (there - by).to_be_bytes();
            place.copy_from_slice(&before[8 - width..]);
        }
    }
    Some(())
}
