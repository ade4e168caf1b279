//! What an authority says of the signing certificate's state (OCSP, RFC 6960). It goes into each signature, so that a
//! reader without a network knows that the certificate was not revoked when it signed.
//!
//! The farm's own authority answers by itself, by a key that is good for nothing else, and only for the leaf that signs
//! now: a leaf that was replaced gets no answer any more, and whoever stole its key has none after a day. The authority of
//! an operator's certificate is asked by the operator, who keeps its answer in a file.

use crate::certificates::CredentialError;
use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use rasn::types::{BitString, Integer, ObjectIdentifier, OctetString};
use rasn_ocsp::{
    BasicOcspResponse, CertId, CertStatus, OcspResponse, OcspResponseStatus, ResponderId,
    ResponseBytes, ResponseData, SingleResponse,
};
use rasn_pkix::{AlgorithmIdentifier, Certificate};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};

/// An answer is good for so long: a stolen key is worth no more than that.
const GOOD_FOR: TimeDelta = TimeDelta::hours(24);
/// It is good from before it is made, because clocks differ: a time stamp's clock is another one.
const GOOD_SINCE: TimeDelta = TimeDelta::hours(1);
/// The largest answer that fits beside a time stamp; one with two certificates takes 1.5 KB.
pub const ANSWER_BYTES_MAX: u64 = 4 << 10;

const BASIC: &[u32] = &[1, 3, 6, 1, 5, 5, 7, 48, 1, 1];
const SHA_256: &[u32] = &[2, 16, 840, 1, 101, 3, 4, 2, 1];
const ECDSA_WITH_SHA_256: &[u32] = &[1, 2, 840, 10_045, 4, 3, 2];

/// Who says that the certificate is not revoked.
pub enum Voucher {
    /// The farm's own authority.
    Own(Box<Responder>),
    /// The answer that somebody keeps fresh in a file, DER.
    File(PathBuf),
}

impl Voucher {
    /// What is said of this certificate now, DER. Blocking where it is a file.
    ///
    /// # Errors
    /// A word: the file cannot be read, says nothing good of this certificate, or is past its end.
    pub fn answer(&self, leaf: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Voucher::Own(responder) => responder.good(Utc::now()),
            Voucher::File(path) => {
                let wrong = |what: String| format!("{}: {what}", path.display());
                let answer = read(path).map_err(|error| wrong(error.to_string()))?;
                check(&answer, leaf, Utc::now()).map_err(|what| wrong(what.to_owned()))?;
                Ok(answer)
            }
        }
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > ANSWER_BYTES_MAX {
        let large = format!("over {ANSWER_BYTES_MAX} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, large));
    }
    Ok(bytes)
}

/// Whether an answer says now that this certificate is good. Its signature is the reader's to check.
fn check(answer: &[u8], leaf: &[u8], now: DateTime<Utc>) -> Result<(), &'static str> {
    let response: OcspResponse = rasn::der::decode(answer).map_err(|_| "no OCSP response")?;
    let body = response.bytes.filter(|_| response.status == OcspResponseStatus::Successful);
    let body = body.ok_or("a response without an answer")?;
    let basic: BasicOcspResponse =
        rasn::der::decode(&body.response).map_err(|_| "no basic response")?;
    let leaf: Certificate = rasn::der::decode(leaf).map_err(|_| "the leaf is no certificate")?;
    let serial = &leaf.tbs_certificate.serial_number;
    let about = |one: &&SingleResponse| one.cert_id.serial_number == *serial;
    let single = basic.tbs_response_data.responses.iter().find(about);
    let single = single.ok_or("about another certificate")?;
    match (&single.cert_status, single.next_update) {
        (CertStatus::Revoked(_), _) => Err("the certificate is revoked"),
        (CertStatus::Unknown(()), _) => Err("the authority does not know the certificate"),
        (CertStatus::Good, Some(end)) if end < now => Err("the answer is past its end"),
        (CertStatus::Good, _) => Ok(()),
    }
}

/// The farm's own authority: says that one leaf is good.
pub struct Responder {
    key: EcdsaKeyPair,
    random: SystemRandom,
    /// Its own certificate, and the one that issued it and the leaf.
    certificates: [Certificate; 2],
    about: CertId,
}

