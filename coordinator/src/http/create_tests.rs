//! The rules of a create's values, as tables.

use super::*;
use crate::http::Code;
use crate::http::kind::{self, Kind};
use crate::http::node::{Node, join};

const NOW: Millis = Millis(1_800_000_000_000);

fn models() -> Models {
    Models::with(&[]).unwrap()
}

fn run(node: Node) -> Result<JobSpec, ApiError> {
    let models = models();
    let named = [(TenantId(1), Class::Priority)].into();
    let classes = &Classes { most: Class::Default, named };
    let about = Circumstances { tenant: TenantId(1), classes, models: &models, seed: 42, now: NOW };
    check(read(Fields::of(node)?)?, about)
}

fn json(text: &str) -> Result<JobSpec, ApiError> {
    run(serde_json::from_str(text).unwrap())
}

fn form(parts: &[(&str, &str)]) -> Result<JobSpec, ApiError> {
    run(join(parts.iter().map(|(n, t)| ((*n).to_owned(), Node::Form((*t).to_owned()))).collect()))
}

/// A body of a prompt and this field.
fn with(field: &str) -> Result<JobSpec, ApiError> {
    json(&format!(r#"{{"prompt":"a ball",{field}}}"#))
}

#[test]
fn a_prompt_alone_gets_all_defaults() {
    let spec = json(r#"{"prompt":"a red ball"}"#).unwrap();
    assert_eq!((spec.asked_model.as_str(), spec.render.model.as_str()), ("sora-2", "toybox"));
    assert_eq!(spec.render.deliver.to_string(), "288x512");
    assert_eq!((spec.render.frames, spec.render.seed, spec.render.steps), (240, 42, 4));
    assert!(spec.render.audio && spec.warnings.is_empty());
    assert_eq!(spec.class, Class::Default);
    assert_eq!(spec.expires_after, ExpiresAfter { from_completion: true, seconds: 604_800 });
}

/// The kinds of fields, by which requests are compared, are those of their readers.
#[test]
fn null_in_a_form_is_absence_where_the_kind_says_so() {
    let ask = |parts: &[(&str, &str)]| {
        let node = |text: &str| Node::Form(text.to_owned());
        let parts = parts.iter().map(|(name, text)| ((*name).to_owned(), node(text)));
        read(Fields::of(join(parts.collect())).unwrap()).unwrap()
    };
    let absent = ask(&[("prompt", "x")]);
    for name in FIELDS.into_iter().filter(|name| *name != "prompt") {
        let is_absent = ask(&[("prompt", "x"), (name, "null")]) == absent;
        assert_eq!(is_absent, kind::of(name) != Kind::Text, "{name}");
    }
}

#[test]
fn what_is_sent_counts_in_either_form() {
    let body = r#"{"prompt":"a red ball","model":"toybox","seconds":4,"size":"1280x720","seed":7,
        "generate_audio":false,"service_tier":"flex","metadata":{"a":"b"},"safety_identifier":"u",
        "expires_after":{"anchor":"created_at","seconds":3600},"deadline_at":1800003600,
        "num_inference_steps":2,"resize_mode":"pad"}"#;
    let parts = [
        ("prompt", "a red ball"),
        ("model", "toybox"),
        ("seconds", "4"),
        ("size", "1280x720"),
        ("seed", "7"),
        ("generate_audio", "false"),
        ("service_tier", "flex"),
        ("metadata[a]", "b"),
        ("safety_identifier", "u"),
        ("expires_after[anchor]", "created_at"),
        ("expires_after[seconds]", "3600"),
        ("deadline_at", "1800003600"),
        ("num_inference_steps", "2"),
        ("resize_mode", "pad"),
    ];
    let spec = json(body).unwrap();
    assert_eq!(spec, form(&parts).unwrap());
    assert_eq!((spec.render.canvas.to_string(), spec.render.frames), ("512x288".to_owned(), 96));
    assert_eq!(spec.deadline, Some(Millis(1_800_003_600_000)));
    assert!(!spec.render.audio);
}

/// Each row: a field, the code and the param that it gets.
#[test]
fn what_cannot_be_is_refused_with_its_code_and_param() {
    let long = format!(r#""safety_identifier":"{}""#, "x".repeat(129));
    let many: Vec<String> = (0..17).map(|n| format!(r#""k{n}":"v""#)).collect();
    let many = format!(r#""metadata":{{{}}}"#, many.join(","));
    let url = format!(r#""input_reference":{{"image_url":"data:{}"}}"#, "x".repeat(20_971_516));
    for (field, code, param) in [
        (r#""promt":"x""#, "unknown_parameter", "promt"),
        (r#""webhook_url":"https://x""#, "unknown_parameter", "webhook_url"),
        (r#""model":"sora-3""#, "invalid_value", "model"),
        (r#""model":7"#, "invalid_type", "model"),
        (r#""seconds":"6""#, "invalid_value", "seconds"),
        (r#""seconds":"08""#, "invalid_value", "seconds"),
        (r#""seconds":8.0"#, "invalid_type", "seconds"),
        (r#""seconds":99999999999999999999"#, "invalid_value", "seconds"),
        (r#""size":"640x360""#, "invalid_value", "size"),
        (r#""size":"0720x1280""#, "invalid_value", "size"),
        (r#""seed":-1"#, "invalid_value", "seed"),
        (r#""seed":9007199254740992"#, "invalid_value", "seed"),
        (r#""seed":1000000000000000000000000000000"#, "invalid_value", "seed"),
        (r#""seed":"7""#, "invalid_type", "seed"),
        (r#""generate_audio":"true""#, "invalid_type", "generate_audio"),
        (r#""num_inference_steps":1"#, "invalid_value", "num_inference_steps"),
        (r#""num_inference_steps":9"#, "invalid_value", "num_inference_steps"),
        (r#""resize_mode":"stretch""#, "invalid_value", "resize_mode"),
        (r#""service_tier":"gold""#, "invalid_value", "service_tier"),
        (r#""deadline_at":1831622401"#, "invalid_value", "deadline_at"),
        (r#""deadline_at":1800003600000"#, "invalid_value", "deadline_at"),
        (r#""deadline_at":18446744073709551615"#, "invalid_value", "deadline_at"),
        (r#""deadline_at":1000000000000000000000000000000"#, "invalid_value", "deadline_at"),
        (r#""metadata":[]"#, "invalid_type", "metadata"),
        (r#""metadata":{"a":1}"#, "invalid_type", "metadata.a"),
        (many.as_str(), "invalid_value", "metadata"),
        (long.as_str(), "invalid_value", "safety_identifier"),
        (
            r#""expires_after":{"seconds":3600}"#,
            "missing_required_parameter",
            "expires_after.anchor",
        ),
        (
            r#""expires_after":{"anchor":"created_at","seconds":3599}"#,
            "invalid_value",
            "expires_after.seconds",
        ),
        (
            r#""expires_after":{"anchor":"now","seconds":3600}"#,
            "invalid_value",
            "expires_after.anchor",
        ),
        (r#""expires_after":{"days":1}"#, "unknown_parameter", "expires_after.days"),
        (r#""input_reference":"https://x/y.png""#, "invalid_type", "input_reference"),
        (r#""input_reference":{"image_url":"ftp://x"}"#, "invalid_value", "input_reference"),
        (
            r#""input_reference":{"image_url":"https://x/y.png"}"#,
            "unsupported_parameter",
            "input_reference",
        ),
        (
            r#""input_reference":{"image_url":"a","file_id":"b"}"#,
            "invalid_value",
            "input_reference",
        ),
        (url.as_str(), "invalid_value", "input_reference"),
        (r#""characters":[{"id":"char_1"}]"#, "unsupported_parameter", "characters"),
        (r#""characters":"x""#, "invalid_type", "characters"),
        (r#""negative_prompt":"rain""#, "unsupported_parameter", "negative_prompt"),
        (r#""negative_prompt":7"#, "invalid_type", "negative_prompt"),
        (r#""shots":[{"prompt":"a","seconds":"4"}]"#, "unsupported_parameter", "shots"),
        (r#""loop":true"#, "unsupported_parameter", "loop"),
        (r#""guidance_scale":2"#, "unsupported_parameter", "guidance_scale"),
    ] {
        let error = with(field).expect_err(&field[..field.len().min(80)]);
        let got = (error.code.map_or("null", Code::word), error.param.as_deref().unwrap_or("null"));
        assert_eq!(got, (code, param), "{field:.80}");
        assert_eq!(error.status.as_u16(), 400);
    }
}

/// A deadline of less than a year is taken; the error about another one names the range.
#[test]
fn a_deadline_is_at_most_a_year_away() {
    let last = with(r#""deadline_at":1831622400"#).unwrap();
    assert_eq!(last.deadline, Some(Millis(1_831_622_400_000)));
    assert_eq!(with(r#""deadline_at":1"#).unwrap().deadline, Some(Millis(1_000)));
    for past in ["0", "-1", "-99999999999999999999999999"] {
        let spec = with(&format!(r#""deadline_at":{past}"#)).expect("it cannot be kept, like 1");
        assert_eq!(spec.deadline, Some(Millis(0)), "{past}");
    }
    let message = with(r#""deadline_at":1831622401"#).unwrap_err().message;
    assert!(message.contains("(1800000000 to 1831622400)"), "{message}");
}

/// `null` is absence; so is what asks for nothing.
#[test]
fn nothing_asked_is_nothing_refused() {
    for field in [
        r#""input_reference":null"#,
        r#""seconds":null"#,
        r#""characters":[]"#,
        r#""loop":false"#,
        r#""partial_images":0"#,
        r#""metadata":{}"#,
        r#""generate_audio":true"#,
    ] {
        assert!(with(field).is_ok(), "{field}");
    }
    assert!(form(&[("prompt", "ball"), ("seed", "null"), ("input_reference", "null")]).is_ok());
}

#[test]
fn a_prompt_has_one_to_32000_characters() {
    let prompt = |text: &str| json(&format!(r#"{{"prompt":"{text}"}}"#));
    assert!(prompt(&"\u{1f3b9}".repeat(32_000)).is_ok());
    assert_eq!(prompt(&"x".repeat(32_001)).unwrap_err().code, Some(Code::InvalidValue));
    assert_eq!(prompt("").unwrap_err().code, Some(Code::InvalidValue));
    let missing = json("{}").unwrap_err();
    assert_eq!(&*missing.message, "Missing required parameter: 'prompt'.");
    let misspelt = json(r#"{"promt":"x"}"#).unwrap_err();
    assert_eq!(&*misspelt.message, "Unknown parameter: 'promt'.");
}

#[test]
fn the_supported_values_are_those_of_the_model() {
    let message = with(r#""size":"640x360""#).unwrap_err().message;
    assert!(message.starts_with("Invalid value: '640x360'. Supported values are: '160x288', "));
    assert!(message.ends_with("'1024x1792', and '1792x1024'."), "{message}");
}

#[test]
fn advice_is_given_only_where_no_word_is_known() {
    for (prompt, warned) in [
        ("A calico cat plays the piano", true),
        ("A RED cat", false),
        ("two balls", false),
        ("sunset", false),
        ("\u{732b}", true),
        ("in a is", true),
    ] {
        let spec = json(&format!(r#"{{"prompt":"{prompt}"}}"#)).unwrap();
        assert_eq!(spec.warnings.len(), usize::from(warned), "{prompt}");
    }
}
