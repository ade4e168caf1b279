//! Promise: a worker joins the farm that its token names, and no other.

use crate::farm::{Farm, SECRET, read, soon};
use zoetrope_protocol::codec;
use zoetrope_protocol::wire::{JoinAnswer, JoinRequest};
use zoetrope_worker::identity::{NodeIdentity, Token};
use zoetrope_worker::link::dial::{DialError, endpoint, join};

async fn serve(farm: &Farm, answer: impl FnOnce(&JoinRequest) -> JoinAnswer) {
    let connection = farm.connection().await;
    let (mut send, mut receive) = soon("a stream", connection.accept_bi()).await.unwrap();
    let request: JoinRequest = read(&mut receive).await;
    let answer = answer(&request);
    send.write_all(&codec::frame(&answer).unwrap()).await.unwrap();
    send.finish().unwrap();
    connection.closed().await;
}

#[tokio::test]
async fn a_worker_joins_with_a_token_and_keeps_its_identity() {
    let farm = Farm::new();
    let (socket, address) = (endpoint().unwrap(), farm.address.to_string());
    let token = farm.token();
    let joining = join(&socket, &address, &token, "node-1");
    let serving = serve(&farm, |request| {
        assert_eq!((request.secret, request.node.as_str()), (SECRET, "node-1"));
        JoinAnswer::Joined {
            certificate: farm.sign(&request.signing_request),
            authority: farm.authority.to_vec(),
        }
    });
    let (identity, ()) = tokio::join!(joining, serving);
    let identity = identity.unwrap();
    let data = tempfile::tempdir().unwrap();
    identity.store(data.path()).unwrap();
    let kept = NodeIdentity::load(data.path(), None).unwrap().unwrap();
    assert_eq!((kept.node, kept.certificate), (identity.node, identity.certificate));
}

#[tokio::test]
async fn another_farms_coordinator_is_not_believed() {
    let farm = Farm::new();
    let token = Token { authority: [1; 32], secret: SECRET };
    let (socket, address) = (endpoint().unwrap(), farm.address.to_string());
    let accepting = async { farm.endpoint.accept().await.unwrap().await };
    let (joined, accepted) = tokio::join!(join(&socket, &address, &token, "node-1"), accepting);
    assert!(matches!(joined, Err(DialError::Disbelieved(_))), "{joined:?}");
    assert!(accepted.is_err(), "the secret must not have been sent");
}

#[tokio::test]
async fn a_refusal_is_told_in_the_farms_words() {
    let farm = Farm::new();
    let (socket, address) = (endpoint().unwrap(), farm.address.to_string());
    let token = farm.token();
    let serving =
        serve(&farm, |_| JoinAnswer::Refused { reason: "the join token is expired".into() });
    let (joined, ()) = tokio::join!(join(&socket, &address, &token, "node-1"), serving);
    assert!(joined.unwrap_err().to_string().contains("the join token is expired"));
}

/// A farm that answers with a certificate for somebody else's key would lock the worker out for ever.
#[tokio::test]
async fn a_certificate_for_another_key_is_refused() {
    let farm = Farm::new();
    let (socket, address) = (endpoint().unwrap(), farm.address.to_string());
    let token = farm.token();
    let serving = serve(&farm, |_| JoinAnswer::Joined {
        certificate: farm.identity("node-1").certificate.to_vec(),
        authority: farm.authority.to_vec(),
    });
    let (joined, ()) = tokio::join!(join(&socket, &address, &token, "node-1"), serving);
    assert!(matches!(joined, Err(DialError::Tls(_))), "{joined:?}");
}
