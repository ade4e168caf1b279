//! Holds a manifest against the terms, before it is signed.
//!
//! The claim names each assertion with its hash. All of them are hashed again here, each must be one that the
//! terms call for, and say exactly that. So a worker cannot have the farm sign anything but the clip that it was
//! ordered to make. Pure.

use crate::jumbf::{self, Superbox};
use crate::{Refusal, words};
use ciborium::Value;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use zoetrope_protocol::mark::SOUND_ALG;
use zoetrope_protocol::provenance::{MANIFEST_BYTES_MAX, Origin, Terms};

/// A claim that says what it must.
#[derive(Debug)]
pub struct Checked<'a> {
    /// The claim's bytes: what is signed.
    pub bytes: &'a [u8],
    /// Their SHA-256.
    pub digest: [u8; 32],
    /// The manifest in front of the signature, and behind it.
    around: [&'a [u8]; 2],
    /// Bytes of the room for the signature.
    pub room: usize,
    /// The hash over the file that the manifest binds.
    pub binding: [u8; 32],
    /// Whether it names a mark of the sound.
    pub names_sound: bool,
}

impl Checked<'_> {
    /// SHA-256 of the manifest with this in the room for the signature: what nobody can change any more, also where neither
    /// the signature nor the hash over the file covers it.
    pub fn sealed(&self, envelope: &[u8]) -> [u8; 32] {
        let [front, behind] = self.around;
        Sha256::new()
            .chain_update(front)
            .chain_update(envelope)
            .chain_update(behind)
            .finalize()
            .into()
    }
}

/// Whether a stored manifest is built as one that was [checked](check): what no claim names would be published with the
/// clip, and nobody has judged it.
///
/// # Errors
/// `Malformed` or `Terms`, with what is wrong.
pub fn structure(manifest: &[u8]) -> Result<(), Refusal> {
    if manifest.len() > MANIFEST_BYTES_MAX {
        let most = MANIFEST_BYTES_MAX;
        return Err(Refusal::Malformed(format!("{} bytes, at most {most}", manifest.len())));
    }
    built(&jumbf::parse(manifest)?)
}

/// In the store there are manifests; in a manifest its claim, signature and assertions, which are those that the claim names;
/// in an assertion its content.
fn built(store: &Superbox<'_>) -> Result<(), Refusal> {
    if store.kind != jumbf::STORE {
        return Err(Refusal::Malformed("no manifest store".into()));
    }
    store.is_plain("c2pa")?;
    let manifests = store.children.iter().all(|one| one.kind == jumbf::MANIFEST);
    if !store.contents.is_empty() || !manifests {
        return Err(Refusal::Malformed("more in the store than manifests".into()));
    }
    for manifest in &store.children {
        manifest.holds(manifest.label, &[jumbf::ASSERTIONS, jumbf::CLAIM, jumbf::SIGNATURE])?;
        manifest.only(jumbf::CLAIM)?.holds_content("c2pa.claim.v2")?;
        manifest.only(jumbf::SIGNATURE)?.holds_content(SIGNATURE)?;
        let assertions = manifest.only(jumbf::ASSERTIONS)?;
        assertions.is_plain("c2pa.assertions")?;
        let plain = |one: &Superbox<'_>| {
            one.children.is_empty() && one.contents.len() == 1 && is_salt(one.beside)
        };
        if !assertions.contents.is_empty() || !assertions.children.iter().all(plain) {
            return Err(Refusal::Malformed("more among the assertions than belongs there".into()));
        }
        let claim = Claim::read(manifest.only(jumbf::CLAIM)?.content(jumbf::CBOR)?)?;
        claim.hashes(manifest.label, assertions)?;
    }
    Ok(())
}

/// Nothing, or a box with a salt as the library makes it: 16 random bytes, which say nothing.
fn is_salt(beside: &[u8]) -> bool {
    const HEAD: [u8; 8] = *b"\0\0\0\x18c2sh";
    beside.is_empty() || (beside.starts_with(&HEAD) && beside.len() == HEAD.len() + 16)
}

/// The label of a signature.
const SIGNATURE: &str = "c2pa.signature";

