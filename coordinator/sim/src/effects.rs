//! What a coordinator does once its disk has the reason, and what it makes of what workers say. As the dispatch
//! and the link actors do it, with events for sockets.

use crate::client::Answer;
use crate::host::{Effect, Running, models};
use crate::store::Flip;
use crate::world::{Event, World};
use zoetrope_coordinator::dispatch::Report;
use zoetrope_coordinator::dispatch::publish::{is_orphan, proven};
use zoetrope_coordinator::dispatch::workers::{entries, joined};
use zoetrope_coordinator::jobs::Assets;
use zoetrope_coordinator::link::session::{Act, Session};
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{Fence, JobId, WorkerId};
use zoetrope_protocol::job::{ArtifactRef, Cause};
use zoetrope_protocol::wire::{ArtifactHeader, FromWorker, Held, Kept, ToWorker};
use zoetrope_sched::input::LostHow;
use zoetrope_sched::{Input, Output};

/// A publication that takes longer counts as one that failed.
const PUBLISH_TIMEOUT: u64 = 60_000;

impl World {
    /// Carries out an effect.
    pub fn effect(&mut self, host: usize, effect: Effect) {
        match effect {
            Effect::Output(output) => self.output(host, *output),
            Effect::Delete(artifacts) => self.delete_later(host, artifacts),
            Effect::Tell(worker, message) => self.tell(host, worker, *message),
            Effect::Unpublish(job) => {
                if !self.hosts[host].stray {
                    self.store.pointers.remove(&job);
                }
            }
            Effect::Answer(client, answer) => self.answer(client, answer),
        }
    }

    fn output(&mut self, host: usize, output: Output) {
        match output {
            Output::Welcome { worker, keep } => self.welcome(host, worker, keep),
            Output::Assign { worker, .. } => {
                let Some(running) = &self.hosts[host].running else { return };
                if let Some(order) = running.books.order(output, self.plan.checkpoint_every) {
                    self.tell(host, worker, ToWorker::Order(order));
                }
            }
            Output::Stop { worker, held, when } => {
                self.tell_if_there(host, worker, ToWorker::Stop { held, when });
            }
            Output::Drain { worker, drain } => {
                self.tell_if_there(host, worker, ToWorker::Drain(drain));
            }
            Output::Publish { job, fence, .. } => self.publish(host, job, fence),
            Output::WorkerGone { worker, .. } => {
                let Some(running) = &mut self.hosts[host].running else { return };
                let Some(conn) = running.links.remove(&worker) else { return };
                running.workers.remove(&conn);
                self.close(conn, true);
            }
            // The books have taken these in; nobody outside waits for them.
            _ => {}
        }
    }

    fn welcome(&mut self, host: usize, worker: WorkerId, keep: Vec<Kept>) {
        let now = self.instant();
        let Some(running) = &mut self.hosts[host].running else { return };
        let epoch = running.books.core.epoch();
        let Some(conn) = running.links.get(&worker).copied() else { return };
        let Some(session) = running.sessions.get_mut(&conn) else {
            return self.link_gone(host, worker);
        };
        let early = session.welcome(&keep, now);
        self.send_to_worker(host, conn, ToWorker::Welcome { worker, epoch, keep });
        for frame in early {
            self.frame(host, conn, frame);
        }
    }

    fn tell(&mut self, host: usize, worker: WorkerId, message: ToWorker) {
        let Some(running) = &self.hosts[host].running else { return };
        match running.links.get(&worker).copied() {
            Some(conn) if running.sessions.contains_key(&conn) => {
                self.send_to_worker(host, conn, message);
            }
            _ => self.link_gone(host, worker),
        }
    }

    /// A link that does not take a message is gone, and that is news for the core.
    fn link_gone(&mut self, host: usize, worker: WorkerId) {
        let Some(running) = &mut self.hosts[host].running else { return };
        if running.links.remove(&worker).is_some() {
            self.input(host, Input::WorkerLost { worker, how: LostHow::Closed });
        }
    }

    fn tell_if_there(&mut self, host: usize, worker: WorkerId, message: ToWorker) {
        let Some(running) = &self.hosts[host].running else { return };
        if running.links.contains_key(&worker) {
            self.tell(host, worker, message);
        }
    }

    fn send_to_worker(&mut self, host: usize, conn: u64, message: ToWorker) {
        let now = self.instant();
        let Some(running) = &mut self.hosts[host].running else { return };
        if let Some(session) = running.sessions.get_mut(&conn) {
            session.says(&message, now);
        }
        let life = self.hosts[host].life;
        if !self.hosts[host].stray {
            self.checker.told(life, &message);
        }
        self.send(conn, false, &message);
    }

    // --- publication ---

