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
