//! The words of a manifest of ours: labels, and the definition that [`Terms`] stand for.
//!
//! Writer and signer both start from here, so they cannot drift apart.

use serde_json::{Value, json};
use zoetrope_protocol::provenance::Terms;

/// The assertion of our own: who made what, by which model, under which policy. It holds what California's
/// SB 942 asks a provider to disclose.
pub const RENDER: &str = "org.zoetrope.render";
/// The soft binding: the marks in picture and sound.
pub const SOFT_BINDING: &str = "c2pa.soft-binding";
/// What was done.
pub const ACTIONS: &str = "c2pa.actions.v2";
/// The hash over the file.
pub const HARD_BINDING: &str = "c2pa.hash.bmff.v3";
/// A clip that this one was made from.
pub const INGREDIENT: &str = "c2pa.ingredient.v3";
/// The source type of a clip that a model made.
pub const SOURCE_TYPE: &str =
    "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia";
/// The claim generator.
pub const GENERATOR: &str = "Zoetrope";
/// The media type of every clip.
pub const FORMAT: &str = "video/mp4";

/// The content of the assertion [`RENDER`].
pub fn render(terms: &Terms) -> Value {
    json!({
        "provider": GENERATOR,
        "system_version": terms.farm,
        "video_id": terms.video,
        "created_at": terms.created.0 / 1_000,
        "model": terms.model,
        "model_license": terms.license,
        "seed": terms.seed,
        "policy_version": terms.policy,
    })
}

/// The contents of the assertions [`SOFT_BINDING`], in the order of the marks.
pub fn soft_bindings(terms: &Terms) -> Vec<Value> {
    use base64::Engine;
    let value = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let binding = |mark: &zoetrope_protocol::provenance::MarkBinding| json!({ "alg": mark.alg, "blocks": [{ "scope": {}, "value": value(&mark.value) }] });
    terms.marks.iter().map(binding).collect()
}

/// The title of a clip's manifest.
pub fn title(terms: &Terms) -> String {
    format!("{}.mp4", terms.video)
}

/// The definition that the library builds a manifest from.
pub fn definition(terms: &Terms) -> Value {
    let mut assertions =
        vec![json!({ "label": RENDER, "data": render(terms), "kind": "Json", "created": true })];
    let marks = soft_bindings(terms).into_iter();
    assertions
        .extend(marks.map(|data| json!({ "label": SOFT_BINDING, "data": data, "created": true })));
    json!({
        "title": title(terms),
        "format": FORMAT,
        "claim_generator_info": [{ "name": GENERATOR, "version": terms.farm }],
        "assertions": assertions,
    })
}
