//! `POST /moderations`: the farm's policy for others. Texts and images are judged as those of jobs are.

use super::Door;
use super::envelope::ApiError;
use super::fields::Fields;
use super::node::Node;
use super::once;
use super::route::{self, Caller};
use crate::moderation::{Asker, Unjudged};
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use zoetrope_moderation::EngineError;
use zoetrope_moderation::image_in::REQUEST_FRAMES_MAX;
use zoetrope_protocol::id::TenantId;
use zoetrope_protocol::moderation::{Audience, Category, SCORE_ONE, Verdict};

/// Upstream's names. Those of the second half take no images.
const MODELS: [&str; 4] = [
    "omni-moderation-latest",
    "omni-moderation-2024-09-26",
    "text-moderation-latest",
    "text-moderation-stable",
];
/// Strings or parts of one request.
const INPUTS_MAX: usize = 64;
/// Images of one request: each is decoded, and its frames are seen by three nets (at most `REQUEST_FRAMES_MAX` in all).
const IMAGES_MAX: usize = 8;
/// Characters of one string, as of a prompt.
const TEXT_MAX: usize = 32_000;
/// Characters of a data URL.
const URL_MAX: usize = 20_971_520;
/// For whom the answers are judged: callers decide by the scores what their own audience needs.
const AUDIENCE: Audience = Audience::Adult;

/// What is to be judged.
enum Input {
    /// Strings, each with a result of its own.
    Each(Vec<String>),
    /// Parts with one result.
    Together { texts: Vec<String>, images: Vec<(String, Vec<u8>)> },
}

/// Judges texts and images.
///
/// # Errors
/// 400 for what cannot be judged, and `moderation_blocked` for an image with a face; 503 without a verdict.
pub async fn create(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let tenant = caller.tenant;
    let mut fields = once::fields(&mut request);
    fields.only(&["input", "model"])?;
    let model = fields.text("model")?.unwrap_or_else(|| MODELS[0].to_owned());
    if !MODELS.contains(&model.as_str()) {
        return Err(ApiError::not_among("model", &model, &MODELS.map(str::to_owned)));
    }
    let input = input(&mut fields, model.starts_with("text-"))?;
    let results = match input {
        Input::Each(texts) => {
            let mut results = Vec::new();
            for text in texts {
                let verdict = judge_texts(&door, tenant, vec![text]).await?;
                results.push(result(&[(verdict, "text")]));
            }
            results
        }
        Input::Together { texts, images } => {
            let (mut verdicts, mut frames_max) = (Vec::new(), REQUEST_FRAMES_MAX);
            // Faces first: a refused image gets no other answer.
            for (param, bytes) in images {
                let (verdict, seen) = judge_image(&door, tenant, &param, bytes, frames_max).await?;
                frames_max = frames_max.saturating_sub(seen);
                verdicts.push((verdict, "image"));
            }
            if !texts.is_empty() {
                verdicts.push((judge_texts(&door, tenant, texts).await?, "text"));
            }
            vec![result(&verdicts)]
        }
    };
    let id = format!("modr-{:032x}", rand::random::<u128>());
    route::ok(&json!({"id": id, "model": model, "results": results}))
}

