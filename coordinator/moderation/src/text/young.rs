//! What tells that somebody is below 18 without an age in years: school years, age groups of teams, short forms of age and
//! sex, ages behind names, and words for children with one slip of a finger.
//!
//! Beside sexual words alone: by itself none of it means anything, and that is the rules' affair.

use super::ages::{ADULT, BARE_MIN, number_of};
use super::units::{Unit, ends_there, gap, is_close, is_function, units};

/// What a school counts.
const SCHOOL_YEARS: [&str; 8] =
    ["year", "yr", "grade", "class", "form", "standard", "std", "primary"];
/// The last of them in any country.
const SCHOOL_YEAR_MAX: u32 = 13;
/// Who is in one.
const PUPILS: [&str; 20] = [
    "student",
    "students",
    "pupil",
    "pupils",
    "learner",
    "learners",
    "girl",
    "girls",
    "boy",
    "boys",
    "kid",
    "kids",
    "child",
    "children",
    "class",
    "classroom",
    "schoolkid",
    "classmate",
    "classmates",
    "teen",
];
/// Who plays in an age group.
const TEAMS: [&str; 24] = [
    "team",
    "teams",
    "squad",
    "girls",
    "boys",
    "girl",
    "boy",
    "league",
    "champion",
    "champions",
    "player",
    "players",
    "side",
    "goalie",
    "goalkeeper",
    "swimmer",
    "swimmers",
    "gymnast",
    "gymnasts",
    "football",
    "footballer",
    "soccer",
    "rugby",
    "hockey",
];
const AGE_GROUPS: std::ops::RangeInclusive<u32> = 5..=17;
const SEXES: [&str; 8] = ["f", "m", "female", "male", "girl", "boy", "g", "b"];
/// What numbers stand behind that are no ages.
const COUNTED: [&str; 32] = [
    "figure", "fig", "table", "step", "chapter", "section", "page", "part", "scene", "shot",
    "take", "act", "episode", "season", "no", "number", "version", "item", "line", "note",
    "option", "room", "level", "verse", "frame", "clip", "camera", "day", "week", "january", "may",
    "march",
];
/// Words for children that are long enough to be known by all letters but one.
const LONG: [&str; 12] = [
    "toddler",
    "teenager",
    "teenage",
    "preteen",
    "schoolgirl",
    "schoolboy",
    "schoolchild",
    "children",
    "kindergarten",
    "adolescent",
    "juvenile",
    "underage",
];

/// Shorter ones, of which every other letter makes another word: known where one is left out or two have changed places.
const SHORT: [&str; 3] = ["child", "infant", "pupil"];
/// Who is a child with `girl` or `boy` behind it.
const SMALL: [&str; 3] = ["little", "young", "small"];
/// Whose age is told by `of twelve`, `turning twelve`, `born twelve years ago`.
const SOMEBODY: [&str; 10] = [
    "someone", "somebody", "person", "people", "being", "student", "pupil", "friend", "youth",
    "figure",
];
const ORDINALS: [&str; 17] = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
];

/// Whether a text, in lower case, tells of somebody below 18 in one of these ways.
pub(super) fn are_told(text: &str) -> bool {
    let all = units(text);
    (0..all.len()).any(|at| {
        is_school_year(text, &all, at)
            || is_age_group(text, &all, at)
            || is_short_form(text, &all, at)
            || is_named_age(text, &all, at)
            || is_of_years(text, &all, at)
            || is_birthday(text, &all, at)
            || LONG.iter().any(|word| is_one_slip(all[at].word, word))
            || SHORT.iter().any(|word| is_one_missing(all[at].word, word))
            || is_small_one(text, &all, at)
    })
}

/// A number of these that is all of a word.
fn whole_number(word: &str) -> Option<u32> {
    number_of(word).filter(|(_, rest)| rest.is_empty()).map(|(number, _)| number)
}

/// Whether a word is a number that is taken for an age below 18 where nothing says of what it is.
fn is_young(word: &str) -> bool {
    whole_number(word).is_some_and(|age| (BARE_MIN..ADULT).contains(&age))
}

