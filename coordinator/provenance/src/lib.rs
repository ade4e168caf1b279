//! Provenance (C2PA): what a manifest of the farm says, how it gets into a file, how it is signed, and how it is
//! read back.
//!
//! The worker [writes](build) the manifest into the file and has it signed; the [signer] reads it with a parser of
//! its own before the private key is used, and signs what the coordinator's [`Terms`] say and nothing else; the
//! storage gate [reads](read) the stored bytes with the library again. Knows no link, store or actor.
//!
//! The one package that names c2pa.

pub mod boxes;
pub mod build;
pub mod certificates;
pub mod claim;
pub mod cose;
pub mod expiry;
mod film;
pub mod jumbf;
pub mod private;
pub mod read;
pub mod revocation;
mod samples;
pub mod signer;
pub mod stamp;
pub mod strip;
pub mod words;

pub use build::{Draft, Parent};
pub use certificates::{Credential, CredentialError};
pub use read::{State, Trust, Verdict, read};
pub use signer::{Signed, Signer};
pub use strip::{bound, built, unsigned};
pub use zoetrope_protocol::provenance::Terms;

/// Why the signer does not sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes are no manifest of ours.
    #[error("the manifest is malformed: {0}")]
    Malformed(String),
    /// It says something else than it must.
    #[error("the manifest says something else: {0}")]
    Terms(String),
    /// The attempt had another claim signed already.
    #[error("another claim of this attempt was signed already")]
    Twice,
    /// The signature does not fit into its room, or the key failed.
    #[error("cannot sign: {0}")]
    Signer(String),
}

/// Why a file cannot be given a manifest.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The library refused.
    #[error("the manifest cannot be built: {0}")]
    Library(String),
    /// Our disk.
    #[error("the file cannot be written")]
    Disk(#[from] std::io::Error),
    /// The signature is not of the length that was left free, or its room is not in the file.
    #[error("the signature does not fit: {0}")]
    Signature(String),
}
