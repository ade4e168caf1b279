//! Words of moderation that wire, journal and API share: categories, audiences, what was measured on a clip's
//! frames, and what was decided of it. Judges nothing: that is `zoetrope-moderation`.
//!
//! Fields and variants are appended, never reordered: they are on the wire and in the journal.

use crate::clip::FPS;
use crate::id::ArtifactId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Scores are whole ten-thousandths, so that they compare and encode the same everywhere.
pub const SCORE_ONE: u16 = 10_000;
/// Sampled frames of one clip: 120 s at 2 a second, with a cut at every second, fit twice.
pub const FRAMES_MAX: usize = 1_024;

/// What something may be blocked for. The first 13 are those of the moderations API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)] // the words of the API say it
pub enum Category {
    Harassment,
    HarassmentThreatening,
    Hate,
    HateThreatening,
    Illicit,
    IllicitViolent,
    SelfHarm,
    SelfHarmIntent,
    SelfHarmInstructions,
    Sexual,
    SexualMinors,
    Violence,
    ViolenceGraphic,
    /// The face of a person of whom no consent is on record. None of the API's 13.
    LikenessUnconsented,
    /// Somebody speaks in a clip and nobody understood what. None of the API's 13.
    SoundUnintelligible,
}

impl Category {
    /// All categories, those of the API first.
    pub const ALL: [Category; 15] = [
        Category::Harassment,
        Category::HarassmentThreatening,
        Category::Hate,
        Category::HateThreatening,
        Category::Illicit,
        Category::IllicitViolent,
        Category::SelfHarm,
        Category::SelfHarmIntent,
        Category::SelfHarmInstructions,
        Category::Sexual,
        Category::SexualMinors,
        Category::Violence,
        Category::ViolenceGraphic,
        Category::LikenessUnconsented,
        Category::SoundUnintelligible,
    ];

    /// The 13 of the moderations API.
    pub fn of_api() -> &'static [Category] {
        &Category::ALL[..13]
    }

    /// Its spelling in the API, with slashes and dashes.
    pub fn word(self) -> &'static str {
        match self {
            Category::Harassment => "harassment",
            Category::HarassmentThreatening => "harassment/threatening",
            Category::Hate => "hate",
            Category::HateThreatening => "hate/threatening",
            Category::Illicit => "illicit",
            Category::IllicitViolent => "illicit/violent",
            Category::SelfHarm => "self-harm",
            Category::SelfHarmIntent => "self-harm/intent",
            Category::SelfHarmInstructions => "self-harm/instructions",
            Category::Sexual => "sexual",
            Category::SexualMinors => "sexual/minors",
            Category::Violence => "violence",
            Category::ViolenceGraphic => "violence/graphic",
            Category::LikenessUnconsented => "likeness/unconsented",
            Category::SoundUnintelligible => "sound/unintelligible",
        }
    }

    /// Whether an image can score in it; the others are judged by text alone.
    pub fn sees_images(self) -> bool {
        matches!(
            self,
            Category::SelfHarm
                | Category::SelfHarmIntent
                | Category::SelfHarmInstructions
                | Category::Sexual
                | Category::Violence
                | Category::ViolenceGraphic
                | Category::LikenessUnconsented
        )
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Category {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Category::ALL.into_iter().find(|category| category.word() == text).ok_or(())
    }
}

/// For whom a clip is. The order is from the strictest to the laxest.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub enum Audience {
    /// Everybody: the strictest thresholds.
    #[default]
    All,
    /// From 13 to 17 years.
    Teen,
    /// Grown-ups.
    Adult,
}

impl Audience {
    /// All audiences, the strictest first.
    pub const ALL: [Audience; 3] = [Audience::All, Audience::Teen, Audience::Adult];

    /// The word for it in the API and the policy.
    pub fn word(self) -> &'static str {
        match self {
            Audience::All => "all",
            Audience::Teen => "teen",
            Audience::Adult => "adult",
        }
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Audience {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Audience::ALL.into_iter().find(|audience| audience.word() == text).ok_or(())
    }
}

