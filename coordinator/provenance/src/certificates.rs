//! The farm's own certificates for signing: a root, an intermediate, and the leaf whose key signs claims.
//!
//! Made at the first start; private keys are files of mode 0600, or lie sealed where the farm keeps its documents
//! ([`Shelf`]), and never leave the process that reads them.
//! The leaf holds a year and is renewed a month before its end, while the farm runs too. An operator with a certificate of a public trust
//! list names files instead. Profiles as C2PA wants them: P-256, SHA-256, key identifiers in each.

use crate::revocation::{self, Responder, Voucher};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;

/// The root holds so many days.
const ROOT_DAYS: i64 = 3_650;
/// The intermediate holds so many days.
const INTERMEDIATE_DAYS: i64 = 1_825;
/// A leaf holds so many days: C2PA allows a year and a bit.
const LEAF_DAYS: i64 = 365;
/// A leaf with fewer days left is replaced, at a start or when it is to sign.
pub(crate) const RENEW_DAYS: i64 = 30;
/// The extended key usages of a leaf: mail, document signing, and C2PA's own.
const DOCUMENT_SIGNING: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 36];
const C2PA_SIGNING: &[u64] = &[1, 3, 6, 1, 4, 1, 62_558, 2, 1];
/// A chain of certificates as a file: three of 2 KB are usual.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// The names of the farm's own certificates and keys.
const ROOT: &str = "root.pem";
const ROOT_KEY: &str = "root.key.pem";
const INTERMEDIATE: &str = "intermediate.pem";
const INTERMEDIATE_KEY: &str = "intermediate.key.pem";
const CHAIN: &str = "chain.pem";
const KEY: &str = "leaf.key.pem";
/// The certificate and key of who answers for the leaf: one text, so that they always fit together.
const RESPONDER: &str = "ocsp.pem";
/// Certificates of a chain, the root left out.
const CHAIN_MAX: usize = 5;

/// Certificates or a key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file is not what it must be.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is wanted.
        reason: String,
    },
    /// The disk failed.
    #[error("{path} cannot be read or written")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate could not be made.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
}

/// The private key and what proves whose it is.
pub struct Credential {
    key: EcdsaKeyPair,
    random: SystemRandom,
    /// The leaf, then each certificate's issuer, without the root; DER.
    pub chain: Vec<Vec<u8>>,
    /// The root, PEM: what a reader must trust.
    pub root: String,
    voucher: Option<Voucher>,
    /// When the first certificate of the chain ends, in seconds since 1970.
    ends: i64,
}

/// Where an operator's own certificate lies.
#[derive(Clone, Debug)]
pub struct Files {
    /// PEM: the leaf, then its issuers.
    pub chain: PathBuf,
    /// PEM (PKCS #8): the leaf's key, P-256.
    pub key: PathBuf,
    /// PEM: the root that readers trust.
    pub root: PathBuf,
    /// What its authority says of the leaf (OCSP), DER, kept fresh by the operator.
    pub ocsp: Option<PathBuf>,
}

/// Where the farm's own certificates and keys are kept. All calls block.
pub trait Shelf {
    /// A text, if there is one.
    ///
    /// # Errors
    /// Those of the place; one that is there and cannot be read is never told as absent.
    fn read(&self, name: &str) -> std::io::Result<Option<Vec<u8>>>;

    /// Replaces a text, durably, and so that nobody else can read it.
    ///
    /// # Errors
    /// Those of the place.
    fn write(&self, name: &str, text: &[u8]) -> std::io::Result<()>;

    /// Where a text is, for a person.
    fn place(&self, name: &str) -> PathBuf;
}

/// A shelf that is a folder.
struct Folder<'a>(&'a Path);

