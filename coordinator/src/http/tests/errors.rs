//! The table of 1.6 as data: each row is sent, and status, code, type and message are compared.

use crate::http::testing::{Stand, send};
use serde_json::Value;
use zoetrope_sched::output::JobState;

/// Method, path, JSON body (empty: none), status, code, the whole message (empty: not compared),
/// param.
type Row =
    (&'static str, &'static str, &'static str, u16, &'static str, &'static str, &'static str);

const READY: &str = "/v1/videos/video_00000000000000000000000000000001";

const TABLE: &[Row] = &[
    (
        "POST",
        "/v1/videos",
        "{}",
        400,
        "missing_required_parameter",
        "Missing required parameter: 'prompt'.",
        "prompt",
    ),
    (
        "POST",
        "/v1/videos",
        r#"{"promt":"x"}"#,
        400,
        "unknown_parameter",
        "Unknown parameter: 'promt'.",
        "promt",
    ),
    (
        "POST",
        "/v1/videos",
        r#"{"prompt":"x","negative_prompt":"y"}"#,
        400,
        "unsupported_parameter",
        "",
        "negative_prompt",
    ),
    (
        "POST",
        "/v1/videos",
        r#"{"prompt":"x","input_reference":"https://x/y.png"}"#,
        400,
        "invalid_type",
        "Invalid type for 'input_reference': expected a file, but got a string instead.",
        "input_reference",
    ),
    (
        "POST",
        "/v1/videos",
        r#"{"prompt":"x","size":"640x360"}"#,
        400,
        "invalid_value",
        "Invalid value: '640x360'. Supported values are: '160x288', '288x160', '288x512', '512x288', \
         '720x1280', '1280x720', '1024x1792', and '1792x1024'.",
        "size",
    ),
    (
        "POST",
        "/v1/videos",
        r#"{"prompt":"x","deadline_at":1}"#,
        400,
        "deadline_infeasible",
        "",
        "deadline_at",
    ),
    (
        "POST",
        "/v1/videos",
        r#"{"prompt":"x","deadline_at":-5}"#,
        400,
        "deadline_infeasible",
        "",
        "deadline_at",
    ),
    ("POST", "/v1/videos", "{", 400, "", "", ""),
    ("GET", "/v1/videos/video_x", "", 404, "", "Video with id 'video_x' not found.", ""),
    ("DELETE", "/v1/videos/video_x", "", 404, "", "Video with id 'video_x' not found.", ""),
    ("POST", "/v1/videos/video_x/cancel", "", 404, "", "Video with id 'video_x' not found.", ""),
    ("GET", "/v1/videos/edits", "", 404, "", "Invalid URL (GET /v1/videos/edits)", ""),
    ("DELETE", "/v1/videos/feed", "", 404, "", "Invalid URL (DELETE /v1/videos/feed)", ""),
    ("GET", "/v1/videos/characters", "", 404, "", "Invalid URL (GET /v1/videos/characters)", ""),
    ("GET", "/v1/videos/characters/content", "", 404, "", "", ""),
    ("PUT", "/v1/videos/extensions", "", 404, "", "", ""),
    ("GET", "/v1/models/x", "", 404, "model_not_found", "The model 'x' does not exist.", ""),
    (
        "POST",
        "/v1/videos/video_00000000000000000000000000000002/cancel",
        "",
        409,
        "video_already_terminal",
        "",
        "",
    ),
    // What comes in later releases.
    ("POST", "/v1/videos/edits", "{}", 404, "", "Invalid URL (POST /v1/videos/edits)", ""),
    ("POST", "/v1/videos/extensions", "{}", 404, "", "", ""),
    ("POST", "/v1/videos/characters", "{}", 404, "", "", ""),
    ("POST", "/v1/videos/estimate", "{}", 404, "", "", ""),
    ("POST", "/v1/videos/video_x/remix", "{}", 404, "", "", ""),
    ("GET", "/v1/videos/video_x/events", "", 404, "", "", ""),
    ("GET", "/v1/videos/characters/char_1", "", 404, "", "", ""),
    ("POST", "/v1/files", "{}", 404, "", "", ""),
    ("POST", "/v1/batches", "{}", 404, "", "", ""),
    ("POST", "/v1/embeddings", "{}", 404, "", "", ""),
    ("GET", "/v1/webhook_endpoints", "", 404, "", "", ""),
    // Routes and methods.
    ("GET", "/v1/nothing", "", 404, "", "Invalid URL (GET /v1/nothing)", ""),
    ("GET", "/", "", 404, "", "", ""),
    ("GET", "/v1/videos/", "", 404, "", "", ""),
    ("PUT", "/v1/videos", "{}", 405, "", "", ""),
    ("POST", READY, "{}", 405, "", "", ""),
    ("DELETE", "/v1/models", "", 405, "", "", ""),
    ("GET", "/v1/videos/%ff", "", 400, "", "", ""),
];

#[tokio::test]
async fn every_row_of_the_table_holds() {
    let stand = Stand::new().await;
    stand.put(1, JobState::Queued);
    stand.put(2, JobState::Completed);
    for (method, path, body, status, code, message, param) in TABLE {
        let mut request = stand.request(method, path);
        if !body.is_empty() {
            request = request.header("content-type", "application/json").body(*body);
        }
        let answer = send(request).await;
        let told = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        assert_eq!(answer.code(), (*status, told(code)), "{method} {path} {body}");
        let error = answer.json()["error"].take();
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(
            error["param"].as_str().map(str::to_owned),
            told(param),
            "{method} {path} {body}"
        );
        if !message.is_empty() {
            assert_eq!(error["message"], *message);
        }
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.header("x-request-id").is_some());
    }
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones() {
    let stand = Stand::new().await;
    for (path, methods) in
        [("/v1/videos", "POST, GET, HEAD"), ("/v1/videos/video_x/cancel", "POST")]
    {
        let answer = send(stand.request("PUT", path)).await;
        assert_eq!(answer.header("allow"), Some(methods), "{path}");
    }
}

#[tokio::test]
async fn long_words_of_the_caller_are_not_sent_back_whole() {
    let stand = Stand::new().await;
    let answer = stand.get(&format!("/v1/{}", "x".repeat(5000))).await;
    assert!(answer.bytes.len() < 1000);
    let answer = stand.get(&format!("/v1/videos/{}", "x".repeat(5000))).await;
    assert!(answer.bytes.len() < 1000);
    let message = answer.json()["error"]["message"].clone();
    assert!(matches!(message, Value::String(_)));
    let long = "9".repeat(500_000);
    for body in [
        format!(r#"{{"prompt":"x","size":"{long}"}}"#),
        format!(r#"{{"prompt":"x","model":"{long}"}}"#),
        format!(r#"{{"prompt":"x","{long}":1}}"#),
        format!(r#"{{"prompt":"x","metadata":{{"{long}":1}}}}"#),
        format!(r#"{{"prompt":"x","expires_after":{{"{long}":1}}}}"#),
    ] {
        let answer = stand.create(&body).await;
        assert!(answer.status == 400 && answer.bytes.len() < 1500, "{body:.40}");
    }
}
