//! A request body as a neutral tree: the same for JSON and for multipart, before any field is
//! looked at.
//!
//! JSON becomes a [`Node`] directly; multipart parts are joined by their bracket names. What cannot
//! be joined (a scalar sent twice, two forms of one field) stays visible in the tree, because only
//! the reader of the field can say what was expected. Pure: no IO.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::fmt;

/// Values of one body: each takes 64 bytes of memory or more, and two of text. The most that any request can need is a
/// few hundred.
pub const VALUES_MAX: usize = 100_000;
/// Segments of one bracket name that are looked at; a name with more is taken as it is.
const SEGMENTS_MAX: usize = 4;

/// 2^63: from here on a float may stand for an integer of the body.
const INT_FLOATS: f64 = 9_223_372_036_854_775_808.0;

/// A value of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// JSON `null`.
    Null,
    /// JSON `true` or `false`.
    Bool(bool),
    /// A JSON number without fraction or exponent; one that no 64 bits hold is about right.
    Int(i128),
    /// Any other JSON number.
    Float(f64),
    /// A JSON string.
    Text(String),
    /// A text part of a multipart body: a string, or the text of a number, boolean, null, object or
    /// array.
    Form(String),
    /// A part with a file name.
    File(FileFacts),
    /// An array.
    List(Vec<Node>),
    /// An object, in the order in which it was sent.
    Map(Vec<(String, Node)>),
    /// One name, sent more than once in one form.
    Twice,
    /// One name, sent in several forms at once (plain, brackets, file).
    Forms,
    /// An array of objects with more than one key, in brackets: it cannot be told which key is of
    /// which object.
    Ambiguous,
}

/// What is kept of an uploaded file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// Its first bytes, at most [`FileFacts::HEAD`], which tell its format.
    pub head: Vec<u8>,
}

impl FileFacts {
    /// Bytes that are enough to tell every format that we take.
    pub const HEAD: usize = 32;
}

impl Node {
    /// What it is, with its article, for messages.
    pub fn article(&self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Bool(_) => "a boolean",
            Node::Int(_) => "an integer",
            Node::Float(_) => "a number",
            Node::Text(_) | Node::Form(_) => "a string",
            Node::File(_) => "a file",
            Node::List(_) => "an array",
            Node::Map(_) => "an object",
            Node::Twice => "several values",
            Node::Forms => "several forms",
            Node::Ambiguous => "an array of objects in brackets",
        }
    }

    /// Adds the value to a hash, so that the same request in JSON and in multipart has the same
    /// hash: scalars count as their text, object keys in order of their bytes, nulls not at all.
    pub fn digest(&self, hash: &mut Sha256) {
        let mut scalar = |text: &str| {
            hash.update([b's']);
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        match self {
            Node::Bool(value) => scalar(if *value { "true" } else { "false" }),
            Node::Int(value) => scalar(&value.to_string()),
            Node::Float(value) => scalar(&value.to_string()),
            Node::Text(text) | Node::Form(text) => scalar(text),
            Node::Null => hash.update([b'n']),
            Node::Twice => hash.update([b't']),
            Node::Forms => hash.update([b'o']),
            Node::Ambiguous => hash.update([b'a']),
            Node::File(file) => {
                hash.update([b'f']);
                hash.update(file.sha256);
            }
            Node::List(nodes) => {
                hash.update([b'l']);
                hash.update((nodes.len() as u64).to_le_bytes());
                nodes.iter().for_each(|node| node.digest(hash));
            }
            Node::Map(pairs) => {
                digest_object(pairs.iter().map(|(key, node)| (key.as_str(), node)), hash);
            }
        }
    }
}

/// Adds an object to a hash, as [`Node::digest`] does.
pub fn digest_object<'a>(pairs: impl Iterator<Item = (&'a str, &'a Node)>, hash: &mut Sha256) {
    let mut pairs: Vec<_> = pairs.filter(|(_, node)| **node != Node::Null).collect();
    pairs.sort_by_key(|(key, _)| *key);
    hash.update([b'm']);
    hash.update((pairs.len() as u64).to_le_bytes());
    for (key, node) in pairs {
        hash.update((key.len() as u64).to_le_bytes());
        hash.update(key.as_bytes());
        node.digest(hash);
    }
}

/// Joins the parts of a multipart body, in order, into one object.
pub fn join(parts: Vec<(String, Node)>) -> Node {
    let named = parts.into_iter().map(|(name, node)| {
        let (base, segments) = split(&name);
        (base, segments, node)
    });
    group(named)
}

/// One step of a bracket name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// `[]`
    Next,
    /// `[key]`
    Key(String),
}

/// What a part is to the name that it shares with others.
type Part = (Vec<Segment>, Node);

