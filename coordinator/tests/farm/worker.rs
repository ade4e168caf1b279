//! A scripted worker: speaks the wire protocol, renders nothing.

use crate::{PATIENCE, clip};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, TransportConfig};
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zoetrope_coordinator::authority::{Authority, SERVER_NAME};
use zoetrope_coordinator::{clock, link};
use zoetrope_protocol::clip::sprite_grid;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, Fence, Millis};
use zoetrope_protocol::job::{ArtifactRef, Cause, ClipFacts, Role, Stage};
use zoetrope_protocol::mark::SOUND_ALG;
use zoetrope_protocol::version::LinkVersion;
use zoetrope_protocol::wire::*;
use zoetrope_provenance::{Draft, build};

/// A worker's certificate and key.
pub(crate) struct Papers {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: Vec<u8>,
}

impl Papers {
    /// As a worker gets them by joining.
    pub(crate) fn issue(authority: &Authority, node: &str) -> Papers {
        let token = authority.new_token(clock::now(), 1, Millis(60_000)).expect("a token");
        let key = KeyPair::generate().expect("a key");
        let request = CertificateParams::default().serialize_request(&key).expect("a request");
        let secret = secret_of(&token);
        let certificate =
            authority.join(clock::now(), &secret, node, request.der()).expect("joins");
        Papers { certificate, key: key.serialize_der() }
    }

    /// Signed by somebody else.
    pub(crate) fn forge(node: &str) -> Papers {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![node.to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Papers { certificate, key: key.serialize_der() }
    }
}

pub(crate) fn secret_of(token: &str) -> [u8; 32] {
    use base64::Engine;
    let text = token.strip_prefix("zt1.").expect("the prefix");
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).expect("base64");
    bytes[32..].try_into().expect("two halves")
}

/// Dials the farm.
pub(crate) async fn dial(
    to: SocketAddr,
    authority: &CertificateDer<'static>,
    papers: Option<&Papers>,
    alpn: &[u8],
) -> Result<Connection, quinn::ConnectionError> {
    dial_offering(to, authority, papers, &[alpn]).await
}

/// Dials the farm, and offers these protocols.
pub(crate) async fn dial_offering(
    to: SocketAddr,
    authority: &CertificateDer<'static>,
    papers: Option<&Papers>,
    names: &[&[u8]],
) -> Result<Connection, quinn::ConnectionError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).expect("the authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut tls = match papers {
        None => tls.with_no_client_auth(),
        Some(papers) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(papers.key.clone()));
            tls.with_client_auth_cert(vec![papers.certificate.clone()], key).expect("papers")
        }
    };
    tls.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
    let mut config =
        ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("a QUIC suite")));
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(1)));
    config.transport_config(Arc::new(transport));
    let endpoint = Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
    let connecting = endpoint.connect_with(config, to, SERVER_NAME).expect("a name");
    timeout(PATIENCE, connecting).await.expect("an answer")
}

/// A connected worker.
pub(crate) struct Worker {
    pub(crate) connection: Connection,
    out: mpsc::Sender<FromWorker>,
    frames: mpsc::Receiver<ToWorker>,
    streams: mpsc::Receiver<(ArtifactHeader, Vec<u8>)>,
    pub(crate) welcome: Vec<Kept>,
    /// Whether its thumbnails and spritesheets are of clips in which something moves.
    pub(crate) moves: bool,
    /// Whether it may be told to stop while it waits for an order.
    pub(crate) obeys: bool,
    /// What it gives for a thumbnail instead.
    pub(crate) thumbnail: Option<Vec<u8>>,
    /// The newest version of the link that it speaks.
    pub(crate) version: LinkVersion,
    /// The record of the clip that it had signed last.
    scored: Option<(Held, ArtifactRef)>,
    _tasks: JoinSet<()>,
}

pub(crate) fn identity(node: &str, boot: u64, session: u64) -> Identity {
    Identity { node: node.to_owned(), boot, session }
}

pub(crate) fn profile() -> Profile {
    Profile {
        pool: "test".to_owned(),
        gpu_kind: "cpu".to_owned(),
        vram_bytes: 1 << 30,
        version: "0.0.0".to_owned(),
        models: vec![ServedModel {
            id: "toybox".to_owned(),
            fingerprint: ArtifactId([7; 32]),
            stages: vec![Stage::Encode, Stage::Denoise, Stage::Finish],
        }],
        machine: String::new(),
    }
}

impl Worker {
    /// Joins and says hello as a fresh process.
    pub(crate) async fn fresh(farm: &crate::TestFarm, node: &str) -> Worker {
        let papers = Papers::issue(&farm.running.authority, node);
        Worker::connect(farm, &papers, identity(node, 1, 1), Vec::new()).await
    }

