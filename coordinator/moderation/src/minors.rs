//! What no policy can weaken: the built-in rules on what is sexual with minors, and how high its thresholds may be.
//!
//! A policy may be stricter, with words and rules of its own. Those that are built in are judged beside them.

use crate::judge::Scores;
use crate::policy::Thresholds;
use crate::text::rules::{MINOR, RuleFile, Rules, RulesError};
use zoetrope_protocol::moderation::Category;

/// The highest thresholds of `sexual/minors`, for every audience: those of the built-in policy. None may allow it, and
/// none may leave it to a reviewer.
pub(crate) const MINORS_MAX: Thresholds = Thresholds { review: 5_000, block: 5_000 };

/// The built-in rules on minors.
#[derive(Debug)]
pub(crate) struct Minors(Rules);

impl Minors {
    /// # Errors
    /// None that a test does not find.
    pub fn of(built_in: RuleFile) -> Result<Minors, RulesError> {
        Ok(Minors(Rules::new(built_in.only(Category::SexualMinors))?))
    }

    /// What they say of a reading of a text.
    pub fn judge(&self, reading: &str) -> Scores {
        // None of them asks what a text means.
        self.0.judge(reading, None)
    }

    /// Whether a text has a word that tells of minors.
    pub fn speak(&self, text: &str) -> bool {
        self.0.mentions(MINOR, text)
    }
}
