//! Program, arguments and environment of a command, from the host's request.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rigbox_proto::guest::{Error, ExecStart};

use crate::agent::secrets::Variables;
use crate::users::User;

/// Creates an error for the caller.
pub(super) fn error(code: &str, message: impl Into<String>) -> Error {
    Error { code: code.to_owned(), message: message.into() }
}

/// Builds the command of a request. Its environment is the user's, overridden by the workspace's `variables`, overridden by the request's.
pub(super) fn build(
    start: &ExecStart,
    user: &User,
    variables: &Variables,
) -> Result<std::process::Command, Error> {
    let mut argv: Vec<&str> = start.argv.iter().map(String::as_str).collect();
    if !start.shell.is_empty() {
        argv = vec!["/bin/bash", "-lc", &start.shell];
    }
    let Some((program, arguments)) = argv.split_first().filter(|(program, _)| !program.is_empty()) else {
        return Err(error("bad_request", "The command is empty. Give a program or a shell command."));
    };
    let mut environment: BTreeMap<String, String> = user.environment();
    if start.tty.is_some() {
        environment.insert("TERM".into(), "xterm-256color".into());
    }
    environment.extend(variables.iter().map(|(name, value)| (name.clone(), value.clone())));
    if !start.shell.is_empty() {
        // Otherwise the image's profile would read the workspace's variables again, over the request's.
        environment.insert("RIGBOX_ENV".into(), "given".into());
    }
    environment.extend(start.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    if environment.iter().any(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0'))
        || argv.iter().any(|word| word.contains('\0'))
    {
        return Err(error(
            "bad_request",
            "Arguments and environment must not contain NUL, and names of variables must not contain `=`.",
        ));
    }
    let path = environment.get("PATH").map_or("", String::as_str);
    let cwd = if start.cwd.is_empty() { user.home.clone() } else { user.home.join(&start.cwd) };
    let file = find_program(program, path, &cwd).ok_or_else(|| {
        error("not_found", format!("Program `{program}` not found in the workspace (PATH {path})."))
    })?;
    if !cwd.is_dir() {
        return Err(error("not_found", format!("Working directory {} not found.", cwd.display())));
    }
    let mut command = std::process::Command::new(file);
    std::os::unix::process::CommandExt::arg0(&mut command, program);
    command.args(arguments).env_clear().envs(&environment).current_dir(cwd);
    Ok(command)
}

/// Finds a program like execvp(3), but with the user's PATH instead of the agent's.
fn find_program(program: &str, path: &str, cwd: &Path) -> Option<PathBuf> {
    if program.contains('/') {
        let file = cwd.join(program);
        return file.exists().then_some(file);
    }
    path.split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.is_file())
}
