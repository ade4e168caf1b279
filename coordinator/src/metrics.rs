//! The coordinator's metrics: one registry, built from the table in `protocol`, with typed ways to count.
//!
//! Label sets are closed: each series of a closed set exists from the start, and a value that does not fit
//! becomes `other` and is counted. Handed around as an `Arc`; decides nothing.

use crate::dispatch::words::{FailWord, InputWord, LossWord, UseWord};
use crate::http::{Code, Replay};
use prometheus::{
    CounterVec, Encoder, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder,
};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zoetrope_protocol::job::{Cause, Class, Stage};
use zoetrope_protocol::metric::{self, Kind, Metric, Side};
use zoetrope_sched::output::Affinity;
use zoetrope_sched::view::WorkerState;

/// Pools that have their own series; more become `other`.
const POOLS_MAX: usize = 8;
/// Values of any other open label (routes, statuses); more become `other`.
const VALUES_MAX: usize = 64;
/// Values that are counted as `other`, each once: as many are known again. A caller may invent methods without end.
const OVERFLOWN_MAX: usize = 1_024;
/// The label whose values become known as workers join.
const POOL: &str = "pool";
/// What a value beyond its set becomes.
pub(crate) const OTHER: &str = "other";

/// All metrics of the coordinator.
pub struct Metrics {
    registry: Registry,
    counters: BTreeMap<&'static str, CounterVec>,
    gauges: BTreeMap<&'static str, GaugeVec>,
    histograms: BTreeMap<&'static str, HistogramVec>,
    /// The values of each closed label, by metric and label.
    closed: BTreeMap<(&'static str, &'static str), Vec<String>>,
    open: Mutex<BTreeMap<&'static str, BTreeSet<String>>>,
    /// Values that became `other`, by label and hash.
    overflown: Mutex<BTreeSet<(&'static str, u64)>>,
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
            closed: BTreeMap::new(),
            open: Mutex::new(BTreeMap::new()),
            overflown: Mutex::new(BTreeSet::new()),
        };
        for metric in ours() {
            for label in metric.labels {
                if let Some(values) = values(models, metric.name, label) {
                    metrics.closed.insert((metric.name, *label), values);
                }
            }
            metrics.register(metric);
            metrics.begin(metric, None);
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
                self.counters.insert(metric.name, family);
            }
            Kind::Gauge => {
                let family = GaugeVec::new(opts, metric.labels).expect(unique);
                self.registry.register(Box::new(family.clone())).expect(unique);
                self.gauges.insert(metric.name, family);
            }
            Kind::Histogram(bounds) => {
                let opts = HistogramOpts::from(opts).buckets(bounds.to_vec());
                let family = HistogramVec::new(opts, metric.labels).expect(unique);
                self.registry.register(Box::new(family.clone())).expect(unique);
                self.histograms.insert(metric.name, family);
            }
        }
    }

    /// Makes all series of a metric of which each label is closed, or is the pool and of this one.
    fn begin(&self, metric: &Metric, pool: Option<&str>) {
        if is_moment(metric) {
            return;
        }
        for values in self.series(metric, pool) {
            let values = refs(&values);
            match metric.kind {
                Kind::Counter => drop(self.counters[metric.name].with_label_values(&values)),
                Kind::Gauge => drop(self.gauges[metric.name].with_label_values(&values)),
                Kind::Histogram(_) => drop(self.histograms[metric.name].with_label_values(&values)),
            }
        }
    }

    fn series(&self, metric: &Metric, pool: Option<&str>) -> Vec<Vec<String>> {
        let mut series = vec![Vec::new()];
        for label in metric.labels {
            let closed = self.closed.get(&(metric.name, *label)).cloned();
            let pool = pool.filter(|_| *label == POOL).map(|pool| vec![pool.to_owned()]);
            let Some(values) = closed.or(pool) else { return Vec::new() };
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
        // A worker is sent what it goes on with; media come from workers alone.
        let never = ["out", "media"];
        series.retain(|values| metric.name != metric::LINK_BYTES.name || refs(values) != never);
        series
    }

    /// A pool has workers: its series exist from now on. Gives the name that they are shown under: pools beyond so many
    /// share one.
    pub fn known_pool(&self, pool: &str) -> String {
        self.admit_one(&metric::WORKERS, POOL, pool)
    }

    fn begin_pool(&self, pool: &str) {
        for metric in ours().filter(|metric| metric.labels.contains(&POOL)) {
            self.begin(metric, Some(pool));
        }
    }

    /// The value to use: a closed one as it is, an open one while its set has room, else `other`.
    fn admit(&self, metric: &Metric, labels: &[&str]) -> Vec<String> {
        let pairs = metric.labels.iter().zip(labels);
        pairs.map(|(label, value)| self.admit_one(metric, label, value)).collect()
    }

    fn admit_one(&self, metric: &Metric, label: &'static str, value: &str) -> String {
        let (admitted, first) = match self.closed.get(&(metric.name, label)) {
            Some(values) if values.iter().any(|v| v == value) => return value.to_owned(),
            Some(_) => (OTHER, false),
            None => self.admit_open(label, value),
        };
        // Outside of the lock.
        if first && label == POOL {
            self.begin_pool(admitted);
        }
        if admitted != value
            && self.overflows(label, value)
            && let Some(overflow) = self.counters.get(metric::LABEL_OVERFLOW.name)
        {
            overflow.with_label_values(&[label]).inc();
        }
        admitted.to_owned()
    }

    /// Whether a value has become `other` for the first time.
    fn overflows(&self, label: &'static str, value: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        let mut told = self.overflown.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < OVERFLOWN_MAX && told.insert((label, hasher.finish()))
    }

    /// What an open value becomes, and whether that was not seen before.
    fn admit_open<'v>(&self, label: &'static str, value: &'v str) -> (&'v str, bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let set = open.entry(label).or_default();
        let max = if label == POOL { POOLS_MAX } else { VALUES_MAX };
        let admitted = if set.contains(value) || set.len() < max { value } else { OTHER };
        (admitted, set.insert(admitted.to_owned()))
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

    /// Sets every series of a gauge to 0; removes those of a moment.
    pub fn clear(&self, metric: &Metric) {
        use prometheus::core::Collector;
        let Some(family) = self.gauges.get(metric.name) else { return };
        if is_moment(metric) {
            return family.reset();
        }
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
        self.snapshot_of(now);
    }

    /// The newest snapshot was taken so long after 1970.
    pub fn snapshot_of(&self, at: Duration) {
        self.set(&metric::SNAPSHOT_TIMESTAMP, &[], at.as_secs_f64());
    }

    /// All metrics in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut bytes = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut bytes);
        encoded.expect("a vector takes all bytes");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Whether it shows a moment: then there is no series before that is known, as 0 would be 1970.
fn is_moment(metric: &Metric) -> bool {
    metric.name.ends_with("_timestamp_seconds")
}

/// The metrics of a coordinator.
fn ours() -> impl Iterator<Item = &'static Metric> {
    metric::ALL.iter().filter(|metric| metric.side != Side::Worker)
}

