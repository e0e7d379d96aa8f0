//! `rig workspace env`: environment variables of a workspace. A value may come from a prompt or stdin, which keeps it out of the shell's
//! history.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::api::Api;
use crate::args::{EnvArguments, EnvCommand};
use crate::commands::hidden_value;
use crate::failure::Failure;
use crate::output::{Event, Output, escape};
use crate::terminal::Stdin;

/// Variables with which every command can be broken.
const RISKY: [&str; 4] = ["PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "HOME"];

pub(super) async fn run(api: &Api, out: &Output, command: &EnvCommand) -> Result<(), Failure> {
    match command {
        EnvCommand::Ls(workspace) => ls(api, out, workspace.name_or_id()).await,
        EnvCommand::Set(arguments) => set(api, out, arguments).await,
        EnvCommand::Unset(arguments) => unset(api, out, arguments).await,
    }
}

async fn ls(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let response = api.with_id(text, async |id| api.environment(id).await).await?;
    let variables = response.get("env_vars").and_then(Value::as_object).cloned().unwrap_or_default();
    out.response("workspace_env_ls", response)?;
    if variables.is_empty() {
        return out.line("No variables. Set one with `rig workspace env set`.");
    }
    let shown = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    out.table(&["NAME", "VALUE"], variables.iter().map(|(name, value)| vec![name.clone(), shown(value)]))
}

async fn set(api: &Api, out: &Output, arguments: &EnvArguments) -> Result<(), Failure> {
    let (workspace, words) =
        arguments.parts().ok_or_else(|| usage("NAME=VALUE, or NAME to be prompted for the value"))?;
    let vm = api.find(workspace).await?;
    let variables = variables(words)?;
    for name in variables.keys().filter(|name| RISKY.contains(name)) {
        out.warn(&format!(
            "{name} decides which programs run; a wrong value breaks every command in {}",
            vm.name
        ));
    }
    let live = api.set_variables(&vm.id, &variables).await?;
    let keys: Vec<&str> = variables.keys().copied().collect();
    out.event(&Event::Set { workspace: &vm.name, keys: &keys })?;
    print_change(out, &vm.name, &vm.status, live, &format!("{} set", escape(&keys.join(", "))))
}

async fn unset(api: &Api, out: &Output, arguments: &EnvArguments) -> Result<(), Failure> {
    let (workspace, words) = arguments.parts().ok_or_else(|| usage("NAME"))?;
    let vm = api.find(workspace).await?;
    // All or nothing: a misspelled name changes nothing.
    let response = api.environment(&vm.id).await?;
    let existing = response.get("env_vars").and_then(Value::as_object);
    let is_set = |name: &&String| existing.is_some_and(|variables| variables.contains_key(name.as_str()));
    if let Some(missing) = words.iter().find(|name| !is_set(name)) {
        let message = format!("{} has no variable `{missing}`; nothing was removed", vm.name);
        return Err(Failure::new("not_found", message));
    }
    let mut live = true;
    // A name that is given twice is removed once.
    let keys: Vec<&str> = words.iter().map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect();
    for name in &keys {
        live &= api.unset_variable(&vm.id, name).await?;
    }
    out.event(&Event::Unset { workspace: &vm.name, keys: &keys })?;
    print_change(out, &vm.name, &vm.status, live, &format!("{} removed", escape(&keys.join(", "))))
}

fn print_change(out: &Output, name: &str, status: &str, live: bool, what: &str) -> Result<(), Failure> {
    let name = escape(name);
    if live {
        return out.line(&format!("{what}. New processes in {name} will see the change."));
    }
    if status == "running" {
        out.warn(&format!("the agent of {name} is not responding; the change is delivered when it is back"));
    }
    out.line(&format!("{what}. {name} will see the change when it is running."))
}

fn usage(wanted: &str) -> Failure {
    Failure::new("usage", format!("missing variables; add {wanted} after the workspace"))
}

/// Returns the variables, with values from the command line, a prompt or stdin.
fn variables(words: &[String]) -> Result<BTreeMap<&str, String>, Failure> {
    let mut variables = BTreeMap::new();
    let prompted = words.iter().filter(|word| !word.contains('=')).count();
    for word in words {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None if prompted > 1 && Stdin::of_process() == Stdin::Data => {
                return Err(hidden_value::missing(word, "stdin can hold the value of one variable only"));
            }
            None => (word.as_str(), hidden_value::read(word, "use NAME=VALUE")?),
        };
        variables.insert(name, value);
    }
    Ok(variables)
}
