//! What a signed MP4 was before its manifest came into it: the same file without one box, and with the places of its
//! samples where they were. So what is known of the one holds for the other: it plays the same. And the way there: what a
//! manifest must bind that comes into a file. Blocks; reads the file once.
//!
//! That is so only if no sample is read from another place of the two files. So all samples must stand behind the manifest,
//! in what it binds, and nothing may say where samples are but the tables that are moved here (ISO/IEC 14496-12, 8.7.5; C2PA
//! 2.2, A.5). And what was seen of the one is what any player makes of the other only if the tables can be read in one way
//! (`film.rs`). A file that is built otherwise has no digest here, which proves nothing for it.

use crate::boxes::{self, AROUND_MANIFEST, Top, number};
use crate::{Refusal, claim, film, samples};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use zoetrope_protocol::id::ArtifactId;
use zoetrope_protocol::provenance::MANIFEST_BYTES_MAX;

/// What stands at the top of a file of ours, but for the manifest: its type, tables, samples, and what a player skips.
const KNOWN: [[u8; 4]; 4] = [*b"ftyp", *b"moov", *b"mdat", *b"free"];
/// Of these, what no manifest binds (`words::hard_binding`). Nothing may be in it: whoever has the file could put another
/// film there.
const LEFT_OUT: [u8; 4] = *b"free";
/// A box with nothing in it.
const EMPTY_BYTES: u64 = 8;
/// The two tables of places.
const PLACES: [[u8; 4]; 2] = [*b"stco", *b"co64"];
/// What else says where bytes are that are played: fragments, packed tables, items, and what encrypted samples need.
/// Players take some of them wherever they stand, so these words may occur nowhere among the tables. None does by chance:
/// numbers there are below 2^30, so that of four bytes in a row one is no letter.
const ELSEWHERE: [[u8; 4]; 10] = [
    *b"cmov", *b"mvex", *b"moof", *b"traf", *b"tfhd", *b"trun", *b"saio", *b"iloc", *b"sidx",
    *b"mfra",
];

/// The hash that a manifest of so many bytes must bind, if it comes into this file, which has none yet: over each box behind
/// the type that is played, with its place in front of it (C2PA 2.2, A.5.4). None if the file is not built as ours are.
///
/// # Errors
/// If the file cannot be read.
pub fn bound(path: &Path, manifest_bytes: usize) -> std::io::Result<Option<[u8; 32]>> {
    let mut file = BufReader::with_capacity(256 << 10, File::open(path)?);
    let Some(tops) = boxes::tops(&mut file)? else { return Ok(None) };
    let [kind, rest @ ..] = tops.as_slice() else { return Ok(None) };
    if &kind.kind != b"ftyp" || !are_known(rest) {
        return Ok(None);
    }
    let Some(mut tables) = boxes::tables(&mut file, &tops)? else { return Ok(None) };
    let by = AROUND_MANIFEST + manifest_bytes as u64;
    if moved(&mut tables, rest, |place| place.checked_add(by)).is_none() {
        return Ok(None);
    }
    let mut digest = Sha256::new();
    for top in rest.iter().filter(|top| top.kind != LEFT_OUT) {
        digest.update((top.at + by).to_be_bytes());
        if !hash(&mut file, top, &tables, &mut digest)? {
            return Ok(None);
        }
    }
    Ok(Some(digest.finalize().into()))
}

/// Takes a box in: the tables as they are given, all else as it stands in the file. Whether it was there whole.
fn hash(
    file: &mut (impl Read + Seek),
    top: &boxes::Top,
    tables: &[u8],
    digest: &mut Sha256,
) -> std::io::Result<bool> {
    if &top.kind == b"moov" {
        digest.update(tables);
        return Ok(true);
    }
    file.seek(SeekFrom::Start(top.at))?;
    Ok(std::io::copy(&mut file.take(top.bytes), digest)? == top.bytes)
}

/// SHA-256 of the manifest of a signed file, if that is built as one that was checked before it was signed; see
/// [`claim::structure`].
///
/// # Errors
/// If the file cannot be read.
pub fn built(path: &Path) -> std::io::Result<Result<[u8; 32], Refusal>> {
    let mut file = BufReader::with_capacity(256 << 10, File::open(path)?);
    let missing = || Err(Refusal::Malformed("no manifest of ours behind the type".into()));
    let Some(tops) = boxes::tops(&mut file)? else { return Ok(missing()) };
    let [_, top, ..] = tops.as_slice() else { return Ok(missing()) };
    let store = boxes::manifest(&mut file, top, MANIFEST_BYTES_MAX)?;
    let digest = |store: Vec<u8>| claim::structure(&store).map(|()| Sha256::digest(store).into());
    Ok(store.map_or_else(missing, digest))
}

/// SHA-256 of a signed MP4 without its manifest; none if it has not exactly one, right behind its type, or is not built as
/// ours are.
///
/// # Errors
/// If the file cannot be read.
pub fn unsigned(path: &Path) -> std::io::Result<Option<ArtifactId>> {
    let mut file = BufReader::with_capacity(256 << 10, File::open(path)?);
    let Some(tops) = boxes::tops(&mut file)? else { return Ok(None) };
    let [kind, manifest, rest @ ..] = tops.as_slice() else { return Ok(None) };
    if &kind.kind != b"ftyp" || !manifest.manifest || !are_known(rest) {
        return Ok(None);
    }
    let Some(mut tables) = boxes::tables(&mut file, &tops)? else { return Ok(None) };
    if moved(&mut tables, rest, |place| place.checked_sub(manifest.bytes)).is_none() {
        return Ok(None);
    }
    let mut digest = Sha256::new();
    for top in tops.iter().filter(|top| !top.manifest) {
        if !hash(&mut file, top, &tables, &mut digest)? {
            return Ok(None);
        }
    }
    Ok(Some(ArtifactId(digest.finalize().into())))
}

/// Whether it is what a file of ours has behind its manifest.
fn are_known(tops: &[Top]) -> bool {
    let known = |top: &Top| KNOWN.contains(&top.kind);
    tops.iter().all(|top| known(top) && (top.kind != LEFT_OUT || top.bytes == EMPTY_BYTES))
}

/// Moves the places of samples; none if the tables are not such as ours, one sample stands, whole, in none of the boxes for
/// them, or something else says where samples are.
fn moved(tables: &mut [u8], tops: &[Top], to: impl Fn(u64) -> Option<u64>) -> Option<()> {
    let media = tops.iter().filter(|top| &top.kind == b"mdat");
    let media: Vec<Range<u64>> = media.map(|top| top.at..top.at + top.bytes).collect();
    if !film::is_ours(tables) || !samples::stand_within(tables, &media) {
        return None;
    }
    let tracks = samples::tables_of_tracks(tables)?;
    let found = tracks.into_iter().flatten().filter(|(kind, _)| PLACES.contains(kind));
    let found: Vec<([u8; 4], Range<usize>)> = found.collect();
    let words = |kinds: &[[u8; 4]]| {
        tables.windows(4).filter(|word| kinds.iter().any(|kind| kind == word)).count()
    };
    if words(&PLACES) != found.len() || words(&ELSEWHERE) > 0 {
        return None;
    }
    for (kind, content) in found {
        let width = if &kind == b"stco" { 4 } else { 8 };
        for place in tables.get_mut(content.start + 8..content.end)?.chunks_exact_mut(width) {
            let there = to(number(place))?.to_be_bytes();
            if there[..8 - width].iter().any(|byte| *byte != 0) {
                return None;
            }
            place.copy_from_slice(&there[8 - width..]);
        }
    }
    Some(())
}
