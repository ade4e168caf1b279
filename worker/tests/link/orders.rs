//! Promises: a render is a chain of artifacts; a step begins only when the one before is acknowledged; same
//! spec, same latents, wherever the steps were made.

use crate::farm::{Encoded, Event, Farm, Setup, held, order, outputs, soon, spec, times};
use std::sync::atomic::Ordering;
use std::time::Duration;
use zoetrope_protocol::job::{Cause, Role};
use zoetrope_protocol::wire::{ArtifactHeader, FromWorker, Order, StopWhen, ToWorker};
use zoetrope_protocol::{ArtifactId, AttemptNumber, Epoch, Fence, Stage};
use zoetrope_worker::link::LinkTimes;

#[tokio::test]
async fn a_render_goes_through_all_stages() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let _worker = Setup::default().start(&farm, data.path()).await;
    let mut peer = farm.welcome(1).await;

    let (roles, end) = peer.carry_out(order(Stage::Encode, vec![])).await;
    assert_eq!(roles, [Role::Prompt]);
    let prompt = outputs(end);
    let (roles, end) = peer.carry_out(order(Stage::Denoise, prompt)).await;
    let steps: Vec<Role> = (1..=4).map(|step| Role::Latents { step }).collect();
    assert_eq!(roles, steps);
    let latents = outputs(end);
    assert_eq!(latents[0].role, Role::Latents { step: 4 });
    let (roles, end) = peer.carry_out(order(Stage::Finish, latents)).await;
    assert_eq!(roles.len(), 3);
    let FromWorker::Finished { outputs, facts: Some(facts), .. } = end else { panic!("{end:?}") };
    let roles: Vec<Role> = outputs.iter().map(|output| output.role).collect();
    assert_eq!(roles, [Role::Clip, Role::Thumbnail, Role::Spritesheet]);
    assert_eq!((facts.size, facts.frames), (spec().deliver, 24));
    assert!(facts.av_gap_micros <= 21_333);
    for output in outputs {
        let stored = farm.store.lock().unwrap().get(&output.artifact).cloned().unwrap();
        assert_eq!(stored.len() as u64, output.bytes);
    }
}

