//! Keys, rates and refusals of the farm, in the order of 1.6.

use crate::farm::SubmitRefused;
use crate::http::DoorLimits;
use crate::http::testing::{Stand, send};

fn code(word: &str) -> Option<String> {
    Some(word.to_owned())
}

#[tokio::test]
async fn without_a_right_key_nothing_is_answered() {
    let stand = Stand::new().await;
    let get = || stand.client.get(stand.url("/v1/videos"));
    let wrong = [
        get(),
        get().bearer_auth("zk_wrong"),
        get().header("authorization", &stand.key),
        get().basic_auth(&stand.key, Some("")),
        stand.client.post(stand.url("/v1/videos")).body("not even JSON"),
        stand.client.get(stand.url("/v1/nothing")),
        stand.client.get(stand.url("/farm/workers")),
    ];
    for request in wrong {
        let answer = send(request).await;
        assert_eq!(answer.code(), (401, code("invalid_api_key")));
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert!(answer.header("x-request-id").is_some());
    }
    for (project, status) in [("proj_1", 200), ("proj_2", 401), ("", 401)] {
        let answer =
            send(stand.request("GET", "/v1/videos").header("openai-project", project)).await;
        assert_eq!(answer.status, status, "{project}");
        if status == 401 {
            assert_eq!(answer.code(), (401, code("mismatched_project")));
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    let organized = stand.request("GET", "/v1/videos").header("openai-organization", "org-x");
    assert_eq!(send(organized).await.status, 200);
}

#[tokio::test]
async fn every_answer_says_who_and_how_long_and_how_many() {
    let stand = Stand::new().await;
    let answer = stand.get("/v1/videos").await;
    assert!(answer.header("x-request-id").unwrap().starts_with("req_"));
    assert!(answer.header("openai-processing-ms").unwrap().parse::<u64>().is_ok());
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("200"));
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("199"));
    assert_eq!(answer.header("x-ratelimit-reset-requests"), Some("20ms"));
    let other = stand.get("/v1/videos").await;
    assert_ne!(answer.header("x-request-id"), other.header("x-request-id"));
}

#[tokio::test]
async fn a_key_that_asks_too_fast_is_slowed_down_alone() {
    let limits = DoorLimits { requests_per_second: 1, burst: 2, ..DoorLimits::default() };
    let stand = Stand::with(limits).await;
    assert_eq!(stand.get("/v1/videos").await.status, 200);
    assert_eq!(stand.get("/v1/videos").await.status, 200);
    // The rate comes before the body is looked at.
    let refused = stand.create("not JSON").await;
    assert_eq!(refused.code(), (429, code("rate_limit_exceeded")));
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
    let other = stand.client.get(stand.url("/v1/videos")).bearer_auth(&stand.stranger);
    assert_eq!(send(other).await.status, 200);
    assert_eq!(*stand.counted.1.lock().unwrap(), ["rate_limit_exceeded"]);
}

#[tokio::test]
async fn what_the_farm_refuses_has_its_status_and_headers() {
    let stand = Stand::new().await;
    for (refused, status, word, kind, retry) in [
        (
            SubmitRefused::TenantQueueFull { seconds: 10 },
            429,
            "concurrency_limit_exceeded",
            "rate_limit_error",
            true,
        ),
        (
            SubmitRefused::FarmQueueFull { seconds: 10 },
            503,
            "server_is_overloaded",
            "service_unavailable_error",
            true,
        ),
        (
            SubmitRefused::DeadlineInfeasible,
            400,
            "deadline_infeasible",
            "invalid_request_error",
            false,
        ),
        (SubmitRefused::KeyReused, 422, "idempotency_key_reused", "invalid_request_error", false),
    ] {
        stand.table.lock().unwrap().refuse = Some(refused);
        let answer = stand.create(r#"{"prompt":"ball"}"#).await;
        assert_eq!(answer.code(), (status, code(word)));
        assert_eq!(answer.json()["error"]["type"], kind);
        let wait = answer.header("retry-after").map(|text| text.parse::<u32>().unwrap());
        assert_eq!(wait.is_some_and(|wait| (1..=60).contains(&wait)), retry, "{word}");
        assert_eq!(stand.counted.1.lock().unwrap().last(), Some(&word));
    }
    // A list that is refused is no refused submit.
    assert_eq!(stand.get("/v1/videos?limit=x").await.status, 400);
    assert_eq!(stand.create("{").await.code(), (400, None));
    assert_eq!(stand.counted.1.lock().unwrap().last(), Some(&"none"));
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_infeasible() {
    let stand = Stand::new().await;
    let past = stand.create(r#"{"prompt":"ball","deadline_at":1799999999}"#).await;
    assert_eq!(past.code(), (400, code("deadline_infeasible")));
    let ahead = stand.create(r#"{"prompt":"ball","deadline_at":1800009999}"#).await;
    assert_eq!(ahead.json()["deadline_at"], 1_800_009_999);
}

/// Bodies that do not end hold up their own project, and not the others, and least of all operators.
#[tokio::test]
async fn a_project_takes_its_share_of_the_places_and_no_more() {
    use tokio::io::AsyncWriteExt;
    let stand = Stand::with(DoorLimits { in_flight: 8, ..DoorLimits::default() }).await;
    let hold = async |key: &str| {
        let mut stream = tokio::net::TcpStream::connect(stand.address).await.unwrap();
        let head = format!(
            "POST /v1/videos HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // What comes says that the body is being read, or that there is no place.
        let mut answer = [0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer).await.unwrap();
        (stream, String::from_utf8_lossy(&answer[9..]).into_owned())
    };
    let get = |key: &str| send(stand.client.get(stand.url("/v1/videos")).bearer_auth(key));
    let held = [hold(&stand.key).await, hold(&stand.key).await, hold(&stand.key).await];
    assert_eq!(held.each_ref().map(|(_, code)| code.as_str()), ["100", "100", "503"]);
    assert_eq!(stand.get("/v1/videos").await.code(), (503, code("server_is_overloaded")));
    assert_eq!((get(&stand.stranger).await.status, get(&stand.operator).await.status), (200, 200));
    // Nobody without a key takes a place.
    let (_stream, unknown) = hold("zk_wrong").await;
    assert_eq!(unknown, "401");
}

/// Above the limit of requests being handled, the door says so at once instead of queueing.
#[tokio::test]
async fn a_full_door_answers_at_once() {
    let stand = Stand::with(DoorLimits { in_flight: 1, ..DoorLimits::default() }).await;
    let gate = stand.gate();
    let late = async {
        stand.submitted(1).await;
        let health = send(stand.client.get(stand.url("/healthz"))).await;
        let second = stand.get("/v1/videos").await;
        gate.notify_one();
        (second, health)
    };
    let (first, (second, health)) = tokio::join!(stand.create(r#"{"prompt":"ball"}"#), late);
    assert_eq!((first.status, health.status), (200, 200));
    assert_eq!(second.code(), (503, code("server_is_overloaded")));
    assert_eq!(second.header("retry-after"), Some("1"));
}
