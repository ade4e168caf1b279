//! The farm's certificate authority: who is the coordinator, who is a worker, who may become one.
//!
//! Made at the first start: in `DATA/ca`, the keys readable by their owner only, or sealed in etcd
//! ([`crate::documents`]). A join token is shown once; only
//! the hash of its secret is kept, and a use is on disk before the certificate is issued. Certificates of
//! workers hold a year: none renews itself, so a worker joins again with a new token before that.

use crate::documents::{Documents, Folder};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use zoetrope_protocol::id::Millis;
use zoetrope_protocol::wire::NAME_BYTES_MAX;

/// The name that workers verify the coordinator by, wherever it listens.
pub const SERVER_NAME: &str = "coordinator.zoetrope";
/// Front of a join token's text.
pub const TOKEN_PREFIX: &str = "zt1.";
/// The authority's documents: this one anybody may see.
pub const CERTIFICATE: &str = "ca.der";
const KEY: &str = "ca.key.pem";
const TOKENS: &str = "tokens.json";
/// A worker's certificate holds so many days.
const WORKER_DAYS: i32 = 365;
/// The coordinator's certificate holds so many days; it is made anew at each start.
pub const SERVER_DAYS: i32 = 365;
/// The authority holds so many years.
const AUTHORITY_DAYS: i32 = 3_650;
/// Tokens that may be open at a time: what an operator can keep in mind, a hundred times over.
const TOKENS_MAX: usize = 1_000;
/// Workers that may join with one token.
pub const USES_MAX: u32 = 1_000;
/// The longest life of a token.
pub const TTL_MAX: Millis = Millis(24 * 3_600_000);

/// What the authority refuses.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Unknown, used up or too old: deliberately not which.
    #[error("the join token is unknown, used up or expired")]
    Token,
    /// No such node name.
    #[error("a node name is 1 to 64 of a-z 0-9 - and . and not a bare address, got {0:?}")]
    Name(String),
    /// The signing request is none.
    #[error("the signing request cannot be read")]
    Request(#[from] rcgen::Error),
    /// Too many open tokens.
    #[error("there are {TOKENS_MAX} open join tokens; wait until some expire")]
    TooMany,
    /// A file of the authority is damaged.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The disk failed.
    #[error("the authority's documents cannot be used")]
    Io(#[from] std::io::Error),
}

/// An open token, by the hash of its secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OpenToken {
    uses_left: u32,
    expires: Millis,
}

/// A server's certificate chain and key.
pub struct ServerIdentity {
    /// The leaf, then the authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

/// The farm's certificate authority.
pub struct Authority {
    documents: Box<dyn Documents>,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    secret: [u8; 32],
    tokens: Mutex<BTreeMap<String, OpenToken>>,
}

impl Authority {
    /// Opens the authority in a folder, or makes it.
    ///
    /// # Errors
    /// `Damaged` if a file is there and not readable; `Io`.
    pub fn open(folder: &Path) -> Result<Authority, AuthorityError> {
        Authority::of(Box::new(Folder(folder.to_owned())))
    }

    /// Opens the authority of these documents, or makes it. Blocking.
    ///
    /// # Errors
    /// `Damaged` if a document is there and not readable; `Io`.
    pub fn of(documents: Box<dyn Documents>) -> Result<Authority, AuthorityError> {
        let damaged = |name: &str, reason: String| AuthorityError::Damaged {
            path: documents.place(name),
            reason,
        };
        if documents.read(CERTIFICATE)?.is_none() {
            let key = KeyPair::generate()?;
            let certificate = authority_params().self_signed(&key)?;
            documents.write(KEY, key.serialize_pem().as_bytes())?;
            documents.write(CERTIFICATE, certificate.der())?;
        }
        let there = |name: &str| {
            documents.read(name)?.ok_or_else(|| damaged(name, "it is not there".to_owned()))
        };
        let certificate = CertificateDer::from(there(CERTIFICATE)?);
        let key = String::from_utf8(there(KEY)?).map_err(|e| damaged(KEY, e.to_string()))?;
        let key = KeyPair::from_pem(&key).map_err(|e| damaged(KEY, e.to_string()))?;
        let secret = Sha256::digest(key.serialize_der()).into();
        let issuer = Issuer::new(authority_params(), key);
        let tokens = match documents.read(TOKENS)? {
            Some(text) => {
                serde_json::from_slice(&text).map_err(|e| damaged(TOKENS, e.to_string()))?
            }
            None => BTreeMap::new(),
        };
        let tokens = Mutex::new(tokens);
        Ok(Authority { documents, certificate, issuer, secret, tokens })
    }

