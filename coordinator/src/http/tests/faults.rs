//! Our own faults, a farm that is gone, and the end of the door.

use crate::http::DoorLimits;
use crate::http::testing::{Stand, send};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use zoetrope_protocol::id::Millis;
use zoetrope_sched::output::JobState;

/// A handler that panics is a 500 with its envelope; the next request is answered as ever.
#[tokio::test]
async fn a_panic_is_an_answer() {
    fn clock() -> Millis {
        static ASKED: AtomicBool = AtomicBool::new(false);
        // The door asks once when it opens.
        assert!(!ASKED.swap(true, Ordering::Relaxed), "a test asked for this");
        Millis(1_800_000_000_000)
    }
    let stand = Stand::at(DoorLimits::default(), clock).await;
    let id = stand.put(1, JobState::Queued);
    let read = stand.get(&format!("/v1/videos/{id}")).await;
    let made = stand.create(r#"{"prompt":"ball","deadline_at":1900000000}"#).await;
    for answer in [read, made] {
        assert_eq!(answer.code(), (500, None));
        assert_eq!(answer.json()["error"]["type"], "server_error");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert!(answer.header("x-request-id").is_some());
        assert!(!answer.json().to_string().contains("a test"));
    }
    assert_eq!(stand.get("/v1/models").await.status, 200);
}

#[tokio::test]
async fn a_farm_that_is_gone_is_a_503_worth_a_retry() {
    let stand = Stand::new().await;
    stand.dispatch.stop_and_wait(None, None).await.unwrap();
    let made = stand.create(r#"{"prompt":"ball"}"#).await;
    let ready = send(stand.client.get(stand.url("/readyz"))).await;
    for answer in [made, ready] {
        assert_eq!(answer.code(), (503, Some("server_is_overloaded".to_owned())));
        assert_eq!(answer.json()["error"]["type"], "service_unavailable_error");
        let wait: u32 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait) && answer.header("x-should-retry").is_none());
    }
    assert_eq!(send(stand.client.get(stand.url("/healthz"))).await.status, 200);
}

/// A door that is told to end answers what it has begun, and takes nothing new.
#[tokio::test]
async fn requests_in_hand_are_answered_at_the_end() {
    let stand = Stand::new().await;
    let gate = stand.gate();
    let begun = tokio::spawn(stand.post(r#"{"prompt":"ball"}"#).send());
    stand.submitted(1).await;
    stand.stop.cancel();
    gate.notify_one();
    assert_eq!(begun.await.unwrap().unwrap().status(), 200);
    let ended = tokio::time::timeout(Duration::from_secs(5), stand.served).await;
    ended.expect("the door ends").unwrap().unwrap();
    let late = stand.client.get(format!("http://{}/healthz", stand.address)).send().await;
    assert!(late.is_err());
}
