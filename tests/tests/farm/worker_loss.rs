//! Promise: a killed worker loses at most the step in hand; every job is published once.

use crate::harness::{Engine, Farm, PATIENCE, eventually, signal};
use std::collections::BTreeSet;

const JOBS: usize = 20;

#[tokio::test]
async fn twenty_jobs_survive_the_kill_of_a_worker() {
    let farm = Farm::start(Engine::Emulated { step_ms: 150 }, 2).await;
    let mut ids = Vec::new();
    for n in 0..JOBS {
        ids.push(farm.submit(&format!("ball number {n}")).await);
    }
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), JOBS);
    eventually(PATIENCE, "some jobs are done", async || completed(&farm).await >= 3.0).await;
    signal("KILL", farm.worker_pid("cpu0"));
    for id in &ids {
        let done = farm.ended(id, PATIENCE).await;
        assert_eq!(done["status"], "completed", "{done}");
        assert!(!farm.content(id, "video").await.is_empty());
    }
    assert_eq!(completed(&farm).await, JOBS as f64);
    assert_eq!(farm.metric("zoetrope_jobs_failed_total", &[]).await, 0.0);
    let lost = farm.metric("zoetrope_attempts_total", &["cause=\"worker_lost\""]).await;
    assert!(lost >= 1.0, "the kill met no attempt: it showed nothing");
}

async fn completed(farm: &Farm) -> f64 {
    farm.metric("zoetrope_jobs_finished_total", &["fault=\"none\""]).await
}

/// The render goes on from its last saved step: after the kill no step is seen that was saved before.
#[tokio::test]
async fn a_killed_render_goes_on_from_its_last_saved_step() {
    let farm = Farm::start(Engine::Emulated { step_ms: 1_500 }, 1).await;
    let id = farm.submit("a ball").await;
    eventually(PATIENCE, "two of four steps are done", async || steps_done(&farm).await == Some(2))
        .await;
    let killed = farm.worker_pid("cpu0");
    signal("KILL", killed);
    let mut seen = Vec::new();
    eventually(PATIENCE, "the job has ended", async || {
        seen.extend(steps_done(&farm).await.filter(|_| farm.worker_pid("cpu0") != killed));
        farm.video(&id).await["status"] == "completed"
    })
    .await;
    assert!(seen.contains(&2), "the second worker began with step 3: {seen:?}");
    assert!(seen.iter().all(|step| *step >= 2), "saved steps were done again: {seen:?}");
}

/// Denoising steps that the only worker has done of its shard.
async fn steps_done(farm: &Farm) -> Option<u32> {
    let workers = farm.get("/farm/workers").await;
    let told = workers["data"][0]["progress"].as_str()?.strip_prefix("denoising ")?.to_owned();
    told.split('/').next()?.parse().ok()
}