impl Shelf for Folder<'_> {
    fn read(&self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.place(name)) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        write(&self.place(name), bytes)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Credential {
    /// The farm's own certificates in a folder; made there if it is empty, the leaf renewed when it is due.
    ///
    /// # Errors
    /// `File` if a file is damaged; `Io`.
    pub fn open(folder: &Path) -> Result<Credential, CredentialError> {
        let io = |source| CredentialError::Io { path: folder.to_owned(), source };
        crate::private::make(folder).map_err(io)?;
        Credential::open_on(&Folder(folder))
    }

    /// The same on any shelf.
    ///
    /// # Errors
    /// As [`Credential::open`].
    pub fn open_on(shelf: &dyn Shelf) -> Result<Credential, CredentialError> {
        if kept(shelf, ROOT)?.is_none() {
            make_authority(shelf)?;
        }
        let due = match kept(shelf, CHAIN)? {
            None => true,
            Some(chain) => {
                let at = shelf.place(CHAIN);
                // A rotation that did not get to its end has changed who issues leaves.
                days_left(&at, &chain)? < RENEW_DAYS
                    || !issuer_is_whole(shelf)?
                    || certificates(&at, &chain)?.get(1) != issuer(shelf)?.first()
            }
        };
        if due {
            rotate_on(shelf)?;
        }
        let [chain, key, root] = [CHAIN, KEY, ROOT].map(|name| shelf.place(name));
        let files = Files { chain, key, root, ocsp: None };
        let (chain, key) = (there(shelf, CHAIN)?, there(shelf, KEY)?);
        let mut own = Credential::of(&files, &chain, &key, there(shelf, ROOT)?)?;
        let due = match kept(shelf, RESPONDER)? {
            None => true,
            Some(responder) => {
                let at = shelf.place(RESPONDER);
                days_left(&at, &responder)? < RENEW_DAYS
                    || !is_issued(&at, &responder, own.chain.get(1))?
            }
        };
        if due {
            make_responder(shelf)?;
        }
        let responder = responder(&there(shelf, RESPONDER)?, &own.chain);
        let wrong = |reason| CredentialError::File { path: shelf.place(RESPONDER), reason };
        own.voucher = Some(Voucher::Own(Box::new(responder.map_err(wrong)?)));
        Ok(own)
    }

    /// An operator's certificate.
    ///
    /// # Errors
    /// `File` says what is wrong; `Io`.
    pub fn read(files: &Files) -> Result<Credential, CredentialError> {
        let (chain, key, root) = (text(&files.chain)?, text(&files.key)?, text(&files.root)?);
        let mut own = Credential::of(files, &chain, &key, root)?;
        let usable = |path: &PathBuf| revocation::usable(path, own.leaf());
        own.voucher = files.ocsp.as_ref().map(usable).transpose()?;
        Ok(own)
    }

    fn of(
        files: &Files,
        chain: &str,
        key: &str,
        root: String,
    ) -> Result<Credential, CredentialError> {
        let wrong =
            |path: &Path, reason: String| CredentialError::File { path: path.into(), reason };
        let chain = certificates(&files.chain, chain)?;
        certificates(&files.root, &root)?;
        if !(1..=CHAIN_MAX).contains(&chain.len()) {
            let reason = format!("{} certificates; 1 to {CHAIN_MAX}, leaf first", chain.len());
            return Err(wrong(&files.chain, reason));
        }
        let key = KeyPair::from_pem(key).map_err(|e| wrong(&files.key, e.to_string()))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &key.serialize_der(),
            &random,
        );
        let pair =
            pair.map_err(|_| wrong(&files.key, "a P-256 key in PKCS #8 is wanted".into()))?;
        let leaf = x509_parser::parse_x509_certificate(&chain[0])
            .map_err(|error| wrong(&files.chain, error.to_string()))?
            .1;
        let public = ring::signature::KeyPair::public_key(&pair);
        if leaf.public_key().subject_public_key.data.as_ref() != public.as_ref() {
            let reason = format!("the key of {} is another one", files.key.display());
            return Err(wrong(&files.chain, reason));
        }
        if leaf.validity().time_to_expiration().is_none() {
            return Err(wrong(&files.chain, "the certificate is past its end".into()));
        }
        let mut ends = i64::MAX;
        for certificate in &chain {
            let (_, certificate) = x509_parser::parse_x509_certificate(certificate)
                .map_err(|error| wrong(&files.chain, error.to_string()))?;
            ends = ends.min(certificate.validity().not_after.timestamp());
        }
        Ok(Credential { key: pair, random, chain, root, voucher: None, ends })
    }

    /// How long its certificates hold, in days; 0 or less once one of them has ended.
    pub fn days_left(&self) -> f64 {
        (self.ends - OffsetDateTime::now_utc().unix_timestamp()) as f64 / 86_400.0
    }

    /// Signs with the private key: 64 bytes, r and s.
    ///
    /// # Errors
    /// A word, if the system gives no random numbers.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let signature = self.key.sign(&self.random, message);
        Ok(signature.map_err(|_| "the key failed".to_owned())?.as_ref().to_vec())
    }

    /// What is said of the leaf now, by its authority (OCSP, DER); nothing where nobody is asked.
    ///
    /// # Errors
    /// A word: somebody should say that it is good, and does not.
    pub fn vouched(&self) -> Result<Option<Vec<u8>>, String> {
        self.voucher.as_ref().map(|voucher| voucher.answer(self.leaf())).transpose()
    }

    /// The leaf, DER.
    pub fn leaf(&self) -> &[u8] {
        &self.chain[0]
    }
}

