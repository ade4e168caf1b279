//! Promise: the signer signs no claim that says more, or covers less, than an honest worker's. Manifests are taken apart
//! here, changed, and put together so that all their hashes are right.

use super::{clip, held, terms};
use ciborium::Value;
use sha2::{Digest, Sha256};
use zoetrope_provenance::{Credential, Refusal, Signer, State, Trust, build, built, claim, read};

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

    fn parts(&mut self) -> &mut Vec<Node> {
        match self {
            Node::Super(parts) => parts,
            Node::Leaf(..) => panic!("no superbox"),
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
    fn first_named(value: &mut Value) -> &mut Value {
        &mut of(value, "created_assertions").as_array_mut().expect("a list")[0]
    }
    let claims: [Change; 7] = [
        |value| add(first_named(value), "title", "a word of mine"),
        |value| *of(value, "signature") = "a word of mine".into(),
        |value| {
            let signature = of(value, "signature");
            let text = signature.as_text().expect("text").to_owned();
            *signature = format!("{text}?a=word").into();
        },
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
    // One key twice: to this reader the last counts, to another the first. And blanks, of which none are needed.
    let render = |change: &dyn Fn(&str) -> String| {
        rewritten(&manifest, "org.zoetrope.render", |parts| {
            let Some(Node::Leaf(_, content)) = parts.get_mut(1) else { panic!("no content") };
            let text = String::from_utf8(content.clone()).expect("text");
            *content = change(&text).into_bytes();
        })
    };
    sign(&render(&|text| text.to_owned())).expect("only put together again");
    for more in ["{\"provider\":\"somebody\",", "{\"provider\":\"Zoetrope\",", "{ "] {
        let signed = sign(&render(&|text| text.replacen('{', more, 1)));
        assert!(matches!(signed, Err(Refusal::Terms(_))), "{more}: {signed:?}");
    }
    let named = rewritten(&manifest, "org.zoetrope.render", |parts| {
        let Some(Node::Leaf(_, description)) = parts.first_mut() else { panic!("no description") };
        let label = description[17..].iter().position(|byte| *byte == 0).expect("ends") + 17;
        description.splice(label..label, *b"__a word of mine");
    });
    assert!(sign(&named).is_err(), "a name that says something");
}

/// The box of this label with its parts changed, description first; the hashes in the claim are right.
fn rewritten(manifest: &[u8], label: &str, change: impl FnOnce(&mut Vec<Node>)) -> Vec<u8> {
    let mut store = Node::read(manifest).remove(0);
    let Some(Node::Super(parts)) = store.labelled(label) else { panic!("no superbox") };
    change(parts);
    let hash: [u8; 32] = Sha256::digest(Node::Super(parts.clone()).payload()).into();
    let name = parts[0].payload()[17..].split(|byte| *byte == 0).next().map(<[u8]>::to_vec);
    let name = String::from_utf8(name.expect("a label")).expect("text");
    store.labelled("c2pa.claim.v2").expect("a claim").change(|claim| {
        for list in ["created_assertions", "gathered_assertions"] {
            for one in of(claim, list).as_array_mut().expect("a list") {
                let url = of(one, "url").as_text().expect("text").to_owned();
                if let Some(front) = url.strip_suffix(label) {
                    *of(one, "url") = format!("{front}{name}").into();
                    *of(one, "hash") = Value::Bytes(hash.to_vec());
                }
            }
        }
    });
    store.bytes()
}

/// Promise: not a byte of a signed manifest can be another one unseen, also where no signature covers it.
#[test]
fn whoever_has_a_claim_signed_knows_the_whole_manifest() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let signer = Signer::new(Credential::open(&folder.path().join("ca")).expect("certificates"));
    let (source, target) = (clip(folder.path(), "clip.mp4"), folder.path().join("signed.mp4"));
    let draft = build::draft(&terms(), None, &source, &target).expect("is written");
    let envelope = signer.sign(held(1), &terms(), &draft.manifest).expect("is signed").envelope;
    let sealed = claim::check(&draft.manifest, &terms()).expect("is right").sealed(&envelope);
    draft.complete(&envelope).expect("is written");
    assert_eq!(built(&target).expect("reads"), Ok(sealed));
    // The pads of the envelope are in front of its last part, the signature itself.
    let file = std::fs::read(&target).expect("reads");
    let at = file.windows(envelope.len()).position(|bytes| bytes == envelope).expect("is there");
    let mut padded = file;
    padded[at + envelope.len() - 100] ^= 1;
    std::fs::write(&target, padded).expect("writes");
    let roots = signer.credential().root.clone();
    let read = read("video/mp4", std::fs::File::open(&target).expect("reads"), &Trust { roots });
    assert_eq!(read.state, State::Trusted, "a reader sees no difference: {:?}", read.failures);
    assert_ne!(built(&target).expect("reads"), Ok(sealed));
}

/// Promise: there is nothing in a manifest but what its claim names: it would be published, and nobody has judged it. Neither
/// when it is signed nor when the stored file is read.
#[test]
fn a_manifest_with_more_in_it_than_its_claim_names_is_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let signer = Signer::new(Credential::open(&folder.path().join("ca")).expect("certificates"));
    let (source, target) = (clip(folder.path(), "clip.mp4"), folder.path().join("draft.mp4"));
    let draft = build::draft(&terms(), None, &source, &target).expect("is written");
    let manifest = draft.manifest.clone();
    assert_eq!(claim::structure(&manifest), Ok(()));
    assert!(built(&target).expect("reads").is_ok());
    signer.sign(held(1), &terms(), &manifest).expect("is signed");
    let more = || Node::Leaf(*b"bidb", b"a picture that nobody has seen".to_vec());
    let described = |kind: &[u8; 4], label: &str| {
        let tail = [0x00, 0x11, 0x00, 0x10, 0x80, 0x00, 0x00, 0xaa, 0x00, 0x38, 0x9b, 0x71];
        let description = [&kind[..], &tail, &[3], label.as_bytes(), &[0]].concat();
        Node::Super(vec![Node::Leaf(*b"jumd", description), more()])
    };
    let own = Node::read(&manifest).remove(0);
    let Node::Super(parts) = &own else { panic!("no store") };
    let Node::Leaf(_, description) = parts[1].clone().parts()[0].clone() else { panic!("none") };
    let urn = String::from_utf8(description[17..description.len() - 1].to_vec()).expect("text");
    let mut wrong = Vec::new();
    for label in ["c2pa", &urn, "c2pa.assertions", "c2pa.claim.v2", "c2pa.signature"] {
        let changed = |change: &dyn Fn(&mut Vec<Node>)| {
            let mut store = own.clone();
            change(store.labelled(label).expect("is there").parts());
            store.bytes()
        };
        wrong.push((label, changed(&|parts| parts.push(more()))));
        wrong.push((label, changed(&|parts| parts.push(described(b"c2db", "c2pa.databoxes")))));
        wrong.push((
            label,
            changed(&|parts| {
                let Node::Leaf(_, description) = &mut parts[0] else { panic!("no description") };
                description[16] |= 0b1_0000;
                description.extend_from_slice(&Node::Leaf(*b"c2sh", vec![7; 16]).bytes());
            }),
        ));
    }
    // A salt is random, and has the length of one.
    for words in [400, 1] {
        let salted = rewritten(&manifest, "c2pa.actions.v2", |parts| {
            let Node::Leaf(_, description) = &mut parts[0] else { panic!("no description") };
            let end = description[17..].iter().position(|byte| *byte == 0).expect("ends") + 18;
            description.truncate(end);
            description[16] |= 0b1_0000;
            description.extend_from_slice(&Node::Leaf(*b"c2sh", vec![b'x'; words]).bytes());
        });
        wrong.push(("a salt of words", salted));
    }
    for (n, (label, wrong)) in (2..).zip(&wrong) {
        assert!(claim::structure(wrong).is_err(), "{n} {label}");
        signer.sign(held(n), &terms(), wrong).expect_err("is not signed");
        // In a file it is found too.
        let file = std::fs::read(&target).expect("reads");
        let at = file.windows(manifest.len()).position(|bytes| bytes == manifest).expect("there");
        let mut changed = [&file[..at], &wrong[..], &file[at + manifest.len()..]].concat();
        let length = (45 + wrong.len() as u32).to_be_bytes();
        changed[at - 45..at - 41].copy_from_slice(&length);
        let path = folder.path().join("changed.mp4");
        std::fs::write(&path, changed).expect("writes");
        assert!(built(&path).expect("reads").is_err(), "{n} {label}");
    }
    assert!(built(&source).expect("reads").is_err(), "no manifest at all");
}
