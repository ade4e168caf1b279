//! The HTTP door: authenticates, parses requests into types that cannot be wrong, and shows what
//! the farm knows.
//!
//! It decides nothing about jobs: what it asks stands in [`crate::farm`]. The contract of every
//! byte is the API reference. Called by `serve`, which gives it a listener and a [`DoorState`].

mod body;
mod cancel;
mod connection;
mod content;
mod create;
mod envelope;
mod fields;
mod health;
mod kind;
mod leader;
mod limits;
mod listing;
mod models;
mod moderations;
mod multipart;
mod node;
mod once;
mod openapi;
mod operator;
mod pace;
mod places;
mod provenance;
mod readers;
mod recent;
mod rescan;
mod role;
mod route;
mod shares;
mod submit;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod unread;
mod video;
mod words;

pub use connection::serve;
pub use leader::ClusterHandle;
pub use role::Roles;
pub use shares::Links;
pub use words::{Code, Replay};

use crate::config::Classes;
use crate::farm::Farm;
use crate::fsck::Fsck;
use crate::inspect::Inspector;
use crate::keys::KeyStore;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::moderation::Desk;
use crate::room::Room;
use crate::watermark::Finder;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zoetrope_protocol::id::Millis;
use zoetrope_protocol::metric;

/// What the door needs, all of it from outside.
#[derive(Clone)]
pub struct DoorState {
    /// The actors.
    pub farm: Farm,
    /// What requests are checked by.
    pub models: Arc<Models>,
    /// The classes that projects may ask for.
    pub classes: Arc<Classes>,
    /// Who may ask.
    pub keys: Arc<KeyStore>,
    /// How much, how fast, how long.
    pub limits: DoorLimits,
    /// Where requests are counted, and what `/metrics` answers.
    pub metrics: Arc<dyn DoorMetrics>,
    /// Who judges texts and images.
    pub desk: Arc<Desk>,
    /// `fp_…`: the build of the engine and its settings.
    pub system_fingerprint: Arc<str>,
    /// Makes and checks the addresses of share links.
    pub links: Arc<Links>,
    /// Holds the store against the books.
    pub fsck: Arc<Fsck>,
    /// Looks into files.
    pub inspector: Arc<Inspector>,
    /// Looks for marks in them; none where nothing is marked.
    pub finder: Option<Arc<Finder>>,
    /// The time. A test may stop it.
    pub now: fn() -> Millis,
    /// The other coordinators; none where there are no others.
    pub cluster: Option<ClusterHandle>,
}

/// Limits of the door. Reaching one is answered, never a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorLimits {
    /// Requests a second that a key may send in the long run.
    pub requests_per_second: u32,
    /// Requests that a key may send at once after a pause.
    pub burst: u32,
    /// The largest body, in bytes.
    pub body_bytes: u64,
    /// Text of one body that is held in memory (all that is not a file), in bytes.
    pub text_bytes: u64,
    /// Connections at once; for one more, the one that waits longest for a request is closed.
    pub connections: usize,
    /// Requests being handled or answered at once; more get 503.
    pub in_flight: usize,
    /// From the first byte of a request, or from the end of the one before, to the end of its head.
    pub head_timeout: Duration,
    /// How long the next 40 KiB of a body may take to come.
    pub pace_timeout: Duration,
    /// The longest pause inside a body, and how long the next 120 KiB of an answer may wait for its reader.
    pub stall_timeout: Duration,
    /// From the head of a request to the end of its body.
    pub body_timeout: Duration,
    /// How long a stopping door waits for requests that are being handled.
    pub drain_timeout: Duration,
}

impl Default for DoorLimits {
    fn default() -> Self {
        DoorLimits {
            requests_per_second: 50,
            burst: 200,
            body_bytes: 512 << 20,
            // Twice a data URL of 20,971,520 characters, because JSON may escape each slash, and
            // some room.
            text_bytes: 48 << 20,
            connections: 1024,
            in_flight: 512,
            head_timeout: Duration::from_secs(30),
            pace_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            // The SDKs give up after the same time.
            body_timeout: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Where the door reports its requests.
pub trait DoorMetrics: Send + Sync {
    /// The text that `/metrics` answers, in Prometheus' format.
    fn text(&self) -> String;
    /// A request was answered: its route template (`other` if it has none), method, status and
    /// time.
    fn answered(&self, route: &'static str, method: &'static str, code: u16, took: Duration);
    /// A submit was refused with this code; none where the contract has none for it.
    fn refused(&self, code: Option<Code>);
    /// The answer to an earlier request was given again.
    fn replayed(&self, why: Replay);
    /// So many requests are being handled now.
    fn in_flight(&self, requests: usize);
}

impl DoorMetrics for Metrics {
    fn text(&self) -> String {
        Metrics::text(self)
    }

    fn answered(&self, route: &'static str, method: &'static str, code: u16, took: Duration) {
        self.count(&metric::HTTP_REQUESTS, &[route, method, &code.to_string()]);
        self.observe(&metric::HTTP_DURATION, &[route], took);
    }

    fn refused(&self, code: Option<Code>) {
        self.count(&metric::SUBMITS_REFUSED, &[code.map_or("none", Code::word)]);
    }

    fn replayed(&self, why: Replay) {
        self.count(&metric::IDEMPOTENT_REPLAYS, &[why.word()]);
    }

    fn in_flight(&self, requests: usize) {
        self.set(&metric::HTTP_IN_FLIGHT, &[], requests as f64);
    }
}

/// A project, or all who follow share links, may have a quarter of the requests being handled or answered: 128 of 512,
/// more than two seconds' worth of what one key may send, so that three projects at their limit leave room for a fourth.
const ROOM_SHARE: usize = 4;
/// One in so many (64 of 512) is for operators' keys alone.
const ROOM_RESERVE: usize = 8;

/// The state and what the door itself remembers: one for each call of [`serve`].
struct Door {
    state: DoorState,
    /// When it began, on the clock of jobs.
    since: Millis,
    started: Instant,
    buckets: limits::Buckets,
    recent: recent::Recent,
    readers: readers::Readers,
    cancels: cancel::Cancels,
    readiness: health::Readiness,
    /// Requests that may be handled or answered at once.
    room: Arc<Room>,
    /// Requests that are being handled.
    handled: std::sync::atomic::AtomicUsize,
    /// Large bodies that may be read at once.
    large_bodies: Arc<Room>,
}

impl Door {
    fn new(state: DoorState) -> Arc<Door> {
        let limits = &state.limits;
        Arc::new(Door {
            since: (state.now)(),
            started: Instant::now(),
            buckets: limits::Buckets::new(limits.requests_per_second, limits.burst),
            recent: recent::Recent::default(),
            readers: readers::Readers::default(),
            cancels: cancel::Cancels::default(),
            readiness: health::Readiness::default(),
            room: Room::new(limits.in_flight, ROOM_SHARE, limits.in_flight / ROOM_RESERVE),
            handled: std::sync::atomic::AtomicUsize::new(0),
            large_bodies: Room::new(body::LARGE_BODIES, body::LARGE_SHARE, 0),
            state,
        })
    }
}