fn input(fields: &mut Fields, text_only: bool) -> Result<Input, ApiError> {
    let empty = || ApiError::invalid("input", "Invalid value: 'input' must not be empty.");
    let expected = "a string, an array of strings or an array of parts";
    let nodes = match fields.required("input")? {
        Node::Text(text) | Node::Form(text) => return each(vec![text]),
        Node::List(nodes) => nodes,
        other => return Err(ApiError::wrong_type("input", expected, other.article())),
    };
    if nodes.is_empty() {
        return Err(empty());
    }
    if nodes.len() > INPUTS_MAX {
        let message = format!("Invalid value: 'input' has at most {INPUTS_MAX} elements.");
        return Err(ApiError::invalid("input", message));
    }
    let text = |node: &Node| match node {
        Node::Text(text) | Node::Form(text) => Some(text.clone()),
        _ => None,
    };
    if let Some(texts) = nodes.iter().map(text).collect() {
        return each(texts);
    }
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for (n, node) in nodes.into_iter().enumerate() {
        let param = format!("input[{n}]");
        let Node::Map(pairs) = node else {
            return Err(ApiError::wrong_type(&param, "a part", node.article()));
        };
        let mut part = Fields::nested(format!("{param}."), pairs);
        match part.required_text("type")?.as_str() {
            "text" => {
                part.only(&["type", "text"])?;
                texts.push(checked(&format!("{param}.text"), part.required_text("text")?)?);
            }
            "image_url" if text_only => {
                let message = "Invalid value: the 'text-moderation' models take no images.";
                return Err(ApiError::invalid(&param, message));
            }
            "image_url" => {
                part.only(&["type", "image_url"])?;
                let mut url = part
                    .object("image_url")?
                    .ok_or_else(|| ApiError::missing(&format!("{param}.image_url")))?;
                url.only(&["url"])?;
                let name = format!("{param}.image_url.url");
                images.push((name.clone(), data_url(&name, &url.required_text("url")?)?));
            }
            other => {
                let known = ["text".to_owned(), "image_url".to_owned()];
                return Err(ApiError::not_among(&format!("{param}.type"), other, &known));
            }
        }
    }
    if images.len() > IMAGES_MAX {
        let message = format!("Invalid value: 'input' has at most {IMAGES_MAX} images.");
        return Err(ApiError::invalid("input", message));
    }
    Ok(Input::Together { texts, images })
}

fn each(texts: Vec<String>) -> Result<Input, ApiError> {
    let checked = texts.into_iter().map(|text| checked("input", text));
    checked.collect::<Result<_, _>>().map(Input::Each)
}

fn checked(param: &str, text: String) -> Result<String, ApiError> {
    if (1..=TEXT_MAX).contains(&text.chars().count()) {
        return Ok(text);
    }
    let message = format!("Invalid value: '{param}' must have 1 to {TEXT_MAX} characters.");
    Err(ApiError::invalid(param, message))
}

/// The bytes in a data URL. This farm fetches no addresses for moderation.
fn data_url(param: &str, url: &str) -> Result<Vec<u8>, ApiError> {
    let wrong = |why: &str| ApiError::invalid(param, format!("Invalid value: '{param}' {why}"));
    if url.len() > URL_MAX {
        return Err(wrong(&format!("has more than {URL_MAX} characters.")));
    }
    // Schemes have no case (RFC 3986, 3.1).
    let scheme = url.split_once(':').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("data"));
    let (_, data) = scheme.ok_or_else(|| {
        wrong("must be a data URL: this farm fetches no addresses for moderation.")
    })?;
    let (head, data) = data.split_once(',').ok_or_else(|| wrong("is no whole data URL."))?;
    if !head.to_ascii_lowercase().ends_with(";base64") {
        return Err(wrong("must be a data URL in base64."));
    }
    STANDARD.decode(data.trim()).map_err(|_| wrong("is no valid base64."))
}

async fn judge_texts(
    door: &Door,
    tenant: TenantId,
    texts: Vec<String>,
) -> Result<Verdict, ApiError> {
    door.state
        .desk
        .texts(texts, AUDIENCE, Asker::Door(tenant))
        .await
        .map_err(|error| unjudged("input", &error))
}

/// The verdict on an image of at most so many different frames, and how many it has.
async fn judge_image(
    door: &Door,
    tenant: TenantId,
    param: &str,
    bytes: Vec<u8>,
    frames_max: usize,
) -> Result<(Verdict, usize), ApiError> {
    let judged = door.state.desk.image(bytes, AUDIENCE, frames_max, tenant).await;
    let (verdict, seen) = judged.map_err(|error| unjudged(param, &error))?;
    let face = Category::LikenessUnconsented;
    if verdict.categories.contains(&face) {
        let categories = vec![face.word().to_owned()];
        return Err(ApiError::moderation_blocked(param, "input", categories));
    }
    Ok((verdict, seen))
}

