//! `rig ssh-key`, also as `rig ssh ls|add|rm`.

mod file;

use crate::api::{Api, SshKey};
use crate::args::{AddSshKeyArguments, SshKeyCommand};
use crate::failure::Failure;
use crate::output::{Event, Output, escape};

pub(super) async fn run(api: &Api, out: &Output, command: SshKeyCommand) -> Result<(), Failure> {
    match command {
        SshKeyCommand::Ls => ls(api, out).await,
        SshKeyCommand::Add(arguments) => add(api, out, arguments).await,
        SshKeyCommand::Rm { keys } => rm(api, out, &keys).await,
    }
}

async fn ls(api: &Api, out: &Output) -> Result<(), Failure> {
    let keys = api.ssh_keys().await?;
    out.event(&Event::SshKeys { ssh_keys: &keys })?;
    let rows = keys.iter().map(|key| {
        let optional = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let (fingerprint, last_used_at) = (optional(&key.fingerprint), optional(&key.last_used_at));
        vec![key.id.clone(), key.name.clone(), key.key_type().to_owned(), fingerprint, last_used_at]
    });
    out.table(&["ID", "NAME", "TYPE", "FINGERPRINT", "LAST USED"], rows)
}

async fn add(api: &Api, out: &Output, arguments: AddSshKeyArguments) -> Result<(), Failure> {
    let file = file::read(arguments.file)?;
    let name = arguments.name.or_else(|| file.comment().map(str::to_owned)).ok_or_else(|| {
        Failure::new("usage", format!("the key in {} has no comment; name it with --name", file.place))
    })?;
    let key = api.add_ssh_key(&name, &file.text).await?;
    let fingerprint = key.fingerprint.as_deref();
    out.event(&Event::SshKeyAdded { name: &key.name, id: &key.id, fingerprint })?;
    let fingerprint = fingerprint.unwrap_or("without a fingerprint");
    out.line(&format!(
        "SSH key {} added from {} ({})",
        escape(&key.name),
        escape(&file.place),
        escape(fingerprint)
    ))
}

async fn rm(api: &Api, out: &Output, wanted: &[String]) -> Result<(), Failure> {
    let keys = api.ssh_keys().await?;
    // All are found before one is removed.
    let mut found: Vec<&SshKey> = Vec::new();
    for text in wanted {
        let key = find(&keys, text)?;
        if !found.iter().any(|other| other.id == key.id) {
            found.push(key);
        }
    }
    for key in found {
        let response = api.remove_ssh_key(&key.id).await?;
        out.response("ssh_key_rm", response)?;
        out.line(&format!("SSH key {} removed", escape(&key.name)))?;
    }
    Ok(())
}

/// Finds a key by id, fingerprint or name. An id or a fingerprint wins; a name has to be that of one key.
fn find<'a>(keys: &'a [SshKey], text: &str) -> Result<&'a SshKey, Failure> {
    let exact = keys.iter().find(|key| key.id == text || key.fingerprint.as_deref() == Some(text));
    let named: Vec<&SshKey> = keys.iter().filter(|key| key.name == text).collect();
    match (exact, named.as_slice()) {
        (Some(key), _) => Ok(key),
        (None, [key]) => Ok(key),
        (None, []) => {
            let message = format!("SSH key `{text}` not found; `rig ssh-key ls` lists your keys");
            Err(Failure::new("not_found", message))
        }
        (None, several) => {
            let ids: Vec<&str> = several.iter().map(|key| key.id.as_str()).collect();
            let message =
                format!("{} SSH keys have the name `{text}`; use an id: {}", ids.len(), ids.join(", "));
            Err(Failure::new("ambiguous", message))
        }
    }
}
