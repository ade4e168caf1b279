//! Promise: a clip whose marks were read before it was signed is played once, and what was read holds for it alone.

use crate::moderation::is_published;
use crate::worker::{Worker, facts, held};
use crate::{TestFarm, clip, submission};
use zoetrope_protocol::id::{ArtifactId, Epoch, Fence, JobId, Millis};
use zoetrope_protocol::job::{ArtifactRef, Role};
use zoetrope_protocol::mark::DraftReading;
use zoetrope_protocol::wire::{FromWorker, Held, Order, ToWorker};
use zoetrope_sched::output::JobState;

/// How often a clip was played and carried its mark.
pub(crate) const PLAYED: &str = "zoetrope_mark_reading_duration_seconds_count{outcome=\"read\"}";

/// Ends an order, without a record of marks: who has its clip read by the farm keeps none.
async fn finished(worker: &mut Worker, order: &Order, mut outputs: Vec<ArtifactRef>) {
    outputs.retain(|output| output.role != Role::Marks);
    let (held, facts, gpu) = (held(order), Some(facts(order)), Millis(50));
    worker.say(FromWorker::Finished { held, outputs, facts, gpu }).await;
}

/// Has the marks of a clip read before it is signed.
async fn shown(worker: &mut Worker, held: Held, clip: &[u8]) -> DraftReading {
    let draft = ArtifactId::of(clip);
    worker.send(held, Role::Draft, clip, draft.0).await;
    match worker.next().await {
        ToWorker::MarksRead { held: of, draft: read, reading } if (of, read) == (held, draft) => {
            reading
        }
        other => panic!("not read but {other:?}"),
    }
}

/// Promise: a clip whose marks were read before it was signed is played once; its worker need not read it, nor say what it
/// shows.
#[tokio::test(flavor = "multi_thread")]
async fn a_draft_is_played_and_its_clip_is_not_played_again() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::fresh(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.finish_order().await;
    let (held, clip) = (held(&order), clip::unsigned(&order));
    worker.say(FromWorker::Started(held)).await;
    let bare = clip::still(&order.spec, None);
    assert_eq!(shown(&mut worker, held, &bare).await, DraftReading::Unmarked);
    assert_eq!(shown(&mut worker, held, b"no film").await, DraftReading::Unmarked);
    let quiet = DraftReading::Marked { in_sound: false };
    assert_eq!(shown(&mut worker, held, &clip).await, quiet);
    assert_eq!(farm.metric(PLAYED), 1.0);
    let outputs = worker.files_of(&order, &clip, false).await;
    finished(&mut worker, &order, outputs).await;
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    assert_eq!(farm.metric(PLAYED), 1.0, "not again");
    let marks = |mark: &str, track: &str| {
        farm.metric(&format!("zoetrope_marks_total{{mark=\"{mark}\",track=\"{track}\"}}"))
    };
    // Also of the draft that was refused, whose marks were read too; no film has none to be read.
    let read = [("read", "picture"), ("unread", "picture"), ("quiet", "sound")];
    assert_eq!(read.map(|(mark, track)| marks(mark, track)), [1.0, 1.0, 2.0]);

    // An attempt that is not this worker's has nothing read.
    let stale = Held { fence: Fence { epoch: Epoch(0), ..held.fence }, ..held };
    worker.send(stale, Role::Draft, &clip, ArtifactId::of(&clip).0).await;
    assert!(matches!(worker.next().await, ToWorker::NotStored { .. }));
    farm.running.stop().await;
}

/// Promise: what was read before the signature holds for that file alone. A worker cannot show one clip and publish
/// another.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_shows_another_clip_than_it_stores_publishes_nothing() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::old(&farm, "a").await;
    // The thumbnail of another clip, and then another clip, signed as if it were the one that was shown.
    for (job, other) in [(1, false), (2, true)] {
        farm.submit(submission(job)).await.expect("admitted");
        let order = worker.finish_order().await;
        let (held, clip) = (held(&order), clip::unsigned(&order));
        worker.say(FromWorker::Started(held)).await;
        let quiet = DraftReading::Marked { in_sound: false };
        assert_eq!(shown(&mut worker, held, &clip).await, quiet);
        let outputs = if other {
            let bare = clip::still(&order.spec, None);
            let (draft, file, _) = worker.draft_of(&order, &bare, false).await;
            let said = ArtifactId::of(&clip);
            let signature = worker.signature_of(&order, &clip, draft.manifest.clone()).await;
            draft.complete(&signature.expect("is signed")).expect("fits");
            let signed = std::fs::read(file.path()).expect("reads");
            worker.files_with(&order, &signed, said).await
        } else {
            worker.thumbnail = Some(b"no picture".to_vec());
            worker.files_of(&order, &clip, false).await
        };
        worker.thumbnail = None;
        finished(&mut worker, &order, outputs).await;
        farm.refused(JobId(job), &mut worker).await;
    }
    let refused =
        |proof| farm.metric(&format!("zoetrope_publishes_refused_total{{proof=\"{proof}\"}}"));
    assert_eq!((refused("watermark"), refused("signature")), (1.0, 1.0));

    // Without anything said or shown of its marks a clip is played as it is stored.
    for (job, bare) in [(3, false), (4, true)] {
        farm.submit(submission(job)).await.expect("admitted");
        let order = worker.finish_order().await;
        let held = held(&order);
        worker.say(FromWorker::Started(held)).await;
        let clip = if bare { clip::still(&order.spec, None) } else { clip::unsigned(&order) };
        let outputs = worker.files_of(&order, &clip, false).await;
        finished(&mut worker, &order, outputs).await;
        if bare {
            farm.refused(JobId(job), &mut worker).await;
        } else {
            farm.until(JobId(job), |view| view.state == JobState::Completed).await;
            assert!(is_published(&farm, JobId(job)));
        }
    }
    farm.running.stop().await;
}

/// Promise: what is read in a draft holds for the bytes that were read. A worker cannot have one clip played under the name
/// of another.
#[tokio::test(flavor = "multi_thread")]
async fn a_draft_of_other_bytes_than_its_digest_counts_as_never_sent() {
    let farm = TestFarm::start().await;
    let mut worker = Worker::old(&farm, "a").await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.finish_order().await;
    let held = held(&order);
    worker.say(FromWorker::Started(held)).await;
    let (clip, bare) = (clip::unsigned(&order), clip::still(&order.spec, None));
    let said = ArtifactId::of(&bare);
    worker.send_as(said, held, Role::Draft, &clip, said.0).await;
    match worker.next().await {
        ToWorker::NotStored { artifact, .. } => assert_eq!(artifact, said),
        other => panic!("not refused but {other:?}"),
    }
    assert_eq!(farm.metric(PLAYED), 0.0, "nothing was played");
    // Nor is the clip of that name published: it is played as it is stored, and shows no mark.
    let outputs = worker.files_of(&order, &bare, false).await;
    finished(&mut worker, &order, outputs).await;
    farm.refused(JobId(1), &mut worker).await;
    farm.running.stop().await;
}
