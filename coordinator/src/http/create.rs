//! What a create asks for: the body's fields become an [`Ask`], and an [`Ask`] that its model can
//! honour becomes the spec of a job. Pure, but for the seed, which the caller of [`check`] chooses.

use super::envelope::ApiError;
use super::fields::{Fields, Media};
use super::node::FileFacts;
use crate::config::Classes;
use crate::models::{Model, Models};
use zoetrope_protocol::clip::{FPS, Size};
use zoetrope_protocol::id::{Millis, TenantId};
use zoetrope_protocol::job::{Class, ExpiresAfter, JobSpec, RenderSpec, Warning};
use zoetrope_protocol::moderation::Audience;

/// The model of a request that names none.
pub const MODEL: &str = "sora-2";
/// Characters of a prompt.
const PROMPT_MAX: usize = 32_000;
/// Characters of a data URL.
const IMAGE_URL_MAX: usize = 20_971_520;
/// Seeds are exact in a JSON number of any client.
const SEED_MAX: i128 = (1 << 53) - 1;
/// Pairs of metadata, characters of a key and of a value.
const METADATA_MAX: (usize, usize, usize) = (16, 64, 512);
/// Characters of a safety identifier.
const SAFETY_MAX: usize = 128;
/// Seconds that assets may live.
const LIFETIME: std::ops::RangeInclusive<i128> = 3600..=2_592_000;
/// Seconds from now to the latest deadline: a year. A time in milliseconds is far behind that.
const DEADLINE_MAX: i128 = 366 * 24 * 3600;
/// Seconds that assets live if the caller does not say.
const LIFETIME_DEFAULT: u32 = 604_800;

/// Every field that create knows.
pub const FIELDS: [&str; 25] = [
    "prompt",
    "model",
    "seconds",
    "size",
    "seed",
    "num_inference_steps",
    "generate_audio",
    "resize_mode",
    "service_tier",
    "deadline_at",
    "metadata",
    "safety_identifier",
    "audience",
    "expires_after",
    "input_reference",
    "characters",
    "negative_prompt",
    "audio_prompt",
    "last_frame",
    "reference_images",
    "shots",
    "loop",
    "guidance_scale",
    "enhance_prompt",
    "partial_images",
];

/// A create whose fields have the right types.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    prompt: String,
    model: Option<String>,
    seconds: Option<String>,
    size: Option<String>,
    seed: Option<i128>,
    steps: Option<i128>,
    audio: Option<bool>,
    resize_mode: Option<String>,
    tier: Option<String>,
    deadline: Option<i128>,
    metadata: Vec<(String, String)>,
    safety_identifier: Option<String>,
    audience: Option<String>,
    expires_after: Option<Lifetime>,
    /// Fields that were sent and that no model honours yet.
    beyond: Vec<&'static str>,
}

/// `expires_after` as it was sent.
#[derive(Clone, Debug, PartialEq)]
struct Lifetime {
    anchor: Option<String>,
    seconds: Option<i128>,
}

/// What a check needs to know beside the request.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// Whose job it will be.
    pub tenant: TenantId,
    /// What it may ask for.
    pub classes: &'a Classes,
    /// The table of models.
    pub models: &'a Models,
    /// The seed, if the request has none.
    pub seed: u64,
    /// The time.
    pub now: Millis,
}

/// Reads the fields of a create.
///
/// # Errors
/// `unknown_parameter`, `missing_required_parameter`, `invalid_type`, `invalid_input_media`;
/// `invalid_value` where a field has two forms at once.
pub fn read(mut fields: Fields) -> Result<Ask, ApiError> {
    fields.only(&FIELDS)?;
    Ok(Ask {
        prompt: fields.required_text("prompt")?,
        model: fields.text("model")?,
        seconds: fields.text_or_whole("seconds")?,
        size: fields.text("size")?,
        seed: fields.whole("seed")?,
        steps: fields.whole("num_inference_steps")?,
        audio: fields.boolean("generate_audio")?,
        resize_mode: fields.text("resize_mode")?,
        tier: fields.text("service_tier")?,
        deadline: fields.whole("deadline_at")?,
        metadata: fields.pairs("metadata")?.unwrap_or_default(),
        safety_identifier: fields.text("safety_identifier")?,
        audience: fields.text("audience")?,
        expires_after: lifetime(&mut fields)?,
        beyond: beyond(&mut fields)?,
    })
}

