//! Disguises by separators: letters spaced out, and signs inside words.
//!
//! Works on texts whose spaces are as they came: how wide they are tells words from letters. Keeps all else of a text,
//! so that sentences end where they did. Never: other letters; those are of `normalise`.

use super::words::Words;

/// Single letters in a row that are a word spaced out.
const SPACED_MIN: usize = 3;
/// Signs between two of them; more are no disguise that anybody reads.
const GAP_MAX: usize = 8;

/// Pieces of a word that are put together, and the shortest word that is, if one of them is a word itself: `an al fresco`
/// hides nothing.
const PIECES_MAX: usize = 4;
const OF_PIECES_MIN: usize = 5;

/// How a row of single letters is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// Words end where the gaps are other ones, and are cut where they are no words.
    Bounded,
    /// Gaps tell nothing: all letters are cut into words.
    Unbounded,
    /// Words end where the gaps are other ones, and stay whole.
    Whole,
}

/// A unit of letters and digits, and the signs behind it.
struct Part<'a> {
    unit: &'a str,
    gap: &'a str,
}

impl Part<'_> {
    fn is_single(&self) -> bool {
        self.unit.chars().count() == 1
    }

    fn joins(&self) -> bool {
        self.is_single() && self.gap.chars().count() <= GAP_MAX
    }
}

/// The text with its rows of single letters as words, and without the signs inside words.
pub(super) fn closed_up(wide: &str, words: &Words, how: Rows) -> String {
    let (head, parts) = parts(wide);
    let mut out = head.to_owned();
    let mut at = 0;
    while at < parts.len() {
        let mut end = at;
        while end + 1 < parts.len() && parts[end].joins() && parts[end + 1].is_single() {
            end += 1;
        }
        let row = &parts[at..=end];
        let last = &parts[end];
        let letters = row.iter().any(|part| part.unit.chars().all(char::is_alphabetic));
        if row.len() >= SPACED_MIN && letters {
            out.push_str(&read(row, words, how));
        } else {
            for part in &row[..row.len() - 1] {
                out.extend([part.unit, part.gap]);
            }
            out.push_str(last.unit);
        }
        out.push_str(last.gap);
        at = end + 1;
    }
    out.split(' ').map(|word| without_signs(word, words)).collect::<Vec<_>>().join(" ")
}

/// The text with words of the rules' lists that were cut into pieces in one: some of the pieces are no words.
pub(super) fn pieced_together(text: &str, words: &Words) -> String {
    let all: Vec<&str> = text.split(' ').collect();
    let letters = |piece: &&str| piece.chars().all(char::is_alphabetic);
    let bare = |piece: &str| -> String { piece.chars().filter(|c| c.is_alphabetic()).collect() };
    let (mut out, mut at) = (Vec::new(), 0);
    while at < all.len() {
        let hidden = (2..=PIECES_MAX.min(all.len() - at)).rev().find(|count| {
            let pieces = &all[at..at + count];
            // Signs may stand before the first and behind the last.
            let inner = &pieces[1..count - 1];
            let ends = pieces[0].ends_with(char::is_alphabetic)
                && pieces[count - 1].starts_with(char::is_alphabetic);
            let joined: String = pieces.iter().map(|piece| bare(piece)).collect();
            let known = pieces.iter().filter(|piece| words.knows(&bare(piece))).count();
            let allowed = match known {
                0 => true,
                some => some < *count && joined.len() >= OF_PIECES_MIN,
            };
            ends && allowed && inner.iter().all(letters) && words.is_listed(&joined)
        });
        let count = hidden.unwrap_or(1);
        out.push(all[at..at + count].concat());
        at += count;
    }
    out.join(" ")
}

