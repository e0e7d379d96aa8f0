//! Licenses, bans and sources of dependencies, by `deny.toml`.

use std::collections::BTreeSet;
use std::fs;

use crate::{cargo, metadata, root};

fn rules() -> toml::Table {
    fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap()
}

/// Returns whether a license expression (SPDX) is satisfied. `/` is the old form of OR.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = expression.split_whitespace().collect();
    let (satisfied, rest) = either(&words, allowed);
    assert!(rest.is_empty(), "{expression}: {rest:?}");
    satisfied
}

fn either<'a>(words: &'a [&'a str], allowed: &[&str]) -> (bool, &'a [&'a str]) {
    let (mut satisfied, mut rest) = both(words, allowed);
    while let [word, after @ ..] = rest
        && *word == "OR"
    {
        let (other, next) = both(after, allowed);
        satisfied |= other;
        rest = next;
    }
    (satisfied, rest)
}

fn both<'a>(words: &'a [&'a str], allowed: &[&str]) -> (bool, &'a [&'a str]) {
    let (mut satisfied, mut rest) = one(words, allowed);
    while let [word, after @ ..] = rest
        && *word == "AND"
    {
        let (other, next) = one(after, allowed);
        satisfied &= other;
        rest = next;
    }
    (satisfied, rest)
}

fn one<'a>(words: &'a [&'a str], allowed: &[&str]) -> (bool, &'a [&'a str]) {
    match words {
        ["(", inner @ ..] => {
            let (satisfied, rest) = either(inner, allowed);
            assert_eq!(rest.first(), Some(&")"), "{words:?}");
            (satisfied, &rest[1..])
        }
        [license, "WITH", exception, rest @ ..] => {
            (allowed.contains(&format!("{license} WITH {exception}").as_str()), rest)
        }
        [license, rest @ ..] => (allowed.contains(license), rest),
        [] => panic!("a license is missing"),
    }
}

#[test]
fn dependencies_have_allowed_licenses_and_sources() {
    let rules = rules();
    let allowed = rules["licenses"]["allow"].as_array().unwrap();
    let allowed: Vec<&str> = allowed.iter().map(|license| license.as_str().unwrap()).collect();
    for package in metadata()["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let license = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no license"));
        assert!(is_allowed(license, &allowed), "{name}: {license}");
        let source = package["source"].as_str();
        assert!(source.is_none_or(|source| source.starts_with("registry+")), "{name}: {source:?}");
    }
}

#[test]
fn banned_crates_are_absent() {
    // `cargo metadata` also lists optional dependencies that no feature enables; `cargo tree` has what is built.
    let tree = cargo(&["tree", "--workspace", "--edges", "normal,build,dev", "--prefix", "none"]);
    let tree = String::from_utf8(tree).unwrap();
    let built: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(built.contains("rigboxd"), "{tree}");
    let rules = rules();
    for ban in rules["bans"]["deny"].as_array().unwrap() {
        let banned = ban["crate"].as_str().unwrap();
        assert!(!built.contains(banned), "{banned}: {}", ban["reason"].as_str().unwrap());
    }
}

#[test]
fn license_expressions_are_evaluated() {
    let allowed = ["MIT", "Apache-2.0", "ISC", "Apache-2.0 WITH LLVM-exception"];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("MIT/GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR GPL-3.0) AND ISC", true),
        ("ISC AND (GPL-2.0 OR GPL-3.0)", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
        ("GPL-3.0 WITH LLVM-exception", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}
