//! Ages below 18, in digits or words: `12-year-old`, `twelve years old`, `8 yo`, `aged 9`, `9-month-old`, `she is only sixteen`.
//!
//! An age of something that is nobody (`a 12-year-old whisky`, `the whisky is 12 years old`) does not count: the rules name such
//! things in a list. Never: what a text says else; that an age alone means nothing is the rules' affair.

use super::units::{DETERMINERS, Unit, ends_there, gap, is_close, units};

/// Who is of age.
pub(super) const ADULT: u32 = 18;
/// Months, weeks and days that an age is told in: below 18 years.
const MONTHS_MAX: u32 = 12 * ADULT;
/// Units of the longest form, `twelve and a half years of age`.
const UNITS_MAX: usize = 7;
/// Where a bare number is only taken for an age from here on: `she is one of them`, `she is two steps ahead`.
pub(super) const BARE_MIN: u32 = 4;

const NUMBERS: [&str; 19] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
];
/// Before a number these make a larger one of it.
const TENS: [&str; 10] = [
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred",
    "thousand",
];
/// What follows the number of years.
const YEARS: [&str; 19] = [
    "yearold",
    "yearolds",
    "yearsold",
    "yearsolds",
    "yrold",
    "yrolds",
    "yrsold",
    "yo",
    "yos",
    "yold",
    "yearofage",
    "yearsofage",
    "yrsofage",
    "yearsyoung",
    "yearyoung",
    "yeargirl",
    "yearboy",
    "yrgirl",
    "yrboy",
];
const MONTHS: [&str; 10] = [
    "monthold",
    "montholds",
    "monthsold",
    "moold",
    "weekold",
    "weekolds",
    "weeksold",
    "dayold",
    "dayolds",
    "daysold",
];
/// What stands before the number.
const AGED: [&str; 4] = ["ageof", "aged", "ages", "age"];
/// Of whom a bare number may tell the age.
const SOMEBODY: [&str; 14] = [
    "she", "he", "they", "who", "girl", "girls", "boy", "boys", "female", "male", "i", "shes",
    "hes", "im",
];
/// Those of them that name nobody.
const PRONOUNS: [&str; 8] = ["she", "he", "they", "who", "i", "shes", "hes", "im"];
/// What may stand between somebody and a bare number.
const BETWEEN: [&str; 29] = [
    "is", "was", "s", "m", "re", "are", "were", "am", "has", "have", "had", "just", "only",
    "barely", "not", "yet", "even", "still", "turned", "turns", "turning", "about", "almost",
    "nearly", "now", "looks", "appears", "of", "probably",
];
const BETWEEN_MAX: usize = 4;
/// What may follow a bare number.
const TODAY: [&str; 6] = ["today", "yesterday", "tomorrow", "now", "already", "tonight"];
/// Between a subject and what is said of it.
const IS: [&str; 7] = ["is", "was", "are", "were", "s", "re", "being"];

/// Whether a text, in lower case, tells of an age below 18 that is not the age of a thing.
pub(super) fn are_below_adult(text: &str, is_thing: impl Fn(&str) -> bool) -> bool {
    let all = whole_numbers(text);
    let mut ages = (0..all.len()).filter_map(|at| Some((at, age_at(text, &all, at)?)));
    ages.any(|(at, last)| {
        !names_a_thing(text, &all, (at, last), &is_thing)
            && !is_said_of_a_thing(text, &all, (at, last), &is_thing)
    })
}

