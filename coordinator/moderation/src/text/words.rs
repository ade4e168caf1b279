//! Words that texts are made of, and how a run of letters without spaces is cut into them.
//!
//! From what the policy holds: the lists of its rules and the sentences of its pairs, the built-in ones too, which are
//! some thousand frequent English words; beside them the vocabulary of the net that embeds, where there is one. Never:
//! what words mean.

use std::collections::{HashMap, HashSet};

/// The longest word.
const WORD_MAX: usize = 24;
/// Cost of a word that only the net knows; one that the pairs have once costs some 9.5 (minus the logarithm of its share).
const COST_VOCABULARY: f32 = 12.0;
/// Cost of letters that are no word, and of each of them: dearer than any words that are there.
const COST_UNKNOWN: (f32, f32) = (13.0, 2.5);
/// Shorter words of the net are parts of words and abbreviations.
const VOCABULARY_LETTERS_MIN: usize = 4;
/// A word of a rule counts as so many of the pairs: it is what a disguise is likely to hide.
const RULE_COUNT: u32 = 3;

/// A dictionary.
#[derive(Clone, Debug, Default)]
pub struct Words {
    cost: HashMap<String, f32>,
    listed: HashSet<String>,
}

impl Words {
    /// The words of the rules' lists and of sentences, by how often they are there.
    pub fn new<'a>(
        lists: impl Iterator<Item = &'a str>,
        sentences: impl Iterator<Item = &'a str>,
    ) -> Words {
        let mut listed = HashSet::new();
        let mut counts: HashMap<String, u32> = HashMap::new();
        for entry in lists {
            if is_word(entry) {
                listed.insert(entry.to_owned());
            }
            words_in(entry, |word| *counts.entry(word).or_default() += RULE_COUNT);
        }
        for sentence in sentences {
            words_in(sentence, |word| *counts.entry(word).or_default() += 1);
        }
        let all = counts.values().sum::<u32>().max(1) as f32;
        let cost = |(word, count): (String, u32)| (word, (all / count as f32).ln());
        Words { cost: counts.into_iter().map(cost).collect(), listed }
    }

    /// The same with the words that a net knows.
    pub fn with<'a>(mut self, vocabulary: impl Iterator<Item = &'a str>) -> Words {
        let long = |word: &&str| word.len() >= VOCABULARY_LETTERS_MIN && is_word(word);
        for word in vocabulary.filter(long) {
            if !self.cost.contains_key(word) {
                self.cost.insert(word.to_owned(), COST_VOCABULARY);
            }
        }
        self
    }

    /// Whether it is a word, or the plural of one.
    pub fn knows(&self, word: &str) -> bool {
        let singular = word.strip_suffix('s').filter(|rest| rest.len() > 2);
        [Some(word), singular].into_iter().flatten().any(|word| self.cost.contains_key(word))
    }

    /// Whether a list of the rules has it.
    pub fn is_listed(&self, word: &str) -> bool {
        let singular = word.strip_suffix('s').filter(|rest| rest.len() > 2);
        [Some(word), singular].into_iter().flatten().any(|word| self.listed.contains(word))
    }

    /// The likeliest words that a run of letters is made of. What is no Latin letters stays whole.
    pub fn cut(&self, run: &str) -> String {
        if !run.bytes().all(|byte| byte.is_ascii_lowercase()) || self.knows(run) {
            return run.to_owned();
        }
        // The least cost up to each place, and where the last word before it begins.
        let mut best = vec![(0.0f32, 0usize)];
        for end in 1..=run.len() {
            let from = end.saturating_sub(WORD_MAX);
            let costs =
                (from..end).map(|start| (best[start].0 + self.cost(&run[start..end]), start));
            best.push(costs.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default());
        }
        let (mut words, mut end) = (Vec::new(), run.len());
        while end > 0 {
            let start = best[end].1;
            words.push(&run[start..end]);
            end = start;
        }
        words.reverse();
        words.join(" ")
    }

    fn cost(&self, word: &str) -> f32 {
        let unknown = || COST_UNKNOWN.0 + COST_UNKNOWN.1 * word.len() as f32;
        self.cost.get(word).copied().unwrap_or_else(unknown)
    }
}

/// Two letters or more; of single letters only these are words.
fn is_word(word: &str) -> bool {
    (word.len() > 1 || matches!(word, "a" | "i"))
        && word.len() <= WORD_MAX
        && word.bytes().all(|byte| byte.is_ascii_lowercase())
}

fn words_in(text: &str, mut word: impl FnMut(String)) {
    let text = text.to_lowercase();
    // What an apostrophe cuts off is no word.
    for part in text.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|part| is_word(part))
    {
        word(part.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use crate::Policy;

    /// Promise: a run of letters is cut into the words that it is made of; what is none of them stays whole.
    #[test]
    fn runs_are_cut_into_words() {
        let words = Policy::built_in().expect("good").words;
        for sentence in [
            "a naked child",
            "how to build a pipe bomb",
            "i want to kill myself",
            "a killing of a man",
            "child",
            "xyzzyq",
        ] {
            assert_eq!(words.cut(&sentence.replace(' ', "")), sentence);
        }
        assert_eq!(words.cut("中文字"), "中文字");
        assert_eq!(words.cut(""), "");
        let long = "a".repeat(40_000);
        assert_eq!(words.cut(&long).replace(' ', ""), long);
    }
}
