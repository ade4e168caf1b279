//! Receives clips that are not signed yet, of which the coordinator reads the marks while their workers go on: into
//! temporary files, never into the store. A draft that is lost costs time alone, for its clip is read again as stored.

use crate::scratch::{Scratch, ScratchFolder};
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zoetrope_protocol::id::ArtifactId;

/// Drafts that lie on the disk at a time, of all links: clips of 10 s take up to 10 MB. More wait.
const DRAFTS_MAX: usize = 64;
/// How long one waits for its place: what reading the clips before it takes on a busy machine.
const PLACE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where drafts go.
#[derive(Clone)]
pub struct Drafts {
    folder: ScratchFolder,
    places: Arc<Semaphore>,
}

/// A clip that is not signed yet, whose bytes have this digest. Goes when it is dropped.
#[derive(Debug)]
pub struct Draft {
    /// Its digest.
    pub artifact: ArtifactId,
    /// Where it lies.
    pub file: Scratch,
    _place: OwnedSemaphorePermit,
}

/// One that is being received.
pub struct Incoming {
    draft: Draft,
    out: File,
}

impl Drafts {
    /// Drafts in this folder.
    pub fn new(folder: ScratchFolder) -> Drafts {
        Drafts { folder, places: Arc::new(Semaphore::new(DRAFTS_MAX)) }
    }

    /// Begins with one.
    ///
    /// # Errors
    /// If the disk refuses, or too many others are there.
    pub async fn begin(&self, artifact: ArtifactId) -> std::io::Result<Incoming> {
        let place = tokio::time::timeout(PLACE_TIMEOUT, self.places.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(std::io::Error::other("too many clips wait to be read"));
        };
        let file = self.folder.clip();
        let out = File::create(file.path()).await?;
        Ok(Incoming { draft: Draft { artifact, file, _place: place }, out })
    }
}

impl Incoming {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// If the disk refuses.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.out.write_all(bytes).await
    }

    /// All bytes came, and have the digest.
    ///
    /// # Errors
    /// If the disk refuses.
    pub async fn finish(mut self) -> std::io::Result<Draft> {
        self.out.flush().await?;
        Ok(self.draft)
    }
}
