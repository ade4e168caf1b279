//! Bytes on streams: frames of the control stream, artifacts on streams of their own.
//!
//! None of these futures may be dropped half-way and taken up again: each runs in a task of its own.
//! Called by `dial.rs` (join) and by the tasks that `LinkActor` spawns.

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zoetrope_protocol::ArtifactId;
use zoetrope_protocol::codec::{self, CodecError};
use zoetrope_protocol::wire::{ARTIFACT_BYTES_MAX, ArtifactHeader};

/// Bytes read or written at once: 64 packets of a jumbo frame.
const CHUNK_BYTES: usize = 512 * 1024;
/// No byte for so long: the stream is given up, though the connection lives.
const STALL: Duration = Duration::from_secs(30);
/// What a reset stream tells the peer: these bytes count as never sent.
const CUT_OFF: VarInt = VarInt::from_u32(1);

/// What goes wrong on a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer sent what is no frame.
    #[error("a frame could not be read")]
    Frame(#[from] CodecError),
    /// The stream or its connection ended.
    #[error("the stream was cut off: {0}")]
    Cut(String),
    /// Nothing moved for [`STALL`].
    #[error("the stream stood still for {} s", STALL.as_secs())]
    Stalled,
    /// The bytes are not what their address says.
    #[error("the bytes of {0} do not match their address")]
    Damaged(ArtifactId),
    /// Our disk.
    #[error("the disk failed: {0}")]
    Disk(#[from] std::io::Error),
}

fn cut(error: impl std::fmt::Display) -> StreamError {
    StreamError::Cut(error.to_string())
}

async fn unless_stalled<T>(
    work: impl Future<Output = Result<T, StreamError>>,
) -> Result<T, StreamError> {
    tokio::time::timeout(STALL, work).await.map_err(|_| StreamError::Stalled)?
}

/// What an artifact's bytes are kept in until they are acknowledged.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Memory.
    Memory(Bytes),
    /// A file of so many bytes that nobody changes.
    File {
        /// Where.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
}

impl Payload {
    /// Its size.
    pub fn bytes(&self) -> u64 {
        match self {
            Payload::Memory(bytes) => bytes.len() as u64,
            Payload::File { bytes, .. } => *bytes,
        }
    }
}

/// Reads one frame.
pub async fn read_frame<T: DeserializeOwned>(stream: &mut RecvStream) -> Result<T, StreamError> {
    let mut head = [0; codec::LENGTH_BYTES];
    stream.read_exact(&mut head).await.map_err(cut)?;
    let mut body = vec![0; codec::body_length(head)?];
    stream.read_exact(&mut body).await.map_err(cut)?;
    Ok(codec::decode(&body)?)
}

/// Writes one frame.
pub async fn write_frame<T: Serialize>(
    stream: &mut SendStream,
    value: &T,
) -> Result<(), StreamError> {
    stream.write_all(&codec::frame(value)?).await.map_err(cut)
}

/// Sends an artifact on a new stream: head, bytes, digest. That it arrived, only `Stored` says. `moved` hears of its bytes as
/// they are handed over.
pub async fn send_artifact(
    connection: quinn::Connection,
    header: ArtifactHeader,
    payload: Payload,
    moved: impl Fn(u64),
) -> Result<(), StreamError> {
    let mut stream = unless_stalled(async { connection.open_uni().await.map_err(cut) }).await?;
    let sent = send_body(&mut stream, &header, payload, moved).await;
    if sent.is_err() {
        // Dropping the stream would finish it, and cut-off data would end like whole data.
        stream.reset(CUT_OFF).ok();
        return sent;
    }
    stream.finish().map_err(cut)
}

async fn send_body(
    stream: &mut SendStream,
    header: &ArtifactHeader,
    payload: Payload,
    moved: impl Fn(u64),
) -> Result<(), StreamError> {
    write_frame(stream, header).await?;
    match payload {
        Payload::Memory(mut bytes) => {
            while !bytes.is_empty() {
                let piece = bytes.split_to(bytes.len().min(CHUNK_BYTES));
                let size = piece.len() as u64;
                unless_stalled(async { stream.write_chunk(piece).await.map_err(cut) }).await?;
                moved(size);
            }
        }
        Payload::File { path, bytes } => {
            let mut file = tokio::fs::File::open(path).await?;
            let mut left = bytes;
            let mut piece = vec![0; CHUNK_BYTES];
            while left > 0 {
                let want = piece.len().min(usize::try_from(left).unwrap_or(CHUNK_BYTES));
                let got = file.read(&mut piece[..want]).await?;
                if got == 0 {
                    return Err(StreamError::Disk(std::io::ErrorKind::UnexpectedEof.into()));
                }
                unless_stalled(async { stream.write_all(&piece[..got]).await.map_err(cut) })
                    .await?;
                left -= got as u64;
                moved(got as u64);
            }
        }
    }
    unless_stalled(async { stream.write_all(&header.artifact.0).await.map_err(cut) }).await
}

/// Receives an artifact's bytes into a file, and believes them only if the digest fits. The file is
/// removed on every error. `moved` hears of them as they come.
pub async fn receive_artifact(
    mut stream: RecvStream,
    header: ArtifactHeader,
    path: PathBuf,
    moved: impl Fn(u64),
) -> Result<PathBuf, StreamError> {
    let received = receive_body(&mut stream, &header, &path, moved).await;
    if received.is_err() {
        stream.stop(CUT_OFF).ok();
        tokio::fs::remove_file(&path).await.ok();
    }
    received.map(|()| path)
}

async fn receive_body(
    stream: &mut RecvStream,
    header: &ArtifactHeader,
    path: &Path,
    moved: impl Fn(u64),
) -> Result<(), StreamError> {
    if header.bytes > ARTIFACT_BYTES_MAX {
        return Err(StreamError::Damaged(header.artifact));
    }
    // A chunk is what one packet brought: written one by one, each would be a task of its own for the disk's threads.
    let file = tokio::fs::File::create(path).await?;
    let mut file = tokio::io::BufWriter::with_capacity(CHUNK_BYTES, file);
    let mut digest = Sha256::new();
    let mut left = header.bytes;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let read = unless_stalled(async { stream.read_chunk(want, true).await.map_err(cut) });
        let Some(chunk) = read.await? else {
            return Err(cut("it ended early"));
        };
        digest.update(&chunk.bytes);
        file.write_all(&chunk.bytes).await?;
        left -= chunk.bytes.len() as u64;
        moved(chunk.bytes.len() as u64);
    }
    let mut trailer = [0; 32];
    unless_stalled(async { stream.read_exact(&mut trailer).await.map_err(cut) }).await?;
    file.flush().await?;
    let found: [u8; 32] = digest.finalize().into();
    if trailer != header.artifact.0 || found != header.artifact.0 {
        return Err(StreamError::Damaged(header.artifact));
    }
    Ok(())
}
