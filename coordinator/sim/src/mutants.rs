//! The mutation check: takes each promise away in turn and counts the schedules until the checker notices.

use crate::{Plan, run};
use std::fmt::Write as _;
use zoetrope_protocol::mutant::Mutant;

/// How soon a mutant was caught.
pub struct Caught {
    /// Which.
    pub mutant: Mutant,
    /// Schedules run until then, and what the checker said; none if it did not notice.
    pub after: Option<(u64, String)>,
}

/// Runs schedules with each mutant until one breaks, at most so many.
#[cfg(feature = "mutants")]
pub fn check(seeds: u64, workers: u64) -> Vec<Caught> {
    use zoetrope_protocol::mutant::set;
    let one = |mutant: Mutant| {
        set(Some(mutant));
        let mut broken =
            (1..=seeds).filter_map(|seed| Some((seed, run(Plan::of(seed, workers)).err()?)));
        let after = broken.next();
        set(None);
        Caught { mutant, after }
    };
    Mutant::ALL.into_iter().map(one).collect()
}

/// Without the feature there are no mutants, and only the sound farm can be run.
#[cfg(not(feature = "mutants"))]
pub fn check(_seeds: u64, workers: u64) -> Vec<Caught> {
    let sound = run(Plan::of(1, workers));
    debug_assert!(sound.is_ok(), "the sound farm keeps its promises");
    Vec::new()
}

/// The table, as it stands in the repository.
pub fn table(caught: &[Caught]) -> String {
    let mut text = String::from(
        "# What the checker notices\n\nEach line takes one promise away and says after how many schedules the checker \
         noticed, and what it said.\nMade by `cargo run -p zoetrope-sim --features mutants -- mutants --write`; the \
         programs do not compile with that feature.\n\n| mutant | caught by seed | what the checker said |\n| --- | --- | --- |\n",
    );
    for Caught { mutant, after } in caught {
        let (seed, said) = match after {
            Some((seed, said)) => (seed.to_string(), plain(said)),
            None => ("**not caught**".to_owned(), String::new()),
        };
        // Writing to a string cannot fail.
        let _ok = writeln!(text, "| `{}` | {seed} | {said} |", mutant.word());
    }
    text
}

/// One line of a table: without what would break it, and without ids.
fn plain(said: &str) -> String {
    let (mut text, mut run) = (String::new(), String::new());
    for c in said.replace(['|', '\n'], " ").chars().chain([' ']) {
        if c.is_ascii_hexdigit() {
            run.push(c);
            continue;
        }
        text.push_str(if run.len() > 12 { "…" } else { &run });
        run.clear();
        text.push(c);
    }
    text.trim().chars().take(200).collect()
}
