//! Folders that nobody but their owner looks into: journals hold prompts, stores hold clips that nobody published.
//! Made so by coordinator, signer and worker; never changes one that is there, which its owner may share on purpose.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Makes a folder, and those above it, for its owner alone. One that is there stays as it is.
///
/// # Errors
/// Those of the disk.
pub fn make(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The same, for a folder that a person named: says what to do where every user of the machine may look into it.
///
/// # Errors
/// As [`make`].
pub fn make_told(folder: &Path) -> io::Result<Option<String>> {
    make(folder)?;
    let mode = std::fs::metadata(folder)?.permissions().mode() & 0o777;
    let shown = folder.display();
    let open = mode & 0o007 != 0;
    Ok(open.then(|| {
        format!(
            "every user of this machine may look into {shown} (mode {mode:o}): chmod 700 {shown}"
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_private_and_what_is_open_is_told() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (above, data) = (folder.path().join("a"), folder.path().join("a/data"));
        assert_eq!(make_told(&data).expect("is made"), None);
        for made in [&above, &data] {
            let mode = std::fs::metadata(made).expect("is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", made.display());
        }
        for (mode, told) in [(0o755, true), (0o711, true), (0o750, false)] {
            std::fs::set_permissions(&data, PermissionsExt::from_mode(mode)).expect("is ours");
            let said = make_told(&data).expect("is there");
            assert_eq!(said.is_some_and(|said| said.contains(&format!("{mode:o}"))), told);
            assert_eq!(
                std::fs::metadata(&data).expect("is there").permissions().mode() & 0o777,
                mode
            );
        }
    }
}
