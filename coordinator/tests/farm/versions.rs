//! Promise: workers and coordinators of neighbouring releases work together, others refuse each other clearly, and a
//! frame that nobody should have sent costs its link and nothing else.

use crate::worker::{Papers, Worker, dial, dial_offering, identity, profile};
use crate::{PATIENCE, TestFarm, submission};
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError};
use tokio::time::timeout;
use zoetrope_coordinator::link::read_frame;
use zoetrope_protocol::codec;
use zoetrope_protocol::wire::{ALPN_LINK, CloseCode, FromWorker, ToWorker};

/// What a worker of a later release offers beside what we know.
const LATER: &[u8] = b"zoetrope-link/1.9";

/// Both halves of a control stream. The link ends when one is dropped.
type Control = (quinn::SendStream, quinn::RecvStream);

/// Says hello on a fresh connection and reads the answer.
async fn greeted(connection: &Connection, node: &str) -> (Control, ToWorker) {
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    let hello =
        FromWorker::Hello { identity: identity(node, 1, 1), profile: profile(), held: vec![] };
    send.write_all(&codec::frame(&hello).expect("encodes")).await.expect("writes");
    loop {
        let frame = timeout(PATIENCE, read_frame::<ToWorker>(&mut receive, 1 << 20)).await;
        match frame.expect("in time").expect("a frame") {
            ToWorker::Heartbeat => {}
            answer => return ((send, receive), answer),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_the_next_release_is_spoken_to_in_the_words_of_this_one() {
    let farm = TestFarm::start().await;
    let ca = farm.running.authority.certificate();
    let papers = Papers::issue(&farm.running.authority, "gpu-0");
    let names = [LATER, ALPN_LINK];
    let dialled = dial_offering(farm.running.link, ca, Some(&papers), &names).await;
    let connection = dialled.expect("connects");
    let agreed = connection.handshake_data().expect("a handshake");
    let agreed = agreed.downcast::<HandshakeData>().expect("of rustls");
    assert_eq!(agreed.protocol.as_deref(), Some(ALPN_LINK));
    let (_control, answer) = greeted(&connection, "gpu-0").await;
    assert!(matches!(answer, ToWorker::Welcome { .. }), "{answer:?}");
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_version_in_common_the_handshake_says_so() {
    let farm = TestFarm::start().await;
    let ca = farm.running.authority.certificate();
    let papers = Papers::issue(&farm.running.authority, "gpu-0");
    let refused = dial(farm.running.link, ca, Some(&papers), b"zoetrope-link/2").await;
    let ConnectionError::ConnectionClosed(close) = refused.expect_err("no common version") else {
        panic!("not refused by the handshake");
    };
    // The alert no_application_protocol, which a worker tells its operator in words.
    assert_eq!(close.error_code, quinn::TransportErrorCode::crypto(120));
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_an_unknown_kind_costs_its_link_and_the_work_goes_elsewhere() {
    let farm = TestFarm::start().await;
    let ca = farm.running.authority.certificate();
    let papers = Papers::issue(&farm.running.authority, "gpu-0");
    let odd = dial(farm.running.link, ca, Some(&papers), ALPN_LINK).await.expect("connects");
    let ((mut send, _receive), answer) = greeted(&odd, "gpu-0").await;
    assert!(matches!(answer, ToWorker::Welcome { .. }), "{answer:?}");
    farm.submit(submission(1)).await.expect("admitted");
    // A length of one byte, and a variant that no release has.
    send.write_all(&[1, 0, 0, 0, 200]).await.expect("writes");
    let end = timeout(PATIENCE, odd.closed()).await.expect("is closed");
    let ConnectionError::ApplicationClosed(close) = end else { panic!("{end}") };
    assert_eq!(close.error_code.into_inner(), CloseCode::BadFrame as u64);
    assert!(close.reason.starts_with(b"bad frame"), "{close}");
    let mut other = Worker::fresh(&farm, "gpu-1").await;
    other.order().await;
    farm.running.stop().await;
}
