//! Receives artifacts of a worker: one stream each, straight into the store; drafts, which are not signed yet, into
//! temporary files.
//!
//! A stream that ends early, is too long, or whose digest differs counts as never sent, and the worker is told.

use super::draft::{Draft, Drafts, Incoming};
use super::{Fences, LinkMsg, read_frame};
use crate::metrics::Metrics;
use crate::store::{Reading, Store, StoreError, Upload};
use bytes::Bytes;
use quinn::{Connection, RecvStream, VarInt};
use ractor::ActorRef;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use zoetrope_protocol::job::{ArtifactRef, Role};
use zoetrope_protocol::metric;
use zoetrope_protocol::wire::{ARTIFACT_BYTES_MAX, ArtifactHeader, CloseCode, Held};

/// A header takes some 80 bytes.
const HEADER_BYTES_MAX: usize = 1 << 10;
/// Bytes of one read: hashing them takes 0.2 ms at 300 MB/s.
const CHUNK_BYTES: usize = 64 << 10;
/// A stream that brings nothing for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// What an upload needs of its link.
#[derive(Clone)]
pub struct Uploads {
    /// The link that is told.
    pub link: ActorRef<LinkMsg>,
    /// Where the bytes go.
    pub store: Arc<Store>,
    /// Where those of drafts go.
    pub drafts: Drafts,
    /// The attempts that may upload.
    pub fences: Fences,
    /// Where bytes and refusals are counted.
    pub metrics: Arc<Metrics>,
}

enum UploadError {
    /// The peer broke the protocol: the connection ends.
    Protocol(String),
    /// This upload counts as never sent.
    NotStored(String),
}

impl From<StoreError> for UploadError {
    fn from(error: StoreError) -> Self {
        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
        UploadError::NotStored(format!("{error}{cause}"))
    }
}

/// Where the bytes of a stream go.
enum Target {
    Store(Upload),
    Draft(Incoming),
}

/// What became of them.
enum Taken {
    Stored,
    Draft(Arc<Draft>),
}

impl Target {
    async fn write(&mut self, bytes: Bytes) -> Result<(), UploadError> {
        match self {
            Target::Store(upload) => upload.write(bytes).await?,
            Target::Draft(draft) => draft.write(&bytes).await.map_err(StoreError::from)?,
        }
        Ok(())
    }

    async fn finish(self) -> Result<Taken, UploadError> {
        match self {
            Target::Store(upload) => {
                upload.finish().await?;
                Ok(Taken::Stored)
            }
            Target::Draft(draft) => Ok(Taken::Draft(draft.finish().await?)),
        }
    }

    async fn abort(self) {
        // A draft goes when it is dropped.
        if let Target::Store(upload) = self {
            upload.abort().await;
        }
    }
}

/// Accepts streams until the connection ends. The transport limits how many there are at a time.
pub async fn accept(connection: Connection, uploads: Uploads) {
    let mut running = JoinSet::new();
    while let Ok(stream) = connection.accept_uni().await {
        while running.try_join_next().is_some() {}
        running.spawn(receive(stream, uploads.clone()));
    }
}

async fn receive(mut stream: RecvStream, uploads: Uploads) {
    let read = tokio::time::timeout(
        READ_TIMEOUT,
        read_frame::<ArtifactHeader>(&mut stream, HEADER_BYTES_MAX),
    );
    let header = match read.await {
        Ok(Ok(header)) => header,
        Ok(Err(error)) => return uploads.protocol(&format!("an artifact's header: {error}")),
        Err(_) => return uploads.protocol("an artifact's header did not come"),
    };
    let (Some(held), Some(role)) = (header.held, header.role) else {
        return uploads.protocol("an artifact without an attempt");
    };
    let message = match uploads.take(&mut stream, held, &header).await {
        Ok((held, Taken::Stored)) => {
            let ArtifactHeader { artifact, bytes, .. } = header;
            LinkMsg::Uploaded { held, artifact: ArtifactRef { role, artifact, bytes } }
        }
        Ok((held, Taken::Draft(draft))) => LinkMsg::Drafted { held, draft },
        Err(UploadError::Protocol(reason)) => return uploads.protocol(&reason),
        Err(UploadError::NotStored(reason)) => {
            // Tells the peer to stop sending; a stream that is gone needs no telling.
            drop(stream.stop(VarInt::from_u32(CloseCode::Protocol as u32)));
            LinkMsg::NotUploaded { held, artifact: header.artifact, reason }
        }
    };
    // A link that is gone has nobody to tell.
    drop(uploads.link.cast(message));
}

