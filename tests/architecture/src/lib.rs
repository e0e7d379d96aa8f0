//! Rules of the code base that no compiler checks, as tests: which crate may depend on which, which may not know HTTP, that no files import
//! each other in a circle, that everything bounded is documented, and the licenses and bans of `deny.toml`.

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod circles;
#[cfg(test)]
mod crates;
#[cfg(test)]
mod dependencies;

/// Returns the root of the workspace.
#[cfg(test)]
fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Returns the output of a cargo command on the workspace as it is locked.
#[cfg(test)]
fn cargo(arguments: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root())
        .args(arguments)
        .arg("--locked")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Returns the output of `cargo metadata`.
#[cfg(test)]
fn metadata() -> serde_json::Value {
    let platform = ["--filter-platform", "x86_64-unknown-linux-gnu"];
    let output = cargo(&[&["metadata", "--format-version", "1"][..], &platform].concat());
    serde_json::from_slice(&output).unwrap()
}

/// Returns the Rust files below a folder.
#[cfg(test)]
fn rust_files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
