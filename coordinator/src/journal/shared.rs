//! A journal in etcd, where every coordinator of the farm can read it and the leader alone can write.
//!
//! Each write is one transaction that compares the leader's election key, and one is in flight at a time, so
//! the log has no gap and no second author. A transaction whose outcome is unknown is sent again as it was: it
//! sets the same keys to the same bytes. While etcd is away or full the journal waits, which holds every
//! acknowledgement back; it ends when the leadership is lost.
//!
//! Keys: `journal/<first record>` holds a chunk of records ([`super::chunk`]), `head` the last number,
//! `snapshot/<record>/<piece>` the pieces of a snapshot and `snapshots/<record>` that it is whole. Long records, and
//! what only remembers, lie in the store; while that is down, long records lie under `apart/<record>`.

use super::chunk::{self, Told};
use super::log::{Form, Log, Save, SnapshotBody, SnapshotBytes};
use super::recovery::{Recovered, judge, loss};
use super::writer::Writer;
use super::{JournalError, chunk::Apart};
use crate::etcd::{Etcd, EtcdError, Fence, OPS_MAX, Op, TXN_BYTES_MAX};
use crate::leadership::Leadership;
use crate::store::{Store, StoreError};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// The first wait before a write is tried again; it doubles up to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_millis(500);
/// Callers are told to come back later once a write has failed for so long; shorter troubles they wait out.
const STALLED_AFTER: Duration = Duration::from_secs(1);
/// Room in a transaction for what is not the values: keys, and the head.
const TXN_ROOM_BYTES: usize = 32 << 10;
/// One piece of a snapshot: small enough that a record behind it waits some milliseconds.
const PIECE_BYTES: usize = 256 << 10;
/// Chunks of one page when the journal is read: 2.3 MiB at most, under the 4 MiB of a gRPC message.
const CHUNKS_A_PAGE: i64 = 64;
/// Pieces of one page: 2 MiB.
const PIECES_A_PAGE: i64 = 8;
/// Long records that are written to or read from the store at a time.
const FILES_AT_ONCE: usize = 16;
/// A long record is written to the store within so long, or to etcd: it takes some ten milliseconds.
const STORE_PATIENCE: Duration = Duration::from_secs(2);
/// A store that failed is not asked again for so long: each time holds all records up.
const STORE_PAUSE: Duration = Duration::from_secs(15);
/// The longest record that etcd takes: with its key and the comparison it stays below a transaction.
const APART_BYTES_MAX: usize = TXN_BYTES_MAX - TXN_ROOM_BYTES;
/// Long records of one page: 3 MiB at most.
const APART_A_PAGE: i64 = 3;
/// The longest body that a row may have to stay in etcd's part of a snapshot.
const ROW_BYTES_MAX: usize = 4 << 10;

/// What a journal in etcd needs.
#[derive(Clone)]
pub struct Shared {
    /// The farm's etcd.
    pub etcd: Etcd,
    /// The term in which it is written.
    pub leadership: Arc<Leadership>,
    /// Where long records are.
    pub store: Arc<Store>,
    /// Runs the requests; the calls of this journal block.
    pub runtime: Handle,
    /// Held while a transaction is in flight.
    pub turn: Arc<Mutex<()>>,
    /// When the store failed to take a record, if it did.
    pub failed: Option<Instant>,
}

/// That a snapshot is whole.
#[derive(Serialize, Deserialize)]
struct Whole {
    pieces: usize,
    bytes: u64,
    crc: u32,
    /// The file in the store with the rest of it.
    rest: Option<String>,
}

/// Why a request is tried again.
enum Trouble {
    Etcd(EtcdError),
    Store(StoreError),
    Deposed,
}

