//! The core can do no IO, for it depends on nothing that could.

/// The manifest names the shared words and serde, and nothing else.
#[test]
fn depends_on_the_protocol_and_serde_alone() {
    let manifest = include_str!("../Cargo.toml");
    assert_eq!(named(manifest, "\n[dependencies]"), ["zoetrope-protocol", "serde"]);
    // The benchmark allocates as the coordinator does.
    assert_eq!(named(manifest, "\n[dev-dependencies]"), ["mimalloc"]);
    assert_eq!(manifest.matches("dependencies").count(), 2, "no other kind of dependency");
}

fn named<'a>(manifest: &'a str, section: &str) -> Vec<&'a str> {
    let section = manifest.split(section).nth(1).expect("the section");
    let section = section.split("\n[").next().expect("a section");
    let lines = section.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| line.split(['.', ' ', '=']).next()).collect()
}

/// No clock, no chance, no order of a hash map, no float: not even by name.
#[test]
fn names_nothing_that_a_replay_could_see_differently() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(folder).expect("the sources") {
        let path = entry.expect("a source").path();
        let text = std::fs::read_to_string(&path).expect("a source");
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for word in ["HashMap", "HashSet", "std::time", "Instant", "std::fs", "f64", "f32"] {
            assert!(!code.contains(word), "{} names {word}", path.display());
        }
    }
}
