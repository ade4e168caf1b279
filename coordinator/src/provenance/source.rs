//! Where signatures come from: the signer in this process, or one in a process of its own on a socket.

use super::socket;
use std::path::PathBuf;
use std::sync::Arc;
use zoetrope_protocol::provenance::Terms;
use zoetrope_protocol::wire::Held;
use zoetrope_provenance::{Refusal, Signer};

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignFault {
    /// The manifest is not one that the signer signs.
    #[error("refused: {0}")]
    Refused(String),
    /// The signer is gone, hangs or lies.
    #[error("{0}")]
    Down(String),
}

impl From<Refusal> for SignFault {
    fn from(refusal: Refusal) -> SignFault {
        match refusal {
            Refusal::Signer(reason) => SignFault::Down(reason),
            other => SignFault::Refused(other.to_string()),
        }
    }
}

/// Who signs.
#[derive(Clone)]
pub enum SignerSource {
    /// The signer in this process.
    Here(Arc<Signer>),
    /// `zoetrope signer` behind a unix socket: the key is in that process alone.
    Socket(PathBuf),
}

impl SignerSource {
    /// Has the claim of a manifest signed.
    ///
    /// # Errors
    /// `Refused`, `Down`.
    pub async fn sign(
        &self,
        held: Held,
        terms: &Terms,
        manifest: &[u8],
    ) -> Result<Vec<u8>, SignFault> {
        match self {
            SignerSource::Here(signer) => {
                let (signer, terms, manifest) = (signer.clone(), terms.clone(), manifest.to_vec());
                let sign = move || signer.sign(held, &terms, &manifest);
                let signed = tokio::task::spawn_blocking(sign).await;
                Ok(signed.map_err(|error| SignFault::Down(error.to_string()))??.envelope)
            }
            SignerSource::Socket(path) => socket::ask(path, held, terms, manifest).await,
        }
    }
}
