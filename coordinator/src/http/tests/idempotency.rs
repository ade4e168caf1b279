//! 5.3: one job, however often a request is sent.

use crate::farm::SubmitRefused;
use crate::http::testing::{Answer, NOW, Stand, send};
use std::time::Duration;
use zoetrope_protocol::id::Millis;
use zoetrope_sched::input::EndWhy;
use zoetrope_sched::output::{FailWhy, JobState};

const BODY: &str = r#"{"prompt":"a red ball"}"#;

async fn keyed(stand: &Stand, key: &str, body: &str) -> Answer {
    send(stand.post(body).header("idempotency-key", key)).await
}

async fn resent(stand: &Stand, count: u32, body: &str) -> Answer {
    send(stand.post(body).header("x-stainless-retry-count", count.to_string())).await
}

/// What was counted beside the answers, by its words.
fn counted(stand: &Stand) -> Vec<&'static str> {
    stand.counted.1.lock().unwrap().clone()
}

fn jobs(stand: &Stand) -> usize {
    stand.table.lock().unwrap().jobs.len()
}

#[tokio::test]
async fn a_key_repeats_its_first_answer_byte_for_byte() {
    let stand = Stand::new().await;
    let first = keyed(&stand, "k", BODY).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (200, None));
    let id = first.id();
    for state in [JobState::Queued, JobState::InProgress, JobState::Completed] {
        stand.advance(&id, state);
        // The other API key of the same project, and fields in another order and form.
        let form = reqwest::multipart::Form::new().text("prompt", "a red ball");
        let request = stand.client.post(stand.url("/v1/videos")).bearer_auth(&stand.operator);
        let again = send(request.multipart(form).header("idempotency-key", "k")).await;
        assert_eq!((again.status, &again.bytes), (200, &first.bytes));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
    }
    assert_eq!(jobs(&stand), 1);
    assert_eq!(counted(&stand), ["key"; 3]);
}

#[tokio::test]
async fn a_key_holds_for_its_content_and_its_project() {
    let stand = Stand::new().await;
    let first = keyed(&stand, "k", BODY).await;
    for other in [r#"{"prompt":"a blue ball"}"#, r#"{"nonsense":1}"#, r#"{"prompt":7}"#] {
        let reused = keyed(&stand, "k", other).await;
        let code = Some("idempotency_key_reused".to_owned());
        assert_eq!(reused.code(), (422, code), "{other}");
    }
    let stranger = stand.client.post(stand.url("/v1/videos")).bearer_auth(&stand.stranger);
    let stranger = stranger.header("content-type", "application/json").body(BODY);
    let theirs = send(stranger.header("idempotency-key", "k")).await;
    assert_eq!(theirs.status, 200);
    assert_ne!(theirs.id(), first.id());
}

