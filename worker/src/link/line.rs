//! The tasks of one connection: one writes frames, one reads them, one takes artifact streams. Each owns its
//! stream, and none is ever cancelled between two awaits, because none of their calls allows it.
//!
//! They end when the connection ends, and say so once. Started by `LinkState` for each connection.

use super::LinkMsg;
use super::dial::Line;
use super::stream::{StreamError, read_frame};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use ractor::ActorRef;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use zoetrope_protocol::codec;
use zoetrope_protocol::version::LinkVersion;
use zoetrope_protocol::wire::{ArtifactHeader, CloseCode, FromWorker, ToWorker};

/// Frames that wait to be written. A worker writes about four a second; a queue this long means that the
/// peer takes nothing, and the link is given up.
const FRAMES_OUT_MAX: usize = 256;
/// Frames read and not yet handled.
const FRAMES_IN_MAX: usize = 256;
/// How long the coordinator may take to close after `Left`.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);

enum Out {
    Frame(Vec<u8>),
    Last(Vec<u8>),
}

/// A connection that is up.
pub struct UpLine {
    /// The connection.
    pub connection: Connection,
    /// What both sides know.
    pub version: LinkVersion,
    frames: mpsc::Sender<Out>,
}

/// A code as QUIC carries it.
pub fn close_code(code: CloseCode) -> VarInt {
    VarInt::from_u32(code as u32)
}

impl UpLine {
    /// Starts the tasks of a connection.
    pub fn start(line: Line, session: u64, link: &ActorRef<LinkMsg>) -> Self {
        let (frames, queue) = mpsc::channel(FRAMES_OUT_MAX);
        let Line { connection, send, receive, version } = line;
        tokio::spawn(write(send, queue, connection.clone(), session, link.clone()));
        tokio::spawn(read(receive, version, connection.clone(), session, link.clone()));
        tokio::spawn(accept(connection.clone(), session, link.clone()));
        UpLine { connection, frames, version }
    }

    /// Queues a frame. False if it cannot be said: the link is as good as lost.
    pub fn say(&self, frame: &FromWorker) -> bool {
        self.queue(frame, Out::Frame)
    }

    /// Queues the last frame; the connection is closed behind it.
    pub fn say_last(&self, frame: &FromWorker) -> bool {
        self.queue(frame, Out::Last)
    }

    fn queue(&self, frame: &FromWorker, how: fn(Vec<u8>) -> Out) -> bool {
        // What the coordinator cannot read would cost the link.
        if frame.since() > self.version {
            tracing::warn!("the coordinator is too old to be told something");
            return true;
        }
        match codec::frame(frame) {
            Ok(bytes) => self.frames.try_send(how(bytes)).is_ok(),
            Err(error) => {
                tracing::error!(%error, "a frame of ours cannot be encoded");
                false
            }
        }
    }
}

fn report_lost(link: &ActorRef<LinkMsg>, session: u64, reason: String) {
    // A dead link actor needs no news: the process is ending.
    link.cast(LinkMsg::Lost { session, reason }).ok();
}

async fn write(
    mut stream: SendStream,
    mut queue: mpsc::Receiver<Out>,
    connection: Connection,
    session: u64,
    link: ActorRef<LinkMsg>,
) {
    while let Some(out) = queue.recv().await {
        let (bytes, last) = match out {
            Out::Frame(bytes) => (bytes, false),
            Out::Last(bytes) => (bytes, true),
        };
        if let Err(error) = stream.write_all(&bytes).await {
            report_lost(&link, session, error.to_string());
            return;
        }
        if last {
            stream.finish().ok();
            // The last receiver closes. Our own close drops what is in flight, so it comes late.
            tokio::time::timeout(GOODBYE_LIMIT, connection.closed()).await.ok();
            connection.close(close_code(CloseCode::Leaving), b"");
            link.cast(LinkMsg::SaidGoodbye { session }).ok();
            return;
        }
    }
}

async fn read(
    mut stream: RecvStream,
    version: LinkVersion,
    connection: Connection,
    session: u64,
    link: ActorRef<LinkMsg>,
) {
    let room = Arc::new(Semaphore::new(FRAMES_IN_MAX));
    loop {
        let frame = match read_frame::<ToWorker>(&mut stream).await {
            Ok(frame) => frame,
            Err(error) => {
                if matches!(error, StreamError::Frame(_)) {
                    let reason = b"the worker cannot read what it was told";
                    connection.close(close_code(CloseCode::BadFrame), reason);
                }
                report_lost(&link, session, error.to_string());
                return;
            }
        };
        if frame.since() > version {
            let reason = "the coordinator said what this version of the link does not have";
            connection.close(close_code(CloseCode::BadFrame), reason.as_bytes());
            report_lost(&link, session, reason.into());
            return;
        }
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        if link.cast(LinkMsg::Heard { session, frame, permit }).is_err() {
            return;
        }
    }
}

async fn accept(connection: Connection, session: u64, link: ActorRef<LinkMsg>) {
    while let Ok(mut stream) = connection.accept_uni().await {
        // One after the other: a head is sent at once, and the transport limits how many streams wait.
        let head = read_frame::<ArtifactHeader>(&mut stream);
        match tokio::time::timeout(GOODBYE_LIMIT, head).await {
            Ok(Ok(header)) => {
                if link.cast(LinkMsg::Incoming { session, header, stream }).is_err() {
                    return;
                }
            }
            _ => drop(stream),
        }
    }
}