/// What stands before the first unit, and the units.
fn parts(text: &str) -> (&str, Vec<Part<'_>>) {
    let in_unit = |text: &str| {
        // An apostrophe between letters belongs to its word: what it cuts off is no letter of its own.
        let mut before = false;
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let after = chars.peek().is_some_and(|(_, next)| next.is_alphanumeric());
            let inside = matches!(c, '\'' | '’') && before && after;
            if !(c.is_alphanumeric() || inside) {
                return at;
            }
            before = c.is_alphanumeric();
        }
        text.len()
    };
    let first = text.find(char::is_alphanumeric).unwrap_or(text.len());
    let (head, mut rest) = text.split_at(first);
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (unit, behind) = rest.split_at(in_unit(rest));
        let (gap, behind) =
            behind.split_at(behind.find(char::is_alphanumeric).unwrap_or(behind.len()));
        parts.push(Part { unit, gap });
        rest = behind;
    }
    (head, parts)
}

/// A row of single letters as words.
fn read(row: &[Part<'_>], words: &Words, how: Rows) -> String {
    let inner = &row[..row.len() - 1];
    let spaced = |gap: &str| gap.contains(' ');
    let signed = |gap: &str| gap.chars().any(|c| c != ' ');
    let narrow = inner.iter().map(|part| part.gap.len()).min().unwrap_or(0);
    let some_close = inner.iter().any(|part| !spaced(part.gap));
    let some_signed = inner.iter().any(|part| signed(part.gap));
    // What stands between letters is the sign, or the narrowest space, that stands between some of them.
    let bound = |gap: &str| match () {
        () if how == Rows::Unbounded => false,
        () if some_close => spaced(gap),
        () if some_signed => !signed(gap),
        () => gap.len() > narrow,
    };
    let mut groups = vec![String::new()];
    for part in row {
        if let Some(group) = groups.last_mut() {
            group.push_str(part.unit);
        }
        if bound(part.gap) {
            groups.push(String::new());
        }
    }
    groups.retain(|group| !group.is_empty());
    let cut = |group: String| if how == Rows::Whole { group } else { words.cut(&group) };
    rejoined(groups).into_iter().map(cut).collect::<Vec<_>>().join(" ")
}

/// Groups of one letter side by side are a word that was spaced out in another way than the rest.
fn rejoined(groups: Vec<String>) -> Vec<String> {
    let single = |group: &String| group.chars().count() == 1;
    let mut out = Vec::new();
    for some in groups.chunk_by(|a, b| single(a) && single(b)) {
        if some.len() >= SPACED_MIN { out.push(some.concat()) } else { out.extend_from_slice(some) }
    }
    out
}

/// A word without the signs inside it, where those hide one: it must be a word without them, and have been none with
/// them. `well-lit` and `and/or` stay, as no dictionary has them in one; `hand-held` does, for its parts are words.
fn without_signs(word: &str, words: &Words) -> String {
    let is_quote = |c: char| matches!(c, '\'' | '’');
    let core = word.trim_matches(|c: char| !c.is_alphanumeric());
    let quotes = core.chars().filter(|c| is_quote(*c)).count();
    let sign = |c: char| !c.is_alphanumeric() && (quotes > 1 || !is_quote(c));
    if !core.contains(sign) {
        return word.to_owned();
    }
    let joined: String = core.chars().filter(|c| !sign(*c)).collect();
    let parts = || core.split(sign).filter(|part| !part.is_empty());
    let hides = words.is_listed(&joined)
        || (words.knows(&joined) && !parts().all(|part| words.knows(part)));
    if hides { word.replacen(core, &joined, 1) } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;
    use std::time::{Duration, Instant};

    /// Promise: a row of single letters takes time by its length, not by the square of it: the longest are read in a moment.
    #[test]
    fn the_longest_rows_are_read_at_once() {
        let words = Policy::built_in().expect("good").words;
        let rows = ["a ", "a b c d e f ", "a-b-c-d ", "a  b c. "];
        for row in rows {
            let text: String = row.chars().cycle().take(32_000).collect();
            for how in [Rows::Bounded, Rows::Unbounded, Rows::Whole] {
                let began = Instant::now();
                assert!(closed_up(&text, &words, how).len() <= text.len(), "{row}");
                // Some 30 ms; with a look at all for each letter it took seconds.
                assert!(began.elapsed() < Duration::from_secs(1), "{row} {how:?}");
            }
        }
    }
}
