//! Uploads and fetches that are not over: what is under way, what must be tried again, what is given up.
//!
//! Pure: the time is an argument, and the actor does the IO. Called by `LinkActor` only.

use super::claims::Claims;
use super::stream::Payload;
use crate::gpu::attempt::AttemptKey;
use crate::gpu::courier::{CourierError, FetchRequest, StoreReply, StoreRequest};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use zoetrope_protocol::job::{ArtifactRef, Role};
use zoetrope_protocol::mark::DraftReading;
use zoetrope_protocol::wire::ARTIFACT_BYTES_MAX;
use zoetrope_protocol::{ArtifactId, ShardId};

/// Tries of one transfer that is refused, over connections that live. One that is not answered at all is not tried again: over
/// such a connection nothing gets lost, so whoever should answer cannot.
pub const TRIES_MAX: u32 = 3;
/// Unacknowledged bytes of one worker: six checkpoints of the longest clip.
pub const SPOOL_BYTES_MAX: u64 = 2 << 30;
/// Wait before a refused upload is sent again; a store that is full or slow needs a moment.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Limits that tests shorten.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the last byte sent to the acknowledgement, and from the request to the first byte fetched; then the coordinator, or
    /// what it stands on, is taken to be down. Well below the 120 s after which the farm calls an attempt stalled and blames
    /// its worker.
    pub answer: Duration,
    /// How long transfers wait for a lost link.
    pub offline: Duration,
    /// How long the store may give other bytes than were put there: then it is taken to have others, and they are made again.
    pub damaged: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            answer: Duration::from_secs(60),
            offline: Duration::from_secs(600),
            damaged: Duration::from_secs(60),
        }
    }
}

/// Artifacts of which it is remembered that other bytes came; beyond that the oldest is forgotten, and waits anew.
const DAMAGED_MAX: usize = 64;

/// Why an artifact did not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The store has none of this address.
    Gone(String),
    /// The store or the way failed: another try could help.
    Down(String),
    /// Other bytes came than the address says.
    Damaged(String),
    /// Our disk did not take it. That is this worker's own trouble: others have a disk of their own.
    Disk(String),
}

/// Names an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UploadId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Waiting { until: Instant },
    Sending,
    Sent { at: Instant },
}

struct Upload {
    key: AttemptKey,
    shard: ShardId,
    artifact: ArtifactRef,
    payload: Payload,
    step: Step,
    tries: u32,
    reply: StoreReply,
}

struct Fetch {
    key: AttemptKey,
    artifact: ArtifactRef,
    /// None: to be asked for.
    asked: Option<Instant>,
    receiving: bool,
    tries: u32,
    reply: oneshot::Sender<Result<PathBuf, CourierError>>,
}

/// An upload to be sent now.
pub struct Send {
    /// Its name.
    pub id: UploadId,
    /// Of which attempt.
    pub key: AttemptKey,
    /// What.
    pub artifact: ArtifactRef,
    /// Its bytes.
    pub payload: Payload,
}

/// All transfers of a worker.
#[derive(Default)]
pub struct Transfers {
    uploads: BTreeMap<UploadId, Upload>,
    fetches: BTreeMap<ArtifactId, Vec<Fetch>>,
    /// Since when other bytes come for an artifact.
    damaged: BTreeMap<ArtifactId, Instant>,
    /// What waits for the signer.
    pub claims: Claims,
    last_id: u64,
}

impl Transfers {
    /// Takes an upload on.
    pub fn store(&mut self, request: StoreRequest, shard: ShardId, now: Instant) {
        let bytes = request.artifact.bytes;
        if bytes > ARTIFACT_BYTES_MAX || self.spool_bytes() + bytes > SPOOL_BYTES_MAX {
            let reason = format!("an artifact of {bytes} bytes is over the limit of the spool");
            request.reply.failed(CourierError::Down(reason));
            return;
        }
        self.last_id += 1;
        let upload = Upload {
            key: request.key,
            shard,
            artifact: request.artifact,
            payload: request.payload,
            step: Step::Waiting { until: now },
            tries: 0,
            reply: request.reply,
        };
        self.uploads.insert(UploadId(self.last_id), upload);
    }

    /// Takes a fetch on.
    pub fn fetch(&mut self, request: FetchRequest) {
        let fetch = Fetch {
            key: request.key,
            artifact: request.artifact,
            asked: None,
            receiving: false,
            tries: 0,
            reply: request.reply,
        };
        self.fetches.entry(request.artifact.artifact).or_default().push(fetch);
    }

