//! Errors as callers see them: one envelope, one status each, and the headers that steer the SDKs'
//! retries.
//!
//! Every 4xx and 5xx of the door is an [`ApiError`]. Messages carry nothing of the farm's inside.

use super::DoorMetrics;
use super::node::VALUES_MAX;
use super::words::Code;
use crate::farm::Unavailable;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::borrow::Cow;

/// Characters of the caller's own words that an error says back: ids and names of fields are
/// shorter, and a body may have 48 MiB of them.
const ECHO_MAX: usize = 100;
/// Characters of a message, whatever it is made of: a list of fifty values takes a thousand.
const MESSAGE_MAX: usize = 4_000;
/// Tells the SDKs whether to try again, whatever the status.
pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// Whose fault it is, in upstream's words.
    pub kind: &'static str,
    /// A stable word for programs, where the contract has one.
    pub code: Option<Code>,
    /// The request field that is at fault.
    pub param: Option<Box<str>>,
    /// A sentence for people.
    pub message: Box<str>,
    /// Seconds after which a retry is wanted, 1 to 60.
    pub retry_after: Option<u32>,
    /// Whether the SDKs should try again, where their own rule by status would be wrong.
    pub should_retry: Option<bool>,
    /// One more header, for 401, 405 and 416.
    pub header: Option<Box<(HeaderName, HeaderValue)>>,
    /// What moderation blocked: the stage, and the categories.
    pub moderation: Option<Box<(&'static str, Vec<String>)>>,
}

impl ApiError {
    /// An `invalid_request_error`.
    pub fn new(status: StatusCode, code: Option<Code>, message: impl Into<Box<str>>) -> Self {
        let message: Box<str> = message.into();
        ApiError {
            status,
            kind: "invalid_request_error",
            code,
            param: None,
            message: cut(&message, MESSAGE_MAX).into(),
            retry_after: None,
            should_retry: None,
            header: None,
            moderation: None,
        }
    }

    fn bad(code: Code, param: &str, message: impl Into<Box<str>>) -> Self {
        ApiError {
            param: Some(echo(param).into()),
            ..ApiError::new(StatusCode::BAD_REQUEST, Some(code), message)
        }
    }

