//! Requests that may be the same: those being handled now, and idempotency keys of the last day.
//!
//! This is memory of one process, for what must be known before a request is checked. What makes a
//! key hold across a restart is the farm, which stores it with the job.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use zoetrope_protocol::id::TenantId;

/// How long a key is remembered.
pub const KEY_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How much is remembered. Where it is full, the project that has most of it loses its oldest: who asks much
/// forgets its own keys and nobody else's.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Keys: 140 bytes each, so 14 MB.
    keys: usize,
    /// Bytes of answers beside their keys. Answers go before keys: a key without its answer is refused, which is
    /// better than a second key or token.
    answer_bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Room { keys: 100_000, answer_bytes: 16 << 20 }
    }
}

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
    projects: BTreeMap<TenantId, Project>,
    room: Room,
}

/// What is remembered for one project.
#[derive(Debug, Default)]
struct Project {
    /// Keys that are done, the oldest first.
    done: VecDeque<(Hash, Instant)>,
    /// Those of them whose answers are remembered.
    answers: VecDeque<Hash>,
    answer_bytes: usize,
}

#[derive(Debug)]
enum Key {
    Running,
    Done { content: Hash, answer: Answered },
}

/// What a request with a key was answered.
#[derive(Clone, Debug)]
enum Answered {
    /// The farm knows it.
    Farm,
    /// This.
    Kept(Bytes),
    /// Something for which there was no more room.
    Dropped,
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
    /// It was used for this, and the answer was forgotten to make room.
    Forgotten,
}

/// Keeps a key in use. Without [`KeyGuard::done`], the key is as it was before.
#[derive(Debug)]
pub struct KeyGuard {
    recent: Recent,
    project: TenantId,
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

