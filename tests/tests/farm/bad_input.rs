//! Promise: every kind of bad input gets a clear answer, and nothing falls over.

use crate::harness::{Engine, Farm, PATIENCE, eventually};
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

/// A worker with a certificate of its own making gets no order, and is not listed.
#[tokio::test]
async fn a_forged_certificate_opens_no_link() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 1).await;
    let forged =
        rcgen::generate_simple_self_signed(vec!["cpu0".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(forged.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    for alpn in ["zoetrope-link/1", "zoetrope-join/1", "h3"] {
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider.clone())));
        let chain = vec![CertificateDer::from(forged.cert.der().to_vec())];
        let mut tls = builder.with_client_auth_cert(chain, key.clone_key().into()).expect("tls");
        tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("quic");
        let local = "127.0.0.1:0".parse().expect("an address");
        let mut endpoint = quinn::Endpoint::client(local).expect("a socket");
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(quic)));
        let Ok(dialled) = endpoint.connect(link(&farm), "coordinator.farm.zoetrope") else {
            continue;
        };
        let Ok(Ok(connection)) = tokio::time::timeout(PATIENCE, dialled).await else { continue };
        // TLS 1.3 tells a client late that its certificate was refused: the first stream shows it.
        if let Ok((mut send, mut receive)) = connection.open_bi().await {
            send.write_all(&[0xff; 4_096]).await.ok();
            send.finish().ok();
            let answer = tokio::time::timeout(PATIENCE, receive.read_to_end(1 << 20)).await;
            assert!(answer.expect("an end").is_err() || alpn == "zoetrope-join/1", "{alpn}");
        }
        eventually(PATIENCE, "the link is closed", async || connection.close_reason().is_some())
            .await;
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
