//! What was signed for each clip, and the proofs that it was published with. Pure; part of the job table.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use zoetrope_protocol::id::JobId;
use zoetrope_protocol::provenance::{Proofs, SignedClaim};

/// Claims remembered of an unpublished clip: one for each attempt that came so far. A job is given up long before.
const CLAIMS_MAX: usize = 16;

/// Of one clip.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClipProofs {
    /// Claims that were signed and may be published, the newest last; none once one was.
    pub signed: Vec<SignedClaim>,
    /// What it was published with.
    pub published: Option<Proofs>,
}

/// Of all clips.
#[derive(Clone, Debug, Default)]
pub struct ProofTable {
    clips: BTreeMap<JobId, Arc<ClipProofs>>,
}

impl ProofTable {
    /// The table of a snapshot.
    pub fn from_rows(rows: Vec<(JobId, ClipProofs)>) -> ProofTable {
        let clips = rows.into_iter().map(|(job, proofs)| (job, Arc::new(proofs))).collect();
        ProofTable { clips }
    }

    /// What a snapshot must hold.
    pub fn to_rows(&self) -> Vec<(JobId, ClipProofs)> {
        self.clips.iter().map(|(job, proofs)| (*job, ClipProofs::clone(proofs))).collect()
    }

    pub(super) fn signed(&mut self, job: JobId, claim: SignedClaim) {
        let clip = Arc::make_mut(self.clips.entry(job).or_default());
        if clip.signed.iter().any(|known| known.manifest == claim.manifest) {
            return;
        }
        if clip.signed.len() >= CLAIMS_MAX {
            clip.signed.remove(0);
        }
        clip.signed.push(claim);
    }

    pub(super) fn proven(&mut self, job: JobId, proofs: Proofs) {
        let clip = ClipProofs { signed: Vec::new(), published: Some(proofs) };
        self.clips.insert(job, Arc::new(clip));
    }

    pub(super) fn forget(&mut self, job: JobId) {
        self.clips.remove(&job);
    }

    /// Claims of a clip that may be published.
    pub fn claims(&self, job: JobId) -> &[SignedClaim] {
        self.clips.get(&job).map_or(&[], |clip| clip.signed.as_slice())
    }

    /// What a clip was published with.
    pub fn of(&self, job: JobId) -> Option<&Proofs> {
        self.clips.get(&job)?.published.as_ref()
    }
}
