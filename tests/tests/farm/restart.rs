//! Promise: a killed coordinator loses nothing. Renders in flight go on.

use crate::harness::{Engine, Farm, PATIENCE};

const JOBS: usize = 8;

#[tokio::test]
async fn nothing_is_lost_when_the_coordinator_is_killed() {
    let mut farm = Farm::start(Engine::Emulated { step_ms: 400 }, 2).await;
    let (before, key) = (farm.worker_pid("cpu0"), farm.key.clone());
    let mut ids = Vec::new();
    for n in 0..JOBS {
        ids.push(farm.submit(&format!("cube number {n}")).await);
    }
    farm.kill();
    farm.go().await;
    assert_eq!(farm.key, key, "the key of the first start still holds");
    assert_eq!(farm.worker_pid("cpu0"), before, "the worker went on, and was found again");
    for id in &ids {
        let done = farm.ended(id, PATIENCE).await;
        assert_eq!(done["status"], "completed", "{done}");
    }
    let list = farm.get("/v1/videos?limit=100").await;
    assert_eq!(list["data"].as_array().map(Vec::len), Some(JOBS), "each job is there once");
}

/// Killed again and again at odd moments, with jobs coming in between: what was acknowledged is there.
#[tokio::test]
async fn five_kills_in_a_row_lose_no_acknowledged_job() {
    let mut farm = Farm::start(Engine::Emulated { step_ms: 60 }, 1).await;
    let mut ids = Vec::new();
    for round in 0..5 {
        for n in 0..3 {
            ids.push(farm.submit(&format!("round {round} ball {n}")).await);
        }
        farm.kill();
        farm.go().await;
    }
    for id in &ids {
        let done = farm.ended(id, PATIENCE).await;
        assert_eq!(done["status"], "completed", "{done}");
    }
}
