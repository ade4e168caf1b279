//! Watches the certificates that this process stands on, and says in time which one ends. The signer renews its own; of the others
//! none is.

use crate::authority::{Authority, SERVER_DAYS};
use crate::metrics::Metrics;
use crate::provenance::SignerSource;
use std::sync::Arc;
use zoetrope_protocol::metric;
use zoetrope_provenance::{Signer, expiry};

/// A certificate: which, when it ends, and what to do about it.
pub struct Watched {
    /// The metric's word for it.
    word: &'static str,
    ends: Ends,
    what: &'static str,
    advice: &'static str,
}

/// When one ends.
enum Ends {
    At(u64),
    /// As the signer's of that moment.
    Signing(Arc<Signer>),
}

impl Ends {
    fn now(&self) -> u64 {
        match self {
            Ends::At(ends) => *ends,
            Ends::Signing(signer) => {
                signer.take_up();
                expiry::ends(signer.credential().leaf()).unwrap_or_default()
            }
        }
    }
}

/// The certificates of a coordinator that starts now. Those of a signer in a process of its own are that one's.
pub fn of(authority: &Authority, signer: &SignerSource, own: bool) -> Vec<Watched> {
    let made = expiry::now() + u64::from(SERVER_DAYS.unsigned_abs()) * 24 * 3_600;
    let signing = match signer {
        SignerSource::Here(signer) => Some(Ends::Signing(signer.clone())),
        SignerSource::Socket(_) => None,
    };
    let renew = if own {
        "it should have been renewed by now: the log says why not"
    } else {
        "name a new one in [provenance], or no clip is published any more"
    };
    let rows = [
        (
            "authority",
            expiry::ends(authority.certificate()).map(Ends::At),
            "the certificate of the farm's authority",
            "a farm with a new one is needed, which all workers join",
        ),
        (
            "link",
            Some(Ends::At(made)),
            "the certificate that workers know this coordinator by",
            "start it anew, which makes another",
        ),
        ("signing", signing, "the certificate that clips are signed under", renew),
    ];
    let known = rows
        .into_iter()
        .filter_map(|(word, ends, what, advice)| Some(Watched { word, ends: ends?, what, advice }));
    known.collect()
}

/// Shows when they end, and says so each day from a month before on.
pub async fn watch(certificates: Vec<Watched>, metrics: Arc<Metrics>) {
    let certificates = Arc::new(certificates);
    let mut every = tokio::time::interval(expiry::EVERY);
    loop {
        every.tick().await;
        let certificates = certificates.clone();
        // Certificates that are taken up are read from a disk, or from etcd.
        let looked = tokio::task::spawn_blocking(move || look(&certificates));
        match looked.await {
            // Here, where nothing is shown any more once nobody watches.
            Ok(ends) => ends.into_iter().for_each(|(word, ends)| {
                metrics.set(&metric::CERTIFICATE_EXPIRY, &[word], ends as f64);
            }),
            Err(error) => tracing::error!(%error, "certificates could not be looked at"),
        }
    }
}

fn look(certificates: &[Watched]) -> Vec<(&'static str, u64)> {
    let look = |Watched { word, ends, what, advice }: &Watched| {
        let ends = ends.now();
        if let Some(told) = expiry::told(expiry::now(), ends, what, advice) {
            tracing::warn!("{told}");
        }
        (*word, ends)
    };
    certificates.iter().map(look).collect()
}
