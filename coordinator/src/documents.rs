//! The few small documents that a farm must never lose or show: its authority, its API keys, its open join tokens.
//!
//! Alone they are files of mode 0600 in the data folder. In a cluster they lie in etcd, where every coordinator
//! finds them, each sealed with a secret that is a file on the coordinators and never in etcd: who reads etcd, or
//! a backup of it, gets no private key, and who writes there cannot make an API key. The name is sealed with the
//! text, so that one document cannot stand in for another. Only the leader writes, under its fence.

use crate::etcd::{Etcd, EtcdError, Op};
use crate::leadership::Leadership;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Length of a nonce in front of a sealed document. Each is random: after 2^32 writes of one secret, one a second
/// for 136 years, two would be equal with a chance of one in 2^33.
const NONCE_BYTES: usize = 12;
/// The shortest secret, in bytes, without white space at its end.
pub const SECRET_BYTES_MIN: usize = 32;
/// The longest file that is taken for a secret.
const SECRET_BYTES_MAX: u64 = 4 << 10;
/// A document is read or written within so long, tries included, or the caller is told that it is not.
const TRIES: u32 = 5;
const WAIT: Duration = Duration::from_millis(200);

/// Where documents are. All calls block.
pub trait Documents: Send + Sync + std::fmt::Debug {
    /// The text of a document, if there is one.
    ///
    /// # Errors
    /// Those of the place; one that is there and cannot be read is never told as absent.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Replaces a document, durably: after a crash it is the old one or the new one.
    ///
    /// # Errors
    /// Those of the place; then the old one holds, unless etcd did not say what it did.
    fn write(&self, name: &str, text: &[u8]) -> io::Result<()>;

    /// Where a document is, for a person.
    fn place(&self, name: &str) -> PathBuf;
}

/// Documents as files.
#[derive(Clone, Debug)]
pub struct Folder(pub PathBuf);

impl Documents for Folder {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.place(name)) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn write(&self, name: &str, text: &[u8]) -> io::Result<()> {
        std::fs::create_dir_all(&self.0)?;
        let target = self.place(name);
        let draft = target.with_extension("draft");
        // What a crash left there may have other rights; a new file has ours from its first byte on.
        match std::fs::remove_file(&draft) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&draft)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&draft, &target)?;
        crate::journal::snapshot::sync_folder(&self.0)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// The secret that documents in etcd are sealed with.
pub struct Secret(LessSafeKey);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Reads the secret from a file.
    ///
    /// # Errors
    /// A sentence, if the file is not there, or too short or too long to be one.
    pub fn read(file: &Path) -> Result<Secret, String> {
        let how = "make one with `openssl rand -hex 32` and copy it to every coordinator";
        let size = std::fs::metadata(file).map_err(|e| format!("{e}; {how}"))?.len();
        let text = if size <= SECRET_BYTES_MAX { std::fs::read(file) } else { Ok(Vec::new()) };
        let text = text.map_err(|e| e.to_string())?;
        Secret::of(text.trim_ascii_end())
            .ok_or_else(|| format!("it must hold {SECRET_BYTES_MIN} to 4096 bytes; {how}"))
    }

    fn of(text: &[u8]) -> Option<Secret> {
        if text.len() < SECRET_BYTES_MIN {
            return None;
        }
        let digest = Sha256::new().chain_update(b"zoetrope documents 1").chain_update(text);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &digest.finalize()).ok()?;
        Some(Secret(LessSafeKey::new(key)))
    }

    fn seal(&self, name: &str, text: &[u8]) -> io::Result<Vec<u8>> {
        use rand::RngCore;
        let mut nonce = [0; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let mut sealed = text.to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        self.0
            .seal_in_place_append_tag(unique, Aad::from(name), &mut sealed)
            .map_err(|_| io::Error::other("the document cannot be sealed"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let mut text = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(name), &mut text).ok()?.len();
        text.truncate(opened);
        Some(text)
    }
}

/// Documents in etcd.
#[derive(Clone)]
pub struct Sealed {
    /// The farm's etcd.
    pub etcd: Etcd,
    /// The term in which they are written.
    pub leadership: Arc<Leadership>,
    /// What they are sealed with.
    pub secret: Arc<Secret>,
    /// Runs the requests.
    pub runtime: Handle,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealed")
    }
}

