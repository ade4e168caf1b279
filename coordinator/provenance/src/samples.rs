//! Where the samples of an MP4 stand, by its own tables (ISO/IEC 14496-12, 8.7): each chunk has a place, a number of samples
//! (`stsc`), and these their lengths (`stsz`). Pure.

use crate::boxes::{number, parts};
use std::ops::Range;

/// The way to the tables of a track.
const WAY: [[u8; 4]; 4] = [*b"trak", *b"mdia", *b"minf", *b"stbl"];

/// The boxes in a track's `stbl`: kind, and place of the content.
type Tables = Vec<([u8; 4], Range<usize>)>;

/// What is in each track's `stbl`; none if boxes do not fill theirs.
pub fn tables_of_tracks(tables: &[u8]) -> Option<Vec<Tables>> {
    let mut open: Vec<Range<usize>> = std::iter::once(8..tables.len()).collect();
    for kind in WAY {
        let mut inner = Vec::new();
        for within in open {
            let found = parts(tables, within)?.into_iter().filter(|(of, _)| *of == kind);
            inner.extend(found.map(|(_, content)| content));
        }
        open = inner;
    }
    open.into_iter().map(|within| parts(tables, within)).collect()
}

/// Whether every sample stands in one of these parts of the file, whole. Not so if the tables are built otherwise than ours.
pub fn stand_within(tables: &[u8], media: &[Range<u64>]) -> bool {
    let Some(tracks) = tables_of_tracks(tables) else { return false };
    tracks.iter().all(|track| {
        let chunks = chunks(tables, track);
        chunks.is_some_and(|chunks| chunks.iter().all(|chunk| is_within(chunk, media)))
    })
}

fn is_within(chunk: &Range<u64>, media: &[Range<u64>]) -> bool {
    media.iter().any(|media| media.start <= chunk.start && chunk.end <= media.end)
}

/// The chunks of a track; none if its tables do not say all of it, and once.
fn chunks(tables: &[u8], track: &[([u8; 4], Range<usize>)]) -> Option<Vec<Range<u64>>> {
    let only = |kinds: &[[u8; 4]]| {
        let mut found = track.iter().filter(|(kind, _)| kinds.contains(kind));
        let (Some((kind, content)), None) = (found.next(), found.next()) else { return None };
        Some((*kind, tables.get(content.clone())?))
    };
    let (kind, places) = only(&[*b"stco", *b"co64"])?;
    let places = rows(places, 4, if &kind == b"stco" { 4 } else { 8 })?;
    let runs = rows(only(&[*b"stsc"])?.1, 4, 12)?;
    let (_, sizes) = only(&[*b"stsz", *b"stz2"]).filter(|(kind, _)| kind == b"stsz")?;
    let (same, count) = (number(sizes.get(4..8)?), number(sizes.get(8..12)?));
    let sizes = if same > 0 { &[][..] } else { rows(sizes, 8, 4)? };
    let (mut runs, mut in_chunk, mut sample) = (runs.chunks_exact(12).peekable(), 0, 0u64);
    let mut chunks = Vec::new();
    for (chunk, place) in (1..).zip(places.chunks_exact(if &kind == b"stco" { 4 } else { 8 })) {
        if let Some(run) = runs.next_if(|run| number(&run[..4]) == chunk) {
            in_chunk = number(&run[4..8]);
            // There is one description of samples.
            if number(&run[8..]) != 1 {
                return None;
            }
        }
        // Readers do not agree on chunks in front of the first run: to some they are empty.
        if in_chunk == 0 {
            return None;
        }
        let behind = sample.checked_add(in_chunk).filter(|behind| *behind <= count)?;
        let bytes = if same > 0 {
            same.checked_mul(in_chunk)?
        } else {
            let of =
                sizes.get(4 * usize::try_from(sample).ok()?..4 * usize::try_from(behind).ok()?)?;
            of.chunks_exact(4).map(number).sum()
        };
        let place = number(place);
        chunks.push(place..place.checked_add(bytes)?);
        sample = behind;
    }
    // A run that begins behind the last chunk, and samples without a place, are none of ours.
    (runs.next().is_none() && sample == count).then_some(chunks)
}

