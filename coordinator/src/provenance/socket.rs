//! The signer in a process of its own: `zoetrope signer` listens on a unix socket, the coordinator asks.
//!
//! One connection for each claim: a frame with the request, a frame with the answer. Who may connect is who may
//! open the socket: its folder is its owner's alone.

use super::SignFault;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use zoetrope_protocol::codec::{self, LENGTH_BYTES};
use zoetrope_protocol::provenance::{MANIFEST_BYTES_MAX, SIGNATURE_BYTES, Terms};
use zoetrope_protocol::wire::Held;
use zoetrope_provenance::{Refusal, Signer};

/// Connections at a time; more wait.
const CONNECTIONS_MAX: usize = 64;
/// A request comes within milliseconds, or nobody is there.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// A request: the manifest and the terms, which are a few hundred bytes.
const REQUEST_BYTES_MAX: usize = MANIFEST_BYTES_MAX + (16 << 10);
/// An answer: the signature and a few bytes, or a sentence.
const ANSWER_BYTES_MAX: usize = 4 * SIGNATURE_BYTES as usize;

/// What the signer is asked. Appended, never reordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Sign the claim of this manifest.
    Sign {
        /// For which attempt.
        held: Held,
        /// What it must say.
        terms: Box<Terms>,
        /// The manifest store.
        manifest: Vec<u8>,
    },
}

/// What the signer answers. Appended, never reordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// What goes into the manifest.
    Signed(Vec<u8>),
    /// It will not sign this.
    Refused(String),
    /// It cannot sign now.
    Failed(String),
}

/// Asks the signer behind a socket.
///
/// # Errors
/// `Refused`, `Down`.
pub async fn ask(
    path: &Path,
    held: Held,
    terms: &Terms,
    manifest: &[u8],
) -> Result<Vec<u8>, SignFault> {
    let down = |error: &dyn std::fmt::Display| {
        SignFault::Down(format!("the signer at {}: {error}", path.display()))
    };
    let terms = Box::new(terms.clone());
    let request = Request::Sign { held, terms, manifest: manifest.to_vec() };
    let frame = codec::frame(&request).map_err(|error| SignFault::Refused(error.to_string()))?;
    let mut stream = UnixStream::connect(path).await.map_err(|error| down(&error))?;
    stream.write_all(&frame).await.map_err(|error| down(&error))?;
    let answer = read(&mut stream, ANSWER_BYTES_MAX).await.map_err(|error| down(&error))?;
    match codec::decode(&answer).map_err(|error| down(&error))? {
        Answer::Signed(envelope) => Ok(envelope),
        Answer::Refused(reason) => Err(SignFault::Refused(reason)),
        Answer::Failed(reason) => Err(down(&reason)),
    }
}

/// Answers on a socket until the future is dropped.
///
/// # Errors
/// Those of the socket itself.
pub async fn serve(listener: UnixListener, signer: Arc<Signer>) -> std::io::Result<()> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return Ok(()) };
        let (stream, _) = listener.accept().await?;
        let signer = signer.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(stream, signer).await {
                tracing::info!(%error, "a request to the signer broke off");
            }
            drop(permit);
        });
    }
}

async fn answer(mut stream: UnixStream, signer: Arc<Signer>) -> std::io::Result<()> {
    let reading = read(&mut stream, REQUEST_BYTES_MAX);
    let bytes = tokio::time::timeout(READ_TIMEOUT, reading).await??;
    let Request::Sign { held, terms, manifest } =
        codec::decode(&bytes).map_err(std::io::Error::other)?;
    let signing = move || signer.sign(held, &terms, &manifest);
    let answer = match tokio::task::spawn_blocking(signing).await {
        Ok(Ok(signed)) => {
            tracing::info!(shard = %held.shard, claim = hex::encode(signed.claim), "signed");
            Answer::Signed(signed.envelope)
        }
        Ok(Err(Refusal::Signer(reason))) => Answer::Failed(reason),
        Ok(Err(refusal)) => {
            tracing::warn!(shard = %held.shard, %refusal, "not signed");
            Answer::Refused(refusal.to_string())
        }
        Err(error) => Answer::Failed(error.to_string()),
    };
    let frame = codec::frame(&answer).map_err(std::io::Error::other)?;
    stream.write_all(&frame).await?;
    stream.shutdown().await
}

async fn read(stream: &mut UnixStream, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut head = [0; LENGTH_BYTES];
    stream.read_exact(&mut head).await?;
    let length = codec::body_length(head).map_err(std::io::Error::other)?;
    if length > limit {
        return Err(std::io::Error::other(format!("a frame of {length} bytes, at most {limit}")));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}
