//! The `Video` object: what callers see of a job.
//!
//! Built from a [`JobView`] alone. All core keys are in every answer; the additive ones follow
//! them. The first answer to a create with an `Idempotency-Key` must be repeated byte for byte for
//! a day, also after a restart: [`first_view`] leaves in it only what never changes.

use super::moderations::shown;
use crate::jobs::{Asset, JobView, PhaseView, Publication};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use zoetrope_protocol::id::Millis;
use zoetrope_protocol::job::{Cause, Class, Stage, Warning};
use zoetrope_protocol::moderation::Verdict;
use zoetrope_protocol::wire::Phase;
use zoetrope_sched::input::EndWhy;
use zoetrope_sched::output::{FailWhy, JobState};

/// Which words `status` may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusSet {
    /// Upstream's four.
    Core,
    /// These and `cancelled`.
    Extended,
}

/// A video as JSON. The order of the fields is the order of the keys.
#[derive(Serialize)]
pub struct Video<'a> {
    id: String,
    object: &'static str,
    model: &'a str,
    status: &'static str,
    progress: u8,
    created_at: u64,
    completed_at: Option<u64>,
    expires_at: Option<u64>,
    prompt: &'a str,
    seconds: String,
    size: String,
    remixed_from_video_id: Option<&'a str>,
    error: Option<Failure>,

    render_size: String,
    characters: [&'a str; 0],
    queue_position: Option<u32>,
    estimated_start_at: Option<u64>,
    estimated_completion_at: Option<u64>,
    stage: Option<&'static str>,
    in_progress_at: Option<u64>,
    failed_at: Option<u64>,
    cancelled_at: Option<u64>,
    seed: u64,
    negative_prompt: Option<&'a str>,
    num_inference_steps: u32,
    generate_audio: bool,
    service_tier: &'static str,
    deadline_at: Option<u64>,
    expires_after: ExpiresAfter,
    metadata: BTreeMap<&'a str, &'a str>,
    safety_identifier: Option<&'a str>,
    resolved_model: Option<&'a str>,
    system_fingerprint: Option<&'a str>,
    extended_from_video_id: Option<&'a str>,
    moderation: Moderation,
    usage: Option<Usage>,
    assets: Option<Assets>,
    warnings: &'a [Warning],
    audience: &'static str,
    /// For operators alone, who see all projects.
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<String>,
}

#[derive(Serialize)]
struct Failure {
    code: &'static str,
    message: &'static str,
    param: Option<&'static str>,
    r#type: &'static str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    moderation_details: Option<Details>,
}

/// What was blocked, and where.
#[derive(Serialize)]
struct Details {
    moderation_stage: &'static str,
    categories: Vec<&'static str>,
}

#[derive(Serialize)]
struct ExpiresAfter {
    anchor: &'static str,
    seconds: u32,
}

/// What was judged, as the moderations endpoint would say it.
#[derive(Serialize)]
struct Moderation {
    input: Option<Value>,
    output: Option<Value>,
}

#[derive(Serialize)]
struct Usage {
    video_seconds: u32,
    gpu_seconds: f64,
    cost: Cost,
}

#[derive(Serialize)]
struct Cost {
    amount: &'static str,
    currency: &'static str,
}

#[derive(Serialize)]
struct Assets {
    video: AssetFacts,
    thumbnail: AssetFacts,
    spritesheet: AssetFacts,
}

#[derive(Serialize)]
struct AssetFacts {
    bytes: u64,
    sha256: String,
    content_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u32>,
}

