//! A job as the API shows it, and the lines in which the command line shows it.

use super::table::shortened;
use serde::Deserialize;
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

/// The parts of the API's `Video` that the command line uses; the rest is printed as it came.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Video {
    /// `video_…`.
    pub id: String,
    /// `queued`, `in_progress`, `completed` or `failed`.
    pub status: String,
    /// Whole percent.
    pub progress: u64,
    /// What is being done now.
    pub stage: Option<String>,
    /// Jobs ahead.
    pub queue_position: Option<u64>,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds.
    pub completed_at: Option<u64>,
    /// Unix seconds.
    pub estimated_completion_at: Option<u64>,
    /// Model as asked.
    pub model: String,
    /// Prompt as asked.
    pub prompt: String,
    /// `WxH`.
    pub size: String,
    /// Length.
    pub seconds: String,
    /// Why it failed.
    pub error: Option<Failure>,
    /// Advice.
    pub warnings: Vec<Failure>,
    /// The published files.
    pub assets: Value,
}

/// A code and a sentence.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// A stable word.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Video {
    /// Reads the API's answer; keys that are missing are empty.
    pub fn of(value: &Value) -> anyhow::Result<Video> {
        Ok(Video::deserialize(value)?)
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "cancelled")
    }

    /// What it does, in a few words.
    pub fn doing(&self) -> String {
        match (self.status.as_str(), &self.stage, self.queue_position) {
            ("queued", _, Some(0)) => "queued, next".to_owned(),
            ("queued", _, Some(ahead)) => format!("queued, {ahead} ahead"),
            ("in_progress", Some(stage), _) => stage.replace('_', " "),
            ("failed", _, _) => match &self.error {
                Some(error) if error.code == "cancelled" => "cancelled".to_owned(),
                Some(error) => format!("failed: {}", error.code),
                None => "failed".to_owned(),
            },
            (status, _, _) => status.replace('_', " "),
        }
    }

    /// Head of [`Video::row`].
    pub fn head() -> Vec<String> {
        ["ID", "STATE", "%", "SIZE", "SEC", "AGE", "PROMPT"].map(str::to_owned).to_vec()
    }

    /// The job in one row of a table.
    pub fn row(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.doing(),
            self.progress.to_string(),
            self.size.clone(),
            self.seconds.clone(),
            span(now().saturating_sub(self.created_at)),
            shortened(&self.prompt, 48),
        ]
    }
}

/// Unix seconds by this machine's clock.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A length of time in its largest unit: `42s`, `7m`, `3h`, `12d`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn states_are_told_in_words() {
        let of = |value| Video::of(&value).expect("reads").doing();
        assert_eq!(of(json!({"status": "queued", "queue_position": 2})), "queued, 2 ahead");
        assert_eq!(
            of(json!({"status": "in_progress", "stage": "encoding_prompt"})),
            "encoding prompt"
        );
        assert_eq!(of(json!({"status": "failed", "error": {"code": "cancelled"}})), "cancelled");
    }

    #[test]
    fn spans_are_short() {
        assert_eq!([5, 300, 7_300, 200_000].map(span), ["5s", "5m", "2h", "2d"]);
    }
}
