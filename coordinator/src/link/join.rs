//! A first contact: a worker without a certificate brings a join token and a signing request, and gets one.

use super::{close_number, read_frame};
use crate::authority::{Authority, AuthorityError};
use crate::clock;
use quinn::Connection;
use std::sync::Arc;
use std::time::Duration;
use zoetrope_protocol::codec;
use zoetrope_protocol::wire::{CloseCode, JoinAnswer, JoinRequest};

/// A signing request of an elliptic key takes some 300 bytes, of an RSA key 2 KiB.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// Whoever is not known must say at once what it wants: a worker writes its request as soon as it can.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves one join. The caller's timeout is around it.
///
/// # Errors
/// What ended it; the peer is told already.
pub async fn serve(connection: &Connection, authority: Arc<Authority>) -> anyhow::Result<()> {
    let asked = async {
        let (send, mut receive) = connection.accept_bi().await?;
        let request: JoinRequest = read_frame(&mut receive, REQUEST_BYTES_MAX).await?;
        anyhow::Ok((send, request))
    };
    let (mut send, request) = tokio::time::timeout(REQUEST_TIMEOUT, asked).await??;
    let node = request.node.clone();
    let ca = authority.certificate().to_vec();
    let issue = move || {
        authority.join(clock::now(), &request.secret, &request.node, &request.signing_request)
    };
    let answer = match tokio::task::spawn_blocking(issue).await? {
        Ok(certificate) => {
            tracing::info!(node, from = %connection.remote_address(), "a worker joined the farm");
            JoinAnswer::Joined { certificate: certificate.to_vec(), authority: ca }
        }
        Err(error) => {
            tracing::warn!(node, from = %connection.remote_address(), %error, "a join was refused");
            JoinAnswer::Refused { reason: told(&error) }
        }
    };
    send.write_all(&codec::frame(&answer)?).await?;
    send.finish()?;
    // The peer has read the answer when it closes; who never does runs into the greeting's timeout.
    connection.closed().await;
    connection.close(close_number(CloseCode::Leaving), b"");
    Ok(())
}

/// What a stranger may know of the reason.
fn told(error: &AuthorityError) -> String {
    match error {
        AuthorityError::Io(_) | AuthorityError::Damaged { .. } => {
            "the farm cannot issue certificates now".to_owned()
        }
        other => other.to_string(),
    }
}
