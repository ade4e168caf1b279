//! What one worker's connection knows: its fences, the frames that came too early, and when each attempt last
//! moved on. Says what a frame or a passed second means, and does nothing about it.
//!
//! Pure: the time is an argument. Used by the link actor, and by the simulation in its place.

use super::{Fences, LinkLimits};
use crate::dispatch::Report;
use crate::jobs::PhaseView;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use zoetrope_protocol::id::{ArtifactId, ShardId};
use zoetrope_protocol::job::{ArtifactRef, Cause};
use zoetrope_protocol::wire::{
    CloseCode, FromWorker, HEARTBEAT, Held, Kept, LOSS_AFTER, Phase, ToWorker,
};

/// Frames of one worker that may wait for its welcome.
pub const FRAMES_MAX: usize = 64;
/// Questions to the signer that one worker may have open: it finishes one clip at a time, and asks again when in
/// doubt.
pub const CLAIMS_OPEN_MAX: usize = 4;
/// Outputs of one attempt. A decode has the most, a segment for each chunk of 17 frames: 29 of the longest clip.
const OUTPUTS_MAX: usize = 256;

/// Ticks come each [`HEARTBEAT`]. One that is so late says that this process stood still, and that frames wait unread:
/// nobody else is to blame for that time.
const LATE: Duration = Duration::from_millis(3 * HEARTBEAT.0);

/// When an attempt last moved on.
struct Motion {
    held: Held,
    phase: Option<(Phase, u32)>,
    since: Instant,
    told: bool,
}

/// What is to be done about a frame, or about time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Tell the dispatch actor.
    Report(Report),
    /// Have this claim signed.
    Sign(Box<Claim>),
    /// Show how far an attempt is.
    Show(Held, PhaseView),
    /// Send this artifact.
    Fetch(ArtifactId),
    /// Tell the worker this.
    Say(Box<ToWorker>),
    /// Close the connection.
    Shut(CloseCode, &'static str),
    /// The worker is lost: no frame came in time.
    Silent,
}

/// A claim that a worker wants signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The attempt.
    pub held: Held,
    /// SHA-256 of the clip without its manifest.
    pub unsigned: ArtifactId,
    /// The manifest store.
    pub manifest: Vec<u8>,
    /// Whether the clip is to be proven first.
    pub proven: bool,
    /// The record that it is judged by.
    pub scores: Option<ArtifactRef>,
}

/// What one connection knows.
pub struct Session {
    fences: Fences,
    limits: LinkLimits,
    /// Frames that came before the welcome; none after it.
    early: Option<Vec<FromWorker>>,
    motion: BTreeMap<ShardId, Motion>,
    claims_open: usize,
    last_frame: Instant,
    last_tick: Instant,
}

impl Session {
    /// A connection that was just greeted.
    pub fn new(limits: LinkLimits, now: Instant) -> Self {
        Session {
            fences: Fences::default(),
            limits,
            early: Some(Vec::new()),
            motion: BTreeMap::new(),
            claims_open: 0,
            last_frame: now,
            last_tick: now,
        }
    }

    /// The attempts that the worker may report of and upload for.
    pub fn fences(&self) -> &Fences {
        &self.fences
    }

    /// A message goes to the worker.
    pub fn says(&mut self, message: &ToWorker, now: Instant) {
        if let ToWorker::Order(order) = message {
            let held = Held { shard: order.shard, fence: order.fence };
            self.fences.add(held);
            self.watch(held, now);
        }
        if matches!(
            message,
            ToWorker::Terms { .. } | ToWorker::Signed { .. } | ToWorker::NotSigned { .. }
        ) {
            self.claims_open = self.claims_open.saturating_sub(1);
        }
    }

    /// The core knows the worker. Gives the frames that waited for that, to be taken in once it is told.
    pub fn welcome(&mut self, keep: &[Kept], now: Instant) -> Vec<FromWorker> {
        self.fences.welcome(keep);
        for kept in keep {
            self.watch(Held { shard: kept.held.shard, fence: kept.fence }, now);
        }
        self.early.take().unwrap_or_default()
    }

