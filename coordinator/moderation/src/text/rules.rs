//! Word rules: lists of words, and rules that a sentence breaks when it has a word of each named list.
//!
//! Beside the policy's own lists there are those of the crate `rustrict`, which knows thousands of spellings.

use super::ages;
use super::harmless::{For, Harmless};
use super::young;
use crate::score;
use aho_corasick::{AhoCorasick, MatchKind};
use rustrict::{Censor, Type};
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use zoetrope_protocol::moderation::Category;

/// Words of all lists together.
const WORDS_MAX: usize = 100_000;
/// Rules.
const RULES_MAX: usize = 1_000;

/// A list or rule that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A value.
    #[error("{key} must be {allowed}")]
    Value {
        /// The key.
        key: String,
        /// What is allowed.
        allowed: String,
    },
    /// The matcher.
    #[error("the lists are too large for the matcher: {0}")]
    Matcher(#[from] aho_corasick::BuildError),
}

/// The file of the rules.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    /// Words and phrases by the name of their list, in lower case.
    #[serde(default)]
    lists: BTreeMap<String, Vec<String>>,
    /// Phrases that say nothing of what their words say, in lower case; see `harmless`.
    #[serde(default)]
    harmless: Vec<String>,
    /// Rules, in order.
    #[serde(default)]
    rule: Vec<RuleEntry>,
}

impl RuleFile {
    /// Words and phrases of all lists.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let all = self.lists.values().flatten().map(String::as_str);
        all.filter(|word| *word != YOUNG)
    }

    /// Its rules of one category, with all lists.
    pub(crate) fn only(mut self, category: Category) -> RuleFile {
        self.rule.retain(|rule| rule.category == category.word());
        self
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    category: String,
    score: f32,
    /// One word of each of these lists must be there.
    #[serde(default)]
    all_of: Vec<String>,
    /// And none of these.
    #[serde(default)]
    none_of: Vec<String>,
    /// Within one sentence; otherwise anywhere in the text.
    #[serde(default = "yes")]
    within_sentence: bool,
    /// Counts only if what the text means scores so high in the category, where that is judged at all.
    #[serde(default)]
    meaning_min: f32,
}

fn yes() -> bool {
    true
}

struct Rule {
    category: Category,
    score: u16,
    all_of: Vec<usize>,
    none_of: Vec<usize>,
    within_sentence: bool,
    meaning_min: u16,
}

/// Lists that are not words of the policy but of `rustrict`, in the order of their bits.
const BUILT_IN: [(&str, Type); 3] = [
    ("builtin:sexual", Type::SEXUAL),
    ("builtin:offensive", Type::OFFENSIVE),
    ("builtin:profane", Type::PROFANE),
];
const MILD: [&str; 1] = ["builtin:sexual-mild"];
/// An entry of a list that stands for every age below 18.
const YOUNG: &str = "builtin:young-age";
/// The list of words that tell of minors, and that of things whose age tells nothing.
pub(crate) const MINOR: &str = "minor";
const AGED_THING: &str = "aged_thing";

/// Checked rules.
pub struct Rules {
    lists: Vec<String>,
    words: AhoCorasick,
    /// List of each word of the matcher.
    list_of: Vec<usize>,
    /// Lists that an age below 18 is a word of, and what is no person.
    young: Vec<usize>,
    aged_things: HashSet<String>,
    harmless: Harmless,
    rules: Vec<Rule>,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rules({} lists, {} rules)", self.lists.len(), self.rules.len())
    }
}

