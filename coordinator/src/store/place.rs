//! Where the store is: a folder on a disk, or a bucket of an S3-compatible service. The one file that names a kind
//! of store; all others see objects.
//!
//! Every request to a service has a timeout and a bounded number of tries, so a service that is down, slow or hangs
//! is an error within a minute, which makes jobs wait. Credentials come from a file or the environment and are in
//! no message: `Debug` of what holds them shows none.

use super::StoreError;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A service that takes no connection for so long is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One request: a part of 5 MiB takes so long at 2 Mbit/s, and what takes longer hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Tries of one request beyond the first: a `503 Slow Down` or a lost connection passes within seconds.
const RETRIES_MAX: usize = 5;
/// No further try begins after so long, so a request ends within this and one timeout: 32 s. A worker waits 60 s
/// for an acknowledgement.
const RETRY_WITHIN: Duration = Duration::from_secs(12);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// A file with two keys and a token of 2 KB.
const CREDENTIALS_BYTES_MAX: u64 = 16 << 10;
/// How a bucket's address begins.
pub const BUCKET_SCHEME: &str = "s3://";

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder.
    Folder(PathBuf),
    /// A bucket.
    Bucket(Bucket),
}

/// A bucket of an S3-compatible service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// What stands before every key; may be empty.
    pub prefix: String,
    /// URL of the service; none: Amazon's, of the region.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// The file with the keys; none: the environment (`AWS_ACCESS_KEY_ID` and the like), or the machine's role.
    pub credentials: Option<PathBuf>,
    /// PEM of the authority that the service's certificate is from; none: those of the system.
    pub authority: Option<PathBuf>,
}

/// The file with the keys. Without `Debug`, so that nothing can print it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

/// Objects, and the disk that must be synced after a write if they are files.
pub(super) type Opened = (Arc<dyn ObjectStore>, Option<Arc<LocalFileSystem>>);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Folder(folder) => folder.display().fmt(f),
            Place::Bucket(Bucket { name, prefix, .. }) if prefix.is_empty() => {
                write!(f, "{BUCKET_SCHEME}{name}")
            }
            Place::Bucket(Bucket { name, prefix, .. }) => {
                write!(f, "{BUCKET_SCHEME}{name}/{prefix}")
            }
        }
    }
}

/// Bucket and prefix of `s3://bucket/prefix`; none if it is not of that form.
pub fn parse_bucket(address: &str) -> Option<(&str, &str)> {
    let rest = address.strip_prefix(BUCKET_SCHEME)?;
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let good = (3..=63).contains(&name.len())
        && name.bytes().all(letter)
        && edge(bytes.first())
        && edge(bytes.last());
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    let prefix = prefix.trim_end_matches('/');
    let parts = prefix.is_empty() || prefix.split('/').all(|part| !["", ".", ".."].contains(&part));
    (good && parts && prefix.len() <= 128 && prefix.bytes().all(plain)).then_some((name, prefix))
}

impl Place {
    /// Opens it; a folder is made if it is not there. Nothing is asked of a service yet: it may be down when the
    /// farm starts.
    pub(super) fn open(&self) -> Result<Opened, StoreError> {
        match self {
            Place::Folder(folder) => {
                zoetrope_provenance::private::make(folder)?;
                let files = Arc::new(LocalFileSystem::new_with_prefix(folder)?);
                Ok((files.clone(), Some(files)))
            }
            Place::Bucket(bucket) => {
                let objects = bucket.client()?;
                if bucket.prefix.is_empty() {
                    return Ok((Arc::new(objects), None));
                }
                let prefix = Key::from(bucket.prefix.as_str());
                Ok((Arc::new(PrefixStore::new(objects, prefix)), None))
            }
        }
    }

    /// Reads what opening it reads, and makes nothing.
    ///
    /// # Errors
    /// If a file is not what it must be, or the folder is a file.
    pub fn look(&self) -> Result<(), StoreError> {
        match self {
            Place::Folder(folder) if folder.exists() && !folder.is_dir() => {
                Err(StoreError::Io(std::io::ErrorKind::NotADirectory.into()))
            }
            Place::Folder(_) => Ok(()),
            Place::Bucket(bucket) => bucket.client().map(drop),
        }
    }
}

