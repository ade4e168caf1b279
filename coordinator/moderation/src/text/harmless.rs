//! Phrases that say nothing of what their words say, such as `naked eye` and `great tit`: rules do not see them.
//!
//! A phrase is words that stand side by side; its last one may be a plural. `*` is up to two words of what a thing is like,
//! `~` the same with an article or a possessive before them, of what is done to a thing. They are in no list and no function
//! words, so that neither `sexy * car` nor `topless * car` is a place to hide. A phrase that a word of minors follows directly
//! is none, for the same reason. Rules on minors see more of a text: see [`For::Minors`]. Never: what a text means; the net
//! sees all of it.

use super::units::{DETERMINERS, PREPOSITIONS, Unit, gap, is_close, is_function, units};
use std::collections::{HashMap, HashSet};

/// What stands where a phrase was: no word, and no end of a sentence.
const BLANK: &str = " , ";
/// Words that `*` is at most, and `~` without what it begins with.
const ANY_MAX: usize = 2;
const LIKE: &str = "*";
const DONE_TO: &str = "~";
/// Words between an article and a phrase: `a tall old naked tree`.
const BEFORE_MAX: usize = 2;
/// Words in which a statue's name says what it shows.
const SHOWN_MAX: usize = 4;
/// Articles of one thing.
const SINGULAR: [&str; 7] = ["a", "an", "this", "that", "one", "each", "every"];

/// Whom a text without its harmless phrases is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// Rules on other things.
    Others,
    /// Rules on minors. What may be said of somebody is no phrase here: with `*` only what an article or the like leads to,
    /// what no person stands before (`child naked rock`), and what is all of a thing's name (`naked rock climbing`).
    Minors,
}

/// Phrases, by their first word.
#[derive(Debug, Default)]
pub(super) struct Harmless {
    phrases: HashMap<String, Vec<Vec<String>>>,
    /// Single words of all lists, which `*` is none of.
    listed: HashSet<String>,
    /// Those of minors.
    minors: HashSet<String>,
}

