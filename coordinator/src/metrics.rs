//! The coordinator's metrics: one registry, built from the table in `protocol`, with typed ways to count.
//!
//! Label sets are closed: each series of a closed set exists from the start, and a value that does not fit
//! becomes `other` and is counted. Handed around as an `Arc`; decides nothing.

use prometheus::{
    CounterVec, Encoder, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zoetrope_protocol::job::{Cause, Class, Stage};
use zoetrope_protocol::metric::{self, Kind, Metric, Side};

/// Pools that have their own series; more become `other`.
const POOLS_MAX: usize = 8;
/// Values of any other open label (routes, error codes); more become `other`.
const VALUES_MAX: usize = 64;
/// What a value beyond its set becomes.
const OTHER: &str = "other";

/// All metrics of the coordinator.
pub struct Metrics {
    registry: Registry,
    counters: BTreeMap<&'static str, CounterVec>,
    gauges: BTreeMap<&'static str, GaugeVec>,
    histograms: BTreeMap<&'static str, HistogramVec>,
    models: Vec<String>,
    open: Mutex<BTreeMap<&'static str, BTreeSet<String>>>,
}

impl Metrics {
    /// Registers every metric of the coordinator, with the series of the closed sets and of these models.
    pub fn new(models: &[String]) -> Metrics {
        let registry = Registry::new();
        let mut metrics = Metrics {
            registry,
            counters: BTreeMap::new(),
            gauges: BTreeMap::new(),
            histograms: BTreeMap::new(),
            models: models.to_vec(),
            open: Mutex::new(BTreeMap::new()),
        };
        for metric in metric::ALL.iter().filter(|m| m.side != Side::Worker) {
            metrics.register(metric);
        }
        #[cfg(target_os = "linux")]
        {
            let process = prometheus::process_collector::ProcessCollector::for_self();
            let registered = metrics.registry.register(Box::new(process));
            registered.expect("process metrics have names of their own");
        }
        let version = env!("CARGO_PKG_VERSION");
        let wire = zoetrope_protocol::version::LinkVersion::NEWEST.word();
        metrics.set(&metric::BUILD_INFO, &[version, wire], 1.0);
        metrics
    }

    fn register(&mut self, metric: &Metric) {
        let unique = "the table's names are unique and valid, its tests say so";
        let opts = Opts::new(metric.name, metric.help);
        match metric.kind {
            Kind::Counter => {
                let family = CounterVec::new(opts, metric.labels).expect(unique);
                self.registry.register(Box::new(family.clone())).expect(unique);
                for values in self.closed(metric) {
                    family.with_label_values(&refs(&values));
                }
                self.counters.insert(metric.name, family);
            }
            Kind::Gauge => {
                let family = GaugeVec::new(opts, metric.labels).expect(unique);
                self.registry.register(Box::new(family.clone())).expect(unique);
                for values in self.closed(metric) {
                    family.with_label_values(&refs(&values));
                }
                self.gauges.insert(metric.name, family);
            }
            Kind::Histogram(bounds) => {
                let opts = HistogramOpts::from(opts).buckets(bounds.to_vec());
                let family = HistogramVec::new(opts, metric.labels).expect(unique);
                self.registry.register(Box::new(family.clone())).expect(unique);
                for values in self.closed(metric) {
                    family.with_label_values(&refs(&values));
                }
                self.histograms.insert(metric.name, family);
            }
        }
    }

    /// All series of a metric whose labels are all closed; none where one is open.
    fn closed(&self, metric: &Metric) -> Vec<Vec<String>> {
        let mut series = vec![Vec::new()];
        for label in metric.labels {
            let Some(values) = self.values(metric.name, label) else { return Vec::new() };
            series = series
                .into_iter()
                .flat_map(|head: Vec<String>| {
                    values.iter().map(move |value| {
                        let mut longer = head.clone();
                        longer.push(value.clone());
                        longer
                    })
                })
                .collect();
        }
        series
    }

    /// The values of a closed label; `None` for an open one.
    fn values(&self, name: &str, label: &str) -> Option<Vec<String>> {
        let words = |list: &[&str]| Some(list.iter().map(|w| (*w).to_owned()).collect());
        match label {
            "class" => Some(Class::ALL.iter().map(|c| c.word().to_owned()).collect()),
            "model" => Some(self.models.clone()),
            "stage" => Some(Stage::ALL.iter().map(|s| s.word().to_owned()).collect()),
            "cause" => {
                let causes = Cause::ALL.iter().map(|c| c.word().to_owned());
                Some(causes.chain(std::iter::once("none".to_owned())).collect())
            }
            "state" if name == metric::JOBS.name => words(&["queued", "in_progress"]),
            "state" if name == metric::SHARDS.name => words(&["waiting", "ready", "running"]),
            "fault" => words(&["none", "caller", "farm"]),
            "source" => words(&["key", "sdk_resend"]),
            "point" => words(&["link", "core", "store", "publish"]),
            "affinity" => words(&["hot", "load"]),
            "direction" => words(&["in", "out"]),
            "content" => words(&["control", "artifact", "media"]),
            // Whom the provenance sidecar asks is none itself.
            "sidecar" if name != metric::SIDECAR_UP.name => {
                words(&["storage", "moderation", "provenance", "watermark", "time_stamps"])
            }
            "sidecar" => words(&["storage", "moderation", "provenance", "watermark"]),
            "op" => words(&[
                "get", "range", "txn", "claim", "put", "grant", "renew", "revoke", "compact",
                "status",
            ]),
            "what" => words(&["input", "output"]),
            "verdict" => words(&["pass", "review", "block"]),
            "outcome" if name == metric::STORE_SWEEPS.name => words(&["ok", "error"]),
            "outcome" if name == metric::MARK_READING.name => {
                words(&["read", "read_twice", "unread", "error"])
            }
            "outcome" => words(&["ok", "refused", "error"]),
            "track" => words(&["picture", "sound"]),
            "mark" => words(&["read", "strong", "unread", "quiet", "silent", "wrong"]),
            "proof" => words(&["moderation", "watermark", "signature", "av_gap", "digest"]),
            _ => None,
        }
    }

    /// The value to use: a closed one as it is, an open one while its set has room, else `other`.
    fn admit(&self, metric: &Metric, labels: &[&str]) -> Vec<String> {
        let pairs = metric.labels.iter().zip(labels);
        pairs.map(|(label, value)| self.admit_one(metric, label, value)).collect()
    }

    fn admit_one(&self, metric: &Metric, label: &'static str, value: &str) -> String {
        if let Some(values) = self.values(metric.name, label) {
            if values.iter().any(|v| v == value) {
                return value.to_owned();
            }
        } else {
            let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let set = open.entry(label).or_default();
            let max = if label == "pool" { POOLS_MAX } else { VALUES_MAX };
            if set.contains(value) || set.len() < max {
                set.insert(value.to_owned());
                return value.to_owned();
            }
        }
        if let Some(overflow) = self.counters.get(metric::LABEL_OVERFLOW.name) {
            overflow.with_label_values(&[label]).inc();
        }
        OTHER.to_owned()
    }

    /// Adds to a counter.
    pub fn add(&self, metric: &Metric, labels: &[&str], by: f64) {
        if let Some(family) = self.counters.get(metric.name) {
            family.with_label_values(&refs(&self.admit(metric, labels))).inc_by(by.max(0.0));
        }
    }

    /// Adds one to a counter.
    pub fn count(&self, metric: &Metric, labels: &[&str]) {
        self.add(metric, labels, 1.0);
    }

    /// Sets a gauge.
    pub fn set(&self, metric: &Metric, labels: &[&str], to: f64) {
        if let Some(family) = self.gauges.get(metric.name) {
            family.with_label_values(&refs(&self.admit(metric, labels))).set(to);
        }
    }

    /// Sets every series of a gauge to 0.
    pub fn clear(&self, metric: &Metric) {
        use prometheus::core::Collector;
        let Some(family) = self.gauges.get(metric.name) else { return };
        for series in family.collect().iter().flat_map(|family| family.get_metric()) {
            let of = |name: &&str| {
                let mut pairs = series.get_label().iter();
                pairs.find(|pair| pair.name() == *name).map_or("", |pair| pair.value()).to_owned()
            };
            let values: Vec<String> = metric.labels.iter().map(of).collect();
            family.with_label_values(&refs(&values)).set(0.0);
        }
    }

    /// Moves a gauge by so much.
    pub fn shift(&self, metric: &Metric, labels: &[&str], by: f64) {
        if let Some(family) = self.gauges.get(metric.name) {
            family.with_label_values(&refs(&self.admit(metric, labels))).add(by);
        }
    }

    /// Observes a length of time.
    pub fn observe(&self, metric: &Metric, labels: &[&str], took: Duration) {
        if let Some(family) = self.histograms.get(metric.name) {
            let values = self.admit(metric, labels);
            family.with_label_values(&refs(&values)).observe(took.as_secs_f64());
        }
    }

    /// One batch of the journal is on disk.
    pub fn journal_synced(&self, records: u64, bytes: u64, took: Duration) {
        self.observe(&metric::JOURNAL_SYNC, &[], took);
        self.add(&metric::JOURNAL_INPUTS, &[], records as f64);
        self.add(&metric::JOURNAL_BYTES, &[], bytes as f64);
    }

    /// A snapshot is on disk.
    pub fn snapshot_taken(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.set(&metric::SNAPSHOT_TIMESTAMP, &[], now.as_secs_f64());
    }

    /// All metrics in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut bytes = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut bytes);
        encoded.expect("a vector takes all bytes");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn refs(values: &[String]) -> Vec<&str> {
    values.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_series_exist_from_the_start_and_open_ones_overflow() {
        let metrics = Metrics::new(&["toybox".to_owned()]);
        let text = metrics.text();
        assert!(text.contains(r#"zoetrope_jobs{class="flex",state="queued"} 0"#), "{text}");
        assert!(text.contains(r#"zoetrope_attempts_total{cause="none",stage="finish"} 0"#));
        for pool in 0..POOLS_MAX + 3 {
            let pool = format!("pool{pool}");
            metrics.set(&metric::WORKERS, &[&pool, "idle"], 1.0);
        }
        let text = metrics.text();
        assert!(text.contains(r#"zoetrope_workers{pool="other",state="idle"} 1"#));
        assert!(text.contains(r#"zoetrope_label_overflow_total{label="pool"} 3"#));
    }
}
