//! The names of all metrics: one table for code, boards, rules and the reference page.
//!
//! The law: prefix `zoetrope_`; base units at the end (`_seconds`, `_bytes`, `_ratio`); a counter, and
//! nothing else, ends in `_total`; label sets are closed, and each series of a closed set exists from the
//! start. Never a label: job ids, prompts, addresses, error texts, worker names.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations at or below each bound.
    Histogram(&'static [f64]),
}

/// Who exports a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The coordinator.
    Coordinator,
    /// The worker.
    Worker,
    /// Both.
    Both,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its full name.
    pub name: &'static str,
    /// What it counts or measures, with its unit.
    pub help: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its label names.
    pub labels: &'static [&'static str],
    /// Who exports it.
    pub side: Side,
}

/// Bounds for waiting times, in seconds.
pub const WAIT: &[f64] = &[
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
    14400.0, 43200.0, 86400.0,
];
/// Bounds for work on a GPU, in seconds.
pub const WORK: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0,
    2560.0,
];
/// Bounds for IO, in seconds.
pub const IO: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Bounds for decisions of the scheduler core, in seconds.
pub const CORE: &[f64] =
    &[1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 1e-2, 0.1];

/// Declares the closed values of a label: an enum, `ALL` of it and the `word` of each, from one list, so that the
/// series of none of them can be forgotten.
#[macro_export]
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The word for it in metrics.
            pub const fn word(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }
        }
    };
}