/// What is done with something that was judged. The order is that of severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    /// It goes on.
    Pass,
    /// A person has to look; without a reviewer that is a block.
    Review,
    /// It ends here.
    Block,
}

impl Outcome {
    /// The word for it in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Pass => "pass",
            Outcome::Review => "review",
            Outcome::Block => "block",
        }
    }
}

/// A decision, with what it rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What is done.
    pub outcome: Outcome,
    /// The categories that asked for it; empty exactly when it passes.
    pub categories: Vec<Category>,
    /// The highest score of each category that was looked at, in ten-thousandths, in the order of the categories.
    pub scores: Vec<(Category, u16)>,
    /// For whom it was judged.
    pub audience: Audience,
    /// The version of the policy: a digest of all that decides.
    pub policy: ArtifactId,
    /// Of a clip: when it showed or said what asked for the outcome; at most [`SPANS_MAX`], the earliest.
    pub spans: Vec<Span>,
}

/// Spans of one verdict: a caller who cuts a clip looks at the first ones.
pub const SPANS_MAX: usize = 64;

/// Where in a clip something is that asked for a review or a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// Its beginning.
    pub start_ms: u32,
    /// Its end.
    pub end_ms: u32,
    /// What it is.
    pub category: Category,
    /// The score there, in ten-thousandths.
    pub score: u16,
}

/// What the classifiers see in one frame, in ten-thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameScore {
    /// Index of the frame in the clip.
    pub frame: u32,
    /// Nudity and sex, by the first net.
    pub nsfw: u16,
    /// The same by the second net.
    pub explicit: u16,
    /// Gore, by the second net.
    pub gore: u16,
    /// Perceptual hash: neighbouring bits compare neighbouring patches of an 9×8 grey picture.
    pub hash: u64,
}

/// A net that scored, by name and bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NetId {
    /// Its name in the policy.
    pub name: String,
    /// SHA-256 of its file.
    pub sha256: ArtifactId,
}

/// Utterances of one clip: 120 s, of which each takes at least a quarter of a second with two seconds of pause behind.
pub const UTTERANCES_MAX: usize = 64;
/// Bytes of what is understood of one utterance: it has 224 tokens at most, of some 5 bytes.
pub const WORDS_BYTES_MAX: usize = 4_096;

/// A stretch of speech, and what was understood of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Utterance {
    /// Its beginning in the clip.
    pub start_ms: u32,
    /// Its end.
    pub end_ms: u32,
    /// The words; empty if none were understood.
    pub words: String,
    /// How sure the recogniser is of them, in ten-thousandths: the mean probability of a token.
    pub confidence: u16,
    /// How much it doubts that anybody speaks, in ten-thousandths.
    pub no_speech: u16,
}

/// What was heard in the sound of a clip. Without an utterance nobody speaks in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoundRecord {
    /// The length of the sound that was listened to.
    pub length_ms: u32,
    /// Who listened.
    pub nets: Vec<NetId>,
    /// The utterances in their order; at most [`UTTERANCES_MAX`].
    pub speech: Vec<Utterance>,
}

impl SoundRecord {
    /// Whether it is about the whole sound of a clip of so many frames. One that is not is no evidence.
    pub fn covers(&self, frames: u32) -> bool {
        // The sound has a whole number of samples, so it may miss the last millisecond.
        let length_ms = u64::from(frames) * 1_000 / u64::from(FPS);
        let sane = |one: &Utterance| {
            one.start_ms < one.end_ms
                && one.end_ms <= self.length_ms
                && one.words.len() <= WORDS_BYTES_MAX
                && one.confidence <= SCORE_ONE
                && one.no_speech <= SCORE_ONE
        };
        u64::from(self.length_ms).abs_diff(length_ms) <= 1
            && self.speech.len() <= UTTERANCES_MAX
            && self.speech.iter().all(sane)
            && self.speech.windows(2).all(|pair| pair[0].end_ms <= pair[1].start_ms)
    }
}

