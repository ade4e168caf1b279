//! The watermark sidecar: makes the tiles of orders to finish, and reads in a finished clip's record which mark it
//! carries.
//!
//! [`MarkDesk`] has the key, which leaves it for no one; a worker gets finished tiles. Never decides what becomes of a
//! job, and knows not which serial is whose: the books do. Called by `DispatchActor`; answers with
//! `DispatchMsg::TilesMade` and `DispatchMsg::MarksRead`.

pub mod find;
mod issued;
mod lengths;
pub mod prove;
pub mod settings;
pub mod shown;

pub use find::Finder;
pub use prove::Prover;

use crate::dispatch::DispatchMsg;
use crate::documents::Documents;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use settings::Looks;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use zoetrope_mark::{MarkId, MarkKey, MasterKey, PictureReading, SoundReading};
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, Fence, JobId, TenantId, WorkerId};
use zoetrope_protocol::job::ArtifactRef;
use zoetrope_protocol::mark::{
    Issued, MarkOrder, MarkRecord, PIXEL_CHIPS, SOUND_CHIPS, SoundMark, pack,
};
use zoetrope_protocol::metric;
use zoetrope_protocol::provenance::MarkedProof;
use zoetrope_protocol::wire::Order;

/// The document with the master key, 64 hexadecimal digits.
const KEY: &str = "mark.key";
/// Keys that detection tries, the newest first: the calculation of false positives (worker/mark/README.md) is for four.
pub const EPOCHS_TRIED: u32 = 4;
/// A record is a file of some 5 KB in the store.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// Records that are read at a time; more wait.
const TASKS_MAX: usize = 16;
/// The largest record: both tiles and some words.
const RECORD_BYTES_MAX: u64 = (PIXEL_CHIPS + SOUND_CHIPS) as u64 + 1_024;

/// Who has the farm's key.
pub struct MarkDesk {
    master: MasterKey,
    epoch: u32,
    looks: Looks,
}

impl MarkDesk {
    /// Reads the farm's master key, or makes it at the first start. Blocking. `issued` is a mark of the farm's, if it
    /// has given any: a key that did not make it would orphan every clip.
    ///
    /// # Errors
    /// If the key cannot be read, or is another farm's.
    pub fn open(
        documents: &dyn Documents,
        epoch: u32,
        looks: Looks,
        issued: Option<Issued>,
    ) -> anyhow::Result<MarkDesk> {
        let place = documents.place(KEY);
        let master = match documents.read(KEY)? {
            Some(text) => {
                let mut key = [0; 32];
                hex::decode_to_slice(text.trim_ascii(), &mut key).map_err(|_| {
                    anyhow::anyhow!("{}: a master key is 64 hexadecimal digits", place.display())
                })?;
                MasterKey(key)
            }
            None if issued.is_some() => anyhow::bail!(
                "{} is gone, and clips carry marks of it: put it back from a backup, or none of them is found any more",
                place.display()
            ),
            None => {
                let key: [u8; 32] = rand::random();
                documents.write(KEY, hex::encode(key).as_bytes())?;
                MasterKey(key)
            }
        };
        let desk = MarkDesk { master, epoch, looks };
        let ours = |issued: Issued| desk.issue(issued.serial, Some(issued.epoch)).0 == issued;
        if issued.is_some_and(|issued| !ours(issued)) {
            anyhow::bail!(
                "{} is not the key that made the marks of this farm's clips: put the right one back",
                place.display()
            );
        }
        Ok(desk)
    }

    fn issue(&self, serial: u32, epoch: Option<u32>) -> (Issued, MarkKey) {
        let epoch = epoch.unwrap_or(self.epoch);
        let key = self.master.epoch(epoch);
        let MarkId(mark) = key.mark_of(serial);
        (Issued { serial, epoch, mark }, key)
    }

    /// The mark of a serial, and what a worker embeds for it.
    pub fn tiles(&self, serial: u32, epoch: Option<u32>, tenant: TenantId) -> (Issued, MarkOrder) {
        let (issued, key) = self.issue(serial, epoch);
        let tiles = key.tiles(MarkId(issued.mark));
        let visible = self.looks.of(tenant);
        (issued, MarkOrder { pixels: pack(&tiles.pixels), sound: pack(&tiles.sound), visible })
    }

