//! The provenance sidecar: has claims signed, by the signer in this process or by one on a socket.
//!
//! Believes no signer: a signature that does not hold goes into no file. Called by `DispatchActor`, which says
//! whether an attempt lives; answers with `DispatchMsg::ClaimSigned`. A signer that is gone, hangs or lies is
//! `DependencyDown`: jobs wait.

pub mod settings;
pub mod socket;
pub mod source;
pub mod stamp;

pub use source::{SignFault, SignerSource};
pub use stamp::Stamper;

use crate::clock;
use crate::dispatch::DispatchMsg;
use crate::metrics::Metrics;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use zoetrope_protocol::id::{ArtifactId, WorkerId};
use zoetrope_protocol::job::Cause;
use zoetrope_protocol::metric;
use zoetrope_protocol::provenance::{SignedClaim, Terms};
use zoetrope_protocol::wire::Held;
use zoetrope_provenance::{claim, cose};

/// A claim is checked and signed within milliseconds; on a socket, a key in hardware takes a second.
const SIGN_TIMEOUT: Duration = Duration::from_secs(10);
/// Claims that are being signed at a time; more wait. Each holds a manifest of at most 256 KiB.
const TASKS_MAX: usize = 16;

/// Has claims signed.
pub struct ProvenanceActor;

/// A claim to be signed.
#[derive(Clone, Debug)]
pub struct SignRequest {
    /// Who asks.
    pub worker: WorkerId,
    /// For which attempt.
    pub held: Held,
    /// SHA-256 of the clip without its manifest, as the worker says.
    pub unsigned: ArtifactId,
    /// What the manifest must say.
    pub terms: Terms,
    /// The manifest store.
    pub manifest: Vec<u8>,
}

/// What the provenance sidecar is told.
pub enum ProvenanceMsg {
    /// Have this claim signed. Safe to repeat.
    Sign {
        /// Which.
        request: Box<SignRequest>,
        /// Who wants to know.
        back: ActorRef<DispatchMsg>,
    },
    /// What an operator may see.
    Observe(RpcReplyPort<ProvenanceView>),
}

/// The provenance sidecar at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvenanceView {
    /// Claims that are being signed.
    pub running: usize,
}

/// What the provenance sidecar needs.
#[derive(Clone)]
pub struct ProvenanceArguments {
    /// Who signs.
    pub source: SignerSource,
    /// The root that signatures must lead to, PEM.
    pub root: Arc<str>,
    /// Who gets time stamps; none where the farm asks for none.
    pub stamper: Option<Arc<Stamper>>,
    /// Where its requests are counted.
    pub metrics: Arc<Metrics>,
}

/// The signer and the permits of its tasks.
pub struct ProvenanceState {
    arguments: ProvenanceArguments,
    permits: Arc<Semaphore>,
}

#[ractor::async_trait]
impl Actor for ProvenanceActor {
    type Msg = ProvenanceMsg;
    type State = ProvenanceState;
    type Arguments = ProvenanceArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<ProvenanceMsg>,
        arguments: ProvenanceArguments,
    ) -> Result<ProvenanceState, ActorProcessingErr> {
        Ok(ProvenanceState { arguments, permits: Arc::new(Semaphore::new(TASKS_MAX)) })
    }

    async fn handle(
        &self,
        _myself: ActorRef<ProvenanceMsg>,
        message: ProvenanceMsg,
        state: &mut ProvenanceState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ProvenanceMsg::Sign { request, back } => state.sign(*request, back),
            ProvenanceMsg::Observe(reply) => state.observe(reply),
        }
        Ok(())
    }
}

impl ProvenanceState {
    fn sign(&self, request: SignRequest, back: ActorRef<DispatchMsg>) {
        let ProvenanceArguments { source, root, stamper, metrics } = self.arguments.clone();
        let permits = self.permits.clone();
        tokio::spawn(async move {
            let (worker, held) = (request.worker, request.held);
            let permit = permits.acquire_owned().await;
            let began = Instant::now();
            let signing = signed(&source, &root, &request);
            let signed = tokio::time::timeout(SIGN_TIMEOUT, signing).await;
            let signed = signed.unwrap_or_else(|_| {
                let seconds = SIGN_TIMEOUT.as_secs();
                Err(SignFault::Down(format!("the signer did not answer within {seconds} s")))
            });
            let envelope = match (signed, stamper) {
                // It has a limit of its own.
                (Ok(envelope), Some(stamper)) => stamper.stamp(envelope).await,
                (signed, _) => signed,
            };
            let result = envelope.and_then(|envelope| Ok((noted(&request, &envelope)?, envelope)));
            drop(permit);
            let outcome = match &result {
                Ok(_) => "ok",
                Err(SignFault::Refused(reason)) => {
                    tracing::warn!(shard = %held.shard, reason, "a claim was not signed");
                    "refused"
                }
                Err(SignFault::Down(reason)) => {
                    tracing::error!(shard = %held.shard, reason, "no clip can be signed");
                    "error"
                }
            };
            metrics.count(&metric::SIDECAR_REQUESTS, &["provenance", outcome]);
            metrics.observe(&metric::SIDECAR_DURATION, &["provenance"], began.elapsed());
            let result = result.map_err(|fault| match fault {
                SignFault::Refused(reason) => (Cause::CheckFailed, reason),
                SignFault::Down(reason) => (Cause::DependencyDown, reason),
            });
            // Without a dispatch actor the process ends; the worker asks again after the restart.
            drop(back.cast(DispatchMsg::ClaimSigned { worker, held, result }));
        });
    }

    fn observe(&self, reply: RpcReplyPort<ProvenanceView>) {
        let running = TASKS_MAX - self.permits.available_permits();
        // Who asked may be gone.
        drop(reply.send(ProvenanceView { running }));
    }
}

async fn signed(
    source: &SignerSource,
    root: &str,
    request: &SignRequest,
) -> Result<Vec<u8>, SignFault> {
    let SignRequest { held, terms, manifest, .. } = request;
    let envelope = source.sign(*held, terms, manifest).await?;
    // The signer may be another process, and wrong: its answer is held against the claim and the farm's root.
    let lie = |error: zoetrope_provenance::Refusal| {
        SignFault::Down(format!("the signer's answer does not hold: {error}"))
    };
    let refused = |error: zoetrope_provenance::Refusal| SignFault::Refused(error.to_string());
    let claim = claim::check(manifest, terms).map_err(refused)?;
    if envelope.len() != claim.room {
        return Err(SignFault::Down("the signer's answer is of another length".to_owned()));
    }
    cose::verify(&envelope, claim.bytes, root).map_err(lie)?;
    Ok(envelope)
}

/// What is noted of a claim that was signed. The envelope is final: a time stamp is in it.
fn noted(request: &SignRequest, envelope: &[u8]) -> Result<SignedClaim, SignFault> {
    let refused = |error: zoetrope_provenance::Refusal| SignFault::Refused(error.to_string());
    let claim = claim::check(&request.manifest, &request.terms).map_err(refused)?;
    let manifest = claim.sealed(envelope);
    Ok(SignedClaim { unsigned: request.unsigned, manifest, at: clock::now() })
}
