//! The marks of clips: an order to finish gets its tiles before it leaves, and a finished clip's marks are read before
//! it is published. Fails closed: no tiles, no order; no proof, no publication.
//!
//! Which mark a job has is on disk before a worker hears of it. The sidecar is not believed: what it says must fit to
//! what the books know.

use super::books::Entry;
use super::effects::Effect;
use super::state::DispatchState;
use crate::jobs::Asset;
use crate::link::draft::Draft;
use crate::storage::StorageMsg;
use crate::watermark::{MarkFault, TileRequest, WatermarkMsg};
use ractor::{ActorId, ActorRef};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zoetrope_protocol::id::{ArtifactId, Fence, JobId, Millis, WorkerId};
use zoetrope_protocol::job::{ArtifactRef, Cause, Role};
use zoetrope_protocol::mark::{DraftReading, Issued, MarkOrder};
use zoetrope_protocol::metric;
use zoetrope_protocol::provenance::MarkedProof;
use zoetrope_protocol::wire::{Held, Order, ToWorker};
use zoetrope_sched::Input;

/// Tiles are made within a millisecond; a sidecar that does not answer in this time hangs.
const TILES_LIMIT: Duration = Duration::from_secs(10);
/// A record is fetched and read within milliseconds, a draft is played within seconds; and the worker sends a draft again
/// after a minute.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// Questions to the watermark sidecar that are open.
#[derive(Default)]
pub(super) struct Marking {
    sidecar: Option<ActorRef<WatermarkMsg>>,
    /// Serials below this one are taken, on disk or by an order whose tiles are being made.
    next: u32,
    /// Orders that wait for their tiles.
    orders: std::collections::BTreeMap<JobId, (Instant, WorkerId, Held)>,
    /// Clips whose marks are being read.
    clips: std::collections::BTreeMap<JobId, (Instant, Fence, ArtifactId, Vec<ArtifactRef>)>,
    /// Drafts that are being read, by who sent them.
    drafts: std::collections::BTreeMap<(WorkerId, Held), (Instant, ArtifactId)>,
    /// Attempts whose clip was read before it was signed, and comes in a moment.
    awaited: std::collections::BTreeMap<Held, Instant>,
}

impl DispatchState {
    pub(super) fn watermark_up(&mut self, sidecar: ActorRef<WatermarkMsg>) {
        self.metrics.set(&metric::SIDECAR_UP, &["watermark"], 1.0);
        self.marking.sidecar = Some(sidecar);
    }

    fn ask_watermark(&mut self, message: WatermarkMsg) -> bool {
        let sidecar = self.marking.sidecar.as_ref();
        let asked = sidecar.is_some_and(|sidecar| sidecar.cast(message).is_ok());
        if !asked {
            self.marking.sidecar = None;
        }
        asked
    }

    /// Has the tiles of an order to finish made; the order leaves once they are.
    pub(super) fn mark_order(&mut self, worker: WorkerId, order: Order) {
        let (job, held) = (order.shard.job, held(&order));
        let Some(tenant) = self.books.table.row(job).map(|row| row.spec.tenant) else { return };
        let known = self.books.table.marks().of(job);
        let serial = match known {
            Some(issued) => Some(issued.serial),
            None => self.books.table.marks().next().map(|next| {
                let serial = next.max(self.marking.next);
                self.marking.next = serial.saturating_add(1);
                serial
            }),
        };
        let Some(serial) = serial else {
            tracing::error!("all marks of the farm are used up: no clip can be published any more");
            return self.no_tiles(worker, held);
        };
        let epoch = known.map(|issued| issued.epoch);
        let request = Box::new(TileRequest { worker, order, serial, epoch, tenant });
        let back = self.myself.clone();
        if self.ask_watermark(WatermarkMsg::MakeTiles { request, back }) {
            self.marking.orders.insert(job, (Instant::now(), worker, held));
        } else {
            self.no_tiles(worker, held);
        }
    }

