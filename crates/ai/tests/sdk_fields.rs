//! The tables against the SDKs: a field that an SDK can send and that no row names fails the test. `cargo xtask test` has the pinned
//! versions of the SDKs, and `cargo xtask ai-fields --newest` runs this test with the newest ones.

// clippy's exemption for tests does not cover helpers outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::Path;
use std::process::Command;

use rigbox_ai::table::{Known, Table};
use rigbox_ai::tables::Tables;
use serde::Deserialize;

/// Folder of the SDKs.
const CLIENTS: &str = "RIGBOX_AI_CLIENTS";
/// Program that prints the types of an SDK's requests.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tables/sdk_fields.py");
/// What Google's SDK keeps to itself, or, of the last one, makes into contents.
const GOOGLES_OWN: [&str; 4] =
    ["http_options", "should_return_http_response", "automatic_function_calling", "system_instruction"];
/// Fewest fields of one SDK's request. With fewer, the comparison means nothing.
const MIN_FIELDS: usize = 60;

#[derive(Deserialize)]
struct Field {
    /// What it may be; the name of a type, possibly with `[]` or `{}` behind it, begins with a capital letter.
    is: Vec<String>,
}

type Types = BTreeMap<String, BTreeMap<String, Field>>;

fn types(python: &Path, entry: &str) -> (Types, String) {
    let output = Command::new(python).args([PROGRAM, entry]).output().unwrap();
    assert!(output.status.success(), "{entry}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // The request is the first one, which a map forgets.
    let root = text.split('"').nth(1).expect("a type").to_owned();
    (serde_json::from_str(&text).unwrap(), root)
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| {
        let (head, tail) = word.split_at(word.len().min(1));
        text + &head.to_uppercase() + tail
    })
}

/// Returns the fields below `place` without a row, and the number of those with one.
fn missing(
    table: &Table,
    (types, root): (Types, String),
    is_google: bool,
    place: &[&str],
) -> (Vec<String>, usize) {
    let (mut missing, mut found) = (Vec::new(), 0);
    let (mut seen, mut queue) = (
        HashSet::new(),
        VecDeque::from([(root, place.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())]),
    );
    while let Some((name, path)) = queue.pop_front() {
        for (field, is) in types.get(&name).expect("a type") {
            let mut inner = path.clone();
            if is_google && path.is_empty() && GOOGLES_OWN.contains(&field.as_str()) {
                continue;
            }
            inner.push(if is_google { camel_case(field) } else { field.clone() });
            let knows = |path: &[String]| table.knows(&path.iter().map(String::as_str).collect::<Vec<_>>());
            let mut known = knows(&inner);
            if is_google && path.is_empty() && known == Known::No {
                inner.insert(0, "generationConfig".into());
                known = knows(&inner);
            }
            match known {
                Known::No => missing.push(inner.join(".")),
                Known::Refused | Known::Free => found += 1,
                Known::Yes => {
                    found += 1;
                    for kind in &is.is {
                        let kind = kind.trim_end_matches(['[', ']', '{', '}']);
                        if types.contains_key(kind) && seen.insert(kind.to_owned()) {
                            queue.push_back((kind.to_owned(), inner.clone()));
                        }
                    }
                }
            }
        }
    }
    (missing, found)
}

#[test]
fn every_field_of_the_sdks_has_a_row() {
    let Some(clients) = std::env::var_os(CLIENTS) else {
        eprintln!("skipped: {CLIENTS} is not set");
        return;
    };
    let python = Path::new(&clients).join("venv/bin/python");
    let tables = Tables::built_in().unwrap();
    let sdks = [
        ("anthropic", &tables.anthropic, false, &[][..]),
        ("anthropic-count", &tables.anthropic, false, &[]),
        ("openai-chat", &tables.openai_chat, false, &[]),
        ("openai-responses", &tables.openai_responses, false, &[]),
        ("google", &tables.google, true, &[]),
        ("google-contents", &tables.google, true, &["contents"]),
    ];
    let mut without = Vec::new();
    for (entry, table, is_google, place) in sdks {
        let (missing, found) = missing(table, types(&python, entry), is_google, place);
        println!("{entry}: {found} fields with a row, {} without", missing.len());
        assert!(found >= MIN_FIELDS, "{entry}: only {found} fields");
        without.extend(missing.into_iter().map(|field| format!("{entry}: {field}")));
    }
    assert!(without.is_empty(), "fields without a row in crates/ai/tables:\n{}", without.join("\n"));
}
