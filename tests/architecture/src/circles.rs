//! Files that import each other in a circle. A file imports another if it names something of it by a path (`crate::a::b`, `super::b`) outside
//! of its unit tests. A crate's root and the declarations of modules are not imports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::{root, rust_files};

/// Module path of a file, e.g. `["net", "policy"]`; empty for a crate's root.
fn module_of(source: &Path, file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(source).unwrap().with_extension("");
    let mut parts: Vec<String> =
        relative.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// Code of a file without comments and unit tests.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Paths that a file names, `crate::` and `super::` resolved. Of `a::{b, c::d}` both are returned.
fn paths(module: &[String], text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (keyword, base) in [("crate::", Vec::new()), ("super::", parent(module))] {
        for (at, _) in text.match_indices(keyword) {
            let before = text.get(..at).and_then(|before| before.chars().last());
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            expand(&base, text.get(at + keyword.len()..).unwrap_or_default(), &mut found);
        }
    }
    found
}

fn parent(module: &[String]) -> Vec<String> {
    module.split_last().map(|(_, parent)| parent.to_vec()).unwrap_or_default()
}

/// Adds the paths that start at `text`. Returns the rest after them.
fn expand<'a>(base: &[String], text: &'a str, found: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = expand(base, rest, found).trim_start();
            match rest.strip_prefix(',') {
                Some(after) if after.trim_start().starts_with('}') => return after,
                Some(after) => rest = after,
                None => return rest.strip_prefix('}').unwrap_or(rest),
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let mut path = base.to_vec();
    path.push(name.to_owned());
    match rest.strip_prefix("::") {
        Some(rest) => expand(&path, rest, found),
        None => {
            found.push(path);
            rest
        }
    }
}

/// Imports between the files of a crate.
fn imports(source: &Path) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let files: BTreeMap<Vec<String>, PathBuf> =
        rust_files(source).into_iter().map(|file| (module_of(source, &file), file)).collect();
    let mut imports: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
    for (module, file) in files.iter().filter(|(module, _)| !module.is_empty()) {
        for path in paths(module, &code(file)) {
            // The deepest file that the path leads to.
            let target = (1..=path.len()).rev().find_map(|depth| files.get(path.get(..depth)?));
            if let Some(target) = target.filter(|target| *target != file) {
                imports.entry(file.clone()).or_default().insert(target.clone());
            }
        }
    }
    imports
}

/// Returns a circle through `start`, if there is one.
fn circle(imports: &BTreeMap<PathBuf, BTreeSet<PathBuf>>, start: &PathBuf) -> Option<Vec<PathBuf>> {
    let mut stack = vec![vec![start.clone()]];
    let mut visited = BTreeSet::new();
    while let Some(path) = stack.pop() {
        for next in imports.get(path.last()?).into_iter().flatten() {
            if next == start {
                return Some(path);
            }
            if visited.insert(next.clone()) {
                let mut longer = path.clone();
                longer.push(next.clone());
                stack.push(longer);
            }
        }
    }
    None
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut sources: Vec<PathBuf> =
        fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path().join("src")).collect();
    sources.extend(
        ["bench/src", "tests/contract/src", "tests/testkit/src", "xtask/src"].map(|path| root().join(path)),
    );
    let mut circles = Vec::new();
    for source in sources {
        let imports = imports(&source);
        circles.extend(imports.keys().filter_map(|file| circle(&imports, file)));
    }
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn nested_imports_are_all_seen() {
    let module = vec!["a".to_owned(), "b".to_owned()];
    let text = "use crate::x::{y, z::W};\nuse super::c::D;\nlet v = crate::e::f();\nuse other_crate::g;";
    let mut found: Vec<String> = paths(&module, text).iter().map(|path| path.join("::")).collect();
    found.sort();
    assert_eq!(found, ["a::c::D", "e::f", "x::y", "x::z::W"]);
}