    /// The tiles of an order. Meanwhile its attempt may have ended: then nobody is to hear of it.
    pub(super) fn tiles_made(&mut self, request: TileRequest, issued: Issued, mark: MarkOrder) {
        let TileRequest { worker, order, serial, .. } = request;
        let (job, held) = (order.shard.job, held(&order));
        let waits = self.marking.orders.get(&job).is_some_and(|(_, _, waiting)| *waiting == held);
        if waits {
            self.marking.orders.remove(&job);
        }
        if !self.finishes(worker, held) {
            // It was stopped meanwhile, and its worker, which never had it, cannot say that the gpu is free.
            return self.no_tiles(worker, held);
        }
        if !waits {
            return;
        }
        let marks = self.books.table.marks();
        let fits = match marks.of(job) {
            Some(known) => known == issued,
            None => issued.serial == serial && marks.job_of(issued.mark).is_none(),
        };
        if !fits {
            tracing::error!(%job, "the watermark sidecar gave a mark that is not this job's: is the key another one?");
            return self.no_tiles(worker, held);
        }
        if marks.of(job).is_none() {
            self.record(Entry::Marked { job, issued });
        }
        let order = ToWorker::Order(Order { mark: Some(Box::new(mark)), ..order });
        self.after_sync(Effect::Tell(worker, Box::new(order)));
    }

    /// An order that cannot be marked does not leave; its shard waits for the sidecar.
    fn no_tiles(&mut self, worker: WorkerId, held: Held) {
        let (cause, gpu) = (Cause::DependencyDown, Millis(0));
        self.record(Entry::Core(Input::ShardFailed { worker, held, cause, gpu }));
    }

    /// Has a draft's marks read by the storage sidecar, which remembers what it saw until the clip is stored. Without it
    /// the worker reads them itself.
    pub(super) fn drafted(&mut self, link: ActorId, held: Held, draft: Arc<Draft>) {
        let Some(worker) = self.workers.get(&link).copied() else { return };
        let (job, artifact) = (held.shard.job, draft.artifact);
        let issued = self.books.table.marks().of(job).filter(|_| self.finishes(worker, held));
        let render = self.books.table.row(job).map(|row| Box::new(row.spec.render.clone()));
        let asked = issued.zip(render).zip(self.storage.as_ref()).is_some_and(
            |((issued, render), storage)| {
                let back = self.myself.clone();
                let ask = StorageMsg::ReadDraft { draft, issued, render, worker, held, back };
                storage.cast(ask).is_ok()
            },
        );
        // Before the answer, which then finds who waits.
        self.marking.drafts.insert((worker, held), (Instant::now(), artifact));
        if !asked {
            self.draft_read(worker, held, artifact, DraftReading::Unread);
        }
    }

    /// What a draft shows, for whoever still waits for it.
    pub(super) fn draft_read(
        &mut self,
        worker: WorkerId,
        held: Held,
        draft: ArtifactId,
        reading: DraftReading,
    ) {
        let waiting = self.marking.drafts.get(&(worker, held));
        if waiting.is_none_or(|(_, of)| *of != draft) {
            return;
        }
        self.marking.drafts.remove(&(worker, held));
        if matches!(reading, DraftReading::Marked { .. }) {
            self.marking.awaited.insert(held, Instant::now());
        }
        // Nothing was decided: no need to wait for the disk.
        self.tell_if_there(worker, ToWorker::MarksRead { held, draft, reading });
    }

    /// A file of a clip came. One whose marks were read already has little left to wait for: its signature is read ahead.
    pub(super) fn foresee(&mut self, held: Held, file: ArtifactRef) {
        if file.role != Role::Clip || self.marking.awaited.remove(&held).is_none() {
            return;
        }
        if let Some(storage) = &self.storage {
            let clip = Asset { artifact: file.artifact, bytes: file.bytes };
            // Without the sidecar it is read when it is published.
            drop(storage.cast(StorageMsg::Foresee(clip)));
        }
    }