    /// A body that cannot be parsed: 400 without a code.
    pub fn unreadable(message: impl Into<Box<str>>) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, None, message)
    }

    /// A body of more values than any request needs.
    pub fn many_values() -> Self {
        ApiError::unreadable(format!("The body has more than {VALUES_MAX} values."))
    }

    /// A required field is absent.
    pub fn missing(param: &str) -> Self {
        let message = format!("Missing required parameter: '{param}'.");
        ApiError::bad(Code::MissingParameter, param, message)
    }

    /// A field that the endpoint does not have.
    pub fn unknown(param: &str) -> Self {
        let message = format!("Unknown parameter: '{}'.", echo(param));
        ApiError::bad(Code::UnknownParameter, param, message)
    }

    /// A field that the chosen model cannot honour.
    pub fn unsupported(param: &str, model: &str) -> Self {
        let message = format!("Unsupported parameter: '{param}' is not supported by '{model}'.");
        ApiError::bad(Code::UnsupportedParameter, param, message)
    }

    /// A field of the wrong type; `expected` and `got` with their articles.
    pub fn wrong_type(param: &str, expected: &str, got: &str) -> Self {
        let name = echo(param);
        let message =
            format!("Invalid type for '{name}': expected {expected}, but got {got} instead.");
        ApiError::bad(Code::InvalidType, param, message)
    }

    /// A value outside of its limits, in a whole sentence.
    pub fn invalid(param: &str, message: impl Into<Box<str>>) -> Self {
        ApiError::bad(Code::InvalidValue, param, message)
    }

    /// A value outside of a list.
    pub fn not_among(param: &str, value: &str, allowed: &[String]) -> Self {
        let value = echo(value);
        let message =
            format!("Invalid value: '{value}'. Supported values are: {}.", series(allowed));
        ApiError::bad(Code::InvalidValue, param, message)
    }

    /// Bytes that are no picture, or no video.
    pub fn bad_media(param: &str, message: impl Into<Box<str>>) -> Self {
        ApiError::bad(Code::InvalidMedia, param, message)
    }

    /// Moderation blocked it.
    pub fn moderation_blocked(param: &str, stage: &'static str, categories: Vec<String>) -> Self {
        let message = "Your request was blocked by our moderation system.";
        ApiError {
            kind: "video_generation_user_error",
            moderation: Some(Box::new((stage, categories))),
            ..ApiError::bad(Code::ModerationBlocked, param, message)
        }
    }

    /// Nobody can judge now.
    pub fn moderation_unavailable() -> Self {
        let message = "Moderation is not available now.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        ApiError {
            kind: "service_unavailable_error",
            retry_after: Some(5),
            ..ApiError::new(status, Some(Code::ModerationUnavailable), message)
        }
    }

    /// The caller's end user was banned by the operator.
    pub fn end_user_banned() -> Self {
        let message = "The end user of 'safety_identifier' may not make videos.";
        ApiError {
            status: StatusCode::FORBIDDEN,
            ..ApiError::bad(Code::EndUserBanned, "safety_identifier", message)
        }
    }

    /// The estimate is after the deadline.
    pub fn deadline_infeasible() -> Self {
        let message = "The video cannot be completed before 'deadline_at'.".to_owned();
        ApiError::bad(Code::DeadlineInfeasible, "deadline_at", message)
    }

    /// The key is missing, wrong or revoked.
    pub fn invalid_key() -> Self {
        let message = "Incorrect or missing API key. Send it as 'Authorization: Bearer zk_...'.";
        ApiError::unauthorized(Code::InvalidKey, message)
    }

    /// `openai-project` is another project than the key's.
    pub fn mismatched_project() -> Self {
        let message = "OpenAI-Project header should match project for API key";
        ApiError::unauthorized(Code::MismatchedProject, message)
    }

    fn unauthorized(code: Code, message: &str) -> Self {
        let challenge = (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        ApiError {
            header: Some(Box::new(challenge)),
            ..ApiError::new(StatusCode::UNAUTHORIZED, Some(code), message)
        }
    }

    /// The endpoint is for operators.
    pub fn operators_only() -> Self {
        let message = "This endpoint needs an API key with the role 'operator'.";
        ApiError::new(StatusCode::FORBIDDEN, None, message)
    }

    /// Something stands against it that a retry within seconds meets again.
    pub fn conflict(code: Option<Code>, message: impl Into<Box<str>>) -> Self {
        ApiError { should_retry: Some(false), ..ApiError::new(StatusCode::CONFLICT, code, message) }
    }

    /// One check of the store is running.
    pub fn fsck_running() -> Self {
        let message = "The store is being checked already; GET /farm/fsck says how far it is.";
        ApiError::conflict(None, message)
    }

    /// There is no such endpoint.
    pub fn no_route(method: &str, path: &str) -> Self {
        ApiError::new(StatusCode::NOT_FOUND, None, format!("Invalid URL ({method} {path})"))
    }

    /// The endpoint has other methods: these, and `HEAD` where `GET` is one.
    pub fn no_method(method: &str, path: &str, methods: &[&str]) -> Self {
        let head = methods.contains(&"GET").then_some("HEAD");
        let allow = methods.iter().copied().chain(head).collect::<Vec<_>>().join(", ");
        let message =
            format!("Not allowed to {method} on {path} (HINT: Perhaps you meant {allow})");
        ApiError {
            header: HeaderValue::from_str(&allow)
                .ok()
                .map(|value| Box::new((header::ALLOW, value))),
            ..ApiError::new(StatusCode::METHOD_NOT_ALLOWED, None, message)
        }
    }

    /// The caller's project has no such video.
    pub fn no_video(id: &str) -> Self {
        let message = format!("Video with id '{id}' not found.");
        ApiError::new(StatusCode::NOT_FOUND, None, message)
    }

    /// Something else that is not there.
    pub fn not_found(code: Option<Code>, message: impl Into<Box<str>>) -> Self {
        ApiError::new(StatusCode::NOT_FOUND, code, message)
    }

    /// `If-Match` names other files.
    pub fn other_file() -> Self {
        let message = "None of the tags of 'If-Match' is that of this file.";
        ApiError::new(StatusCode::PRECONDITION_FAILED, None, message)
    }

    /// The body is over the limit.
    pub fn too_large(limit_bytes: u64) -> Self {
        let message =
            format!("The request is too large: at most {limit_bytes} bytes are accepted.");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, Some(Code::TooLarge), message)
    }

    /// A content type that the endpoint does not read.
    pub fn media_type(got: &str) -> Self {
        ApiError::other_media_type(got, "'application/json' or 'multipart/form-data'")
    }

    /// The same of an endpoint that takes a file, which no other type carries.
    pub fn no_form(got: &str) -> Self {
        ApiError::other_media_type(got, "'multipart/form-data'")
    }

    fn other_media_type(got: &str, wanted: &str) -> Self {
        let message = format!("Unsupported content type: '{}'. Send {wanted}.", echo(got));
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, None, message)
    }

    /// The body did not arrive in time. The SDKs try again by themselves.
    pub fn too_slow() -> Self {
        let message = "The request's body did not arrive in time.";
        ApiError::new(StatusCode::REQUEST_TIMEOUT, None, message)
    }

    /// The job has ended.
    pub fn already_terminal(id: &str) -> Self {
        let message = format!("Video '{id}' has ended already and cannot be cancelled.");
        ApiError::conflict(Some(Code::AlreadyTerminal), message)
    }

    /// The job does not run where it could be moved from.
    pub fn nothing_to_move(id: &str) -> Self {
        let message = format!(
            "Video '{id}' cannot be moved: it has not begun, is there already, or has ended."
        );
        ApiError::conflict(None, message)
    }

    /// The first request with the key still runs.
    pub fn key_in_use() -> Self {
        let message = "The first request with this Idempotency-Key is still being handled.";
        ApiError {
            retry_after: Some(1),
            ..ApiError::new(StatusCode::CONFLICT, Some(Code::KeyInUse), message)
        }
    }

    /// The key was used with other content.
    pub fn key_reused() -> Self {
        let message = "This Idempotency-Key was used for a request with other content.";
        let code = Some(Code::KeyReused);
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
    }

    /// The first request with the key was carried out, and there was no room for its answer.
    pub fn answer_forgotten() -> Self {
        let message = "The request with this Idempotency-Key was carried out; its answer is no longer remembered.";
        ApiError::conflict(None, message)
    }

    /// The key sends more than it may.
    pub fn rate_limited(retry_after: u32) -> Self {
        let message = "Rate limit reached for requests. Please slow down and try again.";
        ApiError {
            kind: "rate_limit_error",
            retry_after: Some(retry_after.clamp(1, 60)),
            ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, Some(Code::RateLimited), message)
        }
    }

    /// The project's queue is full.
    pub fn queue_full(retry_after: u32) -> Self {
        let code = Some(Code::QueueFull);
        let message = "Your project's queue is full. Try again when some of its videos have ended.";
        ApiError {
            kind: "rate_limit_error",
            retry_after: Some(retry_after.clamp(1, 60)),
            ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, code, message)
        }
    }

    /// The farm has too much to do, or does not answer.
    pub fn overloaded(retry_after: u32) -> Self {
        let message = "The server is overloaded. Please try again.";
        ApiError {
            kind: "service_unavailable_error",
            retry_after: Some(retry_after.clamp(1, 60)),
            ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, Some(Code::Overloaded), message)
        }
    }

    /// No coordinator leads at the moment, or the one that does cannot write: that passes in seconds.
    pub fn no_leader() -> Self {
        let message = "The farm cannot answer at the moment. Please try again.";
        ApiError { message: message.into(), ..ApiError::overloaded(1) }
    }

    /// A fault of ours. A retry would meet it again.
    pub fn internal() -> Self {
        let message = "The server had an error while processing your request.";
        ApiError {
            kind: "server_error",
            should_retry: Some(false),
            ..ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, None, message)
        }
    }
}

