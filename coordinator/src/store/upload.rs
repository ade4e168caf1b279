//! An artifact on its way into the store: in one request if it is small, in parts otherwise; latents on a disk past the
//! page cache.
//!
//! The bytes are hashed as they come; only what matches its address is made readable. Used by the links.

use super::direct::Direct;
use super::pieces::WRITTEN_BYTES;
use super::{Reading, Store, StoreError, artifact_key};
use bytes::{Bytes, BytesMut};
use object_store::{ObjectStoreExt, PutPayload, WriteMultipart};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use zoetrope_protocol::id::ArtifactId;

/// Up to so many bytes an artifact is one request: what a service takes as the smallest part of several. Prompts,
/// latents of short clips and stills are below it, and three requests become one.
const WHOLE_BYTES_MAX: u64 = 5 << 20;
/// Parts of one upload on their way at a time; each is 5 MiB, so an upload holds 20 MiB at most, and one
/// that is being put together.
const PARTS_IN_FLIGHT: usize = 4;

/// From so many bytes on the page cache costs more than the calls that go round it.
const DIRECT_BYTES_MIN: u64 = 256 << 10;

/// An artifact on its way into the store. Dropping it leaves nothing that can be read.
pub struct Upload {
    store: Arc<Store>,
    body: Option<Body>,
    digest: Sha256,
    received: u64,
    artifact: ArtifactId,
    bytes: u64,
}

enum Body {
    Whole(BytesMut),
    Parts(WriteMultipart, BytesMut),
    Direct(Direct),
}

impl Upload {
    pub(super) async fn begin(
        store: Arc<Store>,
        artifact: ArtifactId,
        bytes: u64,
        reading: Reading,
    ) -> Result<Upload, StoreError> {
        let key = artifact_key(&artifact);
        let body = match &store.disk {
            Some(disk) if reading == Reading::Unlikely && bytes >= DIRECT_BYTES_MIN => {
                let path = disk.path_to_filesystem(&key)?;
                Body::Direct(Direct::begin(path, store.folders.clone(), bytes).await?)
            }
            _ if bytes <= WHOLE_BYTES_MAX => Body::Whole(BytesMut::with_capacity(bytes as usize)),
            _ => {
                let parts = store.objects.put_multipart(&key).await?;
                Body::Parts(WriteMultipart::new(parts), BytesMut::new())
            }
        };
        let digest = Sha256::new();
        Ok(Upload { store, body: Some(body), digest, received: 0, artifact, bytes })
    }

    /// Takes the next bytes; waits while too many are on their way.
    ///
    /// # Errors
    /// `WrongLength` if there are too many, or those of the store.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.received += chunk.len() as u64;
        if self.received > self.bytes {
            return Err(StoreError::WrongLength { received: self.received, announced: self.bytes });
        }
        self.store.space.as_ref().map_or(Ok(()), |space| space.check())?;
        self.digest.update(&chunk);
        match &mut self.body {
            Some(Body::Whole(whole)) => whole.extend_from_slice(&chunk),
            Some(Body::Parts(parts, piece)) => {
                piece.extend_from_slice(&chunk);
                if piece.len() >= WRITTEN_BYTES {
                    parts.wait_for_capacity(PARTS_IN_FLIGHT).await?;
                    parts.put(piece.split().freeze());
                }
            }
            Some(Body::Direct(direct)) => direct.write(&chunk).await?,
            None => {}
        }
        Ok(())
    }

    /// Makes the artifact readable and durable, if its bytes match.
    ///
    /// # Errors
    /// `WrongLength`, `WrongDigest`, or those of the store; then nothing is there.
    pub async fn finish(mut self) -> Result<(), StoreError> {
        let (received, announced) = (self.received, self.bytes);
        if received != announced {
            return Err(StoreError::WrongLength { received, announced });
        }
        if std::mem::take(&mut self.digest).finalize().as_slice() != self.artifact.0 {
            return Err(StoreError::WrongDigest);
        }
        let key = artifact_key(&self.artifact);
        match self.body.take() {
            Some(Body::Whole(whole)) => {
                self.store.objects.put(&key, PutPayload::from(whole.freeze())).await?;
                self.store.sync(&key).await?;
            }
            Some(Body::Parts(mut parts, piece)) => {
                parts.put(piece.freeze());
                parts.finish().await?;
                self.store.sync(&key).await?;
            }
            Some(Body::Direct(direct)) => direct.finish(announced).await?,
            None => {}
        }
        self.store.touch(self.artifact);
        Ok(())
    }

    /// Gives up; the store drops what came.
    pub async fn abort(mut self) {
        if let Some(Body::Parts(parts, _)) = self.body.take() {
            abort(parts).await;
        }
    }
}

async fn abort(parts: WriteMultipart) {
    if let Err(error) = parts.abort().await {
        tracing::warn!(%error, "an upload that was given up leaves parts behind");
    }
}

impl Drop for Upload {
    /// Every way out but `finish` gives the parts back: a service keeps, and bills, those of an upload that nobody
    /// ends. What a killed process leaves is for the bucket's rule on incomplete uploads.
    fn drop(&mut self) {
        if let (Some(Body::Parts(parts, _)), Ok(runtime)) =
            (self.body.take(), tokio::runtime::Handle::try_current())
        {
            drop(runtime.spawn(abort(parts)));
        }
    }
}
