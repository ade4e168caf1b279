//! The store of artifacts and published pointers, on `object_store`: a folder, or a bucket of an S3-compatible
//! service ([`place`]).
//!
//! Layout: `artifacts/<first two digits>/<sha256>`, `published/<job>.json`, and `journal/<part>` where the journal
//! is in etcd; `farm` says whose it is ([`owner`]). An artifact appears whole or not
//! at all, and only if its bytes match its address; what is acknowledged is durable. Bytes never pass through a
//! mailbox: links and the door stream with a shared handle. Knows no policy.

mod direct;
mod owner;
mod pieces;
pub mod place;
mod reader;
pub mod settings;
mod space;
mod upload;

pub use owner::Owner;
pub use reader::StoreReader;
pub use upload::Upload;

use bytes::Bytes;
use direct::Folders;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use place::Place;
use sha2::{Digest, Sha256};
use space::Space;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OnceCell, Semaphore};
use zoetrope_protocol::id::{ArtifactId, JobId};

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store has no such object.
    #[error("the store does not have it")]
    Missing,
    /// The bytes do not match the address.
    #[error("the bytes do not match their address")]
    WrongDigest,
    /// More or fewer bytes than were announced.
    #[error("{received} bytes came, {announced} were announced")]
    WrongLength {
        /// Bytes that came.
        received: u64,
        /// Bytes that were announced.
        announced: u64,
    },
    /// The job was published already, with another clip.
    #[error("the job has another published clip")]
    Taken,
    /// The service ignores conditional writes, and there are several who write.
    #[error(
        "the store ignores conditional writes (If-None-Match), which several coordinators need"
    )]
    Unconditional,
    /// The disk or the service failed.
    #[error("the store failed")]
    Failed(#[from] object_store::Error),
    /// The disk failed.
    #[error("the store failed")]
    Io(#[from] std::io::Error),
}

impl StoreError {
    /// Whether the store itself is in trouble, so that another try may help; otherwise what it has is not what was
    /// asked for. Other bytes than were put under an address are its fault, or that of the way: they were right once.
    pub fn is_trouble(&self) -> bool {
        matches!(self, StoreError::Failed(_) | StoreError::Io(_) | StoreError::WrongDigest)
    }
}

/// What the store does when it is asked to write an object only if there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditional {
    /// It refuses the second writer.
    Kept,
    /// It overwrites as if it had not been asked, or does not know the question.
    Ignored,
}

/// What comes after an artifact was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It is read.
    Soon,
    /// It is there in case a render goes on elsewhere.
    Unlikely,
}

/// Who may write to the store at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// This process.
    One,
    /// Other coordinators: one that was deposed may still be writing a pointer.
    Several,
}

/// A shared handle to the store.
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// The same, if it is a folder: what is written is then synced.
    disk: Option<Arc<LocalFileSystem>>,
    folders: Arc<Folders>,
    /// Of a folder.
    space: Option<Arc<Space>>,
    writers: Writers,
    conditional: OnceCell<Conditional>,
    /// One publication at a time where the store itself excludes none.
    turn: Semaphore,
    /// Whose it must be, where somebody said so, and whose it is.
    farm: OnceLock<String>,
    owner: OnceLock<Owner>,
    fresh: Mutex<HashMap<ArtifactId, Instant>>,
    /// An artifact that was put so recently may be used by an input that is still on its way.
    keep_fresh: Duration,
}

