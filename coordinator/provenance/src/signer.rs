//! The signer: the only place where the private key is used.
//!
//! Not an oracle: it signs the claim of a manifest that says what the terms say, and one claim for each attempt.
//! Whether the attempt lives is the caller's to say. Runs in the coordinator, or in a process of its own.

use crate::certificates::{Credential, CredentialError, RENEW_DAYS};
use crate::cose::{self, Beside};
use crate::{Refusal, claim};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use zoetrope_protocol::provenance::Terms;
use zoetrope_protocol::wire::Held;

/// Attempts that are remembered, so that a second claim of one is refused: an attempt lasts minutes, and a farm
/// finishes some hundred a second at most.
const REMEMBERED_MAX: usize = 100_000;

/// Between two looks for a certificate that replaces one which ends soon, where something is to be signed.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
/// A signature, the certificates beside it, and some more.
const TRIAL_ROOM: usize = 64 << 10;

/// Gets the certificates anew: the farm's own are renewed by that, an operator may have put others in their place.
pub type Renew = Box<dyn Fn() -> Result<Credential, CredentialError> + Send + Sync>;

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
    credential: RwLock<Arc<Credential>>,
    renew: Option<Renew>,
    looked: Mutex<Option<Instant>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    claims: BTreeMap<Held, [u8; 32]>,
    order: VecDeque<Held>,
}

impl Signer {
    /// A signer with this key, as long as its certificate holds.
    pub fn new(credential: Credential) -> Signer {
        let credential = RwLock::new(Arc::new(credential));
        Signer { credential, renew: None, looked: Mutex::default(), seen: Mutex::default() }
    }

    /// The same, which takes up others before its certificate ends.
    #[must_use]
    pub fn renewed_by(self, renew: Renew) -> Signer {
        Signer { renew: Some(renew), ..self }
    }

    /// The certificates and the root.
    pub fn credential(&self) -> Arc<Credential> {
        self.credential.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes up other certificates if its own end soon. Whoever wants something signed looks for itself all the same: what
    /// keeps this one from it may be mended by then.
    pub fn take_up(&self) {
        // What is wrong is in the log.
        drop(self.renewed(&self.credential()));
    }

    /// The certificates, which hold now.
    fn holding(&self) -> Result<Arc<Credential>, Refusal> {
        let credential = self.credential();
        let left = credential.days_left();
        let soon = left < RENEW_DAYS as f64;
        let renewed = if soon && self.looks_now() { self.renewed(&credential) } else { Ok(None) };
        match renewed {
            Ok(Some(new)) => Ok(new),
            // What nobody would trust is not signed: jobs wait.
            _ if left > 0.0 => Ok(credential),
            Ok(None) => Err(Refusal::Signer("the certificate has ended".to_owned())),
            Err(why) => Err(Refusal::Signer(format!("the certificate has ended, and {why}"))),
        }
    }

    /// Others in place of certificates that end soon, if there are any.
    fn renewed(&self, before: &Credential) -> Result<Option<Arc<Credential>>, String> {
        let left = before.days_left();
        let Some(renew) = self.renew.as_ref().filter(|_| left < RENEW_DAYS as f64) else {
            return Ok(None);
        };
        let found = renew().map_err(|error| format!("cannot be renewed: {}", chain(&error)));
        let found = found.and_then(|new| match follows(&new, &before.root) {
            _ if new.days_left() <= left => Ok(None),
            Ok(()) => Ok(Some(Arc::new(new))),
            Err(refusal) => Err(format!(
                "what is in its place is not under the root of this process ({refusal}): restart it to change the root"
            )),
        });
        match &found {
            Ok(Some(new)) => {
                *self.credential.write().unwrap_or_else(PoisonError::into_inner) = new.clone();
            }
            Ok(None) => {}
            // It may have days left: who signs hears of it on the last one only.
            Err(why) => {
                tracing::warn!("the certificate that clips are signed under ends, and {why}")
            }
        }
        found
    }

    fn looks_now(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
        if due {
            *looked = Some(Instant::now());
        }
        due
    }

    /// Signs the claim of a manifest, if it says what it must. The same claim again is signed again.
    ///
    /// # Errors
    /// `Malformed`, `Terms`, `Twice`: this manifest is never signed; `Signer`.
    pub fn sign(&self, held: Held, terms: &Terms, manifest: &[u8]) -> Result<Signed, Refusal> {
        let checked = claim::check(manifest, terms)?;
        self.once(held, checked.digest)?;
        let credential = self.holding()?;
        let protected = cose::protected(&credential.chain)?;
        let message = cose::to_be_signed(&protected, checked.bytes)?;
        let signature = credential.sign(&message).map_err(Refusal::Signer)?;
        let ocsp = credential.vouched().map_err(Refusal::Signer)?;
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

/// Whether what these certificates sign holds under this root, as every answer is held against it: one that nobody takes
/// is worse than one that ends soon.
fn follows(new: &Credential, root: &str) -> Result<(), Refusal> {
    let trial = b"trial";
    let protected = cose::protected(&new.chain)?;
    let message = cose::to_be_signed(&protected, trial)?;
    let signature = new.sign(&message).map_err(Refusal::Signer)?;
    let envelope = cose::envelope(&protected, &signature, &Beside::default(), TRIAL_ROOM)?;
    cose::verify(&envelope, trial, root)
}

/// What an error says, with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
