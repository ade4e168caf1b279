//! The parts of a text: what a harmless description stands round is looked at by itself.
//!
//! A net that embeds a text gives the mean of its words, so a wish among three times as many harmless words is not seen.
//! Never: what parts mean, nor how long they are in tokens; that is `meaning`.

use super::rules::sentences;

/// Shorter clauses are no thought of their own: they stay with the one before.
const WORDS_MIN: usize = 4;
/// Words before which a clause begins, beside those that a sign ends. They are no part of it, for heads that were fitted on whole
/// sentences take `then how to stop smoking,` for a wish.
const BEGIN: [&str; 5] = ["then", "while", "but", "before", "after"];
const AND: &str = "and";

/// The clauses of a text, in order, those of a sentence that has only one too.
pub(super) fn clauses(text: &str) -> impl Iterator<Item = &str> {
    sentences(text).flat_map(of_sentence)
}

fn of_sentence(sentence: &str) -> Vec<&str> {
    let mut cuts = Vec::new();
    let signs =
        |c: char| matches!(c, ',' | ':' | '(' | ')' | '"' | '“' | '”' | '—' | '–' | '/' | '|');
    cuts.extend(sentence.match_indices(signs).map(|(at, sign)| at + sign.len()));
    cuts.extend(sentence.match_indices(" - ").map(|(at, sign)| at + sign.len()));
    for word in BEGIN {
        let begins = |at: &usize| {
            let (before, behind) = (&sentence[..*at], &sentence[at + word.len()..]);
            before.ends_with(' ') && behind.starts_with(' ')
        };
        cuts.extend(sentence.match_indices(word).map(|(at, _)| at).filter(begins));
    }
    cuts.push(sentence.len());
    cuts.sort_unstable();
    let mut starts = Vec::new();
    let mut inside = false;
    for (at, c) in sentence.char_indices() {
        if !c.is_whitespace() && !inside {
            starts.push(at);
        }
        inside = !c.is_whitespace();
    }
    let words_before = |end: usize| starts.partition_point(|start| *start < end);
    let (mut parts, mut start) = (Vec::new(), 0);
    for end in cuts {
        let behind = starts.len() - words_before(end);
        if words_before(end) - words_before(start) >= WORDS_MIN
            && (end == sentence.len() || behind >= WORDS_MIN)
        {
            parts.push(bare(&sentence[start..end]));
            start = end;
        }
    }
    if start < sentence.len() {
        parts.push(bare(&sentence[start..]));
    }
    parts
}

/// A clause without the words and signs that join it to others.
fn bare(part: &str) -> &str {
    const SIGNS: [char; 13] = [' ', ',', ':', '(', ')', '"', '“', '”', '—', '–', '/', '|', '-'];
    let mut part = part.trim_matches(SIGNS);
    for word in [&[AND][..], &BEGIN[..]].concat() {
        let rest = part.strip_prefix(word).filter(|rest| rest.starts_with(' '));
        part = rest.map_or(part, |rest| rest.trim_start_matches(SIGNS));
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_where_a_thought_may_end() {
        let cut = |text| clauses(text).collect::<Vec<_>>();
        assert_eq!(
            cut("a calm sea at dawn, slow and wide, then a boat drifts by. a gull cries"),
            ["a calm sea at dawn", "slow and wide, then a boat drifts by", "a gull cries"]
        );
        assert_eq!(
            cut("the light turns gold then a man mends nets: how to tie a knot - a film"),
            ["the light turns gold", "a man mends nets", "how to tie a knot - a film"]
        );
        assert_eq!(cut("red, green, blue"), ["red, green, blue"]);
        assert_eq!(
            cut("a boat drifts slowly by, and then the sun goes down (it is late in spring)"),
            ["a boat drifts slowly by", "the sun goes down", "it is late in spring"]
        );
        assert_eq!(cut("strengthen the hull"), ["strengthen the hull"]);
        assert_eq!(cut("").len(), 0);
    }
}
