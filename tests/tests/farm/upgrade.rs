//! Promise: workers and coordinators change to another release one after the other, forth and back, under load: each
//! pair speaks what both know, renders go on, and nothing is lost.
//!
//! There is one program here; a side that is held at the older version of the link offers, says and takes what a
//! program of that version would.

use crate::cluster::Cluster;
use crate::harness::{PATIENCE, eventually};
use serde_json::json;
use zoetrope_protocol::version::LinkVersion;

const OLD: LinkVersion = LinkVersion::FIRST;
const NEW: LinkVersion = LinkVersion::NEWEST;
/// Four steps of this take long enough that a change falls into a render.
const STEP_MS: u64 = 1_500;

async fn denoising(cluster: &Cluster, leader: usize) {
    eventually(PATIENCE, "a render is in flight", async || {
        cluster.metric(leader, "zoetrope_shards", &["stage=\"denoise\"", "state=\"running\""]).await
            >= 1.0
    })
    .await;
}

/// Makes this coordinator lead.
async fn lead(cluster: &Cluster, n: usize) {
    let leader = cluster.leader().await;
    if leader != n {
        let (status, said) = cluster.post(leader, "/farm/leader/move", &json!({}), None).await;
        assert_eq!(status, 200, "{said}");
    }
    assert_eq!(cluster.leader_among(&[n]).await, n);
}

async fn linked(cluster: &Cluster, n: usize, version: LinkVersion) {
    eventually(PATIENCE, "workers are linked in that version", async || {
        cluster.said(n, &format!("link={version}"))
    })
    .await;
}

#[tokio::test]
async fn coordinators_and_workers_of_two_releases_work_together_in_both_directions() {
    let mut cluster = Cluster::start(2, STEP_MS).await;
    let mut ids = Vec::new();
    let first = cluster.leader().await;
    let second = 1 - first;
    linked(&cluster, first, NEW).await;
    assert!(!cluster.said(first, &format!("link={OLD}")), "nobody is held yet");

    // Workers of the release before, with coordinators of this one.
    ids.push(cluster.submit(first, "before old workers").await);
    denoising(&cluster, first).await;
    cluster.workers_at(OLD).await;
    linked(&cluster, first, OLD).await;
    // They cannot be told of all coordinators, and find the other one by what they were started with.
    eventually(PATIENCE, "the leader says that they are too old", async || {
        cluster.said(first, "too old to be told something")
    })
    .await;
    ids.push(cluster.submit(first, "old workers").await);
    denoising(&cluster, first).await;
    lead(&cluster, second).await;
    linked(&cluster, second, OLD).await;
    cluster.all_completed(second, &ids).await;

    // Workers of this release, with a coordinator of the one before: a change of coordinators that is taken back.
    cluster.workers_at(NEW).await;
    linked(&cluster, second, NEW).await;
    cluster.go_at(first, OLD);
    eventually(PATIENCE, "the old release stands by", async || {
        cluster.role(first).await.starts_with("ready: standby")
    })
    .await;
    ids.push(cluster.submit(second, "before the old leader").await);
    denoising(&cluster, second).await;
    let epoch = cluster.metric(second, "zoetrope_epoch", &[]).await;
    lead(&cluster, first).await;
    cluster.workers_are_back(first).await;
    ids.push(cluster.submit(first, "old leader").await);
    denoising(&cluster, first).await;

    // And forth again.
    lead(&cluster, second).await;
    cluster.workers_are_back(second).await;
    ids.push(cluster.submit(first, "new leader").await);
    cluster.all_completed(second, &ids).await;
    assert!(cluster.metric(second, "zoetrope_epoch", &[]).await > epoch, "two changes of leader");
    let lost = cluster.metric(second, "zoetrope_attempts_total", &["cause=\"worker_lost\""]).await;
    assert_eq!(lost, 0.0, "no render was given up");
}