#[tokio::test]
async fn a_refused_request_leaves_the_key_free() {
    let stand = Stand::new().await;
    assert_eq!(keyed(&stand, "k", r#"{"prompt":""}"#).await.status, 400);
    assert_eq!(keyed(&stand, "k", BODY).await.status, 200);
    for key in ["x".repeat(256), String::new()] {
        assert_eq!(keyed(&stand, &key, BODY).await.code().0, 400);
    }
    assert_eq!(keyed(&stand, &"x".repeat(255), BODY).await.status, 200);
}

/// 5.3: byte for byte, also when the farm has forgotten what was written, as a deletion makes it.
#[tokio::test]
async fn a_key_repeats_its_first_answer_after_the_video_was_deleted() {
    let stand = Stand::new().await;
    let body = r#"{"prompt":"a cat","metadata":{"b":"1","a":"2"},"safety_identifier":"u"}"#;
    let first = keyed(&stand, "k", body).await;
    assert_eq!(first.json()["warnings"].as_array().unwrap().len(), 1, "{:?}", first.json());
    let gone = send(stand.request("DELETE", &format!("/v1/videos/{}", first.id()))).await;
    assert_eq!(gone.status, 200);
    for held in &mut stand.table.lock().unwrap().jobs {
        assert!(held.deleted);
        let spec = &mut held.view.spec;
        spec.render.prompt.clear();
        (spec.metadata, spec.warnings, spec.safety_identifier) = (vec![], vec![], None);
    }
    let again = keyed(&stand, "k", body).await;
    assert_eq!((again.status, &again.bytes), (200, &first.bytes));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(stand.get(&format!("/v1/videos/{}", first.id())).await.status, 404);
}

/// 1.4, rules 1 and 5: an object is the same in brackets and as JSON text, and `null` is absence.
#[tokio::test]
async fn content_is_compared_as_it_is_decoded() {
    let stand = Stand::new().await;
    let ask = async |parts: &[(&'static str, &'static str)]| {
        let form = reqwest::multipart::Form::new();
        let form = parts.iter().fold(form, |form, (name, text)| form.text(*name, *text));
        let request = stand.request("POST", "/v1/videos").multipart(form);
        send(request.header("idempotency-key", "k")).await
    };
    let first = ask(&[("prompt", "x"), ("metadata[a]", "b")]).await;
    assert_eq!(first.status, 200);
    for alike in [
        &[("prompt", "x"), ("metadata", r#"{"a":"b"}"#)][..],
        &[("metadata", r#"{ "a": "b" }"#), ("prompt", "x")],
        &[("prompt", "x"), ("metadata[a]", "b"), ("seed", "null")],
    ] {
        let again = ask(alike).await;
        assert_eq!((again.status, &again.bytes), (200, &first.bytes), "{alike:?}");
    }
    assert_eq!(ask(&[("prompt", "x"), ("metadata", r#"{"a":"c"}"#)]).await.status, 422);
}

/// 5.3: nothing runs, so a replay is no reason to refuse another, and what changed since is no matter of it.
#[tokio::test]
async fn replays_do_not_meet_each_other_nor_what_came_after_the_first_answer() {
    let stand = Stand::new().await;
    let body = r#"{"prompt":"a red ball","seconds":4}"#;
    let first = keyed(&stand, "k", body).await;
    stand.table.lock().unwrap().delay = Duration::from_millis(200);
    let many = futures::future::join_all((0..8).map(|_| keyed(&stand, "k", body))).await;
    for again in many {
        assert_eq!((again.status, &again.bytes), (200, &first.bytes));
    }
    assert_eq!(stand.table.lock().unwrap().submits, 1, "a replay is not submitted");
    // A farm that would take nothing any more.
    stand.table.lock().unwrap().refuse = Some(SubmitRefused::DeadlineInfeasible);
    assert_eq!(keyed(&stand, "k", body).await.bytes, first.bytes);
}

#[tokio::test]
async fn a_key_is_in_use_while_its_first_request_runs() {
    let stand = Stand::new().await;
    stand.table.lock().unwrap().delay = Duration::from_millis(400);
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        keyed(&stand, "k", BODY).await
    };
    let (first, second) = tokio::join!(keyed(&stand, "k", BODY), late);
    assert_eq!(first.status, 200);
    assert_eq!(second.code(), (409, Some("idempotency_key_in_use".to_owned())));
    assert_eq!(second.header("retry-after"), Some("1"));
    assert_eq!(second.header("x-should-retry"), None);
}

#[tokio::test]
async fn a_request_that_an_sdk_sends_again_finds_its_job() {
    let stand = Stand::new().await;
    let first = resent(&stand, 0, BODY).await;
    stand.advance(&first.id(), JobState::InProgress);
    let again = resent(&stand, 1, BODY).await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    // The object in its present state, not the first answer.
    assert_eq!((again.id(), again.json()["status"].as_str()), (first.id(), Some("in_progress")));
    // Requests with count 0 or without the header are never merged.
    assert_ne!(resent(&stand, 0, BODY).await.id(), first.id());
    assert_ne!(stand.create(BODY).await.id(), first.id());
    // Another content, another API key, another project: handled normally.
    assert_eq!(
        resent(&stand, 1, r#"{"prompt":"a cube"}"#).await.header("idempotent-replayed"),
        None
    );
    let other = stand.client.post(stand.url("/v1/videos")).bearer_auth(&stand.operator);
    let other = other.header("content-type", "application/json").body(BODY);
    let other = send(other.header("x-stainless-retry-count", "1")).await;
    assert_eq!((other.status, other.header("idempotent-replayed")), (200, None));
    assert_eq!(counted(&stand), ["sdk_resend"]);
}

/// The connection broke before the answer: the first request still ends, and the second one waits
/// for it.
#[tokio::test]
async fn a_resent_request_waits_for_the_one_that_its_caller_gave_up() {
    let stand = Stand::new().await;
    stand.table.lock().unwrap().delay = Duration::from_millis(400);
    let given_up = stand.post(BODY).header("x-stainless-retry-count", "0");
    let given_up = given_up.timeout(Duration::from_millis(100)).send().await;
    assert!(given_up.is_err());
    let again = resent(&stand, 1, BODY).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!((jobs(&stand), stand.table.lock().unwrap().submits), (1, 1));
}

/// A lost answer leaves no second key, token or verdict: every POST knows its key.
#[tokio::test]
async fn every_post_repeats_its_answer() {
    let stand = Stand::judging().await;
    for (path, body, other) in [
        ("/farm/keys", r#"{"name":"a"}"#, r#"{"name":"b"}"#),
        ("/farm/join_tokens", r#"{"uses":2}"#, r#"{"uses":3}"#),
        ("/v1/moderations", r#"{"input":"a red ball"}"#, r#"{"input":"a blue ball"}"#),
    ] {
        let post = |body: &'static str| {
            let request = stand.client.post(stand.url(path)).bearer_auth(&stand.operator);
            let request = request.header("content-type", "application/json").body(body);
            send(request.header("idempotency-key", "k"))
        };
        // A refused request leaves the key free.
        assert_eq!(post(r#"{"nonsense":1}"#).await.status, 400, "{path}");
        let first = post(body).await;
        let again = post(body).await;
        assert_eq!((first.status, again.status), (200, 200), "{path}");
        assert_eq!(first.header("idempotent-replayed"), None);
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!(again.header("content-type"), Some("application/json"));
        assert_eq!(first.bytes, again.bytes);
        let code = Some("idempotency_key_reused".to_owned());
        assert_eq!(post(other).await.code(), (422, code), "{path}");
    }
    let listed = stand.client.get(stand.url("/farm/keys")).bearer_auth(&stand.operator);
    let listed = send(listed).await.json();
    let named = listed["data"].as_array().unwrap().iter().filter(|row| row["name"] == "a");
    assert_eq!(named.count(), 1);
}

/// The door that knew the key is gone: what a caller cancelled before this one began is told again.
#[tokio::test]
async fn a_cancel_with_a_key_is_repeated_after_a_restart() {
    let stand = Stand::new().await;
    let ended = |number, why, ago: u64| {
        let id = stand.put(number, JobState::Failed(why));
        let mut table = stand.table.lock().unwrap();
        table.find(None, id.parse().unwrap()).unwrap().view.ended = Some(Millis(NOW.0 - ago));
        id
    };
    const HOUR: u64 = 3_600_000;
    let cancelled = FailWhy::Ended(EndWhy::Cancelled);
    for (id, key, status) in [
        (ended(1, cancelled, HOUR), true, 200),
        (ended(2, cancelled, HOUR), false, 409),
        (ended(3, cancelled, 25 * HOUR), true, 409),
        (ended(4, FailWhy::DeadlineExceeded, HOUR), true, 409),
        // This door saw its end, so it would know the key.
        (stand.put(5, JobState::Failed(cancelled)), true, 409),
    ] {
        let request = stand.request("POST", &format!("/v1/videos/{id}/cancel"));
        let request = if key { request.header("idempotency-key", "c") } else { request };
        let answer = send(request).await;
        assert_eq!(answer.status, status, "{id}");
        if status == 200 {
            assert_eq!(answer.id(), id);
            assert_eq!(answer.header("idempotent-replayed"), Some("true"));
        }
    }
}

#[tokio::test]
async fn a_cancel_with_a_key_repeats_its_answer() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::InProgress);
    let cancel = || {
        let request = stand.request("POST", &format!("/v1/videos/{id}/cancel"));
        send(request.header("idempotency-key", "c"))
    };
    let (first, again) = (cancel().await, cancel().await);
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!(first.bytes, again.bytes);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(counted(&stand), ["key"]);
}