/// SHA-256 of the first certificate of a PEM text.
pub fn fingerprint(pem: &str) -> Option<[u8; 32]> {
    let first = x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()?;
    Some(Sha256::digest(&first.contents).into())
}

/// A text that is there and not empty.
fn kept(shelf: &dyn Shelf, name: &str) -> Result<Option<String>, CredentialError> {
    let path = || shelf.place(name);
    let read = shelf.read(name).map_err(|source| CredentialError::Io { path: path(), source })?;
    let Some(bytes) = read.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| CredentialError::File { path: path(), reason: "no PEM".into() })
}

/// The same of one that must be there.
fn there(shelf: &dyn Shelf, name: &str) -> Result<String, CredentialError> {
    let reason = || "it is not there".to_owned();
    kept(shelf, name)?
        .ok_or_else(|| CredentialError::File { path: shelf.place(name), reason: reason() })
}

fn keep(shelf: &dyn Shelf, name: &str, text: &str) -> Result<(), CredentialError> {
    let io = |source| CredentialError::Io { path: shelf.place(name), source };
    shelf.write(name, text.as_bytes()).map_err(io)
}

/// A new leaf with a new key, from the same intermediate; the old leaf's certificate is kept, its key is not.
/// Clips that the old one signed stay trusted as long as its certificate holds, and beyond by their time stamps.
///
/// # Errors
/// `File`, `Io`, `Make`.
pub fn rotate(folder: &Path) -> Result<(), CredentialError> {
    rotate_on(&Folder(folder))
}

/// The same on any shelf.
///
/// # Errors
/// As [`rotate`].
pub fn rotate_on(shelf: &dyn Shelf) -> Result<(), CredentialError> {
    let mut pem = there(shelf, INTERMEDIATE)?;
    // It must outlive the leaf.
    if !issuer_is_whole(shelf)? || days_left(&shelf.place(INTERMEDIATE), &pem)? < LEAF_DAYS {
        // First: whoever answers for leaves does so for those of its own issuer.
        keep(shelf, RESPONDER, "")?;
        make_intermediate(shelf, &issuer_of(shelf, ROOT, ROOT_KEY)?)?;
        pem = there(shelf, INTERMEDIATE)?;
    }
    let issuer = issuer_of(shelf, INTERMEDIATE, INTERMEDIATE_KEY)?;
    let leaf_key = KeyPair::generate()?;
    let leaf = leaf_params().signed_by(&leaf_key, &issuer)?;
    if let Some(old) = kept(shelf, CHAIN)? {
        let name = format!("retired-{}.pem", hex::encode(&Sha256::digest(&old)[..8]));
        keep(shelf, &name, &old)?;
        // The key first: where no chain is found at the next start, a new leaf is made.
        keep(shelf, CHAIN, "")?;
    }
    keep(shelf, KEY, &leaf_key.serialize_pem())?;
    keep(shelf, CHAIN, &format!("{}{pem}", leaf.pem()))
}

