//! Typed reading of a request's fields: each method takes one field out of the tree and says what
//! was wrong.
//!
//! The rules of types are here (what a string, an integer, an object may look like in JSON and in
//! multipart); the rules of values are the endpoints'. Pure.

use super::envelope::ApiError;
use super::kind::{self, unfolded};
use super::node::{FileFacts, Node, Values, digest_object};
use super::words::Code;
use crate::room::Place;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The fields of a request, or of an object in it.
#[derive(Clone, Debug)]
pub struct Fields {
    /// What stands before each name in messages: empty, or `expires_after.`
    prefix: String,
    /// In the order in which they were sent.
    order: Vec<String>,
    nodes: BTreeMap<String, Node>,
    /// Their hash as they were read.
    hash: Option<[u8; 32]>,
    /// That of a large body, until what was made of it is gone.
    place: Option<Arc<Place>>,
}

/// A picture in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    /// The bytes came along.
    File(FileFacts),
    /// A stored file.
    FileId(String),
    /// An address, or the bytes in a data URL.
    ImageUrl(String),
}

type Read<T> = Result<Option<T>, ApiError>;

impl Fields {
    /// The fields of a request's body, each as its kind is taken.
    ///
    /// # Errors
    /// 400 without a code if the body is no object, or if the JSON texts in it have too many values.
    pub fn of(body: Node) -> Result<Fields, ApiError> {
        match body {
            Node::Map(pairs) => {
                let values = Values::new();
                let decoded = pairs.into_iter().map(|(name, node)| {
                    let node = kind::decoded(&name, node, &values);
                    (name, node)
                });
                let decoded = decoded.collect();
                if values.are_spent() {
                    return Err(ApiError::many_values());
                }
                Ok(Fields::nested(String::new(), decoded))
            }
            other => Err(ApiError::unreadable(format!(
                "The body must be a JSON object, but it is {}.",
                other.article()
            ))),
        }
    }

    /// The fields of an object in it; `prefix` stands before each name in messages.
    pub fn nested(prefix: String, pairs: Vec<(String, Node)>) -> Fields {
        let order = pairs.iter().map(|(name, _)| name.clone()).collect();
        let nodes = pairs.into_iter().collect();
        Fields { prefix, order, nodes, hash: None, place: None }
    }

    /// The same, with their hash made: for a large body that is some work, and not for a thread of the runtime.
    pub fn hashed(self) -> Fields {
        Fields { hash: Some(self.hash()), ..self }
    }

    /// The same, with the place of a large body.
    pub fn placed(self, place: Option<Place>) -> Fields {
        Fields { place: place.map(Arc::new), ..self }
    }

    /// The place of a large body: whoever keeps what was written in it keeps this too.
    pub fn place(&self) -> Option<Arc<Place>> {
        self.place.clone()
    }

    /// The hash of all fields, whichever way and in whichever order they were sent.
    pub fn hash(&self) -> [u8; 32] {
        if let Some(hash) = self.hash {
            return hash;
        }
        let mut hash = Sha256::new();
        digest_object(self.nodes.iter().map(|(name, node)| (name.as_str(), node)), &mut hash);
        hash.finalize().into()
    }

    /// Refuses the first field that is none of `names`.
    ///
    /// # Errors
    /// `unknown_parameter`.
    pub fn only(&self, names: &[&str]) -> Result<(), ApiError> {
        match self.order.iter().find(|name| !names.contains(&name.as_str())) {
            None => Ok(()),
            Some(unknown) => Err(ApiError::unknown(&format!("{}{unknown}", self.prefix))),
        }
    }

    /// Takes a field out; `null` and the text `null` of a multipart body are absence.
    fn take(&mut self, name: &str) -> (String, Option<Node>) {
        let node = self.nodes.remove(name).filter(|node| *node != Node::Null);
        (format!("{}{name}", self.prefix), node)
    }

    fn take_no_text(&mut self, name: &str) -> (String, Option<Node>) {
        let (param, node) = self.take(name);
        (param, node.filter(|node| !matches!(node, Node::Form(text) if text == "null")))
    }

