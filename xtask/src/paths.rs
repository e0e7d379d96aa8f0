//! Paths in the checkout.

use std::path::{Path, PathBuf};

/// Returns the folder of the workspace's `Cargo.toml`.
pub(crate) fn checkout() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// Returns the path of a program that `build` produces.
pub(crate) fn program(name: &str) -> PathBuf {
    checkout().join("target/release").join(name)
}