impl<'a> Video<'a> {
    /// Shows a job to its own project.
    pub fn of(view: &'a JobView, statuses: StatusSet, system_fingerprint: &'a str) -> Video<'a> {
        let spec = &view.spec;
        let render = &spec.render;
        let failed = matches!(view.state, JobState::Failed(_));
        let queued = view.state == JobState::Queued;
        let running = view.state == JobState::InProgress;
        let seconds = |moment: Option<Millis>| moment.map(Millis::seconds);
        let ended = seconds(view.ended);
        Video {
            id: view.job.to_string(),
            object: "video",
            model: &spec.asked_model,
            status: status(view.state, statuses),
            progress: progress(view),
            created_at: view.created.seconds(),
            completed_at: ended.filter(|_| view.state == JobState::Completed),
            expires_at: seconds(view.expires).filter(|_| view.state == JobState::Completed),
            prompt: &render.prompt,
            seconds: render.seconds().to_string(),
            size: render.deliver.to_string(),
            remixed_from_video_id: None,
            error: failure(view),
            render_size: render.canvas.to_string(),
            characters: [],
            queue_position: view.queue_position.filter(|_| queued),
            estimated_start_at: seconds(view.estimated_start).filter(|_| queued),
            estimated_completion_at: seconds(view.estimated_completion)
                .filter(|_| queued || running),
            stage: stage(view),
            in_progress_at: seconds(view.in_progress),
            failed_at: ended.filter(|_| failed),
            cancelled_at: ended.filter(|_| is_cancelled(view.state)),
            seed: render.seed,
            negative_prompt: None,
            num_inference_steps: render.steps,
            generate_audio: render.audio,
            service_tier: tier(spec.class),
            deadline_at: seconds(spec.deadline),
            expires_after: ExpiresAfter {
                anchor: if spec.expires_after.from_completion {
                    "completed_at"
                } else {
                    "created_at"
                },
                seconds: spec.expires_after.seconds,
            },
            metadata: spec.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
            safety_identifier: spec.safety_identifier.as_deref(),
            resolved_model: view.resolved_model.as_deref(),
            // Known together with the weights: before that, another build may come to render it.
            system_fingerprint: view.resolved_model.as_ref().map(|_| system_fingerprint),
            extended_from_video_id: None,
            moderation: Moderation {
                input: view.moderation.input.as_ref().map(|verdict| shown(verdict, &["text"])),
                output: view.moderation.output.as_ref().map(|(_, verdict)| {
                    // What is said in the sound is judged as text is.
                    shown(verdict, if render.audio { &["text", "image"] } else { &["image"] })
                }),
            },
            usage: (!queued && !running).then(|| usage(view)),
            assets: view.assets.as_ref().filter(|_| view.state == JobState::Completed).map(assets),
            warnings: &spec.warnings,
            audience: view.moderation.audience.word(),
            project: None,
        }
    }

    /// Adds whose it is, for operators.
    pub fn with_project(self, project: String) -> Video<'a> {
        Video { project: Some(project), ..self }
    }
}

/// The view of the moment of creation, with only what is durable of it: no place in the queue, no
/// estimate.
pub fn first_view(view: &JobView) -> JobView {
    JobView {
        state: JobState::Queued,
        in_progress: None,
        ended: None,
        progress: 0,
        phase: None,
        publication: None,
        queue_position: None,
        estimated_start: None,
        estimated_completion: None,
        resolved_model: None,
        gpu: Millis(0),
        assets: None,
        expires: None,
        taken_down: None,
        moderation: crate::jobs::Moderation {
            audience: view.moderation.audience,
            ..Default::default()
        },
        judging: true,
        ..view.clone()
    }
}

/// Whether the job can still change.
pub fn is_unfinished(state: JobState) -> bool {
    matches!(state, JobState::Queued | JobState::InProgress)
}

/// Milliseconds until a client should ask again: a twentieth of what is left, within half a second
/// and ten.
pub fn poll_after_ms(view: &JobView, now: Millis) -> u64 {
    match view.estimated_completion {
        Some(estimate) => (estimate.minus(now).0 / 20).clamp(500, 10_000),
        None => 1000,
    }
}

fn is_cancelled(state: JobState) -> bool {
    matches!(state, JobState::Failed(FailWhy::Ended(EndWhy::Cancelled | EndWhy::Deleted)))
}

fn status(state: JobState, statuses: StatusSet) -> &'static str {
    match state {
        JobState::Queued => "queued",
        JobState::InProgress => "in_progress",
        JobState::Completed => "completed",
        JobState::Failed(_) if statuses == StatusSet::Extended && is_cancelled(state) => {
            "cancelled"
        }
        JobState::Failed(_) => "failed",
    }
}

fn progress(view: &JobView) -> u8 {
    if view.state == JobState::Completed { 100 } else { view.progress.min(99) }
}

/// The latest stage begun; none while the job waits for a worker, and once it has ended.
fn stage(view: &JobView) -> Option<&'static str> {
    match (view.state, view.publication) {
        (JobState::Queued, _) => view.judging.then_some("moderating_input"),
        (JobState::InProgress, Some(Publication::Moderating)) => Some("moderating_output"),
        (JobState::InProgress, Some(Publication::Publishing)) => Some("publishing"),
        (JobState::InProgress, None) => view.phase.map(|now| begun(now, view.spec.render.audio)),
        (JobState::Completed | JobState::Failed(_), _) => None,
    }
}

