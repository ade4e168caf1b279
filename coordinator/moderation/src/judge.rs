//! From scores to a verdict: pure, the policy decides. Equal scores, equal policy, equal verdict.

use crate::policy::{Doubt, Line, Policy};
use std::collections::BTreeMap;
use zoetrope_protocol::clip::FPS;
use zoetrope_protocol::id::ArtifactId;
use zoetrope_protocol::moderation::{
    Audience, Category, FrameRecord, FrameScore, NetId, Outcome, SCORE_ONE, SPANS_MAX, SoundRecord,
    Span, Utterance, Verdict,
};

/// Scores in ten-thousandths, the highest of each category.
pub type Scores = BTreeMap<Category, u16>;

/// A record that proves nothing. Never a pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It has holes, or too many or senseless scores.
    #[error("the record of sampled frames does not cover the clip")]
    Uncovered,
    /// Other nets than the policy's scored.
    #[error("the clip was scored by {found}, the policy wants {wanted}")]
    Nets {
        /// Who did.
        found: String,
        /// Who should have.
        wanted: String,
    },
    /// It does not say of the whole sound what is said in it, or speaks of a sound that is not there.
    #[error("the record does not cover the sound of the clip")]
    Unheard,
    /// It is about another file.
    #[error("the record is about another clip")]
    OtherClip,
}

/// Judges the scores of a text.
pub fn text(policy: &Policy, audience: Audience, scores: &Scores) -> Verdict {
    let vote = |(category, score): (&Category, &u16)| {
        (*category, text_vote(policy, audience, *category, *score))
    };
    verdict(policy, audience, scores.iter().map(vote), scores.clone())
}

fn text_vote(policy: &Policy, audience: Audience, category: Category, score: u16) -> Outcome {
    let at = policy.thresholds(category, audience);
    match score {
        score if score >= at.block => Outcome::Block,
        score if score >= at.review => Outcome::Review,
        _ => Outcome::Pass,
    }
}

/// Judges one image: a single vote is enough.
pub fn image(policy: &Policy, audience: Audience, seen: &FrameScore, face: Option<u16>) -> Verdict {
    let mut votes = frame_votes(policy, audience, seen);
    let mut scores = scores_of(std::slice::from_ref(seen));
    if let Some(score) = face {
        scores.insert(Category::LikenessUnconsented, score);
        votes.push((Category::LikenessUnconsented, Outcome::Block));
    }
    verdict(policy, audience, votes.into_iter(), scores)
}

/// What a record must be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The file.
    pub clip: ArtifactId,
    /// Its frames.
    pub frames: u32,
    /// Whether it has sound.
    pub audio: bool,
}

/// Raises scores to others, where those are higher.
pub fn raise(scores: &mut Scores, others: Scores) {
    for (category, score) in others {
        let kept = scores.entry(category).or_default();
        *kept = score.max(*kept);
    }
}

/// The utterances of a clip that say something.
pub fn said<'a>(
    policy: &'a Policy,
    record: &'a FrameRecord,
) -> impl Iterator<Item = &'a Utterance> {
    let all = record.sound.iter().flat_map(|sound| &sound.speech);
    all.filter(|one| !is_noise(policy, one) && !one.words.trim().is_empty())
}

/// Words of a clip, and how they scored.
pub struct Heard {
    /// When they began.
    pub start_ms: u32,
    /// When they ended.
    pub end_ms: u32,
    /// Their scores.
    pub scores: Scores,
}

/// Whether a record is evidence for a clip.
///
/// # Errors
/// `RecordError` says why not.
pub fn evidence(policy: &Policy, record: &FrameRecord, asked: &Asked) -> Result<(), RecordError> {
    if record.clip != asked.clip {
        return Err(RecordError::OtherClip);
    }
    same_nets(&record.nets, &policy.frame_nets())?;
    if !record.covers(asked.frames) {
        return Err(RecordError::Uncovered);
    }
    match &record.sound {
        None if asked.audio => Err(RecordError::Unheard),
        Some(_) if !asked.audio => Err(RecordError::Unheard),
        None => Ok(()),
        Some(sound) => {
            same_nets(&sound.nets, &policy.sound_nets())?;
            if sound.covers(asked.frames) { Ok(()) } else { Err(RecordError::Unheard) }
        }
    }
}