/// A farm that was started again signs nothing that it has not seen: it is shown the clip again, and not without end. One that
/// cannot judge or sign now is asked again: the clip is not made anew for that.
#[tokio::test]
async fn a_clip_is_shown_and_asked_for_again_until_it_is_signed() {
    let (lost, down) = (Cause::ArtifactMissing, Cause::DependencyDown);
    for (refuses, shown, signed) in [
        ((lost, 2), 2, true),
        ((lost, 4), 3, false),
        ((down, 2), 0, true),
        ((Cause::CheckFailed, 1), 0, false),
    ] {
        let Encoded { farm: _farm, data: _data, worker: _worker, mut peer, prompt } =
            Setup::default().encoded().await;
        let (_, end) = peer.carry_out(order(Stage::Denoise, prompt)).await;
        peer.refuses = refuses;
        let (roles, end) = peer.carry_out(order(Stage::Finish, outputs(end))).await;
        let drafts = roles.iter().filter(|role| **role == Role::Draft).count();
        match end {
            FromWorker::Finished { .. } => assert!(signed, "{refuses:?}"),
            FromWorker::Failed { cause, .. } => {
                // The latents are not to blame.
                let right = if refuses.0 == lost { down } else { refuses.0 };
                assert!(!signed && cause == right, "{refuses:?} {cause:?}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(drafts, shown, "{refuses:?}");
    }
}

#[tokio::test]
async fn a_step_waits_for_the_acknowledgement_of_the_one_before() {
    let Encoded { farm: _farm, data: _data, worker: _worker, mut peer, prompt } =
        Setup::default().encoded().await;

    let first = peer.hold_at_checkpoint(&order(Stage::Denoise, prompt)).await;
    assert_eq!(first.role, Some(Role::Latents { step: 1 }));
    // Twenty times as long as a step takes: if it went on, the second would be here.
    let early = tokio::time::timeout(Duration::from_millis(100), peer.next()).await;
    assert!(early.is_err(), "{early:?}");
    peer.go_on(first).await;
    let (roles, _) = peer.until_over().await;
    assert_eq!(roles.len(), 3);
}

#[tokio::test]
async fn a_refused_upload_is_sent_again() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let _worker = Setup::default().start(&farm, data.path()).await;
    let mut peer = farm.welcome(1).await;
    let encode = order(Stage::Encode, vec![]);
    let first = peer.hold_at_checkpoint(&encode).await;
    let reason = "the store is full".to_string();
    let refusal =
        |artifact| ToWorker::NotStored { held: held(&encode), artifact, reason: reason.clone() };
    for _ in 0..2 {
        peer.say(refusal(first.artifact)).await;
        assert_eq!(peer.artifact().await.artifact, first.artifact);
    }
    peer.say(refusal(first.artifact)).await;
    match peer.frame().await {
        FromWorker::Failed { cause: Cause::DependencyDown, detail, .. } => {
            assert!(detail.contains(&reason), "{detail}");
        }
        other => panic!("{other:?}"),
    }
}

/// Promise: a checkpoint that cannot be stored ends no render whose worker sets the pace, nor one that was the last; only
/// where an operator says how much may be redone does the render stand with it.
#[tokio::test]
async fn a_checkpoint_that_is_not_stored_costs_no_render() {
    for (checkpoint_every, ends_well) in [(0, true), (1, false)] {
        let Encoded { farm: _farm, data: _data, worker: _worker, mut peer, prompt } =
            Setup::default().encoded().await;
        let denoise = Order { checkpoint_every, ..order(Stage::Denoise, prompt) };
        peer.acknowledges.store(false, Ordering::SeqCst);
        peer.say(ToWorker::Order(denoise.clone())).await;
        let end = loop {
            match peer.next().await {
                Some(Event::Artifact(ArtifactHeader { held: of, artifact, role, .. })) => {
                    let held = of.unwrap();
                    let answer = if role == Some(Role::Latents { step: 4 }) {
                        ToWorker::Stored { held, artifact }
                    } else {
                        ToWorker::NotStored { held, artifact, reason: "the store is full".into() }
                    };
                    peer.say(answer).await;
                }
                Some(Event::Frame(FromWorker::Started(_))) => {}
                Some(Event::Frame(frame)) => break frame,
                None => panic!("the link is over"),
            }
        };
        match end {
            FromWorker::Finished { outputs, .. } => {
                assert!(ends_well && outputs[0].role == Role::Latents { step: 4 }, "{outputs:?}");
            }
            FromWorker::Failed { cause: Cause::DependencyDown, .. } => assert!(!ends_well),
            other => panic!("{other:?}"),
        }
    }
}

/// The heart of the farm: stop at a boundary, move to another worker, and get the same bytes.
#[tokio::test]
async fn a_stopped_render_goes_on_elsewhere_with_the_same_bytes() {
    let farm = Farm::new();
    let data = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let _first = Setup::slow().start(&farm, data[0].path()).await;
    let mut peer = farm.welcome(1).await;
    let prompt = outputs(peer.carry_out(order(Stage::Encode, vec![])).await.1);
    let quiet = outputs(peer.carry_out(order(Stage::Denoise, prompt.clone())).await.1);

    let mut again = order(Stage::Denoise, prompt.clone());
    again.fence.attempt = AttemptNumber(2);
    again.checkpoint_every = 3;
    peer.say(ToWorker::Order(again.clone())).await;
    peer.until_step(1).await;
    peer.say(ToWorker::Stop { held: held(&again), when: StopWhen::AfterStep }).await;
    let checkpoint = peer.artifact().await;
    // No checkpoint was due: it is stored for whoever goes on.
    let step = 2;
    assert_eq!(checkpoint.role, Some(Role::Latents { step }));
    is_preempted(&peer.frame().await, &again);

    let _second = Setup::default().start(&farm, data[1].path()).await;
    let mut other = farm.welcome(1).await;
    let mut inputs = prompt;
    inputs.push(zoetrope_protocol::job::ArtifactRef {
        role: Role::Latents { step },
        artifact: checkpoint.artifact,
        bytes: checkpoint.bytes,
    });
    let mut resumed = order(Stage::Denoise, inputs);
    resumed.fence.attempt = AttemptNumber(3);
    let (roles, end) = other.carry_out(resumed).await;
    assert_eq!(roles.len() as u32, 4 - step, "no step is made twice");
    assert_eq!(outputs(end), quiet);
}

/// Promise: a gpu is free at the next step boundary, also for who asks while that step's latents are on their way.
#[tokio::test]
async fn a_stop_while_latents_are_under_way_costs_no_further_step() {
    let Encoded { farm: _farm, data: _data, worker: _worker, mut peer, prompt } =
        Setup::default().encoded().await;
    let denoise = order(Stage::Denoise, prompt);
    let first = peer.hold_at_checkpoint(&denoise).await;
    assert_eq!(first.role, Some(Role::Latents { step: 1 }));
    peer.say(ToWorker::Stop { held: held(&denoise), when: StopWhen::AfterStep }).await;
    peer.go_on(first).await;
    is_preempted(&peer.frame().await, &denoise);
}

fn is_preempted(frame: &FromWorker, order: &Order) {
    match frame {
        FromWorker::Failed { held: of, cause: Cause::Preempted, .. } => {
            assert_eq!(*of, held(order));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stop_now_ends_at_the_next_boundary_without_storing() {
    let Encoded { farm: _farm, data: _data, worker: _worker, mut peer, prompt } =
        Setup::default().encoded().await;
    let denoise = order(Stage::Denoise, prompt);
    peer.hold_at_checkpoint(&denoise).await;
    // Its acknowledgement never comes, and nobody waits for it any more.
    peer.say(ToWorker::Stop { held: held(&denoise), when: StopWhen::Now }).await;
    let (roles, end) = peer.until_over().await;
    assert!(roles.is_empty(), "{roles:?}");
    assert!(matches!(end, FromWorker::Failed { cause: Cause::Ended, .. }), "{end:?}");
}

/// A clip that is shown again when its attempt is stopped is asked for no more.
#[tokio::test]
async fn a_stop_ends_the_questions_to_the_signer() {
    let Encoded { farm: _farm, data: _data, worker: _worker, mut peer, prompt } =
        Setup::default().encoded().await;
    let latents = outputs(peer.carry_out(order(Stage::Denoise, prompt)).await.1);
    let finish = order(Stage::Finish, latents);
    peer.acknowledges.store(false, Ordering::SeqCst);
    peer.say(ToWorker::Order(finish.clone())).await;
    loop {
        match peer.next().await {
            Some(Event::Frame(FromWorker::TermsAsked(held))) => peer.tell_terms(held).await,
            Some(Event::Frame(FromWorker::SignProven { held, .. })) => {
                let (cause, reason) = (Cause::ArtifactMissing, "it was lost".to_owned());
                peer.say(ToWorker::NotSigned { held, cause, reason }).await;
            }
            Some(Event::Artifact(ArtifactHeader { role: Some(Role::Draft), .. })) => break,
            Some(_) => {}
            None => panic!("the link is over"),
        }
    }
    peer.say(ToWorker::Stop { held: held(&finish), when: StopWhen::Now }).await;
    let end = peer.frame().await;
    assert!(matches!(end, FromWorker::Failed { cause: Cause::Ended, .. }), "{end:?}");
}

#[tokio::test]
async fn what_cannot_be_done_is_refused() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let _worker = Setup::default().start(&farm, data.path()).await;
    let mut peer = farm.welcome(7).await;
    let refused = async |peer: &mut crate::farm::Peer, order| {
        peer.say(ToWorker::Order(order)).await;
        match peer.frame().await {
            FromWorker::Failed { cause: Cause::Refused, detail, .. } => detail,
            other => panic!("{other:?}"),
        }
    };
    let mut old = order(Stage::Encode, vec![]);
    old.fence = Fence { epoch: Epoch(6), attempt: AttemptNumber(1) };
    assert!(refused(&mut peer, old).await.contains("epoch 6"));
    let mut foreign = order(Stage::Encode, vec![]);
    foreign.fence.epoch = Epoch(7);
    foreign.spec.model = "other".into();
    assert!(refused(&mut peer, foreign).await.contains("other"));
}

#[tokio::test]
async fn missing_and_damaged_inputs_are_told() {
    let farm = Farm::new();
    let data = tempfile::tempdir().unwrap();
    let _worker = Setup::default().start(&farm, data.path()).await;
    let mut peer = farm.welcome(1).await;
    let artifact = ArtifactId::of(b"what it should be");
    let input = zoetrope_protocol::job::ArtifactRef { role: Role::Prompt, artifact, bytes: 7 };
    let missing = |end| matches!(end, FromWorker::Failed { cause: Cause::ArtifactMissing, .. });
    let (_, end) = peer.carry_out(order(Stage::Denoise, vec![input])).await;
    assert!(missing(end));
    farm.store.lock().unwrap().insert(artifact, b"damaged".to_vec());
    let mut again = order(Stage::Denoise, vec![input]);
    again.fence.attempt = AttemptNumber(2);
    // What the store gives now it may not give a moment later.
    let (_, end) = peer.carry_out(again).await;
    assert!(matches!(end, FromWorker::Failed { cause: Cause::DependencyDown, .. }), "{end:?}");
    let left = std::fs::read_dir(data.path().join("artifacts")).unwrap().count();
    assert_eq!(left, 0, "a damaged file is not kept");
}

/// Promise: an attempt is not taken for stalled while the bytes that it waits for move, however slowly.
#[tokio::test]
async fn bytes_that_move_are_told() {
    let farm = Farm::new();
    let data = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let _first = Setup::default().start(&farm, data[0].path()).await;
    let mut peer = farm.welcome(1).await;
    let prompt = outputs(peer.carry_out(order(Stage::Encode, vec![])).await.1);

    let moving = LinkTimes { moving: Duration::from_millis(100), ..times() };
    let setup = Setup { times: moving, ..Setup::default() };
    let _second = setup.start(&farm, data[1].path()).await;
    let mut other = farm.welcome(1).await;
    other.gives_slowly.store(true, Ordering::SeqCst);
    other.say(ToWorker::Order(order(Stage::Denoise, prompt))).await;
    let mut told = 0;
    while let Some(Event::Frame(FromWorker::Started(_))) = other.next().await {
        told += 1;
    }
    assert!((3..20).contains(&told), "{told}");
}

#[tokio::test]
async fn progress_and_heartbeats_come_and_are_few() {
    let Encoded { farm: _farm, data: _data, worker: _worker, mut peer, prompt } =
        Setup::encoded(Setup { emulation: "step_ms = 30", ..Setup::default() }).await;
    let mut denoise = order(Stage::Denoise, prompt);
    denoise.spec.steps = 40;
    peer.say(ToWorker::Order(denoise)).await;
    let (mut progress, mut heartbeats) = (0, 0);
    let began = tokio::time::Instant::now();
    loop {
        match soon("a frame", peer.raw()).await {
            Some(Event::Frame(FromWorker::Progress { total, .. })) => {
                assert!(total > 0);
                progress += 1;
            }
            Some(Event::Frame(FromWorker::Heartbeat)) => heartbeats += 1,
            Some(Event::Frame(FromWorker::Finished { .. })) => break,
            Some(_) => {}
            None => panic!("the link is over"),
        }
    }
    let ticks = began.elapsed().as_millis() / 50 + 2;
    assert!(progress > 1 && progress as u128 <= ticks, "{progress} in {ticks}");
    assert!(heartbeats > 1, "{heartbeats}");
}