/// Opens the journal in etcd. Blocking.
///
/// # Errors
/// `Missing` unless `accept_loss`; `Deposed` if the leadership ends meanwhile; `Read`.
pub fn open(shared: Shared, accept_loss: bool) -> Result<Recovered, JournalError> {
    let snapshot = shared.newest_snapshot()?;
    let base = snapshot.as_ref().map_or(0, |(seq, _)| *seq);
    let head = match shared.insist(false, || async { Ok(shared.etcd.get("head").await?) })? {
        Some(entry) => number(&String::from_utf8_lossy(&entry.value)).ok_or_else(|| {
            JournalError::Read("the key `head` in etcd holds no number".to_owned())
        })?,
        None => 0,
    };
    let records = shared.records_behind(base)?;
    let last = records.last().map_or(base, |(seq, _)| *seq);
    let proven = head.max(base);
    let loss = judge(loss(base, proven, &records), accept_loss)?;
    let next = last.max(proven) + 1;
    Ok(Recovered { snapshot, records, loss, writer: Writer::new(shared, next) })
}

impl Log for Shared {
    fn append(&mut self, first: u64, bodies: &[Vec<u8>]) -> Result<u64, JournalError> {
        self.put_apart(first, bodies)?;
        let chunks = chunk::pack(first, bodies);
        let bytes = chunks.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let mut ends = chunks.iter().skip(1).map(|(first, _)| first - 1).collect::<Vec<_>>();
        ends.push(first + bodies.len() as u64 - 1);
        let mut ops = Vec::new();
        let mut size = 0;
        let mut chunks = chunks.into_iter().zip(ends).peekable();
        while let Some(((first, bytes), end)) = chunks.next() {
            size += bytes.len();
            ops.push(Op::Put(journal_key(first), bytes));
            let fits = chunks.peek().is_some_and(|((_, next), _)| {
                size + next.len() <= TXN_BYTES_MAX - TXN_ROOM_BYTES && ops.len() < OPS_MAX - 1
            });
            if !fits {
                ops.push(Op::Put("head".to_owned(), end.to_string().into_bytes()));
                self.write(&ops)?;
                ops.clear();
                size = 0;
            }
        }
        Ok(bytes)
    }

    fn begin_snapshot(&mut self, through: u64) -> Result<Save, JournalError> {
        let shared = self.clone();
        Ok(Box::new(move |body| shared.save(through, body)))
    }

    fn forget(&mut self) -> Result<(), JournalError> {
        let mut whole = self.snapshots()?;
        whole.reverse();
        let Some((keep, _)) = whole.get(1) else { return Ok(()) };
        let keep = *keep;
        let revision = self.write(&[
            Op::DeleteRange(journal_key(0), journal_key(keep + 1)),
            Op::DeleteRange(apart_key(0), apart_key(keep + 1)),
            Op::DeleteRange(piece_prefix(0), piece_prefix(keep)),
            Op::DeleteRange(whole_key(0), whole_key(keep)),
        ])?;
        // Space only: what goes wrong here is tried again behind the next snapshot.
        let shared = self.clone();
        self.runtime.spawn(async move {
            if let Err(error) = shared.etcd.compact(revision).await {
                tracing::warn!(%error, "etcd was not compacted");
            }
            if let Err(error) = shared.delete_apart(keep).await {
                tracing::warn!(%error, "old parts of the journal stay in the store");
            }
        });
        Ok(())
    }
}

impl Shared {
    fn fence(&self) -> Result<&Fence, JournalError> {
        self.leadership.fence().ok_or(JournalError::Deposed)
    }

    /// Writes a transaction, however long it takes. Returns its revision.
    fn write(&self, ops: &[Op]) -> Result<i64, JournalError> {
        let fence = self.fence()?;
        // A thread that died holding it left nothing half done: the transaction is one.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.insist(true, || async { self.etcd.write(fence, ops).await?.ok_or(Trouble::Deposed) })
    }

