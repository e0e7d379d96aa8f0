//! Table of everything that is bounded, generated from the code into `docs/bounds.md`: the pools with a share per tenant, the semaphores and
//! channels without one and why, and the limits (`MAX_…`). `RIGBOX_BLESS=1` writes it.

use std::fmt::Write;
use std::path::Path;

use crate::{root, rust_files};

/// Programs and libraries of the roles, in the order of the document.
const PARTS: [(&str, &[&str]); 7] = [
    ("control", &["control", "api", "service", "store"]),
    ("edge", &["edge", "gateway"]),
    ("ssh", &["ssh", "ssh-keys"]),
    ("ai", &["ai"]),
    ("guestio", &["guestio", "proto"]),
    ("node", &["node", "sys"]),
    ("the agent in a VM", &["guest"]),
];

const INTRODUCTION: &str = "# Bounds

What every role holds for its clients is bounded, so that nobody takes what others need. The tables are generated from the code
(`tests/architecture/src/bounds.rs`). Limits of plans and rates are in the [configuration](configuration.md), those of a VM's network
there too. The supervisor bounds each role's memory and descriptors besides (`crates/rigboxd/src/role`).

- **Shares**: pools of which one tenant gets a part only: per workspace, user, app or client network.
- **Others**: semaphores and channels without a share, and why they need none.
- **Limits**: sizes and numbers.
";

/// Constant with its documentation.
struct Constant {
    name: String,
    value: String,
    meaning: String,
    place: String,
}

/// Semaphore or channel outside of `shares`.
struct Exception {
    reason: String,
    place: String,
}

/// Reads a file up to its tests.
fn code_of(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned()
}

fn constants(text: &str, place: &str) -> Vec<Constant> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let declaration = line.trim_start();
        let declaration = declaration
            .strip_prefix("pub ")
            .or_else(|| declaration.strip_prefix("pub(")?.split_once(") ").map(|(_, rest)| rest))
            .unwrap_or(declaration);
        let Some((name, rest)) = declaration.strip_prefix("const ").and_then(|rest| rest.split_once(": "))
        else {
            continue;
        };
        let statement = std::iter::once(rest).chain(lines.iter().skip(number + 1).copied());
        let mut whole = String::new();
        for part in statement {
            let _ = write!(whole, "{} ", part.trim());
            if part.ends_with(';') {
                break;
            }
        }
        let Some((_, value)) = whole.trim().trim_end_matches(';').split_once(" = ") else { continue };
        let is_pool = value.starts_with("Bounds {") && value.contains("per_key: ");
        if !name.starts_with("MAX_") && !is_pool {
            continue;
        }
        let doc: Vec<&str> =
            lines[..number].iter().rev().map_while(|line| line.trim_start().strip_prefix("///")).collect();
        let meaning = doc.into_iter().rev().map(str::trim).collect::<Vec<_>>().join(" ");
        let words = name.trim_start_matches("MAX_").to_lowercase().replace('_', " ");
        found.push(Constant {
            name: name.to_owned(),
            value: value.to_owned(),
            meaning: if meaning.is_empty() { format!("Maximum: {words}.") } else { meaning },
            place: place.to_owned(),
        });
    }
    found
}

/// Pools whose bounds are no constants. The comment above says what they are for.
fn inline_pools(text: &str, place: &str) -> Vec<Constant> {
    let lines: Vec<&str> = text.lines().collect();
    let is_pool =
        |line: &str| line.contains("Bounds {") && line.contains("per_key: ") && !line.contains("const ");
    let pools = lines.iter().enumerate().filter(|(_, line)| is_pool(line));
    pools
        .map(|(number, line)| {
            let comment: Vec<&str> = lines[..number]
                .iter()
                .rev()
                .map_while(|line| line.trim_start().strip_prefix("// "))
                .collect();
            assert!(!comment.is_empty(), "{place}: say in a comment above what is bounded: {line}");
            Constant {
                name: String::new(),
                value: (*line).to_owned(),
                meaning: comment.into_iter().rev().collect::<Vec<_>>().join(" "),
                place: place.to_owned(),
            }
        })
        .collect()
}

