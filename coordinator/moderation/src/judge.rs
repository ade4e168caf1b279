//! From scores to a verdict: pure, the policy decides. Equal scores, equal policy, equal verdict.

use crate::policy::{Line, Policy};
use std::collections::BTreeMap;
use zoetrope_protocol::clip::FPS;
use zoetrope_protocol::id::ArtifactId;
use zoetrope_protocol::moderation::{
    Audience, Category, FrameRecord, FrameScore, Outcome, Verdict,
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
    #[error("the frames were scored by {found}, the policy wants {wanted}")]
    Nets {
        /// Who did.
        found: String,
        /// Who should have.
        wanted: String,
    },
    /// It is about another file.
    #[error("the record is about another clip")]
    OtherClip,
}

/// Judges the scores of a text.
pub fn text(policy: &Policy, audience: Audience, scores: &Scores) -> Verdict {
    let vote = |(category, score): (&Category, &u16)| {
        let at = policy.thresholds(*category, audience);
        let outcome = match *score {
            score if score >= at.block => Outcome::Block,
            score if score >= at.review => Outcome::Review,
            _ => Outcome::Pass,
        };
        (*category, outcome)
    };
    verdict(policy, audience, scores.iter().map(vote), scores.clone())
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

/// Judges a clip by the record of its sampled frames.
///
/// # Errors
/// `RecordError` if the record is no evidence for this clip.
pub fn clip(
    policy: &Policy,
    audience: Audience,
    record: &FrameRecord,
    clip: ArtifactId,
    frames: u32,
) -> Result<Verdict, RecordError> {
    if record.clip != clip {
        return Err(RecordError::OtherClip);
    }
    let wanted = policy.frame_nets();
    if record.nets != wanted {
        let names = |nets: &[zoetrope_protocol::moderation::NetId]| {
            let name = |net: &zoetrope_protocol::moderation::NetId| {
                format!("{} {}", net.name, &net.sha256.to_string()[..12])
            };
            nets.iter().map(name).collect::<Vec<_>>().join(", ")
        };
        return Err(RecordError::Nets { found: names(&record.nets), wanted: names(&wanted) });
    }
    if !record.covers(frames) {
        return Err(RecordError::Uncovered);
    }
    let votes: Vec<(u32, Category, Outcome)> = record
        .scores
        .iter()
        .flat_map(|seen| {
            let votes = frame_votes(policy, audience, seen);
            votes.into_iter().map(|(category, outcome)| (seen.frame, category, outcome))
        })
        .collect();
    let near = policy.frames.block_within_ms.saturating_mul(FPS) / 1_000;
    let blocks: Vec<u32> =
        votes.iter().filter(|(.., o)| *o == Outcome::Block).map(|(frame, ..)| *frame).collect();
    let mut voters = blocks.clone();
    voters.dedup();
    let wanted = policy.frames.block_votes as usize;
    // A clip of fewer samples than votes are wanted is blocked by all of them.
    let wanted = wanted.min(record.scores.len());
    let blocked = voters.windows(wanted).any(|some| some[wanted - 1] - some[0] <= near);
    let soften = |(_, category, outcome): &(u32, Category, Outcome)| {
        let lone = *outcome == Outcome::Block && !blocked;
        (*category, if lone { Outcome::Review } else { *outcome })
    };
    Ok(verdict(policy, audience, votes.iter().map(soften), scores_of(&record.scores)))
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
    }
}
