//! Opening connections: the first contact with a token, and the link of every later start.
//!
//! Plain functions that return a connection or say why not. Called by the command line (`join`) and by the
//! dialling task of `LinkActor`.

use super::stream::{read_frame, write_frame};
use super::tls::{COORDINATOR_NAME, TlsError, join_config};
use crate::identity::{Candidate, IdentityError, NodeIdentity, Token};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quinn::crypto::rustls::HandshakeData;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, RecvStream, SendStream,
    TransportErrorCode, VarInt,
};
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use zoetrope_protocol::version::LinkVersion;
use zoetrope_protocol::wire::{CloseCode, DATAGRAM_BYTES, JoinAnswer, JoinRequest, SOCKET_BYTES};

/// Looking up, connecting and the handshake together: a handshake is two round trips, and a lost packet
/// is repeated after at most a second or two.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The same where there are several coordinators: only the leader answers, and another may lead in a moment.
const CONNECT_LIMIT_SEVERAL: Duration = Duration::from_secs(3);
/// The alert of TLS (RFC 7301) for peers that know no protocol in common.
const NO_COMMON_PROTOCOL: u8 = 120;
/// The coordinator signs one certificate and journals the join.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address, or nobody answers: try again.
    #[error("cannot reach the coordinator at {address}: {reason}")]
    Unreachable {
        /// What was dialled.
        address: String,
        /// Why.
        reason: String,
    },
    /// The coordinator speaks other versions of the protocol than this program: one of both is to be updated.
    #[error(
        "the coordinator at {address} speaks no version that this worker knows ({known}): update the older one"
    )]
    Version {
        /// What was dialled.
        address: String,
        /// Our versions.
        known: String,
    },
    /// Somebody answers who is not our farm: trying again does not help.
    #[error("{0}")]
    Disbelieved(String),
    /// The farm does not want us.
    #[error("the coordinator refused the join: {0}")]
    Refused(String),
    /// Our own key or folder.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Our own key or certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A socket for outgoing connections, to both families of addresses where the machine has both.
///
/// # Errors
/// If the machine gives no UDP socket.
pub fn endpoint() -> std::io::Result<Endpoint> {
    let any = |domain, address: SocketAddr| {
        let socket = Socket::new(domain, Type::DGRAM, None)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        socket.set_recv_buffer_size(SOCKET_BYTES)?;
        socket.bind(&address.into())?;
        std::io::Result::Ok(socket.into())
    };
    let socket = any(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, 0).into())
        .or_else(|_| any(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, 0).into()))?;
    let runtime = quinn::default_runtime()
        .ok_or_else(|| std::io::Error::other("no async runtime to speak QUIC on"))?;
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(DATAGRAM_BYTES).map_err(std::io::Error::other)?;
    Endpoint::new(config, None, socket, runtime)
}

