//! The QUIC endpoint: accepts connections, checks who is there, hands greeted workers to `LinkSup`.
//!
//! An address that has not proven itself gets a retry token first; a handshake has a timeout and a permit. A
//! connection without a certificate of the farm may join and nothing else.

use super::greetings::Greetings;
use super::sup::LinkSupMsg;
use super::{close_number, join, read_counted_frame};
use crate::authority::Authority;
use anyhow::Context;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, MtuDiscoveryConfig, RecvStream,
    SendStream, ServerConfig, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use ractor::ActorRef;
use ring::hmac;
use rustls::RootCertStore;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, ServerName};
use socket2::SockRef;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use zoetrope_protocol::job::Stage;
use zoetrope_protocol::version::LinkVersion;
use zoetrope_protocol::wire::{
    ALPN_JOIN, CloseCode, DATAGRAM_BYTES, FRAME_BYTES_MAX, FromWorker, Held, IDLE_TIMEOUT,
    Identity, LINK_WINDOW_BYTES, NAME_BYTES_MAX, Profile, SOCKET_BYTES, STREAM_WINDOW_BYTES,
};

/// A handshake and the hello behind it take some round trips; more than this is no worker.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Connection attempts that wait for us, each with at most 64 KiB of early packets.
const INCOMING_MAX: usize = 256;
/// Uploads of one worker at a time: it runs one attempt, whose outputs are three files and some latents.
const UPLOADS_MAX: u32 = 8;
/// Attempts that a worker may claim to hold: one a gpu, and some that wait for their acknowledgement.
const HELD_MAX: usize = 64;
/// Models that a worker may announce.
const MODELS_MAX: usize = 64;

/// A worker that proved who it is and said hello.
pub struct Established {
    /// Its connection.
    pub connection: Connection,
    /// Our half of the control stream.
    pub send: SendStream,
    /// Its half.
    pub receive: RecvStream,
    /// Who it is; the node name is that of its certificate.
    pub identity: Identity,
    /// What it can do.
    pub profile: Profile,
    /// What it still runs.
    pub held: Vec<Held>,
    /// What it can be told.
    pub version: LinkVersion,
    /// Bytes of its hello.
    pub hello_bytes: usize,
}

/// Binds the endpoint; it speaks these versions of the link.
///
/// # Errors
/// If the address cannot be bound, or the certificates do not make a TLS configuration.
pub fn listen(
    authority: &Authority,
    address: SocketAddr,
    names: &[String],
    versions: RangeInclusive<LinkVersion>,
) -> anyhow::Result<Endpoint> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let identity = authority.server(names)?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain, identity.key)?;
    tls.alpn_protocols = versions.end().names_from(*versions.start());
    tls.alpn_protocols.push(ALPN_JOIN.to_vec());
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config
        .transport_config(Arc::new(transport()?))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(64 << 10)
        .incoming_buffer_size_total(16 << 20);
    let socket = std::net::UdpSocket::bind(address)?;
    SockRef::from(&socket).set_recv_buffer_size(SOCKET_BYTES)?;
    let runtime = quinn::default_runtime().context("no async runtime to serve QUIC on")?;
    Ok(Endpoint::new(endpoint(authority)?, Some(config), socket, runtime)?)
}

fn endpoint(authority: &Authority) -> anyhow::Result<EndpointConfig> {
    let mut config = after_restart(authority);
    config.max_udp_payload_size(DATAGRAM_BYTES)?;
    Ok(config)
}

/// What lets a restarted coordinator answer packets of connections that died with its last process: the peer
/// learns at once that they are gone, instead of after the silence of `LOSS_AFTER`.
fn after_restart(authority: &Authority) -> EndpointConfig {
    let reset = authority.secret_for("quic stateless reset");
    let ids = authority.secret_for("quic connection ids");
    let ids = u64::from_le_bytes(*ids.first_chunk().expect("32 bytes hold 8"));
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &reset)));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config
}

fn transport() -> anyhow::Result<TransportConfig> {
    let mut datagrams = MtuDiscoveryConfig::default();
    datagrams.upper_bound(DATAGRAM_BYTES);
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(datagrams))
        .max_idle_timeout(Some(IdleTimeout::try_from(Duration::from_millis(IDLE_TIMEOUT.0))?))
        .keep_alive_interval(Some(Duration::from_millis(IDLE_TIMEOUT.0 / 4)))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(LINK_WINDOW_BYTES))
        .send_window(u64::from(LINK_WINDOW_BYTES))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(UPLOADS_MAX))
        .datagram_receive_buffer_size(None);
    Ok(transport)
}