    /// The keys that detection tries, the newest first.
    pub fn keys(&self) -> Vec<MarkKey> {
        let epochs = (0..EPOCHS_TRIED).map_while(|back| self.epoch.checked_sub(back));
        epochs.map(|epoch| self.master.epoch(epoch)).collect()
    }

    /// Holds a record against the mark that the clip must carry: the picture must show it, the sound must show no other.
    fn judge(&self, record: &MarkRecord, clip: ArtifactId, issued: Issued, audio: bool) -> Judged {
        let key = self.master.epoch(issued.epoch);
        let wanted = Some(MarkId(issued.mark));
        let seen = PictureReading(record.picture.clone()).read(&key).mark;
        let picture = match seen {
            None => "unread",
            _ if seen != wanted => "wrong",
            _ => "read",
        };
        let (sound, whole) = match &record.sound {
            SoundMark::Silent => ("silent", !audio),
            SoundMark::Quiet => ("quiet", audio),
            SoundMark::Heard(values) => match SoundReading(values.clone()).read(&key).mark {
                None => ("unread", audio && values.len() == SOUND_CHIPS),
                heard if heard == wanted => ("read", audio),
                Some(_) => ("wrong", false),
            },
        };
        let marked = record.clip == clip && seen == wanted && whole;
        Judged {
            proof: marked.then_some(MarkedProof { file: clip, mark: issued.mark }),
            picture,
            sound,
        }
    }
}

/// What a record says, in the words of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Judged {
    proof: Option<MarkedProof>,
    picture: &'static str,
    sound: &'static str,
}

/// Why a clip is not proven to be marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkFault {
    /// The store does not answer: another try may help.
    Down,
    /// What the worker sent does not show the clip's mark.
    NoEvidence,
    /// What the worker sent is not in the store any more.
    Gone,
}

/// An order that is to be marked.
#[derive(Clone, Debug)]
pub struct TileRequest {
    /// For whom the order is.
    pub worker: WorkerId,
    /// The order, without tiles.
    pub order: Order,
    /// The serial of its job.
    pub serial: u32,
    /// Of which key; the newest for a job that has no mark yet.
    pub epoch: Option<u32>,
    /// Whose job it is.
    pub tenant: TenantId,
}

/// Makes and reads marks for the dispatch actor.
pub struct WatermarkActor;

/// What the watermark sidecar is told.
pub enum WatermarkMsg {
    /// Make the tiles of an order; answered with `DispatchMsg::TilesMade`. Safe to repeat.
    MakeTiles {
        /// Which.
        request: Box<TileRequest>,
        /// Who wants them.
        back: ActorRef<DispatchMsg>,
    },
    /// Read a clip's marks in its record; answered with `DispatchMsg::MarksRead`.
    Read {
        /// The job.
        job: JobId,
        /// The finish attempt.
        fence: Fence,
        /// The record.
        record: ArtifactRef,
        /// The clip that it must be about.
        clip: ArtifactId,
        /// The mark that it must show.
        issued: Issued,
        /// Whether the clip has sound.
        audio: bool,
        /// Who wants to know.
        back: ActorRef<DispatchMsg>,
    },
    /// What an operator may see.
    Observe(RpcReplyPort<WatermarkView>),
}

/// The watermark sidecar at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatermarkView {
    /// Records that are being read.
    pub running: usize,
}

/// What the watermark sidecar needs.
#[derive(Clone)]
pub struct WatermarkArguments {
    /// Who has the key.
    pub desk: Arc<MarkDesk>,
    /// The store, where records are.
    pub store: Arc<Store>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
}

/// The sidecar's own.
pub struct WatermarkState {
    arguments: WatermarkArguments,
    permits: Arc<Semaphore>,
}