    /// A secret of this farm for one purpose: the same after each restart, and known to nobody else.
    pub fn secret_for(&self, purpose: &str) -> [u8; 32] {
        Sha256::new().chain_update(self.secret).chain_update(purpose).finalize().into()
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A fresh certificate for the coordinator, for [`SERVER_NAME`] and these further names.
    ///
    /// # Errors
    /// `Request` if a name cannot stand in a certificate.
    pub fn server(&self, names: &[String]) -> Result<ServerIdentity, AuthorityError> {
        let (params, key) = (server_params(names)?, KeyPair::generate()?);
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(ServerIdentity {
            chain: vec![leaf.der().clone(), self.certificate.clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        })
    }

    /// A new join token for `uses` workers, good for `ttl`. Blocking: returns when it is on disk.
    ///
    /// # Errors
    /// `TooMany`, `Io`.
    pub fn new_token(&self, now: Millis, uses: u32, ttl: Millis) -> Result<String, AuthorityError> {
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let mut tokens = self.tokens();
        tokens.retain(|_, token| token.expires > now);
        if tokens.len() >= TOKENS_MAX {
            return Err(AuthorityError::TooMany);
        }
        let open =
            OpenToken { uses_left: uses.clamp(1, USES_MAX), expires: now.plus(ttl.min(TTL_MAX)) };
        tokens.insert(hash(&secret), open);
        self.save(&tokens)?;
        let mut both = Sha256::digest(&self.certificate).to_vec();
        both.extend_from_slice(&secret);
        Ok(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(both)))
    }

    /// Uses a token once and issues a worker's certificate. Blocking: the use is on disk first.
    ///
    /// # Errors
    /// `Name`, `Request`, `Token`, `Io`. A request that is refused uses nothing up.
    pub fn join(
        &self,
        now: Millis,
        secret: &[u8; 32],
        node: &str,
        request: &[u8],
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        check_name(node)?;
        let request = CertificateSigningRequestDer::from(request);
        let request = CertificateSigningRequestParams::from_der(&request)?;
        let mut tokens = self.tokens();
        let key = hash(secret);
        let token = tokens.get_mut(&key).filter(|token| token.expires > now && token.uses_left > 0);
        let token = token.ok_or(AuthorityError::Token)?;
        token.uses_left -= 1;
        if token.uses_left == 0 {
            tokens.remove(&key);
        }
        self.save(&tokens)?;
        drop(tokens);
        // Of the request only the public key counts: what it says of itself is not ours to believe.
        let mut params = CertificateParams::new(vec![node.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, node);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        set_life(&mut params, WORKER_DAYS);
        Ok(params.signed_by(&request.public_key, &self.issuer)?.der().clone())
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, OpenToken>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, tokens: &BTreeMap<String, OpenToken>) -> Result<(), AuthorityError> {
        let bytes = serde_json::to_vec(tokens).map_err(std::io::Error::other)?;
        Ok(self.documents.write(TOKENS, &bytes)?)
    }
}

/// A node's name: what a certificate can carry as a DNS name.
///
/// # Errors
/// `Name`.
pub fn check_name(node: &str) -> Result<(), AuthorityError> {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let plain = (1..=NAME_BYTES_MAX).contains(&node.len()) && node.bytes().all(letter);
    let dns = rustls_pki_types::ServerName::try_from(node);
    let is_dns = matches!(dns, Ok(rustls_pki_types::ServerName::DnsName(_)));
    // The coordinator's own name would let a worker pose as it, were it not for the key usage. Both hold.
    if plain && is_dns && node != SERVER_NAME {
        Ok(())
    } else {
        Err(AuthorityError::Name(node.to_owned()))
    }
}

/// Whether a certificate of the coordinator can hold these further names: makes one that nobody gets.
///
/// # Errors
/// If one cannot stand in a certificate.
pub fn try_names(names: &[String]) -> Result<(), rcgen::Error> {
    server_params(names)?.self_signed(&KeyPair::generate()?)?;
    Ok(())
}

fn server_params(names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut all = vec![SERVER_NAME.to_owned(), "localhost".to_owned()];
    all.extend(names.iter().filter(|name| !name.is_empty()).cloned());
    let mut params = CertificateParams::new(all)?;
    params.distinguished_name.push(DnType::CommonName, SERVER_NAME);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    set_life(&mut params, SERVER_DAYS);
    Ok(params)
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Zoetrope farm authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_life(&mut params, AUTHORITY_DAYS);
    params
}

/// From a day ago, because clocks differ.
fn set_life(params: &mut CertificateParams, days: i32) {
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::days(1);
    params.not_after = now + time::Duration::days(i64::from(days));
}

fn hash(secret: &[u8; 32]) -> String {
    hex::encode(Sha256::digest(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret_of(token: &str) -> [u8; 32] {
        let bytes = URL_SAFE_NO_PAD
            .decode(token.strip_prefix(TOKEN_PREFIX).expect("prefix"))
            .expect("base64");
        bytes[32..].try_into().expect("32 bytes")
    }

    fn request() -> Vec<u8> {
        let key = KeyPair::generate().expect("key");
        CertificateParams::default().serialize_request(&key).expect("request").der().to_vec()
    }

    #[test]
    fn a_token_works_once_even_across_a_restart_and_never_late() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let authority = Authority::open(folder.path()).expect("opens");
        let now = Millis(1_000);
        let token = authority.new_token(now, 1, Millis(900_000)).expect("token");
        let late = authority.new_token(now, 1, Millis(900_000)).expect("token");
        assert!(
            !std::fs::read_to_string(folder.path().join("tokens.json"))
                .expect("reads")
                .contains(&hex::encode(secret_of(&token)))
        );
        let join = |authority: &Authority, now, token: &str| {
            authority.join(now, &secret_of(token), "gpu-0", &request())
        };
        authority.join(now, &secret_of(&token), "GPU 0", &request()).expect_err("a bad name");
        join(&authority, now, &token).expect("joins");
        let again = Authority::open(folder.path()).expect("opens again");
        assert_eq!(again.certificate(), authority.certificate());
        assert!(matches!(join(&again, now, &token), Err(AuthorityError::Token)));
        assert!(matches!(join(&again, Millis(902_000), &late), Err(AuthorityError::Token)));
    }

    #[cfg(unix)]
    #[test]
    fn the_key_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("temporary folder");
        Authority::open(folder.path()).expect("opens");
        let mode = std::fs::metadata(folder.path().join("ca.key.pem"))
            .expect("is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
