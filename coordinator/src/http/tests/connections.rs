//! What connections make of requests: which `Host` they need, how many lines they have, and when an answer is the last one.

use crate::http::DoorLimits;
use crate::http::testing::Stand;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// All that comes back on a new connection until its end.
async fn said(stand: &Stand, sent: &str) -> String {
    let mut stream = TcpStream::connect(stand.address).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let read = stream.read_to_end(&mut text);
    let read = tokio::time::timeout(std::time::Duration::from_secs(5), read).await;
    read.expect("it ends").unwrap();
    String::from_utf8(text).unwrap()
}

/// An answer that does not wait for the body is the last one of its connection, and says so.
#[tokio::test]
async fn an_answer_before_the_body_ends_its_connection() {
    let stand = Stand::new().await;
    let (own, wrong) = (stand.key.clone(), "zk_wrong".to_owned());
    let odd = format!("idempotency-key: {}\r\n", "x".repeat(256));
    for (method, path, key, more, status) in [
        ("POST", "/v1/videos", &wrong, "", 401),
        ("POST", "/v1/nothing", &own, "", 404),
        ("PUT", "/v1/videos", &own, "", 405),
        ("POST", "/v1/videos", &own, odd.as_str(), 400),
        ("POST", "/v1/videos", &wrong, "expect: 100-continue\r\n", 401),
        ("POST", "/healthz", &own, "", 405),
    ] {
        let answer = said(&stand, &unread(method, path, key, more)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{path}: {answer}");
    }
    let limits = DoorLimits { requests_per_second: 1, burst: 1, ..DoorLimits::default() };
    let stand = Stand::with(limits).await;
    assert_eq!(stand.get("/v1/videos").await.status, 200);
    let answer = said(&stand, &unread("POST", "/v1/videos", &stand.key, "")).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

/// The head of a request whose body does not come.
fn unread(method: &str, path: &str, key: &str, more: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{more}\
         content-type: application/json\r\ncontent-length: 1000\r\n\r\n"
    )
}

/// Whoever sent its whole body goes on, also when it was refused.
#[tokio::test]
async fn an_answer_after_the_body_ends_nothing() {
    let stand = Stand::new().await;
    for (kind, body) in [("application/json", "{}"), ("application/json", ""), ("text/plain", "")] {
        let sent = format!(
            "POST /v1/videos HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}\
             GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            stand.key,
            body.len()
        );
        let answers = said(&stand, &sent).await;
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 2, "{answers}");
        assert_eq!(answers.matches("connection: close").count(), 1, "{answers}");
    }
}

/// RFC 9112, 3.2.
#[tokio::test]
async fn a_request_names_one_host() {
    let stand = Stand::new().await;
    for (version, hosts, status) in [
        ("1.1", "host: x\r\n", 200),
        ("1.1", "host:\r\n", 200),
        ("1.1", "", 400),
        ("1.1", "host: x\r\nhost: y\r\n", 400),
        ("1.0", "", 200),
        ("1.0", "host: x\r\n", 200),
    ] {
        let sent = format!("GET /healthz HTTP/{version}\r\n{hosts}connection: close\r\n\r\n");
        let answer = said(&stand, &sent).await;
        assert!(answer.starts_with(&format!("HTTP/{version} {status}")), "{hosts}: {answer}");
        if status == 400 {
            assert!(answer.contains("\r\nx-request-id: req_"), "{answer}");
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            let error = serde_json::from_str::<serde_json::Value>(body).unwrap()["error"].take();
            assert_eq!(error["type"], "invalid_request_error");
            assert!(error["code"].is_null() && error["param"].is_null(), "{error}");
        }
    }
}

#[tokio::test]
async fn a_head_may_have_many_lines() {
    let stand = Stand::new().await;
    let lines: String = (0..400).map(|n| format!("x-line-{n}: v\r\n")).collect();
    let sent = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{lines}connection: close\r\n\r\n");
    let answer = said(&stand, &sent).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.100}");
}