/// The same of an attempt. Each loads its weights first and sends what it made last: the one is its first stage, the
/// other its last. A finish makes the sound before the picture.
fn begun(now: PhaseView, audio: bool) -> &'static str {
    match (now.phase, now.stage) {
        (Phase::Encoding, _) | (Phase::Loading | Phase::Sending, Stage::Encode) => {
            "encoding_prompt"
        }
        (Phase::Denoising, _) | (Phase::Loading | Phase::Sending, Stage::Denoise) => "denoising",
        (Phase::Loading, Stage::Finish) if audio => "generating_audio",
        (Phase::Decoding, _)
        | (Phase::Loading | Phase::Sending, Stage::Decode)
        | (Phase::Loading, Stage::Finish) => "decoding",
        (Phase::Sound, _) => "generating_audio",
        (Phase::Muxing, _) | (Phase::Sending, Stage::Finish) => "muxing",
    }
}

fn tier(class: Class) -> &'static str {
    class.word()
}

fn failure(view: &JobView) -> Option<Failure> {
    let JobState::Failed(why) = view.state else { return None };
    let blocked = |stage, verdict: &Verdict| Details {
        moderation_stage: stage,
        categories: verdict.categories.iter().map(|category| category.word()).collect(),
    };
    let stops = |verdict: &&Verdict| !verdict.categories.is_empty();
    let (input, output) = (&view.moderation.input, &view.moderation.output);
    let output = output.as_ref().map(|(_, verdict)| verdict).filter(stops);
    let details = output
        .map(|verdict| blocked("output", verdict))
        .or_else(|| input.as_ref().filter(stops).map(|verdict| blocked("input", verdict)));
    let fault = |code, message, retryable| Failure {
        code,
        message,
        param: None,
        r#type: "server_error",
        retryable,
        moderation_details: None,
    };
    Some(match why {
        FailWhy::Ended(EndWhy::Cancelled | EndWhy::Deleted) => Failure {
            r#type: "invalid_request_error",
            ..fault("cancelled", "The video was cancelled.", false)
        },
        FailWhy::Ended(EndWhy::Blocked) => Failure {
            r#type: "video_generation_user_error",
            moderation_details: details,
            ..fault(
                "moderation_blocked",
                "Your request was blocked by our moderation system.",
                false,
            )
        },
        FailWhy::Ended(EndWhy::Unmoderated) => {
            fault("moderation_unavailable", "Moderation was not available for too long.", true)
        }
        FailWhy::DeadlineExceeded => Failure {
            param: Some("deadline_at"),
            ..fault("deadline_exceeded", "The video was not completed before its deadline.", true)
        },
        FailWhy::TooOld => {
            fault("deadline_exceeded", "The video waited longer than any may.", true)
        }
        FailWhy::Poison(cause) | FailWhy::NotPublished(cause) => match cause {
            Cause::WorkerLost | Cause::MachineLost => {
                fault("worker_lost", "The workers that rendered the video were lost.", true)
            }
            Cause::OutOfMemory => {
                fault("out_of_memory", "The video needs more memory than a worker has.", false)
            }
            Cause::DependencyDown => fault(
                "engine_error",
                "A part of the farm that the video needs did not answer for too long.",
                true,
            ),
            _ => fault("engine_error", "The video could not be rendered.", true),
        },
    })
}

fn usage(view: &JobView) -> Usage {
    let completed = view.state == JobState::Completed;
    Usage {
        video_seconds: if completed { view.spec.render.seconds() } else { 0 },
        gpu_seconds: view.gpu.0 as f64 / 1000.0,
        cost: Cost { amount: "0.00", currency: "USD" },
    }
}