/// Reads a manifest store and holds its newest manifest against the terms.
///
/// # Errors
/// `Malformed` or `Terms`, with what is wrong.
pub fn check<'a>(manifest: &'a [u8], terms: &Terms) -> Result<Checked<'a>, Refusal> {
    if manifest.len() > MANIFEST_BYTES_MAX {
        let most = MANIFEST_BYTES_MAX;
        return Err(Refusal::Malformed(format!("{} bytes, at most {most}", manifest.len())));
    }
    let store = jumbf::parse(manifest)?;
    built(&store)?;
    // The newest manifest is the last; those before it came with an ingredient, signed by others.
    let (newest, older) =
        store.children.split_last().ok_or_else(|| Refusal::Malformed("an empty store".into()))?;
    let edited = matches!(terms.origin, Origin::Edited { .. });
    if newest.kind != jumbf::MANIFEST || (!older.is_empty() && !edited) {
        return Err(terms_error("a manifest of something that this clip was not made from"));
    }
    let bytes = newest.only(jumbf::CLAIM)?.content(jumbf::CBOR)?;
    let signature = newest.only(jumbf::SIGNATURE)?.content(jumbf::CBOR)?;
    let (at, room) = (signature.as_ptr().addr() - manifest.as_ptr().addr(), signature.len());
    if room != terms.signature_bytes as usize {
        return Err(terms_error("the room for the signature"));
    }
    if !newest.label.strip_prefix("urn:c2pa:").is_some_and(is_uuid) {
        return Err(terms_error("the manifest's name"));
    }
    let claim = Claim::read(bytes)?;
    claim.head(newest.label, terms)?;
    let assertions = newest.only(jumbf::ASSERTIONS)?;
    let Contents { binding, names_sound } = contents(assertions, terms)?;
    let around = [&manifest[..at], &manifest[at + room..]];
    let digest = Sha256::digest(bytes).into();
    Ok(Checked { bytes, digest, around, room, binding, names_sound })
}

fn terms_error(what: &str) -> Refusal {
    Refusal::Terms(what.into())
}

struct Claim(Vec<(String, Value)>);

impl Claim {
    fn read(bytes: &[u8]) -> Result<Claim, Refusal> {
        Ok(Claim(map(&cbor(bytes, "the claim")?)?))
    }

    fn of(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(of, _)| of == key).map(|(_, value)| value)
    }

    /// Everything in the claim but the assertions.
    fn head(&self, manifest: &str, terms: &Terms) -> Result<(), Refusal> {
        for (key, _) in &self.0 {
            let known = [
                "instanceID",
                "claim_generator_info",
                "signature",
                "created_assertions",
                "gathered_assertions",
                "dc:title",
                "alg",
            ];
            if !known.contains(&key.as_str()) {
                return Err(Refusal::Terms(format!("{key} in the claim")));
            }
        }
        if self.of("alg").and_then(Value::as_text) != Some("sha256") {
            return Err(terms_error("another hash than sha256"));
        }
        let signature = self.of("signature").and_then(Value::as_text);
        let whole = format!("self#jumbf=/c2pa/{manifest}/{SIGNATURE}");
        if signature != Some(&whole) && signature != Some(&format!("self#jumbf={SIGNATURE}")) {
            return Err(terms_error("the place of the signature"));
        }
        if self.of("dc:title").and_then(Value::as_text) != Some(&words::title(terms)) {
            return Err(terms_error("the title"));
        }
        let generator = self.of("claim_generator_info").map(map).transpose()?.unwrap_or_default();
        let of = |key: &str| {
            generator.iter().find(|(of, _)| of == key).and_then(|(_, value)| value.as_text())
        };
        // The library adds its own version.
        let library = "org.contentauth.c2pa_rs";
        let known = |key: &str| ["name", "version", library].contains(&key);
        let numbers = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '.');
        if of("name") != Some(words::GENERATOR)
            || of("version") != Some(&terms.farm)
            || !of(library).is_none_or(numbers)
            || !generator.iter().all(|(key, _)| known(key))
        {
            return Err(terms_error("the claim generator"));
        }
        let instance = self.of("instanceID").and_then(Value::as_text).unwrap_or_default();
        if !instance.strip_prefix("xmp:iid:").is_some_and(is_uuid) {
            return Err(terms_error("the instance"));
        }
        Ok(())
    }

    /// The claim names all assertions that are there, and no others, by their hashes.
    fn hashes(&self, manifest: &str, assertions: &Superbox<'_>) -> Result<(), Refusal> {
        let mut named = Vec::new();
        for list in ["created_assertions", "gathered_assertions"] {
            let Some(list) = self.of(list) else { continue };
            let list = list.as_array().ok_or_else(|| terms_error("the list of assertions"))?;
            for one in list {
                let one = map(one)?;
                let known = |key: &str| ["url", "hash", "alg"].contains(&key);
                if !one.iter().all(|(key, _)| known(key)) {
                    return Err(terms_error("more of an assertion than its place and hash"));
                }
                let of = |key: &str| one.iter().find(|(of, _)| of == key).map(|(_, value)| value);
                let url = of("url").and_then(Value::as_text).unwrap_or_default();
                let hash = of("hash").and_then(Value::as_bytes).cloned().unwrap_or_default();
                if of("alg").is_some_and(|alg| alg.as_text() != Some("sha256")) {
                    return Err(terms_error("another hash than sha256"));
                }
                named.push((label_of(url, manifest)?.to_owned(), hash));
            }
        }
        let mut there: Vec<(String, Vec<u8>)> = assertions
            .children
            .iter()
            .map(|one| (one.label.to_owned(), Sha256::digest(one.payload).to_vec()))
            .collect();
        named.sort();
        there.sort();
        if named == there {
            Ok(())
        } else {
            Err(terms_error("an assertion that is not as claimed"))
        }
    }
}

