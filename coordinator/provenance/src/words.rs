//! The words of a manifest of ours: labels, and the definition that [`Terms`] stand for.
//!
//! Writer and signer both start from here, so they cannot drift apart.

use ciborium::Value as Cbor;
use serde_json::{Value, json};
use zoetrope_protocol::provenance::{Origin, Terms};

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

/// The content of the assertion [`HARD_BINDING`], with this hash over the file. It leaves out what the library leaves out of
/// a film by itself, and nothing else: the manifest, and boxes that hold neither picture nor sound.
pub fn hard_binding(hash: [u8; 32]) -> Cbor {
    // The kind of box that has a manifest.
    let manifest = vec![
        0xd8, 0xfe, 0xc3, 0xd6, 0x1b, 0x0e, 0x48, 0x3c, 0x92, 0x97, 0x58, 0x28, 0x87, 0x7e, 0xc4,
        0x81,
    ];
    let manifest = cbor_map([("offset", Cbor::from(8)), ("value", Cbor::Bytes(manifest))]);
    let manifest = [("xpath", Cbor::from("/uuid")), ("data", Cbor::Array(vec![manifest]))];
    let others = ["/ftyp", "/mfra", "/free", "/skip"];
    let others = others.map(|path| cbor_map([("xpath", Cbor::from(path))]));
    let left_out = std::iter::once(cbor_map(manifest)).chain(others).collect();
    cbor_map([
        ("exclusions", Cbor::Array(left_out)),
        ("alg", Cbor::from("sha256")),
        ("hash", Cbor::Bytes(hash.to_vec())),
        ("name", Cbor::from("jumbf manifest")),
    ])
}

/// The content of the assertion [`ACTIONS`]. `ingredient`: the hash of the assertion about what an edited clip was made from.
pub fn actions(terms: &Terms, ingredient: Option<[u8; 32]>) -> Cbor {
    let action = |name: &str| ("action", Cbor::from(name));
    let made = || ("digitalSourceType", Cbor::from(SOURCE_TYPE));
    let parent = || {
        let url = Cbor::from(format!("self#jumbf=c2pa.assertions/{INGREDIENT}"));
        let hash = Cbor::Bytes(ingredient.map_or_else(Vec::new, |hash| hash.to_vec()));
        let parent = cbor_map([("url", url), ("hash", hash)]);
        ("parameters", cbor_map([("ingredients", Cbor::Array(vec![parent]))]))
    };
    let actions = match terms.origin {
        Origin::Generated => vec![cbor_map([action("c2pa.created"), made()])],
        Origin::Edited { .. } => vec![
            cbor_map([action("c2pa.opened"), parent()]),
            cbor_map([action("c2pa.edited"), parent(), made()]),
        ],
    };
    cbor_map([("actions", Cbor::Array(actions))])
}

fn cbor_map<const N: usize>(pairs: [(&str, Cbor); N]) -> Cbor {
    Cbor::Map(pairs.into_iter().map(|(key, value)| (Cbor::from(key), value)).collect())
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
