//! Promise: many clients at once get correct and fair service.

use crate::harness::{Engine, Farm, PATIENCE};
use futures::future::join_all;
use serde_json::{Value, json};
use std::time::Duration;

const CLIENTS: usize = 10;
const JOBS: usize = 3;

/// Ten projects with three jobs each, on two workers: nobody's first job waits for anybody's last.
#[tokio::test]
async fn ten_clients_are_served_fairly() {
    let farm = Farm::start(Engine::Emulated { step_ms: 40 }, 2).await;
    let mut keys = Vec::new();
    for n in 0..CLIENTS {
        let (status, key) = farm.post("/farm/keys", &json!({"name": format!("client {n}")})).await;
        assert_eq!(status, 200, "{key}");
        keys.push(key["key"].as_str().expect("the key's text").to_owned());
    }
    let clients = keys.iter().enumerate().map(|(n, key)| client(&farm, n, key));
    let ended: Vec<Vec<Value>> = join_all(clients).await;

    let at = |video: &Value| video["in_progress_at"].as_u64().expect("a start");
    let firsts = ended.iter().map(|jobs| jobs.iter().map(at).min().expect("a job"));
    let lasts = ended.iter().map(|jobs| jobs.iter().map(at).max().expect("a job"));
    let (latest_first, earliest_last) = (firsts.max(), lasts.min());
    // Seconds are whole, and clients do not begin at the same instant.
    assert!(latest_first <= earliest_last.map(|at| at + 2), "{latest_first:?} {earliest_last:?}");
}

async fn client(farm: &Farm, n: usize, key: &str) -> Vec<Value> {
    let http = reqwest::Client::new();
    let mut jobs = Vec::new();
    for job in 0..JOBS {
        let body =
            json!({"prompt": format!("client {n} job {job}"), "seconds": "4", "size": "160x288"});
        let made = http.post(format!("{}/v1/videos", farm.url)).bearer_auth(key).json(&body);
        let made: Value = made.send().await.expect("an answer").json().await.expect("JSON");
        jobs.push(made["id"].as_str().expect("an id").to_owned());
    }
    let list = http.get(format!("{}/v1/videos?limit=100", farm.url)).bearer_auth(key);
    let list: Value = list.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(list["data"].as_array().map(Vec::len), Some(JOBS), "own jobs, and no others");
    let mut ended = Vec::new();
    for id in &jobs {
        let began = std::time::Instant::now();
        loop {
            let one = http.get(format!("{}/v1/videos/{id}", farm.url)).bearer_auth(key);
            let one: Value = one.send().await.expect("an answer").json().await.expect("JSON");
            if one["status"] == "completed" {
                ended.push(one);
                break;
            }
            assert_ne!(one["status"], "failed", "{one}");
            assert!(began.elapsed() < PATIENCE, "{id} has not ended");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    ended
}

/// More connections than the door takes are answered late or refused, and the farm lives on.
#[tokio::test]
async fn a_flood_is_refused_politely() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 1).await;
    let asked = (0..400).map(|_| async {
        let answer = farm.request(reqwest::Method::GET, "/v1/videos?limit=1").send().await.ok()?;
        let retry = answer.headers().get("retry-after").is_some();
        Some((answer.status().as_u16(), retry))
    });
    for answer in join_all(asked).await {
        match answer.expect("an answer") {
            (200, _) | (429 | 503, true) => {}
            other => panic!("unexpected answer {other:?}"),
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let id = farm.submit("a ball after the flood").await;
    assert_eq!(farm.ended(&id, PATIENCE).await["status"], "completed");
}