/// Units that are a phrase.
#[derive(Clone, Copy)]
struct Found {
    start: usize,
    end: usize,
    /// Words that `*` is, where the phrase has one.
    like: Option<usize>,
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
    pub(super) fn blanked(&self, text: &str, whom: For) -> String {
        let all = units(text);
        let mut out = String::with_capacity(text.len());
        let (mut kept, mut at) = (0, 0);
        while at < all.len() {
            let longest = self.phrases.get(all[at].word).and_then(|phrases| {
                phrases.iter().filter_map(|phrase| self.end(text, &all, at, phrase, whom)).max()
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
    fn end(
        &self,
        text: &str,
        all: &[Unit<'_>],
        start: usize,
        phrase: &[String],
        whom: For,
    ) -> Option<usize> {
        let (end, like) = self.matched(text, all, start, phrase)?;
        let found = Found { start, end, like };
        let follows = all.get(end).filter(|_| is_close(gap(text, all, end - 1)));
        // One word says of nobody else what it is: `a breastfed baby`.
        if phrase.len() > 1 && follows.is_some_and(|unit| has(&self.minors, unit.word)) {
            return None;
        }
        let is_kept = whom == For::Others
            || self.names_no_minor(text, all, found)
                && (like.is_none() || self.is_all_of_a_thing(text, all, found));
        is_kept.then_some(end)
    }

    /// Whether the phrase has no word of minors that could be one: not `a naked baby bats at a ball`, where the last word is
    /// what somebody does, nor `a naked baby blue-eyed`.
    fn names_no_minor(&self, text: &str, all: &[Unit<'_>], found: Found) -> bool {
        let words = &all[found.start..found.end];
        if !words.iter().any(|unit| has(&self.minors, unit.word)) {
            return true;
        }
        let goes_on = gap(text, all, found.end - 1) == "-" && found.end < all.len();
        let before = || self.before(text, all, found.start, |word| has(&self.listed, word));
        let is_one = || before().is_some_and(|word| SINGULAR.contains(&word));
        let is_plural = words.last().is_some_and(|unit| unit.word.ends_with('s'));
        !(goes_on || is_plural && is_one())
    }

    /// Whether a phrase with `*` names a thing and says nothing of who stands beside it.
    fn is_all_of_a_thing(&self, text: &str, all: &[Unit<'_>], found: Found) -> bool {
        let Found { start, end, like } = found;
        let is_listed = |word: &str| has(&self.listed, word);
        let lead = self.before(text, all, start, |word| !is_listed(word) && !is_function(word));
        let is_led = if like.is_none_or(|words| words == 0) {
            // `children climb naked trees`, but not `child naked rock`.
            !self.before(text, all, start, |_| false).is_some_and(is_listed)
        } else {
            lead.is_some_and(|word| {
                ["", "s"].contains(&word)
                    || DETERMINERS.contains(&word)
                    || PREPOSITIONS.contains(&word)
            })
        };
        // `a nude wearing heels`.
        let is_said = all[start..end].iter().any(|unit| unit.word.ends_with("ing"));
        is_led && !is_said && self.is_all_said(text, all, end, lead)
    }

    /// Whether a name of a thing ends there: nothing goes on with it, as in `naked rock climber` and `a nude statue of a girl`.
    fn is_all_said(&self, text: &str, all: &[Unit<'_>], end: usize, lead: Option<&str>) -> bool {
        let Some(next) = all.get(end).map(|next| next.word) else { return true };
        let behind = |at: usize| all.get(at).filter(|_| is_close(gap(text, all, at - 1)));
        let person = ["ers", "ors", "ists"].iter().any(|end| next.ends_with(end));
        match gap(text, all, end - 1) {
            "-" => false,
            gap if !is_close(gap) => true,
            _ if next == "of" => {
                let shown = (end + 1..=end + SHOWN_MAX).map_while(behind);
                let is_somebody = |word: &str| {
                    has(&self.listed, word) || word.starts_with(|c: char| c.is_ascii_digit())
                };
                !shown.map(|unit| unit.word).any(is_somebody)
            }
            // `on a naked rock looking at the sea`, but not `at the naked rock climbing in spain`.
            _ if next.ends_with("ing") => {
                matches!(lead, Some("a" | "an"))
                    && behind(end + 1).is_some_and(|unit| is_function(unit.word))
            }
            _ => is_function(next) || next.ends_with("ed") || next.ends_with('s') && !person,
        }
    }

    /// The word before a unit, behind up to `BEFORE_MAX` that are passed over; at the start of the text an empty one. `None`
    /// where a sign parts them.
    fn before<'a>(
        &self,
        text: &str,
        all: &[Unit<'a>],
        start: usize,
        is_passed: impl Fn(&str) -> bool,
    ) -> Option<&'a str> {
        let mut at = start;
        for passed in 0..=BEFORE_MAX {
            let Some(before) = at.checked_sub(1) else { return Some("") };
            if !is_close(gap(text, all, before)) {
                return None;
            }
            if passed == BEFORE_MAX || !is_passed(all[before].word) {
                return Some(all[before].word);
            }
            at = before;
        }
        None
    }

    /// Where a phrase ends that begins at a unit, and how many words its `*` is.
    fn matched(
        &self,
        text: &str,
        all: &[Unit<'_>],
        at: usize,
        phrase: &[String],
    ) -> Option<(usize, Option<usize>)> {
        let Some((first, rest)) = phrase.split_first() else { return Some((at, None)) };
        if first == LIKE || first == DONE_TO {
            let is_led = first == DONE_TO
                && all.get(at).is_some_and(|unit| DETERMINERS.contains(&unit.word))
                && is_close(gap(text, all, at));
            let at = if is_led { at + 1 } else { at };
            let is_any = |unit: &&Unit<'_>| {
                unit.word.chars().all(char::is_alphabetic)
                    && !has(&self.listed, unit.word)
                    && !is_function(unit.word)
            };
            let most = all[at..].iter().take(ANY_MAX).take_while(is_any).count();
            let joined = |n: &usize| (at..at + n).all(|at| is_close(gap(text, all, at)));
            return (0..=most).filter(joined).find_map(|n| {
                let (end, like) = self.matched(text, all, at + n, rest)?;
                Some((end, if first == LIKE { Some(n) } else { like }))
            });
        }
        let word = all.get(at)?.word;
        let is_last = rest.is_empty();
        if word != first && !(is_last && word.strip_suffix('s') == Some(first.as_str())) {
            return None;
        }
        if is_last {
            return Some((at + 1, None));
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

    fn harmless() -> Harmless {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let phrases = [
            "naked eye",
            "blue-footed booby",
            "sexy * car",
            "sexy * bike",
            "naked mole rat",
            "naked mole",
            "naked * rock",
            "nude * heel",
            "nude * statue",
            "stripped ~ floor",
            "baby bat",
            "baby blue",
            "breastfed",
        ];
        let listed = ["child", "woman", "girl", "baby", "naked", "nude"];
        Harmless::new(&phrases.map(str::to_owned), own(&listed), own(&["child", "baby"]))
    }

    #[test]
    fn phrases_are_blanked_and_nothing_hides_in_them() {
        let harmless = harmless();
        for (text, blanked) in [
            ("stars, to the naked eye.", "stars, to the  , ."),
            ("naked eyes", " , "),
            ("the blue-footed booby sits", "the  ,  sits"),
            ("naked mole-rats dig", " ,  dig"),
            ("a sexy car, a sexy old red car", "a  , , a  , "),
            ("he stripped the floor", "he  , "),
            ("he stripped the old oak floor", "he  , "),
            ("a breastfed baby", "a  ,  baby"),
        ] {
            assert_eq!(harmless.blanked(text, For::Others), blanked);
            assert_eq!(harmless.blanked(text, For::Minors), blanked);
        }
        for text in [
            "naked. eye",
            "naked, eye",
            "naked eye child",
            "a sexy child car",
            "a sexy woman in a car",
            "a sexy 12 car",
            "a sexy, red car",
            "a sexy very old red car",
            "naked on a rock",
            "naked by rocks",
            "nude in high heels",
            "sexy the car",
            "stripped on the floor",
            "",
        ] {
            assert_eq!(harmless.blanked(text, For::Others), text);
        }
    }

    /// Promise: rules on minors see what may be said of somebody, and not what is said of a thing alone.
    #[test]
    fn rules_on_minors_see_more() {
        let harmless = harmless();
        for text in [
            "a child naked rock",
            "a child naked old rock",
            "a girl nude heels",
            "girl naked old rock",
            "a naked rock climber",
            "naked rock climbing",
            "the naked rock climbing in spain",
            "a nude wearing heels",
            "a nude statue of a young girl",
            "a nude statue of a 9-year-old",
            "a nude heel-wearing girl",
            "a sexy bike ride",
            "a naked baby bats at a ball",
            "a naked baby blue-eyed",
        ] {
            assert_eq!(harmless.blanked(text, For::Minors), text);
            assert_ne!(harmless.blanked(text, For::Others), text);
        }
        for text in [
            "a child climbs a naked rock",
            "a child climbs a tall old naked rock",
            "his father's sexy old bike",
            "kids climb naked rocks.",
            "tall naked wet rocks above a child",
            "in nude high heels and a hat",
            "a naked rock stands in the sea",
            "on a naked rock looking at the sea",
            "a nude statue of a hero",
            "a dozen naked baby bats in a cave",
            "a baby blue dress",
        ] {
            assert_ne!(harmless.blanked(text, For::Minors), text, "{text}");
        }
    }
}
