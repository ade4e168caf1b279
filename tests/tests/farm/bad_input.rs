//! Promise: every kind of bad input gets a clear answer, and nothing falls over.

use crate::harness::{Engine, Farm, PATIENCE};
use quinn::ConnectionError;
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zoetrope_protocol::version::LinkVersion;
use zoetrope_protocol::wire::ALPN_JOIN;

/// The name in the coordinator's certificate.
const COORDINATOR: &str = "coordinator.zoetrope";
/// The name of the farm's own authority.
const AUTHORITY: &str = "Zoetrope farm authority";
/// What a connection without a certificate is told.
const NO_CERTIFICATE: &[u8] = b"no certificate of this farm: join first";
/// RFC 9001, 4.8: the error codes of QUIC that carry an alert of TLS.
const TLS_ALERTS: std::ops::Range<u64> = 0x100..0x200;

/// After whatever a test did to it, the farm still renders.
async fn still_works(farm: &Farm) {
    let id = farm.submit("a ball after all that").await;
    assert_eq!(farm.ended(&id, PATIENCE).await["status"], "completed");
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 1).await;
    let giant = "x".repeat(32_001);
    let cases = [
        (json!({}), "missing_required_parameter", "prompt"),
        (json!({"prompt": ""}), "invalid_value", "prompt"),
        (json!({"prompt": giant}), "invalid_value", "prompt"),
        (json!({"prompt": 7}), "invalid_type", "prompt"),
        (json!({"prompt": ["a"]}), "invalid_type", "prompt"),
        (json!({"prompt": "a", "promt": "b"}), "unknown_parameter", "promt"),
        (json!({"prompt": "a", "size": "1x1"}), "invalid_value", "size"),
        (json!({"prompt": "a", "seconds": "7"}), "invalid_value", "seconds"),
        (json!({"prompt": "a", "seconds": {}}), "invalid_type", "seconds"),
        (json!({"prompt": "a", "seed": -1}), "invalid_value", "seed"),
        (json!({"prompt": "a", "model": "none"}), "invalid_value", "model"),
    ];
    for (body, code, param) in cases {
        let (status, answer) = farm.post("/v1/videos", &body).await;
        let shown = answer.to_string();
        let error = &answer["error"];
        assert_eq!(
            (status, &error["code"], &error["param"]),
            (400, &json!(code), &json!(param)),
            "{shown}"
        );
        assert!(error["message"].as_str().is_some_and(|text| text.len() > 10), "{shown}");
    }
    let raw = |kind: &str, bytes: &'static [u8]| {
        let post = farm.request(reqwest::Method::POST, "/v1/videos");
        post.header("content-type", kind.to_owned()).body(bytes).send()
    };
    let status = async |kind, bytes| raw(kind, bytes).await.expect("an answer").status().as_u16();
    assert_eq!(status("application/json", b"{\"prompt\":").await, 400);
    assert_eq!(status("application/json", b"\xff\xfe\x00").await, 400);
    assert_eq!(status("text/plain", b"a ball").await, 415);
    assert_eq!(status("multipart/form-data; boundary=x", b"--x\r\ngarbage").await, 400);
    assert_eq!(
        farm.get("/v1/videos/video_nonsense").await["error"]["type"],
        "invalid_request_error"
    );
    assert_eq!(farm.get("/v1/nonsense").await["error"]["code"], Value::Null);
    still_works(&farm).await;
}

#[tokio::test]
async fn wrong_keys_open_nothing() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 1).await;
    let http = reqwest::Client::new();
    for key in ["", "wrong", "zk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &farm.key[1..]] {
        let answer = http.get(format!("{}/v1/videos", farm.url)).bearer_auth(key).send().await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 401, "{key}");
        let told: Value = answer.json().await.expect("the envelope");
        assert_eq!(told["error"]["code"], "invalid_api_key");
    }
    // A project's key is no operator's key, and sees no other project's job.
    let id = farm.submit("mine").await;
    let (_, made) = farm.post("/farm/keys", &json!({"name": "another project"})).await;
    let other = made["key"].as_str().expect("the key's text");
    for path in ["/farm/workers".to_owned(), format!("/v1/videos/{id}")] {
        let answer = http.get(format!("{}{path}", farm.url)).bearer_auth(other).send().await;
        assert!(matches!(answer.expect("an answer").status().as_u16(), 403 | 404), "{path}");
    }
}

