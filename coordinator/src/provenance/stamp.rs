//! Asks a time stamp authority (RFC 3161) about signatures that were just made.
//!
//! Its answer is held against the question, the signature and the authority's roots; nothing of it is believed. Called by
//! the provenance sidecar.

use super::SignFault;
use crate::metrics::Metrics;
use crate::outward::{self, Allow};
use futures::StreamExt;
use reqwest::header::CONTENT_TYPE;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zoetrope_protocol::metric;
use zoetrope_provenance::stamp::{ANSWER_BYTES_MAX, ANSWER_TYPE, QUESTION_TYPE, Question};

/// Where clips go on without time stamps, an authority that failed is left alone for so long: each clip would wait for it.
const REST: Duration = Duration::from_secs(30);

/// What it is called in metrics: `refused` counts clips that went without, for it was left alone.
const SIDECAR: &str = "time_stamps";

/// Why there is no time stamp.
#[derive(Debug, thiserror::Error)]
enum StampError {
    /// Nobody answers in time.
    #[error("the time stamp authority does not answer")]
    Http(#[from] reqwest::Error),
    /// It answers otherwise.
    #[error("the time stamp authority answers with {0}")]
    Status(String),
    /// The answer does not hold.
    #[error(transparent)]
    Wrong(#[from] zoetrope_provenance::Refusal),
}

/// Who gets time stamps.
pub struct Stamper {
    url: reqwest::Url,
    client: reqwest::Client,
    roots: String,
    required: bool,
    metrics: Arc<Metrics>,
    failed: Mutex<Option<Instant>>,
}

impl Stamper {
    /// One that asks this authority, whose certificates lead to one of `roots` (PEM). Where stamps are not `required`,
    /// clips go without when there is none.
    ///
    /// # Errors
    /// If no client can be made.
    pub fn new(
        url: reqwest::Url,
        (allow, timeout): (&Allow, Duration),
        roots: String,
        required: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Stamper, reqwest::Error> {
        let client = outward::client(allow, timeout)?;
        Ok(Stamper { url, client, roots, required, metrics, failed: Mutex::new(None) })
    }

    /// The envelope with a time stamp, or without where that may be.
    ///
    /// # Errors
    /// `Down` if there must be one and there is none.
    pub async fn stamp(&self, envelope: Vec<u8>) -> Result<Vec<u8>, SignFault> {
        let rests = self.failed().is_some_and(|failed| failed.elapsed() < REST);
        if !self.required && rests {
            self.metrics.count(&metric::SIDECAR_REQUESTS, &[SIDECAR, "refused"]);
            return Ok(envelope);
        }
        let began = Instant::now();
        let asked = self.ask(&envelope).await;
        let outcome = if asked.is_ok() { "ok" } else { "error" };
        self.metrics.count(&metric::SIDECAR_REQUESTS, &[SIDECAR, outcome]);
        self.metrics.observe(&metric::SIDECAR_DURATION, &[SIDECAR], began.elapsed());
        *self.failed() = asked.is_err().then_some(began);
        match asked {
            Ok(stamped) => Ok(stamped),
            Err(error) if self.required => Err(SignFault::Down(error.to_string())),
            Err(error) => {
                tracing::warn!(%error, "clips go without time stamps");
                Ok(envelope)
            }
        }
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, envelope: &[u8]) -> Result<Vec<u8>, StampError> {
        let question = Question::about(envelope)?;
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, QUESTION_TYPE);
        let answer = request.body(question.body()).send().await?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(StampError::Status(format!("status {}", answer.status().as_u16())));
        }
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if kind != Some(ANSWER_TYPE) {
            return Err(StampError::Status("another media type".to_owned()));
        }
        let mut bytes = Vec::new();
        let mut stream = answer.bytes_stream();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece?);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(StampError::Status(format!("over {ANSWER_BYTES_MAX} bytes")));
            }
        }
        Ok(question.stamped(&bytes, &self.roots)?)
    }
}