impl Store {
    /// Opens the store in a folder, or makes it. What was put less than `keep_fresh` ago is not deleted.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(folder: &Path, keep_fresh: Duration) -> Result<Store, StoreError> {
        Store::at(&Place::Folder(folder.to_owned()), Writers::One, keep_fresh)
    }

    /// Opens the store at a place.
    ///
    /// # Errors
    /// Those of the disk; of a bucket those of its configuration, as nothing is asked of it yet.
    pub fn at(place: &Place, writers: Writers, keep_fresh: Duration) -> Result<Store, StoreError> {
        let (objects, disk) = place.open()?;
        let known = disk.is_some().then_some(Conditional::Kept);
        let space = match place {
            Place::Folder(folder) => Some(Space::of(folder)),
            Place::Bucket(_) => None,
        };
        Ok(Store {
            objects,
            disk,
            folders: Arc::default(),
            space,
            writers,
            conditional: OnceCell::new_with(known),
            turn: Semaphore::new(1),
            farm: OnceLock::new(),
            owner: OnceLock::new(),
            fresh: Mutex::new(HashMap::new()),
            keep_fresh,
        })
    }

    /// What the store does with a conditional write: tried once, with an object of its own.
    ///
    /// # Errors
    /// `Unconditional`; those of the store, and then it is tried again by the next who asks.
    pub async fn conditional(&self) -> Result<Conditional, StoreError> {
        let found = *self.conditional.get_or_try_init(|| self.probe()).await?;
        match (found, self.writers) {
            (Conditional::Ignored, Writers::Several) => Err(StoreError::Unconditional),
            _ => Ok(found),
        }
    }

    async fn probe(&self) -> Result<Conditional, StoreError> {
        let key = Key::from(format!("probe/{:032x}", rand::random::<u128>()));
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = |options| self.objects.put_opts(&key, PutPayload::from_static(b"probe"), options);
        let found = match put(create()).await {
            Ok(_) => match put(create()).await {
                Ok(_) => Conditional::Ignored,
                Err(object_store::Error::AlreadyExists { .. }) => Conditional::Kept,
                Err(error) => return Err(error.into()),
            },
            // A service may refuse the question; one that refuses the object itself is down, or not ours.
            Err(_) => put(PutOptions::default()).await.map(|_| Conditional::Ignored)?,
        };
        self.erase(&key).await?;
        Ok(found)
    }

    /// Begins to put an artifact of so many bytes.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put(
        self: &Arc<Self>,
        artifact: ArtifactId,
        bytes: u64,
        reading: Reading,
    ) -> Result<Upload, StoreError> {
        if self.is_anothers() {
            return Err(owner::anothers());
        }
        if let Some(space) = &self.space {
            space.look().await?;
        }
        self.touch(artifact);
        Upload::begin(self.clone(), artifact, bytes, reading).await
    }

    /// The size of an artifact.
    ///
    /// # Errors
    /// `Missing`, or those of the store.
    pub async fn size(&self, artifact: &ArtifactId) -> Result<u64, StoreError> {
        let head = self.objects.head(&artifact_key(artifact)).await.map_err(missing)?;
        Ok(head.size)
    }

    /// Streams a range of an artifact.
    ///
    /// # Errors
    /// `Missing`, or those of the store.
    pub async fn get(
        &self,
        artifact: &ArtifactId,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        Ok(self.get_with(artifact, range).await?.1)
    }

    /// The same, with what the store says of the whole artifact.
    async fn get_with(
        &self,
        artifact: &ArtifactId,
        range: Option<Range<u64>>,
    ) -> Result<(ObjectMeta, BoxStream<'static, Result<Bytes, StoreError>>), StoreError> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let found =
            self.objects.get_opts(&artifact_key(artifact), options).await.map_err(missing)?;
        let meta = found.meta.clone();
        Ok((meta, pieces::read(found).await?))
    }

    /// Reads a small artifact whole: what a sidecar needs to know of a clip.
    ///
    /// # Errors
    /// `WrongLength` for one that is, or is said to be, over `bytes_max`; `WrongDigest`; `Missing`, or those of the
    /// store.
    pub async fn small(
        &self,
        artifact: &ArtifactId,
        size: u64,
        bytes_max: u64,
    ) -> Result<Vec<u8>, StoreError> {
        let announced = size.min(bytes_max);
        let mut bytes = Vec::new();
        if size == announced {
            let mut stream = self.get(artifact, None).await?;
            while let Some(chunk) = stream.try_next().await? {
                bytes.extend_from_slice(&chunk);
                if bytes.len() as u64 > announced {
                    break;
                }
            }
        }
        let received = bytes.len() as u64;
        if received != size {
            return Err(StoreError::WrongLength { received, announced: size });
        }
        if ArtifactId::of(&bytes) != *artifact {
            return Err(StoreError::WrongDigest);
        }
        Ok(bytes)
    }

    /// Reads an artifact and compares it with its address and size.
    ///
    /// # Errors
    /// `Missing`, `WrongDigest`, `WrongLength`, or those of the store.
    pub async fn verify(&self, artifact: &ArtifactId, bytes: u64) -> Result<(), StoreError> {
        let mut stream = self.get(artifact, None).await?;
        let (mut digest, mut received) = (Sha256::new(), 0);
        while let Some(chunk) = stream.try_next().await? {
            received += chunk.len() as u64;
            digest.update(&chunk);
        }
        if received != bytes {
            return Err(StoreError::WrongLength { received, announced: bytes });
        }
        let whole = digest.finalize().as_slice() == artifact.0;
        if whole { Ok(()) } else { Err(StoreError::WrongDigest) }
    }

    /// Deletes an artifact, unless it was put a moment ago: then `false`, and it is to be tried again later.
    ///
    /// # Errors
    /// Those of the store; an artifact that is not there is deleted.
    pub async fn delete(&self, artifact: &ArtifactId) -> Result<bool, StoreError> {
        if self.is_fresh(artifact) {
            return Ok(false);
        }
        self.own().await?;
        self.erase(&artifact_key(artifact)).await.map(|()| true)
    }

    /// All artifacts.
    pub fn list(&self) -> BoxStream<'static, Result<ArtifactId, StoreError>> {
        let all = self.objects.list(Some(&Key::from("artifacts")));
        all.map_err(StoreError::from)
            .try_filter_map(|meta| async move {
                Ok(meta.location.filename().and_then(|name| name.parse().ok()))
            })
            // Those of a service break when they are asked again after their end.
            .fuse()
            .boxed()
    }

    /// All artifacts that were put longer ago than this.
    pub fn list_old(&self, age: Duration) -> BoxStream<'static, Result<ArtifactId, StoreError>> {
        let before = std::time::SystemTime::now() - age;
        let all = self.objects.list(Some(&Key::from("artifacts")));
        all.map_err(StoreError::from)
            .try_filter_map(move |meta| async move {
                let old = std::time::SystemTime::from(meta.last_modified) <= before;
                Ok(meta.location.filename().filter(|_| old).and_then(|name| name.parse().ok()))
            })
            .fuse()
            .boxed()
    }

    /// Files that uploads left behind longer ago than this, of a process that was killed; they are removed on request.
    /// A service has none that could be seen: its rule on incomplete uploads removes them.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn uploads_left(
        &self,
        age: Duration,
        remove: bool,
    ) -> Result<Vec<String>, StoreError> {
        let Some(disk) = &self.disk else { return Ok(Vec::new()) };
        let folder = disk.path_to_filesystem(&Key::from("artifacts"))?;
        let find = move || -> std::io::Result<Vec<String>> {
            let mut left = Vec::new();
            let folders = match std::fs::read_dir(&folder) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(left),
                folders => folders?,
            };
            for folder in folders {
                for file in std::fs::read_dir(folder?.path())? {
                    let file = file?;
                    let name = file.file_name().to_string_lossy().into_owned();
                    // How `object_store` calls what is not whole yet: the name, `#` and a number.
                    if !name.contains('#') {
                        continue;
                    }
                    // One that is gone became whole meanwhile.
                    let Ok(about) = file.metadata() else { continue };
                    if about.modified()?.elapsed().is_ok_and(|of| of >= age) {
                        if remove {
                            std::fs::remove_file(file.path())?;
                        }
                        left.push(name);
                    }
                }
            }
            Ok(left)
        };
        Ok(tokio::task::spawn_blocking(find).await.map_err(std::io::Error::other)??)
    }

    /// Removes an artifact whose bytes are wrong, however fresh.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove(&self, artifact: &ArtifactId) -> Result<(), StoreError> {
        self.own().await?;
        self.erase(&artifact_key(artifact)).await
    }

    /// The pointer of a job.
    ///
    /// # Errors
    /// `Missing`, or those of the store.
    pub async fn pointer(&self, job: JobId) -> Result<Vec<u8>, StoreError> {
        let found = self.objects.get(&pointer_key(job)).await.map_err(missing)?;
        Ok(found.bytes().await.map_err(missing)?.to_vec())
    }

    /// All jobs that have a pointer.
    pub fn pointers(&self) -> BoxStream<'static, Result<JobId, StoreError>> {
        let all = self.objects.list(Some(&Key::from("published")));
        all.map_err(StoreError::from)
            .try_filter_map(|meta| async move {
                let name = meta.location.filename().and_then(|name| name.strip_suffix(".json"));
                Ok(name.and_then(|name| name.parse().ok()))
            })
            .fuse()
            .boxed()
    }

    /// Names of objects that this store would not write.
    pub fn strangers(&self) -> BoxStream<'static, Result<String, StoreError>> {
        let all = self.objects.list(None).map_err(StoreError::from);
        all.try_filter_map(|meta| async move {
            Ok((!is_ours(&meta.location)).then(|| meta.location.to_string()))
        })
        .fuse()
        .boxed()
    }

    /// Writes the pointer that makes a clip readable. Writing the same one again is fine.
    ///
    /// # Errors
    /// `Taken` if the job points elsewhere already; those of the store.
    pub async fn publish(&self, job: JobId, pointer: Vec<u8>) -> Result<(), StoreError> {
        self.own().await?;
        let (key, bytes) = (pointer_key(job), Bytes::from(pointer));
        let write = |mode| {
            let options = PutOptions { mode, ..PutOptions::default() };
            self.objects.put_opts(&key, PutPayload::from(bytes.clone()), options)
        };
        let written = match self.conditional().await? {
            Conditional::Kept => write(PutMode::Create).await,
            Conditional::Ignored => {
                // Nobody closes it. This process is the only writer, so looking first is enough.
                let _turn = self.turn.acquire().await.map_err(std::io::Error::other)?;
                match self.objects.head(&key).await {
                    Err(object_store::Error::NotFound { .. }) => write(PutMode::Overwrite).await,
                    Err(error) => Err(error),
                    Ok(_) => return self.same(&key, &bytes).await,
                }
            }
        };
        match written {
            Ok(_) => self.sync(&key).await,
            // Also the answer to our own second try, when that to the first was lost.
            Err(object_store::Error::AlreadyExists { .. }) => self.same(&key, &bytes).await,
            Err(e) => Err(e.into()),
        }
    }

    async fn same(&self, key: &Key, bytes: &Bytes) -> Result<(), StoreError> {
        let there = self.objects.get(key).await?.bytes().await?;
        if there == *bytes { Ok(()) } else { Err(StoreError::Taken) }
    }

    /// Removes the pointer of a job.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn unpublish(&self, job: JobId) -> Result<(), StoreError> {
        self.own().await?;
        self.erase(&pointer_key(job)).await
    }

    /// Writes a part of the journal, durably. The same again is fine: a part's name says its content.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_part(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let key = part_key(name);
        self.objects.put(&key, PutPayload::from(bytes.to_vec())).await?;
        self.sync(&key).await
    }

    /// A part of the journal.
    ///
    /// # Errors
    /// `Missing`, or those of the store.
    pub async fn part(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let found = self.objects.get(&part_key(name)).await.map_err(missing)?;
        Ok(found.bytes().await.map_err(missing)?.to_vec())
    }

    /// The names of all parts.
    pub fn parts(&self) -> BoxStream<'static, Result<String, StoreError>> {
        let all = self.objects.list(Some(&Key::from("journal")));
        all.map_err(StoreError::from)
            .try_filter_map(|meta| async move { Ok(meta.location.filename().map(str::to_owned)) })
            .boxed()
    }

    /// Deletes a part; one that is not there is deleted.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_part(&self, name: &str) -> Result<(), StoreError> {
        self.erase(&part_key(name)).await
    }

    /// Keeps what is shown of running jobs, for the next leader. Not durable in a folder: it decides nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn keep_progress(&self, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.objects.put(&Key::from("progress"), PutPayload::from(bytes)).await?;
        Ok(())
    }

    /// What was kept of running jobs.
    ///
    /// # Errors
    /// `Missing`, or those of the store.
    pub async fn progress(&self) -> Result<Vec<u8>, StoreError> {
        let found = self.objects.get(&Key::from("progress")).await.map_err(missing)?;
        Ok(found.bytes().await.map_err(missing)?.to_vec())
    }

    /// Deletes an object; one that is not there is deleted.
    async fn erase(&self, key: &Key) -> Result<(), StoreError> {
        let Err(error) = self.objects.delete(key).await else { return Ok(()) };
        if matches!(error, object_store::Error::NotFound { .. }) {
            return Ok(());
        }
        // Some services delete and answer in a form that the client cannot read: what counts is that it is gone.
        match self.objects.head(key).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            _ => Err(error.into()),
        }
    }

    /// A local directory keeps what is synced: the file, the name in its folder, and a new folder's name. A service
    /// keeps what it acknowledged.
    async fn sync(&self, key: &Key) -> Result<(), StoreError> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let (path, folders) = (disk.path_to_filesystem(key)?, self.folders.clone());
        let sync = move || -> std::io::Result<()> {
            std::fs::File::open(&path)?.sync_all()?;
            folders.sync(&path)
        };
        tokio::task::spawn_blocking(sync).await.map_err(std::io::Error::other)??;
        Ok(())
    }

    fn touch(&self, artifact: ArtifactId) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        // Bounded by what can be put within that time.
        fresh.retain(|_, at| at.elapsed() < self.keep_fresh);
        fresh.insert(artifact, Instant::now());
    }

    fn is_fresh(&self, artifact: &ArtifactId) -> bool {
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.get(artifact).is_some_and(|at| at.elapsed() < self.keep_fresh)
    }
}