/// Uploads that stop in the middle end alone.
#[tokio::test]
async fn half_sent_uploads_cost_nothing() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 1).await;
    let address = farm.url.trim_start_matches("http://").to_owned();
    let head = format!(
        "POST /v1/videos HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: multipart/form-data; boundary=b\r\ncontent-length: 100000\r\n\r\n\
         --b\r\ncontent-disposition: form-data; name=\"prompt\"\r\n\r\nhalf",
        farm.key
    );
    let mut open = Vec::new();
    for n in 0..50 {
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("a connection");
        let part = if n % 2 == 0 { head.as_str() } else { &head[..40] };
        stream.write_all(part.as_bytes()).await.expect("sent");
        open.push(stream);
    }
    still_works(&farm).await;
    drop(open);
    // Garbage instead of HTTP is answered or cut off, and ends there.
    let mut stream = tokio::net::TcpStream::connect(&address).await.expect("a connection");
    stream.write_all(&[0xff; 5_000]).await.ok();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .expect("it is cut off")
        .ok();
    still_works(&farm).await;
    let list = farm.get("/v1/videos?limit=100").await;
    assert_eq!(list["data"].as_array().map(Vec::len), Some(2), "half a request made no job");
}

/// The address of the workers' port, as `zoetrope up` keeps it.
fn link(farm: &Farm) -> SocketAddr {
    let text = std::fs::read_to_string(farm.data().join("link")).expect("the link's address");
    text.trim().parse().expect("an address")
}

#[tokio::test]
async fn garbage_on_the_workers_port_is_ignored() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 1).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let mut state = 1u64;
    for n in 0..5_000 {
        let bytes: Vec<u8> = (0..n % 1_400)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        socket.send_to(&bytes, link(&farm)).await.ok();
    }
    still_works(&farm).await;
}

/// A certificate and its key, as a client shows them.
type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Dials the workers' port as somebody who shows this, speaks one of these protocols, and then talks nonsense. How the
/// coordinator ended that.
async fn ended_with(farm: &Farm, shown: Option<Shown>, protocols: Vec<Vec<u8>>) -> ConnectionError {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    let mut tls = match shown {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("they fit"),
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = protocols;
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("quic");
    let local = "127.0.0.1:0".parse().expect("an address");
    let mut endpoint = quinn::Endpoint::client(local).expect("a socket");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(quic)));
    let talk = async {
        let dialled = endpoint.connect(link(farm), COORDINATOR).expect("it can be dialled");
        let connection = match dialled.await {
            Ok(connection) => connection,
            Err(ended) => return ended,
        };
        // TLS 1.3 tells a client late that its certificate was refused.
        let mut stream = connection.open_bi().await;
        if let Ok((send, _)) = &mut stream {
            send.write_all(&[0xff; 4_096]).await.ok();
        }
        connection.closed().await
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("it is ended")
}

/// A certificate for the farm's worker by an authority that calls itself the farm's.
fn of_another_authority() -> Shown {
    let mut own = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    own.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    own.distinguished_name = rcgen::DistinguishedName::new();
    own.distinguished_name.push(rcgen::DnType::CommonName, AUTHORITY);
    let issuer = rcgen::Issuer::new(own, rcgen::KeyPair::generate().expect("a key"));
    let key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::new(vec!["cpu0".to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
    (vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

fn of_its_own_making() -> Shown {
    let made = rcgen::generate_simple_self_signed(vec!["cpu0".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    (vec![made.cert.der().clone()], key.into())
}

/// A worker with a certificate that is not the farm's gets no order, and is not listed: it comes no further than TLS, while
/// who shows the farm's own is heard.
#[tokio::test]
async fn a_forged_certificate_opens_no_link() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 1).await;
    let identity = farm.data().join("workers/cpu0/identity");
    let read = |name: &str| std::fs::read(identity.join(name)).expect("the worker's identity");
    let key = PrivatePkcs8KeyDer::from(read("key.der")).into();
    let own = (vec![CertificateDer::from(read("certificate.der"))], key);
    let link = LinkVersion::NEWEST.names();
    match ended_with(&farm, Some(own), link.clone()).await {
        ConnectionError::ApplicationClosed(said) => {
            assert_ne!(said.reason, NO_CERTIFICATE, "{said}");
        }
        other => panic!("the farm's own certificate is refused: {other}"),
    }
    match ended_with(&farm, None, link.clone()).await {
        ConnectionError::ApplicationClosed(said) => assert_eq!(said.reason, NO_CERTIFICATE),
        other => panic!("without a certificate: {other}"),
    }
    for protocols in [link, vec![ALPN_JOIN.to_vec()]] {
        for forged in [of_its_own_making(), of_another_authority()] {
            match ended_with(&farm, Some(forged), protocols.clone()).await {
                ConnectionError::ConnectionClosed(said) => {
                    assert!(TLS_ALERTS.contains(&u64::from(said.error_code)), "{said}");
                }
                other => panic!("a forged certificate is heard: {other}"),
            }
        }
    }
    let workers = farm.get("/farm/workers").await;
    assert_eq!(workers["data"].as_array().map(Vec::len), Some(1), "{workers}");
    still_works(&farm).await;
}

/// Trusts any server: an attacker does not care whom he talks to.
#[derive(Debug)]
struct AnyServer(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
