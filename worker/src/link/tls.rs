//! TLS and transport settings of both kinds of connection: the first contact and the link.
//!
//! Pure: builds configurations, opens nothing. Called by `dial.rs`.

use crate::identity::{NodeIdentity, Token};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zoetrope_protocol::version::LinkVersion;
use zoetrope_protocol::wire::{
    ALPN_JOIN, DATAGRAM_BYTES, IDLE_TIMEOUT, LINK_WINDOW_BYTES, STREAM_WINDOW_BYTES,
};

/// The name in the coordinator's certificate, whatever address it has.
pub const COORDINATOR_NAME: &str = "coordinator.zoetrope";
/// Fetched artifacts that may arrive at once: a prompt, latents, and room.
const STREAMS_IN_MAX: u32 = 8;

/// What goes wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refuses the key or certificate.
    #[error("the key or certificate is not usable")]
    Rustls(#[from] rustls::Error),
    /// The cipher suite that QUIC starts with is missing.
    #[error("no cipher suite for QUIC")]
    Cipher(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Idle time-out and keep-alive come from one constant, so that neither can outgrow the other.
fn transport() -> TransportConfig {
    let idle = Duration::from_millis(IDLE_TIMEOUT.0);
    let keep_alive = idle / 4;
    debug_assert!(keep_alive * 2 < idle);
    let mut datagrams = MtuDiscoveryConfig::default();
    datagrams.upper_bound(DATAGRAM_BYTES);
    let mut transport = TransportConfig::default();
    let idle = VarInt::from_u32(u32::try_from(IDLE_TIMEOUT.0).unwrap_or(20_000));
    transport
        .mtu_discovery_config(Some(datagrams))
        .max_idle_timeout(Some(IdleTimeout::from(idle)))
        .keep_alive_interval(Some(keep_alive))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(LINK_WINDOW_BYTES))
        .send_window(u64::from(LINK_WINDOW_BYTES))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_IN_MAX))
        // The coordinator opens no bidirectional stream.
        .max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport
}

fn client(mut tls: rustls::ClientConfig, names: Vec<Vec<u8>>) -> Result<ClientConfig, TlsError> {
    tls.alpn_protocols = names;
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

/// For the link: both sides show a certificate of the farm's CA. Nothing newer than `version` is spoken.
///
/// # Errors
/// `Rustls` if key and certificate do not fit together.
pub fn link_config(
    identity: &NodeIdentity,
    version: LinkVersion,
) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.authority.clone())?;
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key())?;
    client(tls, version.names())
}

/// Why the peer of a first contact was not believed; empty if it was.
pub type Disbelief = Arc<Mutex<Option<String>>>;

/// For the first contact: we have no certificate, and know the farm only by the token.
///
/// # Errors
/// `Rustls`, `Cipher`.
pub fn join_config(token: &Token) -> Result<(ClientConfig, Disbelief), TlsError> {
    let disbelief = Disbelief::default();
    let verifier =
        TokenVerifier { token: token.clone(), provider: provider(), disbelief: disbelief.clone() };
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok((client(tls, vec![ALPN_JOIN.to_vec()])?, disbelief))
}

/// Believes a server whose chain ends in the CA that the token names, and that is otherwise in order.
#[derive(Debug)]
struct TokenVerifier {
    token: Token,
    provider: Arc<CryptoProvider>,
    disbelief: Disbelief,
}

impl TokenVerifier {
    fn refuse(&self, reason: impl Into<String>) -> rustls::Error {
        if let Ok(mut slot) = self.disbelief.lock() {
            *slot = Some(reason.into());
        }
        rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
    }
}

impl ServerCertVerifier for TokenVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = intermediates.iter().find(|link| self.token.names(link)) else {
            return Err(self.refuse(
                "the coordinator at this address is of another farm than the token (fingerprint of its CA differs)",
            ));
        };
        let mut roots = RootCertStore::empty();
        roots
            .add(authority.clone().into_owned())
            .map_err(|error| self.refuse(format!("the farm's CA is not usable: {error}")))?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|error| self.refuse(format!("the farm's CA is not usable: {error}")))?;
        verifier
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|error| self.refuse(format!("the coordinator's certificate: {error}")))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