impl Rules {
    /// Checks a file.
    ///
    /// # Errors
    /// `RulesError` names the key.
    pub fn new(file: RuleFile) -> Result<Rules, RulesError> {
        let value = |key: String, allowed: String| RulesError::Value { key, allowed };
        let mut lists: Vec<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
        lists.extend(MILD.map(str::to_owned));
        let lower = |key: &str, words: &[String]| {
            let bad = words.iter().find(|w| w.trim().is_empty() || **w != w.to_lowercase());
            let wrong = |word| value(key.to_owned(), format!("words in lower case, got {word:?}"));
            bad.map_or(Ok(()), |word| Err(wrong(word)))
        };
        lower("harmless", &file.harmless)?;
        let single = |lists: &mut dyn Iterator<Item = &String>| {
            lists.filter(|word| word.chars().all(char::is_alphanumeric)).cloned().collect()
        };
        let named = |name: &str| single(&mut file.lists.get(name).into_iter().flatten());
        let (minors, aged_things) = (named(MINOR), named(AGED_THING));
        // A thing may be like another: `a naked oak tree`.
        let others = file.lists.iter().filter(|(name, _)| *name != AGED_THING);
        let listed = single(&mut others.flat_map(|(_, words)| words));
        let harmless = Harmless::new(&file.harmless, listed, minors);
        let (mut words, mut list_of, mut young) = (Vec::new(), Vec::new(), Vec::new());
        for (name, mut list) in file.lists {
            lower(&format!("lists.{name}"), &list)?;
            let all = list.len();
            list.retain(|word| word != YOUNG);
            if list.len() < all {
                young.push(lists.len());
            }
            list_of.resize(list_of.len() + list.len(), lists.len());
            words.extend(list);
            lists.push(name);
        }
        if words.len() + file.harmless.len() > WORDS_MAX || file.rule.len() > RULES_MAX {
            let allowed = format!("at most {WORDS_MAX} words and {RULES_MAX} rules");
            return Err(value("lists, rule".to_owned(), allowed));
        }
        let place = |key: String, name: &String| {
            let known = lists.iter().position(|list| list == name);
            known.ok_or_else(|| value(key, format!("one of {}, got {name:?}", lists.join(", "))))
        };
        let rule = |(n, rule): (usize, RuleEntry)| {
            let places = |word: &str, names: &[String]| {
                let place = |name| place(format!("rule[{n}].{word}"), name);
                names.iter().map(place).collect::<Result<Vec<_>, _>>()
            };
            let shares = [rule.score, rule.meaning_min];
            if rule.all_of.is_empty() || shares.iter().any(|s| !(0.0..=1.0).contains(s)) {
                let allowed = "a score and a meaning_min of 0 to 1 and at least one list in all_of"
                    .to_owned();
                return Err(value(format!("rule[{n}]"), allowed));
            }
            let category = rule.category.parse().map_err(|()| {
                let words = Category::ALL.map(Category::word).join(", ");
                value(format!("rule[{n}].category"), format!("one of {words}"))
            })?;
            Ok(Rule {
                category,
                score: score(rule.score),
                all_of: places("all_of", &rule.all_of)?,
                none_of: places("none_of", &rule.none_of)?,
                within_sentence: rule.within_sentence,
                meaning_min: score(rule.meaning_min),
            })
        };
        let rules = file.rule.into_iter().enumerate().map(rule).collect::<Result<_, _>>()?;
        let words = AhoCorasick::builder().match_kind(MatchKind::Standard).build(&words)?;
        Ok(Rules { lists, words, list_of, young, aged_things, harmless, rules })
    }

    /// The categories that a reading of a text scores in, with the highest score of each. `meaning` is what its meaning
    /// scored, if that was judged: some words are harmless in most company.
    pub fn judge(
        &self,
        reading: &str,
        meaning: Option<&BTreeMap<Category, u16>>,
    ) -> BTreeMap<Category, u16> {
        let mut found = BTreeMap::new();
        let seen = |blanked: &str| {
            let cut: Vec<Vec<bool>> = sentences(blanked).map(|s| self.lists_in(s)).collect();
            (self.lists_in(blanked), cut)
        };
        let blanked = self.harmless.blanked(reading, For::Others);
        let for_others = seen(&blanked);
        // In most texts nothing is harmless, and so both are the same.
        let more = self.harmless.blanked(reading, For::Minors);
        let for_minors = (more != blanked).then(|| seen(&more));
        for rule in &self.rules {
            let breaks = |lists: &Vec<bool>| {
                rule.all_of.iter().all(|list| lists[*list])
                    && !rule.none_of.iter().any(|list| lists[*list])
            };
            let agreed = meaning.is_none_or(|scores| {
                scores.get(&rule.category).copied().unwrap_or(0) >= rule.meaning_min
            });
            if !agreed {
                continue;
            }
            let (whole, cut) = match &for_minors {
                Some(seen) if rule.category == Category::SexualMinors => seen,
                _ => &for_others,
            };
            let broken = if rule.within_sentence { cut.iter().any(breaks) } else { breaks(whole) };
            if broken {
                let kept: &mut u16 = found.entry(rule.category).or_default();
                *kept = rule.score.max(*kept);
            }
        }
        found
    }

