//! What the coordinator and a worker say to each other.
//!
//! One bidirectional control stream for each worker, opened by the worker, carries frames of
//! [`FromWorker`] one way and [`ToWorker`] the other. Artifacts go on unidirectional streams:
//! a frame with an [`ArtifactHeader`], then exactly `bytes` bytes, then the 32 bytes of their SHA-256.
//! The receiver answers on the control stream ([`ToWorker::Stored`]) once the bytes are safe; a stream that
//! ends early, or whose digest differs, counts as never sent.
//!
//! Variants and fields are appended, never reordered: their order is the format (golden bytes in
//! `protocol/tests`). The version is in the ALPN name; [`crate::version`] says who may be told what.

use crate::id::{ArtifactId, Epoch, Fence, Millis, ShardId, WorkerId};
use crate::job::{ArtifactRef, Cause, ClipFacts, RenderSpec, Role, Stage};
use crate::mark::{DraftReading, MarkOrder};
use crate::provenance::Terms;
use serde::{Deserialize, Serialize};

/// ALPN name of a worker's link in the version of the first release.
pub const ALPN_LINK: &[u8] = b"zoetrope-link/1";
/// What the socket of a link asks the kernel to keep for it: a burst of some thousand packets, for a reader that is not at
/// once scheduled. The kernel gives at most `net.core.rmem_max`; what it drops is sent again some 100 ms later.
pub const SOCKET_BYTES: usize = 4 << 20;
/// The largest datagram that a link looks for, for networks with frames of 9,000 bytes and for the machine itself: ten of
/// them, which quinn hands to the kernel at once, must stay below 64 KiB. Where the network, or the peer, takes only
/// smaller ones, a link finds that out at its start and stays below.
pub const DATAGRAM_BYTES: u16 = 6_400;
/// Bytes that one stream may have under way: 1 Gbit/s over 32 ms, or 10 Gbit/s over 3 ms, are 4 MB. More than
/// [`SOCKET_BYTES`] would be dropped on a fast network when the reader is not at once scheduled.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes that one link may have under way: four such streams.
pub const LINK_WINDOW_BYTES: u32 = 4 * STREAM_WINDOW_BYTES;
const _: () =
    assert!(10 * DATAGRAM_BYTES as usize <= 65_507 && STREAM_WINDOW_BYTES as usize <= SOCKET_BYTES);
/// ALPN name of a first contact: a worker without a certificate that brings a join token.
pub const ALPN_JOIN: &[u8] = b"zoetrope-join/1";
/// The largest control frame: an order with the longest prompt (32,000 characters of 4 bytes) fits 7 times.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// The largest artifact: latents of 120 s at 768×1344 take 330 MB.
pub const ARTIFACT_BYTES_MAX: u64 = 1 << 30;
/// The longest name of a node, pool or gpu kind, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Coordinators that a worker is told of.
pub const COORDINATORS_MAX: usize = 16;
/// The connection is dead after so long without a packet. Keep-alives go out four times as often.
pub const IDLE_TIMEOUT: Millis = Millis(20_000);
/// How often each side sends a heartbeat frame.
pub const HEARTBEAT: Millis = Millis(1_000);
/// A worker that sent no frame for so long is lost.
pub const LOSS_AFTER: Millis = Millis(5_000);

/// Why a connection was closed. 0 is none of them: it is what a dropped handle sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// The worker leaves, all is said.
    Leaving = 1,
    /// The coordinator stops.
    Stopping = 2,
    /// A frame could not be read.
    BadFrame = 3,
    /// The peer spoke out of turn.
    Protocol = 4,
    /// A newer connection of the same node took over.
    Replaced = 5,
    /// The join was refused.
    JoinRefused = 6,
    /// No frame within [`LOSS_AFTER`].
    Silent = 7,
}

/// Who a worker process is. A name alone is no identity: a restarted process has a new `boot`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// The name in the worker's certificate.
    pub node: String,
    /// Random, chosen at each start of the process.
    pub boot: u64,
    /// Counts the connections of one boot, from 1.
    pub session: u64,
}

/// What a worker can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The operator's name for a set of workers.
    pub pool: String,
    /// What it serves: `cpu`, or the driver's name of the GPU.
    pub gpu_kind: String,
    /// Memory of the device.
    pub vram_bytes: u64,
    /// Version of the worker's program.
    pub version: String,
    /// The models on its disk.
    pub models: Vec<ServedModel>,
    /// The host that it runs on, as long as that runs: what workers share that are lost together. Empty if unknown;
    /// at most [`MACHINE_BYTES_MAX`] count.
    pub machine: String,
}

