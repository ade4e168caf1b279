//! `POST /videos`: one request becomes at most one job, however often it is sent.
//!
//! Three ways lead to an earlier job: the caller's `Idempotency-Key`, which the farm stores with
//! the job; a request which an SDK sent again after a broken connection; and nothing else.

use super::create::{self, Ask, Circumstances};
use super::envelope::ApiError;
use super::fields::Fields;
use super::once::{self, Once};
use super::recent::{Hash, hash_of};
use super::route::{self, Caller};
use super::video::{self, StatusSet};
use super::words::Replay;
use super::{Door, body, listing, moderations};
use crate::dispatch::moderate::words;
use crate::farm::{FarmMsg, SubmitRefused};
use crate::jobs::{JobView, Submission};
use crate::moderation::Asker;
use crate::room::Who;
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName};
use axum::response::Response;
use rand::Rng;
use std::sync::Arc;
use zoetrope_protocol::id::JobId;

/// The caller's own name of a request.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const KEY_MAX: usize = 255;
/// Where jobs are submitted.
pub const PATH: &str = "/v1/videos";

/// What is known of a create once its body is read.
struct Create {
    caller: Caller,
    fields: Fields,
    content: Hash,
    key: Option<Hash>,
    resent: bool,
    statuses: StatusSet,
}

/// Answers with the video that is or was made.
///
/// # Errors
/// As the contract's table says.
pub async fn create(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, bytes) = request.into_parts();
    let key = idempotency_key(&caller, &head.headers, "POST", PATH)?;
    let fields = body::read(&door, Who::from(&caller), &head.headers, bytes).await?;
    let request = Create {
        content: content(&caller, key.is_some(), PATH, &fields),
        resent: key.is_none() && retry_count(&head.headers) > 0,
        statuses: listing::statuses(&head.headers),
        caller,
        fields,
        key,
    };
    // A task of its own: if the caller goes away now, the request still ends, and a resent one
    // finds its job.
    let task = tokio::spawn(async move { handle(&door, request).await });
    task.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a create panicked");
        Err(ApiError::internal())
    })
}

async fn handle(door: &Door, request: Create) -> Result<Response, ApiError> {
    let content = request.content;
    // What is read of the fields may be as large as they are.
    let _place = request.fields.place();
    match request.key {
        Some(key) => keyed(door, request, key).await,
        None => {
            let (_guard, earlier) = door.recent.begin_content(content);
            if request.resent {
                earlier.ended().await;
                let tenant = request.caller.tenant;
                let found = door
                    .state
                    .farm
                    .ask(|reply| FarmMsg::FindResent(tenant, content, reply))
                    .await?;
                if let Some(view) = found {
                    let answer = answer(door, &view, request.statuses)?;
                    return replayed(door, Replay::SdkResend, answer);
                }
            }
            let statuses = request.statuses;
            match submit(door, request).await? {
                Made::New(view) | Made::Before(view, _) => answer(door, &view, statuses),
            }
        }
    }
}

/// With a key, the answer is that of the moment of creation, now and later. What may have changed since (a model that
/// is gone, an end user who was banned) is no matter of a request that was answered: the farm is asked for it first, and
/// the key is taken for a request that may make a job alone.
async fn keyed(door: &Door, request: Create, key: Hash) -> Result<Response, ApiError> {
    let content = request.content;
    if door.recent.is_running(&key) {
        return Err(ApiError::key_in_use());
    }
    if let Some(view) = door.state.farm.ask(|reply| FarmMsg::FindKeyed(key, reply)).await? {
        return if view.content == content {
            again(door, view, create::read(request.fields)?)
        } else {
            Err(ApiError::key_reused())
        };
    }
    let guard = match once::begin(door, &request.caller, Some(key), content)? {
        Once::First(guard) => Some(guard),
        Once::Before(answer) => return Ok(answer),
        // The farm knows what it answered.
        Once::Unkeyed | Once::Forgotten => None,
    };
    let made = submit(door, request).await?;
    if let Some(guard) = guard {
        guard.done(content, None);
    }
    match made {
        Made::New(view) => answer(door, &video::first_view(&view), StatusSet::Core),
        Made::Before(view, ask) => again(door, view, *ask),
    }
}

/// Repeats the first answer to a request with a key. What was written stands in the request, whose content is the
/// first one's, also where the video was deleted and the farm has forgotten it.
fn again(door: &Door, mut view: JobView, ask: Ask) -> Result<Response, ApiError> {
    // No prompt is empty.
    if view.spec.render.prompt.is_empty() {
        create::say_again(ask, &door.state.models, &mut view.spec);
    }
    replayed(door, Replay::Key, answer(door, &video::first_view(&view), StatusSet::Core)?)
}