/// Random, so that it says nothing.
fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

/// The label at the end of `self#jumbf=c2pa.assertions/LABEL` or of the same with the manifest in front.
fn label_of<'a>(url: &'a str, manifest: &str) -> Result<&'a str, Refusal> {
    let wrong = || Refusal::Terms(format!("an assertion outside of its manifest: {url}"));
    let path = url.strip_prefix("self#jumbf=").ok_or_else(wrong)?;
    let whole = format!("/c2pa/{manifest}/");
    let path = path.strip_prefix(whole.as_str()).unwrap_or(path);
    path.strip_prefix("c2pa.assertions/").filter(|label| !label.contains('/')).ok_or_else(wrong)
}

/// What is said of the file itself.
struct Contents {
    binding: [u8; 32],
    names_sound: bool,
}

/// Each assertion is called for, and says what it must; none that is called for is missing.
fn contents(assertions: &Superbox<'_>, terms: &Terms) -> Result<Contents, Refusal> {
    let mut marks = words::soft_bindings(terms);
    let (mut renders, mut actions, mut ingredients, mut bindings) = (0, 0, 0, Vec::new());
    for one in &assertions.children {
        // A second assertion of the same label is called `label__1`.
        let is_number = |text: &str| text.len() < 4 && text.bytes().all(|b| b.is_ascii_digit());
        let counted = one.label.split_once("__").filter(|(_, number)| is_number(number));
        let label = counted.map_or(one.label, |(label, _)| label);
        let kind = if label == words::RENDER { jumbf::JSON } else { jumbf::CBOR };
        if one.kind != kind || !one.children.is_empty() {
            return Err(Refusal::Terms(format!("{} is of another kind", one.label)));
        }
        match label {
            words::RENDER => {
                let (text, right) = (one.content(jumbf::JSON)?, words::render(terms));
                let said: Option<Json> = serde_json::from_slice(text).ok();
                // Of a key that stands there twice the last counts here, to others the first; there may be blanks too. Nothing
                // says the same in fewer bytes, so one that is as long has no more in it.
                if said.as_ref() != Some(&right) || text.len() != right.to_string().len() {
                    return Err(terms_error(words::RENDER));
                }
                renders += 1;
            }
            words::SOFT_BINDING => {
                let said = json(&cbor(one.content(jumbf::CBOR)?, label)?);
                let at = marks.iter().position(|mark| Some(mark) == said.as_ref());
                marks.remove(at.ok_or_else(|| terms_error(words::SOFT_BINDING))?);
            }
            words::HARD_BINDING => {
                bindings.push(check_binding(&cbor(one.content(jumbf::CBOR)?, label)?)?);
            }
            words::ACTIONS => {
                let parent = assertions.children.iter().find(|one| one.label == words::INGREDIENT);
                let parent = parent.map(|one| Sha256::digest(one.payload).into());
                check_actions(&cbor(one.content(jumbf::CBOR)?, label)?, terms, parent)?;
                actions += 1;
            }
            words::INGREDIENT if matches!(terms.origin, Origin::Edited { .. }) => {
                check_ingredient(&cbor(one.content(jumbf::CBOR)?, label)?, terms)?;
                ingredients += 1;
            }
            _ => return Err(Refusal::Terms(format!("{} is not called for", one.label))),
        }
    }
    let parents = usize::from(matches!(terms.origin, Origin::Edited { .. }));
    // A sound that cannot carry a mark has none to be named; the picture's must be there.
    let is_sound = |mark: &Json| mark["alg"] == SOUND_ALG;
    let left_out = marks.iter().any(is_sound);
    let names_sound = !left_out && words::soft_bindings(terms).iter().any(is_sound);
    marks.retain(|mark| !is_sound(mark));
    match bindings[..] {
        [binding] if (renders, actions, ingredients) == (1, 1, parents) && marks.is_empty() => {
            Ok(Contents { binding, names_sound })
        }
        _ => Err(terms_error("an assertion is missing, or there twice")),
    }
}