/// The name of a running host: room for a UUID and more.
pub const MACHINE_BYTES_MAX: usize = 64;

/// A model on a worker's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedModel {
    /// The manifest's id.
    pub id: String,
    /// SHA-256 over the weights' names and bytes.
    pub fingerprint: ArtifactId,
    /// The stages that it may be given.
    pub stages: Vec<Stage>,
}

/// An attempt that a worker still holds when it (re)connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Held {
    /// The shard.
    pub shard: ShardId,
    /// The order's fence.
    pub fence: Fence,
}

/// What a worker tells the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// The first frame of every connection.
    Hello {
        /// Who speaks.
        identity: Identity,
        /// What it can do.
        profile: Profile,
        /// What it is doing already.
        held: Vec<Held>,
    },
    /// I am here. Sent every [`HEARTBEAT`].
    Heartbeat,
    /// The gpu thread began the order. Said again while the attempt waits for bytes that move.
    Started(Held),
    /// How far an attempt is. Only the newest counts.
    Progress {
        /// The attempt.
        held: Held,
        /// What it does now.
        phase: Phase,
        /// Units (steps, chunks) done.
        done: u32,
        /// Units in all.
        total: u32,
    },
    /// The order is carried out; all outputs were acknowledged before.
    Finished {
        /// The attempt.
        held: Held,
        /// What it made.
        outputs: Vec<ArtifactRef>,
        /// Of a `Finish` shard: what was measured.
        facts: Option<ClipFacts>,
        /// Time on the gpu thread.
        gpu: Millis,
    },
    /// The attempt ended without its last artifact.
    Failed {
        /// The attempt.
        held: Held,
        /// Why.
        cause: Cause,
        /// For the operator: at most 1,000 characters.
        detail: String,
        /// Time on the gpu thread.
        gpu: Millis,
    },
    /// Send me this artifact. The answer is a stream, [`ToWorker::NoArtifact`] or
    /// [`ToWorker::StoreDown`].
    Fetch(ArtifactId),
    /// The process was asked to end, and will have done so after this time.
    Leaving {
        /// How long it goes on working at most.
        within: Millis,
    },
    /// The last frame: nothing runs any more and nothing is unacknowledged.
    Left,
    /// What must the manifest of this attempt's clip say? The answer is [`ToWorker::Terms`].
    TermsAsked(Held),
    /// Sign this, as workers before [`LinkVersion::PROVEN`](crate::version::LinkVersion::PROVEN) ask. The answer is
    /// [`ToWorker::Signed`] or [`ToWorker::NotSigned`]. Asked again after a lost link.
    SignAsked {
        /// The attempt.
        held: Held,
        /// SHA-256 of the clip without a manifest.
        unsigned: ArtifactId,
        /// The manifest store as it stands in the file, with room where the signature goes; at most
        /// [`MANIFEST_BYTES_MAX`](crate::provenance::MANIFEST_BYTES_MAX) bytes.
        manifest: Vec<u8>,
    },
    /// The same of a clip that is to be proven first: that it shows its mark, passes moderation, and is what the manifest
    /// binds. [`ToWorker::NotSigned`] with the cause `ArtifactMissing` asks for the clip without its manifest, as a
    /// [`Role::Draft`](crate::job::Role::Draft), and then for the same frame again.
    SignProven {
        /// The attempt.
        held: Held,
        /// SHA-256 of the clip without a manifest.
        unsigned: ArtifactId,
        /// As in [`FromWorker::SignAsked`].
        manifest: Vec<u8>,
        /// The record that it is judged by, which is in the store; none by a worker that has no classifiers.
        scores: Option<ArtifactRef>,
    },
}

/// What a stage does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Weights are being loaded.
    Loading,
    /// The prompt is being encoded.
    Encoding,
    /// Denoising steps.
    Denoising,
    /// Frames are being decoded, marked and encoded.
    Decoding,
    /// The sound is being decoded.
    Sound,
    /// The file is being closed, read back and checked.
    Muxing,
    /// Outputs are on their way.
    Sending,
}