impl Uploads {
    fn protocol(&self, reason: &str) {
        let reason = reason.to_owned();
        drop(self.link.cast(LinkMsg::Close { code: CloseCode::BadFrame, reason }));
    }

    async fn take(
        &self,
        stream: &mut RecvStream,
        held: Held,
        header: &ArtifactHeader,
    ) -> Result<(Held, Taken), UploadError> {
        if header.bytes > ARTIFACT_BYTES_MAX {
            return Err(UploadError::Protocol(format!("an artifact of {} bytes", header.bytes)));
        }
        if tokio::time::timeout(READ_TIMEOUT, self.fences.welcomed()).await.is_err() {
            return Err(UploadError::NotStored("the farm is not ready".to_owned()));
        }
        let Some(held) = self.fences.current(&held) else {
            self.metrics.count(&metric::STALE_RESULTS, &["link"]);
            return Err(UploadError::NotStored("the attempt was replaced".to_owned()));
        };
        let mut upload = match header.role {
            Some(Role::Draft) => {
                let begun = self.drafts.begin(header.artifact).await;
                Target::Draft(begun.map_err(StoreError::from)?)
            }
            role => {
                let reading = match role {
                    Some(Role::Latents { .. }) => Reading::Unlikely,
                    _ => Reading::Soon,
                };
                Target::Store(self.store.put(header.artifact, header.bytes, reading).await?)
            }
        };
        let mut left = header.bytes;
        while left > 0 {
            let limit = CHUNK_BYTES.min(usize::try_from(left).unwrap_or(CHUNK_BYTES));
            let chunk = match next_chunk(stream, limit).await {
                Ok(chunk) => chunk,
                Err(error) => {
                    upload.abort().await;
                    return Err(error);
                }
            };
            left -= chunk.len() as u64;
            upload.write(chunk).await?;
        }
        let content = match header.role {
            Some(Role::Clip | Role::Thumbnail | Role::Spritesheet | Role::Draft) => "media",
            _ => "artifact",
        };
        self.metrics.add(&metric::LINK_BYTES, &["in", content], header.bytes as f64);
        match trailer(stream).await {
            Ok(digest) if digest == header.artifact.0 => Ok((held, upload.finish().await?)),
            Ok(_) => {
                upload.abort().await;
                Err(UploadError::NotStored("the digest behind the bytes differs".to_owned()))
            }
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }
}

async fn next_chunk(stream: &mut RecvStream, limit: usize) -> Result<bytes::Bytes, UploadError> {
    match tokio::time::timeout(READ_TIMEOUT, stream.read_chunk(limit, true)).await {
        Ok(Ok(Some(chunk))) => Ok(chunk.bytes),
        Ok(Ok(None)) => Err(UploadError::NotStored("the stream ended early".to_owned())),
        Ok(Err(error)) => Err(UploadError::NotStored(error.to_string())),
        Err(_) => Err(UploadError::NotStored("the stream stood still".to_owned())),
    }
}

async fn trailer(stream: &mut RecvStream) -> Result<[u8; 32], UploadError> {
    let mut digest = [0; 32];
    let read = tokio::time::timeout(READ_TIMEOUT, stream.read_exact(&mut digest)).await;
    match read {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(UploadError::NotStored(error.to_string())),
        Err(_) => return Err(UploadError::NotStored("the stream stood still".to_owned())),
    }
    match tokio::time::timeout(READ_TIMEOUT, stream.read_chunk(1, true)).await {
        Ok(Ok(None)) => Ok(digest),
        _ => Err(UploadError::NotStored("bytes behind the digest".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_reads_why_an_upload_failed_learns_that_the_disk_is_full() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let UploadError::NotStored(why) = StoreError::from(full).into() else {
            panic!("it counts as never sent");
        };
        assert_eq!(why, "the store failed: no storage space");
    }
}
