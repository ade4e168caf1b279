//! The signature's envelope: a COSE_Sign1 (RFC 9052) with the certificates in its protected header, padded to the
//! room that the manifest leaves for it. The claim itself stands elsewhere in the manifest.

use crate::Refusal;
use ciborium::Value;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

/// CBOR tag of a COSE_Sign1.
const TAG_SIGN1: u64 = 18;
/// Header: the algorithm.
const HEADER_ALG: i128 = 1;
/// Header: the certificates, leaf first.
const HEADER_X5CHAIN: i128 = 33;
/// ECDSA on P-256 with SHA-256.
const ES256: i128 = -7;
/// Bytes of an ECDSA signature as COSE wants it: r and s, 32 bytes each.
pub const SIGNATURE_BYTES: usize = 64;

/// What stands beside the signature, outside of what it covers.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// A time stamp token over the signature (RFC 3161), DER.
    pub time_stamp: Option<Vec<u8>>,
    /// A response of the certificate's authority about its state (OCSP), DER.
    pub ocsp: Option<Vec<u8>>,
}

/// The protected header for these certificates.
///
/// # Errors
/// `Signer` if it cannot be encoded.
pub fn protected(chain: &[Vec<u8>]) -> Result<Vec<u8>, Refusal> {
    let chain = match chain {
        [one] => Value::Bytes(one.clone()),
        many => Value::Array(many.iter().cloned().map(Value::Bytes).collect()),
    };
    let header =
        Value::Map(vec![(integer(HEADER_ALG), integer(ES256)), (integer(HEADER_X5CHAIN), chain)]);
    encode(&header)
}

/// What is signed: the header and the claim.
///
/// # Errors
/// `Signer` if it cannot be encoded.
pub fn to_be_signed(protected: &[u8], claim: &[u8]) -> Result<Vec<u8>, Refusal> {
    encode(&Value::Array(vec![
        Value::Text("Signature1".into()),
        Value::Bytes(protected.to_vec()),
        Value::Bytes(Vec::new()),
        Value::Bytes(claim.to_vec()),
    ]))
}

/// What a time stamp of a signature is over: a countersignature of it (C2PA 2, `sigTst2`).
///
/// # Errors
/// `Signer` if it cannot be encoded.
pub fn to_be_stamped(protected: &[u8], signature: &[u8]) -> Result<Vec<u8>, Refusal> {
    encode(&Value::Array(vec![
        Value::Text("CounterSignature".into()),
        Value::Bytes(protected.to_vec()),
        Value::Bytes(Vec::new()),
        Value::Bytes(encode(&Value::Bytes(signature.to_vec()))?),
    ]))
}

/// The envelope, of exactly `bytes` bytes.
///
/// # Errors
/// `Signer` if it does not fit.
pub fn envelope(
    protected: &[u8],
    signature: &[u8],
    beside: &Beside,
    bytes: usize,
) -> Result<Vec<u8>, Refusal> {
    let text = |text: &str| Value::Text(text.into());
    let mut header = Vec::new();
    if let Some(token) = &beside.time_stamp {
        let token = Value::Map(vec![(text("val"), Value::Bytes(token.clone()))]);
        let tokens = Value::Map(vec![(text("tstTokens"), Value::Array(vec![token]))]);
        header.push((text("sigTst2"), tokens));
    }
    if let Some(response) = &beside.ocsp {
        let responses = Value::Array(vec![Value::Bytes(response.clone())]);
        header.push((text("rVals"), Value::Map(vec![(text("ocspVals"), responses)])));
    }
    let whole = |pads: &[usize]| {
        let mut header = header.clone();
        for (label, pad) in ["pad", "pad2"].into_iter().zip(pads) {
            header.push((text(label), Value::Bytes(vec![0; *pad])));
        }
        encode(&Value::Tag(
            TAG_SIGN1,
            Box::new(Value::Array(vec![
                Value::Bytes(protected.to_vec()),
                Value::Map(header),
                Value::Null,
                Value::Bytes(signature.to_vec()),
            ])),
        ))
    };
    let bare = whole(&[0])?.len();
    let short = || Refusal::Signer(format!("{bare} bytes do not fit into a room of {bytes}"));
    let free = bytes.checked_sub(bare).ok_or_else(short)?;
    // The length of a byte string takes 1 to 5 bytes itself, so a few sizes are met only with two paddings.
    for longer in 0..=4 {
        for pads in [vec![free.saturating_sub(longer)], vec![0, free.saturating_sub(longer + 6)]] {
            let tried = whole(&pads)?;
            if tried.len() == bytes {
                return Ok(tried);
            }
        }
    }
    Err(short())
}

/// An envelope that was taken apart.
#[derive(Debug)]
pub struct Opened {
    /// The protected header's bytes.
    pub protected: Vec<u8>,
    /// The certificates, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// r and s.
    pub signature: Vec<u8>,
    /// What stands beside about the certificate's state (OCSP), DER.
    pub ocsp: Option<Vec<u8>>,
}

