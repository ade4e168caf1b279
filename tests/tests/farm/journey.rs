//! Promise: a prompt becomes a clip with sound, made by the model that ships with the project.

use crate::harness::{Engine, Farm, PATIENCE, eventually, now_ms, probe};
use serde_json::json;
use std::process::Command;

#[tokio::test]
async fn a_prompt_becomes_a_clip_with_sound() {
    let farm = Farm::start(Engine::Toybox, 1).await;
    let id = farm.submit("a large red rubber ball bounces on grass in daylight").await;
    let first = farm.video(&id).await;
    assert!(matches!(first["status"].as_str(), Some("queued" | "in_progress")), "{first}");

    let done = farm.ended(&id, PATIENCE).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!((&done["progress"], &done["seed"]), (&json!(100), &json!(7)));
    assert_eq!((&done["size"], &done["seconds"]), (&json!("160x288"), &json!("4")));

    let clip = farm.scratch("clip.mp4");
    std::fs::write(&clip, farm.content(&id, "video").await).expect("the clip");
    let facts = probe(&clip);
    let stream = |kind: &str| {
        let streams = facts["streams"].as_array().expect("streams").clone();
        streams.into_iter().find(|stream| stream["codec_type"] == kind).expect(kind)
    };
    let (picture, sound) = (stream("video"), stream("audio"));
    assert_eq!((&picture["width"], &picture["height"]), (&json!(160), &json!(288)));
    assert_eq!(
        (&picture["nb_read_frames"], &picture["r_frame_rate"]),
        (&json!("96"), &json!("24/1"))
    );
    assert_eq!((&picture["codec_name"], &sound["codec_name"]), (&json!("h264"), &json!("aac")));
    assert_eq!(sound["channels"], 2);
    let seconds = |stream: &serde_json::Value| {
        stream["duration"].as_str().and_then(|text| text.parse::<f64>().ok()).expect("a duration")
    };
    let gap = (seconds(&picture) - seconds(&sound)).abs();
    assert!(gap <= 0.0213, "sound and picture differ by {gap} s");

    let loudest = Command::new("ffmpeg")
        .args(["-hide_banner", "-i"])
        .arg(&clip)
        .args(["-af", "volumedetect", "-vn", "-f", "null", "-"])
        .output()
        .expect("ffmpeg starts");
    let told = String::from_utf8_lossy(&loudest.stderr).into_owned();
    let peak = told.split("max_volume: ").nth(1).and_then(|rest| rest.split(' ').next());
    let peak: f64 = peak.and_then(|text| text.parse().ok()).expect("a loudness");
    assert!(peak > -80.0, "the clip is silent: {peak} dB");

    assert_eq!(&farm.content(&id, "thumbnail").await[8..12], b"WEBP");
    assert_eq!(&farm.content(&id, "spritesheet").await[..3], b"\xff\xd8\xff");

    let deleted = farm.request(reqwest::Method::DELETE, &format!("/v1/videos/{id}")).send().await;
    assert_eq!(deleted.expect("an answer").status(), 200);
    let gone = farm.request(reqwest::Method::GET, &format!("/v1/videos/{id}")).send().await;
    assert_eq!(gone.expect("an answer").status(), 404);
}

/// The same seed gives the same bytes, and part of a clip can be downloaded.
#[tokio::test]
async fn a_clip_can_be_read_in_parts() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 1).await;
    let id = farm.submit("a cube").await;
    assert_eq!(farm.ended(&id, PATIENCE).await["status"], "completed");
    let whole = farm.content(&id, "video").await;
    let path = format!("/v1/videos/{id}/content");
    let part = farm.request(reqwest::Method::GET, &path).header("range", "bytes=4-11");
    let part = part.send().await.expect("an answer");
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], format!("bytes 4-11/{}", whole.len()).as_str());
    assert_eq!(part.bytes().await.expect("bytes"), whole[4..12]);
    let beyond = farm.request(reqwest::Method::GET, &path).header("range", "bytes=99999999999-");
    assert_eq!(beyond.send().await.expect("an answer").status(), 416);
}

/// A cancelled job ends as failed with the code `cancelled`, once; its content is not to be had; and its worker is free one
/// step later.
#[tokio::test]
async fn a_cancelled_job_ends_and_frees_its_worker() {
    const STEP_MS: u64 = 5_000;
    /// What stopping, placing and starting may take on a busy machine. The steps that are left would take twice as long.
    const BUSY_MS: u64 = 10_000;
    let farm = Farm::start(Engine::Emulated { step_ms: STEP_MS }, 1).await;
    let body = json!({
        "prompt": "a cube", "seconds": "4", "size": "160x288", "num_inference_steps": 8,
    });
    let (status, video) = farm.post("/v1/videos", &body).await;
    assert_eq!(status, 200, "{video}");
    let id = video["id"].as_str().expect("an id").to_owned();
    let next = farm.submit("a ball").await;
    eventually(PATIENCE, "it denoises", async || {
        let workers = farm.get("/farm/workers").await;
        let progress = workers["data"][0]["progress"].as_str();
        progress.is_some_and(|said| said.starts_with("denoising ") && !said.contains(" 0/"))
    })
    .await;
    let cancelled_ms = now_ms();
    let (status, video) = farm.post(&format!("/v1/videos/{id}/cancel"), &json!({})).await;
    assert_eq!((status, &video["status"]), (200, &json!("failed")), "{video}");
    assert_eq!(video["error"]["code"], "cancelled");
    let (again, _) = farm.post(&format!("/v1/videos/{id}/cancel"), &json!({})).await;
    assert_eq!(again, 409);
    let content = farm.request(reqwest::Method::GET, &format!("/v1/videos/{id}/content"));
    assert_eq!(content.send().await.expect("an answer").status(), 404);
    assert_eq!(farm.ended(&next, PATIENCE).await["status"], "completed");
    let job = farm.get(&format!("/farm/jobs/{next}")).await;
    let began = job["attempts"].as_array().expect("attempts").iter();
    // Its prompt may have been encoded before.
    let began =
        began.filter(|one| one["stage"] == "denoise").filter_map(|one| one["began_at_ms"].as_u64());
    let began = began.min().expect("it denoised");
    assert!(began >= cancelled_ms, "the worker had room for both: nothing was shown: {job}");
    let after = began - cancelled_ms;
    assert!(after <= STEP_MS + BUSY_MS, "the worker was free {after} ms after the cancel: {job}");
}