/// The rows of a table whose number stands at `at`, behind version and flags, and which fill it.
fn rows(table: &[u8], at: usize, width: u64) -> Option<&[u8]> {
    let count = number(table.get(at..at + 4)?);
    let rows = table.get(at + 4..)?;
    (rows.len() as u64 == count * width).then_some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        [&(content.len() as u32 + 8).to_be_bytes()[..], kind, content].concat()
    }

    fn table(kind: &[u8; 4], numbers: &[u32]) -> Vec<u8> {
        let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        boxed(kind, &[&[0; 4][..], &numbers].concat())
    }

    fn film(tables: &[Vec<u8>]) -> Vec<u8> {
        let inner = boxed(b"stbl", &tables.concat());
        let inner = boxed(b"mdia", &boxed(b"minf", &inner));
        boxed(b"moov", &boxed(b"trak", &inner))
    }

    /// Promise: a sample of which one byte stands outside of the media is seen, whatever table says so.
    #[test]
    fn every_byte_of_a_sample_stands_in_the_media() {
        // Three chunks of two, two and one samples: at 100 of 30 bytes, at 130 of 70, at 200 of 50.
        let sizes = table(b"stsz", &[0, 5, 10, 20, 30, 40, 50]);
        let runs = table(b"stsc", &[2, 1, 2, 1, 3, 1, 1]);
        let places = table(b"stco", &[3, 100, 130, 200]);
        let right = film(&[sizes.clone(), runs.clone(), places.clone()]);
        let within = |tables: &[u8], media: &[Range<u64>]| stand_within(tables, media);
        let whole: Vec<Range<u64>> = std::iter::once(100..250).collect();
        assert!(within(&right, &whole));
        assert!(within(&right, &[100..200, 200..250]));
        for media in [[101..250, 0..0], [100..249, 0..0], [100..150, 150..250], [0..0, 0..0]] {
            assert!(!within(&right, &media), "{media:?}");
        }
        let same = film(&[table(b"stsz", &[50, 5]), runs.clone(), places.clone()]);
        assert!(within(&same, &whole) && !within(&same, std::slice::from_ref(&(100..249))));
        let wrong = [
            (
                "samples without a place",
                film(&[table(b"stsz", &[1, 6]), runs.clone(), places.clone()]),
            ),
            (
                "places without samples",
                film(&[table(b"stsz", &[1, 4]), runs.clone(), places.clone()]),
            ),
            (
                "a row more",
                film(&[sizes.clone(), runs.clone(), table(b"stco", &[2, 100, 130, 200])]),
            ),
            ("no lengths", film(&[runs.clone(), places.clone()])),
            ("lengths twice", film(&[sizes.clone(), sizes.clone(), runs.clone(), places.clone()])),
            ("packed lengths", film(&[table(b"stz2", &[8, 5, 0]), runs.clone(), places.clone()])),
            (
                "a late run",
                film(&[sizes.clone(), table(b"stsc", &[2, 1, 2, 1, 9, 1, 1]), places.clone()]),
            ),
            (
                "another description",
                film(&[sizes.clone(), table(b"stsc", &[2, 1, 2, 1, 3, 1, 2]), places.clone()]),
            ),
            (
                "an empty chunk",
                film(&[sizes, table(b"stsc", &[3, 1, 2, 1, 2, 0, 1, 3, 3, 1]), places]),
            ),
            (
                "a chunk in front of the first run",
                film(&[
                    table(b"stsz", &[5, 1]),
                    table(b"stsc", &[1, 2, 1, 1]),
                    table(b"stco", &[2, 100, 200]),
                ]),
            ),
        ];
        for (what, tables) in wrong {
            assert!(!within(&tables, std::slice::from_ref(&(0..1_000_000))), "{what}");
        }
    }
}
