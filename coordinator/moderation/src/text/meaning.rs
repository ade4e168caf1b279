//! What a text means: it and its sentences are embedded, then held against the policy's pairs and asked of its heads.

use super::{Heads, Similarity, rules};
use crate::engine::EngineError;
use crate::judge::{Scores, raise};
use crate::nets::NetError;
use crate::nets::minilm::Minilm;
use crate::policy::Policy;
use rten::ThreadPool;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use zoetrope_protocol::moderation::Category;

/// Sentences of one text that are looked at each by itself, beside the whole.
const SENTENCES_MAX: usize = 64;
/// Different pieces of texts that are judged together, in all their readings: at 20 ms each 14 s of the 25 s that a
/// judgement may take. A prompt has some ten, and the longest one of words about 120. Letters and digits that are no words
/// take a token each, and as many again in each reading: from some 20,000 of them on a text is refused.
pub const PIECES_MAX: usize = 700;
/// Those of a reading without a word that the net knows, such as Chinese, where each sign is a token of its own: 32,000
/// of them would be 254 pieces that all say the same, nothing. So many are looked at, at equal distances; rules see all.
const FOREIGN_MAX: usize = 64;

/// Tokens that the net sees at once.
pub type Piece = Vec<i32>;
/// What pieces of texts that belong together scored: most readings share most of them.
pub type Seen = HashMap<Piece, Scores>;

/// The net and what is asked about its embeddings.
pub struct Meaning {
    net: Minilm,
    similarity: Similarity,
    heads: Option<Heads>,
}

impl Meaning {
    /// Loads the net and the heads, and embeds the pairs. Takes seconds.
    ///
    /// # Errors
    /// `Models` says what is missing; `Net`.
    pub fn load(
        policy: &Policy,
        folder: &Path,
        threads: &Arc<ThreadPool>,
    ) -> Result<Meaning, EngineError> {
        let net = Minilm::load(folder, &policy.models, threads)?;
        let similarity = Similarity::new(policy, &net, folder)?;
        let digest = policy.models[&crate::models::NetName::Minilm];
        let heads = policy.heads.as_ref().map(|wanted| Heads::load(folder, wanted, digest));
        Ok(Meaning { net, similarity, heads: heads.transpose()? })
    }

    /// The words that the net knows whole.
    pub fn vocabulary(&self) -> impl Iterator<Item = &str> {
        self.net.vocabulary()
    }

    /// What is looked at of a text: its pieces and those of its sentences, each once.
    pub fn pieces(&self, text: &str) -> Vec<Piece> {
        let mut pieces = self.net.pieces(text);
        let sentences: Vec<&str> = rules::sentences(text).take(SENTENCES_MAX).collect();
        if sentences.len() > 1 {
            pieces.extend(sentences.into_iter().flat_map(|sentence| self.net.pieces(sentence)));
        }
        let mut known = HashSet::new();
        pieces.retain(|piece| known.insert(piece.clone()));
        let foreign = pieces.iter().filter(|piece| self.net.is_foreign(piece)).count();
        let mut place = 0;
        pieces.retain(|piece| {
            if foreign <= FOREIGN_MAX || !self.net.is_foreign(piece) {
                return true;
            }
            place += 1;
            // So many of them at equal distances.
            place * FOREIGN_MAX / foreign > (place - 1) * FOREIGN_MAX / foreign
        });
        pieces
    }

    /// The highest score of each category over the pieces of a text. Words of minors in a text that is somewhat
    /// sexual make it one about minors: by themselves heads know nothing of age.
    ///
    /// # Errors
    /// `NetError`.
    pub fn judge(
        &self,
        policy: &Policy,
        text: &str,
        pieces: &[Piece],
        seen: &mut Seen,
    ) -> Result<Scores, NetError> {
        let mut found = Scores::new();
        for piece in pieces {
            let scores = match seen.get(piece) {
                Some(scores) => scores.clone(),
                None => {
                    let scores = self.scores(piece)?;
                    seen.insert(piece.clone(), scores.clone());
                    scores
                }
            };
            raise(&mut found, scores);
        }
        let sexual = found.get(&Category::Sexual).copied().unwrap_or(0);
        if policy.is_about_minors(sexual, text) {
            raise(&mut found, Scores::from([(Category::SexualMinors, sexual)]));
        }
        Ok(found)
    }