/// Stays with the answer to the edge of the door, where refused submits are counted, whoever refused them.
#[derive(Clone, Copy, Debug)]
struct Refused(Option<Code>);

/// Counts the answer to a submit, if it was refused here.
pub fn count_refused(metrics: &dyn DoorMetrics, answer: &Response) {
    if let Some(Refused(code)) = answer.extensions().get() {
        metrics.refused(*code);
    }
}

impl From<Unavailable> for ApiError {
    fn from(_: Unavailable) -> Self {
        ApiError::overloaded(2)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut envelope = json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code.map(Code::word),
        }});
        if let Some((stage, categories)) = self.moderation.map(|moderation| *moderation) {
            envelope["error"]["moderation_details"] =
                json!({"moderation_stage": stage, "categories": categories});
        }
        let mut response = Response::new(Body::from(envelope.to_string()));
        *response.status_mut() = self.status;
        response.extensions_mut().insert(Refused(self.code));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(retry) = self.should_retry {
            let value = if retry { "true" } else { "false" };
            headers.insert(SHOULD_RETRY, HeaderValue::from_static(value));
        }
        if let Some((name, value)) = self.header.map(|header| *header) {
            headers.insert(name, value);
        }
        response
    }
}

/// The caller's own words, as far as an error says them back.
pub fn echo(text: &str) -> Cow<'_, str> {
    cut(text, ECHO_MAX)
}

