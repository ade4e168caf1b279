//! Promises: an attempt ends at its hard limit; a gpu thread that does not come back when it is told to stop ends the
//! process; a fault of the engine is told and the worker lives on.

use crate::farm::{Encoded, Farm, Setup, held, order, soon};
use std::time::Duration;
use zoetrope_protocol::job::Cause;
use zoetrope_protocol::wire::{FromWorker, StopWhen, ToWorker};
use zoetrope_protocol::{AttemptNumber, JobId, Millis, Stage};
use zoetrope_worker::exit::ExitCode;
use zoetrope_worker::root::RootMsg;

#[tokio::test]
async fn an_attempt_ends_at_its_hard_limit() {
    let Encoded { farm: _farm, data: _data, worker: _worker, mut peer, prompt } =
        Setup::encoded(Setup { emulation: "step_ms = 50", ..Setup::default() }).await;
    let mut denoise = order(Stage::Denoise, prompt);
    denoise.spec.steps = 200;
    denoise.hard_limit = Millis(100);
    let (_, end) = peer.carry_out(denoise).await;
    assert!(matches!(end, FromWorker::Failed { cause: Cause::Timeout, .. }), "{end:?}");
    let mut next = order(Stage::Encode, vec![]);
    next.fence.attempt = AttemptNumber(2);
    assert!(matches!(peer.carry_out(next).await.1, FromWorker::Finished { .. }));
}

/// Promise: loading weights is no work. It takes as long as the coordinator lets it, however short the hard limit and
/// whenever the thread would count as stuck, and no report contains it.
#[tokio::test]
async fn a_load_does_not_count_against_the_hard_limit() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let setup = Setup {
        emulation: "load_ms = 2000",
        stuck_after: Duration::from_millis(100),
        ..Setup::default()
    };
    let _worker = setup.start(&farm, data.path()).await;
    let mut peer = farm.welcome(1).await;
    let mut encode = order(Stage::Encode, vec![]);
    encode.hard_limit = Millis(900);
    match peer.carry_out(encode).await.1 {
        FromWorker::Finished { gpu, .. } => assert!(gpu < Millis(1_000), "{gpu:?}"),
        other => panic!("{other:?}"),
    }
}

/// A job that was cancelled while weights are loaded for it does not begin when they are there.
#[tokio::test]
async fn a_stop_while_weights_are_loaded_ends_an_encode() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let setup = Setup { emulation: "load_ms = 1500\nencode_ms = 60000", ..Setup::default() };
    let _worker = setup.start(&farm, data.path()).await;
    let mut peer = farm.welcome(1).await;
    let encode = order(Stage::Encode, vec![]);
    peer.say(ToWorker::Order(encode.clone())).await;
    assert!(matches!(peer.frame().await, FromWorker::Started(_)));
    peer.say(ToWorker::Stop { held: held(&encode), when: StopWhen::Now }).await;
    match tokio::time::timeout(Duration::from_secs(30), peer.until_over()).await {
        Ok((roles, FromWorker::Failed { cause: Cause::Ended, .. })) => assert!(roles.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stuck_gpu_thread_ends_the_process() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let setup = Setup {
        emulation: "encode_ms = 5000",
        stuck_after: Duration::from_millis(100),
        ..Setup::default()
    };
    let worker = setup.start(&farm, data.path()).await;
    let peer = farm.welcome(1).await;
    let mut encode = order(Stage::Encode, vec![]);
    encode.hard_limit = Millis(100);
    peer.say(ToWorker::Order(encode)).await;
    assert_eq!(soon("the end", worker.ended).await, Ok(ExitCode::GpuStuck));
}

/// A job that hangs or is cancelled while it hangs takes no other with it: what waits behind it goes back unharmed, no more is
/// taken, and the process ends long before the hard limit.
#[tokio::test]
async fn a_gpu_thread_that_does_not_come_back_from_a_stop_ends_the_process() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let setup = Setup {
        emulation: "encode_ms = 300000",
        stuck_after: Duration::from_millis(300),
        ..Setup::default()
    };
    let worker = setup.start(&farm, data.path()).await;
    let mut peer = farm.welcome(1).await;
    let mut encode = order(Stage::Encode, vec![]);
    encode.hard_limit = Millis(7_200_000);
    let mut next = encode.clone();
    next.shard.job = JobId(2);
    peer.say(ToWorker::Order(encode.clone())).await;
    assert!(matches!(peer.frame().await, FromWorker::Started(_)));
    peer.say(ToWorker::Order(next.clone())).await;
    peer.say(ToWorker::Stop { held: held(&encode), when: StopWhen::Now }).await;
    assert!(matches!(peer.frame().await, FromWorker::Leaving { .. }));
    let mut ends = Vec::new();
    for _ in 0..2 {
        match peer.frame().await {
            FromWorker::Failed { held, cause, .. } => ends.push((held, cause)),
            other => panic!("{other:?}"),
        }
    }
    ends.sort();
    assert_eq!(ends, [(held(&encode), Cause::Timeout), (held(&next), Cause::Refused)]);
    assert_eq!(peer.frame().await, FromWorker::Left);
    assert_eq!(soon("the end", worker.ended).await, Ok(ExitCode::GpuStuck));
}

#[tokio::test]
async fn a_fault_of_the_engine_is_told() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let setup = Setup { emulation: "fail_rate = 1.0", ..Setup::default() };
    let _worker = setup.start(&farm, data.path()).await;
    let mut peer = farm.welcome(1).await;
    for attempt in 1..4 {
        let mut encode = order(Stage::Encode, vec![]);
        encode.fence.attempt = AttemptNumber(attempt);
        match peer.carry_out(encode).await.1 {
            FromWorker::Failed { cause: Cause::EngineError, detail, .. } => {
                assert!(detail.contains("an emulated fault"), "{detail}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Nothing is restarted inside: what a dead part held cannot be trusted, and the farm gives it to others.
#[tokio::test]
async fn a_part_that_dies_ends_the_process() {
    for link_dies in [true, false] {
        let farm = Farm::new();
        let data = tempfile::tempdir().unwrap();
        let worker = Setup::default().start(&farm, data.path()).await;
        let _peer = farm.welcome(1).await;
        let (link, gpu) = ractor::call_t!(worker.root, RootMsg::Parts, 5_000).unwrap();
        if link_dies {
            link.kill()
        } else {
            gpu.kill()
        }
        assert_eq!(soon("the end", worker.ended).await, Ok(ExitCode::PartDied));
    }
}
