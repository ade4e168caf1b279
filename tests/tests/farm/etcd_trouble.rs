//! Promise: whatever happens to etcd, the farm loses nothing it acknowledged. It stops acknowledging, says so with
//! 503 and `retry-after`, keeps its renders running, and goes on by itself.

use crate::cluster::Cluster;
use crate::harness::{PATIENCE, eventually};
use std::time::Duration;

/// Until a submit is refused with a 503.
async fn refused(cluster: &Cluster, via: usize) -> String {
    let key = format!("while etcd is away {via}");
    eventually(PATIENCE, "a submit is refused", async || {
        cluster.try_submit(via, &key).await.0 == 503
    })
    .await;
    key
}

#[tokio::test]
async fn etcd_stands_still_for_ten_seconds_and_is_killed_and_comes_back() {
    let mut cluster = Cluster::start(2, 1_000).await;
    let leader = cluster.leader().await;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(cluster.submit(leader, &format!("standing still {n}")).await);
    }
    cluster.etcd.process().signal("STOP");
    let stopped = std::time::Instant::now();
    let key = refused(&cluster, leader).await;
    tokio::time::sleep(Duration::from_secs(10).saturating_sub(stopped.elapsed())).await;
    cluster.etcd.process().signal("CONT");
    // The same request again: whether it was written before or not, it is one job.
    ids.push(cluster.submit(leader, &key).await);
    let now = cluster.leader().await;
    cluster.workers_are_back(now).await;
    cluster.etcd.process().kill();
    let other = refused(&cluster, now).await + " again";
    cluster.etcd.go();
    ids.push(cluster.submit(now, &other).await);
    let now = cluster.leader().await;
    cluster.all_completed(now, &ids).await;
    let lost = cluster.metric(now, "zoetrope_attempts_total", &["cause=\"worker_lost\""]).await;
    assert_eq!(lost, 0.0, "no render was given up");
}

#[tokio::test]
async fn a_full_etcd_refuses_jobs_until_there_is_room_again() {
    let cluster = Cluster::with(1, 200, 20 << 20).await;
    let mut ids = vec![cluster.submit(0, "before it is full").await];
    // Somebody else fills the quota.
    let filling = vec![b'x'; 1 << 20];
    for n in 0..40 {
        cluster.etcd.ctl_with(&["put", &format!("ballast/{n}")], &filling);
        if cluster.etcd.ctl(&["alarm", "list"]).contains("NOSPACE") {
            break;
        }
    }
    assert!(cluster.etcd.ctl(&["alarm", "list"]).contains("NOSPACE"), "etcd is full");
    let key = refused(&cluster, 0).await;
    cluster.etcd.ctl(&["del", "--prefix", "ballast/"]);
    let status = cluster.etcd.ctl(&["endpoint", "status", "--write-out", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    cluster.etcd.ctl(&["compact", &revision]);
    cluster.etcd.ctl(&["defrag"]);
    cluster.etcd.ctl(&["alarm", "disarm"]);
    ids.push(cluster.submit(0, &key).await);
    cluster.all_completed(0, &ids).await;
    eventually(PATIENCE, "etcd's size is known", async || {
        cluster.metric(0, "zoetrope_etcd_database_bytes", &[]).await > 0.0
    })
    .await;
}

#[tokio::test]
async fn an_etcd_that_lost_its_data_is_not_taken_for_a_new_farm() {
    let mut cluster = Cluster::start(1, 200).await;
    let id = cluster.submit(0, "before the loss").await;
    cluster.all_completed(0, &[id]).await;
    cluster.etcd.ctl(&["del", "--prefix", "zoetrope/"]);
    let began = std::time::Instant::now();
    while !cluster.coordinators[0].process.has_ended() {
        assert!(began.elapsed() < PATIENCE, "it goes on:\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let said = cluster.logs();
    assert!(said.contains("etcd holds no farm") && said.contains("restore etcd"), "{said}");
}
