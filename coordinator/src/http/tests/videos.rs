//! Sections 1.1 and 1.3: create, retrieve, list, cancel, delete.

use crate::http::testing::{Stand, send};
use crate::jobs::{JobView, PhaseView, Publication};
use serde_json::{Value, json};
use zoetrope_protocol::job::Stage;
use zoetrope_protocol::wire::Phase;
use zoetrope_sched::output::JobState;

#[tokio::test]
async fn a_create_answers_with_a_queued_video_and_the_video_can_be_read() {
    let stand = Stand::new().await;
    let made = stand.create(r#"{"prompt":"a red ball","seconds":8,"size":"720x1280"}"#).await;
    assert_eq!(made.status, 200);
    let video = made.json();
    for (key, value) in [
        ("object", json!("video")),
        ("model", json!("sora-2")),
        ("status", json!("queued")),
        ("progress", json!(0)),
        ("completed_at", Value::Null),
        ("expires_at", Value::Null),
        ("prompt", json!("a red ball")),
        ("seconds", json!("8")),
        ("size", json!("720x1280")),
        ("render_size", json!("288x512")),
        ("remixed_from_video_id", Value::Null),
        ("error", Value::Null),
        ("characters", json!([])),
        ("queue_position", json!(3)),
        ("service_tier", json!("default")),
        ("warnings", json!([])),
        ("metadata", json!({})),
    ] {
        assert_eq!(video.get(key), Some(&value), "{key}");
    }
    let id = made.id();
    assert!(id.starts_with("video_"));
    assert_eq!(stand.get(&format!("/v1/videos/{id}")).await.json(), video);
}

#[tokio::test]
async fn seeds_are_new_for_each_job() {
    let stand = Stand::new().await;
    let body = r#"{"prompt":"ball"}"#;
    let seeds =
        [stand.create(body).await, stand.create(body).await].map(|a| a.json()["seed"].clone());
    assert_ne!(seeds[0], seeds[1]);
    assert!(seeds.iter().all(|seed| seed.as_u64().unwrap() < 1 << 53));
}

#[tokio::test]
async fn polling_is_paced_until_the_job_ends() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::Queued);
    let path = format!("/v1/videos/{id}");
    let wait = |answer: crate::http::testing::Answer| {
        answer.header("openai-poll-after-ms").map(|text| text.parse::<u64>().unwrap())
    };
    assert_eq!(wait(stand.get(&path).await), Some(3000));
    stand.advance(&id, JobState::InProgress);
    assert_eq!(wait(stand.get(&path).await), Some(3000));
    stand.table.lock().unwrap().jobs[0].view.estimated_completion = None;
    assert_eq!(wait(stand.get(&path).await), Some(1000));
    stand.advance(&id, JobState::Completed);
    assert_eq!(wait(stand.get(&path).await), None);
}

#[tokio::test]
async fn stages_follow_the_worker() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::InProgress);
    let shown = async |change: &dyn Fn(&mut JobView)| {
        change(&mut stand.table.lock().unwrap().jobs[0].view);
        stand.get(&format!("/v1/videos/{id}")).await.json()["stage"].clone()
    };
    for (stage, phase, word) in [
        (Stage::Encode, Phase::Loading, "encoding_prompt"),
        (Stage::Encode, Phase::Encoding, "encoding_prompt"),
        // Every shard sends what it made; nothing is published by that.
        (Stage::Encode, Phase::Sending, "encoding_prompt"),
        (Stage::Denoise, Phase::Loading, "denoising"),
        (Stage::Denoise, Phase::Denoising, "denoising"),
        (Stage::Denoise, Phase::Sending, "denoising"),
        (Stage::Decode, Phase::Decoding, "decoding"),
        (Stage::Decode, Phase::Sending, "decoding"),
        (Stage::Finish, Phase::Loading, "generating_audio"),
        (Stage::Finish, Phase::Sound, "generating_audio"),
        (Stage::Finish, Phase::Decoding, "decoding"),
        (Stage::Finish, Phase::Muxing, "muxing"),
        (Stage::Finish, Phase::Sending, "muxing"),
    ] {
        let now = PhaseView { stage, phase, done: 0, total: 1 };
        assert_eq!(shown(&|view| view.phase = Some(now)).await, word, "{now:?}");
    }
    let loading = PhaseView { stage: Stage::Finish, phase: Phase::Loading, done: 0, total: 1 };
    let silent = |view: &mut JobView| {
        view.phase = Some(loading);
        view.spec.render.audio = false;
    };
    assert_eq!(shown(&silent).await, "decoding", "what is silent has no sound to make first");
    let waits = |view: &mut JobView| view.phase = None;
    assert_eq!(shown(&waits).await, Value::Null, "for a worker");
    for (publication, word) in
        [(Publication::Moderating, "moderating_output"), (Publication::Publishing, "publishing")]
    {
        assert_eq!(shown(&|view| view.publication = Some(publication)).await, word);
    }
}