/// What a request is told that has no verdict.
pub fn unjudged(param: &str, error: &Unjudged) -> ApiError {
    match error {
        Unjudged::Engine(error @ EngineError::TooLong(_)) => ApiError::invalid(
            param,
            format!("Invalid value: '{param}' is too long to be moderated in full: {error}."),
        ),
        Unjudged::Engine(EngineError::Image(image)) => {
            ApiError::bad_media(param, format!("'{param}': {image}."))
        }
        Unjudged::Engine(_) | Unjudged::Remote(_) | Unjudged::NotLoaded | Unjudged::Late => {
            tracing::warn!(%error, "a moderation request has no verdict");
            ApiError::moderation_unavailable()
        }
    }
}

/// One result over verdicts of texts or images.
fn result(verdicts: &[(Verdict, &'static str)]) -> Value {
    let (mut categories, mut scores, mut types) = (Map::new(), Map::new(), Map::new());
    let mut flagged = false;
    for category in Category::of_api() {
        let counts = |kind: &str| kind == "text" || category.sees_images();
        let of = verdicts.iter().filter(|(_, kind)| counts(kind));
        let is = of.clone().any(|(verdict, _)| verdict.categories.contains(category));
        let score = of.clone().filter_map(|(verdict, _)| score_of(verdict, *category)).max();
        let mut kinds: Vec<&str> = of.map(|(_, kind)| *kind).collect();
        kinds.sort_unstable_by(|a, b| b.cmp(a));
        kinds.dedup();
        flagged |= is;
        let word = category.word();
        categories.insert(word.to_owned(), is.into());
        scores.insert(word.to_owned(), share(score.unwrap_or(0)).into());
        types.insert(word.to_owned(), kinds.into());
    }
    json!({
        "flagged": flagged,
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": types,
    })
}

fn score_of(verdict: &Verdict, category: Category) -> Option<u16> {
    verdict.scores.iter().find(|(of, _)| *of == category).map(|(_, score)| *score)
}

/// A score of 0 to 1.
pub fn share(score: u16) -> f64 {
    f64::from(score) / f64::from(SCORE_ONE)
}

/// A verdict on all of these kinds at once, as the moderation of a video shows it.
pub fn shown(verdict: &Verdict, kinds: &[&'static str]) -> Value {
    let verdicts: Vec<_> = kinds.iter().map(|kind| (verdict.clone(), *kind)).collect();
    let mut shown = result(&verdicts);
    shown["type"] = "moderation_result".into();
    shown["model"] = format!("zoetrope-policy@sha256:{}", verdict.policy).into();
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::node::join;

    #[test]
    fn the_scheme_of_a_data_url_has_no_case() {
        for head in ["data:image/png;base64", "DATA:image/png;base64", "Data:;BASE64"] {
            assert_eq!(data_url("u", &format!("{head},AQI=")), Ok(vec![1, 2]), "{head}");
        }
        for url in ["https://x/y.png", "data:image/png,x", "data", "dat:;base64,AQI="] {
            assert!(data_url("u", url).is_err(), "{url}");
        }
    }

    /// 1.4, rule 3: arrays of primitives are repeated names in a form.
    #[test]
    fn strings_come_in_json_and_in_forms() {
        let parts = ["a", "b"].map(|text| ("input[]".to_owned(), Node::Form(text.to_owned())));
        let json = serde_json::from_str(r#"{"input":["a","b"]}"#).unwrap();
        for body in [join(parts.to_vec()), json] {
            let mut fields = Fields::of(body).unwrap();
            let read = input(&mut fields, true);
            assert!(matches!(read, Ok(Input::Each(texts)) if texts == ["a", "b"]));
        }
    }
}