    fn watch(&mut self, held: Held, now: Instant) {
        self.motion.insert(held.shard, Motion { held, phase: None, since: now, told: false });
    }

    /// The worker says something.
    pub fn frame(&mut self, frame: FromWorker, now: Instant) -> Option<Act> {
        self.last_frame = now;
        // Reports that come before the welcome carry fences that the core is about to replace.
        if let Some(early) = &mut self.early
            && !matches!(frame, FromWorker::Heartbeat)
        {
            early.push(frame);
            let many = early.len() > FRAMES_MAX;
            return many
                .then_some(Act::Shut(CloseCode::Protocol, "too many reports before the welcome"));
        }
        match frame {
            FromWorker::Hello { .. } => Some(Act::Shut(CloseCode::Protocol, "a second hello")),
            FromWorker::Heartbeat => None,
            FromWorker::Started(held) => self.moved(held, None, now),
            FromWorker::Progress { held, phase, done, total } => {
                let stage = held.shard.stage;
                self.moved(held, Some(PhaseView { stage, phase, done, total }), now)
            }
            FromWorker::Finished { outputs, .. } if outputs.len() > OUTPUTS_MAX => {
                Some(Act::Shut(CloseCode::Protocol, "more outputs than an attempt has"))
            }
            FromWorker::Finished { held, outputs, facts, gpu } => {
                let held = self.over(held);
                Some(Act::Report(Report::Finished { held, outputs, facts, gpu }))
            }
            FromWorker::Failed { held, cause, detail, gpu } => {
                let held = self.over(held);
                Some(Act::Report(Report::Failed { held, cause, detail, gpu }))
            }
            FromWorker::Fetch(artifact) => Some(Act::Fetch(artifact)),
            FromWorker::Leaving { within } => Some(Act::Report(Report::Leaving { within })),
            FromWorker::Left => Some(Act::Report(Report::Left)),
            FromWorker::TermsAsked(held) => {
                Some(self.claim(held, |held| Act::Report(Report::TermsAsked { held })))
            }
            FromWorker::SignAsked { held, unsigned, manifest } => {
                let (proven, scores) = (false, None);
                let claim = |held| Claim { held, unsigned, manifest, proven, scores };
                Some(self.claim(held, |held| Act::Sign(Box::new(claim(held)))))
            }
            FromWorker::SignProven { held, unsigned, manifest, scores } => {
                let claim = |held| Claim { held, unsigned, manifest, proven: true, scores };
                Some(self.claim(held, |held| Act::Sign(Box::new(claim(held)))))
            }
        }
    }

    /// What an attempt of this worker needs of the signer, which answers it.
    fn claim(&mut self, held: Held, act: impl FnOnce(Held) -> Act) -> Act {
        self.claims_open += 1;
        if self.claims_open > CLAIMS_OPEN_MAX {
            return Act::Shut(CloseCode::Protocol, "too many claims to be signed");
        }
        match self.fences.current(&held) {
            Some(held) => act(held),
            None => {
                let (cause, reason) = (Cause::Refused, "the attempt was replaced".to_owned());
                Act::Say(Box::new(ToWorker::NotSigned { held, cause, reason }))
            }
        }
    }

    fn moved(&mut self, held: Held, phase: Option<PhaseView>, now: Instant) -> Option<Act> {
        let held = self.fences.current(&held)?;
        let motion = self.motion.get_mut(&held.shard)?;
        let at = phase.map(|view| (view.phase, view.done));
        if motion.phase != at || phase.is_none() {
            motion.phase = at.or(motion.phase);
            motion.since = now;
        }
        phase.map(|view| Act::Show(held, view))
    }

    /// The attempt ended: returns it under its present fence, or as it came if it is none of ours.
    fn over(&mut self, held: Held) -> Held {
        let Some(held) = self.fences.current(&held) else { return held };
        self.fences.remove(&held);
        self.motion.remove(&held.shard);
        held
    }

