//! Promise: a full queue is answered, and many callers at once are durable at once.

use crate::{TestFarm, submission};
use std::time::Instant;
use zoetrope_coordinator::farm::{FarmMsg, SubmitRefused};
use zoetrope_protocol::id::{JobId, TenantId};
use zoetrope_protocol::moderation::Audience;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_the_tenant_and_then_everyone() {
    let farm = TestFarm::with(|config| {
        config.limits.jobs_of_tenant = 3;
        config.limits.jobs_of_farm = 5;
    })
    .await;
    let of = |job: u128, tenant| {
        let mut submission = submission(job);
        submission.spec.tenant = TenantId(tenant);
        submission
    };
    for job in 1..=3 {
        farm.submit(of(job, 1)).await.expect("admitted");
    }
    let refused = farm.submit(of(4, 1)).await;
    assert!(matches!(refused, Err(SubmitRefused::TenantQueueFull { .. })), "{refused:?}");
    farm.submit(of(5, 2)).await.expect("another tenant has room");
    farm.submit(of(6, 2)).await.expect("another tenant has room");
    let refused = farm.submit(of(7, 3)).await;
    assert!(matches!(refused, Err(SubmitRefused::FarmQueueFull { .. })), "{refused:?}");
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sync_carries_many_submits() {
    let submits: u128 =
        std::env::var("ZOETROPE_SUBMITS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000);
    let farm = TestFarm::with(|config| config.limits.jobs_of_tenant = 100_000).await;
    let began = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for caller in 0..64 {
        let handle = farm.farm();
        running.spawn(async move {
            let mut slowest = std::time::Duration::ZERO;
            for job in (caller + 1..=submits).step_by(64) {
                let asked = Instant::now();
                let mut submission = submission(job);
                submission.spec.tenant = TenantId(1 + caller as u32 % 16);
                let submit = |reply| FarmMsg::Submit(Box::new(submission), Audience::Adult, reply);
                let view = handle.ask(submit).await.expect("answers").expect("admitted");
                assert_eq!(view.job, JobId(job));
                slowest = slowest.max(asked.elapsed());
            }
            slowest
        });
    }
    let slowest = running.join_all().await.into_iter().max().unwrap_or_default();
    let took = began.elapsed();
    let syncs = farm.metric("zoetrope_journal_sync_duration_seconds_count ");
    let rate = submits as f64 / took.as_secs_f64();
    eprintln!(
        "{submits} durable submits in {took:?}: {rate:.0}/s, {syncs} syncs, slowest {slowest:?}"
    );
    assert!(syncs < submits as f64 / 4.0, "{syncs} syncs are no group commit");
    let began = Instant::now();
    let farm = farm.restart().await;
    assert_eq!(farm.observe().await.unfinished, submits as u64);
    eprintln!("restarted with {submits} live jobs in {:?}", began.elapsed());
    farm.running.stop().await;
}
