//! Promise: a worker that is asked to leave finishes what it may, says so, and its last word is `Left`.

use crate::farm::{Encoded, Event, Farm, Setup, order, outputs, soon};
use zoetrope_protocol::job::{Cause, Role};
use zoetrope_protocol::wire::{CloseCode, DrainKind, FromWorker, Phase, ToWorker};
use zoetrope_protocol::{AttemptNumber, Stage};
use zoetrope_worker::exit::ExitCode;
use zoetrope_worker::gpu::GpuMsg;
use zoetrope_worker::root::RootMsg;

#[tokio::test]
async fn an_idle_worker_leaves_at_once() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let worker = Setup::default().start(&farm, data.path()).await;
    let mut peer = farm.welcome(1).await;
    // Its answer proves that the welcome was heard.
    peer.carry_out(order(Stage::Encode, vec![])).await;
    worker.root.cast(RootMsg::Signal).unwrap();
    assert!(matches!(peer.frame().await, FromWorker::Leaving { .. }));
    assert_eq!(peer.frame().await, FromWorker::Left);
    peer.close(CloseCode::Leaving);
    assert_eq!(soon("the end", worker.ended).await, Ok(ExitCode::Left));
}

#[tokio::test]
async fn a_drain_after_the_step_stores_it() {
    let Encoded { farm: _farm, data: _data, worker, mut peer, prompt } =
        Setup::slow().encoded().await;
    let mut denoise = order(Stage::Denoise, prompt);
    denoise.checkpoint_every = 3;
    peer.say(ToWorker::Order(denoise)).await;
    peer.until_step(1).await;
    peer.say(ToWorker::Drain(DrainKind::Step)).await;
    assert!(matches!(peer.frame().await, FromWorker::Leaving { .. }));
    let (roles, end) = peer.until_over().await;
    assert_eq!(roles, [Role::Latents { step: 2 }], "stored because it leaves");
    assert!(matches!(end, FromWorker::Failed { cause: Cause::Drained, .. }), "{end:?}");
    assert_eq!(peer.frame().await, FromWorker::Left);
    peer.close(CloseCode::Leaving);
    assert_eq!(soon("the end", worker.ended).await, Ok(ExitCode::Left));
}

#[tokio::test]
async fn a_drain_after_the_shard_finishes_it_and_takes_no_more() {
    let Encoded { farm: _farm, data: _data, worker, mut peer, prompt } =
        Setup::default().encoded().await;
    let mut denoise = order(Stage::Denoise, prompt);
    denoise.spec.steps = 20;
    let first = peer.hold_at_checkpoint(&denoise).await;
    peer.say(ToWorker::Drain(DrainKind::Shard)).await;
    assert!(matches!(peer.frame().await, FromWorker::Leaving { .. }));
    let mut late = order(Stage::Encode, vec![]);
    late.fence.attempt = AttemptNumber(2);
    peer.say(ToWorker::Order(late)).await;
    let refusal = peer.frame().await;
    assert!(matches!(refusal, FromWorker::Failed { cause: Cause::Refused, .. }), "{refusal:?}");
    peer.go_on(first).await;
    let (_, end) = peer.until_over().await;
    assert!(matches!(end, FromWorker::Finished { .. }), "{end:?}");
    assert_eq!(peer.frame().await, FromWorker::Left);
    peer.close(CloseCode::Leaving);
    assert_eq!(soon("the end", worker.ended).await, Ok(ExitCode::Left));
}

/// A second signal does not wait for the shard, and a third not for anything.
#[tokio::test]
async fn a_second_signal_is_immediate() {
    let Encoded { farm: _farm, data: _data, worker, mut peer, prompt } =
        Setup::default().encoded().await;
    let first = peer.hold_at_checkpoint(&order(Stage::Denoise, prompt)).await;
    worker.root.cast(RootMsg::Signal).unwrap();
    assert!(matches!(peer.frame().await, FromWorker::Leaving { .. }));
    worker.root.cast(RootMsg::Signal).unwrap();
    assert!(matches!(peer.frame().await, FromWorker::Leaving { .. }));
    // The stop is asked for at once; the gpu thread sees it at the boundary where it stands.
    let (_, gpu) = ractor::call_t!(worker.root, RootMsg::Parts, 5_000).unwrap();
    ractor::call_t!(gpu, GpuMsg::Observe, 5_000).unwrap();
    peer.go_on(first).await;
    let (roles, end) = peer.until_over().await;
    assert!(roles.is_empty(), "{roles:?}");
    assert!(matches!(end, FromWorker::Failed { cause: Cause::Drained, .. }), "{end:?}");
    assert_eq!(peer.frame().await, FromWorker::Left);
    peer.close(CloseCode::Leaving);
    assert_eq!(soon("the end", worker.ended).await, Ok(ExitCode::Left));
}

/// A decode that is told to stop after its last boundary has no last segment: that is no end of a shard.
#[tokio::test]
async fn a_decode_whose_last_segment_is_given_up_is_not_finished() {
    let setup = Setup { emulation: "decode_chunk_ms = 1500", ..Setup::default() };
    let Encoded { farm: _farm, data: _data, worker, mut peer, prompt } = setup.encoded().await;
    let latents = outputs(peer.carry_out(order(Stage::Denoise, prompt)).await.1);
    peer.say(ToWorker::Order(order(Stage::Decode, latents))).await;
    loop {
        match soon("the last chunk", peer.raw()).await {
            Some(Event::Frame(FromWorker::Progress {
                phase: Phase::Decoding,
                done,
                total,
                ..
            })) if done + 1 == total => break,
            Some(_) => {}
            None => panic!("the link is over"),
        }
    }
    worker.root.cast(RootMsg::Signal).unwrap();
    worker.root.cast(RootMsg::Signal).unwrap();
    let (_, gpu) = ractor::call_t!(worker.root, RootMsg::Parts, 5_000).unwrap();
    ractor::call_t!(gpu, GpuMsg::Observe, 5_000).unwrap();
    let end = loop {
        match peer.next().await {
            Some(Event::Frame(FromWorker::Leaving { .. }) | Event::Artifact(_)) => {}
            other => break other,
        }
    };
    let Some(Event::Frame(end)) = end else { panic!("{end:?}") };
    assert!(matches!(end, FromWorker::Failed { cause: Cause::Drained, .. }), "{end:?}");
}