#[tokio::test]
async fn lists_are_paged_without_gaps_and_always_have_five_keys() {
    let stand = Stand::new().await;
    let ids: Vec<String> = (1..=7).map(|n| stand.put(n, JobState::Queued)).collect();
    for order in ["asc", "desc"] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = stand.get(&format!("/v1/videos?limit=3&order={order}{after}&what=x")).await;
            let page = page.json();
            let mut keys: Vec<&String> = page.as_object().unwrap().keys().collect();
            keys.sort();
            assert_eq!(keys, ["data", "first_id", "has_more", "last_id", "object"]);
            seen.extend(page["data"].as_array().unwrap().iter().map(|v| v["id"].clone()));
            assert_eq!(seen.last().unwrap(), &page["last_id"]);
            after = format!("&after={}", page["last_id"].as_str().unwrap());
            if page["has_more"] == false {
                break;
            }
        }
        let mut wanted = ids.clone();
        if order == "desc" {
            wanted.reverse();
        }
        assert_eq!(seen, wanted);
    }
    let empty = stand.get("/v1/videos?limit=0").await.json();
    assert_eq!(
        empty,
        json!({"object":"list","data":[],"first_id":null,"last_id":null,"has_more":false})
    );
    assert_eq!(stand.get("/v1/videos").await.json()["data"].as_array().unwrap().len(), 7);
}

#[tokio::test]
async fn what_a_list_cannot_do_is_named() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::Queued);
    for (query, param) in [
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=%2B5", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("order=up", "order"),
        ("after=video_1", "after"),
        ("after=video_00000000000000000000000000000009", "after"),
    ] {
        let answer = stand.get(&format!("/v1/videos?{query}")).await;
        assert_eq!(answer.code(), (400, Some("invalid_value".to_owned())), "{query}");
        assert_eq!(answer.json()["error"]["param"], param);
    }
    // A deleted video stays a cursor.
    assert_eq!(send(stand.request("DELETE", &format!("/v1/videos/{id}"))).await.status, 200);
    assert_eq!(stand.get(&format!("/v1/videos?after={id}")).await.status, 200);
}

#[tokio::test]
async fn another_project_sees_nothing() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::Completed);
    let stranger = |method: &str, path: String| {
        let method = method.parse::<reqwest::Method>().unwrap();
        send(stand.client.request(method, stand.url(&path)).bearer_auth(&stand.stranger))
    };
    for (method, path) in [
        ("GET", format!("/v1/videos/{id}")),
        ("DELETE", format!("/v1/videos/{id}")),
        ("GET", format!("/v1/videos/{id}/content")),
        ("POST", format!("/v1/videos/{id}/cancel")),
        ("GET", format!("/farm/jobs/{id}/why")),
    ] {
        let answer = stranger(method, path.clone()).await;
        assert_eq!(answer.code(), (404, None), "{method} {path}");
        let message = format!("Video with id '{id}' not found.");
        assert_eq!(answer.json()["error"]["message"], message);
    }
    assert_eq!(stranger("GET", "/v1/videos".to_owned()).await.json()["data"], json!([]));
}