#[ractor::async_trait]
impl Actor for WatermarkActor {
    type Msg = WatermarkMsg;
    type State = WatermarkState;
    type Arguments = WatermarkArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<WatermarkMsg>,
        arguments: WatermarkArguments,
    ) -> Result<WatermarkState, ActorProcessingErr> {
        Ok(WatermarkState { arguments, permits: Arc::new(Semaphore::new(TASKS_MAX)) })
    }

    async fn handle(
        &self,
        _myself: ActorRef<WatermarkMsg>,
        message: WatermarkMsg,
        state: &mut WatermarkState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            WatermarkMsg::MakeTiles { request, back } => state.make_tiles(*request, &back),
            WatermarkMsg::Read { job, fence, record, clip, issued, audio, back } => {
                state.read(job, fence, record, (clip, issued, audio), back);
            }
            WatermarkMsg::Observe(reply) => state.observe(reply),
        }
        Ok(())
    }
}

impl WatermarkState {
    fn make_tiles(&self, request: TileRequest, back: &ActorRef<DispatchMsg>) {
        let WatermarkArguments { desk, metrics, .. } = &self.arguments;
        let began = Instant::now();
        // Some ten microseconds of hashing: no task of its own.
        let (issued, mark) = desk.tiles(request.serial, request.epoch, request.tenant);
        count(metrics, "ok", began);
        // Without a dispatch actor the process ends; the attempt's order is given anew.
        drop(back.cast(DispatchMsg::TilesMade { request: Box::new(request), issued, mark }));
    }

    fn read(
        &self,
        job: JobId,
        fence: Fence,
        record: ArtifactRef,
        (clip, issued, audio): (ArtifactId, Issued, bool),
        back: ActorRef<DispatchMsg>,
    ) {
        let WatermarkArguments { desk, store, metrics } = self.arguments.clone();
        let permits = self.permits.clone();
        tokio::spawn(async move {
            let permit = permits.acquire_owned().await;
            let began = Instant::now();
            let fetched = tokio::time::timeout(READ_TIMEOUT, fetch(&store, record)).await;
            drop(permit);
            let result = fetched.unwrap_or(Err(MarkFault::Down)).and_then(|record| {
                let judged = desk.judge(&record, clip, issued, audio);
                let Judged { proof, picture, sound } = judged;
                proof.ok_or_else(|| {
                    tracing::warn!(%job, picture, sound, "a clip does not show its mark");
                    MarkFault::NoEvidence
                })
            });
            let outcome = match &result {
                Ok(_) => "ok",
                Err(MarkFault::NoEvidence) => "refused",
                Err(MarkFault::Down | MarkFault::Gone) => "error",
            };
            count(&metrics, outcome, began);
            // Without a dispatch actor the process ends; the next start asks again.
            drop(back.cast(DispatchMsg::MarksRead { job, fence, result }));
        });
    }

    fn observe(&self, reply: RpcReplyPort<WatermarkView>) {
        let running = TASKS_MAX - self.permits.available_permits();
        // Who asked may be gone.
        drop(reply.send(WatermarkView { running }));
    }
}

fn count(metrics: &Metrics, outcome: &str, began: Instant) {
    metrics.count(&metric::SIDECAR_REQUESTS, &["watermark", outcome]);
    metrics.observe(&metric::SIDECAR_DURATION, &["watermark"], began.elapsed());
}