/// What the coordinator tells a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Answer to `Hello`.
    Welcome {
        /// The worker's number under this leader.
        worker: WorkerId,
        /// The leader's epoch. A worker refuses orders of an older one.
        epoch: Epoch,
        /// Held attempts to go on with, each under its new fence; all others are to be dropped.
        keep: Vec<Kept>,
    },
    /// Do this.
    Order(Order),
    /// End this attempt.
    Stop {
        /// The attempt.
        held: Held,
        /// How soon.
        when: StopWhen,
    },
    /// Take no more orders and leave.
    Drain(DrainKind),
    /// The artifact's bytes are safe in the store.
    Stored {
        /// The attempt that sent it.
        held: Held,
        /// Which one.
        artifact: ArtifactId,
    },
    /// The artifact could not be stored; the attempt may send it again.
    NotStored {
        /// The attempt that sent it.
        held: Held,
        /// Which one.
        artifact: ArtifactId,
        /// For the worker's log.
        reason: String,
    },
    /// The store does not have what was asked for.
    NoArtifact(ArtifactId),
    /// I am here. Sent every [`HEARTBEAT`].
    Heartbeat,
    /// Where the farm's coordinators listen, `HOST:PORT` each, at most [`COORDINATORS_MAX`]: one of them leads
    /// if this one no longer does. Sent behind the welcome and at each change, where there are several.
    Coordinators(Vec<String>),
    /// Answer to [`FromWorker::TermsAsked`].
    Terms {
        /// The attempt.
        held: Held,
        /// What the manifest must say.
        terms: Box<Terms>,
    },
    /// The claim is signed.
    Signed {
        /// The attempt.
        held: Held,
        /// What goes into the manifest's room: a COSE_Sign1 of exactly that many bytes.
        signature: Vec<u8>,
    },
    /// There is no signature.
    NotSigned {
        /// The attempt.
        held: Held,
        /// `DependencyDown` where another try may help; `ArtifactMissing` where the draft is wanted again.
        cause: Cause,
        /// For the worker's log.
        reason: String,
    },
    /// The store may have what was asked for, and cannot be read now.
    StoreDown(ArtifactId),
    /// Answer to an artifact of [`Role::Draft`].
    MarksRead {
        /// The attempt that sent it.
        held: Held,
        /// Which one.
        draft: ArtifactId,
        /// What it shows.
        reading: DraftReading,
    },
}

/// A held attempt that goes on, under a new fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The attempt as the worker named it.
    pub held: Held,
    /// What its reports carry from now on.
    pub fence: Fence,
}

/// One attempt to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The shard.
    pub shard: ShardId,
    /// What every report and upload must carry.
    pub fence: Fence,
    /// The render that it is part of.
    pub spec: RenderSpec,
    /// Inputs. For `Denoise` the prompt, and latents where an earlier attempt stored some; for `Decode` the latents,
    /// and the segments of this shard that are stored already; for `Finish` the latents, or all segments.
    pub inputs: Vec<ArtifactRef>,
    /// Store the latents after every so many steps, and wait until they are safe; 0: as often as it costs at most 1 %
    /// of the time, by what the worker measures.
    pub checkpoint_every: u32,
    /// The worker ends the attempt itself after this time.
    pub hard_limit: Millis,
    /// Of a `Finish` shard: the marks of its clip. A clip without them is never published.
    pub mark: Option<Box<MarkOrder>>,
    /// Into how many shards the stage of this job is cut, at least 1; `shard.index` says which one this is.
    pub shards: u16,
}

/// How soon an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopWhen {
    /// At the next step boundary; its latents are not stored.
    Now,
    /// At the next step boundary, after its latents are stored.
    AfterStep,
}

/// How a worker is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DrainKind {
    /// Stop now; the newest stored artifact stays.
    Immediate,
    /// Finish and store the step in hand.
    Step,
    /// Finish the shard.
    Shard,
    /// As `Shard`, but be gone after this time.
    Deadline(Millis),
}

/// Head of an artifact's stream, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactHeader {
    /// The attempt that it belongs to; none when the coordinator answers a fetch.
    pub held: Option<Held>,
    /// What it is to the job; none when the coordinator answers a fetch.
    pub role: Option<Role>,
    /// Its address. The bytes must match.
    pub artifact: ArtifactId,
    /// How many bytes follow, at most [`ARTIFACT_BYTES_MAX`].
    pub bytes: u64,
}

/// A worker's first contact, on a bidirectional stream of an [`ALPN_JOIN`] connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The secret half of the token.
    pub secret: [u8; 32],
    /// The name that it wants: 1 to [`NAME_BYTES_MAX`] of `a-z 0-9 - .`
    pub node: String,
    /// A certificate signing request, DER.
    pub signing_request: Vec<u8>,
}

/// The answer to a [`JoinRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// Welcome.
    Joined {
        /// The worker's certificate, DER.
        certificate: Vec<u8>,
        /// The farm's CA, DER.
        authority: Vec<u8>,
    },
    /// Unknown, used or expired token, a bad name or a bad request: which.
    Refused {
        /// A sentence for the operator.
        reason: String,
    },
}
