//! `rig workspace env`: variables that the workspace's commands, login shells and services have. A value may be typed or piped in, so
//! that it stands in no shell's history.

use std::collections::BTreeMap;
use std::io::{Read, Write, stderr, stdin};

use serde_json::Value;

use crate::api::Api;
use crate::args::{EnvCommand, OfWorkspace};
use crate::failure::Failure;
use crate::output::{Event, Output, plain};
use crate::terminal::{Stdin, read_hidden};

/// Of a value from stdin: more than the server takes.
const LONGEST: u64 = 1024 * 1024;

pub(super) async fn run(api: &Api, out: &Output, command: &EnvCommand) -> Result<(), Failure> {
    match command {
        EnvCommand::Ls(which) => ls(api, out, which.text()).await,
        EnvCommand::Set(of) => set(api, out, of).await,
        EnvCommand::Unset(of) => unset(api, out, of).await,
    }
}

async fn ls(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let answer = api.with_id(text, async |id| api.environment(id).await).await?;
    let variables = answer.get("env_vars").and_then(Value::as_object).cloned().unwrap_or_default();
    out.answer("workspace_env_ls", answer)?;
    if variables.is_empty() {
        return out.say("no variables: `rig workspace env set` sets some");
    }
    let shown = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    out.table(&["NAME", "VALUE"], variables.iter().map(|(name, value)| vec![name.clone(), shown(value)]))
}

async fn set(api: &Api, out: &Output, of: &OfWorkspace) -> Result<(), Failure> {
    let (workspace, words) =
        of.parts().ok_or_else(|| usage("NAME=VALUE, or NAME to be asked for the value"))?;
    let vm = api.find(workspace).await?;
    let variables = variables(words)?;
    let live = api.set_variables(&vm.id, &variables).await?;
    let keys: Vec<&str> = variables.keys().copied().collect();
    out.event(&Event::Set { workspace: &vm.name, keys: &keys })?;
    told(out, &vm.name, &vm.status, live, &format!("{} set", plain(&keys.join(", "))))
}

async fn unset(api: &Api, out: &Output, of: &OfWorkspace) -> Result<(), Failure> {
    let (workspace, words) = of.parts().ok_or_else(|| usage("NAME"))?;
    let vm = api.find(workspace).await?;
    let (mut keys, mut live) = (Vec::new(), true);
    for name in words {
        live &= api.unset_variable(&vm.id, name).await?;
        keys.push(name.as_str());
    }
    out.event(&Event::Unset { workspace: &vm.name, keys: &keys })?;
    told(out, &vm.name, &vm.status, live, &format!("{} removed", plain(&keys.join(", "))))
}

fn told(out: &Output, name: &str, status: &str, live: bool, what: &str) -> Result<(), Failure> {
    let name = plain(name);
    if live {
        return out.say(&format!("{what}; what begins in {name} from now on knows"));
    }
    if status == "running" {
        out.warn(&format!("the agent of {name} does not answer: it is told when it is back"));
    }
    out.say(&format!("{what}; {name} knows when it runs"))
}

fn usage(wanted: &str) -> Failure {
    Failure::new("usage", format!("which variables? After the workspace, give {wanted}"))
}

/// What was said on the command line, typed, or piped in.
fn variables(words: &[String]) -> Result<BTreeMap<&str, String>, Failure> {
    let mut variables = BTreeMap::new();
    let asked = words.iter().filter(|word| !word.contains('=')).count();
    for word in words {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (word.as_str(), value_of(word, asked)?),
        };
        variables.insert(name, value);
    }
    Ok(variables)
}

fn value_of(name: &str, asked: usize) -> Result<String, Failure> {
    let missing = |why: &str| Failure::new("usage", format!("no value for `{name}`: {why}"));
    match Stdin::of_process() {
        Stdin::Terminal => {
            let _ = write!(stderr(), "{}: ", plain(name));
            let typed = read_hidden();
            let _ = writeln!(stderr());
            let unread = |error| missing(&format!("the terminal cannot be read: {error}"));
            typed.map_err(unread)?.ok_or_else(|| Failure::new("cancelled", "nothing was set"))
        }
        Stdin::Null => Err(missing("give NAME=VALUE, or the value on stdin")),
        Stdin::Data if asked > 1 => Err(missing("stdin has the value of one variable only")),
        Stdin::Data => {
            let mut value = String::new();
            let read = stdin().lock().take(LONGEST).read_to_string(&mut value);
            read.map_err(|error| missing(&format!("stdin cannot be read: {error}")))?;
            // As a file or `echo` ends.
            if value.ends_with('\n') {
                value.pop();
            }
            Ok(value)
        }
    }
}
