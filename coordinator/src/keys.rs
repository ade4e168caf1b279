//! API keys: who may ask, for which project, in which role.
//!
//! The text of a key is shown once, when it is made; what is kept is its SHA-256. The file is
//! small, is read once, and is replaced as a whole on each change, so a crash leaves the old one or
//! the new one. Knows no HTTP. Called by the door on each request, and by the operator's endpoints.

use crate::documents::{Documents, Folder};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};
use subtle::ConstantTimeEq;
use zoetrope_protocol::id::TenantId;

/// Keys that a store holds at most: each request compares with all of them (32 bytes each, so 0.3
/// MB).
pub const KEYS_MAX: usize = 10_000;
/// The longest name of a key, in characters.
pub const NAME_MAX: usize = 100;

/// What a key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Videos of its own project.
    Tenant,
    /// The same, and the farm's own endpoints.
    Operator,
}

/// A key without its text: what a list shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// `key_` and 16 hexadecimal digits.
    pub id: String,
    /// Whose videos it reaches.
    pub project: TenantId,
    /// What it allows.
    pub role: Role,
    /// What its owner calls it.
    pub name: String,
    /// When it was made, in Unix seconds.
    pub created_at: u64,
}

/// A key that was just made. Its text cannot be had again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// `zk_` and 43 characters of base64url: 32 random bytes.
    pub text: String,
    /// All else of it.
    pub row: KeyRow,
}

/// For which project a key is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Project {
    /// One that has no key yet; it gets the next number.
    New,
    /// This one, which has a key or had one.
    Known(TenantId),
}

