//! MiniLM's tokens: BERT's lower-case WordPiece, from the vocabulary in `tokenizer.json`.
//!
//! Sixty lines instead of a tokenizer library with a C regex engine, which the coordinator would have to build.

use std::collections::{HashMap, HashSet};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// A word with more characters is unknown as a whole, as in the original.
const WORD_CHARS_MAX: usize = 100;

/// A vocabulary.
pub struct WordPiece {
    ids: HashMap<String, i32>,
    latin: HashSet<i32>,
    unknown: i32,
    /// First token of every text.
    pub first: i32,
    /// Last token of every text.
    pub last: i32,
}

impl WordPiece {
    /// Reads the vocabulary.
    ///
    /// # Errors
    /// A sentence, if the file is no such vocabulary.
    pub fn read(json: &[u8]) -> Result<WordPiece, String> {
        let file: serde_json::Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let vocabulary = file["model"]["vocab"].as_object().ok_or("model.vocab is missing")?;
        let id = |value: &serde_json::Value| value.as_i64().and_then(|id| i32::try_from(id).ok());
        let ids = vocabulary
            .iter()
            .map(|(word, value)| Some((word.clone(), id(value)?)))
            .collect::<Option<HashMap<_, _>>>()
            .ok_or("model.vocab has an id that is no number")?;
        let special = |word: &str| ids.get(word).copied().ok_or(format!("{word} is missing"));
        let (unknown, first, last) = (special("[UNK]")?, special("[CLS]")?, special("[SEP]")?);
        let letters = |word: &str| word.bytes().any(|byte| byte.is_ascii_alphanumeric());
        let is_latin = |(word, _): &(&String, &i32)| letters(word) && !word.starts_with('[');
        let latin = ids.iter().filter(is_latin).map(|(_, id)| *id).collect();
        Ok(WordPiece { ids, latin, unknown, first, last })
    }

    /// The words that are one token.
    pub fn vocabulary(&self) -> impl Iterator<Item = &str> {
        self.ids.keys().map(String::as_str)
    }

    /// Whether a token has letters or digits of the language that the net was trained on.
    pub fn is_latin(&self, token: i32) -> bool {
        self.latin.contains(&token)
    }

    /// The tokens of a text, without the first and the last one.
    pub fn tokens(&self, text: &str) -> Vec<i32> {
        let mut tokens = Vec::new();
        for word in words(text) {
            self.pieces(&word, &mut tokens);
        }
        tokens
    }

    fn pieces(&self, word: &str, tokens: &mut Vec<i32>) {
        let ends: Vec<usize> =
            word.char_indices().map(|(at, _)| at).skip(1).chain([word.len()]).collect();
        // Before any piece of it is looked up: those of a word without an end are many.
        if ends.len() > WORD_CHARS_MAX {
            return tokens.push(self.unknown);
        }
        let from = tokens.len();
        let mut at = 0;
        while at < word.len() {
            let longest = ends.iter().rev().take_while(|end| **end > at).find_map(|end| {
                let piece = &word[at..*end];
                let id =
                    if at == 0 { self.ids.get(piece) } else { self.ids.get(&format!("##{piece}")) };
                id.map(|id| (*end, *id))
            });
            match longest {
                Some((end, id)) => {
                    tokens.push(id);
                    at = end;
                }
                None => {
                    tokens.truncate(from);
                    tokens.push(self.unknown);
                    return;
                }
            }
        }
    }
}

/// Lower case without accents, cut at white space and around punctuation and CJK signs.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let plain = text.nfd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase);
    for c in plain {
        if c.is_whitespace() {
            words.push(String::new());
        } else if c == '\u{fffd}' || c.is_control() || is_format(c) {
            // Dropped, as the original does.
        } else if is_punctuation(c) || is_cjk(c) {
            words.extend([c.to_string(), String::new()]);
        } else if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn is_format(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(c, '\u{a1}' | '\u{a7}' | '\u{ab}' | '\u{b6}' | '\u{b7}' | '\u{bb}' | '\u{bf}' | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}' | '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}')
}

fn is_cjk(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{2fa1f}')
}
