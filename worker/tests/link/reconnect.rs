//! Promise: a lost link or a new leader costs no step: what runs goes on and is re-attached under its new
//! fence, and what nobody wants any more is dropped.

use crate::farm::{Encoded, Farm, Setup, held, order, outputs, times};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use zoetrope_protocol::job::{Cause, Role};
use zoetrope_protocol::wire::{CloseCode, FromWorker, Held, Kept, ToWorker};
use zoetrope_protocol::{AttemptNumber, Epoch, Fence, Stage};
use zoetrope_worker::link::LinkTimes;
use zoetrope_worker::link::transfer::Patience;

fn renewed(of: Held, epoch: u64) -> Kept {
    Kept { held: of, fence: Fence { epoch: Epoch(epoch), attempt: of.fence.attempt } }
}

#[tokio::test]
async fn a_running_attempt_is_re_attached() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let _worker = Setup::default().start(&farm, data.path()).await;
    let (mut peer, first, nothing) = farm.hello().await;
    assert!(nothing.is_empty());
    peer.welcome(1, vec![]).await;
    let prompt = outputs(peer.carry_out(order(Stage::Encode, vec![])).await.1);
    // The report of the encode may still be lost with the connection, so it is named again.
    let denoise = order(Stage::Denoise, prompt);
    let cut_off = peer.hold_at_checkpoint(&denoise).await;
    // The coordinator dies before it acknowledges step 1, and another leader takes over.
    peer.close(CloseCode::Stopping);

    let (mut peer, second, held_now) = farm.hello().await;
    assert_eq!((second.boot, &second.node), (first.boot, &first.node));
    assert!(second.session > first.session);
    assert!(held_now.contains(&held(&denoise)), "{held_now:?}");
    let kept = renewed(held(&denoise), 2);
    peer.welcome(2, vec![kept]).await;
    let now = Held { shard: denoise.shard, fence: kept.fence };
    let again = peer.started_and_artifact(now).await;
    assert_eq!((again.artifact, again.held), (cut_off.artifact, Some(now)));
    let (roles, end) = peer.until_over().await;
    assert_eq!(roles, [2, 3, 4].map(|step| Role::Latents { step }), "no step is made twice");
    match end {
        FromWorker::Finished { held, .. } => assert_eq!(held, now),
        other => panic!("{other:?}"),
    }
}

/// A coordinator that has just begun to lead shows what a render is at, however long its step takes.
#[tokio::test]
async fn what_an_attempt_does_is_told_to_each_coordinator() {
    let Encoded { farm, data: _data, worker: _worker, mut peer, prompt } =
        Setup::default().encoded().await;
    let denoise = order(Stage::Denoise, prompt);
    peer.acknowledges.store(false, Ordering::SeqCst);
    peer.say(ToWorker::Order(denoise.clone())).await;
    peer.until_step(1).await;
    peer.close(CloseCode::Stopping);
    let (mut peer, _, _) = farm.hello().await;
    peer.acknowledges.store(false, Ordering::SeqCst);
    peer.welcome(2, vec![renewed(held(&denoise), 2)]).await;
    peer.until_step(1).await;
}

