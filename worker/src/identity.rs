//! Who this worker is: the join token, the node's name, and the key and certificates on disk.
//!
//! A worker makes its private key itself and the key never leaves `DATA/identity`. Called by `link::join`
//! on the first start and by the command line on every start. Does no network IO.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use zoetrope_protocol::wire::NAME_BYTES_MAX;
use zoetrope_provenance::expiry;

const TOKEN_PREFIX: &str = "zt1.";
/// A key, a certificate and a CA are a few hundred bytes each; more is no such file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What goes wrong with an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The token is not one.
    #[error(
        "the join token is not valid: expected `zt1.` and 86 characters of base64url, as `zoetrope join-token` prints it"
    )]
    Token,
    /// The name is not one.
    #[error("`{0}` is no node name: expected 1 to 64 of a-z, 0-9, `-` and `.`")]
    Name(String),
    /// The folder belongs to somebody else.
    #[error(
        "the identity in {folder} is of node `{stored}`, not of `{asked}`: leave out --name, or use another --data"
    )]
    OtherNode {
        /// The folder.
        folder: PathBuf,
        /// The name in it.
        stored: String,
        /// The name on the command line.
        asked: String,
    },
    /// The folder is not whole.
    #[error("the identity in {0} is not whole: remove the folder and join again with a new token")]
    Broken(PathBuf),
    /// The disk failed.
    #[error("cannot use {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key or signing request could not be made.
    #[error("cannot make a key")]
    Key(#[from] rcgen::Error),
}

/// A join token: which farm, and the right to join it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the farm's CA certificate, DER.
    pub authority: [u8; 32],
    /// What the coordinator knows the token by.
    pub secret: [u8; 32],
}

impl std::fmt::Debug for Token {
    // The secret must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token(authority {})", &hex::encode(self.authority)[..12])
    }
}

impl FromStr for Token {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let body = text.trim().strip_prefix(TOKEN_PREFIX).ok_or(IdentityError::Token)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| IdentityError::Token)?;
        let bytes: [u8; 64] = bytes.try_into().map_err(|_| IdentityError::Token)?;
        let (mut authority, mut secret) = ([0; 32], [0; 32]);
        authority.copy_from_slice(&bytes[..32]);
        secret.copy_from_slice(&bytes[32..]);
        Ok(Token { authority, secret })
    }
}

impl Token {
    /// The token as text.
    pub fn text(&self) -> String {
        let bytes = [self.authority, self.secret].concat();
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Whether this certificate is the CA that the token names.
    pub fn names(&self, certificate: &CertificateDer<'_>) -> bool {
        Sha256::digest(certificate.as_ref()).as_slice() == self.authority
    }
}

/// Checks a node's name by the wire's law.
///
/// # Errors
/// `Name`.
pub fn check_name(name: &str) -> Result<(), IdentityError> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(good) {
        Ok(())
    } else {
        Err(IdentityError::Name(name.into()))
    }
}

/// The name of a node that was given none: the machine's, with what no node name may have left out.
pub fn default_name() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = host
        .trim()
        .to_ascii_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-' || *c == '.')
        .take(NAME_BYTES_MAX)
        .collect();
    if name.is_empty() { "worker".into() } else { name }
}

/// A fresh key and the request to sign it.
pub struct Candidate {
    key: rcgen::KeyPair,
    /// Certificate signing request, DER.
    pub signing_request: Vec<u8>,
}

impl Candidate {
    /// Makes a key for `node`.
    ///
    /// # Errors
    /// `Name`, `Key`.
    pub fn new(node: &str) -> Result<Self, IdentityError> {
        check_name(node)?;
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(vec![node.to_string()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, node);
        let signing_request = params.serialize_request(&key)?.der().to_vec();
        Ok(Candidate { key, signing_request })
    }

    /// The identity that the farm's answer makes of it.
    pub fn signed(self, node: &str, certificate: Vec<u8>, authority: Vec<u8>) -> NodeIdentity {
        NodeIdentity {
            node: node.into(),
            key: self.key.serialize_der(),
            certificate: certificate.into(),
            authority: authority.into(),
        }
    }
}

/// A node that has joined.
#[derive(Clone)]
pub struct NodeIdentity {
    /// Its name.
    pub node: String,
    key: Vec<u8>,
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// The farm's CA.
    pub authority: CertificateDer<'static>,
}

impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeIdentity({})", self.node)
    }
}

