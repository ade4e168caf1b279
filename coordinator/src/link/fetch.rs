//! Sends artifacts to a worker that asked: one stream each, from the store.

use crate::metrics::Metrics;
use crate::store::{Store, StoreError};
use futures::TryStreamExt;
use quinn::{Connection, SendStream, VarInt};
use std::sync::Arc;
use std::time::Duration;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::ArtifactId;
use zoetrope_protocol::metric;
use zoetrope_protocol::wire::{ArtifactHeader, CloseCode};

/// A piece that the store does not give, or the link does not take, for so long: the stream is given up. However large the
/// artifact and slow the link, its bytes may take the time that they need as long as they move.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// The store does not have it.
    Missing,
    /// The store cannot be read now.
    Down,
}

/// Sends one artifact. A link that breaks meanwhile tells the worker itself.
///
/// # Errors
/// `NotSent`, which the worker is to be told.
pub async fn send(
    connection: Connection,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    artifact: ArtifactId,
) -> Result<(), NotSent> {
    let bytes = match store.size(&artifact).await {
        Ok(bytes) => bytes,
        Err(StoreError::Missing) => return Err(NotSent::Missing),
        Err(error) => {
            tracing::warn!(%artifact, %error, "an artifact cannot be read");
            return Err(NotSent::Down);
        }
    };
    let Ok(mut stream) = connection.open_uni().await else { return Ok(()) };
    match stream_out(&mut stream, &store, artifact, bytes).await {
        Ok(()) => metrics.add(&metric::LINK_BYTES, &["out", "artifact"], bytes as f64),
        Err(error) => {
            tracing::debug!(%artifact, %error, "an artifact was not sent");
            // Explicit, because dropping the stream would finish it as if it were whole.
            drop(stream.reset(VarInt::from_u32(CloseCode::Protocol as u32)));
        }
    }
    Ok(())
}

async fn stream_out(
    stream: &mut SendStream,
    store: &Store,
    artifact: ArtifactId,
    bytes: u64,
) -> anyhow::Result<()> {
    let header = ArtifactHeader { held: None, role: None, artifact, bytes };
    in_time(stream.write_all(&codec::frame(&header)?)).await?;
    let mut content = in_time(store.get(&artifact, None)).await?;
    while let Some(chunk) = in_time(content.try_next()).await? {
        in_time(stream.write_chunk(chunk)).await?;
    }
    in_time(stream.write_all(&artifact.0)).await?;
    stream.finish()?;
    Ok(())
}

async fn in_time<T, E>(piece: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    anyhow::Error: From<E>,
{
    Ok(tokio::time::timeout(PIECE_TIMEOUT, piece).await??)
}
