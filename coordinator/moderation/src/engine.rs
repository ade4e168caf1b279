//! The engine of the coordinator: judges texts and images. Loaded once, shared by threads; every call blocks.

use crate::classifier::{CardClassifier, Classifier, NetClassifier};
use crate::image_in::{self, ImageError};
use crate::judge::{self, Asked, Heard, RecordError, Scores};
use crate::models::{ModelsError, NetName};
use crate::nets::{Net, NetError, yunet};
use crate::policy::{ClassifierKind, Policy};
use crate::score;
use crate::text::{Meaning, Words, readings};
use rten::ThreadPool;
use std::path::Path;
use std::sync::Arc;
use zoetrope_protocol::moderation::{
    Audience, Category, FrameRecord, FrameScore, Utterance, Verdict,
};

/// Why there is no verdict. Never a pass.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A net is missing or wrong.
    #[error(transparent)]
    Models(#[from] ModelsError),
    /// A net gave no answer.
    #[error(transparent)]
    Net(#[from] NetError),
    /// An image is refused.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A record is no evidence.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Judges by one policy.
pub struct Engine {
    policy: Arc<Policy>,
    words: Words,
    text: Option<Meaning>,
    classifier: Box<dyn Classifier>,
    faces: Option<Net>,
}

impl Engine {
    /// Loads the nets that the policy asks for, and embeds its pairs. Takes seconds.
    ///
    /// # Errors
    /// `Models` says which net is missing and how to get it.
    pub fn load(policy: Arc<Policy>, folder: &Path) -> Result<Engine, EngineError> {
        // Requests run side by side; each takes one core.
        let threads = Arc::new(ThreadPool::with_num_threads(1));
        let text =
            policy.similarity.then(|| Meaning::load(&policy, folder, &threads)).transpose()?;
        let (classifier, faces): (Box<dyn Classifier>, _) = match policy.frames.classifier {
            ClassifierKind::Card => (Box::new(CardClassifier), None),
            ClassifierKind::Nets => (
                Box::new(NetClassifier::load(folder, &policy.models, 1)?),
                Some(Net::load(folder, NetName::Yunet, &policy.models, &threads)?),
            ),
        };
        let words = policy.words.clone();
        let words = text.iter().fold(words, |words, text| words.with(text.vocabulary()));
        Ok(Engine { policy, words, text, classifier, faces })
    }

    /// The policy that it judges by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Scores texts that belong together: each by itself and all as one.
    ///
    /// # Errors
    /// `Net`.
    pub fn score_texts(&self, texts: &[&str]) -> Result<Scores, EngineError> {
        let mut scores = Scores::new();
        let mut add = |more: Scores| judge::raise(&mut scores, more);
        let together = (texts.len() > 1).then(|| texts.join(" "));
        for text in texts.iter().copied().chain(together.as_deref()) {
            for reading in readings(text, &self.words) {
                let meaning = self.text.as_ref().map(|text| text.judge(&self.policy, &reading));
                let meaning = meaning.transpose()?;
                add(self.policy.rules.judge(&reading, meaning.as_ref()));
                add(meaning.unwrap_or_default());
            }
        }
        Ok(scores)
    }

    /// Judges texts that belong together.
    ///
    /// # Errors
    /// `Net`.
    pub fn judge_texts(&self, texts: &[&str], audience: Audience) -> Result<Verdict, EngineError> {
        Ok(judge::text(&self.policy, audience, &self.score_texts(texts)?))
    }

    /// Judges an image of at most `frames_max` different frames; beside the verdict are those that were looked at. Faces
    /// are looked for first: one found, nothing else about the image is answered.
    ///
    /// # Errors
    /// `Image` if it is refused; `Net`.
    pub fn judge_image(
        &self,
        bytes: &[u8],
        audience: Audience,
        frames_max: usize,
    ) -> Result<(Verdict, usize), EngineError> {
        let pictures = image_in::distinct(image_in::pictures(bytes)?, frames_max)?;
        if let Some(face) = self.face(&pictures)? {
            let nothing = FrameScore::default();
            let verdict = judge::image(&self.policy, audience, &nothing, Some(face));
            return Ok((verdict, pictures.len()));
        }
        let mut worst: Option<Verdict> = None;
        for picture in &pictures {
            let verdict =
                judge::image(&self.policy, audience, &self.classifier.score(picture)?, None);
            let most = |v: &Verdict| (v.outcome, v.scores.iter().map(|(_, score)| *score).max());
            if worst.as_ref().is_none_or(|before| most(&verdict) > most(before)) {
                worst = Some(verdict);
            }
        }
        let worst = worst.ok_or_else(|| ImageError::Decode("no picture".into()))?;
        Ok((worst, pictures.len()))
    }

    /// The score of the surest face that is large enough; none where the policy looks for none.
    ///
    /// # Errors
    /// `Net`.
    pub fn face(&self, pictures: &[image::RgbImage]) -> Result<Option<u16>, EngineError> {
        let Some(net) = &self.faces else { return Ok(None) };
        let side = self.policy.face_side_min as f32;
        let mut surest = None;
        for picture in pictures {
            let found = yunet::faces(net, picture, self.policy.face_gate)?;
            let large = found.iter().filter(|face| face.width.min(face.height) >= side);
            surest = surest.max(large.map(|face| score(face.score)).max());
        }
        Ok(surest)
    }

    /// Judges a finished clip by the record of its frames and of its sound.
    ///
    /// # Errors
    /// `Record` if it is no evidence; `Net`.
    pub fn judge_clip(
        &self,
        record: &FrameRecord,
        asked: &Asked,
        audience: Audience,
    ) -> Result<Verdict, EngineError> {
        judge::evidence(&self.policy, record, asked)?;
        let heard = self.heard(record, false)?;
        Ok(judge::clip(&self.policy, audience, record, &heard))
    }

    /// Scores what is said in a clip: each utterance, and behind them all of them together. `only_minors`: as
    /// [`Engine::score_minors`].
    ///
    /// # Errors
    /// `Net`.
    pub fn heard(
        &self,
        record: &FrameRecord,
        only_minors: bool,
    ) -> Result<Vec<Heard>, EngineError> {
        let score = |words: &str| match only_minors {
            true => Ok(self.score_minors(&[words])),
            false => self.score_texts(&[words]),
        };
        let said: Vec<&Utterance> = judge::said(&self.policy, record).collect();
        let mut heard = Vec::new();
        for one in &said {
            let scores = score(&one.words)?;
            heard.push(Heard { start_ms: one.start_ms, end_ms: one.end_ms, scores });
        }
        if let [first, .., last] = said[..] {
            let whole = said.iter().map(|one| one.words.trim()).collect::<Vec<_>>().join(" ");
            let (start_ms, end_ms) = (first.start_ms, last.end_ms);
            heard.push(Heard { start_ms, end_ms, scores: score(&whole)? });
        }
        Ok(heard)
    }

    /// What the rules say of minors in texts, where a remote provider judges all else: no setting lets that pass.
    pub fn score_minors(&self, texts: &[&str]) -> Scores {
        let mut scores = Scores::new();
        let together = texts.join(" ");
        for text in texts.iter().copied().chain([together.as_str()]) {
            for reading in readings(text, &self.words) {
                judge::raise(&mut scores, self.policy.rules.judge(&reading, None));
            }
        }
        scores.retain(|category, _| *category == Category::SexualMinors);
        scores
    }
}