fn exceptions(text: &str, place: &str) -> Vec<Exception> {
    let mut found = Vec::new();
    for part in text.split("clippy::disallowed_methods").skip(1) {
        let Some(reason) = part.split_once("reason = \"").and_then(|(_, rest)| rest.split_once('"')) else {
            continue;
        };
        let words = reason.0.replace("\\\n", "");
        let reason = words.split_whitespace().collect::<Vec<_>>().join(" ");
        if reason.starts_with("bound: ") {
            found.push(Exception {
                reason: reason.trim_start_matches("bound: ").to_owned(),
                place: place.to_owned(),
            });
        }
    }
    found
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace("[`", "`").replace("`]", "`")
}

fn shares(constant: &Constant) -> Option<(String, String)> {
    let field = |name: &str| {
        let (_, rest) = constant.value.split_once(&format!("{name}: "))?;
        Some(rest.split([',', '}', ')']).next().unwrap_or_default().trim().to_owned())
    };
    Some((field("total")?, field("per_key")?))
}

fn document() -> String {
    let root = root();
    let mut document = INTRODUCTION.to_owned();
    for (part, crates) in PARTS {
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for name in crates {
            let folder = root.join("crates").join(name).join("src");
            let mut files = rust_files(&folder);
            files.sort();
            for file in files {
                let place = file.strip_prefix(root.join("crates")).unwrap().display().to_string();
                let place = place.replace("/src/", "/");
                let is_test =
                    place.split('/').any(|word| word.starts_with("test") || word.starts_with("fuzz"));
                if !is_test {
                    let text = code_of(&file);
                    found.extend(constants(&text, &place));
                    found.extend(inline_pools(&text, &place));
                    others.extend(exceptions(&text, &place));
                }
            }
        }
        let _ = writeln!(document, "\n## {}{}", part[..1].to_uppercase(), &part[1..]);
        let (pools, limits): (Vec<_>, Vec<_>) =
            found.iter().partition(|constant| constant.value.contains("Bounds {"));
        if !pools.is_empty() {
            document.push_str("\n| shares | in all | of one | in |\n| --- | --- | --- | --- |\n");
        }
        for pool in pools {
            let (total, per_key) = shares(pool).unwrap_or_else(|| panic!("{}: {}", pool.place, pool.name));
            let _ = writeln!(
                document,
                "| {} | `{total}` | `{per_key}` | `{}` |",
                cell(&pool.meaning),
                pool.place
            );
        }
        if !others.is_empty() {
            document.push_str("\n| others | in |\n| --- | --- |\n");
        }
        for other in &others {
            let _ = writeln!(document, "| {} | `{}` |", cell(&other.reason), other.place);
        }
        if !limits.is_empty() {
            document.push_str("\n| limit | value | meaning | in |\n| --- | --- | --- | --- |\n");
        }
        for limit in limits {
            let Constant { name, value, meaning, place, .. } = limit;
            let _ = writeln!(document, "| `{name}` | `{}` | {} | `{place}` |", cell(value), cell(meaning));
        }
    }
    document
}

#[test]
fn table_of_bounds_is_up_to_date() {
    let path = root().join("docs/bounds.md");
    let document = document();
    if std::env::var_os("RIGBOX_BLESS").is_some() {
        std::fs::write(&path, &document).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == document, "docs/bounds.md is out of date; run this test with RIGBOX_BLESS=1");
}

#[test]
fn constants_and_reasons_are_found() {
    let text = "/// Calls to\n/// guests.\npub const CALLS: Bounds = Bounds {\n    total: 4,\n    per_key: 2,\n};\nconst MAX_BYTES: usize = 1;\n\
                #[expect(clippy::disallowed_methods, reason = \"bound: one per VM; no tenant shares it\")]\n";
    let found = constants(text, "x");
    assert_eq!(found.len(), 2);
    assert_eq!(shares(&found[0]), Some(("4".to_owned(), "2".to_owned())));
    assert_eq!(found[0].meaning, "Calls to guests.");
    assert_eq!(found[1].meaning, "Maximum: bytes.");
    assert_eq!(exceptions(text, "x")[0].reason, "one per VM; no tenant shares it");
}