fn issuer_of(
    shelf: &dyn Shelf,
    name: &str,
    key_name: &str,
) -> Result<Issuer<'static, KeyPair>, CredentialError> {
    let wrong = |name: &str, e: rcgen::Error| CredentialError::File {
        path: shelf.place(name),
        reason: e.to_string(),
    };
    let key = KeyPair::from_pem(&there(shelf, key_name)?).map_err(|e| wrong(key_name, e))?;
    Issuer::from_ca_cert_pem(&there(shelf, name)?, key).map_err(|e| wrong(name, e))
}

/// Who answers for leaves, with a certificate that is good for nothing else.
fn make_responder(shelf: &dyn Shelf) -> Result<(), CredentialError> {
    let issuer = issuer_of(shelf, INTERMEDIATE, INTERMEDIATE_KEY)?;
    let key = KeyPair::generate()?;
    let own = responder_params().signed_by(&key, &issuer)?;
    keep(shelf, RESPONDER, &format!("{}{}", own.pem(), key.serialize_pem()))
}

fn responder(pem: &str, chain: &[Vec<u8>]) -> Result<Responder, String> {
    let blocks = x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes());
    let blocks: Vec<_> = blocks.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    match (blocks.as_slice(), chain) {
        ([own, key], [leaf, issuer, ..]) => {
            Responder::new(&own.contents, &key.contents, leaf, issuer)
        }
        _ => Err("a certificate and its key are wanted".to_owned()),
    }
}

fn make_authority(shelf: &dyn Shelf) -> Result<(), CredentialError> {
    let root_key = KeyPair::generate()?;
    let root_params = authority_params(
        "Zoetrope farm provenance root",
        BasicConstraints::Unconstrained,
        ROOT_DAYS,
    );
    let root = root_params.self_signed(&root_key)?;
    let issuer = Issuer::new(root_params, root_key);
    make_intermediate(shelf, &issuer)?;
    keep(shelf, ROOT_KEY, &issuer.key().serialize_pem())?;
    // Last: it says that the others are complete.
    keep(shelf, ROOT, &root.pem())
}

fn make_intermediate(
    shelf: &dyn Shelf,
    issuer: &Issuer<'static, KeyPair>,
) -> Result<(), CredentialError> {
    let key = KeyPair::generate()?;
    let params = authority_params(
        "Zoetrope farm provenance signing",
        BasicConstraints::Constrained(0),
        INTERMEDIATE_DAYS,
    );
    let intermediate = params.signed_by(&key, issuer)?;
    keep(shelf, INTERMEDIATE_KEY, &key.serialize_pem())?;
    keep(shelf, INTERMEDIATE, &intermediate.pem())
}

fn authority_params(name: &str, constraints: BasicConstraints, days: i64) -> CertificateParams {
    let mut params = named(name, days);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params() -> CertificateParams {
    let mut params = named("Zoetrope farm provenance", LEAF_DAYS);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::EmailProtection,
        ExtendedKeyUsagePurpose::Other(DOCUMENT_SIGNING.to_vec()),
        ExtendedKeyUsagePurpose::Other(C2PA_SIGNING.to_vec()),
    ];
    params
}