    /// The same of a release whose clips are signed before they are proven.
    pub(crate) async fn old(farm: &crate::TestFarm, node: &str) -> Worker {
        Worker::speaking(farm, node, LinkVersion::DRAFTS).await
    }

    /// The same of a release that speaks nothing newer than this.
    pub(crate) async fn speaking(
        farm: &crate::TestFarm,
        node: &str,
        version: LinkVersion,
    ) -> Worker {
        let papers = Papers::issue(&farm.running.authority, node);
        Worker::connect_in(farm, &papers, identity(node, 1, 1), Vec::new(), version).await
    }

    /// Says hello and waits for the welcome.
    pub(crate) async fn connect(
        farm: &crate::TestFarm,
        papers: &Papers,
        identity: Identity,
        held: Vec<Held>,
    ) -> Worker {
        Worker::connect_in(farm, papers, identity, held, LinkVersion::NEWEST).await
    }

    async fn connect_in(
        farm: &crate::TestFarm,
        papers: &Papers,
        identity: Identity,
        held: Vec<Held>,
        version: LinkVersion,
    ) -> Worker {
        let ca = farm.running.authority.certificate();
        let names = version.names();
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let connection =
            dial_offering(farm.running.link, ca, Some(papers), &names).await.expect("connects");
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        let hello = FromWorker::Hello { identity, profile: profile(), held };
        send.write_all(&codec::frame(&hello).expect("encodes")).await.expect("writes");
        let (out, mut queue) = mpsc::channel::<FromWorker>(64);
        let (frame, frames) = mpsc::channel(1_024);
        let (stream, streams) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(500));
            loop {
                let message = tokio::select! {
                    message = queue.recv() => message,
                    _ = beat.tick() => Some(FromWorker::Heartbeat),
                };
                let Some(message) = message else { return };
                let bytes = codec::frame(&message).expect("encodes");
                if send.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        tasks.spawn(async move {
            while let Ok(message) = link::read_frame::<ToWorker>(&mut receive, 1 << 20).await {
                if message != ToWorker::Heartbeat && frame.send(message).await.is_err() {
                    return;
                }
            }
        });
        let inbound = connection.clone();
        tasks.spawn(async move {
            while let Ok(mut incoming) = inbound.accept_uni().await {
                let whole = read_artifact(&mut incoming).await;
                if stream.send(whole).await.is_err() {
                    return;
                }
            }
        });
        let mut worker = Worker {
            connection,
            out,
            frames,
            streams,
            welcome: Vec::new(),
            moves: false,
            obeys: false,
            thumbnail: None,
            version,
            scored: None,
            _tasks: tasks,
        };
        match worker.next().await {
            ToWorker::Welcome { keep, .. } => worker.welcome = keep,
            other => panic!("no welcome but {other:?}"),
        }
        worker
    }

    /// The next frame that is no heartbeat.
    pub(crate) async fn next(&mut self) -> ToWorker {
        let frame = timeout(PATIENCE, self.frames.recv()).await.expect("a frame in time");
        frame.unwrap_or_else(|| panic!("closed: {:?}", self.connection.close_reason()))
    }

    pub(crate) async fn order(&mut self) -> Order {
        loop {
            match self.next().await {
                ToWorker::Order(order) => return order,
                ToWorker::Stop { held, .. } if self.obeys => {
                    let (cause, detail, gpu) = (Cause::Ended, String::new(), Millis(0));
                    self.say(FromWorker::Failed { held, cause, detail, gpu }).await;
                }
                other => panic!("no order but {other:?}"),
            }
        }
    }

    /// Carries out orders up to the one to finish.
    pub(crate) async fn finish_order(&mut self) -> Order {
        loop {
            let order = self.order().await;
            if order.shard.stage == Stage::Finish {
                return order;
            }
            assert!(order.mark.is_none(), "only who makes a clip is told its mark");
            self.carry_out(&order).await;
        }
    }

    pub(crate) async fn say(&self, message: FromWorker) {
        self.out.send(message).await.expect("the writer runs");
    }

    /// Sends an artifact and does not wait for the answer.
    pub(crate) async fn send(&self, held: Held, role: Role, bytes: &[u8], digest: [u8; 32]) {
        self.send_as(ArtifactId::of(bytes), held, role, bytes, digest).await;
    }

    /// The same of bytes that are said to be this artifact.
    pub(crate) async fn send_as(
        &self,
        artifact: ArtifactId,
        held: Held,
        role: Role,
        bytes: &[u8],
        digest: [u8; 32],
    ) {
        let bytes_in_all = bytes.len() as u64;
        let header =
            ArtifactHeader { held: Some(held), role: Some(role), artifact, bytes: bytes_in_all };
        let mut stream = self.connection.open_uni().await.expect("a stream");
        stream.write_all(&codec::frame(&header).expect("encodes")).await.expect("writes");
        // The farm may refuse it before all is written; its answer says so.
        if stream.write_all(bytes).await.is_ok() && stream.write_all(&digest).await.is_ok() {
            stream.finish().expect("open");
        }
    }

