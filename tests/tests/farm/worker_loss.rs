//! Promise: a killed worker loses at most the step in hand; every job is published once.

use crate::harness::{Engine, Farm, eventually, signal};
use std::collections::BTreeSet;
use std::time::Duration;

const JOBS: usize = 20;
/// 20 jobs of 4 steps of 150 ms on two workers take some 8 s, and a lost worker is missed after 5 s.
const ALL_WITHIN: Duration = Duration::from_secs(180);

#[tokio::test]
async fn twenty_jobs_survive_the_kill_of_a_worker() {
    let farm = Farm::start(Engine::Emulated { step_ms: 150 }, 2).await;
    let mut ids = Vec::new();
    for n in 0..JOBS {
        ids.push(farm.submit(&format!("ball number {n}")).await);
    }
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), JOBS);
    eventually(ALL_WITHIN, "some jobs are done", async || {
        farm.metric("zoetrope_jobs_completed_total", &[]).await >= 3.0
    })
    .await;
    signal("KILL", farm.worker_pid("cpu0"));
    for id in &ids {
        let done = farm.ended(id, ALL_WITHIN).await;
        assert_eq!(done["status"], "completed", "{done}");
        assert!(!farm.content(id, "video").await.is_empty());
    }
    assert_eq!(farm.metric("zoetrope_jobs_completed_total", &[]).await, JOBS as f64);
    assert_eq!(farm.metric("zoetrope_jobs_failed_total", &[]).await, 0.0);
    assert!(farm.metric("zoetrope_workers_lost_total", &[]).await >= 1.0);
}

/// The render goes on from its last saved step: the second attempt makes fewer steps than the job has.
#[tokio::test]
async fn a_killed_render_goes_on_from_its_last_saved_step() {
    let farm = Farm::start(Engine::Emulated { step_ms: 1_500 }, 1).await;
    let id = farm.submit("a ball").await;
    // Two of four steps are done when the step counter says so; the latents of step 1 are stored by then.
    eventually(ALL_WITHIN, "two steps are done", async || {
        let jobs = farm.get("/farm/workers").await;
        jobs["data"][0]["progress"].as_str().is_some_and(|told| told.contains(" 2/"))
    })
    .await;
    signal("KILL", farm.worker_pid("cpu0"));
    let done = farm.ended(&id, ALL_WITHIN).await;
    assert_eq!(done["status"], "completed", "{done}");
    let log = farm.log_text();
    assert!(log.contains("resumes from step"), "no resume in the log");
}