fn lifetime(fields: &mut Fields) -> Result<Option<Lifetime>, ApiError> {
    let Some(mut inner) = fields.object("expires_after")? else { return Ok(None) };
    inner.only(&["anchor", "seconds"])?;
    Ok(Some(Lifetime { anchor: inner.text("anchor")?, seconds: inner.whole("seconds")? }))
}

/// Checks the types of what no model honours yet, so that the caller hears of the nearer mistake
/// first.
fn beyond(fields: &mut Fields) -> Result<Vec<&'static str>, ApiError> {
    let mut sent = Vec::new();
    let mut note = |name: &'static str, is_sent: bool| {
        if is_sent {
            sent.push(name);
        }
    };
    for name in ["input_reference", "last_frame"] {
        let media = fields.media(name)?;
        note(name, media.is_some());
        media.map_or(Ok(()), |media| picture(name, &media))?;
    }
    for name in ["characters", "reference_images", "shots"] {
        // An empty array asks for nothing.
        note(name, fields.array(name)?.is_some_and(|items| !items.is_empty()));
    }
    for name in ["negative_prompt", "audio_prompt"] {
        note(name, fields.text(name)?.is_some());
    }
    for name in ["loop", "enhance_prompt"] {
        // `false` is what every model does.
        note(name, fields.boolean(name)? == Some(true));
    }
    note("guidance_scale", fields.number("guidance_scale")?.is_some());
    note("partial_images", fields.whole("partial_images")?.is_some_and(|images| images != 0));
    Ok(sent)
}

/// Refuses what is surely no picture.
fn picture(name: &str, media: &Media) -> Result<(), ApiError> {
    match media {
        Media::File(file) if is_picture(file) => Ok(()),
        Media::File(_) => Err(ApiError::bad_media(
            name,
            format!("The file in '{name}' is no JPEG, PNG or WebP picture."),
        )),
        Media::FileId(_) => Ok(()),
        Media::ImageUrl(url) => {
            if url.chars().count() > IMAGE_URL_MAX {
                let message =
                    format!("'{name}.image_url' has more than {IMAGE_URL_MAX} characters.");
                return Err(ApiError::invalid(name, message));
            }
            let known = ["http://", "https://", "data:"];
            let start = url.get(..8).unwrap_or(url).to_ascii_lowercase();
            if known.iter().any(|scheme| start.starts_with(scheme)) {
                return Ok(());
            }
            let message = format!("'{name}.image_url' must be an http, https or data URL.");
            Err(ApiError::invalid(name, message))
        }
    }
}