fn artifact_key(artifact: &ArtifactId) -> Key {
    let name = artifact.to_string();
    Key::from(format!("artifacts/{}/{name}", &name[..2]))
}

fn pointer_key(job: JobId) -> Key {
    Key::from(format!("published/{job}.json"))
}

fn part_key(name: &str) -> Key {
    Key::from(format!("journal/{name}"))
}

fn is_ours(key: &Key) -> bool {
    let parts: Vec<_> = key.parts().collect();
    let words: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    match words[..] {
        ["artifacts", _, name] => {
            name.parse().is_ok_and(|artifact| artifact_key(&artifact) == *key)
        }
        ["published", name] => {
            let job = name.strip_suffix(".json").and_then(|name| name.parse().ok());
            job.is_some_and(|job| pointer_key(job) == *key)
        }
        ["journal", name] => part_key(name) == *key,
        ["progress" | owner::FARM | owner::UNSWEPT] | ["probe", _] => true,
        _ => false,
    }
}

fn missing(error: object_store::Error) -> StoreError {
    match error {
        object_store::Error::NotFound { .. } => StoreError::Missing,
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::farm::AssetReader;
    use crate::jobs::Asset;

    async fn put(store: &Arc<Store>, artifact: ArtifactId, bytes: &[u8]) -> Result<(), StoreError> {
        let mut upload = store.put(artifact, bytes.len() as u64, Reading::Soon).await?;
        upload.write(Bytes::copy_from_slice(bytes)).await?;
        upload.finish().await
    }

    #[tokio::test]
    async fn only_bytes_that_match_their_address_can_be_read() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Arc::new(Store::open(folder.path(), Duration::from_secs(60)).expect("opens"));
        let artifact = ArtifactId::of(b"clip");
        assert!(matches!(put(&store, artifact, b"clap").await, Err(StoreError::WrongDigest)));
        assert!(matches!(store.size(&artifact).await, Err(StoreError::Missing)));
        put(&store, artifact, b"clip").await.expect("stores");
        store.verify(&artifact, 4).await.expect("is whole");
        let reader = StoreReader::new(store.clone());
        let asset = Asset { artifact, bytes: 4 };
        let read: Vec<Bytes> = reader.read(&asset, 1..3).try_collect().await.expect("reads");
        assert_eq!(read.concat(), b"li");
        // What was changed since, or is gone, is not given out, not even a part that is as it was.
        let file = folder.path().join(artifact_key(&artifact).as_ref());
        let read = async || {
            let read = reader.read(&asset, 1..3).try_collect::<Vec<Bytes>>().await;
            read.expect_err("is not given out").kind()
        };
        std::fs::write(&file, b"clix").expect("writes");
        assert_eq!(read().await, std::io::ErrorKind::InvalidData);
        std::fs::write(&file, b"clip").expect("writes");
        reader.read(&asset, 0..4).try_collect::<Vec<Bytes>>().await.expect("is right again");
        std::fs::rename(&file, folder.path().join("away")).expect("moves");
        assert_eq!(read().await, std::io::ErrorKind::NotFound);
        std::fs::rename(folder.path().join("away"), &file).expect("moves back");
        assert!(!store.delete(&artifact).await.expect("asks"), "it is fresh");
        let listed: Vec<ArtifactId> = store.list().try_collect().await.expect("lists");
        assert_eq!(listed, vec![artifact]);
    }

    #[tokio::test]
    async fn a_pointer_is_flipped_once() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(folder.path(), Duration::from_secs(60)).expect("opens");
        let job = JobId(1);
        store.publish(job, b"one".to_vec()).await.expect("publishes");
        store.publish(job, b"one".to_vec()).await.expect("the same again is fine");
        assert!(matches!(store.publish(job, b"two".to_vec()).await, Err(StoreError::Taken)));
        let listed: Vec<JobId> = store.pointers().try_collect().await.expect("lists");
        assert_eq!(listed, vec![job]);
    }
}
