//! Leaving: the end of a worker's life, in order, with its last word said.

use super::LinkState;
use crate::exit::ExitCode;
use crate::gpu::GpuMsg;
use crate::gpu::attempt::{AttemptKey, Report};
use crate::gpu::courier::CourierError;
use crate::root::RootMsg;
use std::time::{Duration, Instant};
use zoetrope_protocol::Millis;
use zoetrope_protocol::job::Cause;
use zoetrope_protocol::wire::{DrainKind, FromWorker};

/// Told to stop at once, the gpu thread has so long to reach a boundary before we leave without it.
const LEAVE_GRACE: Duration = Duration::from_secs(5);
/// Without a connection nobody hears the last reports; waiting longer than a restart of the coordinator
/// takes is of no use.
const LEAVE_OFFLINE: Duration = Duration::from_secs(15);
/// With nothing to report but our leave, one redial is enough: our silence says the same.
const LEAVE_OFFLINE_IDLE: Duration = Duration::from_secs(3);

/// That the worker leaves, and until when it may stay.
pub(super) struct Leaving {
    pub(super) code: ExitCode,
    /// When we go, whatever still runs.
    pub(super) until: Option<Instant>,
    pub(super) since: Instant,
    pub(super) said: bool,
}

impl LinkState {
    pub(in crate::link) fn leave(&mut self, kind: DrainKind, code: ExitCode) {
        let now = Instant::now();
        let until = match kind {
            DrainKind::Immediate => Some(now + LEAVE_GRACE),
            DrainKind::Step | DrainKind::Shard => None,
            DrainKind::Deadline(within) => Some(now + Duration::from_millis(within.0)),
        };
        let leaving = self.leaving.get_or_insert(Leaving { code, until, since: now, said: false });
        // A second order only makes it sooner.
        leaving.until = match (leaving.until, until) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => old.or(new),
        };
        if code != ExitCode::Left {
            leaving.code = code;
        }
        let until = leaving.until;
        tracing::info!(?kind, "leaving");
        self.say(&FromWorker::Leaving { within: within(until) });
        if let Some(gpu) = &self.gpu {
            gpu.cast(GpuMsg::Drain(kind)).ok(); // if it is dead, `WorkerRoot` knows
        }
        self.consider_leaving();
    }

    pub(super) fn consider_leaving(&mut self) {
        let now = Instant::now();
        let Some(leaving) = &self.leaving else { return };
        if leaving.said {
            return;
        }
        let late = leaving.until.is_some_and(|until| now >= until);
        let patience =
            if self.agent.table.has_unsent() { LEAVE_OFFLINE } else { LEAVE_OFFLINE_IDLE };
        // A worker that finishes a shard for an hour before it goes is not offline for that long.
        let since = leaving.since.max(self.offline_since);
        let offline = now.saturating_duration_since(since) >= patience;
        if late {
            self.abandon_all();
        }
        if self.agent.table.live().next().is_some() {
            return;
        }
        match self.up() {
            Some(up) => {
                let said = up.line.say_last(&FromWorker::Left);
                if let Some(leaving) = &mut self.leaving {
                    leaving.said = true;
                }
                if !said {
                    self.gone();
                }
            }
            None if late || offline => self.gone(),
            None => {}
        }
    }

    /// Time is up: what still runs is reported as drained, and the gpu thread goes down with the process.
    pub(super) fn abandon_all(&mut self) {
        let live: Vec<(AttemptKey, Millis)> =
            self.agent.table.live().map(|one| (one.key, one.work.attempt.worked_ms())).collect();
        for (key, gpu) in live {
            let detail = "the worker's time was up before the next boundary".to_string();
            self.agent.table.ended(key, Report::Failed { cause: Cause::Drained, detail, gpu });
        }
        self.transfers.give_up(None, &CourierError::GivenUp);
        self.say_reports();
    }

    pub(in crate::link) fn said_goodbye(&mut self, session: u64) {
        if session == self.session {
            self.gone();
        }
    }

    pub(super) fn gone(&mut self) {
        let Some(leaving) = &self.leaving else { return };
        let heard = leaving.said;
        let code = match leaving.code {
            ExitCode::Left if !heard => ExitCode::LeftUnheard,
            code => code,
        };
        self.arguments.root.cast(RootMsg::End(code)).ok(); // a dead root has ended the process already
    }
}

pub(super) fn within(until: Option<Instant>) -> Millis {
    // No deadline: the hard limit of any order is at most two hours.
    let left = until.map_or(Duration::from_secs(7_200), |until| {
        until.saturating_duration_since(Instant::now())
    });
    Millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}
