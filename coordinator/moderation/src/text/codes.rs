//! Texts that hide in codes: HTML entities, percent codes, base64.
//!
//! Never: what a text means, or how it is written; what was decoded goes the way of every text (`normalise`).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A coded word below this length is a word, above the other not a hidden sentence.
const CODED: std::ops::RangeInclusive<usize> = 16..=40_000;
/// A code in a code in a code: what is deeper hidden no model reads either.
const DEEP: usize = 3;
/// The text, with each code undone by itself, and with all of them.
pub(super) const DECODED_MAX: usize = 5;

/// The text as it came, and as its codes may be read, without repetitions: at most `DECODED_MAX`. Each code is also undone
/// by itself, because what is none of a code may look like it: a sign of percent before a word would eat its letters.
pub(super) fn decoded(text: &str) -> Vec<String> {
    let mut all = vec![text.to_owned()];
    let readings = [entities(text), percent(text), coded(text), whole(text)];
    for reading in readings.into_iter().flatten() {
        if !all.contains(&reading) {
            all.push(reading);
        }
    }
    all
}

/// All codes undone where they stand, and what they hide again.
fn whole(text: &str) -> Option<String> {
    let mut known: Option<String> = None;
    for _ in 0..DEEP {
        let mut found = false;
        for undo in [entities, percent, in_place] {
            if let Some(undone) = undo(known.as_deref().unwrap_or(text)) {
                (known, found) = (Some(undone), true);
            }
        }
        if !found {
            break;
        }
    }
    known
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

/// What the base64 words of the text say, without all else.
fn coded(text: &str) -> Option<String> {
    let said: Vec<String> = text.split_whitespace().filter_map(said).collect();
    (!said.is_empty()).then(|| said.join(" "))
}

/// The text with its base64 words as what they say.
fn in_place(text: &str) -> Option<String> {
    let mut found = false;
    let mut word = |word: &str| match said(word) {
        Some(said) => {
            found = true;
            said + " "
        }
        None => word.to_owned(),
    };
    let out: String = text.split_inclusive(char::is_whitespace).map(&mut word).collect();
    found.then_some(out)
}

/// What a base64 word says, if that is readable; what it says may be disguised again, so signs are no reason against it.
fn said(word: &str) -> Option<String> {
    let core = word.trim().trim_matches(['"', '\'', '(', ')', ',', '.']);
    let core = core.trim_end_matches('=');
    if !CODED.contains(&core.len()) {
        return None;
    }
    let bytes = STANDARD_NO_PAD.decode(core).or_else(|_| URL_SAFE_NO_PAD.decode(core)).ok()?;
    let said = String::from_utf8(bytes).ok()?;
    let readable = said.chars().filter(|c| c.is_alphanumeric() || *c == ' ').count();
    let is_text = !said.chars().any(|c| c.is_control() && !c.is_whitespace());
    (is_text && readable * 2 >= said.chars().count()).then_some(said)
}
