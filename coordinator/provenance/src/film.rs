//! What the tables of a film may be: those that our encoder writes (ISO/IEC 14496-12), which all players take for the same
//! film. What is proven of a clip is proven of what one player makes of it, so its tables leave another one no choice:
//! nothing stands in them that we do not know, each thing once, no frame is left out, and none is shown twice. Pure.

use crate::boxes::{number, parts};
use std::ops::Range;

/// What stands in which box.
const INSIDE: [(&[u8; 4], &[[u8; 4]]); 9] = [
    (b"moov", &[*b"mvhd", *b"trak", *b"udta"]),
    (b"trak", &[*b"tkhd", *b"edts", *b"mdia"]),
    (b"edts", &[*b"elst"]),
    (b"mdia", &[*b"mdhd", *b"hdlr", *b"minf"]),
    (b"minf", &[*b"vmhd", *b"smhd", *b"dinf", *b"stbl"]),
    (b"dinf", &[*b"dref"]),
    (
        b"stbl",
        &[
            *b"stsd", *b"stts", *b"stss", *b"sdtp", *b"ctts", *b"stsc", *b"stsz", *b"stco",
            *b"co64", *b"sgpd", *b"sbgp",
        ],
    ),
    (b"avc1", &[*b"avcC", *b"colr", *b"pasp", *b"btrt"]),
    (b"mp4a", &[*b"esds", *b"btrt"]),
];
/// All there is in a `udta`: that it has notes, and none.
const NO_NOTES: [u8; 53] = *b"\0\0\0\x35meta\0\0\0\0\0\0\0\x21hdlr\0\0\0\0\0\0\0\0mdirappl\
    \0\0\0\0\0\0\0\0\0\0\0\0\x08ilst";
/// All there is in a `dref`: the samples stand in this file.
const IN_THIS_FILE: [u8; 20] = *b"\0\0\0\0\0\0\0\x01\0\0\0\x0curl \0\0\0\x01";
/// A track that is shown, in its film.
const SHOWN: [u8; 4] = [0, 0, 0, 3];
/// A picture that is neither turned nor scaled.
const UPRIGHT: [u32; 9] = [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30];
/// A picture and a sound.
const TRACKS_MAX: usize = 2;
/// 120 s have some six thousand frames of sound.
const SAMPLES_MAX: u64 = 1 << 20;
/// Samples at the end of a track that may be shorter than the others, and frames of sound before the first that is heard.
const SHORT_MAX: u64 = 2;

/// A box that is looked into.
struct Inside<'a> {
    tables: &'a [u8],
    parts: Vec<([u8; 4], Range<usize>)>,
}

impl<'a> Inside<'a> {
    /// None if there is something in it that is not known there, or twice.
    fn of(tables: &'a [u8], kind: &[u8; 4], within: Range<usize>) -> Option<Self> {
        let (_, known) = INSIDE.iter().find(|(of, _)| *of == kind)?;
        let parts = parts(tables, within)?;
        if parts.len() >= known.len() + TRACKS_MAX {
            return None;
        }
        let first = |n: usize| parts[..n].iter().all(|(other, _)| *other != parts[n].0);
        let right = |n: usize| known.contains(&parts[n].0) && (&parts[n].0 == b"trak" || first(n));
        (0..parts.len()).all(right).then_some(Inside { tables, parts })
    }

    fn place(&self, kind: &[u8; 4]) -> Option<Range<usize>> {
        self.parts.iter().find(|(of, _)| of == kind).map(|(_, place)| place.clone())
    }

    fn content(&self, kind: &[u8; 4]) -> Option<&'a [u8]> {
        self.tables.get(self.place(kind)?)
    }

    fn open(&self, kind: &[u8; 4]) -> Option<Inside<'a>> {
        Inside::of(self.tables, kind, self.place(kind)?)
    }
}

/// Whether the tables of a film, with their head, are such as our encoder writes.
pub fn is_ours(tables: &[u8]) -> bool {
    film(tables).is_some()
}

fn film(tables: &[u8]) -> Option<()> {
    let film = Inside::of(tables, b"moov", 8..tables.len())?;
    let a_second = clock(film.content(b"mvhd")?, 100)?;
    if film.content(b"udta").is_some_and(|notes| notes != NO_NOTES) {
        return None;
    }
    let tracks = film.parts.iter().filter(|(kind, _)| kind == b"trak");
    let kinds: Option<Vec<[u8; 4]>> =
        tracks.map(|(_, within)| track(tables, within.clone(), a_second)).collect();
    let kinds = kinds?;
    let one = |kind: &[u8; 4]| kinds.iter().filter(|of| *of == kind).count() <= 1;
    (!kinds.is_empty() && one(b"vide") && one(b"soun")).then_some(())
}

