//! The coordinator's side, as the tests play it: a CA, a QUIC server, a store in memory, and a peer that does
//! what the test says.

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use zoetrope_protocol::job::{ArtifactRef, Cause, Role};
use zoetrope_protocol::provenance::{Origin, SIGNATURE_BYTES, Terms};
use zoetrope_protocol::version::LinkVersion;
use zoetrope_protocol::wire::*;
use zoetrope_protocol::{
    ArtifactId, AttemptNumber, Epoch, Fence, JobId, Millis, RenderSpec, ShardId, Size, Stage,
    WorkerId, codec,
};
use zoetrope_provenance::{Credential, Signer};
use zoetrope_worker::cache::ArtifactCache;
use zoetrope_worker::emulated::{EmulatedEngine, Emulation};
use zoetrope_worker::finish::{ClipCache, FinishSettings, Finisher, Programs};
use zoetrope_worker::identity::{Candidate, NodeIdentity, Token};
use zoetrope_worker::link::LinkTimes;
use zoetrope_worker::link::dial::endpoint;
use zoetrope_worker::link::tls::link_config;
use zoetrope_worker::link::transfer::Patience;
use zoetrope_worker::metrics::Metrics;
use zoetrope_worker::root::{Worker, WorkerArguments};

/// Nothing that a test waits for takes longer, on a busy machine with a slow disk either, unless it is broken.
pub const SOON: Duration = Duration::from_secs(120);
pub const SECRET: [u8; 32] = [5; 32];

/// Waits for something that must come soon.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, work).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come"),
    }
}

pub struct Farm {
    pub endpoint: Endpoint,
    pub address: SocketAddr,
    pub authority: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    pub store: Arc<Mutex<HashMap<ArtifactId, Vec<u8>>>>,
}

impl Farm {
    pub fn new() -> Farm {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);

        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["coordinator.zoetrope".to_string()])
            .unwrap()
            .signed_by(&leaf_key, &issuer)
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).unwrap();
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![leaf.der().clone(), authority.clone()],
                PrivatePkcs8KeyDer::from(leaf_key.serialize_der()).into(),
            )
            .unwrap();
        tls.alpn_protocols = LinkVersion::NEWEST.names();
        tls.alpn_protocols.push(ALPN_JOIN.to_vec());
        let config =
            quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let endpoint = Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap();
        let address = endpoint.local_addr().unwrap();
        Farm { endpoint, address, authority, issuer, store: Arc::default() }
    }

    pub fn token(&self) -> Token {
        Token { authority: Sha256::digest(self.authority.as_ref()).into(), secret: SECRET }
    }

    pub fn sign(&self, request: &[u8]) -> Vec<u8> {
        let request = CertificateSigningRequestDer::from(request.to_vec());
        let request = rcgen::CertificateSigningRequestParams::from_der(&request).unwrap();
        request.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    /// A node that has joined already.
    pub fn identity(&self, node: &str) -> NodeIdentity {
        let candidate = Candidate::new(node).unwrap();
        let certificate = self.sign(&candidate.signing_request);
        candidate.signed(node, certificate, self.authority.to_vec())
    }

    pub async fn connection(&self) -> Connection {
        soon("a connection", async { self.endpoint.accept().await.unwrap().await.unwrap() }).await
    }

    /// The next link, with its `Hello`, not welcomed yet.
    pub async fn hello(&self) -> (Peer, Identity, Vec<Held>) {
        let connection = self.connection().await;
        let (send, mut receive) = soon("a stream", connection.accept_bi()).await.unwrap();
        let FromWorker::Hello { identity, held, .. } = soon("hello", read(&mut receive)).await
        else {
            panic!("no hello");
        };
        (Peer::start(connection, send, receive, self.store.clone()), identity, held)
    }

    /// The next link, welcomed in this epoch, keeping nothing.
    pub async fn welcome(&self, epoch: u64) -> Peer {
        let (mut peer, _, _) = self.hello().await;
        peer.welcome(epoch, vec![]).await;
        peer
    }
}

pub async fn read<T: DeserializeOwned>(stream: &mut RecvStream) -> T {
    zoetrope_worker::link::stream::read_frame(stream).await.unwrap()
}

async fn write<T: Serialize>(stream: &mut SendStream, value: &T) {
    // A worker that is gone is what the test wants to see elsewhere.
    stream.write_all(&codec::frame(value).unwrap()).await.ok();
}

/// What a peer saw.
#[derive(Debug)]
pub enum Event {
    Frame(FromWorker),
    Artifact(ArtifactHeader),
}

