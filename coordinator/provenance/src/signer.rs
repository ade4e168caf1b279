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

/// Between two looks for a certificate that replaces one which ends soon.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

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

    /// Takes up other certificates if its own end soon, as it does when it is to sign.
    pub fn take_up(&self) {
        // What is wrong, whoever wants something signed hears.
        drop(self.holding());
    }

    /// The certificates, which hold now.
    fn holding(&self) -> Result<Arc<Credential>, Refusal> {
        let credential = self.credential();
        let left = credential.days_left();
        if left >= RENEW_DAYS as f64 {
            return Ok(credential);
        }
        let renewed = self.renew.as_ref().filter(|_| self.looks_now()).map(|renew| renew());
        let why = match renewed {
            Some(Ok(new)) if new.days_left() > left => {
                let new = Arc::new(new);
                *self.credential.write().unwrap_or_else(PoisonError::into_inner) = new.clone();
                return Ok(new);
            }
            Some(Err(error)) => format!(", and cannot be renewed: {error}"),
            _ => String::new(),
        };
        // What nobody would trust is not signed: jobs wait.
        if left > 0.0 {
            Ok(credential)
        } else {
            Err(Refusal::Signer(format!("the certificate has ended{why}")))
        }
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
