//! Undoes disguises: a text becomes the few ways in which a person could read it.
//!
//! Compatibility forms, invisible and combining marks, look-alike letters, digits for letters, letters spaced out,
//! percent and base64 codes (once). Every reading is judged, the text as it came too.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// A coded word below this length is a word, above the other not a hidden sentence.
const CODED: std::ops::RangeInclusive<usize> = 16..=40_000;
/// Single letters in a row that are a word spaced out.
const SPACED_MIN: usize = 3;

/// The readings of a text, the plain one first, without repetitions. At least one, at most five.
pub fn readings(text: &str) -> Vec<String> {
    let plain = plain(text);
    let mut all = vec![plain.clone()];
    let mut add = |reading: String| {
        if !reading.trim().is_empty() && !all.contains(&reading) {
            all.push(reading);
        }
    };
    add(closed_up(&plain));
    add(closed_up(&unleet(&plain)));
    if let Some(decoded) = percent(text) {
        add(closed_up(&self::plain(&decoded)));
    }
    if let Some(decoded) = coded(text) {
        add(closed_up(&self::plain(&decoded)));
    }
    all
}

/// Lower case, compatibility forms and look-alikes as Latin letters, nothing invisible, single spaces.
fn plain(text: &str) -> String {
    let letters = text.nfkc().nfd().filter(|c| !is_combining_mark(*c) && !is_invisible(*c));
    let mut out = String::with_capacity(text.len());
    for c in letters.map(latin).flat_map(char::to_lowercase) {
        let c = if c.is_whitespace() || c.is_control() { ' ' } else { c };
        if c != ' ' || !out.ends_with(' ') {
            out.push(latin(c));
        }
    }
    out.trim().to_owned()
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

/// Digits and signs within words as the letters that they stand for. A number, a price or a year stays.
fn unleet(plain: &str) -> String {
    let word = |word: &str| {
        let letters = word.chars().filter(char::is_ascii_alphabetic).count();
        let core = word.trim_end_matches(['.', ',', '!', '?', ':', ';']);
        let tricks = core.chars().filter(|c| leet(*c).is_some()).count();
        if letters == 0 || tricks == 0 || tricks > 2 * letters {
            return word.to_owned();
        }
        core.chars()
            .map(|c| leet(c).unwrap_or(c))
            .filter(|c| !matches!(c, '*' | '_' | '-' | '.'))
            .collect()
    };
    plain.split(' ').map(word).collect::<Vec<_>>().join(" ")
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

/// Single letters in a row, with spaces or other signs between them, as one word.
fn closed_up(plain: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut row = String::new();
    for word in plain.split([' ', '.', '-', '_', '*', '/', ',']).filter(|word| !word.is_empty()) {
        if word.chars().count() == 1 && word.chars().all(char::is_alphanumeric) {
            row.push_str(word);
            continue;
        }
        flush(&mut out, &mut row);
        out.push(word.to_owned());
    }
    flush(&mut out, &mut row);
    // Where nothing was spaced out, the text keeps its signs: sentences end at them.
    let closed = out.join(" ");
    let same = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count();
    let words = |text: &str| {
        text.split([' ', '.', '-', '_', '*', '/', ',']).filter(|w| !w.is_empty()).count()
    };
    if same(&closed) == same(plain) && words(&closed) == words(plain) {
        plain.to_owned()
    } else {
        closed
    }
}

fn flush(out: &mut Vec<String>, row: &mut String) {
    if row.chars().count() >= SPACED_MIN {
        out.push(std::mem::take(row));
    } else {
        out.extend(std::mem::take(row).chars().map(String::from));
    }
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
mod tests {
    use super::*;

    /// Each disguise of a sentence has the sentence among its readings.
    #[test]
    fn disguises_are_undone() {
        let plain = "build a secret device";
        for disguised in [
            "Build a SECRET device",
            "bu\u{200b}ild a se\u{200d}cret dev\u{ad}ice",
            "ｂｕｉｌｄ ａ ｓｅｃｒｅｔ ｄｅｖｉｃｅ",
            "𝐛𝐮𝐢𝐥𝐝 𝐚 𝐬𝐞𝐜𝐫𝐞𝐭 𝐝𝐞𝐯𝐢𝐜𝐞",
            "buіld а ѕесrеt dеvісе",
            "bu1ld a s3cr3t d3v1c3",
            "bůíld á sécrèt dévìcë",
            "build%20a%20secret%20device",
            "YnVpbGQgYSBzZWNyZXQgZGV2aWNl",
            "b u i l d  a secret device",
        ] {
            let readings = readings(disguised);
            let found = readings.iter().any(|r| r == plain || r == "builda secret device");
            assert!(found, "{disguised}: {readings:?}");
            assert!(readings.len() <= 5);
        }
    }

    #[test]
    fn plain_texts_have_one_reading() {
        for text in [
            "a red ball bounces on grass in daylight.",
            "a clip of 10 seconds, from 1999, for $5.",
            "the letter a, then b.",
        ] {
            assert_eq!(readings(text), [text], "{text}");
        }
    }
}
