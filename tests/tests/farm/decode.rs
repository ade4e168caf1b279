//! Promise: the decode of one clip is shared by several workers, and finished by another, and the clip is that of one, bit
//! for bit.

use crate::harness::{Engine, Farm, PATIENCE, eventually, signal};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;

const ENGINE: Engine = Engine::Painted { step_ms: 50, chunk_ms: 400 };

async fn submit(farm: &Farm) -> String {
    let body = json!({
        "prompt": "a ball for many", "seconds": "4", "size": "160x288", "seed": 7,
        "num_inference_steps": 2,
    });
    let (status, video) = farm.post("/v1/videos", &body).await;
    assert_eq!(status, 200, "{video}");
    video["id"].as_str().expect("an id").to_owned()
}

/// The decode shards that run: the node and the shard.
async fn decoding(farm: &Farm) -> BTreeSet<(String, String)> {
    let workers = farm.get("/farm/workers").await;
    let rows = workers["data"].as_array().cloned().unwrap_or_default();
    let word = |row: &Value, key: &str| Some(row[key].as_str()?.to_owned());
    let running = rows.iter().filter_map(|row| Some((word(row, "node")?, word(row, "running")?)));
    running.filter(|(_, shard)| shard.contains("/decode/")).collect()
}

/// Digests of the encoded pictures and sounds: what is in the file besides says when it was made and signed.
async fn streams(farm: &Farm, id: &str) -> String {
    let file = farm.scratch("clip.mp4");
    std::fs::write(&file, farm.content(id, "video").await).expect("writes");
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(&file)
        .args(["-map", "0", "-c", "copy", "-f", "streamhash", "-"])
        .output()
        .expect("ffmpeg runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(",v,") && text.contains(",a,"), "{text}");
    text
}

async fn decoded(farm: &Farm, cause: &str) -> f64 {
    let cause = format!("cause=\"{cause}\"");
    farm.metric("zoetrope_attempts_total", &["stage=\"decode\"", &cause]).await
}

#[tokio::test]
async fn a_clip_that_several_workers_decode_is_that_of_one() {
    let alone = Farm::start(ENGINE, 1).await;
    let mut expected = Vec::new();
    for _ in 0..2 {
        let id = submit(&alone).await;
        let done = alone.ended(&id, PATIENCE).await;
        assert_eq!(done["status"], "completed", "{done}");
        expected.push(streams(&alone, &id).await);
    }
    assert_eq!(decoded(&alone, "none").await, 0.0, "by itself a farm decodes as it finishes");
    assert_ne!(expected[0], expected[1], "each clip has a mark of its own");

    let farm = Farm::start_like(&alone, ENGINE, 3, &["--decode-chunks", "2"]).await;
    drop(alone);
    let id = submit(&farm).await;
    let mut seen = BTreeSet::new();
    eventually(PATIENCE, "three workers decode it at once", async || {
        seen = decoding(&farm).await;
        seen.len() == 3
    })
    .await;
    let shards: BTreeSet<_> = seen.iter().map(|(_, shard)| shard).collect();
    assert_eq!(shards.len(), 3, "{seen:?}");
    let done = farm.ended(&id, PATIENCE).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(decoded(&farm, "none").await, 3.0);
    assert_eq!(streams(&farm, &id).await, expected[0]);

    // A worker dies over its shard: another makes what is missing of it, and nothing else is done twice.
    let id = submit(&farm).await;
    eventually(PATIENCE, "it is decoded again", async || decoding(&farm).await.len() == 3).await;
    let (node, _) = decoding(&farm).await.pop_first().expect("one decodes");
    signal("KILL", farm.worker_pid(&node));
    let done = farm.ended(&id, PATIENCE).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(decoded(&farm, "worker_lost").await, 1.0);
    assert_eq!(decoded(&farm, "none").await, 6.0);
    assert_eq!(streams(&farm, &id).await, expected[1]);
}

/// What was done of a job: stage, node, and when it began and ended.
async fn attempts(farm: &Farm, id: &str) -> Vec<(String, String, u64, u64)> {
    let history = farm.get(&format!("/farm/jobs/{id}")).await;
    let all = history["attempts"].as_array().cloned().unwrap_or_default();
    let word = |row: &Value, key: &str| row[key].as_str().expect("a word").to_owned();
    let time = |row: &Value, key: &str| row[key].as_u64().expect("a time");
    let told = |row: &Value| {
        (word(row, "stage"), word(row, "node"), time(row, "began_at_ms"), time(row, "ended_at_ms"))
    };
    all.iter().map(told).collect()
}

/// Promise: beside finishers a worker that renders waits for no encoder, judge or signature: it goes on with the next clip.
#[tokio::test]
async fn clips_are_finished_beside_the_workers_that_render() {
    let alone = Farm::start(Engine::Toybox, 1).await;
    let id = submit(&alone).await;
    let done = alone.ended(&id, PATIENCE).await;
    assert_eq!(done["status"], "completed", "{done}");
    let expected = streams(&alone, &id).await;

    let farm = Farm::start_like(&alone, Engine::Toybox, 1, &["--finishers", "1"]).await;
    drop(alone);
    let first = submit(&farm).await;
    // Of two that wait none is the first to be marked.
    eventually(PATIENCE, "it is rendered", async || {
        let history = farm.get(&format!("/farm/jobs/{first}")).await;
        history["attempts"].as_array().is_some_and(|attempts| !attempts.is_empty())
    })
    .await;
    let second = submit(&farm).await;
    for id in [&first, &second] {
        let done = farm.ended(id, PATIENCE).await;
        assert_eq!(done["status"], "completed", "{done}");
        let at: Vec<_> = attempts(&farm, id).await.into_iter().map(|(s, n, ..)| (s, n)).collect();
        let expected = ["encode", "denoise", "decode", "finish"]
            .map(|stage| (stage, if stage == "finish" { "finish0" } else { "cpu0" }))
            .map(|(stage, node)| (stage.to_owned(), node.to_owned()));
        assert_eq!(at, expected);
    }
    assert_eq!(streams(&farm, &first).await, expected, "the clip that one worker makes");
    let (before, after) = (attempts(&farm, &first).await, attempts(&farm, &second).await);
    let (finished, began) = (before[3].3, after[1].2);
    assert!(
        began < finished,
        "denoised from {began}, while the clip before was done at {finished}"
    );
}
