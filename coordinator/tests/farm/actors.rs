//! Promise: each actor may die once. A sidecar comes back; the journal and the dispatch actor end the process.

use crate::worker::Worker;
use crate::{PATIENCE, TestFarm, submission};
use ractor::{ActorCell, ActorRef};
use tokio::time::timeout;
use zoetrope_coordinator::dispatch::DispatchMsg;
use zoetrope_coordinator::journal::JournalMsg;
use zoetrope_coordinator::link::LinkSupMsg;
use zoetrope_coordinator::sidecar::SidecarSupMsg;
use zoetrope_coordinator::storage::StorageMsg;
use zoetrope_protocol::id::JobId;
use zoetrope_sched::output::JobState;

fn child<M: ractor::Message>(farm: &TestFarm) -> ActorCell {
    let root = farm.running.dispatch.get_cell().try_get_supervisor().expect("a root");
    child_of::<M>(&root)
}

fn child_of<M: ractor::Message>(parent: &ActorCell) -> ActorCell {
    let is = |cell: &ActorCell| cell.is_message_type_of::<M>() == Some(true);
    parent.get_children().into_iter().find(is).expect("a child of this kind")
}

/// The sidecar that is told such messages.
pub(crate) fn sidecar<M: ractor::Message>(farm: &TestFarm) -> ActorRef<M> {
    child_of::<M>(&child::<SidecarSupMsg>(farm)).into()
}

/// Kills the sidecar that is told such messages; its supervisor starts another one, which says that it is there.
pub(crate) fn kill_sidecar<M: ractor::Message>(farm: &TestFarm) {
    child_of::<M>(&child::<SidecarSupMsg>(farm)).kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_journal_or_dispatch_or_links_the_process_ends() {
    for kill in [child::<JournalMsg>, child::<DispatchMsg>, child::<LinkSupMsg>] {
        let mut farm = TestFarm::start().await;
        farm.submit(submission(1)).await.expect("admitted");
        kill(&farm).kill();
        let why = timeout(PATIENCE, farm.running.failed()).await.expect("says so");
        assert!(!why.is_empty());
        let farm = farm.restart().await;
        assert_eq!(farm.read(JobId(1)).await.state, JobState::Queued, "after {why}");
        farm.running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_storage_sidecar_comes_back_and_the_clip_is_published() {
    let mut farm = TestFarm::start().await;
    farm.submit(submission(1)).await.expect("admitted");
    let mut worker = Worker::fresh(&farm, "gpu-0").await;
    let sup = child::<SidecarSupMsg>(&farm);
    // Between its end and its return there is none.
    let kill_storage = || {
        let is = |cell: &ActorCell| cell.is_message_type_of::<StorageMsg>() == Some(true);
        sup.get_children().into_iter().filter(is).for_each(|cell| cell.kill());
    };
    for _ in 0..3 {
        kill_storage();
        let order = worker.order().await;
        worker.carry_out(&order).await;
    }
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    // A sidecar that keeps dying is no accident: the budget is spent, and the failure goes up.
    let failed = timeout(PATIENCE, async {
        let kills = async {
            loop {
                kill_storage();
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            why = farm.running.failed() => why,
            () = kills => String::new(),
        }
    });
    let why = failed.await.expect("the budget is limited");
    assert!(why.starts_with("sidecars"), "{why}");
    farm.running.stop().await;
}
