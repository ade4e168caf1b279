//! Promise: many clients at once get correct and fair service.

use crate::harness::{Engine, Farm, PATIENCE, eventually, now_ms};
use futures::future::join_all;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Clients that come while another one's flood waits.
const CLIENTS: usize = 9;
/// Jobs that the first one sends at once. Each costs a debug build seconds of a core until it is published.
const FLOOD: usize = 20;
/// `limits.connections` of a farm that was told nothing else.
const CONNECTIONS: usize = 1_024;
/// `limits.burst` of such a farm.
const BURST: usize = 200;

/// One project floods two workers, then nine others come with a job each: none of them waits for the flood.
#[tokio::test]
async fn who_comes_behind_a_flood_is_served_beside_it() {
    let farm = Farm::start(Engine::Emulated { step_ms: 100 }, 2).await;
    let mut keys = Vec::new();
    for n in 0..=CLIENTS {
        let (status, key) = farm.post("/farm/keys", &json!({"name": format!("client {n}")})).await;
        assert_eq!(status, 200, "{key}");
        keys.push(key["key"].as_str().expect("the key's text").to_owned());
    }
    let (flooder, others) = keys.split_first().expect("keys");
    let flood = submit(&farm, flooder, FLOOD).await;
    let arrived_ms = now_ms();
    let submits = others.iter().map(|key| submit(&farm, key, 1));
    let jobs = join_all(submits).await.concat();
    for id in jobs.iter().chain(&flood) {
        // As operators see it: it is another project's.
        let path = format!("/farm/jobs/{id}");
        eventually(PATIENCE, "a job is completed", async || {
            let video = farm.get(&path).await["video"].clone();
            assert_ne!(video["status"], "failed", "{video}");
            video["status"] == "completed"
        })
        .await;
    }

    let mut lasts = Vec::new();
    for id in &jobs {
        lasts.push(began_at_ms(&farm, id).await);
    }
    let last = lasts.into_iter().max().expect("a job");
    let (mut waited, mut beside) = (0, 0);
    for id in &flood {
        let began = began_at_ms(&farm, id).await;
        waited += usize::from(began > arrived_ms);
        beside += usize::from(began > arrived_ms && began < last);
    }
    assert!(waited >= FLOOD / 2, "only {waited} jobs of the flood waited: nothing was shown");
    // A tenth of the time is the flood's. First come first served would begin all of it before.
    assert!(
        beside <= waited / 2,
        "{beside} of {waited} waiting jobs began before the last of the others"
    );
}

/// When the first attempt of a job began.
async fn began_at_ms(farm: &Farm, id: &str) -> u64 {
    let job = farm.get(&format!("/farm/jobs/{id}")).await;
    let attempts = job["attempts"].as_array().expect("attempts");
    attempts.iter().filter_map(|one| one["began_at_ms"].as_u64()).min().expect("it began")
}

/// Submits so many short clips; sees these and no others. Their ids.
async fn submit(farm: &Farm, key: &str, jobs: usize) -> Vec<String> {
    let http = reqwest::Client::new();
    let mut ids = Vec::new();
    for job in 0..jobs {
        let body =
            json!({"prompt": format!("ball number {job}"), "seconds": "4", "size": "160x288"});
        let made = http.post(format!("{}/v1/videos", farm.url)).bearer_auth(key).json(&body);
        let made: Value = made.send().await.expect("an answer").json().await.expect("JSON");
        ids.push(made["id"].as_str().expect("an id").to_owned());
    }
    let list = http.get(format!("{}/v1/videos?limit=100", farm.url)).bearer_auth(key);
    let list: Value = list.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(list["data"].as_array().map(Vec::len), Some(jobs), "own jobs, and no others");
    ids
}

/// Connections that ask nothing make room for others, the oldest first, and nobody behind them notices.
#[tokio::test]
async fn connections_without_a_request_make_room() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 1).await;
    let address = farm.url.trim_start_matches("http://").to_owned();
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS + 100 {
        idle.push(TcpStream::connect(&address).await.expect("a connection"));
    }
    let mut byte = [0];
    let oldest = tokio::time::timeout(PATIENCE, idle[0].read(&mut byte)).await;
    assert!(matches!(oldest.expect("it is ended"), Ok(0) | Err(_)), "it was sent something");
    let answer = farm.request(reqwest::Method::GET, "/v1/videos?limit=1").send().await;
    assert_eq!(answer.expect("an answer").status(), 200);
    let newest = idle.last_mut().expect("connections").read(&mut byte);
    // Long enough to see an end that had come, far less than the door waits for a head.
    let newest = tokio::time::timeout(Duration::from_millis(100), newest).await;
    assert!(newest.is_err(), "the newest was ended: {newest:?}");
    drop(idle);
    let id = farm.submit("a ball after the flood").await;
    assert_eq!(farm.ended(&id, PATIENCE).await["status"], "completed");
}

/// More requests than a project may send are refused with the time after which to come again; others are served meanwhile,
/// and the project itself afterwards.
#[tokio::test]
async fn a_flood_is_refused_politely() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 1).await;
    let (_, made) = farm.post("/farm/keys", &json!({"name": "a flood"})).await;
    let key = made["key"].as_str().expect("the key's text").to_owned();
    let http = reqwest::Client::new();
    let url = format!("{}/v1/videos?limit=1", farm.url);
    let ask = || async {
        let answer = http.get(&url).bearer_auth(&key).send().await.expect("an answer");
        let retry = answer.headers().get("retry-after").cloned();
        let retry = retry.and_then(|text| text.to_str().ok()?.parse::<u64>().ok());
        let status = answer.status().as_u16();
        (status, retry, answer.json::<Value>().await.expect("JSON"))
    };
    let (mut served, mut refused) = (0, 0);
    // What a slow machine has not refused by then was no flood for it.
    for _ in 0..10 {
        for answer in join_all((0..3 * BURST).map(|_| ask())).await {
            match answer {
                (200, ..) => served += 1,
                (429 | 503, Some(1..=60), told) if told["error"]["message"].is_string() => {
                    refused += 1;
                }
                other => panic!("unexpected answer {other:?}"),
            }
        }
        let other = farm.request(reqwest::Method::GET, "/v1/videos?limit=1").send().await;
        assert_eq!(other.expect("an answer").status(), 200, "another project is served");
        if refused > 0 {
            break;
        }
    }
    assert!(served > 0 && refused > 0, "{served} answers, {refused} refusals");
    eventually(PATIENCE, "the project is served again", async || ask().await.0 == 200).await;
    let id = farm.submit("a ball after the flood").await;
    assert_eq!(farm.ended(&id, PATIENCE).await["status"], "completed");
}