    /// A string that must be there; its `null` is a wrong type, not an absence.
    ///
    /// # Errors
    /// `missing_required_parameter`, `invalid_type`.
    pub fn required_text(&mut self, name: &str) -> Result<String, ApiError> {
        let param = format!("{}{name}", self.prefix);
        if self.nodes.get(name) == Some(&Node::Null) {
            return Err(ApiError::wrong_type(&param, "a string", "null"));
        }
        self.text(name)?.ok_or_else(|| ApiError::missing(&param))
    }

    /// A field of any type that must be there.
    ///
    /// # Errors
    /// `missing_required_parameter`.
    pub fn required(&mut self, name: &str) -> Result<Node, ApiError> {
        let (param, node) = self.take(name);
        node.ok_or_else(|| ApiError::missing(&param))
    }

    /// A string.
    ///
    /// # Errors
    /// `invalid_type`.
    pub fn text(&mut self, name: &str) -> Read<String> {
        let (param, node) = self.take(name);
        node.map(|node| text_of(&param, node)).transpose()
    }

    /// An integer.
    ///
    /// # Errors
    /// `invalid_type`.
    pub fn whole(&mut self, name: &str) -> Read<i128> {
        let (param, node) = self.take_no_text(name);
        node.map(|node| match node {
            Node::Int(value) => Ok(value),
            Node::Form(text) => {
                decimal(&text).ok_or_else(|| ApiError::wrong_type(&param, "an integer", "a string"))
            }
            other => Err(mismatch(&param, "an integer", &other)),
        })
        .transpose()
    }

