//! Peers that send or take too little.

use crate::http::DoorLimits;
use crate::http::testing::{Stand, send};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn short() -> DoorLimits {
    DoorLimits {
        head_timeout: Duration::from_millis(300),
        stall_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(900),
        ..DoorLimits::default()
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // An end by reset is an end too.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_head_that_never_ends_ends_its_connection() {
    let stand = Stand::with(short()).await;
    let mut stream = TcpStream::connect(stand.address).await.unwrap();
    let began = Instant::now();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    read_all(&mut stream).await;
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_body_that_stops_or_drips_is_given_up() {
    let stand = Stand::with(short()).await;
    let head = format!(
        "POST /v1/videos HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 1000\r\n\r\n{{",
        stand.key
    );
    for drips in [false, true] {
        let mut stream = TcpStream::connect(stand.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        let dripping = tokio::spawn(async move {
            while drips && writing.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            // Kept open: the door must act by itself.
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        let mut answer = vec![0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(5), reading.read(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer[..read.unwrap().unwrap()]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("\"error\""), "{answer}");
        dripping.abort();
    }
}

/// Drips that are never far apart are too slow too.
#[tokio::test]
async fn a_body_has_a_least_rate() {
    let pace = Duration::from_millis(300);
    let stand = Stand::with(DoorLimits { pace_timeout: pace, ..DoorLimits::default() }).await;
    let drips = futures::stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        (n < 1000).then_some((Ok::<_, std::io::Error>(" "), n + 1))
    });
    let request = stand.request("POST", "/v1/videos").header("content-type", "application/json");
    let began = Instant::now();
    let answer = send(request.body(reqwest::Body::wrap_stream(drips))).await;
    assert_eq!(answer.code(), (408, None));
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Promise: an answer that is not taken yet holds a place, as a request does that is not sent yet: of the guests' where it
/// is that of a share link.
#[tokio::test]
async fn an_answer_that_is_being_taken_holds_its_place() {
    // One place for each project, and one for all guests.
    let stand = Stand::with(DoorLimits { in_flight: 4, ..DoorLimits::default() }).await;
    let id = stand.put(1, zoetrope_sched::output::JobState::Completed);
    let path = format!("/v1/videos/{id}");
    let share = send(stand.request("POST", &format!("{path}/share_links"))).await.json();
    let share = share["url"].as_str().unwrap().to_owned();
    let own = async || stand.get(&path).await.status;
    let guest = async || send(stand.client.get(&share)).await.status;
    stand.table.lock().unwrap().stuck_store = true;
    let content = stand.request("GET", &format!("{path}/content")).send().await.unwrap();
    let shared = stand.client.get(&share).send().await.unwrap();
    assert_eq!((content.status().as_u16(), shared.status().as_u16()), (200, 200));
    assert_eq!((own().await, guest().await), (503, 503));
    let stranger = stand.client.get(stand.url("/v1/videos")).bearer_auth(&stand.stranger);
    assert_eq!(send(stranger).await.status, 200);
    drop((content, shared));
    stand.table.lock().unwrap().stuck_store = false;
    let again = async {
        while own().await != 200 || guest().await != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), again).await.expect("the places are free again");
}

/// The sender hears of its 413 although it is still sending.
#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let limits = DoorLimits { body_bytes: 1 << 20, ..DoorLimits::default() };
    let stand = Stand::with(limits).await;
    let mut stream = TcpStream::connect(stand.address).await.unwrap();
    let head = format!(
        "POST /v1/videos HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 33554432\r\n\r\n",
        stand.key
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b' '; 1 << 20];
    for _ in 0..32 {
        stream.write_all(&piece).await.unwrap();
    }
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

/// Connections that do nothing make room at once for one that comes.
#[tokio::test]
async fn idle_connections_make_room() {
    let stand = Stand::with(DoorLimits { connections: 4, ..DoorLimits::default() }).await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(stand.address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
        idle.push(stream);
    }
    let answer = tokio::time::timeout(Duration::from_secs(5), stand.get("/v1/videos")).await;
    assert_eq!(answer.expect("room long before the head timeout of 30 s").status, 200);
    // The first one that came was the first one to go.
    let mut byte = [0];
    let gone = tokio::time::timeout(Duration::from_secs(5), idle[0].read(&mut byte)).await;
    assert!(!matches!(gone.expect("its end"), Ok(1)));
}

/// A request in hand keeps its connection: who comes waits for its end.
#[tokio::test]
async fn a_connection_with_a_request_is_never_closed_for_another() {
    let stand = Stand::with(DoorLimits { connections: 1, ..DoorLimits::default() }).await;
    stand.table.lock().unwrap().delay = Duration::from_millis(400);
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        send(stand.client.get(stand.url("/healthz"))).await
    };
    let (first, second) = tokio::join!(stand.create(r#"{"prompt":"ball"}"#), late);
    assert_eq!((first.status, second.status), (200, 200));
}

/// Promise: who sends a file slowly keeps its own project's checks waiting, and no other's. A declared length above the
/// limit is refused before a byte of it came.
#[tokio::test]
async fn slow_uploads_of_one_project_hold_up_no_other() {
    let limits = DoorLimits { burst: 10_000, ..DoorLimits::default() };
    let stand = Stand::with(limits).await;
    let head = |length: u64| {
        format!(
            "POST /v1/content_provenance_checks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: multipart/form-data; boundary=b\r\ncontent-length: {length}\r\n\r\n",
            stand.key
        )
    };
    let mut large = TcpStream::connect(stand.address).await.unwrap();
    large.write_all(head(1 << 40).as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = large.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 413"));
    let check = async |key: &str| {
        let part = reqwest::multipart::Part::bytes(&b"a text"[..]).file_name("upload");
        let form = reqwest::multipart::Form::new().part("file", part);
        let request = stand.client.post(stand.url("/v1/content_provenance_checks"));
        let answer = crate::http::testing::send(request.bearer_auth(key).multipart(form)).await;
        answer.code()
    };
    let full = (503, Some("server_is_overloaded".to_owned()));
    // Until all places of the project are taken; one that meets a check there is refused and another one comes.
    let mut slow = Vec::new();
    while check(&stand.key).await != full {
        assert!(slow.len() < 500, "more than its share");
        let mut stream = TcpStream::connect(stand.address).await.unwrap();
        stream.write_all((head(1000) + "--b").as_bytes()).await.unwrap();
        slow.push(stream);
    }
    assert_eq!(check(&stand.stranger).await, (400, Some("invalid_input_media".to_owned())));
    drop(slow);
}