/// `video[id]` is `video` and a key; a name that is no bracket name is taken as it is.
fn split(name: &str) -> (String, Vec<Segment>) {
    let whole = || (name.to_owned(), Vec::new());
    let Some(open) = name.find('[').filter(|open| *open > 0) else { return whole() };
    let free = name.strip_prefix("metadata[").and_then(|rest| rest.strip_suffix(']'));
    if let Some(key) = free.filter(|key| !key.is_empty()) {
        // Its keys are the caller's own, brackets included, and its values texts.
        return (name[..open].to_owned(), vec![Segment::Key(key.to_owned())]);
    }
    let mut segments = Vec::new();
    let mut rest = &name[open..];
    while !rest.is_empty() {
        let Some((key, behind)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) else {
            return whole();
        };
        segments.push(if key.is_empty() { Segment::Next } else { Segment::Key(key.to_owned()) });
        rest = behind;
    }
    if segments.len() > SEGMENTS_MAX { whole() } else { (name[..open].to_owned(), segments) }
}

fn group(parts: impl Iterator<Item = (String, Vec<Segment>, Node)>) -> Node {
    let mut groups: Vec<(String, Vec<Part>)> = Vec::new();
    // Positions by name: a body of a thousand metadata pairs must not take a million comparisons.
    let mut places = std::collections::BTreeMap::new();
    for (name, segments, node) in parts {
        let place = *places.entry(name.clone()).or_insert(groups.len());
        if place == groups.len() {
            groups.push((name, Vec::new()));
        }
        groups[place].1.push((segments, node));
    }
    Node::Map(groups.into_iter().map(|(name, parts)| (name, merge(parts))).collect())
}

/// All parts of one name become one value.
fn merge(mut parts: Vec<Part>) -> Node {
    if parts.iter().all(|(segments, _)| segments.is_empty()) {
        let files = parts.iter().filter(|(_, node)| matches!(node, Node::File(_))).count();
        return match (parts.len(), parts.pop()) {
            (1, Some((_, node))) => node,
            (all, _) if files == 0 || files == all => Node::Twice,
            _ => Node::Forms,
        };
    }
    if parts.iter().all(|(segments, _)| matches!(segments.first(), Some(Segment::Key(_)))) {
        return group(parts.into_iter().filter_map(
            |(mut segments, node)| match segments.remove(0) {
                Segment::Key(key) => Some((key, segments, node)),
                Segment::Next => None,
            },
        ));
    }
    if parts.iter().all(|(segments, _)| segments.first() == Some(&Segment::Next)) {
        return list(parts);
    }
    Node::Forms
}

/// `name[]` repeated, or `name[][key]` repeated with one key.
fn list(parts: Vec<Part>) -> Node {
    let shape = parts.first().map(|(segments, _)| segments.clone()).unwrap_or_default();
    if shape.len() > 2 || parts.iter().any(|(segments, _)| *segments != shape) {
        return Node::Ambiguous;
    }
    match shape.get(1) {
        None => Node::List(parts.into_iter().map(|(_, node)| node).collect()),
        Some(Segment::Next) => Node::Ambiguous,
        Some(Segment::Key(key)) => Node::List(
            parts.into_iter().map(|(_, node)| Node::Map(vec![(key.clone(), node)])).collect(),
        ),
    }
}

/// Counts the values of JSON while it is parsed, in one text or in several of one body.
#[derive(Debug)]
pub struct Values {
    left: Cell<usize>,
    spent: Cell<bool>,
}

impl Values {
    /// [`VALUES_MAX`] may come.
    pub fn new() -> Values {
        Values { left: Cell::new(VALUES_MAX), spent: Cell::new(false) }
    }

    /// The value of this text.
    ///
    /// # Errors
    /// Those of the parser, and that there are too many values.
    pub fn parse(&self, text: &[u8]) -> serde_json::Result<Node> {
        let mut parser = serde_json::Deserializer::from_slice(text);
        let node = AnyNode(self).deserialize(&mut parser)?;
        parser.end()?;
        Ok(node)
    }

    /// Whether more came than may.
    pub fn are_spent(&self) -> bool {
        self.spent.get()
    }

    fn count(&self) -> bool {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.unwrap_or(0));
        self.spent.set(self.spent.get() || left.is_none());
        left.is_some()
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        AnyNode(&Values::new()).deserialize(deserializer)
    }
}

/// Unlike `serde_json::Value`, this notices a key that stands twice, and counts.
#[derive(Clone, Copy)]
struct AnyNode<'a>(&'a Values);

