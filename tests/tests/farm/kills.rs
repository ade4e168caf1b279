//! Promise: a worker may be killed at any moment, or sleep past its end. The chain of artifacts is the same, byte
//! for byte; no more than the step in hand is done again; one clip is published.
//!
//! `scripts/chaos kills` does the same twenty times and more, and hundreds of times under load.

use crate::harness::{Engine, Farm, PATIENCE, eventually, signal};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Where the moments of the kills come from.
const SEED: u64 = 20_260_731;
const KILLS: u64 = 3;
const STEPS: u64 = 8;

/// A number in 0..`below` that looks random and is the same in every run (SplitMix64).
fn drawn(n: u64, below: u64) -> u64 {
    let mut z = SEED.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % below.max(1)
}

async fn submit(farm: &Farm) -> String {
    let body = json!({
        "prompt": "a large red rubber ball bounces on grass in daylight",
        "seconds": "4", "size": "160x288", "seed": 7, "num_inference_steps": STEPS,
    });
    let (status, video) = farm.post("/v1/videos", &body).await;
    assert_eq!(status, 200, "{video}");
    video["id"].as_str().expect("an id").to_owned()
}

/// The digests of a job's prompt and latents, by role and number of steps. Each link was made once, and every
/// attempt began where the newest link was: what is checked of each interrupted render.
async fn chain(farm: &Farm, id: &str) -> BTreeMap<(String, u64), String> {
    let job = farm.get(&format!("/farm/jobs/{id}")).await;
    let list = |name: &str| job[name].as_array().cloned().expect("a list");
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let mut links = BTreeMap::new();
    for artifact in list("artifacts") {
        let role = artifact["role"].as_str().expect("a role").to_owned();
        if role == "prompt" || role == "latents" {
            let digest = artifact["sha256"].as_str().expect("a digest").to_owned();
            let known = links.insert((role, number(&artifact["number"])), digest);
            assert_eq!(known, None, "a link was made twice: {job}");
        }
    }
    for attempt in list("attempts").iter().filter(|attempt| attempt["stage"] == "denoise") {
        let before = |artifact: &&Value| {
            artifact["role"] == "latents"
                && number(&artifact["attempt"]) < number(&attempt["attempt"])
                // A re-attached attempt has a newer number than what it stored before, and began before that.
                && number(&artifact["stored_at_ms"]) <= number(&attempt["began_at_ms"])
        };
        let made = list("artifacts");
        let newest = made.iter().filter(before).map(|a| number(&a["number"])).max().unwrap_or(0);
        assert_eq!(number(&attempt["from_step"]), newest, "a stored step was done again: {job}");
    }
    // The pictures and the record of a clip are stored while it is signed; who finishes it again makes the same ones.
    let finishes = list("attempts").iter().filter(|attempt| attempt["stage"] == "finish").count();
    let again = 3 * finishes.saturating_sub(1) as u64;
    assert!(number(&job["artifacts_ignored"]) <= again, "something was made twice: {job}");
    links
}

/// The job is completed, and its bytes are the published ones.
async fn published(farm: &Farm, id: &str) -> Value {
    let video = farm.ended(id, PATIENCE).await;
    assert_eq!(video["status"], "completed", "{video}");
    let clip = farm.content(id, "video").await;
    assert_eq!(video["assets"]["video"]["sha256"], hex::encode(Sha256::digest(&clip)), "{video}");
    video["assets"].clone()
}

#[tokio::test]
async fn a_clip_whose_worker_is_killed_has_the_latents_of_an_undisturbed_one() {
    let farm = Farm::start(Engine::Toybox, 1).await;
    // The first one loads the weights; the second one says how long a render takes.
    let quiet = submit(&farm).await;
    published(&farm, &quiet).await;
    let links = chain(&farm, &quiet).await;
    assert_eq!(links.len() as u64, 1 + STEPS, "{links:?}");
    let began = Instant::now();
    let timed = submit(&farm).await;
    published(&farm, &timed).await;
    let whole_ms = began.elapsed().as_millis() as u64;
    assert_eq!(chain(&farm, &timed).await, links, "two quiet renders differ");
    for kill in 0..KILLS {
        let id = submit(&farm).await;
        let after_ms = drawn(kill, whole_ms);
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        let pid = farm.worker_pid("cpu0");
        signal("KILL", pid);
        published(&farm, &id).await;
        eprintln!("killed {after_ms} ms into a render of {whole_ms} ms");
        assert_eq!(chain(&farm, &id).await, links, "killed {after_ms} ms into the render");
        // Also where the kill came after the last byte: then it is started again a moment later.
        eventually(PATIENCE, "another process serves", async || farm.worker_pid("cpu0") != pid)
            .await;
    }
    let finished = farm.metric("zoetrope_jobs_finished_total", &["fault=\"none\""]).await;
    assert_eq!(finished, (KILLS + 2) as f64, "each job is published once");
}

/// A worker that stands still past its loss and wakes up again finds its render done elsewhere: it corrupts nothing,
/// doubles nothing, and is of use again.
#[tokio::test]
async fn a_worker_that_wakes_up_after_its_loss_changes_nothing() {
    let farm = Farm::start(Engine::Emulated { step_ms: 800 }, 2).await;
    let id = submit(&farm).await;
    let mut node = String::new();
    eventually(PATIENCE, "some steps are done", async || {
        let workers = farm.get("/farm/workers").await;
        let rows = workers["data"].as_array().cloned().unwrap_or_default();
        let busy = rows.iter().find(|row| {
            let progress =
                row["progress"].as_str().and_then(|said| said.strip_prefix("denoising "));
            // A moment in which one number is shown may be missed; all of them together last for seconds.
            progress.is_some_and(|steps| steps.starts_with(['2', '3', '4', '5', '6']))
        });
        node = busy.and_then(|row| row["node"].as_str()).unwrap_or_default().to_owned();
        !node.is_empty()
    })
    .await;
    let zombie = farm.worker_pid(&node);
    signal("STOP", zombie);
    let assets = published(&farm, &id).await;
    let before = farm.get(&format!("/farm/jobs/{id}")).await;
    signal("CONT", zombie);
    eventually(PATIENCE, "both workers are there again", async || {
        let workers = farm.get("/farm/workers").await;
        workers["data"].as_array().is_some_and(|rows| rows.len() == 2)
    })
    .await;
    assert_eq!(farm.worker_pid(&node), zombie, "the same process came back");
    // Both have work, so the sleeper has some too.
    let more = [submit(&farm).await, submit(&farm).await];
    for one in &more {
        published(&farm, one).await;
    }
    assert_eq!(published(&farm, &id).await, assets, "what was published stays");
    let after = farm.get(&format!("/farm/jobs/{id}")).await;
    for key in ["attempts", "artifacts", "artifacts_ignored"] {
        assert_eq!(after[key], before[key], "the sleeper added to the chain");
    }
    let links = chain(&farm, &id).await;
    for one in &more {
        assert_eq!(chain(&farm, one).await, links);
    }
    let lost = farm.metric("zoetrope_attempts_total", &["cause=\"worker_lost\""]).await;
    assert_eq!(lost, 1.0, "one attempt was lost, and another took its place");
    let finished = farm.metric("zoetrope_jobs_finished_total", &["fault=\"none\""]).await;
    assert_eq!(finished, 3.0, "each job is published once");
}
