//! Reads the manifest of a file, as any verifier would. Blocks; reads as much as the file is long.
//!
//! For files of strangers call it in a child process with limits of memory and time.

use crate::words;
use c2pa::validation_status::{TIMESTAMP_TRUSTED, ValidationStatus};
use c2pa::{Context, Error, Reader, ValidationState};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{Read, Seek};

/// Roots of the certificates that are trusted, PEM.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// One or more certificates.
    pub roots: String,
}

/// How far a manifest can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The bytes are as they were signed, by a signer that is trusted.
    Trusted,
    /// The bytes are as they were signed; the signer is unknown.
    Valid,
    /// The bytes or the signature are not right.
    Invalid,
    /// There is no manifest.
    NotPresent,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// How far it can be believed.
    pub state: State,
    /// Who signed, in the certificate's words.
    pub issuer: Option<String>,
    /// When, if a trusted time stamp says so; RFC 3339.
    pub signed_at: Option<String>,
    /// The farm's own assertion in it, where it is a manifest of Zoetrope.
    pub render: Option<Value>,
    /// SHA-256 of the newest claim.
    pub claim: Option<[u8; 32]>,
    /// What is wrong, in C2PA's codes.
    pub failures: Vec<String>,
    /// The manifest store, in C2PA's own JSON.
    pub manifest: Option<Value>,
}

impl Verdict {
    fn without(state: State, failures: Vec<String>) -> Verdict {
        Verdict {
            state,
            issuer: None,
            signed_at: None,
            render: None,
            claim: None,
            failures,
            manifest: None,
        }
    }
}

impl Verdict {
    /// Whether the newest manifest names a soft binding of this kind.
    pub fn binds(&self, alg: &str) -> bool {
        let active = self.manifest.as_ref().and_then(|store| {
            let label = store["active_manifest"].as_str()?;
            store["manifests"][label]["assertions"].as_array()
        });
        let names = |assertion: &Value| {
            let label = assertion["label"].as_str().unwrap_or_default();
            label.starts_with(words::SOFT_BINDING) && assertion["data"]["alg"].as_str() == Some(alg)
        };
        active.is_some_and(|assertions| assertions.iter().any(names))
    }
}

/// Reads a file of this media type, and judges it.
///
/// Only what holds a manifest store can be `Invalid`: a broken file without one is `NotPresent`, with the reason among the
/// failures.
pub fn read(format: &str, mut file: impl Read + Seek + Send, trust: &Trust) -> Verdict {
    let mut settings = json!({
        // Of what is not built in; without this the library says so at each reading.
        "builder": { "thumbnail": { "enabled": false } },
        "verify": { "remote_manifest_fetch": false, "ocsp_fetch": false, "verify_trust": true },
    });
    if !trust.roots.is_empty() {
        settings["trust"] = json!({ "trust_anchors": trust.roots });
    }
    let context = match Context::new().with_settings(settings.to_string().as_str()) {
        Ok(context) => context,
        Err(error) => return Verdict::without(State::Invalid, vec![error.to_string()]),
    };
    let claim = claim_digest(format, &mut file);
    match Reader::from_context(context).with_stream(format, &mut file) {
        Ok(reader) => judge(&reader, claim),
        Err(Error::JumbfNotFound | Error::ProvenanceMissing) => {
            Verdict::without(State::NotPresent, Vec::new())
        }
        Err(error) => {
            let state = if holds_store(&mut file) { State::Invalid } else { State::NotPresent };
            Verdict::without(state, vec![error.to_string()])
        }
    }
}

/// How every manifest store begins, in whatever file: its description box and C2PA's id.
const STORE_MARK: &[u8; 20] = b"jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71";
/// Bytes of a file that are looked through at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Whether there is a manifest store, or the beginning of one, in a file that the library cannot take apart.
fn holds_store(file: &mut (impl Read + Seek)) -> bool {
    if file.rewind().is_err() {
        return false;
    }
    let mut window = Vec::with_capacity(PIECE_BYTES + STORE_MARK.len());
    loop {
        // The mark may lie across the edge of two pieces.
        window.drain(..window.len().saturating_sub(STORE_MARK.len() - 1));
        match file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut window) {
            Ok(1..) => {}
            _ => return false,
        }
        if window.windows(STORE_MARK.len()).any(|bytes| bytes == STORE_MARK) {
            return true;
        }
    }
}

fn judge(reader: &Reader, claim: Option<[u8; 32]>) -> Verdict {
    let state = match reader.validation_state() {
        ValidationState::Trusted => State::Trusted,
        ValidationState::Valid => State::Valid,
        ValidationState::Invalid => State::Invalid,
    };
    let active = reader.active_manifest();
    let render = active.and_then(|one| one.find_assertion::<Value>(words::RENDER).ok());
    let codes = reader.validation_results().and_then(|results| results.active_manifest());
    let failures = codes.map(|codes| codes.failure().clone()).unwrap_or_default();
    let trusted = |code: &ValidationStatus| code.code() == TIMESTAMP_TRUSTED;
    let timed = codes.is_some_and(|codes| codes.success().iter().any(trusted));
    Verdict {
        state,
        issuer: active.and_then(|one| one.issuer()),
        signed_at: active.filter(|_| timed).and_then(|one| one.time()),
        render,
        claim,
        failures: failures.iter().map(|status| status.code().to_owned()).collect(),
        manifest: serde_json::from_str(&reader.json()).ok(),
    }
}

/// SHA-256 of the newest claim of a file.
fn claim_digest(format: &str, file: &mut (impl Read + Seek + Send)) -> Option<[u8; 32]> {
    file.rewind().ok()?;
    let store = c2pa::jumbf_io::load_jumbf_from_stream(format, file).ok();
    file.rewind().ok()?;
    let store = store?;
    let store = crate::jumbf::parse(&store).ok()?;
    let claim = store.children.last()?.only(crate::jumbf::CLAIM).ok()?;
    Some(Sha256::digest(claim.content(crate::jumbf::CBOR).ok()?).into())
}