impl<'de> DeserializeSeed<'de> for AnyNode<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        if !self.0.count() {
            return Err(D::Error::custom(format!("more than {VALUES_MAX} values")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyNode<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        // The parser gives integers of more than 64 bits as floats. They are outside of every
        // limit, which is what the caller should hear, and not that they are no integers. A float
        // of this size has no fraction.
        if value.abs() >= INT_FLOATS {
            return Ok(Node::Int(value as i128));
        }
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = items.next_element_seed(self)? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut pairs: Vec<(String, Node)> = Vec::new();
        let mut places = std::collections::BTreeMap::new();
        while let Some(key) = entries.next_key::<String>()? {
            let node = entries.next_value_seed(self)?;
            let place = *places.entry(key.clone()).or_insert(pairs.len());
            if place < pairs.len() {
                pairs[place].1 = Node::Twice;
            } else {
                pairs.push((key, node));
            }
        }
        Ok(Node::Map(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Node {
        Node::Form(text.to_owned())
    }

    fn map(pairs: &[(&str, Node)]) -> Node {
        Node::Map(pairs.iter().map(|(k, n)| ((*k).to_owned(), n.clone())).collect())
    }

    fn file() -> Node {
        Node::File(FileFacts { bytes: 0, sha256: [0; 32], head: Vec::new() })
    }

    /// Bracket names join as the rules of 1.4 say.
    #[test]
    fn parts_join_by_their_names() {
        let cases: Vec<(Vec<(&str, Node)>, Node)> = vec![
            (vec![("a", form("1"))], map(&[("a", form("1"))])),
            (vec![("a", form("1")), ("a", form("1"))], map(&[("a", Node::Twice)])),
            (vec![("a", file()), ("a", file())], map(&[("a", Node::Twice)])),
            (vec![("a", form("{}")), ("a", file())], map(&[("a", Node::Forms)])),
            (vec![("a[id]", form("x")), ("a", form("{}"))], map(&[("a", Node::Forms)])),
            (vec![("a[id]", form("x"))], map(&[("a", map(&[("id", form("x"))]))])),
            (
                vec![("a[id]", form("x")), ("a[id]", form("y"))],
                map(&[("a", map(&[("id", Node::Twice)]))]),
            ),
            (
                vec![("a[]", form("1")), ("a[]", form("2"))],
                map(&[("a", Node::List(vec![form("1"), form("2")]))]),
            ),
            (
                vec![("a[][id]", form("1")), ("b", form("2")), ("a[][id]", form("3"))],
                map(&[
                    ("a", Node::List(vec![map(&[("id", form("1"))]), map(&[("id", form("3"))])])),
                    ("b", form("2")),
                ]),
            ),
            (
                vec![("a[][id]", form("1")), ("a[][name]", form("3"))],
                map(&[("a", Node::Ambiguous)]),
            ),
            (vec![("a[][b][c]", form("1"))], map(&[("a", Node::Ambiguous)])),
            (vec![("a[b", form("1"))], map(&[("a[b", form("1"))])),
            (vec![("[b]", form("1"))], map(&[("[b]", form("1"))])),
            (vec![("a[b]c", form("1"))], map(&[("a[b]c", form("1"))])),
            (vec![("a[1][2][3][4][5]", form("1"))], map(&[("a[1][2][3][4][5]", form("1"))])),
            (
                ["metadata[a[b]]", "metadata[[]", "metadata[]]", "metadata[a][b]"]
                    .map(|name| (name, form("1")))
                    .to_vec(),
                map(&[("metadata", map(&["a[b]", "[", "]", "a][b"].map(|key| (key, form("1")))))]),
            ),
            (vec![("metadata[]", form("1"))], map(&[("metadata", Node::List(vec![form("1")]))])),
            (vec![("metadata[a]b", form("1"))], map(&[("metadata[a]b", form("1"))])),
        ];
        for (parts, wanted) in cases {
            let parts = parts.into_iter().map(|(n, node)| (n.to_owned(), node)).collect();
            assert_eq!(join(parts), wanted);
        }
    }

    #[test]
    fn json_keeps_what_was_sent() {
        let text = r#"{"a":1,"b":1.0,"c":[null,true,"x"],"a":2,"d":18446744073709551615,
            "e":18446744073709551616,"f":-9223372036854775809}"#;
        let node: Node = serde_json::from_str(text).unwrap();
        let list = Node::List(vec![Node::Null, Node::Bool(true), Node::Text("x".to_owned())]);
        let wanted = [
            ("a", Node::Twice),
            ("b", Node::Float(1.0)),
            ("c", list),
            ("d", Node::Int(u64::MAX.into())),
            ("e", Node::Int(1 << 64)),
            ("f", Node::Int(i64::MIN.into())),
        ];
        assert_eq!(node, map(&wanted));
    }

    #[test]
    fn deep_json_is_refused_instead_of_overflowing() {
        for depth in [200, 100_000] {
            let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert!(serde_json::from_str::<Node>(&text).is_err());
        }
    }

    #[test]
    fn one_request_has_one_hash_in_either_form() {
        let hash = |node: &Node| {
            let mut hash = Sha256::new();
            node.digest(&mut hash);
            hash.finalize()
        };
        let json: Node =
            serde_json::from_str(r#"{"seconds":8,"prompt":"a","seed":null,"loop":true}"#).unwrap();
        let parts = [("prompt", "a"), ("loop", "true"), ("seconds", "8")];
        let multipart = join(parts.iter().map(|(n, t)| ((*n).to_owned(), form(t))).collect());
        assert_eq!(hash(&json), hash(&multipart));
        assert_ne!(hash(&json), hash(&map(&[("prompt", form("a"))])));
    }
}
