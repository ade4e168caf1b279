//! What the farm says of a clip in its C2PA manifest, and the proofs that a clip must have before it is readable.
//!
//! Plain data for the wire and the journal: fields and variants are appended, never reordered. What a manifest
//! looks like is the business of the package `zoetrope-provenance`.

use crate::id::{ArtifactId, Millis};
use serde::{Deserialize, Serialize};

/// The largest manifest that a worker may have signed: 14 KB are usual, an ingredient with its own history adds
/// about as much again, and a frame of the wire holds four of these.
pub const MANIFEST_BYTES_MAX: usize = 256 << 10;

/// Room that a manifest leaves for its signature: certificates 2 KB, time stamp 6 KB, OCSP response 4 KB.
pub const SIGNATURE_BYTES: u32 = 16_000;

/// What the manifest of a clip must say, decided by the coordinator. The worker writes exactly this into the
/// file, and the signer signs nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The video's id in the API.
    pub video: String,
    /// Version of the farm's programs.
    pub farm: String,
    /// When the clip was made.
    pub created: Millis,
    /// The model, `id@sha256:…` of its weights where that is known.
    pub model: String,
    /// The licence of the model's weights.
    pub license: String,
    /// The seed.
    pub seed: u64,
    /// Version of the policy that the farm judges by when it signs; none where nothing judges.
    pub policy: Option<String>,
    /// The marks in picture and sound that lead back to this manifest.
    pub marks: Vec<MarkBinding>,
    /// How the clip came to be.
    pub origin: Origin,
    /// Bytes to leave free for the signature.
    pub signature_bytes: u32,
}

/// How a clip came to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Made from nothing but words.
    Generated,
    /// Made from an earlier clip, whose manifest comes along.
    Edited {
        /// The id of the earlier video.
        parent: String,
    },
}

/// A mark in the clip: the soft binding of its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkBinding {
    /// The kind of mark, a name in reverse DNS with its version.
    pub alg: String,
    /// What the mark carries.
    pub value: Vec<u8>,
}

/// What the signer noted of a claim that it signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedClaim {
    /// SHA-256 of the file before the manifest came into it.
    pub unsigned: ArtifactId,
    /// SHA-256 of the manifest with its signature: that is what must be in the file, to the last byte. Noted before that was
    /// so: of the claim's bytes alone.
    pub manifest: [u8; 32],
    /// When.
    pub at: Millis,
}

/// Proof that a file is signed: read back from the stored bytes, not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedProof {
    /// The file that was signed, without its manifest.
    pub unsigned: ArtifactId,
    /// The stored file: exactly these bytes are published.
    pub file: ArtifactId,
    /// SHA-256 of the claim in it.
    pub claim: [u8; 32],
    /// SHA-256 of the certificate that it leads to.
    pub root: [u8; 32],
    /// When its bytes were read back.
    pub checked: Millis,
}

/// Proof that a file carries the farm's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkedProof {
    /// The file in which the mark was found; the signed proof goes on from it.
    pub file: ArtifactId,
    /// The mark that was read.
    pub mark: u32,
}

/// Proof that a clip passed moderation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeratedProof {
    /// What was judged; the marked proof goes on from it.
    pub file: ArtifactId,
    /// Version of the policy.
    pub policy: String,
}

/// The proofs of one clip. A proof that is missing is none: only what the farm is configured to do without may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proofs {
    /// Moderated.
    pub moderated: Option<ModeratedProof>,
    /// Marked.
    pub marked: Option<MarkedProof>,
    /// Signed.
    pub signed: Option<SignedProof>,
}

/// Why the proofs do not lead to the stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// There is no such proof.
    #[error("the {0} proof is missing")]
    Missing(&'static str),
    /// Two proofs speak of different bytes.
    #[error("the {0} proof is of other bytes")]
    OtherBytes(&'static str),
    /// The policy is another one by now.
    #[error("the moderated proof is of another policy")]
    OtherPolicy,
}

/// Which proofs the farm asks for. The signed proof is always asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Moderated by this policy.
    pub policy: Option<String>,
    /// Marked.
    pub marked: bool,
}

impl Proofs {
    /// Whether the chain closes on exactly these stored bytes.
    ///
    /// # Errors
    /// `Gap` names the first proof that is missing or of other bytes.
    pub fn close(&self, stored: ArtifactId, demand: &Demand) -> Result<(), Gap> {
        let signed = self.signed.as_ref().ok_or(Gap::Missing("signed"))?;
        if signed.file != stored {
            return Err(Gap::OtherBytes("signed"));
        }
        match &self.marked {
            Some(marked) if marked.file != signed.unsigned => {
                return Err(Gap::OtherBytes("marked"));
            }
            None if demand.marked => return Err(Gap::Missing("marked")),
            _ => {}
        }
        match (&self.moderated, &demand.policy) {
            (None, Some(_)) => Err(Gap::Missing("moderated")),
            (Some(proof), Some(policy)) if proof.policy != *policy => Err(Gap::OtherPolicy),
            (Some(proof), _) if proof.file != signed.unsigned => Err(Gap::OtherBytes("moderated")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> ArtifactId {
        ArtifactId([byte; 32])
    }

    /// Promise: proofs of other bytes, or no proofs, open nothing.
    #[test]
    fn the_chain_closes_on_the_stored_bytes_alone() {
        let signed = SignedProof {
            unsigned: id(1),
            file: id(2),
            claim: [3; 32],
            root: [4; 32],
            checked: Millis(5),
        };
        let marked = MarkedProof { file: id(1), mark: 7 };
        let all = Proofs { signed: Some(signed), marked: Some(marked), moderated: None };
        let demand = Demand { policy: None, marked: true };
        assert_eq!(all.close(id(2), &demand), Ok(()));
        assert_eq!(all.close(id(1), &demand), Err(Gap::OtherBytes("signed")));
        assert_eq!(Proofs::default().close(id(2), &demand), Err(Gap::Missing("signed")));
        let unmarked = Proofs { marked: None, ..all.clone() };
        assert_eq!(unmarked.close(id(2), &demand), Err(Gap::Missing("marked")));
        assert_eq!(unmarked.close(id(2), &Demand::default()), Ok(()));
        let other = Proofs { marked: Some(MarkedProof { file: id(9), mark: 7 }), ..all.clone() };
        assert_eq!(other.close(id(2), &Demand::default()), Err(Gap::OtherBytes("marked")));
        let strict = Demand { policy: Some("2026-11-01".into()), marked: false };
        assert_eq!(all.close(id(2), &strict), Err(Gap::Missing("moderated")));
        let moderated = |policy: &str| ModeratedProof { file: id(1), policy: policy.into() };
        let with = |policy: &str| Proofs { moderated: Some(moderated(policy)), ..all.clone() };
        assert_eq!(with("2026-11-01").close(id(2), &strict), Ok(()));
        assert_eq!(with("2025-01-01").close(id(2), &strict), Err(Gap::OtherPolicy));
    }
}