/// The hash must be there and cover all that is shown: what it leaves out could be another film later.
fn check_binding(content: &Value) -> Result<[u8; 32], Refusal> {
    let pairs = map(content)?;
    let hash = pairs.iter().find(|(key, _)| key == "hash").and_then(|(_, hash)| hash.as_bytes());
    let hash: [u8; 32] = hash
        .and_then(|hash| hash.as_slice().try_into().ok())
        .ok_or_else(|| terms_error("a hard binding without a hash over the file"))?;
    if sorted(content)? == sorted(&words::hard_binding(hash))? {
        Ok(hash)
    } else {
        Err(terms_error("the hard binding does not cover the file as it should"))
    }
}

/// Said whole: no word more than the terms call for.
fn check_actions(
    content: &Value,
    terms: &Terms,
    ingredient: Option<[u8; 32]>,
) -> Result<(), Refusal> {
    let right = words::actions(terms, ingredient);
    // Which of an edit's two stands first, the library says.
    let mut turned = right.clone();
    if let Value::Map(pairs) = &mut turned {
        pairs
            .iter_mut()
            .filter_map(|(_, list)| list.as_array_mut())
            .for_each(|list| list.reverse());
    }
    let said = sorted(content)?;
    if said == sorted(&right)? || said == sorted(&turned)? {
        Ok(())
    } else {
        Err(terms_error("the actions"))
    }
}

fn check_ingredient(content: &Value, terms: &Terms) -> Result<(), Refusal> {
    let Origin::Edited { parent } = &terms.origin else { return Err(terms_error("an ingredient")) };
    let content = map(content)?;
    let of =
        |key: &str| content.iter().find(|(of, _)| of == key).and_then(|(_, value)| value.as_text());
    let title = format!("{parent}.mp4");
    let known = [
        "relationship",
        "dc:title",
        "dc:format",
        "instanceID",
        "validationResults",
        "activeManifest",
        "claimSignature",
    ];
    let said = content.iter().all(|(key, _)| known.contains(&key.as_str()));
    if said && of("relationship") == Some("parentOf") && of("dc:title") == Some(&title) {
        Ok(())
    } else {
        Err(terms_error("the ingredient"))
    }
}

fn cbor(bytes: &[u8], what: &str) -> Result<Value, Refusal> {
    let mut rest = bytes;
    // The decoder's own limit on nesting holds; lengths are bounded by the bytes that are there.
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, 32)
        .map_err(|error| Refusal::Malformed(format!("{what}: {error}")))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(Refusal::Malformed(format!("{what}: bytes behind its end")))
    }
}

fn map(value: &Value) -> Result<Vec<(String, Value)>, Refusal> {
    let wrong = || Refusal::Malformed("a map was expected".into());
    let pairs = value.as_map().ok_or_else(wrong)?;
    let (mut all, mut keys) = (Vec::with_capacity(pairs.len()), HashSet::new());
    for (key, value) in pairs {
        let key = key.as_text().ok_or_else(wrong)?;
        // A key that stands there twice reads differently to different readers.
        if !keys.insert(key) {
            return Err(Refusal::Malformed(format!("{key} stands there twice")));
        }
        all.push((key.to_owned(), value.clone()));
    }
    Ok(all)
}

/// The same value with the keys of its maps in order, each there once.
fn sorted(value: &Value) -> Result<Value, Refusal> {
    Ok(match value {
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect::<Result<_, _>>()?),
        Value::Map(_) => {
            let mut pairs = map(value)?;
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            let pairs = pairs
                .iter()
                .map(|(key, value)| Ok::<_, Refusal>((Value::from(key.as_str()), sorted(value)?)));
            Value::Map(pairs.collect::<Result<_, _>>()?)
        }
        other => other.clone(),
    })
}

/// CBOR of the kinds that JSON has too.
fn json(value: &Value) -> Option<Json> {
    Some(match value {
        Value::Text(text) => Json::String(text.clone()),
        Value::Array(items) => Json::Array(items.iter().map(json).collect::<Option<_>>()?),
        Value::Map(_) => {
            let pairs = map(value).ok()?;
            let pairs = pairs.iter().map(|(key, value)| Some((key.clone(), json(value)?)));
            Json::Object(pairs.collect::<Option<_>>()?)
        }
        Value::Null => Json::Null,
        Value::Bool(truth) => Json::Bool(*truth),
        Value::Integer(number) => Json::from(u64::try_from(*number).ok()?),
        _ => return None,
    })
}
