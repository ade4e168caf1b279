//! Sentences compared with the policy's pairs: how much nearer is a text to what violates than to the harmless
//! twins that use the same words?

use crate::nets::NetError;
use crate::nets::minilm::{Embedding, Minilm, WIDTH, likeness};
use crate::policy::{Pair, Policy};
use crate::score;
use std::collections::BTreeMap;
use std::path::Path;
use zoetrope_protocol::id::ArtifactId;
use zoetrope_protocol::moderation::Category;

/// The embedded pairs.
pub struct Similarity {
    violating: BTreeMap<Category, Vec<Embedding>>,
    harmless: Vec<Embedding>,
    neighbours: usize,
    alike_min: f32,
}

impl Similarity {
    /// Embeds the pairs, or reads what an earlier start kept in `cache`.
    ///
    /// # Errors
    /// `NetError`.
    pub fn new(policy: &Policy, net: &Minilm, cache: &Path) -> Result<Similarity, NetError> {
        let sentences: Vec<&str> = policy
            .pairs
            .iter()
            .flat_map(|pair| [pair.violating.as_str(), pair.harmless.as_str()])
            .collect();
        let key = key(&policy.pairs, policy);
        let kept =
            std::fs::read(cache.join(file_of(key))).ok().and_then(|b| read(&b, sentences.len()));
        let embedded = match kept {
            Some(embedded) => embedded,
            None => {
                let pieces: Vec<Vec<i32>> = sentences
                    .iter()
                    .map(|s| net.pieces(s).into_iter().next().unwrap_or_default())
                    .collect();
                let embedded = net.embed(&pieces)?;
                keep(cache, key, &embedded);
                embedded
            }
        };
        let mut violating: BTreeMap<Category, Vec<Embedding>> = BTreeMap::new();
        let mut harmless = Vec::new();
        for (pair, both) in policy.pairs.iter().zip(embedded.chunks_exact(2)) {
            violating.entry(pair.category).or_default().push(both[0]);
            harmless.push(both[1]);
        }
        let (neighbours, alike_min) = (policy.neighbours, policy.alike_min);
        Ok(Similarity { violating, harmless, neighbours, alike_min })
    }

    /// The score of one embedding in each category that it is alike to at all.
    pub fn scores(&self, of: &Embedding) -> Vec<(Category, u16)> {
        let harmless = self.nearest(of, &self.harmless);
        let score_of = |(category, all): (&Category, &Vec<Embedding>)| {
            let alike = self.nearest(of, all);
            let margin = 0.5 + 2.5 * (alike - harmless);
            (alike >= self.alike_min && margin > 0.0).then(|| (*category, score(margin)))
        };
        self.violating.iter().filter_map(score_of).collect()
    }

    /// Mean likeness to the nearest ones.
    fn nearest(&self, of: &Embedding, all: &[Embedding]) -> f32 {
        let mut alike: Vec<f32> = all.iter().map(|other| likeness(of, other)).collect();
        alike.sort_by(|a, b| b.total_cmp(a));
        alike.truncate(self.neighbours);
        if alike.is_empty() { 0.0 } else { alike.iter().sum::<f32>() / alike.len() as f32 }
    }
}

/// What the embeddings depend on: the sentences and the net.
fn key(pairs: &[Pair], policy: &Policy) -> ArtifactId {
    let mut text = String::new();
    for digest in policy.models.values() {
        text.push_str(&digest.to_string());
    }
    for pair in pairs {
        text.extend([pair.violating.as_str(), "\n", pair.harmless.as_str(), "\n"]);
    }
    ArtifactId::of(text.as_bytes())
}

fn file_of(key: ArtifactId) -> String {
    format!("pairs-{}.f32", &key.to_string()[..16])
}

fn read(bytes: &[u8], count: usize) -> Option<Vec<Embedding>> {
    let numbers: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let whole = bytes.len() == count * WIDTH * 4 && numbers.iter().all(|x| x.is_finite());
    let row = |row: &[f32]| {
        let mut embedding = [0.0; WIDTH];
        embedding.copy_from_slice(row);
        embedding
    };
    whole.then(|| numbers.chunks_exact(WIDTH).map(row).collect())
}

/// Keeps the embeddings for the next start. A folder that cannot be written only costs time.
fn keep(folder: &Path, key: ArtifactId, embedded: &[Embedding]) {
    let bytes: Vec<u8> = embedded.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let (path, temp) = (
        folder.join(file_of(key)),
        folder.join(format!("{}.{}", file_of(key), std::process::id())),
    );
    let written = std::fs::write(&temp, bytes).and_then(|()| std::fs::rename(&temp, &path));
    if let Err(error) = written {
        tracing::info!(%error, path = %path.display(), "embedded policy sentences are not kept");
    }
}
