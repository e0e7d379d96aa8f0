//! Arrows between crates: they point one way.

use std::collections::BTreeMap;
use std::fs;

use crate::{metadata, root, rust_files};

/// Allowed dependencies of each crate below `crates/` on the others.
const ALLOWED: &[(&str, &[&str])] = &[
    ("rigbox-core", &[]),
    ("rigbox-shares", &[]),
    ("rigbox-sys", &[]),
    ("rigbox-tls", &[]),
    ("rigbox-image", &[]),
    ("rigbox-proto", &["rigbox-shares", "rigbox-sys"]),
    ("rigbox-store", &["rigbox-core", "rigbox-sys"]),
    ("rigbox-service", &["rigbox-core", "rigbox-proto", "rigbox-shares", "rigbox-ssh-keys", "rigbox-store"]),
    ("rigbox-api", &["rigbox-core", "rigbox-proto", "rigbox-service", "rigbox-shares", "rigbox-tls"]),
    (
        "rigbox-control",
        &["rigbox-api", "rigbox-core", "rigbox-proto", "rigbox-service", "rigbox-sys", "rigbox-tls"],
    ),
    ("rigbox-gateway", &["rigbox-core", "rigbox-proto", "rigbox-shares", "rigbox-sys"]),
    (
        "rigbox-edge",
        &["rigbox-core", "rigbox-gateway", "rigbox-proto", "rigbox-shares", "rigbox-sys", "rigbox-tls"],
    ),
    ("rigbox-ai", &["rigbox-core", "rigbox-proto", "rigbox-shares"]),
    ("rigbox-ssh-keys", &[]),
    ("rigbox-ssh", &["rigbox-core", "rigbox-gateway", "rigbox-proto", "rigbox-shares", "rigbox-ssh-keys"]),
    ("rigbox-node", &["rigbox-core", "rigbox-image", "rigbox-proto", "rigbox-shares", "rigbox-sys"]),
    ("rigbox-guestio", &["rigbox-core", "rigbox-proto", "rigbox-shares", "rigbox-sys"]),
    ("rigbox-guest", &["rigbox-proto", "rigbox-sys"]),
    ("rig", &[]),
    (
        "rigboxd",
        &[
            "rigbox-ai",
            "rigbox-control",
            "rigbox-core",
            "rigbox-edge",
            "rigbox-guestio",
            "rigbox-image",
            "rigbox-node",
            "rigbox-ssh",
            "rigbox-sys",
        ],
    ),
];

/// Allowed dependencies of `core`: nothing that does I/O, keeps time or runs tasks.
const CORE_DEPENDENCIES: &[&str] = &["memchr", "serde", "thiserror"];

/// Crates that read or write HTTP messages. (`http::Uri` is syntax, and gRPC's request type is tonic's.)
const HTTP_WORDS: &[&str] = &["axum", "HeaderMap", "HeaderName", "HeaderValue", "StatusCode", "http::header"];

/// Files that count the time of leases.
const LEASES: &[&str] =
    &["gateway/src/epochs.rs", "gateway/src/lease.rs", "proto/src/watch_event.rs", "service/src/gateways.rs"];

/// Clocks that somebody may set.
const SETTABLE_CLOCKS: &[&str] =
    &["SystemTime", "UNIX_EPOCH", "unix_ms", "Timestamp", "clock::now", "Realtime"];

/// Normal dependencies of each package of the workspace, by name.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let members = metadata["workspace_members"].as_array().unwrap();
    let of = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().unwrap();
        let normal = all.iter().filter(|dependency| dependency["kind"].is_null());
        normal.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect()
    };
    packages
        .iter()
        .filter(|package| members.contains(&package["id"]))
        .map(|package| (package["name"].as_str().unwrap().to_owned(), of(package)))
        .collect()
}

#[test]
fn crates_depend_on_each_other_in_one_direction() {
    let dependencies = dependencies();
    for (name, allowed) in ALLOWED {
        for dependency in dependencies.get(*name).unwrap_or_else(|| panic!("{name} is gone")) {
            let ours = dependencies.contains_key(dependency);
            assert!(
                !ours || allowed.contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
    let shipped = fs::read_dir(root().join("crates")).unwrap().count();
    assert_eq!(shipped, ALLOWED.len(), "every crate below crates/ has its rule here");
}

#[test]
fn core_is_free_of_io_tasks_and_clocks() {
    assert_eq!(dependencies()["rigbox-core"], CORE_DEPENDENCIES);
    for file in rust_files(&root().join("crates/core/src")) {
        let text = fs::read_to_string(&file).unwrap();
        for word in ["std::fs", "std::io", "std::process", "Instant::now", "SystemTime", "async fn"] {
            assert!(!text.contains(word), "{}: {word}", file.display());
        }
    }
}

#[test]
fn leases_count_by_no_clock_that_can_be_set() {
    for file in LEASES {
        let text = fs::read_to_string(root().join("crates").join(file)).unwrap();
        for word in SETTABLE_CLOCKS {
            assert!(!text.contains(word), "{file}: {word}");
        }
    }
}

#[test]
fn services_know_no_http() {
    for file in rust_files(&root().join("crates/service/src")) {
        let text = fs::read_to_string(&file).unwrap();
        for word in HTTP_WORDS {
            assert!(!text.contains(word), "{}: {word} belongs in api/middleware", file.display());
        }
    }
}

#[test]
fn unsafe_code_is_in_sys_only() {
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        if folder.ends_with("sys") {
            continue;
        }
        for file in rust_files(&folder) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains("unsafe {"), "{}", file.display());
        }
    }
}
