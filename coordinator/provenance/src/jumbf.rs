//! The boxes of a C2PA manifest store (JUMBF, ISO 19566-5), as far as the signer must read them.
//!
//! Strict and small on purpose: it stands in front of the private key. It shares no code with the library that
//! writes the boxes, knows no files, and takes bytes of any length within [`Limits`].

use crate::Refusal;

/// Superboxes within superboxes: a store, a manifest, its assertions, one assertion.
const DEPTH_MAX: usize = 6;
/// Boxes of one store: a manifest of ours has about fifteen, an ingredient's history adds as many.
const BOXES_MAX: usize = 1_024;

const SUPERBOX: [u8; 4] = *b"jumb";
const DESCRIPTION: [u8; 4] = *b"jumd";
/// The type of a box is the first four letters of its UUID; the rest is the same for all of C2PA's.
const UUID_TAIL: [u8; 12] =
    [0x00, 0x11, 0x00, 0x10, 0x80, 0x00, 0x00, 0xAA, 0x00, 0x38, 0x9B, 0x71];

/// The store itself.
pub const STORE: [u8; 4] = *b"c2pa";
/// A manifest.
pub const MANIFEST: [u8; 4] = *b"c2ma";
/// The assertions of a manifest.
pub const ASSERTIONS: [u8; 4] = *b"c2as";
/// The claim of a manifest.
pub const CLAIM: [u8; 4] = *b"c2cl";
/// The signature of a manifest.
pub const SIGNATURE: [u8; 4] = *b"c2cs";
/// CBOR content.
pub const CBOR: [u8; 4] = *b"cbor";
/// JSON content.
pub const JSON: [u8; 4] = *b"json";

/// A superbox: a description and what it describes.
#[derive(Debug)]
pub struct Superbox<'a> {
    /// The type: four letters.
    pub kind: [u8; 4],
    /// Its name within its parent.
    pub label: &'a str,
    /// What its description says beside that, behind its label: nothing, or a salt.
    pub beside: &'a [u8],
    /// All its bytes behind its own header: what C2PA hashes.
    pub payload: &'a [u8],
    /// Superboxes within.
    pub children: Vec<Superbox<'a>>,
    /// Other boxes within: type and content.
    pub contents: Vec<([u8; 4], &'a [u8])>,
}

impl<'a> Superbox<'a> {
    /// The only child of this type.
    ///
    /// # Errors
    /// If there is none, or a second one.
    pub fn only(&self, kind: [u8; 4]) -> Result<&Superbox<'a>, Refusal> {
        let mut found = self.children.iter().filter(|child| child.kind == kind);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            _ => Err(malformed(format!("not exactly one {} in {}", word(kind), self.label))),
        }
    }

    /// Nothing is in it but superboxes of these types, one of each, and nothing is said of it but its label.
    ///
    /// # Errors
    /// If there is more or less.
    pub fn holds(&self, label: &str, kinds: &[[u8; 4]]) -> Result<(), Refusal> {
        for kind in kinds {
            self.only(*kind)?;
        }
        if self.children.len() != kinds.len() || !self.contents.is_empty() {
            return Err(malformed(format!("more in {} than belongs there", self.label)));
        }
        self.is_plain(label)
    }

    /// Nothing is in it but one content, and nothing is said of it but its label.
    ///
    /// # Errors
    /// If there is more or less.
    pub fn holds_content(&self, label: &str) -> Result<(), Refusal> {
        if !self.children.is_empty() || self.contents.len() != 1 {
            return Err(malformed(format!("more in {} than belongs there", self.label)));
        }
        self.is_plain(label)
    }

    /// It has this label, and nothing else is said of it.
    ///
    /// # Errors
    /// If it has not, or more is.
    pub fn is_plain(&self, label: &str) -> Result<(), Refusal> {
        if self.label == label && self.beside.is_empty() {
            Ok(())
        } else {
            Err(malformed(format!("{} is not a plain {label}", self.label)))
        }
    }

    /// The only content, which must be of this type.
    ///
    /// # Errors
    /// If it is not.
    pub fn content(&self, kind: [u8; 4]) -> Result<&'a [u8], Refusal> {
        match self.contents.as_slice() {
            [(of, bytes)] if *of == kind => Ok(bytes),
            _ => Err(malformed(format!("{} is not one box of {}", self.label, word(kind)))),
        }
    }
}

/// Reads a manifest store: one superbox that uses up all bytes.
///
/// # Errors
/// `Malformed` with what is wrong.
pub fn parse(bytes: &[u8]) -> Result<Superbox<'_>, Refusal> {
    let mut left = BOXES_MAX;
    let (kind, content, rest) = next_box(bytes)?;
    if kind != SUPERBOX || !rest.is_empty() {
        return Err(malformed("the store is not one superbox".into()));
    }
    superbox(content, DEPTH_MAX, &mut left)
}