fn assets(assets: &crate::jobs::Assets) -> Assets {
    let facts = |asset: &Asset, content_type| AssetFacts {
        bytes: asset.bytes,
        sha256: asset.artifact.to_string(),
        content_type,
        columns: None,
        rows: None,
    };
    Assets {
        video: facts(&assets.video, "video/mp4"),
        thumbnail: facts(&assets.thumbnail, "image/webp"),
        spritesheet: AssetFacts {
            columns: Some(assets.sprite_columns),
            rows: Some(assets.sprite_rows),
            ..facts(&assets.spritesheet, "image/jpeg")
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::view;
    use serde_json::Value;
    use zoetrope_protocol::id::{ArtifactId, AttemptNumber, Epoch, Fence};
    use zoetrope_protocol::moderation::{Audience, Category, Outcome};

    const CORE: [&str; 13] = [
        "id",
        "object",
        "model",
        "status",
        "progress",
        "created_at",
        "completed_at",
        "expires_at",
        "prompt",
        "seconds",
        "size",
        "remixed_from_video_id",
        "error",
    ];

    fn all_states() -> Vec<JobState> {
        let mut states = vec![JobState::Queued, JobState::InProgress, JobState::Completed];
        let mut failures = vec![FailWhy::DeadlineExceeded, FailWhy::TooOld];
        failures.extend(
            [EndWhy::Cancelled, EndWhy::Deleted, EndWhy::Blocked, EndWhy::Unmoderated]
                .map(FailWhy::Ended),
        );
        failures.extend(Cause::ALL.map(FailWhy::Poison));
        failures.extend(Cause::ALL.map(FailWhy::NotPublished));
        states.extend(failures.into_iter().map(JobState::Failed));
        states
    }

    fn json(view: &JobView, statuses: StatusSet) -> Value {
        serde_json::to_value(Video::of(view, statuses, "fp_x")).unwrap()
    }

    /// 1.3: all 13 keys in every answer, and the rules of each state.
    #[test]
    fn every_state_has_all_core_keys_and_keeps_its_rules() {
        for state in all_states() {
            let view = view(1, state);
            let video = json(&view, StatusSet::Core);
            for key in CORE {
                assert!(video.get(key).is_some(), "{key} of {state:?}");
            }
            let is = |key: &str| !video[key].is_null();
            let completed = state == JobState::Completed;
            let failed = matches!(state, JobState::Failed(_));
            let statuses = ["queued", "in_progress", "completed", "failed"];
            assert!(statuses.contains(&video["status"].as_str().unwrap()));
            assert_eq!(video["progress"] == 100, completed, "{state:?}");
            assert_eq!((is("completed_at"), is("expires_at")), (completed, completed));
            assert_eq!((is("error"), is("failed_at")), (failed, failed), "{state:?}");
            assert_eq!(is("usage"), completed || failed);
            assert_eq!(is("assets"), completed);
            assert_eq!(is("stage"), state == JobState::InProgress);
            assert_eq!(is("queue_position"), state == JobState::Queued);
            if failed {
                assert!(
                    video["error"]["code"].is_string() && video["error"]["message"].is_string()
                );
                assert_eq!(video["usage"]["cost"]["amount"], "0.00");
            }
            assert!(video["seconds"].is_string() && video["size"].is_string());
        }
    }

    /// What is said in a clip is shown as judged where there was sound, beside what is seen.
    #[test]
    fn the_moderation_of_a_clip_shows_what_was_heard() {
        let mut view = view(1, JobState::Failed(FailWhy::Ended(EndWhy::Blocked)));
        let verdict = Verdict {
            outcome: Outcome::Block,
            categories: vec![Category::Hate],
            scores: vec![(Category::Hate, 9_000), (Category::Sexual, 100)],
            audience: Audience::All,
            policy: ArtifactId([0; 32]),
            spans: Vec::new(),
        };
        let fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(1) };
        view.moderation.output = Some((fence, verdict));
        for (audio, flagged, score, kinds) in
            [(true, true, 0.9, &["text", "image"][..]), (false, false, 0.0, &["image"])]
        {
            view.spec.render.audio = audio;
            let shown = json(&view, StatusSet::Core)["moderation"]["output"].take();
            assert_eq!(shown["flagged"], flagged);
            assert_eq!(shown["categories"]["hate"], flagged);
            assert_eq!(shown["category_scores"]["hate"], score);
            assert_eq!(shown["category_applied_input_types"]["sexual"], serde_json::json!(kinds));
        }
    }

    #[test]
    fn cancelled_is_a_status_only_where_it_was_asked_for() {
        let view = view(1, JobState::Failed(FailWhy::Ended(EndWhy::Cancelled)));
        let (core, extended) = (json(&view, StatusSet::Core), json(&view, StatusSet::Extended));
        assert_eq!((&core["status"], &extended["status"]), (&"failed".into(), &"cancelled".into()));
        assert_eq!(core["error"], extended["error"]);
        assert_eq!(core["cancelled_at"], core["failed_at"]);
    }

    /// 5.3: the first answer is the same bytes whatever became of the job.
    #[test]
    fn the_first_answer_does_not_depend_on_the_present_state() {
        let bytes = |state| {
            let first = first_view(&view(1, state));
            serde_json::to_string(&Video::of(&first, StatusSet::Core, "fp_x")).unwrap()
        };
        let queued = bytes(JobState::Queued);
        assert!(queued.contains(r#""status":"queued""#));
        for state in all_states() {
            assert_eq!(bytes(state), queued, "{state:?}");
        }
    }

    #[test]
    fn clients_poll_a_twentieth_of_what_is_left() {
        let mut view = view(1, JobState::InProgress);
        let now = Millis(1_000_000);
        for (left, wanted) in [(0, 500), (10_000, 500), (40_000, 2000), (9_000_000, 10_000)] {
            view.estimated_completion = Some(now.plus(Millis(left)));
            assert_eq!(poll_after_ms(&view, now), wanted);
        }
        view.estimated_completion = Some(Millis(0));
        assert_eq!(poll_after_ms(&view, now), 500);
        view.estimated_completion = None;
        assert_eq!(poll_after_ms(&view, now), 1000);
    }
}
