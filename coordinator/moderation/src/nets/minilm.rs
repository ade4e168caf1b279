//! MiniLM (Apache-2.0, int8): a sentence becomes 384 numbers; alike sentences point the same way.

use super::wordpiece::WordPiece;
use super::{Net, NetError, ints};
use crate::models::{self, ModelsError, NetName};
use rten::ThreadPool;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use zoetrope_protocol::id::ArtifactId;

/// Numbers of an embedding.
pub const WIDTH: usize = 384;
/// Tokens of a piece of text at most, first and last included: what the net was trained on.
pub const TOKENS_MAX: usize = 128;

/// An embedding of length 1.
pub type Embedding = [f32; WIDTH];

/// The net with its vocabulary.
pub struct Minilm {
    net: Net,
    words: WordPiece,
}

impl Minilm {
    /// Loads both.
    ///
    /// # Errors
    /// `ModelsError`.
    pub fn load(
        folder: &Path,
        digests: &BTreeMap<NetName, ArtifactId>,
        threads: &Arc<ThreadPool>,
    ) -> Result<Minilm, ModelsError> {
        let net = Net::load(folder, NetName::Minilm, digests, threads)?;
        let json = models::read(folder, NetName::MinilmTokenizer, digests)?;
        let path = folder.join(NetName::MinilmTokenizer.file());
        let words = WordPiece::read(&json).map_err(|reason| ModelsError::Load { path, reason })?;
        Ok(Minilm { net, words })
    }

    /// Cuts a text into pieces that the net can see whole. No piece for a text without a word.
    pub fn pieces(&self, text: &str) -> Vec<Vec<i32>> {
        let tokens = self.words.tokens(text);
        tokens.chunks(TOKENS_MAX - 2).map(|inner| self.piece(inner)).collect()
    }

    /// Pieces of so many tokens of a text, each beginning `step` tokens behind the one before; none for a text that is not
    /// half as long again as one of them.
    pub fn windows(&self, text: &str, width: usize, step: usize) -> Vec<Vec<i32>> {
        let tokens = self.words.tokens(text);
        if tokens.len() * 2 < width * 3 {
            return Vec::new();
        }
        let last = tokens.len() - width;
        let starts = (0..last).step_by(step).chain([last]);
        starts.map(|start| self.piece(&tokens[start..start + width])).collect()
    }

    fn piece(&self, inner: &[i32]) -> Vec<i32> {
        let mut piece = vec![self.words.first];
        piece.extend(inner);
        piece.push(self.words.last);
        piece
    }

    /// Whether a piece has nothing that the net knows: no Latin word and no number.
    pub fn is_foreign(&self, piece: &[i32]) -> bool {
        !piece.iter().any(|token| self.words.is_latin(*token))
    }

    /// The words that are one token.
    pub fn vocabulary(&self) -> impl Iterator<Item = &str> {
        self.words.vocabulary()
    }

    /// Embeds pieces, in their order. One at a time: the int8 net scales its activations by all that is in a run,
    /// so in company a sentence would get other numbers than alone.
    ///
    /// # Errors
    /// `NetError`.
    pub fn embed(&self, pieces: &[Vec<i32>]) -> Result<Vec<Embedding>, NetError> {
        pieces.iter().map(|piece| self.one(piece)).collect()
    }

    fn one(&self, piece: &[i32]) -> Result<Embedding, NetError> {
        let s = piece.len();
        if s == 0 || s > TOKENS_MAX {
            return Err(self.net.error(format!("a piece of {s} tokens")));
        }
        let inputs = vec![
            ("input_ids", ints([1, s], piece.to_vec())),
            ("attention_mask", ints([1, s], vec![1; s])),
            ("token_type_ids", ints([1, s], vec![0; s])),
        ];
        let outputs = self.net.run(inputs, &["last_hidden_state"])?;
        let hidden = outputs.first().filter(|hidden| hidden.len() == s * WIDTH);
        let hidden =
            hidden.ok_or_else(|| self.net.error("it gave another shape than (1, s, 384)"))?;
        let mut sum = [0.0; WIDTH];
        for row in hidden.chunks_exact(WIDTH) {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        Ok(normalised(sum))
    }
}

fn normalised(mut vector: Embedding) -> Embedding {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|x| *x /= length);
    vector
}

/// How alike two embeddings are, -1 to 1.
pub fn likeness(a: &Embedding, b: &Embedding) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
