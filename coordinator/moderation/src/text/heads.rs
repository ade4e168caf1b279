//! Linear heads over an embedding: how sure is it that a text violates, and what?
//!
//! One class for what is harmless and one for each category, fitted by `scripts/moderation/heads.py` on sentences of our
//! own. The built-in ones are those of `configs/policy/heads.safetensors`; a policy names them by digest, so other heads
//! are another policy. Never: words; those are rules.

use crate::minors::MINORS_MAX;
use crate::models::{ModelsError, NetName};
use crate::nets::minilm::{Embedding, WIDTH};
use crate::policy::{PolicyError, at_most, share};
use crate::score;
use crate::text::rules::Rules;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::Path;
use zoetrope_protocol::id::ArtifactId;
use zoetrope_protocol::moderation::Category;

/// The heads that are built in.
pub const BUILT_IN: &[u8] = include_bytes!("../../../../configs/policy/heads.safetensors");
/// Others, in the folder of the nets.
const FILE: &str = "text-heads.safetensors";
/// The largest file that is read: fifteen classes of 385 numbers are 23 KB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The class that is no category.
const HARMLESS: &str = "harmless";

/// What a policy's file says of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeadsFile {
    sha256: String,
    minor_list: String,
    minor_sexual: f32,
}

/// The heads that judge embeddings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadsPolicy {
    /// Their file's digest.
    pub sha256: ArtifactId,
    /// The list of words that tell of minors.
    pub minor_list: String,
    /// From which score as `sexual` on a text with one of these words is `sexual/minors`.
    pub minor_sexual: u16,
}

impl HeadsPolicy {
    /// # Errors
    /// `PolicyError` names the key and what is allowed.
    pub(crate) fn of(file: HeadsFile, rules: &Rules) -> Result<HeadsPolicy, PolicyError> {
        let wrong = |key: &str, allowed: &str| PolicyError::Range {
            key: format!("text.heads.{key}"),
            allowed: allowed.to_owned(),
        };
        let digest = "the SHA-256 of their file, 64 hexadecimal digits";
        let sha256 = file.sha256.parse().map_err(|_| wrong("sha256", digest))?;
        if !rules.has(&file.minor_list) {
            return Err(wrong(
                "minor_list",
                &format!("a list of the rules, got {:?}", file.minor_list),
            ));
        }
        let minor_sexual = share("text.heads.minor_sexual", file.minor_sexual)?;
        at_most("text.heads.minor_sexual", minor_sexual, MINORS_MAX.block)?;
        Ok(HeadsPolicy { sha256, minor_list: file.minor_list, minor_sexual })
    }
}

/// The heads.
pub struct Heads {
    /// No category for what is harmless.
    classes: Vec<(Option<Category>, Embedding, f32)>,
    scale: f32,
    shift: f32,
}

