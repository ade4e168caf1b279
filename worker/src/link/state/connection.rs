//! Dialling, losing and speaking on the connection.

use super::super::LinkMsg;
use super::super::dial::{DialError, Line, dial};
use super::super::line::{UpLine, close_code};
use super::{Connection, LinkState, SENDS_MAX, Up};
use ractor::ActorRef;
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use zoetrope_protocol::wire::{CloseCode, FromWorker, Identity};

/// First wait before dialling again; doubles up to [`REDIAL_MAX`], with jitter so that a farm of workers
/// does not return in one instant.
const REDIAL_MIN: Duration = Duration::from_millis(100);
const REDIAL_MAX: Duration = Duration::from_secs(2);
/// Two processes of one identity push each other out; this makes it once in two seconds.
const TRIES_REPLACED: u32 = 5;

impl LinkState {
    pub(super) fn redial(&mut self, myself: &ActorRef<LinkMsg>) {
        let Connection::Down { tries, .. } = &mut self.connection else { return };
        let wait = REDIAL_MIN.saturating_mul(1 << (*tries).min(5)).min(REDIAL_MAX);
        let wait = wait.mul_f64(rand::rng().random_range(0.5..=1.0));
        let wait = if *tries == 0 { Duration::ZERO } else { wait };
        *tries += 1;
        self.session += 1;
        let (session, link) = (self.session, myself.clone());
        let (endpoint, config) = (self.arguments.endpoint.clone(), self.arguments.config.clone());
        let address = self.coordinators.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let line = dial(&endpoint, config, &address).await;
            link.cast(LinkMsg::Dialled { session, line }).ok();
        });
    }

    pub(in crate::link) fn dialled(
        &mut self,
        myself: &ActorRef<LinkMsg>,
        session: u64,
        line: Result<Line, DialError>,
    ) {
        if session != self.session {
            return;
        }
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                if let Connection::Down { tries, .. } = &self.connection
                    && tries.is_power_of_two()
                {
                    tracing::warn!(%error, tries, "no link yet, dialling again");
                }
                self.redial(myself);
                return;
            }
        };
        let line = UpLine::start(line, session, myself);
        let now = Instant::now();
        let identity =
            Identity { node: self.arguments.node.clone(), boot: self.arguments.boot, session };
        let profile = self.arguments.profile.clone();
        let hello = FromWorker::Hello { identity, profile, held: self.agent.table.held() };
        let said = line.say(&hello);
        self.connection = Connection::Up(Up {
            line,
            heard: now,
            beat: now,
            welcomed: false,
            sends: Arc::new(Semaphore::new(SENDS_MAX)),
        });
        if !said {
            self.drop_line(myself, CloseCode::Protocol, "the greeting could not be said");
        }
    }

    pub(in crate::link) fn lost(&mut self, myself: &ActorRef<LinkMsg>, session: u64, reason: &str) {
        if session == self.session && matches!(self.connection, Connection::Up(_)) {
            self.drop_line(myself, CloseCode::Silent, reason);
        }
    }

    /// Ends the connection, if it has not ended itself, and dials again.
    pub(super) fn drop_line(&mut self, myself: &ActorRef<LinkMsg>, code: CloseCode, reason: &str) {
        let now = Instant::now();
        let mut tries = 1;
        if let Connection::Up(up) = &self.connection {
            // A link that was good is tried again soon; one that was never welcomed backs off further.
            tries = if up.welcomed { 1 } else { 3 };
            if up.welcomed {
                self.offline_since = now;
            }
            if was_replaced(&up.line.connection) {
                tracing::error!(
                    node = self.arguments.node,
                    "another process has this node's name: start one of the two anew with its own --name and --data, \
                     and a new --token"
                );
                tries = TRIES_REPLACED;
            }
            up.line.connection.close(close_code(code), reason.as_bytes());
        }
        let leaving = self.leaving.as_ref().is_some_and(|leaving| leaving.said);
        if !leaving {
            tracing::warn!(reason, "the link is lost");
        }
        self.connection = Connection::Down { tries };
        self.arguments.linked.store(false, Ordering::Relaxed);
        self.worker = None;
        self.transfers.link_lost(now);
        if leaving {
            self.gone();
        } else {
            self.redial(myself);
        }
    }

    pub(super) fn up(&self) -> Option<&Up> {
        match &self.connection {
            Connection::Up(up) if up.welcomed => Some(up),
            _ => None,
        }
    }

    /// Says a frame on a welcomed connection. What is said into the void is made good by the next `Hello`.
    pub(super) fn say(&self, frame: &FromWorker) {
        if let Some(up) = self.up()
            && !up.line.say(frame)
        {
            up.line.connection.close(close_code(CloseCode::Silent), b"the queue is full");
        }
    }
}

/// Our newest connection was closed in favour of a newer one, which is not ours.
fn was_replaced(connection: &quinn::Connection) -> bool {
    let replaced = close_code(CloseCode::Replaced);
    matches!(
        connection.close_reason(),
        Some(quinn::ConnectionError::ApplicationClosed(close)) if close.error_code == replaced
    )
}
