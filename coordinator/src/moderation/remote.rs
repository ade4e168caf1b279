//! Asks a remote provider that speaks the OpenAI moderations API what it thinks of texts.
//!
//! Every answer is held against what such an answer must be. One that comes late, is empty, or says what cannot be, is
//! an error, and an error is never a pass. Called by the desk; decides nothing.

use super::places::Places;
use crate::outward::{self, Allow, UrlError};
use futures::StreamExt;
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zoetrope_moderation::judge::Scores;
use zoetrope_moderation::score;
use zoetrope_protocol::moderation::Category;

/// The largest answer: a result has some 1.5 KB.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Texts of one request.
const TEXTS_MAX: usize = 32;
/// Questions at a time: at a tenth of a second for an answer some three hundred a second, for a few connections and little
/// memory. Without a limit all jobs that wait would ask in the moment in which moderation comes up.
pub(super) const QUESTIONS_MAX: usize = 32;
/// Bytes of a key file.
const KEY_BYTES_MAX: usize = 4_096;

/// Where the provider is.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its endpoint.
    pub url: Url,
    /// What may be dialled besides public addresses.
    pub allow: Allow,
    /// A file with its key; none if it wants none.
    pub key_file: Option<PathBuf>,
    /// The model that is asked for.
    pub model: String,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether it is asked instead of the embedded nets, not beside them.
    pub replaces: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address must not be dialled.
    #[error("moderation.remote.url must be {0}")]
    Url(#[from] UrlError),
    /// The key file cannot be read, or is no key.
    #[error("the key of the remote moderation, {path}, cannot be used: {reason}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It does not answer, or too late.
    #[error("the remote moderation does not answer")]
    Http(#[from] reqwest::Error),
    /// It answers with another status than 200.
    #[error("the remote moderation answers with status {0}")]
    Status(u16),
    /// It answers with what cannot be.
    #[error("the remote moderation's answer is none: {0}")]
    Answer(String),
}

impl RemoteError {
    /// Whether it refuses this text, so that another try is in vain.
    pub fn is_about_the_text(&self) -> bool {
        matches!(self, RemoteError::Status(400 | 413 | 422))
    }
}

/// The provider, ready to be asked.
pub struct Remote {
    provider: Provider,
    key: Option<String>,
    client: reqwest::Client,
    /// Places to ask in; whoever asks takes one first.
    pub(super) places: Places,
}

impl Remote {
    /// Reads the key.
    ///
    /// # Errors
    /// `Key`; `Http` if no client can be made.
    pub fn new(provider: Provider) -> Result<Remote, RemoteError> {
        let key = provider.key_file.as_deref().map(read_key).transpose()?;
        let client = outward::client(&provider.allow, provider.timeout)?;
        Ok(Remote { provider, key, client, places: Places::new(QUESTIONS_MAX) })
    }

    /// Whether it is asked instead of the embedded nets.
    pub fn replaces(&self) -> bool {
        self.provider.replaces
    }

    /// What decides beside the policy: part of the policy's version.
    pub fn words(&self) -> String {
        let Provider { url, model, replaces, .. } = &self.provider;
        format!("{url} {model} {replaces}")
    }

    /// What it thinks of each text. What it flags is in `flagged`, whatever the score. Its time runs from when it is asked.
    ///
    /// # Errors
    /// `RemoteError`, which is never a pass.
    pub async fn ask(&self, texts: &[String]) -> Result<Vec<Opinion>, RemoteError> {
        let mut opinions = Vec::new();
        for some in texts.chunks(TEXTS_MAX) {
            let body = json!({"model": self.provider.model, "input": some});
            let mut request = self.client.post(self.provider.url.clone()).json(&body);
            if let Some(key) = &self.key {
                request = request.bearer_auth(key);
            }
            let answer = request.send().await?;
            if answer.status() != reqwest::StatusCode::OK {
                return Err(RemoteError::Status(answer.status().as_u16()));
            }
            let mut bytes = Vec::new();
            let mut stream = answer.bytes_stream();
            while let Some(piece) = stream.next().await {
                bytes.extend_from_slice(&piece?);
                if bytes.len() > ANSWER_BYTES_MAX {
                    return Err(RemoteError::Answer(format!("over {ANSWER_BYTES_MAX} bytes")));
                }
            }
            opinions.extend(read(&bytes, some.len()).map_err(RemoteError::Answer)?);
        }
        Ok(opinions)
    }
}

fn read_key(path: &Path) -> Result<String, RemoteError> {
    let wrong = |reason: String| RemoteError::Key { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let key = text.trim();
    let is_key =
        !key.is_empty() && key.len() <= KEY_BYTES_MAX && key.bytes().all(|b| b.is_ascii_graphic());
    if is_key { Ok(key.to_owned()) } else { Err(wrong("it holds no key".to_owned())) }
}

/// What a provider thinks of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// The score of each category.
    pub scores: Scores,
    /// What it flags.
    pub flagged: Vec<Category>,
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<OneResult>,
}

#[derive(Deserialize)]
struct OneResult {
    flagged: bool,
    categories: serde_json::Map<String, Value>,
    category_scores: serde_json::Map<String, Value>,
}

/// Reads an answer strictly: one result a text, each with all 13 categories, and nothing that contradicts itself.
fn read(bytes: &[u8], texts: usize) -> Result<Vec<Opinion>, String> {
    let answer: Answer = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if answer.results.len() != texts {
        return Err(format!("{} results for {texts} texts", answer.results.len()));
    }
    answer.results.into_iter().map(opinion).collect()
}

fn opinion(result: OneResult) -> Result<Opinion, String> {
    let mut opinion = Opinion { scores: Scores::new(), flagged: Vec::new() };
    for category in Category::of_api() {
        let word = category.word();
        let is = result.categories.get(word).and_then(Value::as_bool);
        let value = result.category_scores.get(word).and_then(Value::as_f64);
        let (Some(is), Some(value)) = (is, value) else {
            return Err(format!("{word} is missing or of another type"));
        };
        if !(0.0..=1.0).contains(&value) {
            return Err(format!("{word} has the score {value}, not 0 to 1"));
        }
        opinion.scores.insert(*category, score(value as f32));
        if is {
            opinion.flagged.push(*category);
        }
    }
    let known = |(word, is): (&String, &Value)| {
        is.as_bool() == Some(true) && word.parse::<Category>().is_err()
    };
    if let Some((word, _)) = result.categories.iter().find(|pair| known(*pair)) {
        return Err(format!("it flags {word}, which is no category"));
    }
    if result.flagged == opinion.flagged.is_empty() {
        return Err(format!("flagged is {}, its categories say otherwise", result.flagged));
    }
    Ok(opinion)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer as the API describes it, with these changes.
    pub(super) fn answer(change: impl Fn(&mut Value)) -> Vec<u8> {
        let map = |value: Value| {
            let pair = |category: &Category| (category.word().to_owned(), value.clone());
            Category::of_api().iter().map(pair).collect::<serde_json::Map<_, _>>()
        };
        let result = json!({"flagged": false, "categories": map(json!(false)), "category_scores": map(json!(0.01))});
        let mut answer = json!({"id": "modr-1", "model": "m", "results": [result]});
        change(&mut answer);
        answer.to_string().into_bytes()
    }

    /// Promise: an answer that is empty, half or nonsense is no verdict.
    #[test]
    fn a_lie_is_no_opinion() {
        let good = read(&answer(|_| {}), 1).expect("an opinion");
        assert_eq!((good[0].scores.len(), good[0].flagged.len()), (13, 0));
        let hate = |a: &mut Value| {
            a["results"][0]["flagged"] = json!(true);
            a["results"][0]["categories"]["hate"] = json!(true);
        };
        assert_eq!(read(&answer(hate), 1).expect("an opinion")[0].flagged, [Category::Hate]);
        let lies: [fn(&mut Value); 11] = [
            |a| *a = json!({}),
            |a| a["results"] = json!([]),
            |a| a["results"][0] = json!({}),
            |a| a["results"] = json!([a["results"][0], a["results"][0]]),
            |a| a["results"][0]["flagged"] = json!(true),
            |a| a["results"][0]["categories"]["hate"] = json!(true),
            |a| a["results"][0]["category_scores"]["hate"] = json!(1.5),
            |a| a["results"][0]["category_scores"]["hate"] = json!(-0.1),
            |a| a["results"][0]["category_scores"]["hate"] = json!("low"),
            |a| {
                a["results"][0]["category_scores"]
                    .as_object_mut()
                    .map(|m| m.remove("sexual/minors"));
            },
            |a| a["results"][0]["categories"]["sexual_minors"] = json!(true),
        ];
        for (n, lie) in lies.into_iter().enumerate() {
            assert!(read(&answer(lie), 1).is_err(), "{n}");
        }
        assert!(read(b"", 1).is_err() && read(b"<html>", 1).is_err());
        assert!(read(b"{\"results\":[{\"flagged\":NaN}]}", 1).is_err());
    }
}
