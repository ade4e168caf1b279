//! Promise: the signer signs no claim that says more, or covers less, than an honest worker's. Manifests are taken apart
//! here, changed, and put together so that all their hashes are right.

use super::{clip, held, terms};
use ciborium::Value;
use sha2::{Digest, Sha256};
use zoetrope_provenance::{Credential, Refusal, Signer, build};

const BINDING: &str = "c2pa.hash.bmff.v3";
const ACTIONS: &str = "c2pa.actions.v2";

/// A box: its kind, and its content or the boxes in it.
#[derive(Clone)]
enum Node {
    Leaf([u8; 4], Vec<u8>),
    Super(Vec<Node>),
}

impl Node {
    fn read(bytes: &[u8]) -> Vec<Node> {
        let (mut all, mut rest) = (Vec::new(), bytes);
        while let Some((length, _)) = rest.split_first_chunk::<4>() {
            let (this, behind) = rest.split_at(u32::from_be_bytes(*length) as usize);
            let kind = this[4..8].try_into().expect("four");
            all.push(match &kind {
                b"jumb" => Node::Super(Node::read(&this[8..])),
                _ => Node::Leaf(kind, this[8..].to_vec()),
            });
            rest = behind;
        }
        all
    }

    /// What stands in it, behind its head.
    fn payload(&self) -> Vec<u8> {
        match self {
            Node::Leaf(_, content) => content.clone(),
            Node::Super(parts) => parts.iter().flat_map(Node::bytes).collect(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let (payload, kind) = match self {
            Node::Leaf(kind, _) => (self.payload(), kind),
            Node::Super(_) => (self.payload(), b"jumb"),
        };
        let length = (payload.len() as u32 + 8).to_be_bytes();
        [&length[..], kind, &payload].concat()
    }

    /// The box of this label in it, at any depth.
    fn labelled(&mut self, label: &str) -> Option<&mut Node> {
        let description = |node: &Node| {
            let Node::Super(parts) = node else { return None };
            let Some(Node::Leaf(_, description)) = parts.first() else { return None };
            Some(description[17..].split(|byte| *byte == 0).next()?.to_vec())
        };
        if description(self).is_some_and(|own| own == label.as_bytes()) {
            return Some(self);
        }
        let Node::Super(parts) = self else { return None };
        parts.iter_mut().find_map(|part| part.labelled(label))
    }

    /// Changes its CBOR.
    fn change(&mut self, change: impl FnOnce(&mut Value)) {
        let Node::Super(parts) = self else { panic!("no superbox") };
        let Some(Node::Leaf(_, content)) = parts.get_mut(1) else { panic!("no content") };
        let mut value = ciborium::from_reader(content.as_slice()).expect("CBOR");
        change(&mut value);
        content.clear();
        ciborium::into_writer(&value, content).expect("writes");
    }
}

fn of<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    let pairs = value.as_map_mut().expect("a map");
    let found = pairs.iter_mut().find(|(of, _)| of.as_text() == Some(key));
    &mut found.unwrap_or_else(|| panic!("no {key}")).1
}

fn add(value: &mut Value, key: &str, what: impl Into<Value>) {
    value.as_map_mut().expect("a map").push((key.into(), what.into()));
}

fn drop_key(value: &mut Value, key: &str) {
    value.as_map_mut().expect("a map").retain(|(of, _)| of.as_text() != Some(key));
}

fn map(key: &str, what: impl Into<Value>) -> Value {
    Value::Map(vec![(key.into(), what.into())])
}

/// The manifest store with an assertion, or the claim, changed; all hashes in the claim are right.
fn forged(manifest: &[u8], label: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut store = Node::read(manifest).remove(0);
    let changed = store.labelled(label).expect("is there");
    changed.change(change);
    let hash: [u8; 32] = Sha256::digest(changed.payload()).into();
    store.labelled("c2pa.claim.v2").expect("a claim").change(|claim| {
        for list in ["created_assertions", "gathered_assertions"] {
            for one in of(claim, list).as_array_mut().expect("a list") {
                if of(one, "url").as_text().is_some_and(|url| url.ends_with(label)) {
                    *of(one, "hash") = Value::Bytes(hash.to_vec());
                }
            }
        }
    });
    store.bytes()
}

type Change = fn(&mut Value);

/// Promise: what is signed covers the whole film and says what the terms say, and not a word more.
#[test]
fn a_claim_that_covers_less_or_says_more_is_not_signed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let signer = Signer::new(Credential::open(&folder.path().join("ca")).expect("certificates"));
    let (source, target) = (clip(folder.path(), "clip.mp4"), folder.path().join("draft.mp4"));
    let manifest = build::draft(&terms(), None, &source, &target).expect("is written").manifest;
    let mut attempt = 0;
    let mut sign = |manifest: &[u8]| {
        attempt += 1;
        signer.sign(held(attempt), &terms(), manifest)
    };
    for label in [BINDING, ACTIONS, "c2pa.claim.v2"] {
        sign(&forged(&manifest, label, |_| ())).expect("only put together again");
    }
    let left_out = |more: Value| {
        move |value: &mut Value| of(value, "exclusions").as_array_mut().expect("a list").push(more)
    };
    let of_samples = forged(&manifest, BINDING, left_out(map("xpath", "/mdat")));
    let of_tables = forged(&manifest, BINDING, left_out(map("xpath", "/moov/trak")));
    let bindings: [Change; 9] = [
        |value| drop_key(value, "hash"),
        |value| *of(value, "hash") = Value::Bytes(Vec::new()),
        |value| *of(value, "alg") = "sha512".into(),
        |value| drop_key(value, "alg"),
        |value| add(value, "merkle", Vec::<Value>::new()),
        |value| add(value, "url", "https://example.org/hash"),
        |value| *of(value, "name") = "a word of mine".into(),
        |value| {
            of(value, "exclusions").as_array_mut().expect("a list").pop();
        },
        // Boxes of any kind, as long as nothing is said of their content.
        |value| drop_key(&mut of(value, "exclusions").as_array_mut().expect("a list")[0], "data"),
    ];
    fn first(value: &mut Value) -> &mut Value {
        &mut of(value, "actions").as_array_mut().expect("a list")[0]
    }
    let actions: [Change; 6] = [
        |value| add(first(value), "description", "made by hand"),
        |value| add(first(value), "softwareAgent", "a camera"),
        |value| add(first(value), "parameters", map("name", "somebody")),
        |value| add(value, "metadata", map("dateTime", "1999-01-01T00:00:00Z")),
        |value| drop_key(first(value), "digitalSourceType"),
        |value| {
            let list = of(value, "actions").as_array_mut().expect("a list");
            list.push(map("action", "c2pa.color_adjustments"));
        },
    ];
    let claims: [Change; 4] = [
        |value| add(of(value, "claim_generator_info"), "icon", "a picture"),
        |value| *of(of(value, "claim_generator_info"), "org.contentauth.c2pa_rs") = "words".into(),
        |value| *of(value, "instanceID") = "xmp:iid:whatever I want to have signed".into(),
        |value| add(value, "dc:format", "text/plain"),
    ];
    let all = bindings.map(|change| forged(&manifest, BINDING, change)).into_iter();
    let all = all.chain(actions.map(|change| forged(&manifest, ACTIONS, change)));
    let all = all.chain(claims.map(|change| forged(&manifest, "c2pa.claim.v2", change)));
    for (n, wrong) in all.chain([of_samples, of_tables]).enumerate() {
        let signed = sign(&wrong);
        assert!(matches!(signed, Err(Refusal::Terms(_))), "{n}: {signed:?}");
    }
}
