//! Makes every binary and test of this package find libtorch, and keep it.
//!
//! The linker drops a library that no symbol needs, and torch registers its devices from static
//! initialisers, so `-ltorch` is kept by force. The run path is the folder that `LIBTORCH` names at build
//! time; a packaged worker has its own libtorch beside it and sets `LIBTORCH` accordingly.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
    if let Some(root) = std::env::var_os("LIBTORCH") {
        let folder = PathBuf::from(root).join("lib");
        // A relative folder would be looked up from wherever the binary is started.
        let folder = folder.canonicalize().unwrap_or(folder);
        println!("cargo:rustc-link-search=native={}", folder.display());
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
    println!("cargo:rustc-link-arg=-ltorch");
}
