//! `rig cp`: files and directories as a tar archive, which a `tar` in the workspace writes or reads. The archive from a workspace is hostile:
//! `unpack` creates nothing outside of the target.

mod pack;
mod unpack;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::exec::end::End;
use super::exec::sink::Sink;
use super::exec::{run_with_input, run_without_input};
use crate::api::{Api, RESPONSE_TIMEOUT, Vm};
use crate::failure::Failure;
use crate::output::Output;

/// Parts of an archive under way.
const QUEUE_LEN: usize = 16;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Local(&'a Path),
    Remote { workspace: &'a str, path: &'a str },
}

impl<'a> Place<'a> {
    fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            // `./a:b` and `/a:b` are local.
            Some((workspace, path)) if !workspace.is_empty() && !workspace.contains(['/', '.']) => {
                Self::Remote { workspace, path: if path.is_empty() { "." } else { path } }
            }
            _ => Self::Local(Path::new(text)),
        }
    }
}

pub(super) async fn run(
    api: &Api,
    out: &Output,
    source: &str,
    target: &str,
    user: Option<String>,
) -> Result<(), Failure> {
    match (Place::parse(source), Place::parse(target)) {
        (Place::Local(source), Place::Remote { workspace, path }) => {
            upload(api, out, source, (&api.find(workspace).await?, path), user).await
        }
        (Place::Remote { workspace, path }, Place::Local(target)) => {
            download(api, out, (&api.find(workspace).await?, path), target, user).await
        }
        _ => Err(Failure::new("usage", "exactly one of source and target must be WORKSPACE:PATH")),
    }
}

async fn upload(
    api: &Api,
    out: &Output,
    source: &Path,
    (vm, path): (&Vm, &str),
    user: Option<String>,
) -> Result<(), Failure> {
    let own_name = source.canonicalize().ok().and_then(|path| path.file_name().map(ToOwned::to_owned));
    let own_name = own_name.ok_or_else(|| {
        Failure::new("not_found", format!("{}: no such file or directory", source.display()))
    })?;
    // Into a directory that exists, else under the new name.
    let (directory, name) = if path.ends_with('/') || is_directory(api, vm, path, user.as_deref()).await? {
        (path.to_owned(), own_name)
    } else {
        let (directory, name) = split(path);
        (directory.to_owned(), name.into())
    };
    let progress = out.progress();
    progress.set_message(&format!("copying to {}", vm.name));
    #[expect(clippy::disallowed_methods, reason = "parts of one copy")]
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let packing = tokio::task::spawn_blocking({
        let source = source.to_owned();
        move || pack::pack(&source, Path::new(&name), sender)
    });
    // Its own owner and time, but the modes of the source.
    let command = words(&["tar", "--extract", "--file=-", "--no-same-owner", "--directory", &directory]);
    let mut sink = Sink::new(out);
    let end = run_with_input(api, &vm.id, (command, user), pack::reader(receiver), &mut sink).await?;
    check(end)?;
    let bytes = packing.await.map_err(|error| Failure::new("internal", error.to_string()))??;
    drop(progress);
    report(out, bytes)
}

async fn download(
    api: &Api,
    out: &Output,
    (vm, path): (&Vm, &str),
    target: &Path,
    user: Option<String>,
) -> Result<(), Failure> {
    let progress = out.progress();
    progress.set_message(&format!("copying from {}", vm.name));
    let (directory, name) = split(path);
    if matches!(name, "" | "." | "..") {
        return Err(Failure::new(
            "usage",
            format!("`{path}` has no name to copy under; name a file or directory"),
        ));
    }
    #[expect(clippy::disallowed_methods, reason = "parts of one copy")]
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let unpacking = tokio::task::spawn_blocking({
        let (name, target) = (PathBuf::from(name), target.to_owned());
        move || unpack::unpack(receiver, &name, &target)
    });
    let command = words(&["tar", "--create", "--file=-", "--directory", directory, "--", name]);
    let mut sink = Sink::capturing(out, sender);
    let end = run_without_input(api, &vm.id, (command, user), &mut sink).await;
    // Its end is that of the archive.
    drop(sink);
    let unpacked = unpacking.await.map_err(|error| Failure::new("internal", error.to_string()))?;
    check(end?)?;
    let unpacked = unpacked?;
    drop(progress);
    for skipped in &unpacked.skipped {
        out.warn(&format!("skipped {}: neither file, directory nor link", skipped.display()));
    }
    report(out, unpacked.bytes)
}

fn report(out: &Output, bytes: u64) -> Result<(), Failure> {
    out.response("cp", [("bytes".to_owned(), json!(bytes))].into_iter().collect())?;
    out.line(&format!("{bytes} bytes copied"))
}

fn check(end: End) -> Result<(), Failure> {
    match end {
        End::Code(0) => Ok(()),
        End::Code(code) => {
            Err(Failure::new("copy_failed", format!("tar in the workspace exited with {code}")))
        }
        End::Failed { code, message } => Err(Failure::new(code, message)),
    }
}

async fn is_directory(api: &Api, vm: &Vm, path: &str, user: Option<&str>) -> Result<bool, Failure> {
    // With a slash a link to a directory is one too.
    let followed = format!("{path}/.");
    let mut query = vec![("path", followed.as_str())];
    query.extend(user.map(|user| ("user", user)));
    let stat: Result<Map<String, Value>, _> =
        api.get_with(&["workspaces", &vm.id, "files", "stat"], &query, RESPONSE_TIMEOUT).await;
    match stat {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() || error.code() == "bad_request" => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Splits a path in the workspace into directory and name. A relative one starts at the user's home, where commands run too.
fn split(path: &str) -> (&str, &str) {
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((directory, name)) => (directory, name),
        None => (".", path),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspace_and_path_are_told_from_local_paths() {
        let remote = |workspace, path| Place::Remote { workspace, path };
        for (text, place) in [
            ("web:/tmp/x", remote("web", "/tmp/x")),
            ("web:", remote("web", ".")),
            ("ws-abcdefg2:a:b", remote("ws-abcdefg2", "a:b")),
            ("./web:x", Place::Local(Path::new("./web:x"))),
            ("/a:b", Place::Local(Path::new("/a:b"))),
            ("file", Place::Local(Path::new("file"))),
        ] {
            assert_eq!(Place::parse(text), place, "{text}");
        }
        assert_eq!(split("/a/b/"), ("/a", "b"));
        assert_eq!(split("/a"), ("/", "a"));
        assert_eq!(split("a"), (".", "a"));
    }
}