macro_rules! metrics {
    ($($constant:ident = $side:ident $kind:expr, $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                name: $name, help: $help, kind: $kind, labels: &[$($label),*], side: Side::$side,
            };
        )*
        /// Every metric.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

use Kind::{Counter, Gauge, Histogram};

metrics! {
    HTTP_REQUESTS = Coordinator Counter, "zoetrope_http_requests_total" ["route", "method", "code"] "HTTP requests answered, by route template.";
    HTTP_DURATION = Coordinator Histogram(IO), "zoetrope_http_request_duration_seconds" ["route"] "Time from the head of a request to the head of its answer.";
    HTTP_IN_FLIGHT = Coordinator Gauge, "zoetrope_http_requests_in_flight" [] "HTTP requests being handled.";
    SUBMITS_REFUSED = Coordinator Counter, "zoetrope_submits_refused_total" ["code"] "Submits that were refused, by error code of the API; none where the API has no code for it.";
    IDEMPOTENT_REPLAYS = Coordinator Counter, "zoetrope_idempotent_replays_total" ["source"] "Answers repeated for a repeated request; source is key or sdk_resend.";
    JOBS = Coordinator Gauge, "zoetrope_jobs" ["class", "state"] "Unfinished jobs; state is queued or in_progress.";
    JOBS_SUBMITTED = Coordinator Counter, "zoetrope_jobs_submitted_total" ["class", "model"] "Jobs acknowledged.";
    JOBS_FINISHED = Coordinator Counter, "zoetrope_jobs_finished_total" ["class", "model", "fault"] "Jobs that ended; fault is none (completed), caller or farm.";
    JOBS_FAILED = Coordinator Counter, "zoetrope_jobs_failed_total" ["code"] "Jobs that failed, by error code of the API.";
    JOB_WAIT = Coordinator Histogram(WAIT), "zoetrope_job_wait_seconds" ["class", "model"] "Time from acknowledgement to the first attempt placed.";
    JOB_TURNAROUND = Coordinator Histogram(WAIT), "zoetrope_job_turnaround_seconds" ["class", "model"] "Time from acknowledgement to publication.";
    ESTIMATE_ERROR = Coordinator Counter, "zoetrope_estimate_error_seconds_total" [] "Difference between the end of completed jobs and the one that was estimated at their admission; divided by estimated seconds it is the error.";
    ESTIMATED = Coordinator Counter, "zoetrope_estimated_seconds_total" [] "Time from acknowledgement to the end of those completed jobs.";
    VIDEO_SECONDS = Coordinator Counter, "zoetrope_video_seconds_total" ["model"] "Seconds of published clips.";
    SHARDS = Coordinator Gauge, "zoetrope_shards" ["stage", "state"] "Unfinished shards; state is waiting, ready or running.";
    ATTEMPTS = Coordinator Counter, "zoetrope_attempts_total" ["stage", "cause"] "Attempts that ended, by cause; none means that it made its artifact.";
    ATTEMPT_DURATION = Coordinator Histogram(WORK), "zoetrope_attempt_duration_seconds" ["stage", "model"] "Time from order to last artifact.";
    ATTEMPTS_SLOW = Coordinator Counter, "zoetrope_attempts_slow_total" ["stage"] "Attempts that took more than twice their expected time; they go on until their hard limit.";
    GPU_SECONDS = Coordinator Counter, "zoetrope_gpu_seconds_total" ["pool", "use"] "Time of gpu threads, as attempts reported it when they ended, and all the time of those that ended without a report; use is useful (ended in an accepted artifact) or lost.";
    STALE_RESULTS = Coordinator Counter, "zoetrope_stale_results_refused_total" ["point"] "Reports of replaced attempts that were refused; point is link, core, or publish (a claim to be signed, a verdict on its clip).";
    DECISION_DURATION = Coordinator Histogram(CORE), "zoetrope_decision_duration_seconds" [] "Time that the scheduler core took for one input.";
    INPUTS = Coordinator Counter, "zoetrope_inputs_total" ["input"] "Inputs of the scheduler core, by variant.";
    INPUTS_IGNORED = Coordinator Counter, "zoetrope_inputs_ignored_total" ["input"] "Inputs that were late or senseless and changed nothing.";
    PLACEMENTS = Coordinator Counter, "zoetrope_placements_total" ["affinity"] "Attempts placed; affinity is hot (model and stage loaded) or load (to be loaded first).";
    WORKERS = Coordinator Gauge, "zoetrope_workers" ["pool", "state"] "Workers; each counts once: state is the first that holds of away (its connection ended with the last epoch, it may return), draining, quarantined, cordoned, busy, idle.";
    WORKERS_LOST = Coordinator Counter, "zoetrope_workers_lost_total" ["pool", "how"] "Workers lost; how is silence, closed or new_boot.";
    WORKERS_REATTACHED = Coordinator Counter, "zoetrope_workers_reattached_total" ["pool"] "Workers that came back with attempts that went on.";
    QUARANTINES = Coordinator Counter, "zoetrope_quarantines_total" ["pool", "stage"] "Times that a worker was quarantined for a kind of shard.";
    QUIC_CONNECTIONS = Coordinator Gauge, "zoetrope_quic_connections" [] "Open connections of workers.";
    LINK_BYTES = Coordinator Counter, "zoetrope_link_bytes_total" ["direction", "content"] "Bytes of links; direction is in or out, content is control (frames), artifact, or media (files of finished clips, which only come in).";
    LEADER = Coordinator Gauge, "zoetrope_leader" [] "1 if this coordinator leads.";
    EPOCH = Coordinator Gauge, "zoetrope_epoch" [] "The epoch in which this coordinator leads.";
    LEADER_CHANGES = Coordinator Counter, "zoetrope_leader_changes_total" [] "Times that this coordinator began or ceased to lead.";
    ETCD_REQUEST_DURATION = Coordinator Histogram(IO), "zoetrope_etcd_request_duration_seconds" ["op"] "Time that etcd took for a request, answered or not.";
    ETCD_SIZE = Coordinator Gauge, "zoetrope_etcd_database_bytes" [] "Size of etcd's database, which its quota limits.";
    RECOVERY_DURATION = Coordinator Gauge, "zoetrope_recovery_duration_seconds" [] "Time that the last recovery from the journal took.";
    STORE_SWEEPS = Coordinator Counter, "zoetrope_store_sweeps_total" ["outcome"] "Looks through the store for what no job uses, at each start and each hour; outcome is ok or error.";
    JOURNAL_SYNC = Coordinator Histogram(IO), "zoetrope_journal_sync_duration_seconds" [] "Time to make one batch of inputs durable.";
    JOURNAL_BYTES = Coordinator Counter, "zoetrope_journal_bytes_total" [] "Bytes of records written to the journal.";
    JOURNAL_INPUTS = Coordinator Counter, "zoetrope_journal_inputs_total" [] "Records written to the journal; divided by syncs it is the group commit.";
    JOURNAL_WAITING = Coordinator Gauge, "zoetrope_journal_waiting_inputs" [] "Records that wait for the disk; at the configured limit submits are refused.";
    SNAPSHOT_TIMESTAMP = Coordinator Gauge, "zoetrope_snapshot_timestamp_seconds" [] "When the newest snapshot was taken.";
    SIDECAR_UP = Coordinator Gauge, "zoetrope_sidecar_up" ["sidecar"] "1 if the sidecar runs.";
    SIDECAR_REQUESTS = Coordinator Counter, "zoetrope_sidecar_requests_total" ["sidecar", "outcome"] "Requests to sidecars; outcome is ok, refused or error.";
    SIDECAR_DURATION = Coordinator Histogram(IO), "zoetrope_sidecar_request_duration_seconds" ["sidecar"] "Time that a sidecar took for a request.";
    MODERATION_VERDICTS = Coordinator Counter, "zoetrope_moderation_verdicts_total" ["what", "verdict"] "Verdicts of moderation; what is input or output, verdict is pass, review or block.";
    MARKS = Coordinator Counter, "zoetrope_marks_total" ["track", "mark"] "Marks that the coordinator read in finished clips, once for each clip that it played; track is picture or sound, mark is read, unread, quiet or silent (sound that need not carry it), or wrong.";
    MARK_READING = Coordinator Histogram(IO), "zoetrope_mark_reading_duration_seconds" ["outcome"] "Time to play a finished clip and read its marks; outcome is read, read_twice (some half second was in doubt), unread (it is not published) or error.";
    CERTIFICATE_EXPIRY = Both Gauge, "zoetrope_certificate_expiry_timestamp_seconds" ["certificate"] "When a certificate ends; certificate is authority (the farm's), link (the coordinator's), signing (of clips; not where a signer of its own has it) or worker.";
    PUBLISHES_REFUSED = Coordinator Counter, "zoetrope_publishes_refused_total" ["proof"] "Clips that were not published because a proof was missing or wrong.";
    GPU_INFO = Worker Gauge, "zoetrope_gpu_info" ["UUID", "GPU_I_ID", "worker", "pool", "gpu_kind"] "1, with what this worker serves; UUID and GPU_I_ID are as dcgm-exporter has them: the GPU, and the instance of a part of one.";
    DENOISE_STEP = Worker Histogram(WORK), "zoetrope_denoise_step_seconds" ["model"] "Time of one denoising step.";
    CHECKPOINT = Worker Histogram(WORK), "zoetrope_checkpoint_seconds" ["model"] "Time that the gpu thread spends on one checkpoint: making its bytes, and waiting for the store; divided by the time of steps it is their cost.";
    MODEL_LOAD = Worker Histogram(WORK), "zoetrope_model_load_seconds" ["model"] "Time to load the weights of a stage.";
    FINISH_PART = Worker Histogram(WORK), "zoetrope_finish_part_seconds" ["part"] "Time of a part of finishing a clip; part is decode, moderate, embed (marking frames beside the decoding), encode, check, mark (until its marks are read: by the coordinator, or by the worker where no coordinator does), mux, sign or store.";
    SPOOL_BYTES = Worker Gauge, "zoetrope_spool_bytes" [] "Artifacts that are not yet acknowledged.";
    BUILD_INFO = Both Gauge, "zoetrope_build_info" ["version", "protocol"] "1, with the version of the program and of the wire.";
    LABEL_OVERFLOW = Both Counter, "zoetrope_label_overflow_total" ["label"] "Label values that were counted as other, because their set is full.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_law_of_names_holds() {
        let mut names = BTreeSet::new();
        for metric in ALL {
            let name = metric.name;
            assert!(names.insert(name), "{name} stands twice");
            assert!(name.starts_with("zoetrope_"), "{name}");
            assert_eq!(metric.kind == Counter, name.ends_with("_total"), "{name}");
            if let Histogram(bounds) = metric.kind {
                assert!(name.ends_with("_seconds"), "{name}");
                assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{name}");
            }
            assert!(metric.help.ends_with('.'), "{name}");
            for label in metric.labels {
                assert_ne!(*label, "quantile");
            }
        }
    }
}