    /// Has the marks of a finished clip read; publishing goes on with the answer. `clip` is the file as it was before
    /// it was signed.
    pub(super) fn read_marks(
        &mut self,
        job: JobId,
        fence: Fence,
        clip: ArtifactId,
        outputs: &[ArtifactRef],
    ) {
        let record = outputs.iter().find(|output| output.role == Role::Marks).copied();
        let issued = self.books.table.marks().of(job);
        let audio = self.books.table.row(job).is_some_and(|row| row.spec.render.audio);
        let (Some(record), Some(issued)) = (record, issued) else {
            tracing::warn!(%job, "a clip came without a record of its marks");
            return self.not_marked(job, Cause::CheckFailed);
        };
        let back = self.myself.clone();
        let message = WatermarkMsg::Read { job, fence, record, clip, issued, audio, back };
        if self.ask_watermark(message) {
            self.marking.clips.insert(job, (Instant::now(), fence, clip, outputs.to_vec()));
        } else {
            self.not_marked(job, Cause::DependencyDown);
        }
    }

    pub(super) fn not_marked(&mut self, job: JobId, cause: Cause) {
        if cause != Cause::DependencyDown {
            self.metrics.count(&metric::PUBLISHES_REFUSED, &["watermark"]);
        }
        self.record(Entry::Core(Input::PublishFailed { job, cause }));
    }

    /// The sidecar's answer about a clip.
    pub(super) fn marks_read(
        &mut self,
        job: JobId,
        fence: Fence,
        result: Result<MarkedProof, MarkFault>,
    ) {
        // An answer that comes after its time, or of an attempt before, is nobody's.
        if self.marking.clips.get(&job).is_some_and(|(_, of, ..)| *of != fence) {
            return self.metrics.count(&metric::STALE_RESULTS, &["publish"]);
        }
        let Some((_, _, clip, outputs)) = self.marking.clips.remove(&job) else { return };
        match result {
            Ok(proof) => {
                let issued = self.books.table.marks().of(job);
                if issued.is_some_and(|issued| issued.mark == proof.mark) && proof.file == clip {
                    self.publish(job, fence, &outputs, Some(proof));
                } else {
                    tracing::error!(%job, "the watermark sidecar read a mark, or a file, that is not this job's");
                    self.not_marked(job, Cause::DependencyDown);
                }
            }
            Err(MarkFault::Down) => self.not_marked(job, Cause::DependencyDown),
            Err(MarkFault::Gone) => self.not_marked(job, Cause::ArtifactMissing),
            Err(MarkFault::NoEvidence) => self.not_marked(job, Cause::CheckFailed),
        }
    }

    /// Questions that were not answered in time.
    pub(super) fn marking_due(&mut self) {
        let orders = self.marking.orders.values();
        let late = orders.filter(|(asked, ..)| asked.elapsed() > TILES_LIMIT);
        let late: Vec<(WorkerId, Held)> = late.map(|(_, worker, held)| (*worker, *held)).collect();
        for (worker, held) in late {
            self.marking.orders.remove(&held.shard.job);
            self.no_tiles(worker, held);
        }
        self.marking.awaited.retain(|_, since| since.elapsed() < READ_LIMIT);
        let drafts = self.marking.drafts.iter();
        let late = drafts.filter(|(_, (asked, _))| asked.elapsed() > READ_LIMIT);
        let late: Vec<(WorkerId, Held, ArtifactId)> =
            late.map(|((worker, held), (_, draft))| (*worker, *held, *draft)).collect();
        for (worker, held, draft) in late {
            self.draft_read(worker, held, draft, DraftReading::Unread);
        }
        let clips = self.marking.clips.iter();
        let late = clips.filter(|(_, (asked, ..))| asked.elapsed() > READ_LIMIT);
        let late: Vec<JobId> = late.map(|(job, _)| *job).collect();
        for job in late {
            self.marking.clips.remove(&job);
            self.not_marked(job, Cause::DependencyDown);
        }
    }
}

fn held(order: &Order) -> Held {
    Held { shard: order.shard, fence: order.fence }
}