/// `a year 9 student`, `grade six girls`, `a k-5 pupil`, `he is in class 7`.
fn is_school_year(text: &str, all: &[Unit<'_>], at: usize) -> bool {
    let of_school = SCHOOL_YEARS.contains(&all[at].word) || all[at].word == "k";
    let Some(next) = all.get(at + 1).filter(|_| of_school && is_close(gap(text, all, at))) else {
        return false;
    };
    let is_year = whole_number(next.word).is_some_and(|year| (1..=SCHOOL_YEAR_MAX).contains(&year));
    let followed = is_close(gap(text, all, at + 1))
        && all.get(at + 2).is_some_and(|unit| PUPILS.contains(&unit.word));
    let is_in = at > 0 && all[at - 1].word == "in" && ends_there(text, all, at + 1);
    is_year && (followed || is_in)
}

/// `a u12 team`, `a u-14 swimmer`, `the under-8s`, `the under 15 girls`.
fn is_age_group(text: &str, all: &[Unit<'_>], at: usize) -> bool {
    let digits = |word: &str| word.parse::<u32>().is_ok_and(|age| AGE_GROUPS.contains(&age));
    let word = all[at].word;
    if word.strip_prefix('u').is_some_and(digits) {
        return true;
    }
    let Some(next) = all.get(at + 1) else { return false };
    let between = gap(text, all, at);
    if word == "u" {
        return between == "-" && digits(next.word);
    }
    // `an under-16 national chess champion`.
    let plays = || all[at + 2..].iter().take(3).any(|unit| TEAMS.contains(&unit.word));
    word == "under"
        && is_close(between)
        && (next.word.strip_suffix('s').is_some_and(digits)
            || digits(next.word) && is_close(gap(text, all, at + 1)) && plays())
}

/// `15/f`, `f/15`, `(m15)`, `[15f]`, `twelve, female`.
fn is_short_form(text: &str, all: &[Unit<'_>], at: usize) -> bool {
    let word = all[at].word;
    let before = text[..all[at].start].chars().next_back();
    let after = text[all[at].end()..].chars().next();
    let in_brackets = matches!((before, after), (Some('('), Some(')')) | (Some('['), Some(']')));
    let joined = word.strip_prefix(['f', 'm']).or_else(|| word.strip_suffix(['f', 'm']));
    // Metres are told so, and aeroplanes and rifles are named so; few other things end in an `f`.
    let is_told = in_brackets || word.ends_with('f') && word.len() == 3;
    if is_told && joined.is_some_and(is_young) {
        return true;
    }
    let Some(next) = all.get(at + 1) else { return false };
    let is_pair = is_young(word) && SEXES.contains(&next.word)
        || SEXES.contains(&word) && is_young(next.word);
    let begins = at == 0 || !is_close(gap(text, all, at - 1));
    match gap(text, all, at) {
        "/" => is_pair,
        ", " => is_pair && is_young(word) && begins && ends_there(text, all, at + 1),
        _ => false,
    }
}

/// `lily (8)`, `tom, 12, plays`.
fn is_named_age(text: &str, all: &[Unit<'_>], at: usize) -> bool {
    let word = all[at].word;
    let names = word.chars().all(char::is_alphabetic)
        && word.chars().count() > 1
        && !COUNTED.contains(&word)
        && !is_function(word)
        && number_of(word).is_none();
    let Some(next) = all.get(at + 1).filter(|_| names) else { return false };
    let is_age = next.word.bytes().all(|byte| byte.is_ascii_digit()) && is_young(next.word);
    let behind = gap(text, all, at + 1);
    let is_apart = match gap(text, all, at) {
        " (" => behind.starts_with(')'),
        ", " => behind.starts_with(", ") || behind.starts_with('.') || behind.is_empty(),
        _ => false,
    };
    is_age && is_apart
}

/// `somebody of twelve`, `a person turning ten`, `born twelve years ago`.
fn is_of_years(text: &str, all: &[Unit<'_>], at: usize) -> bool {
    let (Some(next), Some(number)) = (all.get(at + 1), all.get(at + 2)) else { return false };
    let close = (at..at + 2).all(|at| is_close(gap(text, all, at)));
    let word = all[at].word;
    let says = SOMEBODY.contains(&word) && matches!(next.word, "of" | "turning" | "aged" | "just");
    let born = word == "born"
        && whole_number(next.word).is_some_and(|age| age < ADULT)
        && matches!(number.word, "year" | "years" | "months")
        && all.get(at + 3).is_some_and(|unit| unit.word == "ago");
    close && (says && is_young(number.word) || born)
}

/// `her tenth birthday`, `on his 9th birthday`.
fn is_birthday(text: &str, all: &[Unit<'_>], at: usize) -> bool {
    let digits = |word: &str| {
        let ends = ["st", "nd", "rd", "th"].iter().find_map(|end| word.strip_suffix(end));
        ends.and_then(|number| number.parse::<u32>().ok()).is_some_and(|n| (1..ADULT).contains(&n))
    };
    let word = all[at].word;
    let counts = ORDINALS.contains(&word) || digits(word);
    counts
        && is_close(gap(text, all, at))
        && all.get(at + 1).is_some_and(|unit| unit.word == "birthday")
}

/// `litle girl`, `a yuong gril`: either as it is written or with one slip.
fn is_small_one(text: &str, all: &[Unit<'_>], at: usize) -> bool {
    let Some(next) = all.get(at + 1).filter(|_| is_close(gap(text, all, at))) else { return false };
    let is = |word: &str, of: &str| word == of || is_one_missing(word, of);
    let one = next.word.strip_suffix('s').unwrap_or(next.word);
    SMALL.iter().any(|small| is(all[at].word, small)) && (is(one, "girl") || one == "boy")
}

/// Whether a word becomes the other by a letter that is put in, or by two neighbours that change places.
fn is_one_missing(word: &str, other: &str) -> bool {
    let swapped = word.len() == other.len() && {
        let apart = word.bytes().zip(other.bytes()).filter(|(a, b)| a != b).count();
        apart == 2
    };
    is_one_slip(word, other) && (word.len() < other.len() || swapped)
}

/// Whether a word becomes the other by one letter that is left out, put in, another, or changed with its neighbour.
fn is_one_slip(word: &str, other: &str) -> bool {
    let (word, other) = (word.as_bytes(), other.as_bytes());
    if word.first() != other.first() || word.len().abs_diff(other.len()) > 1 {
        return false;
    }
    let same = word.iter().zip(other).take_while(|(a, b)| a == b).count();
    let (word, other) = (&word[same..], &other[same..]);
    match (word, other) {
        ([], []) => false,
        ([a, b, word @ ..], [c, d, other @ ..]) if (a, b) == (d, c) && word == other => true,
        ([_, word @ ..], [_, other @ ..]) if word == other => true,
        ([_, word @ ..], other) if word == other => true,
        (word, [_, other @ ..]) => word == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_young_are_told_without_an_age() {
        for text in [
            "a year 9 student",
            "grade six girls on a stage",
            "a k-5 pupil",
            "she is in class 7",
            "a u12 football team",
            "a u-14 swimmer",
            "the under-8s on a field",
            "the under 15 girls",
            "15/f",
            "m/13",
            "somebody (f15) on a beach",
            "[15m] on a beach",
            "twelve, female",
            "lily (8) on a swing",
            "tom, 12, plays",
            "a todler",
            "a teenaegr",
            "two shcoolgirls' bags and a schoolgrl",
            "chidren",
            "a chid with a balloon",
            "a litle gril",
            "an under-16 national chess champion",
            "a human being of six",
            "someone turning thirteen next week",
            "a person born twelve years ago",
            "emma on her tenth birthday",
            "his 9th birthday",
            "14f",
        ] {
            assert!(are_told(text), "{text}");
        }
    }

    #[test]
    fn other_numbers_and_words_tell_nothing() {
        for text in [
            "year 9 of the war",
            "in year 9 of his reign",
            "a class 5 storm",
            "a grade 8 bolt",
            "a third-year student of law",
            "a u2 concert",
            "under 12 minutes",
            "an f-16 over a beach",
            "a 15 m wall",
            "an m16",
            "figure (8)",
            "scene, 12, night",
            "maria (34)",
            "anna, 45, swims",
            "30/f",
            "twelve, or more",
            "a toddler",
            "children",
            "child",
            "a tailor",
            "chill",
            "a little grill",
            "her eighteenth birthday",
            "a 40th birthday",
            "somebody of note",
            "born 30 years ago",
            "an f14 and an f15",
            "12m",
            "",
        ] {
            assert!(!are_told(text), "{text}");
        }
    }
}
