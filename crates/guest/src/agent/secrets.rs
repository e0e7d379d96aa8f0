//! Secrets that the host delivers to this VM: the workspace's environment, for commands and for the files that login shells and services
//! read, and the workspace's own key. They are kept in memory only, because `/run` is a tmpfs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::sync::{Arc, Mutex, PoisonError};

use rigbox_proto::guest::DeliverSecretsRequest;

use crate::users::{DEFAULT_USER, User};

/// Folder of the secrets' files.
pub(super) const FOLDER: &str = "/run/rigbox";

/// File in it to which the image's `/etc/codex/config.toml` leads.
const CODEX_CONFIG: &str = "codex.toml";

/// Environment variables by name.
pub(super) type Variables = BTreeMap<String, String>;

/// The workspace's environment, as last delivered.
#[derive(Clone, Default)]
pub(super) struct Environment(Arc<Mutex<Arc<Variables>>>);

impl Environment {
    pub(super) fn current(&self) -> Arc<Variables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, variables: Variables) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(variables);
    }
}

/// Stores a delivery.
pub(super) fn store(environment: &Environment, delivery: DeliverSecretsRequest) -> io::Result<()> {
    let variables: Variables = delivery.env.into_iter().collect();
    write("env", format_env_file(&variables).as_bytes())?;
    environment.set(variables);
    if !delivery.workspace_key.is_empty() {
        write("key", delivery.workspace_key.as_bytes())?;
    }
    replace(CODEX_CONFIG, &delivery.codex_config)
}

/// Formats variables in the one way that a POSIX shell and systemd's `EnvironmentFile=` parse alike: in double quotes, with a backslash
/// before each special character.
fn format_env_file(variables: &Variables) -> String {
    let mut text = String::new();
    for (name, value) in variables {
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            if matches!(character, '"' | '\\' | '$' | '`') {
                text.push('\\');
            }
            text.push(character);
        }
        text.push_str("\"\n");
    }
    text
}

/// Writes a file unless `text` is empty, and removes the one of an earlier delivery then.
fn replace(name: &str, text: &str) -> io::Result<()> {
    if !text.is_empty() {
        return write(name, text.as_bytes());
    }
    match fs::remove_file(format!("{FOLDER}/{name}")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file for root and the developer, atomically.
fn write(name: &str, content: &[u8]) -> io::Result<()> {
    // Without a user `developer`, only root may read it.
    let group = User::find(DEFAULT_USER).map_or(0, |user| user.credentials.gid);
    let (path, new) = (format!("{FOLDER}/{name}"), format!("{FOLDER}/.{name}.new"));
    let _ = fs::remove_file(&new);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    fchown(&file, Some(0), Some(group))?;
    file.set_permissions(fs::Permissions::from_mode(0o640))?;
    file.write_all(content)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Variables with values that a shell or systemd could misinterpret.
    fn special_values() -> Variables {
        let values = [
            "",
            "plain",
            "a b",
            "a\nb\n",
            "\"q\" 'q'",
            "$HOME `id` $(id) \\",
            "\\n\\\\",
            "# no comment",
            "ä 猫",
            "\t\r",
            "a\\\nb",
        ];
        (0..).zip(values).map(|(n, value): (u8, &str)| (format!("V{n}"), value.to_owned())).collect()
    }

    #[test]
    fn shell_parses_the_env_file() {
        let mut written = tempfile::NamedTempFile::new().unwrap();
        written.write_all(format_env_file(&special_values()).as_bytes()).unwrap();
        for shell in ["sh", "bash"] {
            let script = format!("set -a; . {}; set +a; env -0", written.path().display());
            let output = Command::new(shell).args(["-c", &script]).env_clear().output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let read: Variables = text
                .split_terminator('\0')
                .filter_map(|line| line.split_once('='))
                .filter(|(name, _)| name.starts_with('V'))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            assert_eq!(read, special_values(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Applies systemd's rules for `EnvironmentFile=` (env-file.c).
    #[test]
    fn systemd_parses_the_env_file() {
        let text = format_env_file(&special_values());
        let (mut read, mut rest) = (Variables::new(), text.as_str());
        while let Some((name, after)) = rest.split_once("=\"") {
            let (mut value, mut characters) = (String::new(), after.char_indices());
            let end = loop {
                match characters.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => match characters.next().unwrap().1 {
                        special @ ('"' | '\\' | '$' | '`') => value.push(special),
                        '\n' => {}
                        other => value.extend(['\\', other]),
                    },
                    (_, other) => value.push(other),
                }
            };
            read.insert(name.to_owned(), value);
            rest = after[end + 1..].strip_prefix('\n').unwrap();
        }
        assert_eq!((read, rest), (special_values(), ""));
    }
}