/// Dials all of `addresses`, separated by commas, and takes the first that answers: of several coordinators
/// only the leader does.
async fn connect(
    endpoint: &Endpoint,
    config: ClientConfig,
    addresses: &str,
) -> Result<Connection, DialError> {
    let all: Vec<&str> =
        addresses.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
    let limit = if all.len() > 1 { CONNECT_LIMIT_SEVERAL } else { CONNECT_LIMIT };
    let mut dials: FuturesUnordered<_> =
        all.iter().map(|one| connect_one(endpoint, config.clone(), one, limit)).collect();
    let mut last = DialError::Unreachable {
        address: addresses.into(),
        reason: "there is no address to dial".into(),
    };
    while let Some(dialled) = dials.next().await {
        match dialled {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_one(
    endpoint: &Endpoint,
    config: ClientConfig,
    address: &str,
    limit: Duration,
) -> Result<Connection, DialError> {
    let unreachable = |reason: String| DialError::Unreachable { address: address.into(), reason };
    let attempt = async {
        let found: Vec<SocketAddr> = tokio::net::lookup_host(address)
            .await
            .map_err(|error| unreachable(error.to_string()))?
            .collect();
        let v6 = endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
        // IPv4 first: a dual-stack socket speaks it through mapped addresses.
        let target = found
            .iter()
            .find(|one| one.is_ipv4())
            .or(found.iter().find(|_| v6))
            .copied()
            .ok_or_else(|| unreachable("the name has no usable address".into()))?;
        let target = match target {
            SocketAddr::V4(four) if v6 => {
                SocketAddr::from((four.ip().to_ipv6_mapped(), four.port()))
            }
            other => other,
        };
        endpoint
            .connect_with(config, target, COORDINATOR_NAME)
            .map_err(|error| unreachable(error.to_string()))?
            .await
            .map_err(|error| refused(address, &error))
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(done) => done,
        Err(_) => Err(unreachable(format!("no answer within {} s", limit.as_secs()))),
    }
}

/// What a failed handshake means.
fn refused(address: &str, error: &ConnectionError) -> DialError {
    let code = match error {
        ConnectionError::ConnectionClosed(close) => Some(close.error_code),
        ConnectionError::TransportError(fault) => Some(fault.code),
        _ => None,
    };
    if code == Some(TransportErrorCode::crypto(NO_COMMON_PROTOCOL)) {
        return DialError::Version { address: address.into(), known: LinkVersion::words() };
    }
    DialError::Unreachable { address: address.into(), reason: error.to_string() }
}

/// A connection with its control stream, on which nothing has been said yet.
pub struct Line {
    /// The connection; `LinkActor` owns it alone.
    pub connection: Connection,
    /// Our side of the control stream.
    pub send: SendStream,
    /// The coordinator's side.
    pub receive: RecvStream,
    /// What the coordinator can be told.
    pub version: LinkVersion,
}

/// Opens a link.
///
/// # Errors
/// `Unreachable`: try again.
pub async fn dial(
    endpoint: &Endpoint,
    config: ClientConfig,
    address: &str,
) -> Result<Line, DialError> {
    let connection = connect(endpoint, config, address).await?;
    let (send, receive) = connection.open_bi().await.map_err(|error| DialError::Unreachable {
        address: address.into(),
        reason: error.to_string(),
    })?;
    let agreed = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let name = agreed.and_then(|data| data.protocol).unwrap_or_default();
    // The handshake agrees on one of ours, or fails.
    let version = LinkVersion::named(&name).unwrap_or(LinkVersion::FIRST);
    Ok(Line { connection, send, receive, version })
}

/// Joins a farm: makes a key, has it signed, and checks that the answer is of the token's farm.
///
/// # Errors
/// `Unreachable` (try again), `Disbelieved`, `Refused`, `Identity`, `Tls`.
pub async fn join(
    endpoint: &Endpoint,
    address: &str,
    token: &Token,
    node: &str,
) -> Result<NodeIdentity, DialError> {
    let candidate = Candidate::new(node)?;
    let (config, disbelief) = join_config(token)?;
    let connection = match connect(endpoint, config, address).await {
        Ok(connection) => connection,
        Err(error) => {
            let reason = disbelief.lock().ok().and_then(|mut slot| slot.take());
            return Err(reason.map_or(error, DialError::Disbelieved));
        }
    };
    let request = JoinRequest {
        secret: token.secret,
        node: node.into(),
        signing_request: candidate.signing_request.clone(),
    };
    let exchange = async {
        let (mut send, mut receive) =
            connection.open_bi().await.map_err(|error| error.to_string())?;
        write_frame(&mut send, &request).await.map_err(|error| error.to_string())?;
        send.finish().map_err(|error| error.to_string())?;
        read_frame::<JoinAnswer>(&mut receive).await.map_err(|error| error.to_string())
    };
    let unreachable = |reason| DialError::Unreachable { address: address.into(), reason };
    let answer = tokio::time::timeout(ANSWER_LIMIT, exchange)
        .await
        .map_err(|_| unreachable(format!("no answer within {} s", ANSWER_LIMIT.as_secs())))?
        .map_err(unreachable)?;
    connection.close(VarInt::from_u32(CloseCode::Leaving as u32), b"joined");
    match answer {
        JoinAnswer::Refused { reason } => Err(DialError::Refused(reason)),
        JoinAnswer::Joined { certificate, authority } => {
            let identity = candidate.signed(node, certificate, authority);
            if !token.names(&identity.authority) {
                return Err(DialError::Disbelieved(
                    "the coordinator's answer names another CA than the token".into(),
                ));
            }
            // Proves that the certificate is for our key, before it replaces a token that is now spent.
            super::tls::link_config(&identity, LinkVersion::NEWEST)?;
            Ok(identity)
        }
    }
}

/// Joins, trying again for `patience` while nobody answers.
///
/// # Errors
/// As [`join`].
pub async fn join_patiently(
    endpoint: &Endpoint,
    address: &str,
    token: &Token,
    node: &str,
    patience: Duration,
) -> Result<NodeIdentity, DialError> {
    let started = tokio::time::Instant::now();
    let mut wait = Duration::from_millis(100);
    loop {
        match join(endpoint, address, token, node).await {
            Err(DialError::Unreachable { address, reason }) if started.elapsed() < patience => {
                tracing::warn!(address, reason, "cannot join yet, trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(2));
            }
            other => return other,
        }
    }
}