    /// Bytes that are not acknowledged.
    pub fn spool_bytes(&self) -> u64 {
        self.uploads.values().map(|upload| upload.payload.bytes()).sum()
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.uploads.is_empty() && self.fetches.is_empty() && self.claims.is_empty()
    }

    /// Uploads whose time has come; they count as being sent from now on.
    pub fn to_send(&mut self, now: Instant) -> Vec<Send> {
        let mut due = Vec::new();
        for (id, upload) in &mut self.uploads {
            if matches!(upload.step, Step::Waiting { until } if until <= now) {
                upload.step = Step::Sending;
                let payload = upload.payload.clone();
                due.push(Send { id: *id, key: upload.key, artifact: upload.artifact, payload });
            }
        }
        due
    }

    /// Artifacts to ask for; they count as asked for from now on.
    pub fn to_ask(&mut self, now: Instant) -> Vec<ArtifactId> {
        let mut due = Vec::new();
        for (id, fetches) in &mut self.fetches {
            if fetches.iter().all(|fetch| fetch.asked.is_none()) && !fetches.is_empty() {
                due.push(*id);
            }
            for fetch in fetches {
                fetch.asked.get_or_insert(now);
            }
        }
        due
    }

    /// The link is gone: all that was under way begins again on the next one, without costing a try.
    pub fn link_lost(&mut self, now: Instant) {
        self.claims.link_lost();
        for upload in self.uploads.values_mut() {
            upload.step = Step::Waiting { until: now };
        }
        for fetch in self.fetches.values_mut().flatten() {
            fetch.asked = None;
            fetch.receiving = false;
        }
    }

    /// All bytes of an upload were handed over, or the stream failed.
    pub fn sent(&mut self, id: UploadId, result: Result<(), CourierError>, now: Instant) {
        match result {
            Ok(()) => {
                if let Some(upload) = self.uploads.get_mut(&id) {
                    upload.step = Step::Sent { at: now };
                }
            }
            Err(error) => self.upload_failed(id, error, now),
        }
    }

    fn upload_failed(&mut self, id: UploadId, error: CourierError, now: Instant) {
        let Some(upload) = self.uploads.get_mut(&id) else { return };
        // A refusal is told twice, by its frame and by the stream that is stopped.
        if matches!(upload.step, Step::Waiting { .. }) {
            return;
        }
        upload.tries += 1;
        if upload.tries < TRIES_MAX {
            upload.step = Step::Waiting { until: now + RETRY_AFTER * upload.tries };
            return;
        }
        self.upload_over(id, error);
    }

    fn upload_over(&mut self, id: UploadId, error: CourierError) {
        if let Some(upload) = self.uploads.remove(&id) {
            let reason = format!("{} not stored: {error}", role_word(upload.artifact.role));
            upload.reply.failed(match error {
                CourierError::Disk(_) => CourierError::Disk(reason),
                _ => CourierError::Down(reason),
            });
        }
    }

    fn upload_of(&self, shard: ShardId, artifact: ArtifactId) -> Option<UploadId> {
        // The fence is left out: an answer to the same bytes of the same shard is as good under any.
        let of = |upload: &Upload| upload.shard == shard && upload.artifact.artifact == artifact;
        self.uploads.iter().find(|(_, upload)| of(upload)).map(|(id, _)| *id)
    }

    /// The coordinator has an artifact.
    pub fn stored(&mut self, shard: ShardId, artifact: ArtifactId) {
        while let Some(id) = self.upload_of(shard, artifact) {
            if let Some(upload) = self.uploads.remove(&id) {
                upload.reply.stored();
            }
        }
    }

    /// The coordinator has read a draft.
    pub fn read(&mut self, shard: ShardId, draft: ArtifactId, reading: DraftReading) {
        let drafts = |id: &UploadId| self.uploads[id].artifact.role == Role::Draft;
        let id = self.upload_of(shard, draft).filter(drafts);
        if let Some(upload) = id.and_then(|id| self.uploads.remove(&id)) {
            upload.reply.read(reading);
        }
    }

    /// The coordinator is too old to take this.
    pub fn refused(&mut self, id: UploadId) {
        if let Some(upload) = self.uploads.remove(&id) {
            let reason = format!("the coordinator takes no {}", role_word(upload.artifact.role));
            upload.reply.failed(CourierError::Down(reason));
        }
    }