#[tokio::test]
async fn delete_ends_all_requests_for_the_id() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::InProgress);
    let path = format!("/v1/videos/{id}");
    // The SDKs send this header without a body.
    let delete = stand.request("DELETE", &path).header("content-type", "application/json");
    let gone = send(delete).await;
    assert_eq!(gone.json(), json!({"id": id, "object": "video.deleted", "deleted": true}));
    assert_eq!(stand.get(&path).await.code(), (404, None));
    assert_eq!(send(stand.request("DELETE", &path)).await.code(), (404, None));
    assert_eq!(stand.get("/v1/videos").await.json()["data"], json!([]));
}

#[tokio::test]
async fn a_cancel_answers_with_the_end() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::InProgress);
    let path = format!("/v1/videos/{id}/cancel");
    let cancelled =
        send(stand.request("POST", &path).header("content-type", "application/json").body(""))
            .await;
    assert_eq!(cancelled.status, 200);
    let video = cancelled.json();
    assert_eq!(
        (&video["status"], &video["error"]["code"]),
        (&json!("failed"), &json!("cancelled"))
    );
    let again = send(stand.request("POST", &path)).await;
    assert_eq!(again.code(), (409, Some("video_already_terminal".to_owned())));
    assert_eq!(again.header("x-should-retry"), Some("false"));
    let extended =
        stand.request("GET", &format!("/v1/videos/{id}")).header("x-video-status-set", "extended");
    assert_eq!(send(extended).await.json()["status"], "cancelled");
    let odd = stand.request("POST", &path).header("content-type", "application/json");
    let odd = send(odd.body(r#"{"why":1}"#)).await;
    assert_eq!(odd.code(), (400, Some("unknown_parameter".to_owned())));
}

/// 5.5: who cancels while a cancel is being handled gets the same 200.
#[tokio::test]
async fn cancels_that_meet_have_one_answer() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::InProgress);
    stand.table.lock().unwrap().delay = std::time::Duration::from_millis(300);
    let path = format!("/v1/videos/{id}/cancel");
    let both =
        tokio::join!(send(stand.request("POST", &path)), send(stand.request("POST", &path)),);
    assert_eq!((both.0.status, both.1.status), (200, 200));
    assert_eq!(both.0.bytes, both.1.bytes);
    assert_eq!(stand.table.lock().unwrap().cancels, 1);
}

#[tokio::test]
async fn models_and_aliases_say_what_they_can() {
    let stand = Stand::new().await;
    let models = stand.get("/v1/models").await.json();
    let names: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["toybox", "sora-2", "sora-2-pro"]);
    let alias = stand.get("/v1/models/sora-2").await.json();
    let model = stand.get("/v1/models/toybox").await.json();
    assert_eq!(alias["alias_of"], "toybox");
    assert!(model.get("alias_of").is_none());
    assert_eq!(alias["capabilities"], model["capabilities"]);
    let upstream = json!(["720x1280", "1280x720", "1024x1792", "1792x1024"]);
    assert_eq!(model["capabilities"]["scaled_sizes"], upstream);
    let unknown = stand.get("/v1/models/gpt-9").await;
    assert_eq!(unknown.code(), (404, Some("model_not_found".to_owned())));
}

/// Promise: a project that may not have the class it asks for has the highest that it may, and is told.
#[tokio::test]
async fn a_class_above_what_a_project_may_have_is_lowered() {
    let stand = Stand::new().await;
    for (key, asked, has) in [
        (&stand.key, "priority", "priority"),
        (&stand.stranger, "priority", "default"),
        (&stand.stranger, "auto", "default"),
        (&stand.stranger, "flex", "flex"),
    ] {
        let body = format!(r#"{{"prompt":"ball","service_tier":"{asked}"}}"#);
        let request = stand.client.post(stand.url("/v1/videos")).bearer_auth(key);
        let answer = send(request.header("content-type", "application/json").body(body)).await;
        assert_eq!((answer.status, answer.json()["service_tier"].as_str()), (200, Some(has)));
    }
}
