//! Promise: nothing that a peer sends takes more than its own connection down.

use crate::worker::{Papers, Worker, dial, facts, held, held_as, secret_of};
use crate::{PATIENCE, TestFarm, submission};
use quinn::ConnectionError;
use std::time::Duration;
use tokio::time::timeout;
use zoetrope_coordinator::farm::FarmMsg;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, AttemptNumber, Epoch, Fence, JobId, Millis};
use zoetrope_protocol::job::{ClipFacts, Role, Stage};
use zoetrope_protocol::wire::{
    ALPN_JOIN, ALPN_LINK, ARTIFACT_BYTES_MAX, ArtifactHeader, CloseCode, FromWorker, JoinAnswer,
    JoinRequest, ToWorker,
};
use zoetrope_sched::output::JobState;

fn code(error: &ConnectionError) -> Option<u64> {
    match error {
        ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    }
}

async fn closed(connection: &quinn::Connection) -> ConnectionError {
    timeout(PATIENCE, connection.closed()).await.expect("is closed")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_papers_or_with_forged_ones_nobody_gets_a_link() {
    let farm = TestFarm::start().await;
    let ca = farm.running.authority.certificate();
    let forged = Papers::forge("gpu-0");
    // The client may think that the handshake is over before the farm has refused its certificate.
    if let Ok(connection) = dial(farm.running.link, ca, Some(&forged), ALPN_LINK).await {
        let end = closed(&connection).await;
        assert_eq!(code(&end), None, "refused by TLS, not by us: {end}");
    }
    let bare = dial(farm.running.link, ca, None, ALPN_LINK).await.expect("connects");
    assert_eq!(code(&closed(&bare).await), Some(CloseCode::Protocol as u64));
    // Good papers, but somebody else's name.
    let papers = Papers::issue(&farm.running.authority, "gpu-0");
    let thief = dial(farm.running.link, ca, Some(&papers), ALPN_LINK).await.expect("connects");
    let (mut send, _receive) = thief.open_bi().await.expect("a stream");
    let hello = FromWorker::Hello {
        identity: crate::worker::identity("gpu-1", 1, 1),
        profile: crate::worker::profile(),
        held: Vec::new(),
    };
    send.write_all(&codec::frame(&hello).expect("encodes")).await.expect("writes");
    assert_eq!(code(&closed(&thief).await), Some(CloseCode::Protocol as u64));
    // Its own name, and a hello that would fill the journal.
    let talker = dial(farm.running.link, ca, Some(&papers), ALPN_LINK).await.expect("connects");
    let (mut send, _receive) = talker.open_bi().await.expect("a stream");
    let mut profile = crate::worker::profile();
    profile.models[0].stages = vec![Stage::Encode; 600_000];
    let identity = crate::worker::identity("gpu-0", 1, 1);
    let hello = FromWorker::Hello { identity, profile, held: Vec::new() };
    send.write_all(&codec::frame(&hello).expect("encodes")).await.expect("writes");
    assert_eq!(code(&closed(&talker).await), Some(CloseCode::Protocol as u64));
    assert_eq!(farm.observe().await.links, 0);
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_one_worker_join_and_no_second() {
    let farm = TestFarm::start().await;
    let ca = farm.running.authority.certificate().clone();
    let token = |reply| FarmMsg::JoinToken { uses: 1, ttl: Millis(60_000), reply };
    let token = farm.farm().ask(token).await.expect("a token");
    for round in 0..2 {
        let connection = dial(farm.running.link, &ca, None, ALPN_JOIN).await.expect("connects");
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        let key = rcgen::KeyPair::generate().expect("a key");
        let request =
            rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
        let request = JoinRequest {
            secret: secret_of(&token),
            node: "gpu-0".to_owned(),
            signing_request: request.der().to_vec(),
        };
        send.write_all(&codec::frame(&request).expect("encodes")).await.expect("writes");
        let answer: JoinAnswer =
            zoetrope_coordinator::link::read_frame(&mut receive, 1 << 16).await.expect("answers");
        connection.close(1u32.into(), b"");
        match (round, answer) {
            (0, JoinAnswer::Joined { certificate, authority }) => {
                assert_eq!(authority, ca.to_vec());
                let papers = Papers { certificate: certificate.into(), key: key.serialize_der() };
                let identity = crate::worker::identity("gpu-0", 1, 1);
                Worker::connect(&farm, &papers, identity, Vec::new()).await;
            }
            (1, JoinAnswer::Refused { reason }) => assert!(reason.contains("used up"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_costs_only_its_own_connection() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    let mut good = Worker::fresh(&farm, "gpu-0").await;
    let order = good.order().await;
    // Datagrams that are no QUIC.
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let mut dice = 1u64;
    for length in 0..400 {
        dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let bytes: Vec<u8> = (0..length * 3).map(|i| (dice >> (i % 57)) as u8).collect();
        socket.send_to(&bytes, farm.running.link).await.expect("sends");
    }
    let ca = farm.running.authority.certificate();
    let papers = Papers::issue(&farm.running.authority, "gpu-1");
    // A first frame of nonsense, one that is too long, one that never comes whole.
    let nonsense = [&b"\x04\0\0\0\xff\xff\xff\xff"[..], &[0xff; 64], b"\xff\xff"];
    for bytes in nonsense {
        let bad = dial(farm.running.link, ca, Some(&papers), ALPN_LINK).await.expect("connects");
        let (mut send, _receive) = bad.open_bi().await.expect("a stream");
        send.write_all(bytes).await.expect("writes");
        if bytes.len() > 2 {
            assert_eq!(code(&closed(&bad).await), Some(CloseCode::Protocol as u64));
        }
    }
    // A greeted worker that then sends an oversize frame, or an oversize artifact.
    let worker = Worker::fresh(&farm, "gpu-2").await;
    let mut stream = worker.connection.open_uni().await.expect("a stream");
    let header = ArtifactHeader {
        held: Some(held(&order)),
        role: Some(Role::Clip),
        artifact: ArtifactId([1; 32]),
        bytes: ARTIFACT_BYTES_MAX + 1,
    };
    stream.write_all(&codec::frame(&header).expect("encodes")).await.expect("writes");
    assert_eq!(code(&closed(&worker.connection).await), Some(CloseCode::BadFrame as u64));
    let worker = Worker::fresh(&farm, "gpu-3").await;
    let mut stream = worker.connection.open_uni().await.expect("a stream");
    stream.write_all(&u32::MAX.to_le_bytes()).await.expect("writes");
    assert_eq!(code(&closed(&worker.connection).await), Some(CloseCode::BadFrame as u64));
    // The good worker noticed nothing.
    good.carry_out(&order).await;
    good.order().await;
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_with_a_wrong_digest_counts_as_never_sent() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    let order = worker.order().await;
    let held = held(&order);
    worker.send(held, Role::Prompt, b"prompt", [3; 32]).await;
    match worker.next().await {
        ToWorker::NotStored { artifact, reason, .. } => {
            assert_eq!(artifact, ArtifactId::of(b"prompt"));
            assert!(reason.contains("digest"), "{reason}");
        }
        other => panic!("stored: {other:?}"),
    }
    // The same with an attempt that the farm never ordered.
    let mut stale = held;
    stale.fence.attempt.0 += 1;
    worker.send(stale, Role::Prompt, b"prompt", ArtifactId::of(b"prompt").0).await;
    let answer = worker.next().await;
    assert!(matches!(answer, ToWorker::NotStored { .. }), "{answer:?}");
    assert!(farm.running.store.size(&ArtifactId::of(b"prompt")).await.is_err());
    // A stream that is cut off.
    let bytes = b"prompt";
    let header = ArtifactHeader {
        held: Some(held),
        role: Some(Role::Prompt),
        artifact: ArtifactId::of(bytes),
        bytes: bytes.len() as u64,
    };
    let mut stream = worker.connection.open_uni().await.expect("a stream");
    stream.write_all(&codec::frame(&header).expect("encodes")).await.expect("writes");
    stream.write_all(&bytes[..3]).await.expect("writes");
    drop(stream);
    let answer = worker.next().await;
    assert!(matches!(answer, ToWorker::NotStored { .. }), "{answer:?}");
    worker.carry_out(&order).await;
    worker.order().await;
    farm.running.stop().await;
}

/// The farm gives a silent worker up and its order to another.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_worker_is_given_up() {
    let farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    let papers = Papers::issue(&farm.running.authority, "gpu-0");
    let ca = farm.running.authority.certificate();
    let mute = dial(farm.running.link, ca, Some(&papers), ALPN_LINK).await.expect("connects");
    let (mut send, _receive) = mute.open_bi().await.expect("a stream");
    let hello = FromWorker::Hello {
        identity: crate::worker::identity("gpu-0", 1, 1),
        profile: crate::worker::profile(),
        held: Vec::new(),
    };
    send.write_all(&codec::frame(&hello).expect("encodes")).await.expect("writes");
    let began = std::time::Instant::now();
    assert_eq!(code(&closed(&mute).await), Some(CloseCode::Silent as u64));
    assert!(began.elapsed() > Duration::from_secs(4), "not at once");
    let mut other = Worker::fresh(&farm, "gpu-1").await;
    other.order().await;
    farm.running.stop().await;
}

/// What a worker measured of another's clip is nothing: it says that it has finished, under a fence that is greater than
/// any, and the clip of the one that has is published all the same.
#[tokio::test(flavor = "multi_thread")]
async fn measures_of_another_worker_stand_in_nobodys_way() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    let hostile = Worker::fresh(&farm, "gpu-1").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.finish_order().await;
    let most = Fence { epoch: Epoch(u64::MAX), attempt: AttemptNumber(u32::MAX) };
    for fence in [most, order.fence] {
        let facts = ClipFacts { frames: 1, ..facts(&order) };
        let (held, facts, gpu) = (held_as(&order, fence), Some(facts), Millis(1));
        hostile.say(FromWorker::Finished { held, outputs: Vec::new(), facts, gpu }).await;
    }
    let line = "zoetrope_inputs_ignored_total{input=\"shard_finished\"}";
    let ignored = async {
        // A series begins with its first count.
        while !farm.running.metrics.text().contains(line) || farm.metric(line) < 2.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, ignored).await.expect("both are taken in");
    worker.carry_out(&order).await;
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    farm.running.stop().await;
}