/// The values of a closed label; `None` for an open one.
fn values(models: &[String], name: &str, label: &str) -> Option<Vec<String>> {
    let words = |list: &[&str]| Some(list.iter().map(|w| (*w).to_owned()).collect());
    match label {
        "class" => Some(Class::ALL.iter().map(|c| c.word().to_owned()).collect()),
        "model" => Some(models.to_vec()),
        "stage" => Some(Stage::ALL.iter().map(|s| s.word().to_owned()).collect()),
        "cause" => {
            let causes = Cause::ALL.iter().map(|c| c.word().to_owned());
            Some(causes.chain(std::iter::once("none".to_owned())).collect())
        }
        "state" if name == metric::JOBS.name => words(&["queued", "in_progress"]),
        "state" if name == metric::SHARDS.name => words(&["waiting", "ready", "running"]),
        "state" if name == metric::WORKERS.name => {
            Some(WorkerState::ALL.iter().map(|s| s.word().to_owned()).collect())
        }
        "how" => Some(LossWord::ALL.iter().map(|how| how.word().to_owned()).collect()),
        "use" => Some(UseWord::ALL.iter().map(|used| used.word().to_owned()).collect()),
        "input" => Some(InputWord::ALL.iter().map(|input| input.word().to_owned()).collect()),
        "code" if name == metric::JOBS_FAILED.name => {
            Some(FailWord::ALL.iter().map(|code| code.word().to_owned()).collect())
        }
        "code" if name == metric::SUBMITS_REFUSED.name => {
            let codes = Code::ALL.iter().map(|code| code.word().to_owned());
            Some(codes.chain(std::iter::once("none".to_owned())).collect())
        }
        "label" => {
            let labels = ours().flat_map(|metric| metric.labels.iter().map(|l| (*l).to_owned()));
            Some(labels.collect::<BTreeSet<_>>().into_iter().collect())
        }
        "fault" => words(&["none", "caller", "farm"]),
        "source" => Some(Replay::ALL.iter().map(|why| why.word().to_owned()).collect()),
        "point" => words(&["link", "core", "publish"]),
        "affinity" => Some(Affinity::ALL.iter().map(|a| a.word().to_owned()).collect()),
        "direction" => words(&["in", "out"]),
        "content" => words(&["control", "artifact", "media"]),
        // Whom the provenance sidecar asks is none itself.
        "sidecar" if name != metric::SIDECAR_UP.name => {
            words(&["storage", "moderation", "provenance", "watermark", "time_stamps"])
        }
        "sidecar" => words(&["storage", "moderation", "provenance", "watermark"]),
        "op" => words(&[
            "get", "range", "txn", "claim", "put", "grant", "renew", "revoke", "compact", "status",
        ]),
        "what" => words(&["input", "output"]),
        "verdict" => words(&["pass", "review", "block"]),
        "outcome" if name == metric::STORE_SWEEPS.name => words(&["ok", "error"]),
        "outcome" if name == metric::MARK_READING.name => {
            words(&["read", "read_twice", "unread", "error"])
        }
        "outcome" => words(&["ok", "refused", "error"]),
        "certificate" => words(&["authority", "link", "signing"]),
        "track" => words(&["picture", "sound"]),
        "mark" => words(&["read", "unread", "quiet", "silent", "wrong"]),
        "proof" => words(&["moderation", "watermark", "signature", "av_gap", "digest"]),
        _ => None,
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
        // Set again and again, each value overflows once.
        for pool in (0..POOLS_MAX + 3).chain(0..POOLS_MAX + 3) {
            let pool = format!("pool{pool}");
            metrics.set(&metric::WORKERS, &[&pool, "idle"], 1.0);
        }
        let text = metrics.text();
        assert!(text.contains(r#"zoetrope_workers{pool="other",state="idle"} 1"#));
        assert!(text.contains(r#"zoetrope_label_overflow_total{label="pool"} 3"#));
        let other = r#"zoetrope_workers_lost_total{how="closed",pool="other"} 0"#;
        assert!(text.contains(other), "{text}");
    }

    /// The law of metrics, 4. A rate over a series that appears with its first event misses that event.
    #[test]
    fn what_may_be_counted_some_day_is_there_with_0() {
        let metrics = Metrics::new(&["toybox".to_owned()]);
        let text = metrics.text();
        for series in [
            r#"zoetrope_jobs_failed_total{code="worker_lost"}"#,
            r#"zoetrope_submits_refused_total{code="server_is_overloaded"}"#,
            r#"zoetrope_submits_refused_total{code="none"}"#,
            r#"zoetrope_idempotent_replays_total{source="sdk_resend"}"#,
            r#"zoetrope_inputs_total{input="worker_lost"}"#,
            r#"zoetrope_inputs_ignored_total{input="shard_finished"}"#,
            r#"zoetrope_label_overflow_total{label="pool"}"#,
        ] {
            assert!(text.contains(&format!("{series} 0\n")), "{series} is missing in {text}");
        }
        assert!(text.contains(r#"zoetrope_link_bytes_total{content="media",direction="in"} 0"#));
        assert!(!text.contains(r#"content="media",direction="out""#), "none is ever sent");
        assert!(!text.contains("pool=\"a\""), "nobody knows of it yet");
        assert_eq!(metrics.known_pool("a"), "a");
        let text = metrics.text();
        for series in [
            r#"zoetrope_workers{pool="a",state="quarantined"}"#,
            r#"zoetrope_workers_lost_total{how="silence",pool="a"}"#,
            r#"zoetrope_workers_lost_total{how="new_boot",pool="a"}"#,
            r#"zoetrope_workers_reattached_total{pool="a"}"#,
            r#"zoetrope_quarantines_total{pool="a",stage="denoise"}"#,
            r#"zoetrope_gpu_seconds_total{pool="a",use="lost"}"#,
        ] {
            assert!(text.contains(&format!("{series} 0\n")), "{series} is missing in {text}");
        }
    }

    /// A moment that is not known is not 1970: an alert on what is old, or ends soon, would fire.
    #[test]
    fn moments_are_shown_once_they_are_known_and_until_they_are_cleared() {
        let metrics = Metrics::new(&[]);
        assert!(!metrics.text().contains("\nzoetrope_snapshot_timestamp_seconds"));
        assert!(!metrics.text().contains("\nzoetrope_certificate_expiry_timestamp_seconds{"));
        metrics.snapshot_of(Duration::from_secs(5));
        metrics.set(&metric::CERTIFICATE_EXPIRY, &["link"], 7.0);
        let text = metrics.text();
        assert!(text.contains("\nzoetrope_snapshot_timestamp_seconds 5\n"), "{text}");
        let link = "\nzoetrope_certificate_expiry_timestamp_seconds{certificate=\"link\"} 7\n";
        assert!(text.contains(link), "{text}");
        metrics.clear(&metric::SNAPSHOT_TIMESTAMP);
        metrics.clear(&metric::CERTIFICATE_EXPIRY);
        let text = metrics.text();
        assert!(!text.contains("\nzoetrope_snapshot_timestamp_seconds"), "{text}");
        assert!(!text.contains("\nzoetrope_certificate_expiry_timestamp_seconds{"), "{text}");
    }

    /// Only what is not known beforehand may be open: all else has its series from the start.
    #[test]
    fn few_labels_are_open() {
        let metrics = Metrics::new(&[]);
        let labels = ours().flat_map(|m| m.labels.iter().map(|label| (m.name, *label)));
        let open: Vec<_> = labels.filter(|key| !metrics.closed.contains_key(key)).collect();
        let allowed = |(name, label): &(&str, &str)| {
            *label == POOL || name.starts_with("zoetrope_http_") || *name == "zoetrope_build_info"
        };
        let wrong: Vec<_> = open.into_iter().filter(|key| !allowed(key)).collect();
        assert_eq!(wrong, []);
    }

    /// A help text that says what a label is names all its values.
    #[test]
    fn help_texts_leave_no_value_out() {
        let metrics = Metrics::new(&[]);
        let mut told = BTreeSet::new();
        for ((name, label), values) in &metrics.closed {
            let metric = ours().find(|metric| metric.name == *name).expect("it is ours");
            if !metric.help.contains(&format!("{label} is ")) {
                continue;
            }
            told.insert((*name, *label));
            let words: BTreeSet<&str> =
                metric.help.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            for value in values {
                assert!(words.contains(value.as_str()), "{value} is not in the help of {name}");
            }
        }
        assert!(told.contains(&(metric::WORKERS.name, "state")), "{told:?}");
    }
}