/// A key that was not made, or a store that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read or written.
    #[error("key file {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no key file.
    #[error("key file {path} cannot be understood")]
    Format {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The project never had a key.
    #[error("there is no project {0}")]
    NoSuchProject(TenantId),
    /// The name is too long.
    #[error("the name of a key has at most {NAME_MAX} characters")]
    Name,
    /// The store is full.
    #[error("there are {KEYS_MAX} keys already")]
    Full,
    /// Without this key nobody could make another.
    #[error("this is the last operator's key")]
    LastOperator,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Table {
    /// The number that the next new project gets.
    next_project: u32,
    keys: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    row: KeyRow,
    /// Hexadecimal SHA-256 of the key's text.
    sha256: String,
}

/// The document with all keys.
const KEYS: &str = "keys.json";

/// All keys of a farm, in memory and in one document.
#[derive(Debug)]
pub struct KeyStore {
    /// None: this store lives in memory only.
    documents: Option<Box<dyn Documents>>,
    table: RwLock<Table>,
    /// Held while the file is replaced, so that two changes do not overtake each other.
    writing: Mutex<()>,
}

impl KeyStore {
    /// Reads the file in this folder, or begins an empty store if there is none.
    ///
    /// # Errors
    /// `File` or `Format`, with the path: a store that cannot be read must not look like an empty
    /// one.
    pub fn open(folder: &Path) -> Result<KeyStore, KeysError> {
        KeyStore::of(Box::new(Folder(folder.to_owned())))
    }

    /// Reads the keys among these documents, or begins an empty store. Blocking.
    ///
    /// # Errors
    /// As [`KeyStore::open`].
    pub fn of(documents: Box<dyn Documents>) -> Result<KeyStore, KeysError> {
        let path = documents.place(KEYS);
        let table = match documents.read(KEYS) {
            Ok(Some(bytes)) => serde_json::from_slice(&bytes)
                .map_err(|source| KeysError::Format { path, source })?,
            Ok(None) => Table::default(),
            Err(source) => return Err(KeysError::File { path, source }),
        };
        Ok(KeyStore { documents: Some(documents), ..KeyStore::holding(table) })
    }

    /// An empty store without a file.
    pub fn in_memory() -> KeyStore {
        KeyStore::holding(Table::default())
    }

    fn holding(table: Table) -> KeyStore {
        KeyStore { documents: None, table: RwLock::new(table), writing: Mutex::new(()) }
    }

    /// Makes a key and stores it durably.
    ///
    /// # Errors
    /// `NoSuchProject`, `Name`, `Full`, or `File` if it could not be stored; then there is no such
    /// key.
    pub fn create(&self, project: Project, role: Role, name: &str) -> Result<NewKey, KeysError> {
        self.create_as(new_text(), project, role, name)
    }

    /// The same with a text of [`new_text`] that its owner has already: a key that nobody knew the text of would be in
    /// the way of every later one.
    ///
    /// # Errors
    /// As [`KeyStore::create`].
    pub fn create_as(
        &self,
        text: String,
        project: Project,
        role: Role,
        name: &str,
    ) -> Result<NewKey, KeysError> {
        if name.chars().count() > NAME_MAX {
            return Err(KeysError::Name);
        }
        let writing = self.lock_writing();
        let mut table = self.copy();
        if table.keys.len() >= KEYS_MAX {
            return Err(KeysError::Full);
        }
        let project = match project {
            Project::Known(known) if known.0 >= 1 && known.0 <= table.next_project => known,
            Project::Known(unknown) => return Err(KeysError::NoSuchProject(unknown)),
            Project::New => {
                table.next_project += 1;
                TenantId(table.next_project)
            }
        };
        let row = KeyRow {
            id: format!("key_{}", hex::encode(random::<8>())),
            project,
            role,
            name: name.to_owned(),
            created_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        };
        table.keys.push(Entry { row: row.clone(), sha256: hex::encode(digest(&text)) });
        self.replace(writing, table)?;
        Ok(NewKey { text, row })
    }

    /// All keys, the oldest first.
    pub fn list(&self) -> Vec<KeyRow> {
        self.read(|table| table.keys.iter().map(|entry| entry.row.clone()).collect())
    }

    /// Whether a key of this role is there.
    pub fn any(&self, role: Role) -> bool {
        self.read(|table| table.keys.iter().any(|entry| entry.row.role == role))
    }

    /// Ends a key, durably; `false` if there is none of this id.
    ///
    /// # Errors
    /// `LastOperator`; `File` if that could not be stored. Then the key still holds.
    pub fn revoke(&self, id: &str) -> Result<bool, KeysError> {
        let writing = self.lock_writing();
        let mut table = self.copy();
        let Some(at) = table.keys.iter().position(|entry| entry.row.id == id) else {
            return Ok(false);
        };
        let ended = table.keys.remove(at).row.role;
        if ended == Role::Operator && !table.keys.iter().any(|entry| entry.row.role == ended) {
            return Err(KeysError::LastOperator);
        }
        self.replace(writing, table)?;
        Ok(true)
    }

    /// The key with this text. Takes equally long for every text.
    pub fn verify(&self, text: &str) -> Option<KeyRow> {
        let presented = hex::encode(digest(text));
        self.read(|table| {
            let mut found = None;
            for entry in &table.keys {
                if bool::from(entry.sha256.as_bytes().ct_eq(presented.as_bytes())) {
                    found = Some(&entry.row);
                }
            }
            found.cloned()
        })
    }

    fn read<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        // A poisoned lock means that a reader panicked: the table itself is replaced only as a
        // whole.
        look(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn copy(&self) -> Table {
        self.read(Table::clone)
    }

    fn lock_writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file first: a key counts once it is durable.
    fn replace(&self, _writing: MutexGuard<'_, ()>, table: Table) -> Result<(), KeysError> {
        if let Some(documents) = &self.documents {
            let text = serde_json::to_vec_pretty(&table).map_err(std::io::Error::other);
            text.and_then(|text| documents.write(KEYS, &text))
                .map_err(|source| KeysError::File { path: documents.place(KEYS), source })?;
        }
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(())
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// The text of a key: nobody else has it.
pub fn new_text() -> String {
    use base64::Engine as _;
    format!("zk_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random::<32>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_its_project_until_it_is_revoked() {
        let keys = KeyStore::in_memory();
        let first = keys.create(Project::New, Role::Operator, "mine").unwrap();
        let second = keys.create(Project::New, Role::Tenant, "theirs").unwrap();
        let third = keys.create(Project::Known(TenantId(1)), Role::Tenant, "also mine").unwrap();
        assert!(first.text.starts_with("zk_") && first.text.len() == 46);
        assert_eq!((first.row.project, second.row.project), (TenantId(1), TenantId(2)));
        assert_eq!(keys.verify(&third.text), Some(third.row.clone()));
        assert_eq!(keys.verify("zk_"), None);
        // Nobody could make another operator's key.
        assert!(matches!(keys.revoke(&first.row.id), Err(KeysError::LastOperator)));
        assert!(keys.verify(&first.text).is_some());
        let fourth = keys.create(Project::Known(TenantId(1)), Role::Operator, "the next").unwrap();
        assert!(keys.revoke(&first.row.id).unwrap());
        assert!(!keys.revoke(&first.row.id).unwrap());
        assert_eq!(keys.verify(&first.text), None);
        assert_eq!(keys.list(), [second.row, third.row, fourth.row]);
    }

    #[test]
    fn keys_outlive_the_process_and_their_text_is_not_stored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let open = || KeyStore::open(folder.path()).unwrap();
        let made = open().create(Project::New, Role::Tenant, "a").unwrap();
        let stored = std::fs::read_to_string(&path).unwrap();
        assert!(!stored.contains(&made.text[3..]), "{stored}");
        assert_eq!(open().verify(&made.text), Some(made.row));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn project_numbers_are_never_given_twice() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyStore::open(folder.path()).unwrap();
        let made = keys.create(Project::New, Role::Tenant, "").unwrap();
        assert!(keys.revoke(&made.row.id).unwrap());
        let keys = KeyStore::open(folder.path()).unwrap();
        assert_eq!(keys.create(Project::New, Role::Tenant, "").unwrap().row.project, TenantId(2));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let keys = KeyStore::in_memory();
        let unknown = keys.create(Project::Known(TenantId(1)), Role::Tenant, "");
        assert!(matches!(unknown, Err(KeysError::NoSuchProject(TenantId(1)))));
        let long = "x".repeat(NAME_MAX + 1);
        assert!(matches!(keys.create(Project::New, Role::Tenant, &long), Err(KeysError::Name)));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(KeyStore::open(folder.path()), Err(KeysError::Format { .. })));
    }
}