    fn publish(&mut self, host: usize, job: JobId, fence: Fence) {
        let life = self.hosts[host].life;
        let Some(running) = &self.hosts[host].running else { return };
        let Some(row) = running.books.table.row(job) else { return };
        match proven(row, fence) {
            Ok(assets) => {
                let takes = match self.chance.range(0, 15) {
                    0 => self.chance.range(1_000, 90_000),
                    _ => self.chance.range(1, 200),
                };
                if !self.hosts[host].stray {
                    self.is_published_after(job, takes);
                }
                let assets = Box::new(assets);
                if takes > PUBLISH_TIMEOUT {
                    // The sidecar gives up; what it began may still come to its end.
                    let flip = Err(());
                    self.at(PUBLISH_TIMEOUT, Event::Flipped { host, life, job, flip });
                }
                self.at(takes, Event::Flip { host, life, job, assets });
            }
            Err(_) => {
                self.input(host, Input::PublishFailed { job, cause: Cause::CheckFailed });
            }
        }
    }

    /// The storage sidecar writes the pointer. Its process may die before it can tell.
    pub fn flip(&mut self, host: usize, life: u64, job: JobId, assets: &Assets) {
        if self.process(host, life).is_none() {
            return;
        }
        if self.hosts[host].stray {
            return self.at(1, Event::Flipped { host, life, job, flip: Ok(Flip::Done) });
        }
        let down = !self.store.answers(self.now);
        // An answer that got lost: written or not, the caller cannot know.
        let ambiguous = down && self.chance.one_in(2);
        let flip = if down && !ambiguous { Err(()) } else { Ok(self.store.flip(job, assets)) };
        if flip == Ok(Flip::Done) {
            self.checker.pointed(job, assets);
        }
        let flip = if ambiguous { Err(()) } else { flip };
        let after = self.chance.range(0, 20);
        self.at(after, Event::Flipped { host, life, job, flip });
    }

    /// The storage sidecar's answer.
    pub fn flipped(&mut self, host: usize, life: u64, job: JobId, flip: Result<Flip, ()>) {
        if self.process(host, life).is_none() {
            return;
        }
        let input = match flip {
            Ok(Flip::Done) => Input::Published { job },
            Ok(Flip::Missing) => Input::PublishFailed { job, cause: Cause::ArtifactMissing },
            Ok(Flip::Taken) => Input::PublishFailed { job, cause: Cause::Refused },
            Err(()) => Input::PublishFailed { job, cause: Cause::DependencyDown },
        };
        self.input(host, input);
        let orphan = |running: &Running| is_orphan(&running.books, job);
        if self.hosts[host].running.as_ref().is_some_and(orphan) {
            self.after_sync(host, Effect::Unpublish(job));
        }
        self.commit(host);
    }

    // --- links ---

    /// A frame of a worker arrives.
    pub fn host_hears(&mut self, conn: u64, bytes: &[u8]) {
        let Some(of) = self.conns.get(&conn) else { return };
        let (host, life, cut) = (of.host, of.life, of.cut);
        if self.process(host, life).is_none() || cut {
            return;
        }
        let frame: FromWorker = match codec::decode(bytes) {
            Ok(frame) => frame,
            Err(error) => return self.checker.breaks(format!("a worker's frame: {error}")),
        };
        match frame {
            FromWorker::Hello { identity, profile, held } => {
                let session = Session::new(crate::host::link_limits(&self.plan), self.instant());
                let Some(running) = &mut self.hosts[host].running else { return };
                running.sessions.insert(conn, session);
                let (worker, entry) =
                    joined(&running.books, &models(&self.plan), identity, &profile, held);
                running.workers.insert(conn, worker);
                running.links.insert(worker, conn);
                self.record(host, entry);
            }
            frame => self.frame(host, conn, frame),
        }
        self.commit(host);
    }

    fn frame(&mut self, host: usize, conn: u64, frame: FromWorker) {
        let now = self.instant();
        let Some(running) = &mut self.hosts[host].running else { return };
        let Some(session) = running.sessions.get_mut(&conn) else { return };
        if let Some(act) = session.frame(frame, now) {
            self.act(host, conn, act);
        }
    }

    fn act(&mut self, host: usize, conn: u64, act: Act) {
        match act {
            Act::Report(report) => {
                let last = report == Report::Left;
                self.report(host, conn, &report);
                if last {
                    self.close(conn, true);
                    self.link_lost(host, conn, LostHow::Closed);
                }
            }
            // Clips have no manifests here.
            Act::Show(..) | Act::Sign(_) => {}
            Act::Fetch(artifact) => {
                let stray = self.hosts[host].stray;
                let there = stray || self.store.has(&artifact) && self.store.answers(self.now);
                if there {
                    let takes = self.chance.range(1, 200);
                    let _delayed = takes;
                    self.carry(conn, false, false, Event::Fetched { conn, artifact });
                } else {
                    self.send_to_worker(host, conn, ToWorker::NoArtifact(artifact));
                }
            }
            Act::Say(message) => self.send_to_worker(host, conn, *message),
            Act::Shut(..) => {
                self.close(conn, true);
                self.link_lost(host, conn, LostHow::Closed);
            }
            Act::Silent => {
                self.link_lost(host, conn, LostHow::Silence);
                self.close(conn, true);
            }
        }
    }