/// The record, whose bytes match its address.
async fn fetch(store: &Store, record: ArtifactRef) -> Result<MarkRecord, MarkFault> {
    let bytes =
        store.small(&record.artifact, record.bytes, RECORD_BYTES_MAX).await.map_err(|error| {
            tracing::warn!(%error, "a record of marks cannot be read");
            match error {
                StoreError::Missing => MarkFault::Gone,
                error if error.is_trouble() => MarkFault::Down,
                _ => MarkFault::NoEvidence,
            }
        })?;
    codec::decode(&bytes).map_err(|_| MarkFault::NoEvidence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::Folder;
    use zoetrope_protocol::mark::unpack;

    fn desk(folder: &std::path::Path, issued: Option<Issued>) -> anyhow::Result<MarkDesk> {
        MarkDesk::open(&Folder(folder.to_owned()), 1, Looks::default(), issued)
    }

    /// What an honest worker reads in a clip that was marked like this.
    fn record(mark: &MarkOrder, clip: ArtifactId) -> MarkRecord {
        let loud = |chips: Vec<i8>| chips.into_iter().map(|chip| chip * 20).collect::<Vec<_>>();
        MarkRecord {
            clip,
            picture: loud(unpack(&mark.pixels, PIXEL_CHIPS).expect("a tile")),
            sound: SoundMark::Heard(loud(unpack(&mark.sound, SOUND_CHIPS).expect("a tile"))),
            strong: false,
        }
    }

    /// Promise: a clip is proven marked by its own mark alone, in the file that was read.
    #[test]
    fn a_record_proves_its_own_mark_and_no_other() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let desk = desk(folder.path(), None).expect("opens");
        let clip = ArtifactId([1; 32]);
        let (issued, mark) = desk.tiles(5, None, TenantId(1));
        let (other, of_other) = desk.tiles(6, None, TenantId(1));
        let good = record(&mark, clip);
        let proof = MarkedProof { file: clip, mark: issued.mark };
        let judged = desk.judge(&good, clip, issued, true);
        assert_eq!(judged, Judged { proof: Some(proof), picture: "read", sound: "read" });
        let said = |record: &MarkRecord, audio| {
            let judged = desk.judge(record, clip, issued, audio);
            (judged.proof.is_some(), judged.picture, judged.sound)
        };
        let quiet = MarkRecord { sound: SoundMark::Quiet, strong: true, ..good.clone() };
        assert_eq!(said(&quiet, true), (true, "read", "quiet"));
        assert_eq!(said(&quiet, false), (false, "read", "quiet"), "a silent clip has no sound");
        let hum = MarkRecord { sound: SoundMark::Heard(vec![0; SOUND_CHIPS]), ..good.clone() };
        assert_eq!(said(&hum, true), (true, "read", "unread"));
        let foreign = MarkRecord { sound: record(&of_other, clip).sound, ..good.clone() };
        assert_eq!(said(&foreign, true), (false, "read", "wrong"));
        let blank = MarkRecord { picture: vec![0; PIXEL_CHIPS], ..good.clone() };
        assert_eq!(said(&blank, true), (false, "unread", "read"));
        let short = MarkRecord { picture: vec![], sound: SoundMark::Heard(vec![]), ..good.clone() };
        assert_eq!(said(&short, true), (false, "unread", "unread"));
        assert!(desk.judge(&good, clip, other, true).proof.is_none(), "another job's");
        assert!(desk.judge(&good, ArtifactId([2; 32]), issued, true).proof.is_none());
        let old = Issued { epoch: 0, ..issued };
        assert!(desk.judge(&good, clip, old, true).proof.is_none(), "another key's");
    }

    /// Promise: the key is made once, is its owner's alone, and a wrong one orphans no clips unseen.
    #[test]
    fn a_key_that_did_not_make_the_farms_marks_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (issued, mark) = desk(folder.path(), None).expect("opens").tiles(5, None, TenantId(1));
        let again = desk(folder.path(), Some(issued)).expect("is the same key");
        assert_eq!(again.tiles(5, Some(1), TenantId(1)), (issued, mark));
        assert_eq!(again.keys().iter().map(|key| key.epoch).collect::<Vec<_>>(), [1, 0]);
        let file = folder.path().join(KEY);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&file).expect("is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        std::fs::write(&file, "0".repeat(64)).expect("writes");
        let error = desk(folder.path(), Some(issued)).err().expect("another key");
        assert!(error.to_string().contains("is not the key"), "{error}");
        std::fs::write(&file, "nonsense").expect("writes");
        let error = desk(folder.path(), None).err().expect("no key");
        assert!(error.to_string().contains("64 hexadecimal digits"), "{error}");
        std::fs::remove_file(&file).expect("removes");
        let error = desk(folder.path(), Some(issued)).err().expect("no key");
        assert!(error.to_string().contains("is gone"), "{error}");
    }
}