    /// Takes a key of a project for a request of this content.
    pub fn begin_key(&self, project: TenantId, key: Hash, content: Hash) -> Begun {
        let mut inner = self.lock();
        inner.forget_old(project);
        match inner.keys.get(&key) {
            Some(Key::Running) => return Begun::InUse,
            Some(Key::Done { content: other, .. }) if *other != content => return Begun::Reused,
            Some(Key::Done { answer: Answered::Kept(answer), .. }) => {
                return Begun::Answered(answer.clone());
            }
            Some(Key::Done { answer: Answered::Dropped, .. }) => return Begun::Forgotten,
            None | Some(Key::Done { answer: Answered::Farm, .. }) => {}
        }
        let before = inner.keys.insert(key, Key::Running);
        let listed = before.is_some();
        Begun::Free(KeyGuard { recent: self.clone(), project, key, before, listed })
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
        let answer = answer.map_or(Answered::Farm, Answered::Kept);
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
            Some(key) => inner.keep(self.project, self.key, key),
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
    fn keep(&mut self, project: TenantId, name: Hash, key: Key) {
        let of = self.projects.entry(project).or_default();
        of.done.push_back((name, Instant::now()));
        if let Key::Done { answer: Answered::Kept(answer), .. } = &key {
            of.answers.push_back(name);
            of.answer_bytes += answer.len();
        }
        self.keys.insert(name, key);
        while self.projects.values().map(|of| of.answer_bytes).sum::<usize>()
            > self.room.answer_bytes
        {
            let Some(most) = self.with_most(|of| of.answer_bytes) else { break };
            self.drop_answer(most);
        }
        while self.projects.values().map(|of| of.done.len()).sum::<usize>() > self.room.keys {
            let Some(most) = self.with_most(|of| of.done.len()) else { break };
            self.forget_key(most);
        }
        let projects: Vec<TenantId> = self.projects.keys().copied().collect();
        projects.into_iter().for_each(|project| self.forget_old(project));
    }

    fn with_most(&self, of: impl Fn(&Project) -> usize) -> Option<TenantId> {
        self.projects.iter().max_by_key(|(_, project)| of(project)).map(|(project, _)| *project)
    }

    /// The oldest answer of a project goes; its key stays.
    fn drop_answer(&mut self, project: TenantId) {
        let Some(of) = self.projects.get_mut(&project) else { return };
        let Some(name) = of.answers.pop_front() else { return };
        if let Some(Key::Done { answer, .. }) = self.keys.get_mut(&name)
            && let Answered::Kept(bytes) = std::mem::replace(answer, Answered::Dropped)
        {
            of.answer_bytes -= bytes.len();
        }
    }

    /// The oldest key of a project goes. One that runs again is kept by its guard.
    fn forget_key(&mut self, project: TenantId) {
        let Some(of) = self.projects.get_mut(&project) else { return };
        let Some((name, _)) = of.done.pop_front() else { return };
        if of.answers.front() == Some(&name) {
            self.drop_answer(project);
        }
        self.keys.remove(&name);
        if self.projects.get(&project).is_some_and(|of| of.done.is_empty()) {
            self.projects.remove(&project);
        }
    }

    /// Keys of a project whose day is over go.
    fn forget_old(&mut self, project: TenantId) {
        let old = |inner: &Inner| {
            let (_, since) = inner.projects.get(&project)?.done.front()?;
            Some(since.elapsed() >= KEY_LIFE)
        };
        while old(self) == Some(true) {
            self.forget_key(project);
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

    const ME: TenantId = TenantId(1);

    fn use_key(recent: &Recent, project: TenantId, key: u8, bytes: usize) {
        let begun = recent.begin_key(project, [key; 32], [0; 32]);
        let Begun::Free(guard) = begun else { panic!("{key} is not free: {begun:?}") };
        guard.done([0; 32], Some(vec![key; bytes].into()));
    }

    fn with(room: Room) -> Recent {
        let inner = Inner { room, ..Inner::default() };
        Recent { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Promise: who asks much forgets its own answers, the oldest first, and no key with them.
    #[test]
    fn a_full_room_costs_the_project_that_fills_it_its_oldest_answers() {
        let recent = with(Room { keys: 100, answer_bytes: 40 });
        let other = TenantId(2);
        use_key(&recent, other, 200, 10);
        (0..5).for_each(|key| use_key(&recent, ME, key, 10));
        for key in 0..2 {
            assert!(matches!(recent.begin_key(ME, [key; 32], [0; 32]), Begun::Forgotten), "{key}");
            assert!(matches!(recent.begin_key(ME, [key; 32], [1; 32]), Begun::Reused), "{key}");
        }
        for (project, key) in [(other, 200), (ME, 2), (ME, 3), (ME, 4)] {
            let begun = recent.begin_key(project, [key; 32], [0; 32]);
            assert!(matches!(begun, Begun::Answered(_)), "{key}: {begun:?}");
        }
        // One that is longer than all of the room leaves nothing but its key.
        use_key(&recent, other, 201, 50);
        assert!(matches!(recent.begin_key(other, [201; 32], [0; 32]), Begun::Forgotten));
        assert!(matches!(recent.begin_key(ME, [4; 32], [0; 32]), Begun::Answered(_)));
    }

    #[test]
    fn a_full_room_of_keys_costs_the_project_that_has_most_its_oldest() {
        let recent = with(Room { keys: 4, answer_bytes: 1000 });
        let other = TenantId(2);
        use_key(&recent, other, 200, 10);
        (0..8).for_each(|key| use_key(&recent, ME, key, 10));
        assert!(matches!(recent.begin_key(other, [200; 32], [0; 32]), Begun::Answered(_)));
        assert!(matches!(recent.begin_key(ME, [7; 32], [0; 32]), Begun::Answered(_)));
        assert!(matches!(recent.begin_key(ME, [4; 32], [0; 32]), Begun::Free(_)));
        assert_eq!(recent.lock().projects[&ME].answer_bytes, 30);
    }

    #[test]
    fn a_key_is_free_until_a_request_with_it_succeeded() {
        let recent = Recent::default();
        let Begun::Free(guard) = recent.begin_key(ME, [1; 32], [2; 32]) else { panic!("not free") };
        assert!(recent.is_running(&[1; 32]) && !recent.is_running(&[2; 32]));
        assert!(matches!(recent.begin_key(ME, [1; 32], [2; 32]), Begun::InUse));
        drop(guard);
        let Begun::Free(guard) = recent.begin_key(ME, [1; 32], [3; 32]) else { panic!("not free") };
        guard.done([3; 32], Some(Bytes::from_static(b"x")));
        assert!(matches!(recent.begin_key(ME, [1; 32], [2; 32]), Begun::Reused));
        let again = [0, 1].map(|_| recent.begin_key(ME, [1; 32], [3; 32]));
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