    /// Stores an artifact and waits for the acknowledgement.
    pub(crate) async fn store(&mut self, held: Held, role: Role, bytes: &[u8]) -> ArtifactRef {
        let artifact = ArtifactId::of(bytes);
        self.send(held, role, bytes, artifact.0).await;
        match self.next().await {
            ToWorker::Stored { artifact: stored, .. } if stored == artifact => {}
            other => panic!("not stored but {other:?}"),
        }
        ArtifactRef { role, artifact, bytes: bytes.len() as u64 }
    }

    pub(crate) async fn fetch(&mut self, artifact: ArtifactId) -> Vec<u8> {
        self.say(FromWorker::Fetch(artifact)).await;
        let stream = timeout(PATIENCE, self.streams.recv()).await.expect("in time");
        let (header, bytes) = stream.expect("a stream");
        assert_eq!(header.artifact, artifact);
        bytes
    }

    /// Carries out one order as it should be.
    pub(crate) async fn carry_out(&mut self, order: &Order) {
        let held = held(order);
        self.say(FromWorker::Started(held)).await;
        let outputs = match order.shard.stage {
            Stage::Encode => vec![self.store(held, Role::Prompt, b"prompt").await],
            Stage::Denoise => {
                let done = steps_done(order);
                let mut last = None;
                for step in done + 1..=order.spec.steps {
                    last = Some(self.step(order, step).await);
                }
                vec![last.expect("a step was left")]
            }
            _ => self.files(order).await,
        };
        let facts = (order.shard.stage == Stage::Finish).then(|| facts(order));
        let gpu = Millis(50);
        self.say(FromWorker::Finished { held, outputs, facts, gpu }).await;
    }

    /// One denoising step, stored.
    pub(crate) async fn step(&mut self, order: &Order, step: u32) -> ArtifactRef {
        let held = held(order);
        let total = order.spec.steps;
        let phase = Phase::Denoising;
        self.say(FromWorker::Progress { held, phase, done: step, total }).await;
        let bytes = format!("latents {} {step}", order.shard.job);
        self.store(held, Role::Latents { step }, bytes.as_bytes()).await
    }

    /// The files of a finished clip, as an honest worker makes them.
    pub(crate) async fn files(&mut self, order: &Order) -> Vec<ArtifactRef> {
        self.files_of(order, &clip::unsigned(order), false).await
    }

    /// The same of this clip, which is not signed yet. `sound`: whether its manifest names the mark of the sound.
    pub(crate) async fn files_of(
        &mut self,
        order: &Order,
        clip: &[u8],
        sound: bool,
    ) -> Vec<ArtifactRef> {
        let (draft, file, unsigned) = self.draft_of(order, clip, sound).await;
        let signature = self.signature_of(order, clip, draft.manifest.clone()).await;
        draft.complete(&signature.expect("is signed")).expect("fits");
        let signed = std::fs::read(file.path()).expect("reads");
        self.files_with(order, &signed, unsigned).await
    }

    /// The files, with this clip, and with records of the one before it was signed.
    pub(crate) async fn files_with(
        &mut self,
        order: &Order,
        clip: &[u8],
        unsigned: ArtifactId,
    ) -> Vec<ArtifactRef> {
        let held = held(order);
        let mut outputs = vec![self.store(held, Role::Clip, clip).await];
        let pictures = clip::pictures(&order.spec, self.moves);
        let thumbnail = self.thumbnail.clone().unwrap_or_else(|| pictures[0].clone());
        outputs.push(self.store(held, Role::Thumbnail, &thumbnail).await);
        outputs.push(self.store(held, Role::Spritesheet, &pictures[1]).await);
        match self.scored.take().filter(|(of, _)| *of == held) {
            Some((_, scores)) => outputs.push(scores),
            None => outputs.push(self.record(order, unsigned).await),
        }
        let record = crate::watermark::record(order, unsigned);
        let bytes = codec::encode(&record).expect("encodes");
        outputs.push(self.store(held, Role::Marks, &bytes).await);
        outputs
    }

    /// An honest worker's clip with the manifest that the farm wants, not signed yet.
    pub(crate) async fn draft(&mut self, order: &Order) -> (Draft, NamedTempFile, ArtifactId) {
        self.draft_of(order, &clip::unsigned(order), false).await
    }