enum Made {
    New(JobView),
    /// With what the request says.
    Before(JobView, Box<Ask>),
}

/// Validates the request and has it admitted.
async fn submit(door: &Door, request: Create) -> Result<Made, ApiError> {
    let state = &door.state;
    let (job, seed) = {
        let mut random = rand::rng();
        (JobId(random.random()), random.random_range(0..1_u64 << 53))
    };
    let tenant = request.caller.tenant;
    let (classes, models) = (&*state.classes, &*state.models);
    let about = Circumstances { tenant, classes, models, seed, now: (state.now)() };
    let ask = create::read(request.fields)?;
    let said = ask.clone();
    let asked = create::audience(&ask)?;
    let spec = create::check(ask, about)?;
    let (policy, end_user) = (state.desk.policy(), spec.safety_identifier.as_deref());
    if policy.end_user(end_user).is_some_and(|class| class.banned) {
        return Err(ApiError::end_user_banned());
    }
    let audience = policy.audience(asked, end_user);
    // Behind the door nobody could say which field it was.
    let prompt = vec![spec.render.prompt.clone()];
    for (param, texts) in [("prompt", prompt), ("metadata", words(&spec))] {
        let fit = state.desk.fit(texts, Asker::Job(tenant)).await;
        fit.map_err(|error| moderations::unjudged(param, &error))?;
    }
    // With a key, the farm looks for the first request before it looks at the deadline.
    if request.key.is_none() && spec.deadline.is_some_and(|at| at <= (state.now)()) {
        return Err(ApiError::deadline_infeasible());
    }
    let (content, idempotency) = (request.content, request.key);
    let submission = Submission { job, spec, content, idempotency };
    let answer =
        state.farm.ask(|reply| FarmMsg::Submit(Box::new(submission), audience, reply)).await?;
    match answer {
        Ok(view) => Ok(Made::New(view)),
        Err(SubmitRefused::Replay(view)) => Ok(Made::Before(*view, Box::new(said))),
        Err(SubmitRefused::KeyReused) => Err(ApiError::key_reused()),
        Err(SubmitRefused::TenantQueueFull { seconds }) => Err(ApiError::queue_full(seconds)),
        Err(SubmitRefused::FarmQueueFull { seconds }) => Err(ApiError::overloaded(seconds)),
        Err(SubmitRefused::DeadlineInfeasible) => Err(ApiError::deadline_infeasible()),
    }
}

fn answer(door: &Door, view: &JobView, statuses: StatusSet) -> Result<Response, ApiError> {
    route::ok(&listing::show(door, view, statuses))
}

/// Marks an answer as that of an earlier request, and counts it.
///
/// # Errors
/// None of its own.
pub fn replayed(door: &Door, why: Replay, mut response: Response) -> Result<Response, ApiError> {
    door.state.metrics.replayed(why);
    route::put(response.headers_mut(), "idempotent-replayed", "true");
    Ok(response)
}

/// The hash of project, method, path and the caller's key, if it sent one.
///
/// # Errors
/// 400 for a key that is too long or not ASCII.
pub fn idempotency_key(
    caller: &Caller,
    headers: &HeaderMap,
    method: &str,
    path: &str,
) -> Result<Option<Hash>, ApiError> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = key.as_bytes();
    if key.is_empty() || key.len() > KEY_MAX || !key.is_ascii() {
        let message =
            format!("Invalid value: 'Idempotency-Key' has 1 to {KEY_MAX} ASCII characters.");
        return Err(ApiError::invalid("Idempotency-Key", message));
    }
    let project = caller.tenant.to_string();
    Ok(Some(hash_of(&[project.as_bytes(), method.as_bytes(), path.as_bytes(), key])))
}

/// The hash by which two requests are the same. A key of idempotency belongs to the project, so any
/// of its API keys may repeat it; a resent request has the API key of the first one.
pub fn content(caller: &Caller, has_key: bool, path: &str, fields: &Fields) -> Hash {
    let who = if has_key { "" } else { caller.key.as_str() };
    hash_of(&[who.as_bytes(), path.as_bytes(), &fields.hash()])
}

fn retry_count(headers: &HeaderMap) -> u32 {
    let text = body::text_header(headers, "x-stainless-retry-count");
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