/// What a finish attempt measured on its clip: the evidence that the coordinator judges by its policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameRecord {
    /// SHA-256 over the sampled frames as they were decoded (RGB, canvas size, in order), before marks and encoding.
    pub frames_digest: ArtifactId,
    /// Frames that the samples were taken from: all of the clip.
    pub frames: u32,
    /// The clip that was made of these frames.
    pub clip: ArtifactId,
    /// Who scored.
    pub nets: Vec<NetId>,
    /// The sampled frames, by index, each once; at most [`FRAMES_MAX`].
    pub scores: Vec<FrameScore>,
    /// What was heard; none exactly if the clip has no sound.
    pub sound: Option<SoundRecord>,
}

/// Frames between two samples at most: 2 a second of 24.
pub const SAMPLE_EVERY: u32 = 12;

impl FrameRecord {
    /// Whether the samples cover a clip of so many frames: first and last, and none further apart than
    /// [`SAMPLE_EVERY`]. A record that does not is no evidence.
    pub fn covers(&self, frames: u32) -> bool {
        let rising = self.scores.windows(2).all(|pair| {
            pair[0].frame < pair[1].frame && pair[1].frame - pair[0].frame <= SAMPLE_EVERY
        });
        let sane = self.scores.iter().all(|score| {
            score.nsfw <= SCORE_ONE && score.explicit <= SCORE_ONE && score.gore <= SCORE_ONE
        });
        frames > 0
            && self.frames == frames
            && self.scores.len() <= FRAMES_MAX
            && self.scores.first().is_some_and(|score| score.frame == 0)
            && self.scores.last().is_some_and(|score| score.frame == frames - 1)
            && rising
            && sane
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(frames: &[u32], length: u32) -> FrameRecord {
        let score = |frame: &u32| FrameScore { frame: *frame, ..FrameScore::default() };
        FrameRecord {
            frames_digest: ArtifactId([1; 32]),
            frames: length,
            clip: ArtifactId([2; 32]),
            nets: vec![],
            scores: frames.iter().map(score).collect(),
            sound: None,
        }
    }

    #[test]
    fn a_record_with_a_hole_covers_nothing() {
        assert!(record(&[0, 12, 23], 24).covers(24));
        assert!(record(&[0], 1).covers(1));
        for (frames, length) in [
            (&[][..], 24),
            (&[0, 12], 24),
            (&[0, 13, 23], 24),
            (&[1, 12, 23], 24),
            (&[0, 0, 12, 23], 24),
        ] {
            assert!(!record(frames, length).covers(24), "{frames:?}");
        }
        assert!(!record(&[0, 12, 23], 24).covers(25), "another clip");
        let mut high = record(&[0, 12, 23], 24);
        high.scores[1].gore = SCORE_ONE + 1;
        assert!(!high.covers(24));
    }

    #[test]
    fn a_sound_record_must_be_about_the_whole_sound() {
        let utterance = |start_ms, end_ms| Utterance {
            start_ms,
            end_ms,
            words: "a ball bounces".into(),
            confidence: 9_000,
            no_speech: 100,
        };
        let record = |length_ms, speech| SoundRecord { length_ms, nets: vec![], speech };
        assert!(record(1_000, vec![]).covers(24));
        assert!(record(1_541, vec![]).covers(37), "37 frames are 1541.7 ms");
        assert!(record(1_000, vec![utterance(0, 300), utterance(300, 1_000)]).covers(24));
        for (length_ms, speech) in [
            (998, vec![]),
            (2_000, vec![]),
            (1_000, vec![utterance(0, 1_001)]),
            (1_000, vec![utterance(500, 500)]),
            (1_000, vec![utterance(400, 900), utterance(100, 300)]),
            (1_000, vec![Utterance { confidence: SCORE_ONE + 1, ..utterance(0, 300) }]),
            (1_000, vec![Utterance { words: "a".repeat(5_000), ..utterance(0, 300) }]),
        ] {
            assert!(!record(length_ms, speech.clone()).covers(24), "{length_ms} {speech:?}");
        }
    }

    #[test]
    fn words_are_read_back() {
        for category in Category::ALL {
            assert_eq!(category.word().parse(), Ok(category));
        }
        for audience in Audience::ALL {
            assert_eq!(audience.word().parse(), Ok(audience));
        }
    }
}
