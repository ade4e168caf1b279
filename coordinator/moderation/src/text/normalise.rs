//! Undoes disguises: a text becomes the few ways in which a person could read it.
//!
//! Compatibility forms, invisible and combining marks, look-alike and enclosed letters (`lookalikes`), digits for letters,
//! letters spaced out and signs inside words (`spacing`), HTML entities, percent and base64 codes (`codes`), and any of
//! these in another. Every reading is judged, the text as it came too.

use super::ages;
use super::codes::{DECODED_MAX, decoded};
use super::lookalikes::{latin, lookalikes};
use super::spacing::{Rows, closed_up, pieced_together};
use super::words::Words;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Readings of one spelling: the plain one, four of its spacing, three with digits as letters in each of two ways.
const FORMS: usize = 11;
/// Signs of a word that are an i or an l; of more the others are what they are in the reading.
const I_OR_L_MAX: usize = 4;
/// Readings of a text at most: all forms of the text and of what its codes hide, as it is and with look-alikes as letters.
/// None is left out, or a text that has many would hide one. An ordinary text has one or two. What is made to have many is
/// bounded: 32,000 characters had 52, which took the rules 5 s in a debug build, a tenth of that in a release; and of all
/// together the nets take no more than `PIECES_MAX` pieces.
const READINGS_MAX: usize = DECODED_MAX * 2 * FORMS;

/// The readings of a text, the plain one first, without repetitions. At least one, at most `READINGS_MAX`.
pub fn readings(text: &str, words: &Words) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for text in decoded(text) {
        let alike = lookalikes(&text);
        for spelling in [Some(text), alike].into_iter().flatten() {
            forms(&spelling, words, |reading| {
                let reading = narrow(reading);
                let is_new = !reading.is_empty() && !all.contains(&reading);
                if all.is_empty() || is_new {
                    all.push(reading);
                }
            });
        }
    }
    debug_assert!(all.len() <= READINGS_MAX, "{} readings", all.len());
    all
}

/// The ways in which one spelling can be read: at most `FORMS`.
fn forms(spelling: &str, words: &Words, mut add: impl FnMut(&str)) {
    let plain = wide(spelling);
    add(&plain);
    for how in [Rows::Bounded, Rows::Unbounded, Rows::Whole] {
        add(&closed_up(&plain, words, how));
    }
    add(&pieced_together(&narrow(&plain), words));
    let signs = capitals(spelling, words).map_or(plain, |spelling| wide(&spelling));
    for bar in ['i', 'l'] {
        let letters = unleet(&signs, words, bar);
        for how in [Rows::Bounded, Rows::Unbounded] {
            add(&closed_up(&letters, words, how));
        }
        add(&pieced_together(&narrow(&letters), words));
    }
}

/// Lower case, compatibility forms and look-alikes as Latin letters, nothing invisible; spaces as wide as they were, and
/// the end of a line wider than one.
fn wide(text: &str) -> String {
    let letters = text.nfkc().nfd().filter(|c| !is_combining_mark(*c) && !is_invisible(*c));
    let mut out = String::with_capacity(text.len());
    for c in letters.map(latin).flat_map(char::to_lowercase) {
        match c {
            '\n' => out.push_str("  "),
            c if c.is_whitespace() || c.is_control() => out.push(' '),
            c => out.push(latin(c)),
        }
    }
    out
}