fn malformed(what: String) -> Refusal {
    Refusal::Malformed(what)
}

fn word(kind: [u8; 4]) -> String {
    kind.iter().map(|byte| char::from(*byte)).filter(char::is_ascii_graphic).collect()
}

/// The next box: type, content, and what follows.
#[expect(clippy::type_complexity, reason = "read once, by its one caller")]
fn next_box(bytes: &[u8]) -> Result<([u8; 4], &[u8], &[u8]), Refusal> {
    let cut = || malformed("a box is cut off".into());
    let head = bytes.first_chunk::<8>().ok_or_else(cut)?;
    let (length, kind) = head.split_at(4);
    let length = u32::from_be_bytes(length.try_into().unwrap_or_default()) as usize;
    // 0 (to the end) and 1 (64-bit length) are legal elsewhere; nothing of ours needs them.
    if length < 8 || length > bytes.len() {
        return Err(cut());
    }
    let kind = kind.try_into().unwrap_or_default();
    Ok((kind, &bytes[8..length], &bytes[length..]))
}

fn superbox<'a>(
    payload: &'a [u8],
    depth: usize,
    left: &mut usize,
) -> Result<Superbox<'a>, Refusal> {
    let depth = depth.checked_sub(1).ok_or_else(|| malformed("boxes nested too deep".into()))?;
    let (kind, description, mut rest) = next_box(payload)?;
    if kind != DESCRIPTION {
        return Err(malformed("a superbox without a description".into()));
    }
    let (kind, label, beside) = describe(description)?;
    let (children, contents) = (Vec::new(), Vec::new());
    let mut this = Superbox { kind, label, beside, payload, children, contents };
    while !rest.is_empty() {
        *left = left.checked_sub(1).ok_or_else(|| malformed("too many boxes".into()))?;
        let (kind, content, behind) = next_box(rest)?;
        if kind == SUPERBOX {
            this.children.push(superbox(content, depth, left)?);
        } else {
            this.contents.push((kind, content));
        }
        rest = behind;
    }
    Ok(this)
}

/// Type, label, and what follows.
fn describe(description: &[u8]) -> Result<([u8; 4], &str, &[u8]), Refusal> {
    let short = || malformed("a description is cut off".into());
    let (uuid, rest) = description.split_first_chunk::<16>().ok_or_else(short)?;
    let (toggles, rest) = rest.split_first().ok_or_else(short)?;
    // Bit 1: it has a label. Without one nothing could refer to it. Bit 4: private content (a salt) follows.
    if toggles & 0b10 == 0 {
        return Err(malformed("a box without a label".into()));
    }
    let end = rest.iter().position(|byte| *byte == 0).ok_or_else(short)?;
    let label = std::str::from_utf8(&rest[..end])
        .map_err(|_| malformed("a label that is no text".into()))?;
    let mut kind = [0; 4];
    kind.copy_from_slice(&uuid[..4]);
    if uuid[4..] != UUID_TAIL {
        // Embedded files and the like: nothing that we sign has one.
        kind = *b"????";
    }
    Ok((kind, label, &rest[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let mut bytes = (content.len() as u32 + 8).to_be_bytes().to_vec();
        bytes.extend_from_slice(kind);
        bytes.extend_from_slice(content);
        bytes
    }

    fn described(kind: &[u8; 4], label: &str, content: &[u8]) -> Vec<u8> {
        let mut description = kind.to_vec();
        description.extend_from_slice(&UUID_TAIL);
        description.push(0b11);
        description.extend_from_slice(label.as_bytes());
        description.push(0);
        let mut bytes = boxed(&DESCRIPTION, &description);
        bytes.extend_from_slice(content);
        boxed(&SUPERBOX, &bytes)
    }

    /// Promise: whatever bytes stand there, the parser answers; it never panics and never recurses far.
    #[test]
    fn cut_nested_and_forged_boxes_are_refused() {
        let good = described(&STORE, "c2pa", &described(&CLAIM, "c", &boxed(&CBOR, b"x")));
        let store = parse(&good).expect("reads");
        assert_eq!(store.only(CLAIM).expect("one").content(CBOR).expect("cbor"), b"x");
        for length in 0..good.len() {
            parse(&good[..length]).expect_err("cut off");
        }
        for at in 0..good.len() {
            let mut bent = good.clone();
            bent[at] ^= 0xff;
            drop(parse(&bent));
        }
        let mut deep = described(&STORE, "x", &[]);
        for _ in 0..DEPTH_MAX {
            deep = described(&STORE, "x", &deep);
        }
        parse(&deep).expect_err("too deep");
        let many: Vec<u8> = (0..=BOXES_MAX).flat_map(|_| boxed(&CBOR, b"")).collect();
        parse(&described(&STORE, "x", &many)).expect_err("too many");
    }
}