/// Links that come up and are not welcomed help nobody: what waits for one is given up in time.
#[tokio::test]
async fn a_farm_that_never_says_welcome_is_out_of_reach() {
    let patience = Patience { offline: Duration::from_secs(2), ..times().patience };
    let setup = Setup { times: LinkTimes { patience, ..times() }, ..Setup::default() };
    let Encoded { farm, data: _data, worker: _worker, mut peer, prompt } = setup.encoded().await;
    let denoise = order(Stage::Denoise, prompt);
    peer.hold_at_checkpoint(&denoise).await;
    peer.close(CloseCode::Stopping);
    let since = Instant::now();
    let mut peer = loop {
        let (peer, _, _) = farm.hello().await;
        if since.elapsed() > Duration::from_secs(4) {
            break peer;
        }
        peer.close(CloseCode::Stopping);
    };
    peer.welcome(2, vec![renewed(held(&denoise), 2)]).await;
    loop {
        match peer.frame().await {
            FromWorker::Started(_) => {}
            FromWorker::Failed { cause: Cause::DependencyDown, .. } => break,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_report_that_may_be_lost_is_said_again() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let _worker = Setup::default().start(&farm, data.path()).await;
    let mut peer = farm.welcome(1).await;
    let encode = order(Stage::Encode, vec![]);
    let (_, end) = peer.carry_out(encode.clone()).await;
    peer.close(CloseCode::Stopping);
    let (mut peer, _, held_now) = farm.hello().await;
    assert_eq!(held_now, [held(&encode)]);
    let kept = renewed(held(&encode), 2);
    peer.welcome(2, vec![kept]).await;
    let now = Held { shard: encode.shard, fence: kept.fence };
    match (end, peer.frame().await) {
        (
            FromWorker::Finished { outputs: first, .. },
            FromWorker::Finished { outputs: second, held, .. },
        ) => assert_eq!((first, now), (second, held)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_not_kept_is_dropped_and_the_gpu_is_free() {
    let Encoded { farm, data: _data, worker: _worker, mut peer, prompt } =
        Setup::default().encoded().await;
    peer.hold_at_checkpoint(&order(Stage::Denoise, prompt)).await;
    peer.close(CloseCode::Stopping);
    let mut peer = farm.welcome(2).await;
    // The dropped attempt says nothing more; the next word is of the new order.
    let mut encode = order(Stage::Encode, vec![]);
    encode.fence = Fence { epoch: Epoch(2), attempt: AttemptNumber(9) };
    let (roles, end) = peer.carry_out(encode.clone()).await;
    assert_eq!(roles, [Role::Prompt]);
    assert!(matches!(end, FromWorker::Finished { held: of, .. } if of == held(&encode)));
}

#[tokio::test]
async fn a_leader_of_an_older_epoch_is_not_followed() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let _worker = Setup::default().start(&farm, data.path()).await;
    let mut peer = farm.welcome(5).await;
    let mut encode = order(Stage::Encode, vec![]);
    encode.fence.epoch = Epoch(5);
    // Carrying it out proves that the welcome was heard.
    assert!(matches!(peer.carry_out(encode.clone()).await.1, FromWorker::Finished { .. }));
    peer.close(CloseCode::Stopping);
    let mut old = farm.welcome(4).await;
    assert!(old.next().await.is_none(), "the worker hangs up");
    let mut new = farm.welcome(5).await;
    encode.fence.attempt = AttemptNumber(2);
    assert!(matches!(new.carry_out(encode).await.1, FromWorker::Finished { .. }));
}

#[tokio::test]
async fn a_silent_coordinator_is_dialled_again() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let _worker = Setup::default().start(&farm, data.path()).await;
    let mut peer = farm.welcome(1).await;
    peer.beats.store(false, Ordering::SeqCst);
    assert!(peer.next().await.is_none(), "the worker hangs up");
    let (_, identity, _) = farm.hello().await;
    assert_eq!(identity.session, 2);
}

/// Promise: a worker that stood still itself does not take the coordinator for silent.
#[tokio::test]
async fn a_worker_that_stood_still_keeps_its_link() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let _worker = Setup::default().start(&farm, data.path()).await;
    let mut peer = farm.welcome(1).await;
    let first = order(Stage::Encode, vec![]);
    assert!(matches!(peer.carry_out(first.clone()).await.1, FromWorker::Finished { .. }));
    // Both run on this thread: nothing is sent or heard for longer than a silence may take.
    std::thread::sleep(times().loss_after + times().loss_after / 2);
    let mut next = first;
    next.fence.attempt = AttemptNumber(2);
    assert!(matches!(peer.carry_out(next).await.1, FromWorker::Finished { .. }));
}

/// A newer attempt of the same shard on the same worker takes the place of the older one.
#[tokio::test]
async fn a_new_attempt_of_a_shard_replaces_the_old_one() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let _worker = Setup::default().start(&farm, data.path()).await;
    let mut peer = farm.welcome(1).await;
    let old = order(Stage::Encode, vec![]);
    peer.hold_at_checkpoint(&old).await;
    peer.acknowledges.store(true, Ordering::SeqCst);
    let mut new = old.clone();
    new.fence.attempt = AttemptNumber(2);
    let (_, end) = peer.carry_out(new.clone()).await;
    match end {
        FromWorker::Finished { held: of, .. } => assert_eq!(of, held(&new)),
        other => panic!("{other:?}"),
    }
}
