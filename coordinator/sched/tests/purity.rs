//! The core can do no IO, for it depends on nothing that could.

/// The manifest names the shared words and serde, and nothing else.
#[test]
fn depends_on_the_protocol_and_serde_alone() {
    let manifest = include_str!("../Cargo.toml");
    let section = manifest.split("[dependencies]").nth(1).expect("dependencies");
    let section = section.split("\n[").next().expect("a section");
    let names: Vec<&str> = section
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .collect();
    assert_eq!(names, ["zoetrope-protocol", "serde"]);
    assert_eq!(manifest.matches("dependencies").count(), 1, "no other kind of dependency");
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
