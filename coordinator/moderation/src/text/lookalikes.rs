//! Letters that look like Latin ones.
//!
//! Some are read as those in every reading ([`latin`]); all others that anybody may take for Latin letters, by the
//! confusables of Unicode and a few more, give a reading of their own beside it ([`lookalikes`]), so that no language
//! is read otherwise than it is written.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_security::confusable_detection::skeleton;

/// The longest that one letter looks like, as `æ` does.
const LETTERS_MAX: usize = 3;

/// The text with its look-alikes as Latin letters, if it has any that [`latin`] does not know. In a text of another
/// script only where they stand among Latin letters: there they are what they are.
pub(super) fn lookalikes(text: &str) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    let letters: Vec<char> = text.nfkc().nfd().filter(|c| !is_combining_mark(*c)).collect();
    let (mut own, mut foreign) = (0, 0);
    for c in letters.iter().filter(|c| c.is_alphabetic()) {
        if is_of_latin_script(*c) { own += 1 } else { foreign += 1 }
    }
    let (mut out, mut found) = (String::with_capacity(text.len()), false);
    let in_word = |c: &char| c.is_alphabetic() || sign(*c).is_some();
    for run in letters.chunk_by(|a, b| in_word(a) == in_word(b)) {
        let mixed = run.iter().any(char::is_ascii_alphabetic);
        let plain = own >= foreign && run.iter().all(|c| sign(*c).is_none());
        for c in run {
            match looks_like(*c).filter(|_| mixed || plain) {
                Some(latin) => {
                    out.push_str(&latin);
                    found = true;
                }
                None => out.push(*c),
            }
        }
    }
    found.then_some(out)
}

/// The blocks that Latin letters stand in, those of phonetics too.
fn is_of_latin_script(c: char) -> bool {
    matches!(c, 'a'..='z' | 'A'..='Z' | '\u{c0}'..='\u{2af}' | '\u{1d00}'..='\u{1dbf}' | '\u{1e00}'..='\u{1eff}'
        | '\u{2c60}'..='\u{2c7f}' | '\u{a720}'..='\u{a7ff}' | '\u{ab30}'..='\u{ab6f}')
}

/// The Latin letters that a letter looks like; none if it is one, or is read as one anyway.
fn looks_like(c: char) -> Option<String> {
    if c.is_ascii() || latin(c) != c {
        return None;
    }
    let small = c.to_lowercase().next().unwrap_or(c);
    if let Some(latin) = sign(c).or(more(small)) {
        return Some(latin.to_string());
    }
    let alone = small.to_string();
    let bare: String = skeleton(&alone).filter(|c| !is_combining_mark(*c)).collect();
    // What everything of this look becomes, m itself too.
    let bare = if bare == "rn" { "m".to_owned() } else { bare.to_lowercase() };
    let is_latin = !bare.is_empty()
        && bare.len() <= LETTERS_MAX
        && bare.bytes().all(|byte| byte.is_ascii_lowercase());
    is_latin.then_some(bare)
}

/// Signs that stand for letters within words.
fn sign(c: char) -> Option<char> {
    Some(match c {
        '€' => 'e',
        '¢' => 'c',
        '¥' => 'y',
        _ => return None,
    })
}

/// Letters that are another one turned, open or of another script, and none of the confusables.
fn more(c: char) -> Option<char> {
    Some(match c {
        'ɛ' | 'ꞓ' | 'э' | 'з' | 'ə' | 'ǝ' | 'ɘ' | 'ɜ' | 'ξ' => 'e',
        'ɔ' | 'ө' | 'θ' => 'o',
        'ʌ' | 'ɐ' | 'λ' | 'ɒ' => 'a',
        'ƈ' => 'c',
        'ʃ' | 'ς' => 's',
        'ʒ' | 'ȝ' => 'z',
        'ʇ' => 't',
        'я' | 'ᴙ' | 'ɹ' => 'r',
        'и' | 'л' | 'π' => 'n',
        'д' | 'ð' | 'δ' => 'd',
        'б' | 'ъ' => 'b',
        'щ' => 'w',
        'ђ' | 'ɥ' => 'h',
        'ʉ' | 'μ' => 'u',
        'ʞ' => 'k',
        'ʍ' => 'm',
        'ʎ' | 'ч' => 'y',
        'ɪ' | 'ᴉ' => 'i',
        _ => return None,
    })
}

/// The Latin letter that a sign is taken for.
pub(super) fn latin(c: char) -> char {
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
