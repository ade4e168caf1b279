//! Promise: the decode of one clip is shared by several workers, and the clip is that of one, bit for bit.

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
