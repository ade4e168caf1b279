//! Watches the certificates that this process stands on, and says in time which one ends. Renews none.

use crate::authority::{Authority, SERVER_DAYS};
use crate::metrics::Metrics;
use crate::provenance::SignerSource;
use std::sync::Arc;
use zoetrope_protocol::metric;
use zoetrope_provenance::expiry;

/// A certificate: which, when it ends, and what to do about it.
pub struct Watched {
    /// The metric's word for it.
    word: &'static str,
    ends: u64,
    what: &'static str,
    advice: &'static str,
}

/// The certificates of a coordinator that starts now. Those of a signer in a process of its own are that one's.
pub fn of(authority: &Authority, signer: &SignerSource, own: bool) -> Vec<Watched> {
    let made = expiry::now() + u64::from(SERVER_DAYS.unsigned_abs()) * 24 * 3_600;
    let signing = match signer {
        SignerSource::Here(signer) => signer.credential().chain.first(),
        SignerSource::Socket(_) => None,
    };
    let renew = if own {
        "start this coordinator anew, which renews it"
    } else {
        "name a new one in [provenance], or no clip is published any more"
    };
    let rows = [
        (
            "authority",
            expiry::ends(authority.certificate()),
            "the certificate of the farm's authority",
            "a farm with a new one is needed, which all workers join",
        ),
        (
            "link",
            Some(made),
            "the certificate that workers know this coordinator by",
            "start it anew, which makes another",
        ),
        (
            "signing",
            signing.and_then(|leaf| expiry::ends(leaf)),
            "the certificate that clips are signed under",
            renew,
        ),
    ];
    let known = rows
        .into_iter()
        .filter_map(|(word, ends, what, advice)| Some(Watched { word, ends: ends?, what, advice }));
    known.collect()
}

/// Shows when they end, and says so each day from a month before on.
pub async fn watch(certificates: Vec<Watched>, metrics: Arc<Metrics>) {
    for Watched { word, ends, .. } in &certificates {
        metrics.set(&metric::CERTIFICATE_EXPIRY, &[word], *ends as f64);
    }
    let mut every = tokio::time::interval(expiry::EVERY);
    loop {
        every.tick().await;
        for Watched { ends, what, advice, .. } in &certificates {
            if let Some(told) = expiry::told(expiry::now(), *ends, what, advice) {
                tracing::warn!("{told}");
            }
        }
    }
}
