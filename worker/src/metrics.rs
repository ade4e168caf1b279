//! What the worker measures, under the names of `protocol::metric`. Every series of a closed set exists from
//! the start, but the end of a certificate, which is shown once there is one.
//!
//! One registry for the process; emulated workers of one process share it. Read by `http.rs`.

use prometheus::{
    CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntGauge, Opts, Registry, TextEncoder,
};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use zoetrope_protocol::metric::{self, Kind, Metric};
use zoetrope_protocol::version::LinkVersion;
use zoetrope_protocol::wire::Profile;

/// Parts of finishing a clip.
pub const FINISH_PARTS: [&str; 9] =
    ["decode", "moderate", "embed", "encode", "check", "mark", "mux", "sign", "store"];
/// Models with a label of their own; what is above counts as `other`.
const MODELS_MAX: usize = 16;
/// Models that are counted as `other`, each once; a worker serves as many as its operator names.
const OVERFLOWN_MAX: usize = 1_024;
const OTHER: &str = "other";

/// The worker's metrics.
pub struct Metrics {
    registry: Registry,
    gpu_info: GaugeVec,
    denoise_step: HistogramVec,
    checkpoint: HistogramVec,
    model_load: HistogramVec,
    finish_part: HistogramVec,
    spool: IntGauge,
    expiry: GaugeVec,
    overflow: CounterVec,
    models: Vec<String>,
    /// Models that became `other`.
    overflown: Mutex<BTreeSet<String>>,
}

fn opts(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn histogram(metric: &Metric) -> prometheus::Result<HistogramVec> {
    let mut opts = HistogramOpts::new(metric.name, metric.help);
    if let Kind::Histogram(bounds) = metric.kind {
        opts = opts.buckets(bounds.to_vec());
    }
    HistogramVec::new(opts, metric.labels)
}

impl Metrics {
    /// Registers everything, for these models.
    ///
    /// # Errors
    /// Never for the names of `protocol::metric`, which a test holds.
    pub fn new(models: &[String]) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let metrics = Metrics {
            gpu_info: GaugeVec::new(opts(&metric::GPU_INFO), metric::GPU_INFO.labels)?,
            denoise_step: histogram(&metric::DENOISE_STEP)?,
            checkpoint: histogram(&metric::CHECKPOINT)?,
            model_load: histogram(&metric::MODEL_LOAD)?,
            finish_part: histogram(&metric::FINISH_PART)?,
            spool: IntGauge::with_opts(opts(&metric::SPOOL_BYTES))?,
            expiry: GaugeVec::new(
                opts(&metric::CERTIFICATE_EXPIRY),
                metric::CERTIFICATE_EXPIRY.labels,
            )?,
            overflow: CounterVec::new(
                opts(&metric::LABEL_OVERFLOW),
                metric::LABEL_OVERFLOW.labels,
            )?,
            overflown: Mutex::default(),
            models: models.iter().take(MODELS_MAX).cloned().collect(),
            registry,
        };
        let build = GaugeVec::new(opts(&metric::BUILD_INFO), metric::BUILD_INFO.labels)?;
        let protocol = LinkVersion::NEWEST.word();
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), protocol]).set(1.0);
        let registry = &metrics.registry;
        registry.register(Box::new(build))?;
        registry.register(Box::new(metrics.gpu_info.clone()))?;
        registry.register(Box::new(metrics.denoise_step.clone()))?;
        registry.register(Box::new(metrics.checkpoint.clone()))?;
        registry.register(Box::new(metrics.model_load.clone()))?;
        registry.register(Box::new(metrics.finish_part.clone()))?;
        registry.register(Box::new(metrics.spool.clone()))?;
        registry.register(Box::new(metrics.expiry.clone()))?;
        registry.register(Box::new(metrics.overflow.clone()))?;
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process))?;
        for model in &metrics.models {
            metrics.denoise_step.with_label_values(&[model.as_str()]);
            metrics.checkpoint.with_label_values(&[model.as_str()]);
            metrics.model_load.with_label_values(&[model.as_str()]);
        }
        for part in FINISH_PARTS {
            metrics.finish_part.with_label_values(&[part]);
        }
        metrics.overflow.with_label_values(&["model"]);
        Ok(metrics)
    }

    fn model<'a>(&self, model: &'a str) -> &'a str {
        if self.models.iter().any(|known| known == model) {
            return model;
        }
        let mut told = self.overflown.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < OVERFLOWN_MAX && told.insert(model.to_owned()) {
            self.overflow.with_label_values(&["model"]).inc();
        }
        OTHER
    }

    /// Says what a worker of this process serves, on which GPU and instance of it; both are empty where there is none.
    pub fn serves(&self, worker: &str, profile: &Profile, (uuid, instance): (&str, &str)) {
        let labels = [uuid, instance, worker, profile.pool.as_str(), profile.gpu_kind.as_str()];
        self.gpu_info.with_label_values(&labels).set(1.0);
    }

    /// The certificate of this process that ends first ends then, in Unix seconds.
    pub fn certificate_ends(&self, at: u64) {
        self.expiry.with_label_values(&["worker"]).set(at as f64);
    }

    /// A denoising step took so long.
    pub fn step(&self, model: &str, took: Duration) {
        self.denoise_step.with_label_values(&[self.model(model)]).observe(took.as_secs_f64());
    }

    /// A checkpoint held the gpu thread up for so long.
    pub fn checkpoint(&self, model: &str, took: Duration) {
        self.checkpoint.with_label_values(&[self.model(model)]).observe(took.as_secs_f64());
    }

    /// Weights of a stage were loaded.
    pub fn loaded(&self, model: &str, took: Duration) {
        self.model_load.with_label_values(&[self.model(model)]).observe(took.as_secs_f64());
    }

    /// A part of finishing took so long. `part` is one of [`FINISH_PARTS`].
    pub fn finished_part(&self, part: &str, took: Duration) {
        debug_assert!(FINISH_PARTS.contains(&part));
        self.finish_part.with_label_values(&[part]).observe(took.as_secs_f64());
    }

    /// The bytes of unacknowledged artifacts changed by so many.
    pub fn spool_changed(&self, by: i64) {
        self.spool.add(by);
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoetrope_protocol::metric::Side;

    /// Promise: every metric of the worker's side is exported from the start.
    #[test]
    fn every_metric_of_our_side_is_exported() {
        let metrics = Metrics::new(&["toybox".into()]).expect("registers");
        let profile = Profile {
            pool: "default".into(),
            gpu_kind: "cpu".into(),
            vram_bytes: 1,
            version: "0".into(),
            models: vec![],
            machine: String::new(),
        };
        metrics.serves("node-1", &profile, ("", ""));
        metrics.certificate_ends(1);
        // Each value overflows once.
        metrics.step("unheard-of", Duration::from_millis(70));
        metrics.step("unheard-of", Duration::from_millis(70));
        let text = metrics.text();
        for metric in metric::ALL.iter().filter(|metric| metric.side != Side::Coordinator) {
            assert!(text.contains(&format!("# TYPE {} ", metric.name)), "{}", metric.name);
        }
        assert!(text.contains(r#"zoetrope_label_overflow_total{label="model"} 1"#), "{text}");
    }
}