    /// The coordinator could not store an artifact.
    pub fn not_stored(&mut self, shard: ShardId, artifact: ArtifactId, reason: &str, now: Instant) {
        if let Some(id) = self.upload_of(shard, artifact) {
            self.upload_failed(id, CourierError::Down(reason.to_owned()), now);
        }
    }

    /// Whether somebody waits for this artifact with this size; marks it as arriving.
    pub fn expects(&mut self, artifact: ArtifactId, bytes: u64) -> bool {
        let Some(fetches) = self.fetches.get_mut(&artifact) else { return false };
        let mut wanted = false;
        for fetch in fetches {
            if fetch.artifact.bytes == bytes && !fetch.receiving {
                fetch.receiving = true;
                wanted = true;
            }
        }
        wanted
    }

    /// The attempts that wait for this artifact.
    pub fn who_wait(&self, artifact: ArtifactId) -> impl Iterator<Item = AttemptKey> {
        self.fetches.get(&artifact).into_iter().flatten().map(|fetch| fetch.key)
    }

    /// An artifact arrived, or failed to. Returns the file if nobody waits for it any more.
    pub fn received(
        &mut self,
        artifact: ArtifactId,
        result: Result<PathBuf, Lost>,
        patience: Patience,
        now: Instant,
    ) -> Option<PathBuf> {
        let Some(fetches) = self.fetches.remove(&artifact) else { return result.ok() };
        let result = match result {
            Ok(path) => {
                self.damaged.remove(&artifact);
                Ok(path)
            }
            Err(Lost::Gone(reason)) => Err((CourierError::Missing(reason), false)),
            Err(Lost::Down(reason)) => Err((CourierError::Down(reason), true)),
            Err(Lost::Disk(reason)) => Err((CourierError::Disk(reason), true)),
            Err(Lost::Damaged(reason)) if self.is_lasting(artifact, patience, now) => {
                Err((CourierError::Missing(reason), false))
            }
            // Whoever ordered the attempt waits a little, and orders it again.
            Err(Lost::Damaged(reason)) => Err((CourierError::Down(reason), false)),
        };
        let (mut left, mut taken) = (Vec::new(), false);
        for mut fetch in fetches {
            match &result {
                Ok(path) => taken |= answer(fetch.reply, Ok(path.clone())),
                Err((error, again)) => {
                    fetch.tries += 1;
                    fetch.asked = None;
                    fetch.receiving = false;
                    if *again && fetch.tries < TRIES_MAX {
                        left.push(fetch);
                    } else {
                        answer(fetch.reply, Err(error.clone()));
                    }
                }
            }
        }
        if !left.is_empty() {
            self.fetches.insert(artifact, left);
        }
        result.ok().filter(|_| !taken)
    }

    /// Whether other bytes have come for an artifact for so long that it must be made again. Said once: what is made then has
    /// the same address, and its time.
    fn is_lasting(&mut self, artifact: ArtifactId, patience: Patience, now: Instant) -> bool {
        let since = *self.damaged.entry(artifact).or_insert(now);
        let lasting = now.saturating_duration_since(since) >= patience.damaged;
        if lasting {
            self.damaged.remove(&artifact);
        } else if self.damaged.len() > DAMAGED_MAX {
            let oldest = self.damaged.iter().min_by_key(|(_, since)| **since).map(|(id, _)| *id);
            oldest.map(|id| self.damaged.remove(&id));
        }
        lasting
    }

    /// Looks for answers that did not come.
    pub fn overdue(&mut self, patience: Patience, now: Instant) {
        self.claims.overdue(patience, now);
        let late = |since: Instant| now.saturating_duration_since(since) >= patience.answer;
        let uploads: Vec<UploadId> = self
            .uploads
            .iter()
            .filter(|(_, upload)| matches!(upload.step, Step::Sent { at } if late(at)))
            .map(|(id, _)| *id)
            .collect();
        for id in uploads {
            self.upload_over(id, CourierError::Down("no acknowledgement in time".to_owned()));
        }
        for (id, fetches) in &mut self.fetches {
            let over = |fetch: &mut Fetch| !fetch.receiving && fetch.asked.is_some_and(late);
            for fetch in fetches.extract_if(.., |fetch| over(fetch)) {
                let reason = format!("artifact {id} did not come in time");
                answer(fetch.reply, Err(CourierError::Down(reason)));
            }
        }
        self.fetches.retain(|_, fetches| !fetches.is_empty());
    }