    /// Asks until there is an answer or the leadership ends.
    fn insist<T, F>(&self, writes: bool, ask: impl Fn() -> F) -> Result<T, JournalError>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        let asking = async {
            let (began, mut wait) = (Instant::now(), WAIT_MIN);
            loop {
                match ask().await {
                    Ok(answer) => {
                        if writes {
                            self.leadership.stall(false);
                        }
                        return Ok(answer);
                    }
                    Err(trouble) => self.endure(trouble, writes, began, wait)?,
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAIT_MAX);
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.leadership.lost().cancelled() => Err(JournalError::Deposed),
                answer = asking => answer,
            }
        })
    }

    /// Whether trying again may help; says once that it is being done.
    fn endure(
        &self,
        trouble: Trouble,
        writes: bool,
        began: Instant,
        wait: Duration,
    ) -> Result<(), JournalError> {
        let (said, full) = match trouble {
            Trouble::Deposed => {
                self.leadership.lose();
                return Err(JournalError::Deposed);
            }
            Trouble::Etcd(EtcdError::Refused(why)) => return Err(JournalError::Write(why)),
            Trouble::Etcd(error) => {
                let full = matches!(error, EtcdError::NoSpace);
                (error.to_string(), full)
            }
            Trouble::Store(StoreError::Missing) => {
                return Err(JournalError::Read("a record's file is not in the store".to_owned()));
            }
            Trouble::Store(error) => (format!("{error}: {:?}", error), false),
        };
        if writes && (full || began.elapsed() >= STALLED_AFTER) {
            self.leadership.stall(true);
        }
        if wait == WAIT_MIN {
            tracing::warn!(trouble = said, "the journal waits");
        }
        Ok(())
    }

    /// Writes the long records of a batch to the store; those that it does not take to etcd.
    fn put_apart(&mut self, first: u64, bodies: &[Vec<u8>]) -> Result<(), JournalError> {
        let long = (first..).zip(bodies).filter(|(_, b)| b.len() > chunk::INLINE_BYTES_MAX);
        let mut long: Vec<(u64, &Vec<u8>)> = long.collect();
        if long.is_empty() {
            return Ok(());
        }
        if self.failed.is_none_or(|at| at.elapsed() >= STORE_PAUSE) {
            long = self.refused(&long);
            let fails = !long.is_empty();
            if fails && self.failed.is_none() {
                tracing::warn!("the store takes no records: long ones lie in etcd meanwhile");
            }
            self.failed = fails.then(Instant::now);
        }
        for (seq, body) in long {
            if body.len() <= APART_BYTES_MAX {
                self.write(&[Op::Put(apart_key(seq), body.clone())])?;
            } else {
                let name = Apart::of(body).name(seq);
                self.insist(true, || async {
                    self.store.put_part(&name, body).await.map_err(Trouble::Store)
                })?;
            }
        }
        Ok(())
    }

    /// Those of these records that the store did not take in time.
    fn refused<'b>(&self, long: &[(u64, &'b Vec<u8>)]) -> Vec<(u64, &'b Vec<u8>)> {
        // One that is not taken says enough: a store that hangs is not waited for by each in turn.
        let down = &AtomicBool::new(false);
        let puts = long.iter().map(|(seq, body)| async move {
            if down.load(Ordering::Relaxed) {
                return Some((*seq, *body));
            }
            let name = Apart::of(body).name(*seq);
            let put = self.store.put_part(&name, body);
            let put = tokio::time::timeout(STORE_PATIENCE, put).await;
            let taken = matches!(put, Ok(Ok(())));
            down.fetch_or(!taken, Ordering::Relaxed);
            (!taken).then_some((*seq, *body))
        });
        let puts = futures::stream::iter(puts).buffer_unordered(FILES_AT_ONCE);
        self.runtime.block_on(puts.filter_map(std::future::ready).collect())
    }

    /// The long records behind `base` that etcd has.
    fn apart_in_etcd(&self, base: u64) -> Result<BTreeMap<u64, Vec<u8>>, JournalError> {
        let mut found = BTreeMap::new();
        let mut from = apart_key(base + 1);
        loop {
            let page = self.page(&from, &after("apart/"), APART_A_PAGE)?;
            let Some(last) = page.last() else { return Ok(found) };
            from = format!("{}\0", last.key);
            found.extend(page.into_iter().filter_map(|entry| {
                Some((entry.key.strip_prefix("apart/").and_then(number)?, entry.value))
            }));
        }
    }

    fn records_behind(&self, base: u64) -> Result<Vec<(u64, Vec<u8>)>, JournalError> {
        let mut told = BTreeMap::new();
        let mut from = journal_key(0);
        loop {
            let page = self.page(&from, &after("journal/"), CHUNKS_A_PAGE)?;
            for entry in &page {
                if let Some(first) = entry.key.strip_prefix("journal/").and_then(number) {
                    told.extend(chunk::unpack(first, &entry.value));
                }
            }
            match page.last() {
                Some(last) if page.len() as i64 == CHUNKS_A_PAGE => {
                    from = format!("{}\0", last.key)
                }
                _ => break,
            }
        }
        let mut records = Vec::new();
        let mut apart = Vec::new();
        for (seq, told) in told.into_iter().filter(|(seq, _)| *seq > base) {
            match told {
                Told::Inline(body) => records.push((seq, body)),
                Told::Apart(place) => apart.push((seq, place)),
                // As good as missing; what is missing is judged by the caller.
                Told::Damaged => {}
            }
        }
        if !apart.is_empty() {
            let mut here = self.apart_in_etcd(base)?;
            apart.retain(|(seq, place)| match here.remove(seq).filter(|body| place.is(body)) {
                Some(body) => {
                    records.push((*seq, body));
                    false
                }
                None => true,
            });
        }
        records.extend(self.insist(false, || async {
            let reads = apart.iter().map(|(seq, place)| self.read_apart(*seq, place));
            let read = futures::stream::iter(reads).buffer_unordered(FILES_AT_ONCE);
            read.try_collect::<Vec<_>>()
                .await
                .map(|read| read.into_iter().flatten().collect::<Vec<_>>())
        })?);
        records.sort_unstable_by_key(|(seq, _)| *seq);
        Ok(records)
    }

    /// A long record; none if its file is gone or is another.
    async fn read_apart(&self, seq: u64, place: &Apart) -> Result<Option<(u64, Vec<u8>)>, Trouble> {
        match self.store.part(&place.name(seq)).await {
            Ok(body) if place.is(&body) => Ok(Some((seq, body))),
            Ok(_) | Err(StoreError::Missing) => Ok(None),
            Err(error) => Err(Trouble::Store(error)),
        }
    }

    fn page(
        &self,
        from: &str,
        to: &str,
        limit: i64,
    ) -> Result<Vec<crate::etcd::Entry>, JournalError> {
        self.insist(false, || async { Ok(self.etcd.range(from, to, limit).await?) })
    }

    /// The whole snapshots, ascending.
    fn snapshots(&self) -> Result<Vec<(u64, Whole)>, JournalError> {
        let page = self.page(&whole_key(0), &after("snapshots/"), CHUNKS_A_PAGE)?;
        let whole = |entry: &crate::etcd::Entry| {
            let seq = entry.key.strip_prefix("snapshots/").and_then(number)?;
            Some((seq, serde_json::from_slice(&entry.value).ok()?))
        };
        Ok(page.iter().filter_map(whole).collect())
    }

    fn newest_snapshot(&self) -> Result<Option<(u64, SnapshotBytes)>, JournalError> {
        for (seq, whole) in self.snapshots()?.into_iter().rev() {
            match self.snapshot(seq, &whole)? {
                Some(bytes) => return Ok(Some((seq, bytes))),
                None => tracing::warn!(seq, "a damaged snapshot is passed over"),
            }
        }
        Ok(None)
    }

    fn snapshot(&self, seq: u64, whole: &Whole) -> Result<Option<SnapshotBytes>, JournalError> {
        let mut live = Vec::new();
        let mut from = piece_prefix(seq);
        loop {
            let page = self.page(&from, &piece_prefix(seq + 1), PIECES_A_PAGE)?;
            for entry in &page {
                live.extend_from_slice(&entry.value);
            }
            match page.last() {
                Some(last) if page.len() as i64 == PIECES_A_PAGE => {
                    from = format!("{}\0", last.key)
                }
                _ => break,
            }
        }
        if live.len() as u64 != whole.bytes || crc32c::crc32c(&live) != whole.crc {
            return Ok(None);
        }
        let rest = match &whole.rest {
            None => Vec::new(),
            Some(name) => {
                let read = self.insist(false, || async {
                    match self.store.part(name).await {
                        Ok(bytes) => Ok(Some(bytes)),
                        Err(StoreError::Missing) => Ok(None),
                        Err(error) => Err(Trouble::Store(error)),
                    }
                })?;
                match read.filter(|bytes| *name == rest_name(seq, bytes)) {
                    Some(bytes) => bytes,
                    None => return Ok(None),
                }
            }
        };
        Ok(Some(SnapshotBytes { live, rest }))
    }

    fn save(&self, through: u64, body: SnapshotBody) -> Result<(), JournalError> {
        let SnapshotBytes { live, rest } = body(Form::Split { item_bytes: ROW_BYTES_MAX })?;
        let rest_at = (!rest.is_empty()).then(|| rest_name(through, &rest));
        if let Some(name) = &rest_at {
            // However long it takes: only records hold callers up.
            self.insist(false, || async {
                self.store.put_part(name, &rest).await.map_err(Trouble::Store)
            })?;
        }
        // A snapshot of an earlier term may have ended half way at the same number.
        self.write(&[Op::DeleteRange(piece_prefix(through), piece_prefix(through + 1))])?;
        for (at, piece) in live.chunks(PIECE_BYTES).enumerate() {
            let key = format!("{}{at:06}", piece_prefix(through));
            self.write(&[Op::Put(key, piece.to_vec())])?;
        }
        let whole = Whole {
            pieces: live.len().div_ceil(PIECE_BYTES),
            bytes: live.len() as u64,
            crc: crc32c::crc32c(&live),
            rest: rest_at,
        };
        let whole = serde_json::to_vec(&whole).map_err(|e| JournalError::Write(e.to_string()))?;
        self.write(&[Op::Put(whole_key(through), whole)]).map(drop)
    }

    /// Deletes the store's parts that only what lies behind snapshot `keep` needed.
    async fn delete_apart(&self, keep: u64) -> Result<(), StoreError> {
        let names: Vec<String> = self.store.parts().try_collect().await?;
        for name in names {
            let (kind, seq) = match name.split_once('-') {
                Some((kind, rest)) => (kind, rest.get(..20).and_then(number)),
                None => continue,
            };
            let old = match (kind, seq) {
                ("record", Some(seq)) => seq <= keep,
                ("snapshot", Some(seq)) => seq < keep,
                _ => false,
            };
            if old && self.leadership.is_held() {
                self.store.delete_part(&name).await?;
            }
        }
        Ok(())
    }
}

impl From<EtcdError> for Trouble {
    fn from(error: EtcdError) -> Trouble {
        Trouble::Etcd(error)
    }
}

fn rest_name(seq: u64, bytes: &[u8]) -> String {
    format!("snapshot-{seq:020}-{}", hex::encode(Apart::of(bytes).digest))
}

fn journal_key(first: u64) -> String {
    format!("journal/{first:020}")
}

fn apart_key(seq: u64) -> String {
    format!("apart/{seq:020}")
}

fn piece_prefix(seq: u64) -> String {
    format!("snapshot/{seq:020}/")
}

fn whole_key(seq: u64) -> String {
    format!("snapshots/{seq:020}")
}

/// The first key behind all that begin with `prefix`, which ends in a slash.
fn after(prefix: &str) -> String {
    format!("{}0", prefix.trim_end_matches('/'))
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}