impl Heads {
    /// The heads that a policy names: those built in, or a file in the folder of the nets. `net` is the digest of the
    /// net that embeds: heads of another one would speak nonsense.
    ///
    /// # Errors
    /// `ModelsError` says which file is wanted.
    pub fn load(
        folder: &Path,
        wanted: &HeadsPolicy,
        net: ArtifactId,
    ) -> Result<Heads, ModelsError> {
        let digest = |bytes: &[u8]| ArtifactId(Sha256::digest(bytes).into());
        let path = folder.join(FILE);
        let load = |reason: String| ModelsError::Load { path: path.clone(), reason };
        if digest(BUILT_IN) == wanted.sha256 {
            return Heads::read(BUILT_IN, net).map_err(load);
        }
        let not_there = |reason: String| {
            let built_in = digest(BUILT_IN);
            load(format!(
                "text.heads.sha256 is not that of the built-in heads ({built_in}), and {reason}"
            ))
        };
        let bytes = std::fs::metadata(&path).map_err(|e| not_there(e.to_string()))?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(load(format!("{bytes} bytes are no such file")));
        }
        let bytes = std::fs::read(&path).map_err(|e| not_there(e.to_string()))?;
        let (found, wanted) = (digest(&bytes), wanted.sha256);
        if found != wanted {
            return Err(ModelsError::Digest { path, found, wanted });
        }
        Heads::read(&bytes, net).map_err(load)
    }

    /// Reads and checks a file.
    fn read(bytes: &[u8], net: ArtifactId) -> Result<Heads, String> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
        let said = header.metadata().clone().unwrap_or_default();
        let word = |key: &str| said.get(key).cloned().ok_or(format!("its metadata lacks {key:?}"));
        let of: ArtifactId =
            word("net")?.parse().map_err(|_| "its metadata \"net\" is no digest".to_owned())?;
        if of != net {
            return Err(format!(
                "it was fitted on {} {of}, the policy has {net}",
                NetName::Minilm.word()
            ));
        }
        let classes: Vec<Option<Category>> = word("classes")?
            .split(',')
            .map(|name| match name {
                HARMLESS => Ok(None),
                name => name.parse().map(Some).map_err(|()| format!("{name:?} is no category")),
            })
            .collect::<Result<_, String>>()?;
        if classes.iter().filter(|class| class.is_none()).count() != 1 || classes.len() < 2 {
            return Err(format!("its classes must be {HARMLESS:?} once and categories"));
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let n = classes.len();
        let weights = numbers(&tensors, "weights", &[n, WIDTH])?;
        let bias = numbers(&tensors, "bias", &[n])?;
        let calibration = numbers(&tensors, "calibration", &[2])?;
        let row = |(class, (row, bias)): (Option<Category>, (&[f32], f32))| {
            let mut weights = [0.0; WIDTH];
            weights.copy_from_slice(row);
            (class, weights, bias)
        };
        let rows = weights.chunks_exact(WIDTH).zip(bias);
        let classes = classes.into_iter().zip(rows).map(row).collect();
        Ok(Heads { classes, scale: calibration[0], shift: calibration[1] })
    }

    /// The score of an embedding in each category. The likeliest category has all of the doubt about harmlessness; the
    /// others have their share of it, so that a text between two categories scores in both.
    pub fn scores(&self, of: &Embedding) -> Vec<(Category, u16)> {
        let logit = |weights: &Embedding, bias: f32| {
            weights.iter().zip(of).map(|(w, x)| w * x).sum::<f32>() + bias
        };
        let mut harmless = 0.0;
        let mut violating = Vec::with_capacity(self.classes.len());
        for (class, weights, bias) in &self.classes {
            match class {
                None => harmless = logit(weights, *bias),
                Some(category) => violating.push((*category, logit(weights, *bias))),
            }
        }
        let most = violating.iter().fold(f32::MIN, |most, (_, logit)| most.max(*logit));
        let sum: f32 = violating.iter().map(|(_, logit)| (logit - most).exp()).sum();
        let odds = most + sum.ln() - harmless;
        let sure = 1.0 / (1.0 + (-(self.scale * odds + self.shift)).exp());
        let share =
            |(category, logit): (Category, f32)| (category, score(sure * (logit - most).exp()));
        violating.into_iter().map(share).collect()
    }
}