fn same_nets(found: &[NetId], wanted: &[NetId]) -> Result<(), RecordError> {
    if found == wanted {
        return Ok(());
    }
    let names = |nets: &[NetId]| {
        let name = |net: &NetId| format!("{} {}", net.name, &net.sha256.to_string()[..12]);
        nets.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    Err(RecordError::Nets { found: names(found), wanted: names(wanted) })
}

/// Judges a clip by the record of its sampled frames and of its sound, which must be [`evidence`]. `heard` are the
/// words of its sound.
pub fn clip(policy: &Policy, audience: Audience, record: &FrameRecord, heard: &[Heard]) -> Verdict {
    let (mut spans, mut scores) =
        (frame_spans(policy, audience, &record.scores), scores_of(&record.scores));
    for words in heard {
        for (category, score) in &words.scores {
            let kept = scores.entry(*category).or_default();
            *kept = (*score).max(*kept);
            let Heard { start_ms, end_ms, .. } = *words;
            let span = Span { start_ms, end_ms, category: *category, score: *score };
            spans.push((span, text_vote(policy, audience, *category, *score)));
        }
    }
    if let Some(sound) = &record.sound {
        let doubts = unintelligible(policy, sound);
        if let Some(most) = doubts.iter().map(|span| span.score).max() {
            scores.insert(Category::SoundUnintelligible, most);
        }
        spans.extend(doubts.into_iter().map(|span| (span, Outcome::Review)));
    }
    let votes = spans.iter().map(|(span, outcome)| (span.category, *outcome));
    let mut verdict = verdict(policy, audience, votes, scores);
    let stopping = spans.into_iter().filter(|(_, outcome)| *outcome > Outcome::Pass);
    verdict.spans = stopping.map(|(span, _)| span).collect();
    verdict.spans.sort();
    verdict.spans.dedup();
    verdict.spans.truncate(SPANS_MAX);
    verdict
}

/// Whether an utterance is taken for noise: the recogniser doubts that anybody speaks, and is unsure of its words.
pub fn is_noise(policy: &Policy, one: &Utterance) -> bool {
    one.no_speech >= policy.sound.no_speech && one.confidence < policy.sound.confidence_min
}

/// Speech that was not understood, where the policy does not let it pass. Its score is what is missing to certainty.
fn unintelligible(policy: &Policy, sound: &SoundRecord) -> Vec<Span> {
    if policy.sound.unintelligible == Doubt::Pass {
        return Vec::new();
    }
    let unclear = |one: &&Utterance| {
        let unsure = one.confidence < policy.sound.confidence_min;
        !is_noise(policy, one) && (unsure || one.words.trim().is_empty())
    };
    let span = |one: &Utterance| Span {
        start_ms: one.start_ms,
        end_ms: one.end_ms,
        category: Category::SoundUnintelligible,
        score: SCORE_ONE.saturating_sub(one.confidence),
    };
    sound.speech.iter().filter(unclear).map(span).collect()
}

/// What each sampled frame votes for, as a span of one frame.
fn frame_spans(policy: &Policy, audience: Audience, scores: &[FrameScore]) -> Vec<(Span, Outcome)> {
    let votes: Vec<(&FrameScore, Category, Outcome)> = scores
        .iter()
        .flat_map(|seen| {
            let votes = frame_votes(policy, audience, seen);
            votes.into_iter().map(move |(category, outcome)| (seen, category, outcome))
        })
        .collect();
    let near = policy.frames.block_within_ms.saturating_mul(FPS) / 1_000;
    let blocks = votes.iter().filter(|(.., o)| *o == Outcome::Block);
    let mut voters: Vec<u32> = blocks.map(|(seen, ..)| seen.frame).collect();
    voters.dedup();
    // A clip of fewer samples than votes are wanted is blocked by all of them.
    let wanted = (policy.frames.block_votes as usize).min(scores.len()).max(1);
    let blocked = voters.windows(wanted).any(|some| some[wanted - 1] - some[0] <= near);
    let soften = |(seen, category, outcome): (&FrameScore, Category, Outcome)| {
        let lone = outcome == Outcome::Block && !blocked;
        let millis = |frame: u32| (u64::from(frame) * 1_000 / u64::from(FPS)) as u32;
        let score =
            if category == Category::Sexual { seen.nsfw.max(seen.explicit) } else { seen.gore };
        let (start_ms, end_ms) = (millis(seen.frame), millis(seen.frame.saturating_add(1)));
        let span = Span { start_ms, end_ms, category, score };
        (span, if lone { Outcome::Review } else { outcome })
    };
    votes.into_iter().map(soften).collect()
}

fn frame_votes(policy: &Policy, audience: Audience, seen: &FrameScore) -> Vec<(Category, Outcome)> {
    let reached = |line: &&Line| {
        seen.nsfw >= line.nsfw && seen.explicit >= line.explicit && seen.gore >= line.gore
    };
    let votes = policy.frames.votes(audience);
    let of = |lines: &[Line], outcome: Outcome| {
        let category = |line: &Line| {
            if line.gore > 0 { Category::ViolenceGraphic } else { Category::Sexual }
        };
        lines.iter().filter(reached).map(|line| (category(line), outcome)).collect::<Vec<_>>()
    };
    let mut all = of(&votes.block, Outcome::Block);
    all.extend(of(&votes.review, Outcome::Review));
    // Gore is violence too.
    let graphic: Vec<_> =
        all.iter().filter(|(c, _)| *c == Category::ViolenceGraphic).copied().collect();
    all.extend(graphic.into_iter().map(|(_, outcome)| (Category::Violence, outcome)));
    all
}

fn scores_of(frames: &[FrameScore]) -> Scores {
    let most = |score: fn(&FrameScore) -> u16| frames.iter().map(score).max().unwrap_or(0);
    let gore = most(|seen| seen.gore);
    // The second net alone cries wolf at bare arms; where both see something, the surer one counts.
    let both =
        most(|seen| if seen.nsfw >= 1_500 { seen.explicit.max(seen.nsfw) } else { seen.nsfw });
    BTreeMap::from([
        (Category::Sexual, both),
        (Category::Violence, gore),
        (Category::ViolenceGraphic, gore),
    ])
}

fn verdict(
    policy: &Policy,
    audience: Audience,
    votes: impl Iterator<Item = (Category, Outcome)>,
    scores: Scores,
) -> Verdict {
    let mut worst: BTreeMap<Category, Outcome> = BTreeMap::new();
    for (category, outcome) in votes.filter(|(_, outcome)| *outcome > Outcome::Pass) {
        let outcome = if policy.reviewer { outcome } else { Outcome::Block };
        let kept = worst.entry(category).or_insert(outcome);
        *kept = outcome.max(*kept);
    }
    Verdict {
        outcome: worst.values().copied().max().unwrap_or(Outcome::Pass),
        categories: worst.into_keys().collect(),
        scores: scores.into_iter().collect(),
        audience,
        policy: policy.version,
        spans: Vec::new(),
    }
}