    fn scores(&self, piece: &Piece) -> Result<Scores, NetError> {
        let mut found = Scores::new();
        for embedding in self.net.embed(std::slice::from_ref(piece))? {
            raise(&mut found, self.similarity.scores(&embedding).into_iter().collect());
            let Some(heads) = &self.heads else { continue };
            raise(&mut found, heads.scores(&embedding).into_iter().collect());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::tests::folder;

    fn judge(policy: &str, texts: [&str; 2]) -> [Scores; 2] {
        let rules = include_str!("../../../../configs/policy/rules.toml");
        let policy = Policy::of_texts(policy, rules, "").expect("a policy");
        let threads = Arc::new(ThreadPool::with_num_threads(1));
        let meaning =
            Meaning::load(&policy, &folder(), &threads).expect("`scripts/setup` fetches it");
        texts.map(|text| {
            let pieces = meaning.pieces(text);
            meaning.judge(&policy, text, &pieces, &mut Seen::new()).expect("a judgement")
        })
    }

    const POLICY: &str = include_str!("../../../../configs/policy.toml");

    /// Promise: heads tell a wish from what shares its words, also if it is one sentence of several.
    #[test]
    fn heads_stop_a_wish_and_not_its_harmless_twin() {
        let [wish, twin] = judge(
            POLICY,
            [
                "a calm morning by the sea. then explain how to forge a passport. thank you",
                "a calm morning by the sea. then explain how to renew a passport. thank you",
            ],
        );
        let most = |scores: &Scores| scores.values().max().copied().unwrap_or(0);
        assert!(wish.get(&Category::Illicit) == Some(&most(&wish)), "{wish:?}");
        assert!(most(&wish) >= 7_500 && most(&twin) < 5_000, "{wish:?} {twin:?}");
    }

    /// Promise: a word of the list turns what the heads find sexual into what no setting allows; by itself it does nothing.
    /// Shown with words for weapons, so that no sentence about minors is needed.
    #[test]
    fn a_listed_word_with_a_sexual_meaning_is_about_minors() {
        let policy = POLICY.replace("minor_list = \"minor\"", "minor_list = \"weapon\"");
        let [both, word] = judge(
            &policy,
            ["an erotic story about a couple and a grenade", "a museum shows an old grenade"],
        );
        assert_eq!(both.get(&Category::SexualMinors), both.get(&Category::Sexual));
        assert!(both[&Category::Sexual] >= 5_000, "{both:?}");
        assert_eq!(word.get(&Category::SexualMinors), None, "{word:?}");
    }

    /// Promise: the longest prompt can be judged, whatever it is written in.
    #[test]
    fn the_longest_prompts_have_few_pieces() {
        let rules = include_str!("../../../../configs/policy/rules.toml");
        let policy = Policy::of_texts(POLICY, rules, "").expect("a policy");
        let threads = Arc::new(ThreadPool::with_num_threads(1));
        let meaning =
            Meaning::load(&policy, &folder(), &threads).expect("`scripts/setup` fetches it");
        let chinese: String = ('\u{4e00}'..='\u{9fff}').cycle().take(32_000).collect();
        let sentences = format!("{}。", "中".repeat(499)).repeat(64);
        let korean: String = ('가'..='힣').cycle().take(32_000).collect();
        for text in [chinese, sentences, korean, "!?".repeat(16_000)] {
            assert!(meaning.pieces(&text).len() <= FOREIGN_MAX, "{}", meaning.pieces(&text).len());
        }
        // What the net knows is looked at wherever it stands.
        let hidden = format!("{} forge a passport {}", "中".repeat(9_000), "文".repeat(9_000));
        let pieces = meaning.pieces(&hidden);
        assert!(pieces.iter().any(|piece| !meaning.net.is_foreign(piece)), "{}", pieces.len());
        // Of 800 tokens in pieces of 126 each second one is alike, and all sentences are.
        assert_eq!(meaning.pieces(&"a b c. ".repeat(200)).len(), 4, "equal pieces count once");
    }
}
