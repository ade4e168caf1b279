//! What the fields of all bodies are, by their names: so that a body is one tree however it was sent, and two requests
//! that mean the same have one hash.
//!
//! Only what cannot be seen from the outside is told here: whether `null` in a form is a word or an absence, and whether
//! a text may stand for an object. What a field must be is its reader's to say. Pure.

use super::fields::decimal;
use super::node::{Node, Values};

/// How the text of a field is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Text,
    /// `null` in a form is absence.
    Value,
    /// The same, and digits in a form are an integer.
    Whole,
    /// The same, and what reads as a number in a form is one.
    Number,
    /// JSON text is what it says, and the names in it have kinds too.
    Tree,
    /// JSON text is what it says; the names in it are the caller's own, and their values texts.
    Pairs,
}

/// The kind of a field; one that is not known is a text.
pub fn of(name: &str) -> Kind {
    match name {
        "generate_audio" | "loop" | "enhance_prompt" | "repair" | "quick" | "dry_run" => {
            Kind::Value
        }
        "seed"
        | "num_inference_steps"
        | "deadline_at"
        | "partial_images"
        | "max_downloads"
        | "uses"
        | "ttl_seconds"
        | "per_second" => Kind::Whole,
        "guidance_scale" => Kind::Number,
        "expires_after" | "input_reference" | "last_frame" | "characters" | "reference_images"
        | "shots" | "variants" | "with" => Kind::Tree,
        "metadata" => Kind::Pairs,
        _ => Kind::Text,
    }
}

/// The kind of a field of an object. The length of a clip is a text, that of a life is not.
fn inside(object: &str, name: &str) -> Kind {
    if (object, name) == ("expires_after", "seconds") { Kind::Whole } else { of(name) }
}

/// The value of a field, as its reader will take it. The values of JSON texts are counted.
pub fn decoded(name: &str, node: Node, values: &Values) -> Node {
    decoded_as(of(name), name, node, values)
}

fn decoded_as(kind: Kind, name: &str, node: Node, values: &Values) -> Node {
    match (kind, node) {
        (Kind::Text, node) => node,
        (_, Node::Form(text)) if text == "null" => Node::Null,
        (Kind::Whole, Node::Form(text)) => decimal(&text).map_or(Node::Form(text), Node::Int),
        (Kind::Number, Node::Form(text)) => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Node::Float(value),
            _ => Node::Form(text),
        },
        (Kind::Tree, node) => named(name, unfolded(node, values), values),
        (Kind::Pairs, node) => unfolded(node, values),
        (Kind::Value | Kind::Whole | Kind::Number, node) => node,
    }
}

fn named(object: &str, node: Node, values: &Values) -> Node {
    match node {
        Node::Map(pairs) => {
            let named = pairs.into_iter().map(|(name, node)| {
                let node = decoded_as(inside(object, &name), &name, node, values);
                (name, node)
            });
            Node::Map(named.collect())
        }
        Node::List(nodes) => {
            Node::List(nodes.into_iter().map(|node| named(object, node, values)).collect())
        }
        node => node,
    }
}

/// JSON text of an object or array becomes that; all else stays, and so does one of too many values.
pub fn unfolded(node: Node, values: &Values) -> Node {
    let (Node::Text(text) | Node::Form(text)) = &node else { return node };
    if !text.trim_start().starts_with(['{', '[']) {
        return node;
    }
    values.parse(text.as_bytes()).unwrap_or(node)
}