/// The same with single spaces.
fn narrow(wide: &str) -> String {
    wide.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Digits and signs within words, and in a row of single letters, as the letters that they stand for. A number, a price, a
/// year or an age stays. What may be an i or an l (`1`, `!`, `|`) is what makes a word, else an i; in a row `bar`.
fn unleet(wide: &str, words: &Words, bar: char) -> String {
    let all: Vec<&str> = wide.split(' ').collect();
    let single = |word: Option<&&str>| word.and_then(|word| only(word));
    let word = |(at, word): (usize, &&str)| {
        let letters = word.chars().filter(char::is_ascii_alphabetic).count();
        let core = word.trim_end_matches(['.', ',', '!', '?', ':', ';']);
        let tricks = core.chars().filter(|c| leet(*c).is_some()).count();
        if let Some(letter) = only(word).and_then(leet) {
            let is_there = |word: &&&str| !word.is_empty();
            let (before, after) =
                (all[..at].iter().rev().find(is_there), all[at + 1..].iter().find(is_there));
            let around = [single(before), single(after)];
            let spaced = around.iter().all(Option::is_some)
                && around.iter().flatten().any(char::is_ascii_alphabetic);
            let letter = if letter == 'i' { bar } else { letter };
            return if spaced { letter.to_string() } else { (*word).to_owned() };
        }
        if letters == 0 || tricks == 0 || tricks > 2 * letters {
            return (*word).to_owned();
        }
        let age = ages::begin_with_digits(core).unwrap_or(0);
        if age > 0 && !core[age..].chars().any(|c| leet(c).is_some()) {
            return (*word).to_owned();
        }
        let kept = |c: &char| !matches!(c, '*' | '_' | '-' | '.');
        let read = |core: &str| known(&core.chars().filter(kept).collect::<Vec<_>>(), words);
        let whole = read(&core[age..]);
        // A bracket is a letter only where it makes a word.
        let inner = core[age..].trim_matches(['(', ')', '[', ']', '"', '\'']);
        let read = if is_word(&whole, words) {
            whole
        } else {
            Some(read(inner)).filter(|inner| is_word(inner, words)).unwrap_or(whole)
        };
        core[..age].to_owned() + &read
    };
    all.iter().enumerate().map(word).collect::<Vec<_>>().join(" ")
}

/// A word with its signs as letters: of the ways to read its bars the one that makes a word, all of them as i first.
fn known(signs: &[char], words: &Words) -> String {
    let is_bar = |c: &char| matches!(c, '1' | '!' | '|');
    let bars = signs.iter().filter(|c| is_bar(c)).count().min(I_OR_L_MAX);
    let read = |which: u32| {
        let mut bar = 0;
        let mut letter = |c: &char| {
            let Some(letter) = leet(*c) else { return *c };
            if !is_bar(c) {
                return letter;
            }
            bar += 1;
            if bar <= I_OR_L_MAX && which & 1 << (bar - 1) != 0 { 'l' } else { letter }
        };
        signs.iter().map(&mut letter).collect::<String>()
    };
    let is_known = |word: &String| is_word(word, words);
    (0..1 << bars).map(read).find(is_known).unwrap_or_else(|| read(0))
}

/// Whether it is a word, without the signs around it.
fn is_word(word: &str, words: &Words) -> bool {
    words.knows(word.trim_matches(|c: char| !c.is_alphanumeric()))
}

/// The text with each capital I inside a word that is none with it, but is one with an l, as that: `chiId`. `None` if there is
/// no such word.
fn capitals(text: &str, words: &Words) -> Option<String> {
    let mut found = false;
    let mut read = |word: &str| {
        let bars = word.matches('I').count();
        let mixed = word.chars().any(char::is_lowercase);
        if bars == 0 || !mixed || is_word(&word.to_lowercase(), words) {
            return word.to_owned();
        }
        let signs: Vec<char> = word
            .chars()
            .map(|c| if c == 'I' { '|' } else { c })
            .flat_map(char::to_lowercase)
            .collect();
        let other = known(&signs, words);
        if !is_word(&other, words) {
            return word.to_owned();
        }
        found = true;
        other
    };
    let out: String = text
        .split_inclusive(char::is_whitespace)
        .map(|word| {
            let core = word.trim_matches(|c: char| !c.is_alphanumeric());
            word.replacen(core, &read(core), 1)
        })
        .collect();
    found.then_some(out)
}

/// The one character that a word has.
fn only(word: &str) -> Option<char> {
    let mut chars = word.chars();
    chars.next().filter(|_| chars.next().is_none())
}

fn leet(c: char) -> Option<char> {
    Some(match c {
        '0' => 'o',
        '1' | '!' | '|' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' | '+' => 't',
        '8' => 'b',
        '9' => 'g',
        '(' => 'c',
        _ => return None,
    })
}

#[cfg(test)]
#[path = "normalise_tests.rs"]
mod tests;