/// Accepts until the endpoint is closed.
pub async fn accept(
    endpoint: Endpoint,
    authority: Arc<Authority>,
    connections_max: usize,
    sup: ActorRef<LinkSupMsg>,
) {
    let greetings = Arc::new(Greetings::default());
    while let Some(incoming) = endpoint.accept().await {
        if endpoint.open_connections() >= connections_max {
            incoming.refuse();
            continue;
        }
        if !incoming.remote_address_validated() && incoming.may_retry() {
            // A failed retry is a peer that went away.
            drop(incoming.retry());
            continue;
        }
        let Some(place) = greetings.take(incoming.remote_address().ip()) else {
            incoming.refuse();
            continue;
        };
        let (authority, sup) = (authority.clone(), sup.clone());
        tokio::spawn(async move {
            let from = incoming.remote_address();
            match tokio::time::timeout(GREETING_TIMEOUT, greet(incoming, authority, sup)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%from, %error, "a connection was turned away"),
                Err(_) => tracing::debug!(%from, "a connection said nothing in time"),
            }
            drop(place);
        });
    }
}

async fn greet(
    incoming: Incoming,
    authority: Arc<Authority>,
    sup: ActorRef<LinkSupMsg>,
) -> anyhow::Result<()> {
    let connection = incoming.await?;
    let handshake =
        connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let name = handshake.and_then(|data| data.protocol).unwrap_or_default();
    if name == ALPN_JOIN {
        return join::serve(&connection, authority).await;
    }
    match LinkVersion::named(&name) {
        Some(version) => match hello(&connection, version).await {
            Ok(established) => {
                let message = LinkSupMsg::Established(Box::new(established));
                sup.cast(message).map_err(|_| anyhow::anyhow!("the farm is stopping"))
            }
            Err(error) => {
                connection.close(close_number(CloseCode::Protocol), error.to_string().as_bytes());
                Err(error)
            }
        },
        None => {
            connection.close(close_number(CloseCode::Protocol), b"unknown protocol");
            anyhow::bail!("unknown protocol")
        }
    }
}

async fn hello(connection: &Connection, version: LinkVersion) -> anyhow::Result<Established> {
    let chain = connection
        .peer_identity()
        .and_then(|id| id.downcast::<Vec<CertificateDer<'static>>>().ok());
    let Some(leaf) = chain.and_then(|chain| chain.first().cloned()) else {
        anyhow::bail!("no certificate of this farm: join first");
    };
    let (send, mut receive) = connection.accept_bi().await?;
    let (first, hello_bytes) =
        read_counted_frame::<FromWorker>(&mut receive, FRAME_BYTES_MAX).await?;
    let FromWorker::Hello { identity, profile, held } = first else {
        anyhow::bail!("the first frame is no hello");
    };
    check(&leaf, &identity, &profile, &held)?;
    let connection = connection.clone();
    Ok(Established { connection, send, receive, identity, profile, held, version, hello_bytes })
}

/// A worker speaks for the node of its certificate only, and its names are short.
fn check(
    leaf: &CertificateDer<'_>,
    identity: &Identity,
    profile: &Profile,
    held: &[Held],
) -> anyhow::Result<()> {
    let name = ServerName::try_from(identity.node.as_str())?;
    rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, &name)?;
    let words = [&profile.pool, &profile.gpu_kind, &profile.version];
    let models = profile.models.iter().map(|model| &model.id);
    anyhow::ensure!(
        words.into_iter().chain(models).all(|w| w.len() <= NAME_BYTES_MAX),
        "a name is too long"
    );
    anyhow::ensure!(profile.models.len() <= MODELS_MAX, "more than {MODELS_MAX} models");
    let stages = profile.models.iter().all(|model| model.stages.len() <= Stage::ALL.len());
    anyhow::ensure!(stages, "a model with more stages than there are");
    anyhow::ensure!(held.len() <= HELD_MAX, "more than {HELD_MAX} held attempts");
    Ok(())
}
