//! A policy's file and its lists, read strictly: unknown keys, and values out of their range, are refused by name.

use super::{
    BUILT_IN, ClassifierKind, Doubt, EndUsers, FramePolicy, Line, Pair, PerAudience, Policy,
    PolicyError, READING_FROM, SoundPolicy, Thresholds, Votes, Who,
};
use crate::minors::{MINORS_MAX, Minors};
use crate::models::NetName;
use crate::score;
use crate::text::Words;
use crate::text::heads::{HeadsFile, HeadsPolicy};
use crate::text::rules::{RuleFile, Rules};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use zoetrope_protocol::id::ArtifactId;
use zoetrope_protocol::moderation::{Audience, Category, SCORE_ONE};

/// A policy file and each of its lists: some thousand lines.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Pairs of sentences: each costs 3 KB and some microseconds a judged text.
const PAIRS_MAX: usize = 20_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyFile {
    name: String,
    reviewer: bool,
    models: BTreeMap<String, String>,
    pub(super) text: TextFile,
    frames: FramesFile,
    sound: SoundFile,
    faces: FacesFile,
    #[serde(default)]
    end_users: Vec<EndUsersFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TextFile {
    pub(super) rules: PathBuf,
    pub(super) pairs: PathBuf,
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
    prefix: Option<String>,
    id: Option<String>,
    audience: Option<String>,
    #[serde(default)]
    banned: bool,
}

impl Policy {
    pub(super) fn parse(
        file: &str,
        text: &str,
        list: impl Fn(&Path) -> Result<String, PolicyError>,
    ) -> Result<Policy, PolicyError> {
        let wrong = |file: &str, e: &dyn Display| PolicyError::Parse {
            file: file.to_owned(),
            reason: e.to_string(),
        };
        let parsed: PolicyFile = toml::from_str(text).map_err(|e| wrong(file, &e))?;
        let rules_file = parsed.text.rules.display().to_string();
        let (rules_text, pairs_text) = (list(&parsed.text.rules)?, list(&parsed.text.pairs)?);
        let rules: RuleFile = toml::from_str(&rules_text).map_err(|e| wrong(&rules_file, &e))?;
        // Whatever rules it has, it is judged by the built-in ones on minors too.
        let whole = digest(&[text, &rules_text, &pairs_text, BUILT_IN[1]].map(str::as_bytes));
        let reading = reading(text).map_err(|e| wrong(file, &e))?;
        let reading = digest(
            &[&reading, &rules_text, &pairs_text, BUILT_IN[1], BUILT_IN[2]].map(str::as_bytes),
        );
        let version = join(whole, reading);
        let built_in: RuleFile =
            toml::from_str(BUILT_IN[1]).map_err(|e| wrong("the built-in rules", &e))?;
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
        let named: HashSet<&str> = rules.words().collect();
        let others = built_in.words().filter(|word| !named.contains(word));
        let listed = rules.words().chain(others);
        let words = Words::new(listed, sentences.map(String::as_str).chain(frequent));
        let rules = Rules::new(rules).map_err(|e| wrong(&rules_file, &e))?;
        let minors = Minors::of(built_in).map_err(|e| wrong("the built-in rules", &e))?;
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
}

pub(super) fn text_of(path: &Path) -> Result<String, PolicyError> {
    let read = |reason: String| PolicyError::Read { path: path.to_owned(), reason };
    let bytes = std::fs::metadata(path).map_err(|e| read(e.to_string()))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(read(format!("it has {bytes} bytes, at most {FILE_BYTES_MAX} are read")));
    }
    std::fs::read_to_string(path).map_err(|e| read(e.to_string()))
}

/// The nets' digests stand in the policy's text, so they are part of it.
pub(super) fn digest(texts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    digest.finalize().into()
}

/// Grows when this program scores a text otherwise than before.
const READING: u32 = 5;

/// What of a policy's text decides how texts score: all but what is known to be about something else. A key that comes
/// later is taken for one that decides.
fn reading(text: &str) -> Result<String, toml::de::Error> {
    let mut policy: toml::Table = toml::from_str(text)?;
    for other in ["name", "reviewer", "frames", "sound", "faces", "end_users"] {
        policy.remove(other);
    }
    if let Some(toml::Value::Table(text)) = policy.get_mut("text") {
        // Thresholds; and the names of the lists, whose texts are looked at themselves.
        for other in ["default", "category", "rules", "pairs"] {
            text.remove(other);
        }
    }
    Ok(format!("{READING} {} {policy}", env!("CARGO_PKG_VERSION")))
}

/// Half of each.
pub(super) fn join(whole: [u8; 32], reading: [u8; 32]) -> ArtifactId {
    let mut version = whole;
    version[READING_FROM..].copy_from_slice(&reading[READING_FROM..]);
    ArtifactId(version)
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
        let (key, who) = match (class.prefix, class.id) {
            (Some(prefix), None) => ("prefix", Who::Prefix(prefix)),
            (None, Some(id)) => ("id", Who::Id(id)),
            (prefix, _) => {
                let found = if prefix.is_some() { "both" } else { "neither" };
                let allowed = format!("a table with either prefix or id, got {found}");
                return Err(PolicyError::Range { key: format!("end_users[{n}]"), allowed });
            }
        };
        let (Who::Prefix(text) | Who::Id(text)) = &who;
        length(&format!("end_users[{n}].{key}"), text.chars().count() as u64, 1, 128)?;
        let audience = class.audience.as_deref().map(|word| {
            word.parse::<Audience>().map_err(|()| PolicyError::Range {
                key: format!("end_users[{n}].audience"),
                allowed: format!("one of all, teen, adult, got {word:?}"),
            })
        });
        Ok(EndUsers { who, audience: audience.transpose()?, banned: class.banned })
    };
    file.into_iter().enumerate().map(class).collect()
}

pub(super) fn read_pairs(file: &str, text: &str) -> Result<Vec<Pair>, PolicyError> {
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