/// What kind a track is.
fn track(tables: &[u8], within: Range<usize>, film_a_second: u64) -> Option<[u8; 4]> {
    let track = Inside::of(tables, b"trak", within)?;
    let head = track.content(b"tkhd").filter(|head| head.len() == 84)?;
    let turned = head[40..76].chunks_exact(4).map(number).ne(UPRIGHT.map(u64::from));
    if head[..4] != SHOWN || turned {
        return None;
    }
    let media = track.open(b"mdia")?;
    let a_second = clock(media.content(b"mdhd")?, 24)?;
    let handler = media.content(b"hdlr").filter(|handler| handler.len() >= 24)?;
    let kind: [u8; 4] = handler[8..12].try_into().ok()?;
    let inner = media.open(b"minf")?;
    let (name, own, own_bytes, entry, head_bytes): (&[u8], _, _, _, _) = match &kind {
        b"vide" => (b"VideoHandler\0", b"vmhd", 12, b"avc1", 78),
        b"soun" => (b"SoundHandler\0", b"smhd", 8, b"mp4a", 28),
        _ => return None,
    };
    let heads = [*b"vmhd", *b"smhd"].map(|kind| inner.content(&kind).is_some());
    if &handler[24..] != name
        || heads == [true; 2]
        || inner.content(own)?.len() != own_bytes
        || inner.open(b"dinf")?.content(b"dref")? != IN_THIS_FILE
    {
        return None;
    }
    let samples = inner.open(b"stbl")?;
    described(&samples, entry, head_bytes)?;
    let times = Times::of(&samples, &kind)?;
    let skipped = match track.open(b"edts") {
        None if track.place(b"edts").is_some() => return None,
        None => 0,
        Some(edits) => {
            let (from, long) = edit(edits.content(b"elst")?)?;
            let played = times.whole.checked_sub(from)?.checked_mul(film_a_second)?;
            let left = long.checked_mul(a_second)?;
            // Nothing at the end is left out: an edit is counted in other ticks.
            if left.checked_add(times.each.checked_mul(film_a_second)?)? <= played {
                return None;
            }
            from
        }
    };
    let right = match &kind {
        b"vide" => skipped == times.first,
        _ => skipped <= SHORT_MAX * times.each,
    };
    right.then_some(kind)
}

/// How many ticks a second has, by a head of this length.
fn clock(head: &[u8], bytes: usize) -> Option<u64> {
    let right = head.len() == bytes && head[0] == 0;
    right.then(|| number(&head[12..16])).filter(|ticks| *ticks > 0)
}

/// From which tick of the track it is played, and for how many of the film: once, and at the usual pace.
fn edit(list: &[u8]) -> Option<(u64, u64)> {
    let right = list.len() == 20 && number(&list[..8]) == 1 && list[16..] == [0, 1, 0, 0];
    // One with the highest bit is below zero.
    let from = right.then(|| number(&list[12..16])).filter(|from| *from < 1 << 31)?;
    Some((from, number(&list[8..12])))
}

/// Whether there is one description of the samples, of this kind, with nothing unknown in it.
fn described(samples: &Inside<'_>, kind: &[u8; 4], head_bytes: usize) -> Option<()> {
    let place = samples.place(b"stsd")?;
    let table = samples.tables.get(place.clone())?;
    if number(table.get(..8)?) != 1 {
        return None;
    }
    let entries = parts(samples.tables, place.start + 8..place.end)?;
    let [(of, entry)] = entries.as_slice() else { return None };
    let head = samples.tables.get(entry.clone())?.get(..head_bytes)?;
    // Whose samples stand in this file; and the head is as long as it seems.
    if of != kind || number(&head[6..8]) != 1 || number(&head[8..10]) != 0 {
        return None;
    }
    Inside::of(samples.tables, kind, entry.start + head_bytes..entry.end).map(|_| ())
}

/// The times of a track's samples, in its ticks.
struct Times {
    /// How long one lasts.
    each: u64,
    /// How long all of them last.
    whole: u64,
    /// When the first one is shown.
    first: u64,
}

impl Times {
    /// None if they do not follow each other at one pace, or other samples are timed than there are.
    fn of(samples: &Inside<'_>, kind: &[u8; 4]) -> Option<Self> {
        let count = samples.content(b"stsz")?.get(8..12).map(number)?;
        let mut rows = rows(samples.content(b"stts")?)?;
        let (many, each) = rows.next().filter(|(many, each)| *many > 0 && *each > 0)?;
        let (mut timed, mut whole) = (many, many.checked_mul(each)?);
        for (many, shorter) in rows {
            timed = timed.checked_add(many).filter(|_| shorter <= each)?;
            whole = whole.checked_add(many.checked_mul(shorter)?)?;
        }
        if timed != count || count > SAMPLES_MAX || timed - many > SHORT_MAX {
            return None;
        }
        let Some(offsets) = samples.content(b"ctts") else {
            return Some(Times { each, whole, first: 0 });
        };
        let mut shown = Vec::new();
        for (many, offset) in self::rows(offsets).filter(|_| kind == b"vide")? {
            for _ in 0..many {
                let decoded = shown.len() as u64;
                if decoded == count {
                    return None;
                }
                shown.push(decoded * each + offset);
            }
        }
        shown.sort_unstable();
        // As many as there are, each in a turn of its own.
        let in_turn = shown.windows(2).all(|two| two[1] - two[0] == each);
        let first = shown.first().copied().filter(|_| in_turn && shown.len() as u64 == count)?;
        Some(Times { each, whole, first })
    }
}

/// The rows of a table of two columns, which fill it.
fn rows(table: &[u8]) -> Option<impl Iterator<Item = (u64, u64)>> {
    let rows = table.get(8..)?;
    // The version is the oldest, whose numbers have no sign.
    let right = number(&table[..4]) == 0 && rows.len() as u64 == 8 * number(&table[4..8]);
    right.then(|| rows.chunks_exact(8).map(|row| (number(&row[..4]), number(&row[4..]))))
}
