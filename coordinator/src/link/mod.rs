//! Links: one QUIC connection for each worker, mutual TLS with the farm's own authority.
//!
//! [`endpoint`] accepts and greets, [`sup::LinkSup`] supervises, [`actor::LinkActor`] owns one connection. A
//! link knows fences and clocks, and passes on verdicts; what they mean is the core's business. Nothing that
//! a peer sends takes more than its own connection down.

pub mod actor;
pub mod draft;
pub mod endpoint;
pub mod fetch;
mod greetings;
pub mod join;
pub mod session;
pub mod sup;
pub mod upload;

pub use actor::{LinkActor, LinkArguments, LinkMsg};
pub use endpoint::{Established, listen};
pub use sup::{LinkSup, LinkSupArguments, LinkSupMsg};

use quinn::{RecvStream, VarInt};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use zoetrope_protocol::codec::{self, CodecError, LENGTH_BYTES};
use zoetrope_protocol::id::{Fence, ShardId};
use zoetrope_protocol::wire::{CloseCode, Held, Kept};

/// How patient a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLimits {
    /// An attempt that moves no further for so long is stalled.
    pub stall: Duration,
    /// The same, before its first step: weights of 66 GB at 0.1 GB/s load in 11 minutes.
    pub load: Duration,
    /// Open connections, at most.
    pub connections: usize,
}

/// The attempts that a worker may report of and upload for. Empty until it is welcome.
#[derive(Clone, Debug)]
pub struct Fences {
    map: Arc<Mutex<BTreeMap<ShardId, Known>>>,
    welcome: Arc<watch::Sender<bool>>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    fence: Fence,
    /// The fence that the worker used before it was welcome: reports under way may carry it.
    before: Option<Fence>,
}

impl Default for Fences {
    fn default() -> Self {
        Fences { map: Arc::default(), welcome: Arc::new(watch::channel(false).0) }
    }
}

impl Fences {
    /// The running attempt that this report is of, under its present fence.
    pub fn current(&self, held: &Held) -> Option<Held> {
        let known = *self.map().get(&held.shard)?;
        let same = known.fence == held.fence || known.before == Some(held.fence);
        same.then_some(Held { shard: held.shard, fence: known.fence })
    }

    /// The worker runs this attempt from now on.
    pub fn add(&self, held: Held) {
        self.map().insert(held.shard, Known { fence: held.fence, before: None });
    }

    /// The attempt ended.
    pub fn remove(&self, held: &Held) {
        let mut map = self.map();
        if map.get(&held.shard).is_some_and(|known| known.fence == held.fence) {
            map.remove(&held.shard);
        }
    }

    /// The worker goes on with these attempts and no others.
    pub fn welcome(&self, keep: &[Kept]) {
        let known = |kept: &Kept| Known { fence: kept.fence, before: Some(kept.held.fence) };
        *self.map() = keep.iter().map(|kept| (kept.held.shard, known(kept))).collect();
        self.welcome.send_replace(true);
    }

    /// Waits until the worker is welcome.
    pub async fn welcomed(&self) {
        // The sender is our own, so the wait cannot fail.
        drop(self.welcome.subscribe().wait_for(|welcome| *welcome).await);
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<ShardId, Known>> {
        // Each change is one call, so a panic elsewhere leaves no half of it.
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended between two frames.
    #[error("the stream ended")]
    Ended,
    /// The stream broke.
    #[error("the stream broke: {0}")]
    Broken(String),
    /// The bytes are no frame.
    #[error("bad frame")]
    Bad(#[from] CodecError),
    /// Longer than a frame of this kind may be.
    #[error("a frame of {0} bytes is too long here")]
    TooLong(usize),
}

/// Reads one frame of at most `limit` bytes. Not cancel-safe.
///
/// # Errors
/// `FrameError`; nothing is reserved for a forged length.
pub async fn read_frame<T: DeserializeOwned>(
    stream: &mut RecvStream,
    limit: usize,
) -> Result<T, FrameError> {
    let (frame, _) = read_counted_frame(stream, limit).await?;
    Ok(frame)
}

/// The same, with the bytes that the frame took.
///
/// # Errors
/// As above.
pub async fn read_counted_frame<T: DeserializeOwned>(
    stream: &mut RecvStream,
    limit: usize,
) -> Result<(T, usize), FrameError> {
    let mut head = [0; LENGTH_BYTES];
    match stream.read_exact(&mut head).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(0)) => return Err(FrameError::Ended),
        Err(e) => return Err(FrameError::Broken(e.to_string())),
    }
    let length = codec::body_length(head)?;
    if length > limit {
        return Err(FrameError::TooLong(length));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(|e| FrameError::Broken(e.to_string()))?;
    Ok((codec::decode(&body)?, LENGTH_BYTES + length))
}

/// The number of a close code on the wire.
pub fn close_number(code: CloseCode) -> VarInt {
    VarInt::from_u32(code as u32)
}
