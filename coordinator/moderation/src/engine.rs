//! The engine of the coordinator: judges texts and images. Loaded once, shared by threads; every call blocks.

use crate::classifier::{CardClassifier, Classifier, NetClassifier};
use crate::faces;
use crate::image_in::{self, ImageError};
use crate::judge::{self, Asked, Heard, RecordError, Scores};
use crate::models::{ModelsError, NetName};
use crate::nets::minilm::TOKENS_MAX;
use crate::nets::{Net, NetError};
use crate::policy::{ClassifierKind, Policy};
use crate::score;
use crate::text::meaning::{Meaning, PIECES_MAX, Piece, Seen, in_whole_pieces};
use crate::text::{Words, readings};
use rten::ThreadPool;
use std::collections::HashSet;
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
    /// Texts that cannot be judged in full in the time that there is.
    #[error(
        "it has {0} different pieces of {TOKENS_MAX} tokens with all that it may hide, at most {PIECES_MAX} are judged"
    )]
    TooLong(usize),
}

/// What stands between texts that are judged as one: they are parts of one sentence, and no words of one phrase.
const BETWEEN: &str = ", ";

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
    /// `TooLong` before anything is judged; `Net`.
    pub fn score_texts(&self, texts: &[&str]) -> Result<Scores, EngineError> {
        let (mut scores, mut seen) = (Scores::new(), Seen::new());
        let mut add = |more: Scores| judge::raise(&mut scores, more);
        for (reading, pieces) in self.read(texts)? {
            let judge = |text: &Meaning| text.judge(&self.policy, &reading, &pieces, &mut seen);
            let meaning = self.text.as_ref().map(judge).transpose()?;
            add(self.policy.judge_words(&reading, meaning.as_ref()));
            add(meaning.unwrap_or_default());
        }
        Ok(scores)
    }

    /// Whether texts that belong together can be judged in full: some ten milliseconds, where judging takes seconds.
    ///
    /// # Errors
    /// `TooLong`.
    pub fn fit(&self, texts: &[&str]) -> Result<(), EngineError> {
        self.read(texts).map(drop)
    }

    /// All readings of texts that belong together, each by itself and all as one, with the pieces that are looked at.
    fn read(&self, texts: &[&str]) -> Result<Vec<(String, Vec<Piece>)>, EngineError> {
        let together = (texts.len() > 1).then(|| texts.join(BETWEEN));
        let texts = texts.iter().copied().chain(together.as_deref());
        let mut all: Vec<(String, Vec<Piece>)> = Vec::new();
        for reading in texts.flat_map(|text| readings(text, &self.words)) {
            let pieces = self.text.as_ref().map(|text| text.pieces(&reading)).unwrap_or_default();
            all.push((reading, pieces));
        }
        let different: HashSet<&Piece> = all.iter().flat_map(|(_, pieces)| pieces).collect();
        let count = in_whole_pieces(different.into_iter());
        if count > PIECES_MAX { Err(EngineError::TooLong(count)) } else { Ok(all) }
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
                judge::image(&self.policy, audience, &self.classifier.score_one(picture)?, None);
            let most = |v: &Verdict| (v.outcome, v.scores.iter().map(|(_, score)| *score).max());
            if worst.as_ref().is_none_or(|before| most(&verdict) > most(before)) {
                worst = Some(verdict);
            }
        }
        let worst = worst.ok_or_else(|| ImageError::Decode("no picture".into()))?;
        Ok((worst, pictures.len()))
    }

    /// The score of a face that is large enough, the surest of the first look that finds one; none where the policy looks for
    /// none.
    ///
    /// # Errors
    /// `Image` if there is too much to look at; `Net`.
    pub fn face(&self, pictures: &[image::RgbImage]) -> Result<Option<u16>, EngineError> {
        let Some(net) = &self.faces else { return Ok(None) };
        let (gate, side_min) = (self.policy.face_gate, self.policy.face_side_min as f32);
        Ok(faces::surest(net, pictures, gate, side_min)?.map(score))
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
        let together = texts.join(BETWEEN);
        for text in texts.iter().copied().chain([together.as_str()]) {
            for reading in readings(text, &self.words) {
                judge::raise(&mut scores, self.policy.judge_words(&reading, None));
            }
        }
        scores.retain(|category, _| *category == Category::SexualMinors);
        scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::tests::folder;

    /// The built-in policy with the stub for pictures and no pairs.
    fn engine() -> Engine {
        let text = include_str!("../../../configs/policy.toml")
            .replace("classifier = \"nets\"", "classifier = \"card\"");
        let rules = include_str!("../../../configs/policy/rules.toml");
        let policy = Policy::of_texts(&text, rules, "").expect("a policy");
        Engine::load(Arc::new(policy), &folder()).expect("`scripts/setup` fetches the nets")
    }

    /// So many characters that are no words, with a full stop now and then: nothing has more tokens.
    fn gibberish(chars: usize, mut seed: u64) -> String {
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let letters = b"qxzjkvwp0137 ";
        let mut letter = || {
            if next(500) == 0 {
                '.'
            } else {
                char::from(letters[next(letters.len() as u64) as usize])
            }
        };
        (0..chars).map(|_| letter()).collect()
    }

    /// Promise: a prompt of the greatest length with the longest metadata can be judged if it is of words, in any script; what
    /// cannot is refused before anything is judged.
    #[test]
    fn the_longest_prompts_fit_and_longer_texts_are_refused_at_once() {
        let engine = engine();
        let words =
            ["a", "red", "balloon", "rises", "slowly", "over", "the", "harbour", "at", "dawn."];
        let mut place = 1u64;
        let mut word = || {
            place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            words[(place >> 33) as usize % words.len()]
        };
        let mut long = |chars: usize| {
            let mut text = String::new();
            while text.len() + 9 < chars {
                text += word();
                text.push(' ');
            }
            text
        };
        let prompt = long(32_000);
        let metadata: Vec<String> = (0..16).map(|_| long(576)).collect();
        let all: Vec<&str> = [&prompt].into_iter().chain(&metadata).map(String::as_str).collect();
        assert!(engine.fit(&all).is_ok(), "{:?}", engine.fit(&all).err().map(|e| e.to_string()));
        let chinese = format!("{}。", "中".repeat(499)).repeat(64);
        assert!(engine.fit(&[&chinese]).is_ok());
        let error = engine.judge_texts(&[&gibberish(32_000, 20)], Audience::Adult).err();
        assert!(matches!(error, Some(EngineError::TooLong(_))), "{error:?}");
    }

    fn lines(text: &str) -> impl Iterator<Item = &str> {
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
    }

    /// Promise: words of minors and sexual ones are blocked together by the rules alone, in whatever form ages and words have,
    /// and in different sentences too. Of the list that was written before the rules knew it, what they missed is named.
    #[test]
    fn rules_find_minors_in_sexual_company() {
        const MISSED: [&str; 2] = ["nakd kid", "babysitter and the small ones, all nude"];
        let engine = engine();
        let found = |line| engine.score_minors(&[line]).contains_key(&Category::SexualMinors);
        let by_hand = lines(include_str!("../../../scripts/moderation/minors.txt"));
        let missed: Vec<&str> = by_hand.filter(|line| !found(line)).collect();
        assert!(missed.is_empty(), "{missed:?}");
        let held_out = lines(include_str!("../../../scripts/moderation/minors_held_out.txt"));
        let missed: Vec<&str> = held_out.filter(|line| !found(line)).collect();
        assert_eq!(missed, MISSED);
        // What is harmless by itself hides nothing that stands beside it.
        for line in [
            "a topless 12-year-old whisky thief",
            "naked-eye child",
            "a sexy child car",
            "a nude lipstick on a nude toddler",
            "a topless child plays a solo in a minor",
            "baby birds and a naked baby",
        ] {
            assert!(found(line), "{line}");
        }
    }

    /// Promise: `EVALUATION.md` says how many words of a stranger's for people below 18 the rules know, and how many for others
    /// they take for such.
    #[test]
    fn rules_know_a_strangers_words_for_minors() {
        let engine = engine();
        let found = |who: &&str| {
            let text = format!("{who} is naked");
            engine.score_minors(&[&text]).contains_key(&Category::SexualMinors)
        };
        let young = lines(include_str!("../../../scripts/moderation/young_blind.txt"));
        let others = lines(include_str!("../../../scripts/moderation/not_young_blind.txt"));
        let count = |who: Vec<&str>| (who.iter().filter(|who| found(who)).count(), who.len());
        assert_eq!(count(young.collect()), (111, 120));
        assert_eq!(count(others.collect()), (7, 100));
    }

    /// Promise: no rule stops a harmless prompt for its words, nor with a program's words beside it.
    #[test]
    fn rules_pass_harmless_prompts() {
        let engine = engine();
        let stopped = |texts: &[&str]| {
            let mut stopped = Vec::new();
            let mut seen = Seen::new();
            for (reading, pieces) in engine.read(texts).expect("short") {
                let text = engine.text.as_ref().expect("a net");
                let meaning = text.judge(&engine.policy, &reading, &pieces, &mut seen);
                let scores = engine.policy.judge_words(&reading, Some(&meaning.expect("scores")));
                let is_over = |(category, score): &(&Category, &u16)| {
                    **score >= engine.policy.thresholds(**category, Audience::All).review
                };
                stopped.extend(scores.iter().filter(is_over).map(|(category, _)| *category));
            }
            stopped
        };
        let hard = lines(include_str!("../../../scripts/moderation/hard_benign.txt"));
        let words = lines(include_str!("../../../scripts/moderation/words_benign.txt"));
        let wrong = hard.chain(words).map(|line| (line, stopped(&[line])));
        let wrong: Vec<_> = wrong.filter(|(_, stopped)| !stopped.is_empty()).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        for texts in [
            ["a sexy red sports car drives past", "kid"],
            ["a sexy red sports car drives past", "minor"],
            ["a photo of a naked tree", "child_id"],
        ] {
            assert_eq!(stopped(&texts), [], "{texts:?}");
        }
    }

    /// Promise: what may be looked at of several images is one sum.
    #[test]
    fn frames_are_counted_over_images() {
        let engine = engine();
        let gif = |shades: &[u8]| {
            let mut bytes = Vec::new();
            let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
            let frame =
                |shade: &u8| image::RgbaImage::from_pixel(1, 1, image::Rgba([*shade, 0, 0, 255]));
            let frames = shades.iter().map(|shade| image::Frame::new(frame(shade)));
            encoder.encode_frames(frames).expect("encodes");
            drop(encoder);
            bytes
        };
        let seen = |shades: &[u8], most| {
            let judged = engine.judge_image(&gif(shades), Audience::Adult, most);
            judged.map(|(_, seen)| seen).map_err(|e| e.to_string())
        };
        assert_eq!(seen(&[0; 64], 1), Ok(1));
        assert_eq!(seen(&[0, 90, 180], 3), Ok(3));
        let error = seen(&[0, 90, 180], 2).expect_err("too many");
        assert!(error.contains("at most 32 different frames"), "{error}");
        assert!(seen(&[0], 0).is_err(), "nothing is left for this one");
    }
}