impl Responder {
    /// One with this certificate and key (PKCS #8), for a leaf of the same issuer; all DER.
    ///
    /// # Errors
    /// A word for what cannot be used.
    pub fn new(own: &[u8], key: &[u8], leaf: &[u8], issuer: &[u8]) -> Result<Responder, String> {
        let certificate = |der: &[u8]| -> Result<Certificate, String> {
            rasn::der::decode(der).map_err(|error| error.to_string())
        };
        let (own, leaf, issuer) = (certificate(own)?, certificate(leaf)?, certificate(issuer)?);
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key, &random);
        let name = rasn::der::encode(&issuer.tbs_certificate.subject);
        let name = name.map_err(|error| error.to_string())?;
        let public = &issuer.tbs_certificate.subject_public_key_info.subject_public_key;
        let digest = |bytes: &[u8]| OctetString::from(Sha256::digest(bytes).to_vec());
        let about = CertId {
            hash_algorithm: algorithm(SHA_256),
            issuer_name_hash: digest(&name),
            issuer_key_hash: digest(public.as_raw_slice()),
            serial_number: leaf.tbs_certificate.serial_number,
        };
        let pair = pair.map_err(|error| error.to_string())?;
        Ok(Responder { key: pair, random, certificates: [own, issuer], about })
    }

    fn good(&self, now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        let whole = |time: DateTime<Utc>| -> DateTime<FixedOffset> {
            DateTime::from_timestamp(time.timestamp(), 0).unwrap_or(time).fixed_offset()
        };
        let single = SingleResponse {
            cert_id: self.about.clone(),
            cert_status: CertStatus::Good,
            this_update: whole(now - GOOD_SINCE),
            next_update: Some(whole(now + GOOD_FOR)),
            single_extensions: None,
        };
        let data = ResponseData {
            version: Integer::from(0),
            responder_id: ResponderId::ByName(self.certificates[0].tbs_certificate.subject.clone()),
            produced_at: whole(now),
            responses: vec![single],
            response_extensions: None,
        };
        let encoded = |error: rasn::error::EncodeError| error.to_string();
        let message = rasn::der::encode(&data).map_err(encoded)?;
        let signature = self.key.sign(&self.random, &message);
        let signature = signature.map_err(|_| "the key failed".to_owned())?;
        let basic = BasicOcspResponse {
            tbs_response_data: data,
            signature_algorithm: algorithm(ECDSA_WITH_SHA_256),
            signature: BitString::from_slice(signature.as_ref()),
            certs: Some(self.certificates.to_vec()),
        };
        let response = OctetString::from(rasn::der::encode(&basic).map_err(encoded)?);
        let bytes = ResponseBytes { r#type: object(BASIC), response };
        let whole = OcspResponse { status: OcspResponseStatus::Successful, bytes: Some(bytes) };
        rasn::der::encode(&whole).map_err(encoded)
    }
}

fn object(numbers: &'static [u32]) -> ObjectIdentifier {
    ObjectIdentifier::new_unchecked(numbers.into())
}

fn algorithm(numbers: &'static [u32]) -> AlgorithmIdentifier {
    AlgorithmIdentifier { algorithm: object(numbers), parameters: None }
}

/// The answer in a file, as a reason not to start.
///
/// # Errors
/// `File` says what is wrong with it.
pub(crate) fn usable(path: &Path, leaf: &[u8]) -> Result<Voucher, CredentialError> {
    let voucher = Voucher::File(path.to_owned());
    let wrong = |reason| CredentialError::File { path: path.to_owned(), reason };
    voucher.answer(leaf).map_err(wrong)?;
    Ok(voucher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Credential;

    #[test]
    fn an_answer_holds_a_day() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let credential = Credential::open(folder.path()).expect("certificates");
        let answer = credential.vouched().expect("says so").expect("an answer");
        assert!(answer.len() as u64 <= ANSWER_BYTES_MAX, "{} bytes", answer.len());
        let at = |hours| check(&answer, credential.leaf(), Utc::now() + TimeDelta::hours(hours));
        assert_eq!(at(0), Ok(()));
        assert_eq!(at(23), Ok(()));
        assert_eq!(at(25), Err("the answer is past its end"));
        assert_eq!(
            check(&answer, &credential.chain[1], Utc::now()),
            Err("about another certificate")
        );
    }
}
