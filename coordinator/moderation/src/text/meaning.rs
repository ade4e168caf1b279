//! What a text means: it and its sentences are embedded, then held against the policy's pairs and asked of its heads.

use super::{Heads, Similarity, rules};
use crate::engine::EngineError;
use crate::judge::{Scores, raise};
use crate::nets::NetError;
use crate::nets::minilm::{Embedding, Minilm};
use crate::policy::Policy;
use rten::ThreadPool;
use std::path::Path;
use std::sync::Arc;
use zoetrope_protocol::moderation::Category;

/// Sentences of one text that are looked at each by itself, beside the whole.
const SENTENCES_MAX: usize = 64;
/// Pieces of one text: 32,000 characters of four tokens each would be a thousand; a prompt has some ten.
const PIECES_MAX: usize = 320;

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

    /// The highest score of each category over a text and its sentences. Words of minors in a text that the heads find
    /// somewhat sexual make it one about minors: by themselves heads know nothing of age.
    ///
    /// # Errors
    /// `NetError`, also for a text that is too long to be looked at as a whole.
    pub fn judge(&self, policy: &Policy, text: &str) -> Result<Scores, NetError> {
        let mut found = Scores::new();
        for embedding in self.embedded(text)? {
            raise(&mut found, self.similarity.scores(&embedding).into_iter().collect());
            let Some(heads) = &self.heads else { continue };
            raise(&mut found, heads.scores(&embedding).into_iter().collect());
        }
        let sexual = found.get(&Category::Sexual).copied().unwrap_or(0);
        if policy.heads.as_ref().is_some_and(|heads| sexual >= heads.minor_sexual)
            && policy.speaks_of_minors(text)
        {
            raise(&mut found, Scores::from([(Category::SexualMinors, sexual)]));
        }
        Ok(found)
    }

    /// The embeddings of a text in pieces, and of each of its sentences.
    fn embedded(&self, text: &str) -> Result<Vec<Embedding>, NetError> {
        let mut pieces = self.net.pieces(text);
        let sentences: Vec<&str> = rules::sentences(text).take(SENTENCES_MAX).collect();
        if sentences.len() > 1 {
            pieces.extend(sentences.into_iter().flat_map(|sentence| self.net.pieces(sentence)));
        }
        if pieces.len() > PIECES_MAX {
            let reason =
                format!("a text of {} pieces, at most {PIECES_MAX} are judged", pieces.len());
            return Err(NetError { net: "minilm", reason });
        }
        self.net.embed(&pieces)
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
        texts.map(|text| meaning.judge(&policy, text).expect("a judgement"))
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
}