fn numbers(tensors: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let tensor = tensors.tensor(name).map_err(|e| format!("{name}: {e}"))?;
    if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
        let (kind, found) = (tensor.dtype(), tensor.shape());
        return Err(format!("{name} must be F32 {shape:?}, it is {kind:?} {found:?}"));
    }
    let of = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let numbers: Vec<f32> = tensor.data().chunks_exact(4).map(of).collect();
    if numbers.iter().all(|number| number.is_finite()) {
        return Ok(numbers);
    }
    Err(format!("{name} has values that are no numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;
    use std::collections::HashMap;

    const NET: ArtifactId = ArtifactId([7; 32]);

    /// Heads that look at the first two numbers only: harmless, `hate` along one, `sexual` along the other.
    fn file(change: impl Fn(&mut Vec<f32>, &mut HashMap<String, String>)) -> Vec<u8> {
        let mut weights = vec![0.0f32; 3 * WIDTH];
        weights[WIDTH] = 4.0;
        weights[2 * WIDTH + 1] = 4.0;
        let mut said = HashMap::from([
            ("net".to_owned(), NET.to_string()),
            ("classes".to_owned(), "harmless,hate,sexual".to_owned()),
        ]);
        change(&mut weights, &mut said);
        let bytes = |all: &[f32]| all.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let parts = [
            ("weights", vec![weights.len() / WIDTH, WIDTH], bytes(&weights)),
            ("bias", vec![3], bytes(&[0.0, -1.0, -1.0])),
            ("calibration", vec![2], bytes(&[1.0, 0.0])),
        ];
        let views = parts.iter().map(|(name, shape, data)| {
            (*name, TensorView::new(Dtype::F32, shape.clone(), data).expect("a tensor"))
        });
        safetensors::serialize(views, Some(said)).expect("a file")
    }

    fn unit(at: usize) -> Embedding {
        let mut embedding = [0.0; WIDTH];
        embedding[at] = 1.0;
        embedding
    }

    #[test]
    fn the_likeliest_category_has_all_of_the_score_and_the_others_their_share() {
        let heads = Heads::read(&file(|_, _| ()), NET).expect("good");
        let scores = heads.scores(&unit(0));
        // Odds (e³ + e⁻¹) : 1, and of that e⁻⁴ for the other.
        assert_eq!(scores, [(Category::Hate, 9534), (Category::Sexual, 175)]);
        let of = |embedding| heads.scores(&embedding).iter().map(|(_, s)| *s).max();
        assert_eq!(of(unit(1)), Some(9534));
        assert_eq!(of(unit(2)), Some(4239), "neither");
    }

    #[test]
    fn a_bad_file_is_refused_with_what_is_wrong() {
        let read = |bytes: Vec<u8>, net| Heads::read(&bytes, net).err().unwrap_or_default();
        let said = |key: &str, value: &str| {
            file(|_, said| {
                said.insert(key.to_owned(), value.to_owned());
            })
        };
        for (bytes, net, named) in [
            (b"nothing".to_vec(), NET, "header"),
            (file(|_, _| ()), ArtifactId([8; 32]), "it was fitted on minilm 0707"),
            (said("classes", "harmless,hat,sexual"), NET, "\"hat\" is no category"),
            (said("classes", "hate,hate,sexual"), NET, "must be \"harmless\" once"),
            (said("classes", "harmless,hate"), NET, "weights must be F32 [2, 384]"),
            (said("net", "7"), NET, "is no digest"),
            (file(|weights, _| weights[5] = f32::NAN), NET, "weights has values that are no"),
            (file(|_, said| said.clear()), NET, "its metadata lacks \"net\""),
        ] {
            let error = read(bytes, net).to_lowercase();
            assert!(error.contains(&named.to_lowercase()), "{named}: {error}");
        }
    }

    #[test]
    fn the_policy_finds_its_heads_built_in_or_beside_the_nets() {
        let folder = tempfile::tempdir().expect("a folder");
        let of = |bytes: &[u8]| HeadsPolicy {
            sha256: ArtifactId(Sha256::digest(bytes).into()),
            minor_list: String::new(),
            minor_sexual: 0,
        };
        let built_in = crate::Policy::built_in().expect("good");
        let (wanted, net) =
            (built_in.heads.as_ref().expect("heads"), built_in.models[&NetName::Minilm]);
        assert_eq!(Heads::load(folder.path(), wanted, net).expect("built in").classes.len(), 13);
        let own = file(|_, _| ());
        let load = |wanted: &HeadsPolicy| {
            Heads::load(folder.path(), wanted, NET).map(|heads| heads.classes.len())
        };
        let missing = load(&of(&own)).expect_err("not there").to_string();
        assert!(missing.contains("is not that of the built-in heads"), "{missing}");
        std::fs::write(folder.path().join(FILE), &own).expect("writes");
        assert_eq!(load(&of(&own)).expect("there"), 3);
        assert!(matches!(load(&of(b"others")), Err(ModelsError::Digest { .. })));
    }
}