/// The beginning of a text, which shows that it was cut.
fn cut(text: &str, characters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(characters) {
        None => Cow::Borrowed(text),
        Some((at, _)) => Cow::Owned(format!("{}…", &text[..at])),
    }
}

/// `'a', 'b', and 'c'`, as upstream writes it.
fn series(values: &[String]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("'{value}'")).collect();
    match quoted.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [first, second] => format!("{first} and {second}"),
        [head @ .., last] => format!("{}, and {last}", head.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a caller sends, an error about it stays short, and says what is right to its end.
    #[test]
    fn what_a_caller_sent_is_said_back_in_part() {
        let long = "\u{fc}".repeat(1_000_000);
        let allowed = ["a".to_owned(), "b".to_owned()];
        let value = ApiError::not_among("size", &long, &allowed);
        assert!(value.message.ends_with("…'. Supported values are: 'a' and 'b'."));
        for error in [
            value,
            ApiError::unknown(&long),
            ApiError::missing(&long),
            ApiError::wrong_type(&format!("metadata.{long}"), "a string", "null"),
            ApiError::invalid(&long, format!("Invalid value for '{long}'.")),
            ApiError::unsupported(&long, &long),
            ApiError::media_type(&long),
            ApiError::unreadable(long.clone()),
        ] {
            assert!(error.message.chars().count() <= MESSAGE_MAX + 1);
            assert!(error.param.is_none_or(|param| param.chars().count() <= ECHO_MAX + 1));
        }
        assert_eq!(echo(&long[..200]), long[..200]);
    }

    #[test]
    fn lists_read_as_upstream_writes_them() {
        let values =
            |words: &[&str]| series(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(values(&["a"]), "'a'");
        assert_eq!(values(&["a", "b"]), "'a' and 'b'");
        assert_eq!(values(&["a", "b", "c"]), "'a', 'b', and 'c'");
    }
}