    /// The same of this clip.
    pub(crate) async fn draft_of(
        &mut self,
        order: &Order,
        clip: &[u8],
        sound: bool,
    ) -> (Draft, NamedTempFile, ArtifactId) {
        self.say(FromWorker::TermsAsked(held(order))).await;
        let mut terms = match self.answer().await {
            ToWorker::Terms { terms, .. } => terms,
            other => panic!("no terms but {other:?}"),
        };
        terms.marks.retain(|mark| sound || mark.alg != SOUND_ALG);
        let (unsigned, file) =
            (NamedTempFile::new().expect("temporary file"), NamedTempFile::new().expect("another"));
        std::fs::write(unsigned.path(), clip).expect("writes");
        let draft = build::draft(&terms, None, unsigned.path(), file.path()).expect("is written");
        (draft, file, ArtifactId::of(clip))
    }

    /// Stores the record of a harmless clip.
    async fn record(&mut self, order: &Order, clip: ArtifactId) -> ArtifactRef {
        let record = crate::moderation::record(order.spec.frames, clip);
        let bytes = codec::encode(&record).expect("encodes");
        self.store(held(order), Role::Scores, &bytes).await
    }

    /// Has the claim of an honest worker's clip signed.
    pub(crate) async fn signature(
        &mut self,
        order: &Order,
        manifest: Vec<u8>,
    ) -> Result<Vec<u8>, (Cause, String)> {
        self.signature_of(order, &clip::unsigned(order), manifest).await
    }

    /// The same of this clip, which is not signed yet: with what proves it, on a link that asks for that.
    pub(crate) async fn signature_of(
        &mut self,
        order: &Order,
        clip: &[u8],
        manifest: Vec<u8>,
    ) -> Result<Vec<u8>, (Cause, String)> {
        let (held, unsigned) = (held(order), ArtifactId::of(clip));
        if self.version < LinkVersion::PROVEN {
            return self.signed(FromWorker::SignAsked { held, unsigned, manifest }).await;
        }
        let scores = match self.scored.filter(|(of, _)| *of == held) {
            Some((_, scores)) => scores,
            None => self.record(order, unsigned).await,
        };
        self.scored = Some((held, scores));
        let ask = FromWorker::SignProven { held, unsigned, manifest, scores: Some(scores) };
        match self.signed(ask.clone()).await {
            Err((Cause::ArtifactMissing, _)) => {
                self.send(held, Role::Draft, clip, unsigned.0).await;
                match self.answer().await {
                    ToWorker::MarksRead { draft, .. } if draft == unsigned => {}
                    other => panic!("not read but {other:?}"),
                }
                self.signed(ask).await
            }
            answer => answer,
        }
    }

    /// The answer to this question for a signature.
    pub(crate) async fn signed(&mut self, ask: FromWorker) -> Result<Vec<u8>, (Cause, String)> {
        self.say(ask).await;
        match self.answer().await {
            ToWorker::Signed { signature, .. } => Ok(signature),
            ToWorker::NotSigned { cause, reason, .. } => Err((cause, reason)),
            other => panic!("no signature but {other:?}"),
        }
    }

    /// The next frame that is no word about an earlier attempt.
    async fn answer(&mut self) -> ToWorker {
        loop {
            match self.next().await {
                ToWorker::Stop { .. } => {}
                other => return other,
            }
        }
    }

    /// Dies without a word, as a killed process does: its socket is simply gone.
    pub(crate) fn die(self) {
        self.connection.close(0u32.into(), b"");
    }
}

/// An honest worker's clip, before it is signed.
pub(crate) fn unsigned_clip(order: &Order) -> ArtifactId {
    ArtifactId::of(&clip::unsigned(order))
}

pub(crate) fn held(order: &Order) -> Held {
    Held { shard: order.shard, fence: order.fence }
}

pub(crate) fn held_as(order: &Order, fence: Fence) -> Held {
    Held { shard: order.shard, fence }
}

/// Steps in the newest latents among the inputs.
pub(crate) fn steps_done(order: &Order) -> u32 {
    let steps = order.inputs.iter().filter_map(|input| match input.role {
        Role::Latents { step } => Some(step),
        _ => None,
    });
    steps.max().unwrap_or(0)
}

pub(crate) fn facts(order: &Order) -> ClipFacts {
    let (sprite_columns, sprite_rows) = sprite_grid(order.spec.frames);
    ClipFacts {
        size: order.spec.deliver,
        frames: order.spec.frames,
        av_gap_micros: 10_000,
        sprite_columns,
        sprite_rows,
    }
}

async fn read_artifact(stream: &mut RecvStream) -> (ArtifactHeader, Vec<u8>) {
    let header: ArtifactHeader = link::read_frame(stream, 1_024).await.expect("a header");
    let mut bytes = stream.read_to_end(1 << 24).await.expect("the bytes");
    let digest = bytes.split_off(bytes.len() - 32);
    assert_eq!(digest, ArtifactId::of(&bytes).0);
    (header, bytes)
}