fn responder_params() -> CertificateParams {
    // Signing OCSP responses alone, and critical, which the library does not write by itself.
    const OCSP_SIGNING: [u8; 12] = [0x30, 0x0a, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 9];
    /// Nobody is to ask who answers for this one.
    const NO_CHECK: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 48, 1, 5];
    let mut params = named("Zoetrope farm revocation", LEAF_DAYS);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let mut usage = CustomExtension::from_oid_content(&[2, 5, 29, 37], OCSP_SIGNING.to_vec());
    usage.set_criticality(true);
    let no_check = CustomExtension::from_oid_content(NO_CHECK, vec![5, 0]);
    params.custom_extensions = vec![usage, no_check];
    params
}

fn named(name: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Zoetrope");
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    let now = OffsetDateTime::now_utc();
    // From a day ago, because clocks differ.
    params.not_before = now - time::Duration::days(1);
    params.not_after = now + time::Duration::days(days);
    params
}

/// Of the first certificate in a text.
fn days_left(path: &Path, pem: &str) -> Result<i64, CredentialError> {
    let left = |certificate: &X509Certificate<'_>| certificate.validity().time_to_expiration();
    Ok(of_first(path, pem, left)?.map_or(0, |left| left.whole_days()))
}

/// Who issues leaves now.
fn issuer(shelf: &dyn Shelf) -> Result<Vec<Vec<u8>>, CredentialError> {
    certificates(&shelf.place(INTERMEDIATE), &there(shelf, INTERMEDIATE)?)
}

/// Whether the issuer's key is that of its certificate. A process that ended between the two has left a key alone.
fn issuer_is_whole(shelf: &dyn Shelf) -> Result<bool, CredentialError> {
    let Ok(key) = KeyPair::from_pem(&there(shelf, INTERMEDIATE_KEY)?) else { return Ok(false) };
    of_first(&shelf.place(INTERMEDIATE), &there(shelf, INTERMEDIATE)?, |certificate| {
        certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
    })
}

/// Whether the first certificate in a text is signed by this issuer (DER).
fn is_issued(path: &Path, pem: &str, issuer: Option<&Vec<u8>>) -> Result<bool, CredentialError> {
    let issuer = issuer.and_then(|der| x509_parser::parse_x509_certificate(der).ok());
    let Some((_, issuer)) = issuer else { return Ok(false) };
    of_first(path, pem, |own| own.verify_signature(Some(issuer.public_key())).is_ok())
}

fn of_first<T>(
    path: &Path,
    pem: &str,
    look: impl FnOnce(&X509Certificate<'_>) -> T,
) -> Result<T, CredentialError> {
    let wrong = |reason: String| CredentialError::File { path: path.into(), reason };
    let first = x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()).next();
    let first = first.ok_or_else(|| wrong("no certificate in PEM".into()))?;
    let first = first.map_err(|error| wrong(format!("no PEM: {error}")))?;
    let certificate = first.parse_x509().map_err(|error| wrong(error.to_string()))?;
    Ok(look(&certificate))
}

fn certificates(path: &Path, pem: &str) -> Result<Vec<Vec<u8>>, CredentialError> {
    let wrong = |reason: String| CredentialError::File { path: path.into(), reason };
    let mut all = Vec::new();
    for block in x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(|error| wrong(format!("no PEM: {error}")))?;
        if block.label != "CERTIFICATE" {
            return Err(wrong(format!("a {} where certificates are wanted", block.label)));
        }
        all.push(block.contents);
    }
    if all.is_empty() { Err(wrong("no certificate in PEM".into())) } else { Ok(all) }
}

fn text(path: &Path) -> Result<String, CredentialError> {
    let io = |source| CredentialError::Io { path: path.into(), source };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > FILE_BYTES_MAX {
        let reason = format!("{length} bytes; at most {FILE_BYTES_MAX}");
        return Err(CredentialError::File { path: path.into(), reason });
    }
    std::fs::read_to_string(path).map_err(io)
}

/// Writes a file that only its owner may read, and makes it durable.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let draft = path.with_extension("draft");
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|folder| folder.sync_all())
}