    fn report(&mut self, host: usize, conn: u64, report: &Report) {
        let Some(running) = &mut self.hosts[host].running else { return };
        // A link that was given up may still have had something to say.
        let Some(worker) = running.workers.get(&conn).copied() else { return };
        if *report == Report::Left {
            running.links.remove(&worker);
            running.workers.remove(&conn);
        }
        for entry in entries(&running.books, worker, report) {
            self.record(host, entry);
        }
        if let Report::Stored { held, artifact } = report {
            let stored = ToWorker::Stored { held: *held, artifact: artifact.artifact };
            self.after_sync(host, Effect::Tell(worker, Box::new(stored)));
        }
    }

    /// The link's actor is gone.
    pub fn forget_session(&mut self, conn: u64) {
        let Some(of) = self.conns.get(&conn) else { return };
        let (host, life) = (of.host, of.life);
        if let Some(running) = self.process(host, life) {
            running.sessions.remove(&conn);
        }
    }

    fn link_lost(&mut self, host: usize, conn: u64, how: LostHow) {
        self.forget_session(conn);
        let Some(running) = &mut self.hosts[host].running else { return };
        let Some(worker) = running.workers.remove(&conn) else { return };
        running.links.remove(&worker);
        self.input(host, Input::WorkerLost { worker, how });
    }

    /// The end of a connection arrives.
    pub fn host_loses(&mut self, conn: u64) {
        let Some(of) = self.conns.get(&conn) else { return };
        let (host, life) = (of.host, of.life);
        if self.process(host, life).is_some() {
            self.link_lost(host, conn, LostHow::Closed);
            self.commit(host);
        }
        self.conns.remove(&conn);
    }

    /// Heartbeats that came, and what the links make of the second that passed.
    pub fn links_pulse(&mut self, host: usize) {
        let now = self.instant();
        let Some(running) = &self.hosts[host].running else { return };
        let conns: Vec<u64> = running.sessions.keys().copied().collect();
        for conn in conns {
            let beats = self.conns.get(&conn).is_some_and(|of| {
                let worker = &self.workers[of.worker];
                worker.beats(conn, self.now) && self.passes(of.worker, true)
            });
            let Some(running) = &mut self.hosts[host].running else { return };
            let Some(session) = running.sessions.get_mut(&conn) else { continue };
            if beats {
                let nothing = session.frame(FromWorker::Heartbeat, now);
                debug_assert!(nothing.is_none(), "a heartbeat asks for nothing");
            }
            for act in session.tick(now) {
                self.act(host, conn, act);
            }
        }
    }

    // --- artifacts ---

    /// An artifact's stream has arrived: the fence first, then the store.
    pub fn uploaded(&mut self, conn: u64, header: ArtifactHeader, whole: bool) {
        let Some(of) = self.conns.get(&conn) else { return };
        let (host, life, cut) = (of.host, of.life, of.cut);
        if cut || self.process(host, life).is_none() {
            return;
        }
        let (Some(held), Some(role)) = (header.held, header.role) else { return };
        let Some(running) = &self.hosts[host].running else { return };
        let Some(session) = running.sessions.get(&conn) else { return };
        let Some(held) = session.fences().current(&held) else {
            return self.not_stored(host, conn, held, header, "the attempt was replaced");
        };
        if !whole {
            return self.not_stored(host, conn, held, header, "the digest differs");
        }
        let artifact = ArtifactRef { role, artifact: header.artifact, bytes: header.bytes };
        let stored = self.hosts[host].stray || self.store.answers(self.now);
        let takes = self.chance.range(1, 60);
        self.at(takes, Event::Put { conn, held, artifact, stored });
    }

    fn not_stored(&mut self, host: usize, conn: u64, held: Held, of: ArtifactHeader, why: &str) {
        let (artifact, reason) = (of.artifact, why.to_owned());
        self.send_to_worker(host, conn, ToWorker::NotStored { held, artifact, reason });
    }

    /// The store took an artifact, or did not.
    pub fn was_put(&mut self, conn: u64, held: Held, artifact: ArtifactRef, stored: bool) {
        let Some(of) = self.conns.get(&conn) else { return };
        let (host, life) = (of.host, of.life);
        if self.process(host, life).is_none() {
            return;
        }
        if !stored {
            let (artifact, reason) = (artifact.artifact, "the store failed".to_owned());
            self.send_to_worker(host, conn, ToWorker::NotStored { held, artifact, reason });
            return;
        }
        if !self.hosts[host].stray {
            self.store.put(artifact.artifact, self.now);
        }
        // Its link may have ended since; then nobody hears of it.
        if self.hosts[host].running.as_ref().is_some_and(|r| r.sessions.contains_key(&conn)) {
            self.report(host, conn, &Report::Stored { held, artifact });
            self.commit(host);
        }
    }

    /// An answer of the door, once all that was recorded so far is on disk.
    pub fn door(&mut self, host: usize, client: usize, answer: Answer) {
        self.after_sync(host, Effect::Answer(client, answer));
        self.commit(host);
    }
}