    /// Ends the transfers of one attempt, or of all.
    pub fn give_up(&mut self, of: Option<AttemptKey>, error: &CourierError) {
        self.claims.give_up(of, error);
        let mine = |key: AttemptKey| of.is_none_or(|of| of == key);
        let uploads: Vec<UploadId> =
            self.uploads.iter().filter(|(_, one)| mine(one.key)).map(|(id, _)| *id).collect();
        for id in uploads {
            if let Some(upload) = self.uploads.remove(&id) {
                upload.reply.failed(error.clone());
            }
        }
        for fetches in self.fetches.values_mut() {
            let (gone, left): (Vec<Fetch>, Vec<Fetch>) =
                std::mem::take(fetches).into_iter().partition(|fetch| mine(fetch.key));
            *fetches = left;
            for fetch in gone {
                answer(fetch.reply, Err(error.clone()));
            }
        }
        self.fetches.retain(|_, fetches| !fetches.is_empty());
    }
}

/// Whether somebody heard it: the gpu thread may have given the attempt up and no longer listen.
fn answer<T>(reply: oneshot::Sender<T>, value: T) -> bool {
    reply.send(value).is_ok()
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Prompt => "prompt embeddings",
        Role::Latents { .. } => "latents",
        Role::Segment { .. } => "segment",
        Role::Clip => "clip",
        Role::Thumbnail => "thumbnail",
        Role::Spritesheet => "spritesheet",
        Role::Scores => "record of sampled frames",
        Role::Marks => "record of marks",
        Role::Draft => "clip to be read",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use zoetrope_protocol::job::Cause;
    use zoetrope_protocol::{JobId, Stage};

    type Answer = oneshot::Receiver<Result<Instant, CourierError>>;

    fn shard() -> ShardId {
        ShardId { job: JobId(1), stage: Stage::Denoise, index: 0 }
    }

    fn upload(transfers: &mut Transfers, now: Instant) -> (ArtifactId, Answer) {
        let bytes = Bytes::from_static(b"latents");
        let id = ArtifactId::of(&bytes);
        let artifact = ArtifactRef { role: Role::Latents { step: 1 }, artifact: id, bytes: 7 };
        let (reply, answer) = oneshot::channel();
        let (payload, reply) = (Payload::Memory(bytes), StoreReply::Stored(reply));
        let request = StoreRequest { key: AttemptKey(1), artifact, payload, reply };
        transfers.store(request, shard(), now);
        (id, answer)
    }

    fn draft(
        transfers: &mut Transfers,
        now: Instant,
    ) -> (ArtifactId, oneshot::Receiver<DraftReading>) {
        let bytes = Bytes::from_static(b"clip");
        let id = ArtifactId::of(&bytes);
        let artifact = ArtifactRef { role: Role::Draft, artifact: id, bytes: 4 };
        let (reply, answer) = oneshot::channel();
        let (payload, reply) = (Payload::Memory(bytes), StoreReply::Read(reply));
        let request = StoreRequest { key: AttemptKey(1), artifact, payload, reply };
        transfers.store(request, shard(), now);
        (id, answer)
    }

    /// Promise: a draft is answered by what was read in it, and is nobody's business any more where it cannot be read: its
    /// worker reads it itself.
    #[test]
    fn a_draft_is_read_or_left_to_its_worker() {
        let now = Instant::now();
        let mut transfers = Transfers::default();
        let (id, mut answer) = draft(&mut transfers, now);
        let (other, mut stored) = upload(&mut transfers, now);
        let marked = DraftReading::Marked { in_sound: true };
        transfers.read(shard(), other, marked);
        assert!(stored.try_recv().is_err(), "latents are not read");
        transfers.read(shard(), id, marked);
        assert_eq!(answer.try_recv(), Ok(marked));
        transfers.stored(shard(), other);
        assert!(transfers.is_empty());

        type End = fn(&mut Transfers, ArtifactId, Instant);
        let ends: [End; 4] = [
            |transfers, _, now| {
                transfers.to_send(now).iter().for_each(|one| transfers.refused(one.id))
            },
            |transfers, id, _| transfers.stored(shard(), id),
            |transfers, _, _| transfers.give_up(None, &CourierError::GivenUp),
            |transfers, id, mut now| {
                for _ in 0..TRIES_MAX {
                    transfers.to_send(now);
                    transfers.not_stored(shard(), id, "full", now);
                    now += RETRY_AFTER * TRIES_MAX;
                }
            },
        ];
        for end in ends {
            let (id, mut answer) = draft(&mut transfers, now);
            end(&mut transfers, id, now);
            assert_eq!(answer.try_recv(), Ok(DraftReading::Unread));
            assert!(transfers.is_empty());
        }
    }

    /// Promise: an upload that is refused is tried three times, then the dependency is down. Each refusal counts once, though it
    /// is told by a frame and by the stream that it stops.
    #[test]
    fn a_refused_upload_is_tried_three_times() {
        let mut transfers = Transfers::default();
        let mut now = Instant::now();
        let (id, mut answer) = upload(&mut transfers, now);
        for _ in 0..TRIES_MAX {
            let due = transfers.to_send(now);
            assert_eq!(due.len(), 1);
            transfers.not_stored(shard(), id, "full", now);
            transfers.sent(due[0].id, Err(CourierError::Down("stopped".to_owned())), now);
            now += RETRY_AFTER * TRIES_MAX;
        }
        assert!(matches!(answer.try_recv(), Ok(Err(CourierError::Down(_)))));
        assert!(transfers.is_empty());
    }

    /// Promise: where no answer comes the dependency is down, before the farm calls the attempt stalled and blames its worker.
    #[test]
    fn what_is_not_answered_is_over_before_the_worker_is_blamed() {
        let mut transfers = Transfers::default();
        let patience = Patience::default();
        let mut now = Instant::now();
        let (_, mut stored) = upload(&mut transfers, now);
        let due = transfers.to_send(now);
        transfers.sent(due[0].id, Ok(()), now);
        let artifact = ArtifactRef { role: Role::Prompt, artifact: ArtifactId::of(b"x"), bytes: 1 };
        let (reply, mut fetched) = oneshot::channel();
        transfers.fetch(FetchRequest { key: AttemptKey(1), artifact, reply });
        transfers.to_ask(now);
        now += patience.answer;
        assert!(patience.answer.as_secs() <= 60, "of the 120 s");
        transfers.overdue(patience, now);
        assert!(matches!(stored.try_recv(), Ok(Err(CourierError::Down(_)))));
        assert!(matches!(fetched.try_recv(), Ok(Err(CourierError::Down(_)))));
        assert!(transfers.is_empty());
    }

    /// Promise: a file that nobody waits for any more does not stay on the disk.
    #[test]
    fn a_file_without_a_taker_is_given_back() {
        let (mut transfers, patience) = (Transfers::default(), Patience::default());
        let (id, now) = (ArtifactId::of(b"x"), Instant::now());
        let artifact = ArtifactRef { role: Role::Prompt, artifact: id, bytes: 1 };
        let ask = |transfers: &mut Transfers| {
            let (reply, answer) = oneshot::channel();
            transfers.fetch(FetchRequest { key: AttemptKey(1), artifact, reply });
            answer
        };
        let file = || PathBuf::from("receiving-1");
        let answer = ask(&mut transfers);
        assert_eq!(transfers.received(id, Ok(file()), patience, now), None, "it is taken");
        drop(answer);
        drop(ask(&mut transfers));
        assert_eq!(transfers.received(id, Ok(file()), patience, now), Some(file()));
        let _answer = ask(&mut transfers);
        transfers.give_up(None, &CourierError::GivenUp);
        assert_eq!(transfers.received(id, Ok(file()), patience, now), Some(file()));
    }

    /// Promise: a lost link costs no try, and everything goes out again.
    #[test]
    fn a_lost_link_costs_no_try() {
        let mut transfers = Transfers::default();
        let now = Instant::now();
        let (id, mut answer) = upload(&mut transfers, now);
        for _ in 0..10 {
            assert_eq!(transfers.to_send(now).len(), 1);
            transfers.link_lost(now);
        }
        assert_eq!(transfers.spool_bytes(), 7);
        transfers.stored(shard(), id);
        assert!(matches!(answer.try_recv(), Ok(Ok(_))));
        assert_eq!(transfers.spool_bytes(), 0);
    }

    /// Promise: other bytes than an artifact's are waited out, and made again only if the store keeps giving them.
    #[test]
    fn a_damaged_artifact_is_waited_for_and_then_missing() {
        let (mut transfers, patience) = (Transfers::default(), Patience::default());
        let mut now = Instant::now();
        let id = ArtifactId::of(b"x");
        let artifact = ArtifactRef { role: Role::Prompt, artifact: id, bytes: 1 };
        let ask = |transfers: &mut Transfers, result, now| {
            let (reply, mut answer) = oneshot::channel();
            transfers.fetch(FetchRequest { key: AttemptKey(1), artifact, reply });
            transfers.received(id, result, patience, now);
            answer.try_recv().expect("is answered")
        };
        let damaged = || Err(Lost::Damaged("digest differs".into()));
        for _ in 0..2 {
            for _ in 0..3 {
                let told = ask(&mut transfers, damaged(), now);
                assert!(matches!(told, Err(CourierError::Down(_))), "{told:?}");
                now += patience.damaged / 3;
            }
            let told = ask(&mut transfers, damaged(), now);
            assert!(matches!(told, Err(CourierError::Missing(_))), "{told:?}");
        }
        // What came whole in between begins anew.
        ask(&mut transfers, damaged(), now).expect_err("is damaged");
        ask(&mut transfers, Ok("x".into()), now).expect("is whole");
        now += patience.damaged;
        let told = ask(&mut transfers, damaged(), now);
        assert!(matches!(told, Err(CourierError::Down(_))), "{told:?}");
        let told = ask(&mut transfers, Err(Lost::Gone("none".into())), now);
        assert!(matches!(told, Err(CourierError::Missing(_))), "{told:?}");
        // Only so many are remembered.
        for n in 0..2 * DAMAGED_MAX as u32 {
            transfers.is_lasting(ArtifactId::of(&n.to_le_bytes()), patience, now);
        }
        assert_eq!(transfers.damaged.len(), DAMAGED_MAX);
    }

    /// Promise: a worker whose disk is full, or cannot be read, is to blame for what it cannot do: its shards go elsewhere.
    #[test]
    fn our_own_disk_is_nobody_elses_trouble() {
        let (mut transfers, patience) = (Transfers::default(), Patience::default());
        let mut now = Instant::now();
        let id = ArtifactId::of(b"x");
        let artifact = ArtifactRef { role: Role::Prompt, artifact: id, bytes: 1 };
        let (reply, mut answer) = oneshot::channel();
        transfers.fetch(FetchRequest { key: AttemptKey(1), artifact, reply });
        for _ in 0..TRIES_MAX {
            assert_eq!(transfers.to_ask(now), [id]);
            transfers.received(id, Err(Lost::Disk("it is full".into())), patience, now);
        }
        let told = answer.try_recv().expect("is answered").expect_err("has failed");
        assert_eq!(told.cause(), Cause::EngineError, "{told:?}");
        let (_, mut answer) = upload(&mut transfers, now);
        for _ in 0..TRIES_MAX {
            now += RETRY_AFTER * TRIES_MAX;
            let due = transfers.to_send(now);
            let unread = CourierError::Disk("the spooled file is gone".into());
            transfers.sent(due[0].id, Err(unread), now);
        }
        let told = answer.try_recv().expect("is answered").expect_err("has failed");
        assert_eq!(told.cause(), Cause::EngineError, "{told:?}");
    }

    #[test]
    fn an_unwanted_artifact_is_refused() {
        let mut transfers = Transfers::default();
        let id = ArtifactId::of(b"x");
        assert!(!transfers.expects(id, 1));
        let artifact = ArtifactRef { role: Role::Prompt, artifact: id, bytes: 1 };
        let (reply, _answer) = oneshot::channel();
        transfers.fetch(FetchRequest { key: AttemptKey(1), artifact, reply });
        assert_eq!(transfers.to_ask(Instant::now()), [id]);
        assert!(transfers.to_ask(Instant::now()).is_empty());
        assert!(!transfers.expects(id, 2), "another size is another artifact");
        assert!(transfers.expects(id, 1));
    }

    #[test]
    fn the_spool_has_a_limit() {
        let mut transfers = Transfers::default();
        let artifact = ArtifactRef {
            role: Role::Clip,
            artifact: ArtifactId::of(b""),
            bytes: ARTIFACT_BYTES_MAX + 1,
        };
        let (reply, mut answer) = oneshot::channel();
        let payload = Payload::File { path: "clip".into(), bytes: artifact.bytes };
        let reply = StoreReply::Stored(reply);
        let request = StoreRequest { key: AttemptKey(1), artifact, payload, reply };
        transfers.store(request, shard(), Instant::now());
        assert!(matches!(answer.try_recv(), Ok(Err(CourierError::Down(_)))));
    }
}