/// One link of the worker, seen from the coordinator.
pub struct Peer {
    pub connection: Connection,
    out: mpsc::Sender<ToWorker>,
    events: mpsc::Receiver<Event>,
    /// Whether artifacts are acknowledged as they come.
    pub acknowledges: Arc<AtomicBool>,
    /// Whether heartbeats go out.
    pub beats: Arc<AtomicBool>,
    /// Whether artifacts are given piece by piece, over a second.
    pub gives_slowly: Arc<AtomicBool>,
    /// Why it does not sign, and how often.
    pub refuses: (Cause, u32),
    signer: Signer,
}

impl Peer {
    fn start(
        connection: Connection,
        mut send: SendStream,
        mut receive: RecvStream,
        store: Arc<Mutex<HashMap<ArtifactId, Vec<u8>>>>,
    ) -> Peer {
        let (out, mut queue) = mpsc::channel::<ToWorker>(100);
        let (seen, events) = mpsc::channel(1_000);
        let acknowledges = Arc::new(AtomicBool::new(true));
        let beats = Arc::new(AtomicBool::new(true));
        tokio::spawn(async move {
            while let Some(frame) = queue.recv().await {
                write(&mut send, &frame).await;
            }
        });
        let (heart, beating) = (out.clone(), beats.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if beating.load(Ordering::SeqCst) && heart.send(ToWorker::Heartbeat).await.is_err()
                {
                    return;
                }
            }
        });
        let (link, frames, replies) = (connection.clone(), seen.clone(), out.clone());
        let (fetched, gives_slowly) = (store.clone(), Arc::new(AtomicBool::new(false)));
        let slowly = gives_slowly.clone();
        tokio::spawn(async move {
            while let Ok(frame) =
                zoetrope_worker::link::stream::read_frame::<FromWorker>(&mut receive).await
            {
                if let FromWorker::Fetch(artifact) = frame {
                    let bytes = fetched.lock().unwrap().get(&artifact).cloned();
                    match bytes {
                        Some(bytes) => {
                            let pieces = if slowly.load(Ordering::SeqCst) { 20 } else { 1 };
                            tokio::spawn(give(link.clone(), artifact, bytes, pieces));
                        }
                        None => replies.send(ToWorker::NoArtifact(artifact)).await.unwrap(),
                    }
                }
                if frames.send(Event::Frame(frame)).await.is_err() {
                    return;
                }
            }
        });
        let (link, replies, ack) = (connection.clone(), out.clone(), acknowledges.clone());
        tokio::spawn(async move {
            while let Ok(mut stream) = link.accept_uni().await {
                let header: ArtifactHeader = read(&mut stream).await;
                let rest = stream.read_to_end(1 << 28).await.unwrap();
                let (bytes, digest) = rest.split_at(header.bytes as usize);
                assert_eq!(ArtifactId::of(bytes), header.artifact);
                assert_eq!(digest, header.artifact.0);
                store.lock().unwrap().insert(header.artifact, bytes.to_vec());
                if seen.send(Event::Artifact(header)).await.is_err() {
                    return;
                }
                if ack.load(Ordering::SeqCst) {
                    let held = header.held.unwrap();
                    let stored = ToWorker::Stored { held, artifact: header.artifact };
                    replies.send(stored).await.ok();
                }
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::new(Credential::open(folder.path()).unwrap());
        Peer {
            connection,
            out,
            events,
            acknowledges,
            beats,
            gives_slowly,
            refuses: (Cause::DependencyDown, 0),
            signer,
        }
    }

    pub async fn say(&self, frame: ToWorker) {
        self.out.send(frame).await.unwrap();
    }

    pub async fn welcome(&mut self, epoch: u64, keep: Vec<Kept>) {
        self.say(ToWorker::Welcome { worker: WorkerId(1), epoch: Epoch(epoch), keep }).await;
    }

    /// The very next thing.
    pub async fn raw(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next thing that is no heartbeat, progress or fetch. None when the link is over.
    pub async fn next(&mut self) -> Option<Event> {
        let quiet = async {
            loop {
                match self.events.recv().await {
                    Some(Event::Frame(
                        FromWorker::Heartbeat | FromWorker::Progress { .. } | FromWorker::Fetch(_),
                    )) => {}
                    event => return event,
                }
            }
        };
        soon("the worker's next word", quiet).await
    }

    pub async fn frame(&mut self) -> FromWorker {
        match self.next().await {
            Some(Event::Frame(frame)) => frame,
            other => panic!("expected a frame, got {other:?}"),
        }
    }

    pub async fn artifact(&mut self) -> ArtifactHeader {
        match self.next().await {
            Some(Event::Artifact(header)) => header,
            other => panic!("expected an artifact, got {other:?}"),
        }
    }

    /// Gives an order and collects what comes until it is over.
    pub async fn carry_out(&mut self, order: Order) -> (Vec<Role>, FromWorker) {
        self.say(ToWorker::Order(order)).await;
        self.until_over().await
    }

    /// Gives an order and waits for its first checkpoint, which is not acknowledged: the worker stands still
    /// there until [`Peer::go_on`], however slow or fast the machine is.
    pub async fn hold_at_checkpoint(&mut self, order: &Order) -> ArtifactHeader {
        self.acknowledges.store(false, Ordering::SeqCst);
        self.say(ToWorker::Order(order.clone())).await;
        self.started_and_artifact(held(order)).await
    }

    /// That the attempt began, and its first artifact: on two streams, so in either order.
    pub async fn started_and_artifact(&mut self, attempt: Held) -> ArtifactHeader {
        let (mut started, mut artifact) = (false, None);
        while !started || artifact.is_none() {
            match self.next().await {
                Some(Event::Frame(FromWorker::Started(held))) => {
                    assert_eq!(held, attempt);
                    started = true;
                }
                Some(Event::Artifact(header)) => artifact = Some(header),
                other => panic!("expected a start or an artifact, got {other:?}"),
            }
        }
        artifact.unwrap()
    }

    /// Waits until so many steps are done and the next one is in hand.
    pub async fn until_step(&mut self, steps: u32) {
        let there = async {
            loop {
                match self.raw().await {
                    Some(Event::Frame(FromWorker::Progress { phase, done, .. }))
                        if (phase, done) == (Phase::Denoising, steps) =>
                    {
                        return;
                    }
                    Some(_) => {}
                    None => panic!("the link is over"),
                }
            }
        };
        soon("a step", there).await;
    }

    /// Acknowledges a checkpoint, and all that come from now on.
    pub async fn go_on(&self, checkpoint: ArtifactHeader) {
        self.acknowledges.store(true, Ordering::SeqCst);
        let held = checkpoint.held.unwrap();
        self.say(ToWorker::Stored { held, artifact: checkpoint.artifact }).await;
    }

    pub async fn tell_terms(&self, held: Held) {
        self.say(ToWorker::Terms { held, terms: Box::new(terms(held)) }).await;
    }

    pub async fn until_over(&mut self) -> (Vec<Role>, FromWorker) {
        let mut roles = Vec::new();
        loop {
            match self.next().await {
                Some(Event::Artifact(header)) => roles.push(header.role.unwrap()),
                Some(Event::Frame(FromWorker::Started(_))) => {}
                Some(Event::Frame(FromWorker::TermsAsked(held))) => self.tell_terms(held).await,
                Some(Event::Frame(FromWorker::SignProven { held, .. })) if self.refuses.1 > 0 => {
                    self.refuses.1 -= 1;
                    let (cause, reason) = (self.refuses.0, "not now".to_owned());
                    self.say(ToWorker::NotSigned { held, cause, reason }).await;
                }
                Some(Event::Frame(FromWorker::SignProven { held, manifest, .. })) => {
                    let signature =
                        self.signer.sign(held, &terms(held), &manifest).unwrap().envelope;
                    self.say(ToWorker::Signed { held, signature }).await;
                }
                Some(Event::Frame(frame)) => return (roles, frame),
                None => panic!("the link is over"),
            }
        }
    }

    pub fn close(&self, code: CloseCode) {
        self.connection.close(VarInt::from_u32(code as u32), b"");
    }
}

async fn give(link: Connection, artifact: ArtifactId, bytes: Vec<u8>, pieces: usize) {
    let mut stream = link.open_uni().await.unwrap();
    let header = ArtifactHeader { held: None, role: None, artifact, bytes: bytes.len() as u64 };
    write(&mut stream, &header).await;
    for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
        stream.write_all(piece).await.unwrap();
        if pieces > 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    // What a store says of bytes that rotted: their own digest, which is not their address.
    stream.write_all(&ArtifactId::of(&bytes).0).await.unwrap();
    stream.finish().unwrap();
}

/// What the manifest of an attempt's clip must say.
fn terms(held: Held) -> Terms {
    Terms {
        video: held.shard.job.to_string(),
        farm: "0.0.0".into(),
        created: Millis(1_795_000_000_000),
        model: "toybox".into(),
        license: "Apache-2.0".into(),
        seed: 7,
        policy: None,
        marks: Vec::new(),
        origin: Origin::Generated,
        signature_bytes: SIGNATURE_BYTES,
    }
}

pub fn held(order: &Order) -> Held {
    Held { shard: order.shard, fence: order.fence }
}

pub fn outputs(frame: FromWorker) -> Vec<ArtifactRef> {
    match frame {
        FromWorker::Finished { outputs, .. } => outputs,
        other => panic!("expected the end, got {other:?}"),
    }
}

pub fn spec() -> RenderSpec {
    let size = Size { width: 64, height: 96 };
    RenderSpec {
        model: "toybox".into(),
        prompt: "a red ball".into(),
        canvas: size,
        deliver: size,
        frames: 24,
        seed: 3,
        steps: 4,
        audio: true,
    }
}

pub fn order(stage: Stage, inputs: Vec<ArtifactRef>) -> Order {
    Order {
        shard: ShardId { job: JobId(1), stage, index: 0 },
        fence: Fence { epoch: Epoch(1), attempt: AttemptNumber(1) },
        spec: spec(),
        inputs,
        checkpoint_every: 1,
        hard_limit: Millis(60_000),
        mark: None,
        shards: 1,
    }
}

pub fn times() -> LinkTimes {
    LinkTimes {
        tick: Duration::from_millis(50),
        heartbeat: Duration::from_millis(200),
        loss_after: Duration::from_secs(2),
        moving: SOON,
        patience: Patience { answer: SOON, offline: SOON, ..Patience::default() },
    }
}

/// What a worker of a test is like.
pub struct Setup {
    pub emulation: &'static str,
    pub times: LinkTimes,
    pub stuck_after: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { emulation: "step_ms = 5", times: times(), stuck_after: SOON }
    }
}

/// A worker that has encoded its prompt, and all that must live as long as it.
pub struct Encoded {
    pub farm: Farm,
    pub data: tempfile::TempDir,
    pub worker: Worker,
    pub peer: Peer,
    pub prompt: Vec<ArtifactRef>,
}

impl Setup {
    /// Starts a worker in a farm of its own, and has it encode the prompt.
    pub async fn encoded(self) -> Encoded {
        let farm = Farm::new();
        let data = tempfile::tempdir().unwrap();
        let worker = self.start(&farm, data.path()).await;
        let mut peer = farm.welcome(1).await;
        let prompt = outputs(peer.carry_out(order(Stage::Encode, vec![])).await.1);
        Encoded { farm, data, worker, peer, prompt }
    }

    /// A step is long enough to be told to stop in the middle of it, on a busy machine too.
    pub fn slow() -> Setup {
        Setup { emulation: "step_ms = 500", ..Setup::default() }
    }

    pub async fn start(self, farm: &Farm, data: &Path) -> Worker {
        let path = data.join("emulation.toml");
        let models = "models = [\"toybox\"]\nclip = \"cached\"\n";
        std::fs::write(&path, format!("{models}{}", self.emulation)).unwrap();
        let emulation = Arc::new(Emulation::read(&path).unwrap());
        let programs = Programs { ffmpeg: "ffmpeg".into(), ffprobe: "ffprobe".into() };
        let settings = Arc::new(FinishSettings::new(programs, data.join("tmp")));
        let profile = Profile {
            pool: "default".into(),
            gpu_kind: emulation.gpu_kind.clone(),
            vram_bytes: emulation.vram_bytes,
            version: "0.0.0".into(),
            models: emulation.served(),
            machine: String::new(),
        };
        let arguments = WorkerArguments {
            coordinator: farm.address.to_string(),
            node: "node-1".into(),
            endpoint: endpoint().unwrap(),
            config: link_config(&farm.identity("node-1"), LinkVersion::NEWEST).unwrap(),
            profile,
            open: Box::new(move |_| Ok(Box::new(EmulatedEngine::new(emulation.clone())))),
            finisher: Finisher::Cached(Arc::new(ClipCache::new(settings))),
            cache: Arc::new(ArtifactCache::open(data.join("artifacts"), 1 << 30).unwrap()),
            metrics: Arc::new(Metrics::new(&["toybox".into()]).unwrap()),
            linked: Arc::new(AtomicBool::new(false)),
            times: self.times,
            stuck_after: self.stuck_after,
        };
        Worker::start(arguments).await.unwrap()
    }
}
