//! A client of the farm's HTTP API. Repeats what may be repeated, and turns refusals into advice.

use super::Target;
use super::places::{self, KEY_FILE, URL_FILE};
use anyhow::{Context, bail};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use std::time::Duration;

/// Where `zoetrope up` listens if nobody says otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// A farm answers every request but a download within its own timeout of 10 s; twice that means it is gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// A local farm accepts at once; a far one within a few round trips.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A download that brings nothing for so long is dead.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Tries of a request that may be repeated: with the pauses below, about half a minute in all.
const TRIES: u32 = 6;
/// The longest pause between two tries, whatever the farm says.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What the farm answered instead of what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{message}{advice}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// The API's code, if it gave one.
    pub code: Option<String>,
    message: String,
    advice: &'static str,
}

/// A farm, as a caller sees it.
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Client {
    /// The farm that the options name; without options, the one whose data folder is on this machine.
    pub fn of(target: &Target) -> anyhow::Result<Client> {
        let data = places::data_folder(target.data.as_deref()).ok();
        let kept =
            |name: &str| data.as_ref().and_then(|folder| places::word_in(&folder.join(name)));
        let base = target.url.clone().or_else(|| kept(URL_FILE));
        let base = base.unwrap_or_else(|| DEFAULT_URL.to_owned());
        let base = base.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            bail!("{base} is no address of a farm: it starts with http:// or https://");
        }
        let key = match (&target.key_file, &target.key) {
            (Some(file), _) => places::word_in(file)
                .with_context(|| format!("there is no API key in {}", file.display()))?,
            (None, Some(key)) => key.trim().to_owned(),
            (None, None) => kept(KEY_FILE).context(
                "no API key: give --key-file FILE, or set ZOETROPE_API_KEY (`zoetrope up` prints \
                 where it keeps its key; `zoetrope serve` keeps it in its data folder: --data DIR)",
            )?,
        };
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("zoetrope/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Client { http, base, key })
    }

    /// Reads a resource.
    pub async fn read(&self, path: &str) -> anyhow::Result<Value> {
        self.json(|| self.request(Method::GET, path)).await
    }

    /// Sends a body that may be sent again: the farm recognises it, or it changes nothing the second time.
    pub async fn send(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        // The farm answers a resent request of the same key from its first answer.
        let once = format!("cli-{:032x}", rand::random::<u128>());
        self.json(|| self.request(Method::POST, path).header("idempotency-key", &once).json(body))
            .await
    }

    /// Deletes a resource.
    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.json(|| self.request(Method::DELETE, path)).await
    }

    /// Opens a download. The body has no time limit as long as bytes come.
    pub async fn download(&self, path: &str) -> anyhow::Result<Response> {
        self.tried(|| self.http.get(self.url(path)).bearer_auth(&self.key)).await
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path)).bearer_auth(&self.key).timeout(ANSWER_TIMEOUT)
    }

    async fn json(&self, request: impl Fn() -> RequestBuilder) -> anyhow::Result<Value> {
        let answer = self.tried(request).await?;
        answer.json().await.with_context(|| format!("{} does not answer like a farm", self.base))
    }

    /// Tries until there is an answer that a further try cannot better.
    async fn tried(&self, request: impl Fn() -> RequestBuilder) -> anyhow::Result<Response> {
        let mut tried = 0;
        loop {
            tried += 1;
            let last = tried == TRIES;
            let pause = match request().send().await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) if !last && may_pass(&answer) => asked_pause(&answer, tried),
                Ok(answer) => return Err(refusal(answer).await.into()),
                // Nobody listens: only a farm that is being started would be there a moment later.
                Err(e) if last || (e.is_connect() && tried == 3) => {
                    return Err(e.without_url()).with_context(|| {
                        format!(
                            "no farm answers at {}; start one with `zoetrope up`, or name another \
                             with --url",
                            self.base
                        )
                    });
                }
                Err(_) => back_off(tried),
            };
            tokio::time::sleep(pause).await;
        }
    }
}

/// Whether the same request may succeed later.
fn may_pass(answer: &Response) -> bool {
    let told = answer.headers().get("x-should-retry").and_then(|value| value.to_str().ok());
    match told {
        Some("true") => true,
        Some("false") => false,
        _ => {
            let status = answer.status();
            status == StatusCode::TOO_MANY_REQUESTS
                || status == StatusCode::REQUEST_TIMEOUT
                || status.is_server_error()
        }
    }
}

fn asked_pause(answer: &Response, tried: u32) -> Duration {
    let told = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let seconds = told.and_then(|text| text.parse().ok()).map(Duration::from_secs);
    seconds.unwrap_or_else(|| back_off(tried)).min(PAUSE_MAX)
}

/// 0.25 s, doubled with each try: 0.25, 0.5, 1, 2, 4.
fn back_off(tried: u32) -> Duration {
    Duration::from_millis(250 << (tried - 1).min(5))
}

async fn refusal(answer: Response) -> ApiError {
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    let text = |key: &str| body["error"][key].as_str().map(str::to_owned);
    let code = text("code");
    let advice = match status {
        StatusCode::UNAUTHORIZED => " (give the farm's key with --key-file or ZOETROPE_API_KEY)",
        StatusCode::FORBIDDEN => " (operators' verbs need an operator's key)",
        StatusCode::TOO_MANY_REQUESTS => " (try again later)",
        _ => "",
    };
    let message = text("message").unwrap_or_else(|| format!("the farm answered {status}"));
    let message = naming(message, text("param"));
    ApiError { status: status.as_u16(), code, message, advice }
}

/// A message that says which field it is about.
fn naming(message: String, param: Option<String>) -> String {
    match param {
        Some(param) if !message.contains(&param) => format!("{message} (field `{param}`)"),
        _ => message,
    }
}

/// The rows of a list: `{"data": […]}` or a bare array.
pub fn rows(list: &Value) -> &[Value] {
    list["data"].as_array().or_else(|| list.as_array()).map_or(&[], Vec::as_slice)
}

/// The id as it may stand in a path: an id that is none would name another resource.
pub fn checked<'a>(id: &'a str, what: &str) -> anyhow::Result<&'a str> {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if id.is_empty() || id.starts_with('.') || !id.chars().all(safe) {
        bail!("'{id}' is no {what}");
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_field_once() {
        let told =
            |message: &str, param: Option<&str>| naming(message.into(), param.map(Into::into));
        assert_eq!(told("Expected 1 to 9.", Some("seconds")), "Expected 1 to 9. (field `seconds`)");
        for message in ["'seconds' must be 1 to 9.", "No such job."] {
            assert_eq!(told(message, Some("seconds").filter(|_| message.contains('9'))), message);
        }
    }
}
