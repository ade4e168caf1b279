//! Requests that may be the same: those being handled now, and idempotency keys of the last day.
//!
//! This is memory of one process, for what must be known before a request is checked. What makes a
//! key hold across a restart is the farm, which stores it with the job.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a key is remembered.
pub const KEY_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Keys that are remembered: 96 bytes each, so 10 MB.
const KEYS_MAX: usize = 100_000;
/// Bytes of answers that are remembered beside their keys.
const ANSWERS_MAX: usize = 16 << 20;

/// A SHA-256.
pub type Hash = [u8; 32];

/// What the door remembers of requests.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    running: HashMap<Hash, Vec<(u64, watch::Receiver<()>)>>,
    keys: HashMap<Hash, Key>,
    /// Keys that are done, the oldest first.
    done: VecDeque<(Hash, Instant)>,
    answer_bytes: usize,
}

#[derive(Debug)]
enum Key {
    Running,
    Done { content: Hash, answer: Option<Bytes> },
}

/// Whether a request with a key may be handled.
#[derive(Debug)]
pub enum Begun {
    /// Yes: it was not used, or for this and only the farm knows what was answered. It is taken until the guard is gone.
    Free(KeyGuard),
    /// The first request with the key still runs.
    InUse,
    /// It was used for other content.
    Reused,
    /// It was used for this, with this answer. Nothing is left to be done, so the key is not taken.
    Answered(Bytes),
}

/// Keeps a key in use. Without [`KeyGuard::done`], the key is as it was before.
#[derive(Debug)]
pub struct KeyGuard {
    recent: Recent,
    key: Hash,
    before: Option<Key>,
    /// Whether the key stands in `done` already.
    listed: bool,
}

/// Keeps a content marked as being handled.
#[derive(Debug)]
pub struct ContentGuard {
    recent: Recent,
    content: Hash,
    number: u64,
    /// Dropped with the guard, which wakes those who wait.
    _open: watch::Sender<()>,
}

/// Earlier requests of the same content that are still being handled.
#[derive(Debug)]
pub struct Earlier(Vec<watch::Receiver<()>>);

impl Earlier {
    /// Waits until all of them are answered.
    pub async fn ended(self) {
        for mut request in self.0 {
            // An error says that the guard is gone: that is what we wait for.
            while request.changed().await.is_ok() {}
        }
    }
}

impl Recent {
    /// Whether a request with this key is being handled.
    pub fn is_running(&self, key: &Hash) -> bool {
        matches!(self.lock().keys.get(key), Some(Key::Running))
    }

    /// Takes a key for a request of this content.
    pub fn begin_key(&self, key: Hash, content: Hash) -> Begun {
        let mut inner = self.lock();
        inner.forget_old();
        match inner.keys.get(&key) {
            Some(Key::Running) => return Begun::InUse,
            Some(Key::Done { content: other, .. }) if *other != content => return Begun::Reused,
            Some(Key::Done { answer: Some(answer), .. }) => return Begun::Answered(answer.clone()),
            None | Some(Key::Done { answer: None, .. }) => {}
        }
        let before = inner.keys.insert(key, Key::Running);
        let listed = before.is_some();
        Begun::Free(KeyGuard { recent: self.clone(), key, before, listed })
    }

    /// Marks a content as being handled, and names those that came before.
    pub fn begin_content(&self, content: Hash) -> (ContentGuard, Earlier) {
        let (sender, receiver) = watch::channel(());
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        let running = inner.running.entry(content).or_default();
        let earlier = Earlier(running.iter().map(|(_, receiver)| receiver.clone()).collect());
        running.push((number, receiver));
        drop(inner);
        (ContentGuard { recent: self.clone(), content, number, _open: sender }, earlier)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyGuard {
    /// The request succeeded: the key means this content, and this answer if the farm does not know
    /// it.
    pub fn done(mut self, content: Hash, answer: Option<Bytes>) {
        self.before = Some(Key::Done { content, answer });
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let mut inner = self.recent.lock();
        match self.before.take() {
            None => {
                inner.keys.remove(&self.key);
            }
            // Unless it was forgotten while the request ran.
            Some(key) if self.listed => {
                if let Some(kept) = inner.keys.get_mut(&self.key) {
                    *kept = key;
                }
            }
            Some(key) => inner.keep(self.key, key),
        }
    }
}

impl Drop for ContentGuard {
    fn drop(&mut self) {
        let mut inner = self.recent.lock();
        if let Some(running) = inner.running.get_mut(&self.content) {
            running.retain(|(number, _)| *number != self.number);
            if running.is_empty() {
                inner.running.remove(&self.content);
            }
        }
    }
}

impl Inner {
    fn keep(&mut self, name: Hash, key: Key) {
        if let Key::Done { answer: Some(answer), .. } = &key {
            self.answer_bytes += answer.len();
        }
        self.done.push_back((name, Instant::now()));
        self.keys.insert(name, key);
    }

    fn forget_old(&mut self) {
        while let Some((name, since)) = self.done.front() {
            let full = self.done.len() >= KEYS_MAX || self.answer_bytes > ANSWERS_MAX;
            if !full && since.elapsed() < KEY_LIFE {
                return;
            }
            // One that runs again is kept by its guard.
            if let Some(Key::Done { answer: Some(answer), .. }) = self.keys.remove(name) {
                self.answer_bytes = self.answer_bytes.saturating_sub(answer.len());
            }
            self.done.pop_front();
        }
    }
}

/// A hash of some parts, which cannot run into each other.
pub fn hash_of(parts: &[&[u8]]) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_free_until_a_request_with_it_succeeded() {
        let recent = Recent::default();
        let Begun::Free(guard) = recent.begin_key([1; 32], [2; 32]) else { panic!("not free") };
        assert!(recent.is_running(&[1; 32]) && !recent.is_running(&[2; 32]));
        assert!(matches!(recent.begin_key([1; 32], [2; 32]), Begun::InUse));
        drop(guard);
        let Begun::Free(guard) = recent.begin_key([1; 32], [3; 32]) else { panic!("not free") };
        guard.done([3; 32], Some(Bytes::from_static(b"x")));
        assert!(matches!(recent.begin_key([1; 32], [2; 32]), Begun::Reused));
        let again = [0, 1].map(|_| recent.begin_key([1; 32], [3; 32]));
        for again in again {
            let Begun::Answered(answer) = again else { panic!("not known: {again:?}") };
            assert_eq!(&answer[..], b"x");
        }
    }

    #[tokio::test]
    async fn one_waits_for_those_before_and_not_for_those_behind() {
        let recent = Recent::default();
        let (first, none) = recent.begin_content([1; 32]);
        none.ended().await;
        let (second, earlier) = recent.begin_content([1; 32]);
        let (_third, _) = recent.begin_content([1; 32]);
        let waiting = tokio::spawn(earlier.ended());
        drop(first);
        waiting.await.unwrap();
        drop(second);
    }
}
