//! Undoes disguises: a text becomes the few ways in which a person could read it.
//!
//! Compatibility forms, invisible and combining marks, look-alike and enclosed letters, digits for letters, letters
//! spaced out and signs inside words (`spacing`), HTML entities, percent and base64 codes (once). Every reading is judged,
//! the text as it came too.

use super::spacing::{Rows, closed_up, pieced_together};
use super::words::Words;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// A coded word below this length is a word, above the other not a hidden sentence.
const CODED: std::ops::RangeInclusive<usize> = 16..=40_000;
/// Readings of a text at most: the plain one, four of its spacing, two with digits as letters, three that were coded.
const READINGS_MAX: usize = 10;

/// The readings of a text, the plain one first, without repetitions. At least one, at most `READINGS_MAX`.
pub fn readings(text: &str, words: &Words) -> Vec<String> {
    let wide = wide(text);
    let mut all = vec![narrow(&wide)];
    let mut add = |reading: &str| {
        let reading = narrow(reading);
        if !reading.is_empty() && all.len() < READINGS_MAX && !all.contains(&reading) {
            all.push(reading);
        }
    };
    for how in [Rows::Bounded, Rows::Unbounded, Rows::Whole] {
        add(&closed_up(&wide, words, how));
    }
    add(&pieced_together(&narrow(&wide), words));
    let letters = unleet(&wide);
    for how in [Rows::Bounded, Rows::Unbounded] {
        add(&closed_up(&letters, words, how));
    }
    for decoded in [entities(text), percent(text), coded(text)].into_iter().flatten() {
        add(&closed_up(&self::wide(&decoded), words, Rows::Bounded));
    }
    all
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

/// The Latin letter that a sign is taken for.
fn latin(c: char) -> char {
    match c {
        // White on black, in a circle or a square, and the letters that flags are made of: no compatibility form.
        '🅐'..='🅩' => nth(c, '🅐'),
        '🅰'..='🆉' => nth(c, '🅰'),
        '🇦'..='🇿' => nth(c, '🇦'),
        'а' | 'А' | 'α' | 'Α' | 'ɑ' | 'ᴀ' | 'Ꭺ' => 'a',
        'в' | 'В' | 'β' | 'Β' | 'ʙ' | 'ь' => 'b',
        'с' | 'С' | 'ϲ' | 'Ϲ' | 'ᴄ' | 'Ꮯ' => 'c',
        'ԁ' | 'ᴅ' | 'Ꭰ' => 'd',
        'е' | 'Е' | 'ε' | 'Ε' | 'ё' | 'Ё' | 'є' | 'ᴇ' | 'Ꭼ' => 'e',
        'ғ' | 'ꜰ' | 'ƒ' => 'f',
        'ɡ' | 'ɢ' | 'Ԍ' => 'g',
        'н' | 'Н' | 'Η' | 'һ' | 'Һ' | 'ʜ' | 'Ꮋ' => 'h',
        'і' | 'І' | 'ι' | 'Ι' | 'ı' | 'ɪ' | 'Ꭵ' | 'ї' => 'i',
        'ј' | 'Ј' | 'ᴊ' => 'j',
        'к' | 'К' | 'κ' | 'Κ' | 'ᴋ' | 'Ꮶ' => 'k',
        'ⅼ' | 'ʟ' | 'Ꮮ' | 'ӏ' | 'ł' => 'l',
        'м' | 'М' | 'Μ' | 'ᴍ' | 'Ꮇ' => 'm',
        'п' | 'Ν' | 'ɴ' | 'η' => 'n',
        'о' | 'О' | 'ο' | 'Ο' | 'σ' | 'ᴏ' | 'ø' | 'Ø' => 'o',
        'р' | 'Р' | 'ρ' | 'Ρ' | 'ᴘ' | 'Ꮲ' => 'p',
        'ԛ' => 'q',
        'г' | 'ʀ' | 'Ꭱ' => 'r',
        'ѕ' | 'Ѕ' | 'ꜱ' | 'Ꮪ' => 's',
        'т' | 'Т' | 'τ' | 'Τ' | 'ᴛ' | 'Ꭲ' => 't',
        'υ' | 'ᴜ' | 'ц' => 'u',
        'ν' | 'ѵ' | 'ᴠ' => 'v',
        'ω' | 'ш' | 'ᴡ' | 'ԝ' => 'w',
        'х' | 'Х' | 'χ' | 'Χ' => 'x',
        'у' | 'У' | 'γ' | 'Υ' | 'ү' | 'ʏ' => 'y',
        'ᴢ' | 'Ζ' => 'z',
        other => other,
    }
}

/// The letter that stands as far behind `a` as this one behind the first of its block.
fn nth(c: char, first: char) -> char {
    let place = u32::from(c) - u32::from(first);
    u8::try_from(place).map_or(c, |place| char::from(b'a'.saturating_add(place.min(25))))
}

/// Digits and signs within words, and in a row of single letters, as the letters that they stand for. A number, a price
/// or a year stays.
fn unleet(wide: &str) -> String {
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
            return if spaced { letter.to_string() } else { (*word).to_owned() };
        }
        if letters == 0 || tricks == 0 || tricks > 2 * letters {
            return (*word).to_owned();
        }
        core.chars()
            .map(|c| leet(c).unwrap_or(c))
            .filter(|c| !matches!(c, '*' | '_' | '-' | '.'))
            .collect()
    };
    all.iter().enumerate().map(word).collect::<Vec<_>>().join(" ")
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

