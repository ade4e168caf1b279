//! Promise: nothing is published that is not signed, by this farm, for this job, over exactly the stored bytes; and
//! the signer signs nothing else.

use crate::worker::{Worker, facts, held, held_as, unsigned_clip};
use crate::{TestFarm, submission};
use zoetrope_coordinator::dispatch::DispatchMsg;
use zoetrope_coordinator::farm::FarmMsg;
use zoetrope_coordinator::provenance::socket;
use zoetrope_protocol::id::{JobId, Millis};
use zoetrope_protocol::job::{Cause, Stage};
use zoetrope_protocol::provenance::SignedClaim;
use zoetrope_protocol::wire::{FromWorker, Order, ToWorker};
use zoetrope_provenance::{Credential, Signer};
use zoetrope_sched::output::JobState;

async fn at_finish(farm: &TestFarm) -> (Worker, Order) {
    farm.submit(submission(1)).await.expect("admitted");
    let mut worker = Worker::fresh(farm, "gpu-0").await;
    loop {
        let order = worker.order().await;
        if order.shard.stage == Stage::Finish {
            return (worker, order);
        }
        worker.carry_out(&order).await;
    }
}

async fn finish(worker: &mut Worker, order: &Order, clip: &[u8]) {
    let outputs = worker.files_with(order, clip, unsigned_clip(order)).await;
    let (held, facts) = (held(order), Some(facts(order)));
    worker.say(FromWorker::Finished { held, outputs, facts, gpu: Millis(1) }).await;
}

fn is_published(farm: &TestFarm) -> bool {
    farm.folder.path().join(format!("store/published/{}.json", JobId(1))).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clip_without_signature_is_not_published() {
    let farm = TestFarm::start().await;
    let (mut worker, order) = at_finish(&farm).await;
    finish(&mut worker, &order, b"a clip that nobody signed").await;
    farm.refused(JobId(1), &mut worker).await;
    assert_eq!(farm.metric("zoetrope_publishes_refused_total{proof=\"signature\"} "), 1.0);
    farm.running.stop().await;
}

/// A worker whose clip is refused costs the job nothing but that attempt: another one finishes it, under the same mark.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_clip_is_finished_again_elsewhere() {
    let farm = TestFarm::start().await;
    let (mut worker, order) = at_finish(&farm).await;
    finish(&mut worker, &order, b"a clip that nobody signed").await;
    farm.until_why(JobId(1), "every worker that fits has failed it").await;
    assert!(!is_published(&farm));
    let farm = farm.restart().await;
    let mut other = Worker::fresh(&farm, "gpu-1").await;
    let again = other.order().await;
    assert_eq!((again.shard, &again.inputs), (order.shard, &order.inputs));
    assert!(again.fence > order.fence);
    assert_eq!(again.mark, order.mark);
    other.carry_out(&again).await;
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    assert!(is_published(&farm));
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_byte_behind_the_signature_is_not_published() {
    let farm = TestFarm::start().await;
    let (mut worker, order) = at_finish(&farm).await;
    let (draft, file, _) = worker.draft(&order).await;
    let manifest = draft.manifest.clone();
    let signature = worker.signature(&order, manifest).await.expect("signed");
    draft.complete(&signature).expect("fits");
    let mut clip = std::fs::read(file.path()).expect("reads");
    let last = clip.len() - 1;
    clip[last] ^= 1;
    finish(&mut worker, &order, &clip).await;
    farm.refused(JobId(1), &mut worker).await;
    farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_running_attempt_gets_one_claim_signed() {
    let farm = TestFarm::start().await;
    let (mut worker, order) = at_finish(&farm).await;
    let (draft, _file, unsigned) = worker.draft(&order).await;
    let (other, _other_file, _) = worker.draft(&order).await;
    let mut fence = order.fence;
    fence.attempt.0 += 1;
    let late = Order { fence, ..order.clone() };
    let ask = |manifest| FromWorker::SignAsked { held: held(&late), unsigned, manifest };
    let stale = worker.signed(ask(draft.manifest.clone())).await;
    assert_eq!(stale.expect_err("not this attempt").0, Cause::Refused);
    let refused = |point| format!("zoetrope_stale_results_refused_total{{point=\"{point}\"}} ");
    assert_eq!(farm.metric(&refused("link")), 1.0);
    // A claim that is signed when its attempt was replaced meanwhile goes nowhere.
    let workers = farm.farm().ask(FarmMsg::Workers).await.expect("answers");
    let claim = SignedClaim { unsigned, manifest: [1; 32], at: Millis(1) };
    let (worker_id, held_before) = (workers[0].worker, held_as(&order, fence));
    let result = Ok((claim, vec![1]));
    let signed = DispatchMsg::ClaimSigned { worker: worker_id, held: held_before, result };
    farm.running.dispatch.cast(signed).expect("the farm runs");
    let answer = worker.next().await;
    assert!(matches!(answer, ToWorker::NotSigned { .. }), "{answer:?}");
    assert_eq!(farm.metric(&refused("publish")), 1.0);
    let mut bent = draft.manifest.clone();
    let at = bent.windows(4).position(|four| four == b"seed").expect("our assertion");
    bent[at] = b'x';
    let bent = worker.signature(&order, bent).await;
    assert_eq!(bent.expect_err("another seed").0, Cause::CheckFailed);
    let manifest = draft.manifest.clone();
    worker.signature(&order, manifest.clone()).await.expect("the first claim");
    worker.signature(&order, manifest).await.expect("the same again");
    let second = worker.signature(&order, other.manifest.clone()).await;
    assert_eq!(second.expect_err("another claim").0, Cause::CheckFailed);
    farm.running.stop().await;
}

/// A signer that is gone, hangs, or signs with a key of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_is_down_or_lies_makes_jobs_wait() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let socket = folder.path().join("signer.sock");
    let right = Signer::new(Credential::open(&folder.path().join("right")).expect("certificates"));
    let wrong = Signer::new(Credential::open(&folder.path().join("wrong")).expect("certificates"));
    let farm = TestFarm::with(|config| {
        config.provenance.signer = Some(socket.clone());
        config.provenance.root = Some(folder.path().join("right/root.pem"));
    })
    .await;
    let (mut worker, order) = at_finish(&farm).await;
    let (draft, _file, _) = worker.draft(&order).await;
    let manifest = draft.manifest.clone();
    let gone = worker.signature(&order, manifest.clone()).await;
    assert_eq!(gone.expect_err("nobody listens").0, Cause::DependencyDown);
    let listener = tokio::net::UnixListener::bind(&socket).expect("binds");
    let lying = tokio::spawn(socket::serve(listener, std::sync::Arc::new(wrong)));
    let (cause, reason) = worker.signature(&order, manifest.clone()).await.expect_err("a lie");
    assert_eq!(cause, Cause::DependencyDown);
    assert!(reason.contains("root"), "{reason}");
    lying.abort();
    std::fs::remove_file(&socket).expect("removes");
    let listener = tokio::net::UnixListener::bind(&socket).expect("binds");
    let signing = tokio::spawn(socket::serve(listener, std::sync::Arc::new(right)));
    let signature = worker.signature(&order, manifest).await.expect("signed");
    draft.complete(&signature).expect("fits");
    let clip = std::fs::read(_file.path()).expect("reads");
    finish(&mut worker, &order, &clip).await;
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    assert!(is_published(&farm));
    signing.abort();
    farm.running.stop().await;
}
