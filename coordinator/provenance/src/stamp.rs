//! Time stamps (RFC 3161): what an authority is asked about a signature, and whether its answer holds.
//!
//! A time stamp says that a signature was there at a time, by a clock that is not the farm's; so it stays good when its
//! certificate has run out. Dials nobody: who asks is the coordinator.

use crate::Refusal;
use crate::cose::{self, Beside, Opened};
use c2pa::crypto::cose::CertificateTrustPolicy;
use c2pa::crypto::time_stamp::verify_time_stamp;
use c2pa::status_tracker::StatusTracker;
use sha2::{Digest, Sha256};
use x509_parser::asn1_rs::{Any, FromDer};

/// The largest answer that fits: the room of a signature less its certificates.
pub const ANSWER_BYTES_MAX: usize = 12 << 10;
/// The media type of a question.
pub const QUESTION_TYPE: &str = "application/timestamp-query";
/// The media type of an answer.
pub const ANSWER_TYPE: &str = "application/timestamp-reply";
/// A question in DER up to the digest: version 1, SHA-256.
const HEAD: [u8; 24] = [
    0x30, 0x43, 0x02, 0x01, 0x01, 0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65,
    0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20,
];
/// Before the number that the answer must repeat: 8 bytes.
const NONCE: [u8; 2] = [0x02, 0x08];
/// The end: the authority's certificates are wanted.
const TAIL: [u8; 3] = [0x01, 0x01, 0xff];

/// What an authority is asked about one signature.
pub struct Question {
    opened: Opened,
    message: Vec<u8>,
    nonce: [u8; 8],
    room: usize,
}

impl Question {
    /// About the signature in this envelope.
    ///
    /// # Errors
    /// `Malformed` if it is none of ours.
    pub fn about(envelope: &[u8]) -> Result<Question, Refusal> {
        let opened = cose::open(envelope)?;
        let message = cose::to_be_stamped(&opened.protected, &opened.signature)?;
        let mut nonce: [u8; 8] = rand::random();
        // Positive, and no shorter: it then takes 8 bytes in DER.
        nonce[0] = nonce[0] & 0x7f | 0x01;
        Ok(Question { opened, message, nonce, room: envelope.len() })
    }

    /// What is sent, DER.
    pub fn body(&self) -> Vec<u8> {
        let digest = Sha256::digest(&self.message);
        [&HEAD[..], &digest, &NONCE, &self.nonce, &TAIL].concat()
    }

    /// The envelope with the time stamp beside the signature, as long as before.
    ///
    /// # Errors
    /// `Signer` if the answer is not about this signature, not to this question, or not by an authority that leads to one
    /// of `roots` (PEM); or if it does not fit.
    pub fn stamped(&self, answer: &[u8], roots: &str) -> Result<Vec<u8>, Refusal> {
        let wrong = |what: String| Refusal::Signer(format!("the time stamp: {what}"));
        let token = token(answer).ok_or_else(|| wrong("no answer of RFC 3161".into()))?;
        let mut trust = CertificateTrustPolicy::default();
        trust.add_trust_anchors(roots.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let mut log = StatusTracker::default();
        let info = verify_time_stamp(answer, &self.message, &trust, &mut log, true)
            .map_err(|error| wrong(error.to_string()))?;
        if info.nonce.as_ref().map(|nonce| nonce.as_slice()) != Some(&self.nonce[..]) {
            return Err(wrong("it answers another question".into()));
        }
        let Opened { protected, signature, ocsp, .. } = &self.opened;
        let beside = Beside { time_stamp: Some(token.to_vec()), ocsp: ocsp.clone() };
        cose::envelope(protected, signature, &beside, self.room)
    }
}

/// The token in an answer: what stands behind its status.
fn token(answer: &[u8]) -> Option<&[u8]> {
    let (after, whole) = Any::from_der(answer).ok()?;
    let (token, _status) = Any::from_der(whole.data).ok()?;
    let (rest, _) = Any::from_der(token).ok()?;
    (after.is_empty() && rest.is_empty()).then_some(token)
}