/// The text with its HTML entities decoded, if it has any: numbers, and the names that texts are written with.
fn entities(text: &str) -> Option<String> {
    const NAMES: [(&str, char); 6] =
        [("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("apos", '\''), ("nbsp", ' ')];
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut found) = (text, false);
    while let Some(at) = rest.find('&') {
        let (before, entity) = rest.split_at(at);
        out.push_str(before);
        let entity = &entity[1..];
        let decoded = match entity.strip_prefix('#') {
            Some(hex) if hex.starts_with(['x', 'X']) => number(&hex[1..], 16),
            Some(digits) => number(digits, 10),
            None => {
                let named = NAMES.iter().find(|(name, _)| entity.starts_with(name));
                named
                    .map(|(name, c)| (*c, &entity[name.len()..]))
                    .filter(|(_, b)| b.starts_with(';'))
            }
        };
        let (c, behind) = decoded.unwrap_or(('&', entity));
        out.push(c);
        found |= decoded.is_some();
        rest = if decoded.is_some() { behind.strip_prefix(';').unwrap_or(behind) } else { behind };
    }
    out.push_str(rest);
    found.then_some(out)
}

/// The text with its percent codes decoded, if it has any.
fn percent(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let (mut at, mut found) = (0, 0);
    while at < bytes.len() {
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                (at, found) = (at + 3, found + 1);
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    (found > 0).then(|| String::from_utf8_lossy(&out).into_owned())
}

/// The character that digits stand for, and what is behind them.
fn number(digits: &str, radix: u32) -> Option<(char, &str)> {
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let c = u32::from_str_radix(&digits[..end], radix).ok().and_then(char::from_u32)?;
    Some((c, &digits[end..]))
}

/// What base64 words of the text say, if that is readable.
fn coded(text: &str) -> Option<String> {
    let word = |word: &str| {
        let core = word.trim_matches(['"', '\'', '(', ')', ',', '.']);
        let core = core.trim_end_matches('=');
        if !CODED.contains(&core.len()) {
            return None;
        }
        let bytes = STANDARD_NO_PAD.decode(core).or_else(|_| URL_SAFE_NO_PAD.decode(core)).ok()?;
        let said = String::from_utf8(bytes).ok()?;
        let readable = said.chars().filter(|c| c.is_alphanumeric() || *c == ' ').count();
        (readable * 10 >= said.chars().count() * 8).then_some(said)
    };
    let said: Vec<String> = text.split_whitespace().filter_map(word).collect();
    (!said.is_empty()).then(|| said.join(" "))
}

#[cfg(test)]
#[path = "normalise_tests.rs"]
mod tests;
