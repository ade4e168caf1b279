//! The words of a text and what stands between them, as ages and harmless phrases are looked for.

/// A run of letters and digits, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit<'a> {
    pub(super) word: &'a str,
    pub(super) start: usize,
}

impl Unit<'_> {
    pub(super) fn end(&self) -> usize {
        self.start + self.word.len()
    }
}

/// All units of a text.
pub(super) fn units(text: &str) -> Vec<Unit<'_>> {
    let mut units = Vec::new();
    let mut at = 0;
    for part in text.split(|c: char| !c.is_alphanumeric()) {
        // Each separator is one character; where it ends is where the next part begins.
        if !part.is_empty() {
            units.push(Unit { word: part, start: at });
        }
        at += part.len();
        at += text[at..].chars().next().map_or(0, char::len_utf8);
    }
    units
}

/// What stands behind a unit, up to the next one or the end.
pub(super) fn gap<'a>(text: &'a str, units: &[Unit<'_>], at: usize) -> &'a str {
    &text[units[at].end()..units.get(at + 1).map_or(text.len(), |next| next.start)]
}

/// Whether a gap holds words together, as in `blue-footed boobies`.
pub(super) fn is_close(gap: &str) -> bool {
    gap.chars().all(|c| matches!(c, ' ' | '-' | '\''))
}

/// What leads to a name: articles and the like.
pub(super) const DETERMINERS: [&str; 14] = [
    "a", "an", "the", "this", "that", "these", "those", "his", "her", "its", "their", "my", "our",
    "your",
];
/// What says where or with what something is.
pub(super) const PREPOSITIONS: [&str; 43] = [
    "about", "above", "across", "after", "against", "along", "amid", "among", "around", "at",
    "atop", "before", "behind", "below", "beneath", "beside", "besides", "between", "beyond", "by",
    "during", "for", "from", "in", "inside", "into", "near", "of", "off", "on", "onto", "outside",
    "over", "past", "through", "to", "toward", "towards", "under", "upon", "with", "within",
    "without",
];

/// Whether a word joins others and names nothing by itself.
pub(super) fn is_function(word: &str) -> bool {
    const OTHERS: [&str; 51] = [
        "all", "also", "am", "and", "are", "as", "away", "be", "been", "being", "but", "did", "do",
        "does", "down", "had", "has", "have", "he", "him", "i", "if", "is", "it", "like", "me",
        "next", "no", "not", "or", "out", "s", "she", "so", "than", "them", "then", "there",
        "they", "up", "us", "was", "we", "were", "when", "where", "which", "while", "who", "whose",
        "you",
    ];
    [&DETERMINERS[..], &PREPOSITIONS, &OTHERS].iter().any(|words| words.contains(&word))
}

/// Whether nothing more is said of the unit before: a text or a part of a sentence ends there, or goes on with a word that
/// is no name of a thing or a person. `a 12-year-old whisky on a table`, but not `a 12-year-old whisky thief`.
pub(super) fn ends_there(text: &str, units: &[Unit<'_>], at: usize) -> bool {
    const FUNCTION: [&str; 47] = [
        "a", "about", "after", "among", "an", "and", "are", "as", "at", "behind", "beside",
        "between", "but", "by", "during", "for", "from", "had", "has", "have", "he", "her", "his",
        "in", "inside", "into", "is", "it", "near", "next", "on", "or", "over", "she", "that",
        "the", "they", "through", "to", "under", "was", "were", "when", "which", "while", "who",
        "with",
    ];
    let next = units.get(at + 1);
    next.is_none_or(|next| FUNCTION.contains(&next.word)) || !is_close(gap(text, units, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_cut_at_all_that_is_no_letter() {
        let text = "über a 12-year—old, “x”";
        let all = units(text);
        let words: Vec<&str> = all.iter().map(|unit| unit.word).collect();
        assert_eq!(words, ["über", "a", "12", "year", "old", "x"]);
        assert!(all.iter().all(|unit| text[unit.start..].starts_with(unit.word)));
        let gaps: Vec<&str> = (0..all.len()).map(|at| gap(text, &all, at)).collect();
        assert_eq!(gaps, [" ", " ", "-", "—", ", “", "”"]);
    }
}
