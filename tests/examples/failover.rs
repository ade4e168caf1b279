//! Measures a farm of two coordinators on a real etcd: `failover ROUNDS CLIENTS SECONDS LIVE`.
//!
//! First so many jobs of class `flex` are submitted that this number is live. A round kills the leader (`kill -9`) and takes the time until the standby has acknowledged a job; then the killed
//! one is started again. After the rounds, so many clients submit for so many seconds: durable submits a second.
//! One line of JSON. Called by `scripts/bench`; the programs must be built before.

#![allow(dead_code)] // The test's harness can do more.

#[path = "../tests/farm/cluster.rs"]
mod cluster;
#[path = "../tests/farm/harness.rs"]
mod harness;

use cluster::Cluster;
use std::time::{Duration, Instant};

#[tokio::main]
async fn main() {
    let words: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [rounds, clients, seconds, live] = words.as_slice() else {
        eprintln!("failover ROUNDS CLIENTS SECONDS LIVE");
        std::process::exit(2);
    };
    let mut cluster = Cluster::start(2, 500).await;
    let first = cluster.leader().await;
    fill(&cluster, first, *live).await;
    let mut took = Vec::new();
    let mut ids = Vec::new();
    for round in 0..*rounds {
        let old = cluster.leader().await;
        ids.push(cluster.submit(old, &format!("before kill {round}")).await);
        cluster.coordinators[old].process.kill();
        let began = Instant::now();
        ids.push(cluster.submit(1 - old, &format!("behind kill {round}")).await);
        took.push(began.elapsed().as_millis() as u64);
        cluster.go(old);
        harness::eventually(harness::PATIENCE, "the killed one stands by", async || {
            cluster.role(old).await.starts_with("ready: standby")
        })
        .await;
        cluster.workers_are_back(1 - old).await;
    }
    let leader = cluster.leader().await;
    let still_live = cluster.metric(leader, "zoetrope_jobs", &["class=\"flex\""]).await;
    for id in &ids {
        harness::eventually(harness::PATIENCE, "a job is completed", async || {
            cluster.get(leader, &format!("/v1/videos/{id}")).await["status"] == "completed"
        })
        .await;
    }
    let per_second = submits(&cluster, leader, *clients, Duration::from_secs(*seconds)).await;
    took.sort_unstable();
    println!(
        "{}",
        serde_json::json!({
            "rounds": rounds,
            "live_jobs": still_live,
            "jobs_acknowledged": ids.len(),
            "jobs_completed": ids.len(),
            "failover_ms": took,
            "failover_ms_median": took.get(took.len() / 2),
            "failover_ms_max": took.last(),
            "clients": clients,
            "durable_submits_per_second": per_second,
        })
    );
}

/// Submits so many jobs that wait behind all others.
async fn fill(cluster: &Cluster, leader: usize, jobs: u64) {
    const CLIENTS: u64 = 64;
    let client = async |n: u64| {
        let mut job = n;
        while job < jobs {
            let body = serde_json::json!({"prompt": "a red ball rolls left", "seconds": "4", "size": "160x288", "service_tier": "flex"});
            let key = format!("live {job}");
            let (status, said) = cluster.post(leader, "/v1/videos", &body, Some(&key)).await;
            assert!(matches!(status, 200 | 0 | 503), "{status}: {said}");
            if status == 200 {
                job += CLIENTS;
            }
        }
    };
    futures::future::join_all((0..CLIENTS).map(client)).await;
}

/// Each client sends its next job when the last one was acknowledged.
async fn submits(cluster: &Cluster, leader: usize, clients: u64, time: Duration) -> f64 {
    let began = Instant::now();
    let client = async |n: u64| {
        let mut made = 0u64;
        while began.elapsed() < time {
            let (status, _) = cluster.try_submit(leader, &format!("load {n} {made}")).await;
            if status != 200 {
                break;
            }
            made += 1;
        }
        made
    };
    let made: u64 = futures::future::join_all((0..clients).map(client)).await.into_iter().sum();
    made as f64 / began.elapsed().as_secs_f64()
}