    /// Time passed: what does not move on, or that nothing was heard for too long.
    pub fn tick(&mut self, now: Instant) -> Vec<Act> {
        let gap = now.saturating_duration_since(self.last_tick);
        self.last_tick = now;
        if gap > LATE {
            // Clocks go on from where they stood, so a worker that is really gone is missed a little later.
            self.last_frame = (self.last_frame + gap).min(now);
            for motion in self.motion.values_mut() {
                motion.since = (motion.since + gap).min(now);
            }
        }
        let for_so_long = |since: Instant| now.saturating_duration_since(since);
        if for_so_long(self.last_frame) > Duration::from_millis(LOSS_AFTER.0) {
            return vec![Act::Silent];
        }
        let mut acts = Vec::new();
        for motion in self.motion.values_mut().filter(|m| !m.told) {
            let limit = match motion.phase {
                None | Some((Phase::Loading, _)) => self.limits.load,
                Some(_) => self.limits.stall,
            };
            if for_so_long(motion.since) > limit {
                motion.told = true;
                acts.push(Act::Report(Report::Stalled { held: motion.held }));
            }
        }
        acts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoetrope_protocol::id::{AttemptNumber, Epoch, Fence, JobId};
    use zoetrope_protocol::job::Stage;

    fn limits() -> LinkLimits {
        LinkLimits {
            stall: Duration::from_secs(120),
            load: Duration::from_secs(900),
            connections: 1,
        }
    }

    /// Ticks each second until one says something, at most for `seconds`; when that was.
    fn silent_after(session: &mut Session, from: Instant, seconds: u64) -> Option<u64> {
        (1..=seconds).find(|s| session.tick(from + Duration::from_secs(*s)) == [Act::Silent])
    }

    #[test]
    fn a_silent_worker_is_missed() {
        let start = Instant::now();
        let mut session = Session::new(limits(), start);
        assert_eq!(silent_after(&mut session, start, 60), Some(6));
    }

    /// A coordinator that stood still finds the frames of that time unread: it must not blame the workers first.
    #[test]
    fn the_time_in_which_the_coordinator_stood_still_does_not_count() {
        let start = Instant::now();
        let mut session = Session::new(limits(), start);
        session.welcome(&[], start);
        assert_eq!(silent_after(&mut session, start, 2), None);
        let woken = start + Duration::from_secs(32);
        assert_eq!(session.tick(woken), []);
        session.frame(FromWorker::Heartbeat, woken);
        assert_eq!(silent_after(&mut session, woken, 60), Some(6), "and then counts anew");
    }

    /// An attempt that waits for bytes which move says that it started, again and again.
    #[test]
    fn an_attempt_goes_on_as_long_as_it_says_so() {
        let start = Instant::now();
        let mut session = Session::new(limits(), start);
        let shard = ShardId { job: JobId(1), stage: Stage::Finish, index: 0 };
        let fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(1) };
        let held = Held { shard, fence };
        session.welcome(&[Kept { held, fence }], start);
        let sending = FromWorker::Progress { held, phase: Phase::Sending, done: 0, total: 1 };
        session.frame(sending, start);
        let mut stalled_after = |from: u64, says: bool| {
            (from..from + 600).find(|second| {
                let now = start + Duration::from_secs(*second);
                let again = says && second % 100 == 0;
                session.frame(
                    if again { FromWorker::Started(held) } else { FromWorker::Heartbeat },
                    now,
                );
                !session.tick(now).is_empty()
            })
        };
        assert_eq!(stalled_after(1, true), None);
        assert_eq!(stalled_after(601, false), Some(721));
    }

    #[test]
    fn a_worker_that_died_meanwhile_is_missed_all_the_same() {
        let start = Instant::now();
        let mut session = Session::new(limits(), start);
        let woken = start + Duration::from_secs(30);
        assert_eq!(session.tick(woken), []);
        assert!(silent_after(&mut session, woken, 60).is_some_and(|seconds| seconds <= 6));
    }
}
