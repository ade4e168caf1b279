//! Receives clips that are not signed yet, of which the coordinator reads the marks while their workers go on: into
//! temporary files, never into the store. A link keeps its last one until it is signed, for the manifest must bind it. A
//! draft that is lost costs time alone: its worker is asked for it again.
//!
//! What is read in a draft holds for the clip of its digest, so the digest is that of the bytes which came, as in the store.

use crate::scratch::{Scratch, ScratchFolder};
use crate::store::StoreError;
use sha2::{Digest, Sha256};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use zoetrope_protocol::id::ArtifactId;

/// Drafts that lie on the disk at a time, of all links: clips of 10 s take up to 10 MB. More wait.
const DRAFTS_MAX: usize = 128;
/// How long one is kept: what its worker still scores takes seconds, and waiting for a remote judge a minute.
const KEPT_FOR: Duration = Duration::from_secs(180);
/// How long one waits for its place: what reading the clips before it takes on a busy machine.
const PLACE_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes come in pieces of a datagram each; so many are written at once.
const PIECE_BYTES: usize = 256 << 10;
/// Drafts of one link: a worker finishes one clip at a time. One more waits until the first was read.
const DRAFTS_A_LINK: usize = 1;

/// Where drafts go.
#[derive(Clone)]
pub struct Drafts {
    folder: ScratchFolder,
    /// Of all links, and of this one.
    places: Arc<Semaphore>,
    own: Arc<Semaphore>,
    /// The last one of this link.
    kept: Kept,
}

type Kept = Arc<Mutex<Option<(Instant, Arc<Draft>)>>>;

/// A clip that is not signed yet, whose bytes have this digest. Goes when it is dropped.
#[derive(Debug)]
pub struct Draft {
    /// Its digest.
    pub artifact: ArtifactId,
    /// Where it lies.
    pub file: Scratch,
    _places: [OwnedSemaphorePermit; 2],
}

/// One that is being received.
pub struct Incoming {
    draft: Draft,
    digest: Sha256,
    out: BufWriter<File>,
    kept: Kept,
}

impl Drafts {
    /// Drafts in this folder.
    pub fn new(folder: ScratchFolder) -> Drafts {
        let of = |places| Arc::new(Semaphore::new(places));
        Drafts { folder, places: of(DRAFTS_MAX), own: of(DRAFTS_A_LINK), kept: Kept::default() }
    }

    /// The same, for a link of its own.
    #[must_use]
    pub fn of_link(&self) -> Drafts {
        let own = Arc::new(Semaphore::new(DRAFTS_A_LINK));
        Drafts { own, kept: Kept::default(), ..self.clone() }
    }

    /// The last draft, if it is this one and still kept.
    pub fn kept(&self, artifact: ArtifactId) -> Option<Arc<Draft>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().map(|(_, draft)| draft.clone()).filter(|draft| draft.artifact == artifact)
    }

    /// Nobody has it signed any more.
    pub fn forget(&self) {
        self.forget_if(|_| true);
    }

    /// The same of one that was kept for too long.
    pub fn forget_late(&self) {
        self.forget_if(|since| since.elapsed() > KEPT_FOR);
    }

    fn forget_if(&self, late: impl Fn(Instant) -> bool) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        drop(kept.take_if(|(since, _)| late(*since)));
    }

    /// Begins with one.
    ///
    /// # Errors
    /// If the disk refuses, or too many others are there.
    pub async fn begin(&self, artifact: ArtifactId) -> std::io::Result<Incoming> {
        // It goes once it was read.
        self.forget();
        // Its own first, so that a link that sends too much holds up nobody else.
        let places = async {
            let own = self.own.clone().acquire_owned().await?;
            Ok::<_, AcquireError>([own, self.places.clone().acquire_owned().await?])
        };
        let Ok(Ok(places)) = tokio::time::timeout(PLACE_TIMEOUT, places).await else {
            return Err(std::io::Error::other("too many clips wait to be read"));
        };
        let file = self.folder.clip();
        let out = BufWriter::with_capacity(PIECE_BYTES, File::create(file.path()).await?);
        let draft = Draft { artifact, file, _places: places };
        Ok(Incoming { draft, digest: Sha256::new(), out, kept: self.kept.clone() })
    }
}

impl Incoming {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// If the disk refuses.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes).await
    }

    /// All bytes came. The draft is kept.
    ///
    /// # Errors
    /// `WrongDigest` if they are others than were announced; `Io` if the disk refuses.
    pub async fn finish(mut self) -> Result<Arc<Draft>, StoreError> {
        if self.digest.finalize().as_slice() != self.draft.artifact.0 {
            return Err(StoreError::WrongDigest);
        }
        self.out.flush().await?;
        let draft = Arc::new(self.draft);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some((Instant::now(), draft.clone()));
        Ok(draft)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: a worker that sends one draft after the other has one of them on the disk, and leaves places for others.
    #[tokio::test]
    async fn a_link_has_one_draft_at_a_time() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let scratch = ScratchFolder::open(&folder.path().join("scratch")).expect("a folder");
        let all = Drafts::new(scratch);
        let (one, other) = (all.of_link(), all.of_link());
        let mut first = one.begin(ArtifactId::of(b"a clip")).await.expect("a place");
        first.write(b"a clip").await.expect("is taken");
        let draft = first.finish().await.expect("is whole");
        let kept = one.kept(draft.artifact).expect("until it is signed");
        assert!(one.kept(ArtifactId([2; 32])).is_none() && other.kept(draft.artifact).is_none());
        drop(kept);
        let second = one.begin(ArtifactId([2; 32]));
        let early = tokio::time::timeout(Duration::from_millis(50), second).await;
        assert!(early.is_err(), "it waits for the first");
        assert!(one.kept(draft.artifact).is_none(), "which is not kept beside another");
        drop(other.begin(ArtifactId([3; 32])).await.expect("another link's"));
        let path = draft.file.path().to_owned();
        assert!(path.exists());
        drop(draft);
        assert!(!path.exists(), "it goes when it was read");
        let mut other = one.begin(ArtifactId([4; 32])).await.expect("a place again");
        other.write(b"a clip").await.expect("is taken");
        let path = other.draft.file.path().to_owned();
        assert!(matches!(other.finish().await, Err(StoreError::WrongDigest)));
        assert!(!path.exists(), "nothing is left of other bytes than were announced");
        let third = one.begin(ArtifactId::of(b"")).await.expect("a place").finish().await;
        let path = third.expect("is whole").file.path().to_owned();
        one.forget_late();
        assert!(path.exists(), "it is young");
        one.forget();
        assert!(!path.exists(), "it was signed");
    }
}