impl Documents for Sealed {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let key = key(name);
        let Some(entry) = self.try_often(|etcd| {
            let key = key.clone();
            async move { etcd.get(&key).await }
        })?
        else {
            return Ok(None);
        };
        let text = self.secret.open(name, &entry.value);
        text.map(Some).ok_or_else(|| {
            let why =
                format!("{name} in etcd does not open with etcd.secret_file: is it this farm's?");
            io::Error::new(io::ErrorKind::InvalidData, why)
        })
    }

    fn write(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let deposed = || io::Error::other("another coordinator leads");
        let fence = self.leadership.fence().ok_or_else(deposed)?;
        // The same bytes at each try, so that one whose outcome is unknown may be repeated.
        let op = Op::Put(key(name), self.secret.seal(name, text)?);
        let done = self.try_often(|etcd| {
            let (op, fence) = (op.clone(), fence.clone());
            async move { etcd.write(&fence, &[op]).await }
        })?;
        done.map(drop).ok_or_else(|| {
            self.leadership.lose();
            deposed()
        })
    }

    fn place(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("etcd:{}", key(name)))
    }
}

impl Sealed {
    fn try_often<T, F>(&self, ask: impl Fn(Etcd) -> F) -> io::Result<T>
    where
        F: Future<Output = Result<T, EtcdError>>,
    {
        self.runtime.block_on(async {
            let mut tries = 1;
            loop {
                match ask(self.etcd.clone()).await {
                    Ok(answer) => return Ok(answer),
                    Err(EtcdError::Unreachable(_))
                        if tries < TRIES && self.leadership.is_held() =>
                    {
                        tries += 1;
                        tokio::time::sleep(WAIT).await;
                    }
                    Err(error @ EtcdError::Unreachable(_)) => {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, error));
                    }
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
        })
    }
}

fn key(name: &str) -> String {
    format!("documents/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_document_opens_under_its_name_and_secret_alone() {
        let secret = Secret::of(&[7; 32]).expect("long enough");
        let sealed = secret.seal("keys.json", b"{}").expect("seals");
        assert!(!sealed.windows(2).any(|w| w == b"{}"));
        assert_eq!(secret.open("keys.json", &sealed), Some(b"{}".to_vec()));
        assert_eq!(secret.open("tokens.json", &sealed), None);
        assert_eq!(Secret::of(&[8; 32]).expect("long").open("keys.json", &sealed), None);
        let mut flipped = sealed;
        *flipped.last_mut().expect("has bytes") ^= 1;
        assert_eq!(secret.open("keys.json", &flipped), None);
        assert_eq!(secret.open("keys.json", b"short"), None);
    }

    #[test]
    fn a_secret_that_is_none_is_refused_in_words() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("secret");
        let said = Secret::read(&file).expect_err("is not there");
        assert!(said.contains("openssl rand"), "{said}");
        std::fs::write(&file, "short\n").expect("writes");
        assert!(Secret::read(&file).expect_err("too short").contains("32 to 4096 bytes"));
        std::fs::write(&file, "x".repeat(5_000)).expect("writes");
        assert!(Secret::read(&file).is_err());
        std::fs::write(&file, "x".repeat(32) + "\n").expect("writes");
        assert!(Secret::read(&file).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn files_are_their_owners_alone_and_are_replaced_whole() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("temporary folder");
        let place = Folder(folder.path().join("ca"));
        assert_eq!(place.read("a").expect("reads"), None);
        place.write("a", b"one").expect("writes");
        place.write("a", b"two").expect("writes");
        assert_eq!(place.read("a").expect("reads"), Some(b"two".to_vec()));
        let mode = std::fs::metadata(place.place("a")).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