/// Takes an envelope apart.
///
/// # Errors
/// `Malformed` if it is none of ours.
pub fn open(envelope: &[u8]) -> Result<Opened, Refusal> {
    let wrong = |what: &str| Refusal::Malformed(format!("the signature: {what}"));
    let Ok(Value::Tag(TAG_SIGN1, inner)) = ciborium::from_reader::<Value, _>(envelope) else {
        return Err(wrong("no COSE_Sign1"));
    };
    let Value::Array(parts) = *inner else { return Err(wrong("no array")) };
    let [Value::Bytes(protected), Value::Map(beside), Value::Null, Value::Bytes(signature)] =
        parts.as_slice()
    else {
        return Err(wrong("not its four parts"));
    };
    let header = ciborium::from_reader::<Value, _>(protected.as_slice());
    let Ok(Value::Map(header)) = header else { return Err(wrong("no protected header")) };
    let of = |number: i128| header.iter().find(|(key, _)| *key == integer(number));
    if of(HEADER_ALG).map(|(_, value)| value) != Some(&integer(ES256)) {
        return Err(wrong("another algorithm than ES256"));
    }
    let chain = match of(HEADER_X5CHAIN) {
        Some((_, Value::Bytes(one))) => vec![one.clone()],
        Some((_, Value::Array(many))) => {
            many.iter().filter_map(|one| one.as_bytes().cloned()).collect()
        }
        _ => return Err(wrong("no certificates")),
    };
    let ocsp = named(beside, "rVals").and_then(|values| named(values.as_map()?, "ocspVals"));
    let ocsp = ocsp.and_then(|answers| answers.as_array()?.first()?.as_bytes()).cloned();
    Ok(Opened { protected: protected.clone(), chain, signature: signature.clone(), ocsp })
}

/// Whether an envelope really is a signature over this claim, by a certificate that leads to `root` (PEM). What a
/// signer answers is held against this before it goes into a file.
///
/// # Errors
/// `Malformed`, `Signer` with what is wrong.
pub fn verify(envelope: &[u8], claim: &[u8], root: &str) -> Result<(), Refusal> {
    let wrong = |what: String| Refusal::Signer(what);
    let opened = open(envelope)?;
    let root = x509_parser::pem::Pem::iter_from_buffer(root.as_bytes()).next();
    let root = root.and_then(Result::ok).ok_or_else(|| wrong("the root is no PEM".into()))?;
    let mut chain = Vec::new();
    for der in opened.chain.iter().chain([&root.contents]) {
        let parsed = x509_parser::parse_x509_certificate(der);
        chain.push(parsed.map_err(|error| wrong(format!("a certificate: {error}")))?.1);
    }
    for pair in chain.windows(2) {
        if pair[0].verify_signature(Some(pair[1].public_key())).is_err() {
            return Err(wrong("the certificates do not lead to the farm's root".into()));
        }
    }
    let [leaf, _, ..] = chain.as_slice() else { return Err(wrong("no certificate".into())) };
    let key = leaf.public_key().subject_public_key.data.to_vec();
    let message = to_be_signed(&opened.protected, claim)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
        .verify(&message, &opened.signature)
        .map_err(|_| wrong("the signature is not valid".into()))
}

fn named<'a>(map: &'a [(Value, Value)], name: &str) -> Option<&'a Value> {
    map.iter().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
}

fn integer(number: i128) -> Value {
    // Headers are small numbers; the conversion fails beyond 64 bits only.
    ciborium::value::Integer::try_from(number).map_or(Value::Null, Value::Integer)
}

fn encode(value: &Value) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|error| Refusal::Signer(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: the envelope has exactly the length of its room, whatever that is, or does not fit.
    #[test]
    fn every_room_is_filled_exactly() {
        let protected = protected(&[vec![1; 300], vec![2; 300]]).expect("encodes");
        let bare = envelope(&protected, &[3; 64], &Beside::default(), 0).expect_err("no room");
        assert!(matches!(bare, Refusal::Signer(_)));
        let least =
            (600..).find(|room| envelope(&protected, &[3; 64], &Beside::default(), *room).is_ok());
        let least = least.expect("fits somewhere");
        for room in (least..least + 400).chain([16_000, least + 65_530, least + 65_550]) {
            let Ok(made) = envelope(&protected, &[3; 64], &Beside::default(), room) else {
                // Between one and two paddings no length fits; a room of ours is far above.
                assert!(room < least + 8, "{room}");
                continue;
            };
            assert_eq!(made.len(), room);
            let opened = open(&made).expect("opens");
            assert_eq!((opened.signature, opened.chain.len()), (vec![3; 64], 2));
        }
    }
}