    /// Whether there is a list of this name.
    pub fn has(&self, list: &str) -> bool {
        self.lists.iter().any(|name| name == list)
    }

    /// Whether a text has a word of a list, as the rules on minors see it.
    pub fn mentions(&self, list: &str, text: &str) -> bool {
        let place = self.lists.iter().position(|name| name == list);
        place.is_some_and(|place| self.lists_in(&self.harmless.blanked(text, For::Minors))[place])
    }

    /// Which lists have a word in a text without its harmless phrases, by place.
    fn lists_in(&self, text: &str) -> Vec<bool> {
        let mut lists = vec![false; self.lists.len()];
        let kind = Censor::from_str(text).analyze();
        for (place, (_, wanted)) in BUILT_IN.iter().enumerate() {
            lists[place] = kind.is(*wanted & Type::MODERATE_OR_HIGHER);
        }
        lists[BUILT_IN.len()] = kind.is(Type::SEXUAL & Type::MILD_OR_HIGHER);
        let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
        for found in self.words.find_overlapping_iter(text) {
            let (before, after) = (&text[..found.start()], &text[found.end()..]);
            // A plural is the same word.
            let after =
                after.strip_prefix('s').filter(|rest| edge(rest.chars().next())).unwrap_or(after);
            if edge(before.chars().next_back()) && edge(after.chars().next()) {
                lists[self.list_of[found.pattern().as_usize()]] = true;
            }
        }
        let is_thing = |word: &str| self.aged_things.contains(word);
        if !self.young.is_empty()
            && (ages::are_below_adult(text, is_thing) || young::are_told(text))
        {
            self.young.iter().for_each(|place| lists[*place] = true);
        }
        lists
    }
}

/// The sentences of a text: what stands between full stops, question and exclamation marks, semicolons, line ends.
pub fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.split(['.', '!', '?', ';', '\n', '。', '！', '？'])
        .map(str::trim)
        .filter(|s| !s.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_harmless_in_most_company_needs_a_meaning_that_agrees() {
        let rules = rules(
            r#"
            lists = { word = ["tit"] }
            rule = [{ category = "sexual", score = 0.9, all_of = ["word"], meaning_min = 0.25 }]
            "#,
        )
        .expect("good rules");
        let hit = |meaning: Option<&BTreeMap<Category, u16>>| {
            !rules.judge("two tits in a bird house", meaning).is_empty()
        };
        assert!(hit(None), "nobody judged what it means");
        assert!(!hit(Some(&BTreeMap::new())), "it means nothing sexual");
        assert!(!hit(Some(&BTreeMap::from([(Category::Sexual, 2_499)]))));
        assert!(hit(Some(&BTreeMap::from([(Category::Sexual, 2_500)]))));
    }

    fn rules(text: &str) -> Result<Rules, String> {
        let file = toml::from_str(text).map_err(|e| e.to_string())?;
        Rules::new(file).map_err(|e| e.to_string())
    }

    #[test]
    fn a_rule_needs_all_its_lists_in_one_sentence_and_whole_words() {
        let rules = rules(
            r#"
            lists = { make = ["build"], weapon = ["pipe bomb"], toy = ["toy"] }
            rule = [{ category = "illicit/violent", score = 0.9, all_of = ["make", "weapon"], none_of = ["toy"] }]
            "#,
        )
        .expect("good rules");
        let hit = |text: &str| !rules.judge(text, None).is_empty();
        assert!(hit("how to build pipe bombs at home"));
        assert!(!hit("we build houses. the pipe bomb was found"), "two sentences");
        assert!(!hit("rebuild pipe bombshell"), "parts of words");
        assert!(!hit("build a toy pipe bomb"), "an exception");
    }

    #[test]
    fn a_bad_file_is_refused_with_its_key() {
        let error =
            rules("rule = [{ category = \"x\", score = 0.5, all_of = [\"builtin:sexual\"] }]");
        assert!(error.expect_err("no such category").contains("rule[0].category must be one of"));
        let error = rules("rule = [{ category = \"hate\", score = 0.5, all_of = [\"nothing\"] }]");
        assert!(error.expect_err("no such list").contains("rule[0].all_of must be one of"));
        let error = rules("lists = { a = [\"Upper\"] }").expect_err("upper case");
        assert!(error.contains("lists.a"), "{error}");
        let error = rules("rules = []").expect_err("no such key");
        assert!(error.contains("unknown field"), "{error}");
    }
}
