//! The store of artifacts and published pointers, on `object_store`; a local directory for now.
//!
//! Layout: `artifacts/<first two digits>/<sha256>`, `published/<job>.json`, and `journal/<part>` where the journal
//! is in etcd. An artifact appears whole or not
//! at all, and only if its bytes match its address; what is acknowledged is synced. Bytes never pass through a
//! mailbox: links and the door stream with a shared handle. Knows no policy.

use crate::farm::AssetReader;
use crate::jobs::Asset;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    WriteMultipart,
};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zoetrope_protocol::id::{ArtifactId, JobId};

/// Parts of one upload on their way to the disk at a time; each is 5 MiB, so an upload holds 20 MiB at most.
const PARTS_IN_FLIGHT: usize = 4;
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
    /// The disk or the service failed.
    #[error("the store failed")]
    Failed(#[from] object_store::Error),
    /// The disk failed.
    #[error("the store failed")]
    Io(#[from] std::io::Error),
}

/// A shared handle to the store.
pub struct Store {
    objects: Arc<LocalFileSystem>,
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
        std::fs::create_dir_all(folder)?;
        let objects = Arc::new(LocalFileSystem::new_with_prefix(folder)?);
        Ok(Store { objects, fresh: Mutex::new(HashMap::new()), keep_fresh })
    }

    /// Begins to put an artifact of so many bytes.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put(
        self: &Arc<Self>,
        artifact: ArtifactId,
        bytes: u64,
    ) -> Result<Upload, StoreError> {
        self.touch(artifact);
        let parts = self.objects.put_multipart(&artifact_key(&artifact)).await?;
        Ok(Upload {
            store: self.clone(),
            parts: WriteMultipart::new(parts),
            digest: Sha256::new(),
            received: 0,
            artifact,
            bytes,
        })
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
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let found =
            self.objects.get_opts(&artifact_key(artifact), options).await.map_err(missing)?;
        Ok(found.into_stream().map_err(StoreError::from).boxed())
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
        match self.objects.delete(&artifact_key(artifact)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    /// All artifacts.
    pub fn list(&self) -> BoxStream<'static, Result<ArtifactId, StoreError>> {
        let all = self.objects.list(Some(&Key::from("artifacts")));
        all.map_err(StoreError::from)
            .try_filter_map(|meta| async move {
                Ok(meta.location.filename().and_then(|name| name.parse().ok()))
            })
            .boxed()
    }

    /// All jobs that have a pointer.
    pub fn pointers(&self) -> BoxStream<'static, Result<JobId, StoreError>> {
        let all = self.objects.list(Some(&Key::from("published")));
        all.map_err(StoreError::from)
            .try_filter_map(|meta| async move {
                let name = meta.location.filename().and_then(|name| name.strip_suffix(".json"));
                Ok(name.and_then(|name| name.parse().ok()))
            })
            .boxed()
    }

    /// Writes the pointer that makes a clip readable. Writing the same one again is fine.
    ///
    /// # Errors
    /// `Taken` if the job points elsewhere already; those of the store.
    pub async fn publish(&self, job: JobId, pointer: Vec<u8>) -> Result<(), StoreError> {
        let key = pointer_key(job);
        let bytes = Bytes::from(pointer);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.objects.put_opts(&key, PutPayload::from(bytes.clone()), options).await {
            Ok(_) => self.sync(&key).await,
            Err(object_store::Error::AlreadyExists { .. }) => {
                let there = self.objects.get(&key).await?.bytes().await?;
                if there == bytes { Ok(()) } else { Err(StoreError::Taken) }
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Removes the pointer of a job.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn unpublish(&self, job: JobId) -> Result<(), StoreError> {
        match self.objects.delete(&pointer_key(job)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
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
        match self.objects.delete(&part_key(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// A local directory keeps what is synced: the file, the name in its folder, and a new folder's name.
    async fn sync(&self, key: &Key) -> Result<(), StoreError> {
        let path = self.objects.path_to_filesystem(key)?;
        let sync = move || -> std::io::Result<()> {
            std::fs::File::open(&path)?.sync_all()?;
            for folder in path.ancestors().skip(1).take(2) {
                std::fs::File::open(folder)?.sync_all()?;
            }
            Ok(())
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

/// An artifact on its way into the store. Dropping it leaves nothing that can be read.
pub struct Upload {
    store: Arc<Store>,
    parts: WriteMultipart,
    digest: Sha256,
    received: u64,
    artifact: ArtifactId,
    bytes: u64,
}

impl Upload {
    /// Takes the next bytes; waits while too many are on their way to the disk.
    ///
    /// # Errors
    /// `WrongLength` if there are too many, or those of the store.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.received += chunk.len() as u64;
        if self.received > self.bytes {
            return Err(StoreError::WrongLength { received: self.received, announced: self.bytes });
        }
        self.digest.update(&chunk);
        self.parts.wait_for_capacity(PARTS_IN_FLIGHT).await?;
        self.parts.put(chunk);
        Ok(())
    }

    /// Makes the artifact readable and durable, if its bytes match.
    ///
    /// # Errors
    /// `WrongLength`, `WrongDigest`, or those of the store; then nothing is there.
    pub async fn finish(self) -> Result<(), StoreError> {
        let Upload { store, parts, digest, received, artifact, bytes } = self;
        let wrong = if received != bytes {
            Some(StoreError::WrongLength { received, announced: bytes })
        } else if digest.finalize().as_slice() != artifact.0 {
            Some(StoreError::WrongDigest)
        } else {
            None
        };
        if let Some(error) = wrong {
            parts.abort().await?;
            return Err(error);
        }
        parts.finish().await?;
        store.touch(artifact);
        store.sync(&artifact_key(&artifact)).await
    }

    /// Gives up; the store drops what came.
    pub async fn abort(self) {
        if let Err(error) = self.parts.abort().await {
            tracing::warn!(%error, "an upload that was given up leaves a file behind");
        }
    }
}

impl AssetReader for StoreReader {
    fn read(
        &self,
        asset: &Asset,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, std::io::Error>> {
        let (store, artifact) = (self.0.clone(), asset.artifact);
        let open = async move { store.get(&artifact, Some(range)).await };
        futures::stream::once(open).try_flatten().map_err(std::io::Error::other).boxed()
    }
}

/// The door's handle: reads only.
pub struct StoreReader(pub Arc<Store>);

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

fn missing(error: object_store::Error) -> StoreError {
    match error {
        object_store::Error::NotFound { .. } => StoreError::Missing,
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn put(store: &Arc<Store>, artifact: ArtifactId, bytes: &[u8]) -> Result<(), StoreError> {
        let mut upload = store.put(artifact, bytes.len() as u64).await?;
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
        let reader = StoreReader(store.clone());
        let asset = Asset { artifact, bytes: 4 };
        let read: Vec<Bytes> = reader.read(&asset, 1..3).try_collect().await.expect("reads");
        assert_eq!(read.concat(), b"li");
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