impl Bucket {
    fn client(&self) -> Result<AmazonS3, StoreError> {
        let mut client = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(REQUEST_TIMEOUT);
        if let Some(file) = &self.authority {
            let pem = std::fs::read(file).map_err(|e| unusable("ca_file", file, &e.to_string()))?;
            for certificate in Certificate::from_pem_bundle(&pem)? {
                client = client.with_root_certificate(certificate);
            }
        }
        let mut builder = match &self.credentials {
            Some(file) => {
                let Credentials { access_key_id, secret_access_key, session_token } = read(file)?;
                let builder = AmazonS3Builder::new()
                    .with_access_key_id(access_key_id)
                    .with_secret_access_key(secret_access_key);
                session_token.into_iter().fold(builder, AmazonS3Builder::with_token)
            }
            None => AmazonS3Builder::from_env(),
        };
        if let Some(endpoint) = &self.endpoint {
            let plain = endpoint.starts_with("http://");
            (builder, client) = (builder.with_endpoint(endpoint), client.with_allow_http(plain));
        }
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: BACKOFF_FIRST,
                max_backoff: BACKOFF_MAX,
                base: 2.0,
            },
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_WITHIN,
        };
        let objects = builder
            .with_bucket_name(&self.name)
            .with_region(&self.region)
            // The service holds what came against a digest that went with it, before it says that it has it.
            .with_checksum_algorithm(Checksum::SHA256)
            .with_client_options(client)
            .with_retry(retry)
            .build()?;
        Ok(objects)
    }
}

fn unusable(key: &str, file: &Path, why: &str) -> StoreError {
    StoreError::Io(std::io::Error::other(format!("store.{key} = {}: {why}", file.display())))
}

/// Reads the keys. What is in the file is in no message.
fn read(file: &Path) -> Result<Credentials, StoreError> {
    let wrong = |why: &str| unusable("credentials_file", file, why);
    let about = std::fs::metadata(file).map_err(|e| wrong(&e.to_string()))?;
    if about.len() > CREDENTIALS_BYTES_MAX {
        return Err(wrong("it is too long for a file with access_key_id and secret_access_key"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if about.permissions().mode() & 0o077 != 0 {
            return Err(wrong("others than its owner may read it: chmod 600"));
        }
    }
    let text = std::fs::read_to_string(file).map_err(|e| wrong(&e.to_string()))?;
    // The parser's own text would quote the line.
    let how = "two lines are wanted: access_key_id = \"…\" and secret_access_key = \"…\"; a third, session_token, is allowed";
    toml::from_str(&text).map_err(|_| wrong(how))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_a_name_and_perhaps_a_prefix() {
        assert_eq!(parse_bucket("s3://clips"), Some(("clips", "")));
        assert_eq!(parse_bucket("s3://clips/farm/a/"), Some(("clips", "farm/a")));
        for wrong in ["clips", "s3://", "s3://ab", "s3://Clips", "s3://clips/../x", "s3://-ab/x"] {
            assert_eq!(parse_bucket(wrong), None, "{wrong}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn keys_are_in_no_message_and_a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("keys");
        let set = |text: &str, mode: u32| {
            std::fs::write(&file, text).expect("writes");
            let rights = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&file, rights).expect("sets");
        };
        let bucket =
            Bucket { name: "clips".into(), credentials: Some(file.clone()), ..Bucket::default() };
        let opened = |bucket: &Bucket| match Place::Bucket(bucket.clone()).open() {
            Ok(_) => panic!("it opened"),
            Err(error) => format!("{error:?} {error}"),
        };
        set("access_key_id = \"id\"\nsecret_access_key = \"hush\"\n", 0o644);
        assert!(opened(&bucket).contains("chmod 600"));
        set("access_key_id = \"id\"\nsecret_key = \"hush\"\n", 0o600);
        let said = opened(&bucket);
        assert!(said.contains("secret_access_key = ") && !said.contains("hush"), "{said}");
        set("access_key_id = \"id\"\nsecret_access_key = \"hush\"\n", 0o600);
        let (objects, _) = Place::Bucket(bucket.clone()).open().expect("opens");
        let shown = format!("{bucket:?} {objects} {}", Place::Bucket(bucket.clone()));
        assert!(!shown.contains("hush"), "{shown}");
    }
}