fn is_picture(file: &FileFacts) -> bool {
    let head = file.head.as_slice();
    head.starts_with(&[0xff, 0xd8, 0xff])
        || head.starts_with(b"\x89PNG\r\n\x1a\n")
        || (head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP"))
}

/// For whom the clip is to be: as the request says, or for all.
///
/// # Errors
/// `invalid_value`.
pub fn audience(ask: &Ask) -> Result<Audience, ApiError> {
    let asked = ask.audience.as_deref().unwrap_or(Audience::All.word());
    let words = Audience::ALL.map(|audience| audience.word().to_owned());
    asked.parse().map_err(|()| ApiError::not_among("audience", asked, &words))
}

/// Checks the values by the model's table and fills in all defaults.
///
/// # Errors
/// `invalid_value`, `unsupported_parameter`.
pub fn check(ask: Ask, about: Circumstances<'_>) -> Result<JobSpec, ApiError> {
    if !(1..=PROMPT_MAX).contains(&ask.prompt.chars().count()) {
        let message = format!("Invalid value: 'prompt' must have 1 to {PROMPT_MAX} characters.");
        return Err(ApiError::invalid("prompt", message));
    }
    let asked_model = ask.model.clone().unwrap_or_else(|| MODEL.to_owned());
    let model = about
        .models
        .find(&asked_model)
        .ok_or_else(|| ApiError::not_among("model", &asked_model, &about.models.names()))?;
    if let Some(field) = ask.beyond.first() {
        return Err(ApiError::unsupported(field, &asked_model));
    }
    let expires_after = expires_after(&ask)?;
    one_of("resize_mode", ask.resize_mode.as_deref(), &["crop", "pad", "strict"])?;
    metadata(&ask.metadata)?;
    if ask.safety_identifier.as_ref().is_some_and(|id| id.chars().count() > SAFETY_MAX) {
        let message = format!("'safety_identifier' has more than {SAFETY_MAX} characters.");
        return Err(ApiError::invalid("safety_identifier", message));
    }
    Ok(JobSpec {
        tenant: about.tenant,
        class: about.classes.allowed(about.tenant, class(ask.tier.as_deref())?),
        deadline: ask.deadline.map(|at| deadline(at, about.now)).transpose()?,
        expires_after,
        warnings: warnings(&ask.prompt, model),
        render: render(&ask, &asked_model, model, about.seed)?,
        metadata: ask.metadata,
        safety_identifier: ask.safety_identifier,
        asked_model,
    })
}

fn render(ask: &Ask, asked_model: &str, model: &Model, seed: u64) -> Result<RenderSpec, ApiError> {
    let manifest = &model.manifest;
    let seconds = ask.seconds.as_deref().unwrap_or(&manifest.default_seconds);
    let whole =
        seconds.parse::<u32>().ok().filter(|_| manifest.seconds.iter().any(|s| s == seconds));
    let whole = whole.ok_or_else(|| ApiError::not_among("seconds", seconds, &manifest.seconds))?;
    let (deliver, canvas) = sizes(ask.size.as_deref().unwrap_or(&manifest.default_size), model)?;
    if ask.audio == Some(true) && !manifest.generate_audio {
        return Err(ApiError::unsupported("generate_audio", asked_model));
    }
    Ok(RenderSpec {
        model: manifest.id.clone(),
        prompt: ask.prompt.clone(),
        canvas,
        deliver,
        frames: whole * FPS,
        seed: match ask.seed {
            None => seed,
            Some(value) => {
                u64::try_from(value).ok().filter(|_| value <= SEED_MAX).ok_or_else(|| {
                    ApiError::invalid("seed", format!("'seed' must be 0 to {SEED_MAX}."))
                })?
            }
        },
        steps: steps(ask.steps, model)?,
        audio: ask.audio.unwrap_or(manifest.generate_audio),
    })
}

/// The size to deliver and the canvas to render.
fn sizes(asked: &str, model: &Model) -> Result<(Size, Size), ApiError> {
    let listed = || {
        let scaled = model.scaled_sizes().into_iter().map(|size| size.to_string());
        model.manifest.sizes.iter().cloned().chain(scaled).collect::<Vec<_>>()
    };
    asked
        .parse::<Size>()
        .ok()
        .and_then(|size| Some((size, model.canvas_of(size)?)))
        .ok_or_else(|| ApiError::not_among("size", asked, &listed()))
}

fn steps(asked: Option<i128>, model: &Model) -> Result<u32, ApiError> {
    let steps = model.manifest.num_inference_steps;
    match asked {
        None => Ok(steps.default),
        Some(value) => u32::try_from(value)
            .ok()
            .filter(|value| (steps.min..=steps.max).contains(value))
            .ok_or_else(|| {
                let limits = format!("{} to {}", steps.min, steps.max);
                let message = format!("Invalid value: 'num_inference_steps' must be {limits}.");
                ApiError::invalid("num_inference_steps", message)
            }),
    }
}

fn class(tier: Option<&str>) -> Result<Class, ApiError> {
    one_of("service_tier", tier, &["auto", "default", "flex", "priority"])?;
    Ok(match tier {
        Some("flex") => Class::Flex,
        Some("priority") => Class::Priority,
        _ => Class::Default,
    })
}

fn one_of(param: &str, value: Option<&str>, allowed: &[&str]) -> Result<(), ApiError> {
    match value {
        Some(value) if !allowed.contains(&value) => {
            let allowed: Vec<String> = allowed.iter().map(|word| (*word).to_owned()).collect();
            Err(ApiError::not_among(param, value, &allowed))
        }
        _ => Ok(()),
    }
}

fn metadata(pairs: &[(String, String)]) -> Result<(), ApiError> {
    let (count, key, value) = METADATA_MAX;
    let fits = |(k, v): &(String, String)| k.chars().count() <= key && v.chars().count() <= value;
    if pairs.len() <= count && pairs.iter().all(fits) {
        return Ok(());
    }
    Err(ApiError::invalid(
        "metadata",
        format!(
            "'metadata' has at most {count} pairs, keys of {key} and values of {value} characters."
        ),
    ))
}

fn expires_after(ask: &Ask) -> Result<ExpiresAfter, ApiError> {
    let otherwise = ExpiresAfter { from_completion: true, seconds: LIFETIME_DEFAULT };
    ask.expires_after.as_ref().map_or(Ok(otherwise), checked_lifetime)
}

/// Reads and checks `expires_after`.
///
/// # Errors
/// `missing_required_parameter`, `invalid_type`, `invalid_value`.
pub fn optional_lifetime(fields: &mut Fields) -> Result<Option<ExpiresAfter>, ApiError> {
    lifetime(fields)?.as_ref().map(checked_lifetime).transpose()
}

fn checked_lifetime(Lifetime { anchor, seconds }: &Lifetime) -> Result<ExpiresAfter, ApiError> {
    let anchor = anchor.as_deref().ok_or_else(|| ApiError::missing("expires_after.anchor"))?;
    one_of("expires_after.anchor", Some(anchor), &["created_at", "completed_at"])?;
    let seconds = seconds.ok_or_else(|| ApiError::missing("expires_after.seconds"))?;
    let seconds = u32::try_from(seconds).ok().filter(|s| LIFETIME.contains(&i128::from(*s)));
    let (least, most) = (LIFETIME.start(), LIFETIME.end());
    let message = format!("'expires_after.seconds' must be {least} to {most}.");
    Ok(ExpiresAfter {
        from_completion: anchor == "completed_at",
        seconds: seconds.ok_or_else(|| ApiError::invalid("expires_after.seconds", message))?,
    })
}

/// Puts what a caller wrote back into the spec of its job, from the request that made it: a deleted job has it no more.
pub fn say_again(ask: Ask, models: &Models, spec: &mut JobSpec) {
    spec.warnings =
        models.find(&spec.asked_model).map_or_else(Vec::new, |model| warnings(&ask.prompt, model));
    spec.render.prompt = ask.prompt;
    spec.metadata = ask.metadata;
    spec.safety_identifier = ask.safety_identifier;
}

/// Advice about a prompt that has no word of the model's world, where that is small.
fn warnings(prompt: &str, model: &Model) -> Vec<Warning> {
    let known: std::collections::BTreeSet<String> =
        model.manifest.world.values().flatten().flat_map(|phrase| words(phrase)).collect();
    if known.is_empty() || words(prompt).any(|word| known.contains(&word)) {
        return Vec::new();
    }
    let list = |key: &str| model.manifest.world.get(key).map_or(String::new(), |w| w.join(", "));
    vec![Warning {
        code: "prompt_outside_world".to_owned(),
        param: Some("prompt".to_owned()),
        message: format!(
            "The model '{}' shows a small world only ({}; {}); the prompt has none of its words.",
            model.manifest.id,
            list("shapes"),
            list("colours"),
        ),
    }]
}

/// The words of a text, in lower case and without a plural's `s`; those of one or two letters say
/// nothing.
fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.chars().count() > 2).map(|word| {
        let lower = word.to_lowercase();
        lower.strip_suffix('s').map_or(lower.clone(), str::to_owned)
    })
}

/// A deadline within a year. One that has passed is well-formed: whoever asks for it hears that it
/// cannot be kept, unless an idempotency key finds the video that was made in time.
fn deadline(seconds: i128, now: Millis) -> Result<Millis, ApiError> {
    let now = i128::from(now.seconds());
    let latest = now + DEADLINE_MAX;
    // All that is before 1970 has passed as much.
    let fits = u64::try_from(seconds.max(0)).ok().filter(|_| seconds <= latest);
    fits.map(|at| Millis(at * 1000)).ok_or_else(|| {
        let message = format!(
            "Invalid value: 'deadline_at' must be a Unix time in seconds, from now to a year from \
             now ({now} to {latest})."
        );
        ApiError::invalid("deadline_at", message)
    })
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;