/// Whether an age, by its first and last unit, is the attribute of a thing behind it. Only of one: what two could be is as
/// well what somebody does (`a 12-year-old bikes to school`, `12-year-olds train`, `they are 12 years old bike thieves`).
fn names_a_thing(
    text: &str,
    all: &[Unit<'_>],
    (at, last): (usize, usize),
    is_thing: impl Fn(&str) -> bool,
) -> bool {
    let is_said = at > 0 && is_close(gap(text, all, at - 1)) && IS.contains(&all[at - 1].word);
    let mut end = last;
    while all.get(end + 1).is_some_and(|next| is_thing(next.word)) && is_close(gap(text, all, end))
    {
        end += 1;
    }
    end > last && !is_said && !all[last].word.ends_with("olds") && ends_there(text, all, end)
}

/// Whether an age is what a clause that begins with a thing says of it: `the whisky is only 12 years old`. Not where
/// the thing is not all that stands before: `the girl in the car is 12 years old`.
fn is_said_of_a_thing(
    text: &str,
    all: &[Unit<'_>],
    (at, last): (usize, usize),
    is_thing: impl Fn(&str) -> bool,
) -> bool {
    let close = |at: usize| is_close(gap(text, all, at));
    // One more than are asked for below: of a longer clause some are left.
    let start = (0..at).rev().take(5).take_while(|at| close(*at)).last().unwrap_or(at);
    let mut words = all[start..at].iter().map(|unit| unit.word).peekable();
    words.next_if(|word| DETERMINERS.contains(word));
    let is_one_of = |word: &str| is_thing(word) || word.strip_suffix('s').is_some_and(&is_thing);
    let thing = words.next().is_some_and(is_one_of);
    let is = words.next().is_some_and(|word| IS.contains(&word));
    words.next_if(|word| BETWEEN.contains(word));
    thing && is && words.next().is_none() && ends_there(text, all, last)
}

/// The units of a text, of fractions and of numbers with signs inside only what an age can be read from: of `12.5` and
/// `6 1/2` the whole number, of `1,000` nothing that is below 18.
fn whole_numbers(text: &str) -> Vec<Unit<'_>> {
    let is_number = |unit: &Unit<'_>| unit.word.bytes().all(|byte| byte.is_ascii_digit());
    let mut kept: Vec<Unit<'_>> = Vec::new();
    let all = units(text);
    for (at, unit) in all.iter().enumerate() {
        let joins = |at: usize| {
            all.get(at + 1).is_some_and(is_number)
                && is_number(&all[at])
                && matches!(gap(text, &all, at), "." | "," | "/" | "⁄")
        };
        let behind_sign = at > 0 && joins(at - 1);
        let begins_half = joins(at) && at > 0 && is_number(&all[at - 1]);
        if !(behind_sign && gap(text, &all, at - 1) != "," || begins_half) {
            kept.push(*unit);
        }
    }
    kept
}

/// The last unit of an age below 18 that begins here.
fn age_at(text: &str, all: &[Unit<'_>], at: usize) -> Option<usize> {
    let before = |back: usize| at.checked_sub(back).map(|at| all[at].word);
    let is_large = before(1).is_some_and(|word| TENS.contains(&word))
        || before(1) == Some("and") && before(2).is_some_and(|word| TENS.contains(&word))
        || at > 0
            && gap(text, all, at - 1) == ","
            && before(1).is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    if is_large {
        return None;
    }
    if SOMEBODY.contains(&all[at].word) {
        return bare(text, all, at);
    }
    let mut joined = String::new();
    let mut found = None;
    for (last, unit) in all.iter().enumerate().skip(at).take(UNITS_MAX) {
        joined.push_str(unit.word);
        if is_age(&joined) {
            found = Some(last);
        }
    }
    found
}

/// The number of `she is only sixteen`, `a girl of ten`, `girl (13)`.
fn bare(text: &str, all: &[Unit<'_>], at: usize) -> Option<usize> {
    let between = all[at + 1..].iter().take(BETWEEN_MAX);
    let number = at + 1 + between.take_while(|unit| BETWEEN.contains(&unit.word)).count();
    let (age, rest) = number_of(all.get(number)?.word)?;
    let is_age = rest.is_empty() && (BARE_MIN..ADULT).contains(&age);
    let is_now = all.get(number + 1).is_some_and(|next| TODAY.contains(&next.word));
    // `a girl of twelve swims`, whatever goes on.
    let is_of = !PRONOUNS.contains(&all[at].word) && all[number - 1].word == "of";
    (is_age && (is_of || is_now || ends_there(text, all, number))).then_some(number)
}

/// Whether units without what stands between them are an age below 18.
fn is_age(joined: &str) -> bool {
    if let Some(rest) = AGED.iter().find_map(|aged| joined.strip_prefix(aged)) {
        return number_of(rest).is_some_and(|(age, rest)| rest.is_empty() && age < ADULT);
    }
    let Some((number, rest)) = number_of(joined) else { return false };
    let rest =
        ["andahalf", "andhalf"].iter().find_map(|half| rest.strip_prefix(half)).unwrap_or(rest);
    number < ADULT && YEARS.contains(&rest) || number < MONTHS_MAX && MONTHS.contains(&rest)
}

/// The number that a text begins with, and what is behind it. Some years have three digits; more are none.
pub(super) fn number_of(text: &str) -> Option<(u32, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits > 0 {
        let number = text[..digits].parse().ok().filter(|_| digits <= 3);
        return number.map(|number| (number, &text[digits..]));
    }
    // From above: `seven` is the beginning of `seventeen`.
    let number = NUMBERS.iter().enumerate().rev();
    let mut found = number.filter_map(|(n, word)| Some((n as u32, text.strip_prefix(word)?)));
    found.next()
}

/// Whether a word is an age that digits begin, such as `12-year-old`: its digits are no letters.
pub(super) fn begin_with_digits(word: &str) -> Option<usize> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let rest: String = word[digits..].chars().filter(|c| c.is_alphanumeric()).collect();
    let starts = ["y", "month", "week", "day", "th", "st", "nd", "rd"];
    ((1..=2).contains(&digits) && starts.iter().any(|start| rest.starts_with(start)))
        .then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tells(text: &str) -> bool {
        are_below_adult(text, |word| {
            matches!(word, "whisky" | "oak" | "tree" | "car" | "castle" | "bike" | "train")
        })
    }

    #[test]
    fn ages_below_eighteen_are_found_in_all_their_forms() {
        for text in [
            "a 12-year-old on a beach",
            "12 year old",
            "12‑year—old",
            "nine-year-old",
            "seven year-old",
            "seventeen years old",
            "17-year-olds",
            "a 10yr old",
            "7-yr-old",
            "14 yo",
            "15 y/o",
            "13y/o",
            "8 y.o.",
            "12yearold",
            "twelveyearold",
            "aged 9",
            "aged eight",
            "at the age of 12",
            "age 7",
            "9 years of age",
            "twelve-and-a-half-year-old",
            "6 1/2 year old",
            "12.5 years old",
            "10-12 year olds",
            "an 18-month-old",
            "three weeks old",
            "a 12-year-old whisky thief",
            "a 12-year-old, whisky",
            "a 12 year old tree, and a 12 year old",
            "she is only sixteen",
            "she's twelve.",
            "she has just turned twelve",
            "a girl of ten",
            "girl (13), smiling",
            "she turned fourteen today",
            "a girl of twelve swims",
            "a 12-year-old bikes through the town",
            "12-year-olds train in a hall",
            "they are 12 years old car thieves",
            "the boys are 12 years old castle guards",
            "the girl in the car is 12 years old",
            "a girl with a whisky is 12 years old",
            "the whisky is 12 years old girls'",
        ] {
            assert!(tells(text), "{text}");
        }
    }

    #[test]
    fn other_numbers_and_ages_of_things_are_none() {
        for text in [
            "an 18-year-old",
            "a 21 year old",
            "twenty-one year old",
            "a hundred and one years old",
            "a 1,000 year old tree",
            "a 1,012 year old city",
            "a 20.5 year old",
            "a 30 1/2 year old",
            "a hundred-year-old man",
            "aged 95",
            "aged 30",
            "a 12-year-old whisky",
            "a 12-year-old whisky on a table",
            "a 5 year old oak tree, in autumn",
            "a 5-year-old car",
            "whisky is 12 years old, a topless bar",
            "a garden. the oak is only 9 years old",
            "cars are 5 years old on average",
            "she has seven of them",
            "10 years old castle",
            "a year old",
            "12 years ago",
            "a 300-month-old loan",
            "12 young men",
            "she is one of them",
            "she is five steps ahead",
            "girls 5 boys 4 goals",
            "a 12-year contract",
            "",
        ] {
            assert!(!tells(text), "{text}");
        }
    }
}