impl NodeIdentity {
    /// The private key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    /// Reads the identity in `data`, if there is one.
    ///
    /// # Errors
    /// `OtherNode` if `asked` is another name, `Broken`, `Io`.
    pub fn load(data: &Path, asked: Option<&str>) -> Result<Option<Self>, IdentityError> {
        let folder = data.join("identity");
        if folder.exists() {
            return Self::load_from(folder, asked).map(Some);
        }
        // A process that ended while it put one in place of another has left both. Where there was none before, the new
        // one may be half written.
        for left in ["identity.new", "identity.old"].map(|name| data.join(name)) {
            match Self::load_from(left.clone(), asked) {
                Ok(whole) => {
                    put_in_place(&left, &folder)?;
                    return Ok(Some(whole));
                }
                Err(IdentityError::Broken(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(None)
    }

    fn load_from(folder: PathBuf, asked: Option<&str>) -> Result<Self, IdentityError> {
        let read = |name: &str| -> Result<Vec<u8>, IdentityError> {
            let path = folder.join(name);
            match fs::metadata(&path) {
                Ok(facts) if facts.len() > 0 && facts.len() <= FILE_BYTES_MAX => {}
                _ => return Err(IdentityError::Broken(folder.clone())),
            }
            fs::read(&path).map_err(|source| IdentityError::Io { path, source })
        };
        let stored = String::from_utf8(read("node")?)
            .map_err(|_| IdentityError::Broken(folder.clone()))?
            .trim()
            .to_string();
        if let Some(asked) = asked
            && asked != stored
        {
            return Err(IdentityError::OtherNode { folder, stored, asked: asked.into() });
        }
        Ok(NodeIdentity {
            node: stored,
            key: read("key.der")?,
            certificate: read("certificate.der")?.into(),
            authority: read("authority.der")?.into(),
        })
    }

    /// When its certificate ends, in Unix seconds.
    pub fn ends(&self) -> Option<u64> {
        expiry::ends(&self.certificate)
    }

    /// Writes the identity into `data`, in place of one that is there: all of it or nothing.
    ///
    /// # Errors
    /// `Io`.
    pub fn store(&self, data: &Path) -> Result<(), IdentityError> {
        let (folder, fresh) = (data.join("identity"), data.join("identity.new"));
        let old = data.join("identity.old");
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| IdentityError::Io { path, source }
        };
        for left in [&fresh, &old] {
            if left.exists() {
                fs::remove_dir_all(left).map_err(io(left))?;
            }
        }
        fs::create_dir_all(&fresh).map_err(io(&fresh))?;
        let files: [(&str, &[u8]); 4] = [
            ("key.der", &self.key),
            ("certificate.der", self.certificate.as_ref()),
            ("authority.der", self.authority.as_ref()),
            ("node", self.node.as_bytes()),
        ];
        for (name, bytes) in files {
            let path = fresh.join(name);
            write_private(&path, bytes).map_err(io(&path))?;
        }
        if folder.exists() {
            fs::rename(&folder, &old).map_err(io(&folder))?;
        }
        put_in_place(&fresh, &folder)?;
        if old.exists() {
            fs::remove_dir_all(&old).map_err(io(&old))?;
        }
        Ok(())
    }
}

/// One rename makes the folder appear whole; syncing the parent makes it stay.
fn put_in_place(from: &Path, folder: &Path) -> Result<(), IdentityError> {
    let data = folder.parent().unwrap_or(Path::new("."));
    let renamed = fs::rename(from, folder);
    let stays = renamed.and_then(|()| fs::File::open(data)?.sync_all());
    stays.map_err(|source| IdentityError::Io { path: folder.to_owned(), source })
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let token = Token { authority: [7; 32], secret: [9; 32] };
        assert_eq!(token.text().len(), 4 + 86);
        assert_eq!(token.text().parse::<Token>().expect("parses"), token);
        for bad in ["", "zt1.", "zt2.AAAA", "zt1.!!!!", &token.text()[..80]] {
            assert!(matches!(bad.parse::<Token>(), Err(IdentityError::Token)), "{bad}");
        }
        assert!(!format!("{token:?}").contains(&hex::encode([9u8; 32])[..8]));
    }

    #[test]
    fn names_follow_the_wires_law() {
        for good in ["a", "gpu-7.rack-2", &"x".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "GPU", "a b", "ü", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name(&default_name()).is_ok());
    }

    #[test]
    fn an_identity_survives_a_restart_and_is_private() {
        let data = tempfile::tempdir().expect("folder");
        assert!(NodeIdentity::load(data.path(), None).expect("no folder is fine").is_none());
        let candidate = Candidate::new("node-1").expect("key");
        let identity = candidate.signed("node-1", vec![1, 2], vec![3]);
        identity.store(data.path()).expect("stores");
        let loaded =
            NodeIdentity::load(data.path(), Some("node-1")).expect("loads").expect("is there");
        assert_eq!((loaded.node.as_str(), loaded.key), ("node-1", identity.key));
        assert!(matches!(
            NodeIdentity::load(data.path(), Some("node-2")),
            Err(IdentityError::OtherNode { .. })
        ));
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(data.path().join("identity/key.der")).expect("key").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        // A renewed one takes its place.
        let renewed = Candidate::new("node-1").expect("key").signed("node-1", vec![7], vec![3]);
        renewed.store(data.path()).expect("stores");
        let loaded = NodeIdentity::load(data.path(), None).expect("loads").expect("is there");
        assert_eq!((&loaded.key, loaded.ends()), (&renewed.key, None));
        assert_eq!(
            fs::read_dir(data.path()).expect("lists").count(),
            1,
            "nothing is left of the old"
        );
        fs::remove_file(data.path().join("identity/certificate.der")).expect("removes");
        assert!(matches!(NodeIdentity::load(data.path(), None), Err(IdentityError::Broken(_))));
    }

    /// Promise: wherever a renewal is cut off, one of the two identities is there.
    #[test]
    fn a_renewal_that_is_cut_off_leaves_an_identity() {
        let data = tempfile::tempdir().expect("folder");
        let path = |name: &str| data.path().join(name);
        let made = |certificate| {
            let candidate = Candidate::new("node-1").expect("key");
            candidate.signed("node-1", vec![certificate], vec![3])
        };
        let certificate = || {
            let loaded = NodeIdentity::load(data.path(), Some("node-1")).expect("loads");
            loaded.map(|identity| identity.certificate.to_vec())
        };
        made(1).store(data.path()).expect("stores");
        fs::rename(path("identity"), path("identity.old")).expect("renames");
        assert_eq!(certificate(), Some(vec![1]), "between the two renames");
        fs::rename(path("identity"), path("identity.old")).expect("renames");
        let whole = tempfile::tempdir().expect("folder");
        made(2).store(whole.path()).expect("stores");
        fs::rename(whole.path().join("identity"), path("identity.new")).expect("renames");
        assert_eq!(certificate(), Some(vec![2]), "the new one is whole");
        // In place again, so that what is stored next finds one to keep until it is whole itself.
        assert!(path("identity").exists());
        made(3).store(data.path()).expect("stores");
        assert_eq!(certificate(), Some(vec![3]));
        // A first one that is half written is none.
        fs::rename(path("identity"), path("identity.new")).expect("renames");
        fs::remove_file(path("identity.new/node")).expect("removes");
        assert_eq!(certificate(), None);
    }
}