    /// A number.
    ///
    /// # Errors
    /// `invalid_type`.
    pub fn number(&mut self, name: &str) -> Read<f64> {
        let (param, node) = self.take_no_text(name);
        node.map(|node| match node {
            Node::Int(value) => Ok(value as f64),
            Node::Float(value) => Ok(value),
            Node::Form(text) => text
                .parse()
                .ok()
                .filter(|value: &f64| value.is_finite())
                .ok_or_else(|| ApiError::wrong_type(&param, "a number", "a string")),
            other => Err(mismatch(&param, "a number", &other)),
        })
        .transpose()
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// `invalid_type`.
    pub fn boolean(&mut self, name: &str) -> Read<bool> {
        let (param, node) = self.take_no_text(name);
        node.map(|node| match node {
            Node::Bool(value) => Ok(value),
            Node::Form(text) if text == "true" => Ok(true),
            Node::Form(text) if text == "false" => Ok(false),
            other => Err(mismatch(&param, "a boolean", &other)),
        })
        .transpose()
    }

    /// A string or an integer, as text: how `seconds` may be sent.
    ///
    /// # Errors
    /// `invalid_type`.
    pub fn text_or_whole(&mut self, name: &str) -> Read<String> {
        let (param, node) = self.take(name);
        node.map(|node| match node {
            Node::Int(value) => Ok(value.to_string()),
            Node::Text(text) | Node::Form(text) => Ok(text),
            other => Err(mismatch(&param, "a string or an integer", &other)),
        })
        .transpose()
    }

    /// An object: as such, in brackets, or as JSON text.
    ///
    /// # Errors
    /// `invalid_type`; `invalid_value` for two forms at once.
    pub fn object(&mut self, name: &str) -> Read<Fields> {
        let (param, node) = self.take_no_text(name);
        let prefix = format!("{param}.");
        node.map(|node| match unfolded(node, &Values::new()) {
            Node::Map(pairs) => Ok(Fields::nested(prefix, pairs)),
            other => Err(mismatch(&param, "an object", &other)),
        })
        .transpose()
    }

    /// Pairs of strings with free keys: `metadata`.
    ///
    /// # Errors
    /// `invalid_type`, also of a value.
    pub fn pairs(&mut self, name: &str) -> Read<Vec<(String, String)>> {
        let Some(fields) = self.object(name)? else { return Ok(None) };
        let value = |(key, node)| {
            let text = text_of(&format!("{}{key}", fields.prefix), node)?;
            Ok((key, text))
        };
        fields.nodes.into_iter().map(value).collect::<Result<_, _>>().map(Some)
    }

    /// An array: as such, in brackets, or as JSON text.
    ///
    /// # Errors
    /// `invalid_type`; `invalid_value` for two forms at once.
    pub fn array(&mut self, name: &str) -> Read<Vec<Node>> {
        let (param, node) = self.take_no_text(name);
        node.map(|node| match unfolded(node, &Values::new()) {
            Node::List(nodes) => Ok(nodes),
            Node::Ambiguous => Err(ApiError {
                code: Some(Code::InvalidType),
                ..ApiError::invalid(
                    &param,
                    format!(
                        "Invalid type for '{param}': objects with several keys cannot be told \
                         apart in brackets. Send JSON text in one field, or a JSON body."
                    ),
                )
            }),
            other => Err(mismatch(&param, "an array", &other)),
        })
        .transpose()
    }

    /// A picture: a file, `{file_id}` or `{image_url}`.
    ///
    /// # Errors
    /// `invalid_type`; `invalid_value` for two forms at once, or for none in the object.
    pub fn media(&mut self, name: &str) -> Read<Media> {
        let (param, node) = self.take_no_text(name);
        let Some(node) = node else { return Ok(None) };
        let pairs = match unfolded(node, &Values::new()) {
            Node::File(file) => return Ok(Some(Media::File(file))),
            Node::Map(pairs) => pairs,
            other => return Err(mismatch(&param, "a file", &other)),
        };
        let mut fields = Fields::nested(format!("{param}."), pairs);
        fields.only(&["file_id", "image_url"])?;
        match (fields.text("file_id")?, fields.text("image_url")?) {
            (Some(id), None) => Ok(Some(Media::FileId(id))),
            (None, Some(url)) => Ok(Some(Media::ImageUrl(url))),
            _ => Err(ApiError::invalid(
                &param,
                format!("Invalid value for '{param}': give either 'file_id' or 'image_url'."),
            )),
        }
    }
}

fn text_of(param: &str, node: Node) -> Result<String, ApiError> {
    match node {
        Node::Text(text) | Node::Form(text) => Ok(text),
        other => Err(mismatch(param, "a string", &other)),
    }
}

/// A node that is not what was expected.
fn mismatch(param: &str, expected: &str, node: &Node) -> ApiError {
    match node {
        Node::Forms => ApiError::invalid(
            param,
            format!(
                "Invalid value for '{param}': give it in exactly one form, as a file, in brackets \
                 or as JSON text."
            ),
        ),
        other => ApiError::wrong_type(param, expected, other.article()),
    }
}

/// Decimal digits with an optional minus: nothing else that `parse` would take.
pub fn decimal(text: &str) -> Option<i128> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // More digits than any limit has: the value only has to be as far outside.
    if digits.len() > 30 {
        return Some(if text.starts_with('-') { i128::MIN } else { i128::MAX });
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::node::join;

    fn json(text: &str) -> Fields {
        Fields::of(serde_json::from_str(text).unwrap()).unwrap()
    }

    fn form(parts: &[(&str, &str)]) -> Fields {
        let node = |text: &str| Node::Form(text.to_owned());
        Fields::of(join(parts.iter().map(|(n, t)| ((*n).to_owned(), node(t))).collect())).unwrap()
    }

    fn code<T: std::fmt::Debug>(read: Result<T, ApiError>) -> (&'static str, String) {
        let error = read.unwrap_err();
        (error.code.unwrap().word(), error.param.unwrap().into())
    }

    #[test]
    fn scalars_are_read_from_either_form() {
        assert_eq!(json(r#"{"a":7}"#).whole("a").unwrap(), Some(7));
        assert_eq!(form(&[("a", "7")]).whole("a").unwrap(), Some(7));
        assert_eq!(form(&[("a", "-7")]).whole("a").unwrap(), Some(-7));
        assert_eq!(json(r#"{"a":null}"#).whole("a").unwrap(), None);
        assert_eq!(form(&[("a", "null")]).whole("a").unwrap(), None);
        assert_eq!(form(&[]).whole("a").unwrap(), None);
        assert_eq!(form(&[("a", "true")]).boolean("a").unwrap(), Some(true));
        assert_eq!(form(&[("a", "null")]).text("a").unwrap().as_deref(), Some("null"));
        assert_eq!(json(r#"{"a":8}"#).text_or_whole("a").unwrap().as_deref(), Some("8"));
        assert_eq!(json(r#"{"a":"8"}"#).text_or_whole("a").unwrap().as_deref(), Some("8"));
        assert_eq!(form(&[("a", "8")]).text_or_whole("a").unwrap().as_deref(), Some("8"));
        assert_eq!(json(r#"{"a":null}"#).text_or_whole("a").unwrap(), None);
        let null = form(&[("seconds", "null")]).text_or_whole("seconds").unwrap();
        assert_eq!(null.as_deref(), Some("null"));
        assert_eq!(form(&[("a", &"9".repeat(400))]).whole("a").unwrap(), Some(i128::MAX));
        assert_eq!(form(&[("a", "1.5")]).number("a").unwrap(), Some(1.5));
    }

    #[test]
    fn wrong_scalars_are_named() {
        let wrong = ("invalid_type", "a".to_owned());
        for text in [r#"{"a":"7"}"#, r#"{"a":7.0}"#, r#"{"a":[7]}"#, r#"{"a":7,"a":7}"#] {
            assert_eq!(code(json(text).whole("a")), wrong, "{text}");
        }
        for text in ["", "7.0", "+7", "0x7", " 7", "7e2"] {
            assert_eq!(code(form(&[("a", text)]).whole("a")), wrong, "{text}");
        }
        assert_eq!(code(form(&[("a", "7"), ("a", "7")]).whole("a")), wrong);
        assert_eq!(code(form(&[("a", "True")]).boolean("a")), wrong);
        assert_eq!(code(json(r#"{"a":8.0}"#).text_or_whole("a")), wrong);
        assert_eq!(code(json(r#"{"a":7}"#).text("a")), wrong);
        assert_eq!(code(json(r#"{"a":null}"#).required_text("a")), wrong);
        let missing = ("missing_required_parameter", "a".to_owned());
        assert_eq!(code(json("{}").required_text("a")), missing);
    }

    #[test]
    fn objects_come_in_three_forms() {
        for mut fields in [
            json(r#"{"o":{"k":"v"}}"#),
            json(r#"{"o":"{\"k\":\"v\"}"}"#),
            form(&[("o[k]", "v")]),
            form(&[("o", r#"{"k":"v"}"#)]),
        ] {
            let pair = ("k".to_owned(), "v".to_owned());
            assert_eq!(fields.pairs("o").unwrap(), Some(vec![pair]));
        }
        assert_eq!(code(form(&[("o", "x")]).pairs("o")), ("invalid_type", "o".to_owned()));
        assert_eq!(code(json(r#"{"o":{"k":1}}"#).pairs("o")), ("invalid_type", "o.k".to_owned()));
        let both = form(&[("o", r#"{"k":"v"}"#), ("o[k]", "v")]).pairs("o");
        assert_eq!(code(both), ("invalid_value", "o".to_owned()));
    }

    #[test]
    fn arrays_come_in_three_forms_but_not_with_several_keys_in_brackets() {
        assert_eq!(json(r#"{"a":[1]}"#).array("a").unwrap().unwrap().len(), 1);
        assert_eq!(form(&[("a[]", "1"), ("a[]", "2")]).array("a").unwrap().unwrap().len(), 2);
        assert_eq!(form(&[("a", "[1,2,3]")]).array("a").unwrap().unwrap().len(), 3);
        let error = form(&[("a[][x]", "1"), ("a[][y]", "2")]).array("a").unwrap_err();
        assert_eq!(error.code, Some(Code::InvalidType));
        assert!(error.message.contains("JSON"), "{}", error.message);
    }

    /// Promise: two requests that mean the same are the same, whichever way they are sent.
    #[test]
    fn what_is_read_alike_has_one_hash() {
        let same: [&[Fields]; 4] = [
            &[
                form(&[("prompt", "x"), ("metadata[a]", "b")]),
                form(&[("metadata", r#"{"a":"b"}"#), ("prompt", "x")]),
                form(&[("prompt", "x"), ("metadata", r#" { "a" : "b" } "#), ("seed", "null")]),
                form(&[("prompt", "x"), ("metadata[a]", "b"), ("characters", "null")]),
                json(r#"{"prompt":"x","metadata":{"a":"b"},"seed":null}"#),
                json(r#"{"prompt":"x","metadata":"{\"a\": \"b\"}"}"#),
            ],
            &[
                form(&[
                    ("expires_after[anchor]", "created_at"),
                    ("expires_after[seconds]", "3600"),
                ]),
                form(&[("expires_after", r#"{"seconds": 3600, "anchor": "created_at"}"#)]),
                json(r#"{"expires_after":{"anchor":"created_at","seconds":3600}}"#),
            ],
            &[
                form(&[("variants[]", "video"), ("seed", "7"), ("guidance_scale", "7.0")]),
                form(&[("variants", r#"["video"]"#), ("seed", "007"), ("guidance_scale", "7")]),
                json(r#"{"variants":["video"],"seed":7,"guidance_scale":7}"#),
            ],
            &[
                form(&[("expires_after[seconds]", "null"), ("expires_after[anchor]", "x")]),
                form(&[("expires_after", r#"{"seconds":null,"anchor":"x"}"#)]),
                json(r#"{"expires_after":{"anchor":"x"}}"#),
            ],
        ];
        for (n, alike) in same.iter().enumerate() {
            let hashes: Vec<_> = alike.iter().map(Fields::hash).collect();
            assert!(hashes.iter().all(|hash| *hash == hashes[0]), "group {n}: {hashes:02x?}");
        }
        // What is a text is one, whatever it looks like.
        for (one, other) in [
            (form(&[("prompt", "null")]), form(&[])),
            (form(&[("prompt", r#"{"a":1}"#)]), form(&[("prompt", r#"{"a": 1}"#)])),
            (form(&[("prompt", "7")]), form(&[("prompt", "07")])),
            (form(&[("metadata[seconds]", "null")]), form(&[("metadata", "{}")])),
            (form(&[("seconds", "null")]), form(&[])),
            (form(&[("metadata[seed]", "7")]), form(&[("metadata[seed]", "07")])),
        ] {
            assert_ne!(one.hash(), other.hash(), "{one:?} and {other:?}");
        }
    }

    #[test]
    fn a_picture_has_exactly_one_form() {
        let url = Some(Media::ImageUrl("https://x/y.png".to_owned()));
        let text = r#"{"image_url":"https://x/y.png"}"#;
        assert_eq!(form(&[("i[image_url]", "https://x/y.png")]).media("i").unwrap(), url);
        assert_eq!(form(&[("i", text)]).media("i").unwrap(), url);
        assert_eq!(json(&format!(r#"{{"i":{text}}}"#)).media("i").unwrap(), url);
        let file = form(&[("i[file_id]", "file-1")]).media("i").unwrap();
        assert_eq!(file, Some(Media::FileId("file-1".to_owned())));
        let error = form(&[("i", "https://x/y.png")]).media("i").unwrap_err();
        let wanted = "Invalid type for 'i': expected a file, but got a string instead.";
        assert_eq!((error.code, &*error.message), (Some(Code::InvalidType), wanted));
        let both = form(&[("i[image_url]", "a"), ("i[file_id]", "b")]).media("i");
        assert_eq!(code(both), ("invalid_value", "i".to_owned()));
        assert_eq!(code(json(r#"{"i":{}}"#).media("i")), ("invalid_value", "i".to_owned()));
        let odd = json(r#"{"i":{"url":"x"}}"#).media("i");
        assert_eq!(code(odd), ("unknown_parameter", "i.url".to_owned()));
    }
}
