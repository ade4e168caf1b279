//! The signer: the only place where the private key is used.
//!
//! Not an oracle: it signs the claim of a manifest that says what the terms say, and one claim for each attempt.
//! Whether the attempt lives is the caller's to say. Runs in the coordinator, or in a process of its own.

use crate::certificates::Credential;
use crate::cose::{self, Beside};
use crate::{Refusal, claim};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use zoetrope_protocol::provenance::Terms;
use zoetrope_protocol::wire::Held;

/// Attempts that are remembered, so that a second claim of one is refused: an attempt lasts minutes, and a farm
/// finishes some hundred a second at most.
const REMEMBERED_MAX: usize = 100_000;

/// A signed claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What goes into the manifest's room.
    pub envelope: Vec<u8>,
    /// SHA-256 of the claim.
    pub claim: [u8; 32],
}

/// Signs claims.
pub struct Signer {
    credential: Credential,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    claims: BTreeMap<Held, [u8; 32]>,
    order: VecDeque<Held>,
}

impl Signer {
    /// A signer with this key.
    pub fn new(credential: Credential) -> Signer {
        Signer { credential, seen: Mutex::default() }
    }

    /// The certificates and the root.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Signs the claim of a manifest, if it says what it must. The same claim again is signed again.
    ///
    /// # Errors
    /// `Malformed`, `Terms`, `Twice`: this manifest is never signed; `Signer`.
    pub fn sign(&self, held: Held, terms: &Terms, manifest: &[u8]) -> Result<Signed, Refusal> {
        let checked = claim::check(manifest, terms)?;
        self.once(held, checked.digest)?;
        let protected = cose::protected(&self.credential.chain)?;
        let message = cose::to_be_signed(&protected, checked.bytes)?;
        let signature = self.credential.sign(&message).map_err(Refusal::Signer)?;
        let ocsp = self.credential.vouched().map_err(Refusal::Signer)?;
        let beside = Beside { time_stamp: None, ocsp };
        let envelope = cose::envelope(&protected, &signature, &beside, checked.room)?;
        Ok(Signed { envelope, claim: checked.digest })
    }

    fn once(&self, held: Held, claim: [u8; 32]) -> Result<(), Refusal> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.claims.get(&held) {
            Some(known) if *known == claim => return Ok(()),
            Some(_) => return Err(Refusal::Twice),
            None => {}
        }
        if seen.order.len() >= REMEMBERED_MAX
            && let Some(oldest) = seen.order.pop_front()
        {
            seen.claims.remove(&oldest);
        }
        seen.order.push_back(held);
        seen.claims.insert(held, claim);
        Ok(())
    }
}
