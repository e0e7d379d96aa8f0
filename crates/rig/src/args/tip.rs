//! Tip for an unknown command whose word is below another command, such as `rig logs`.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};

use super::{Arguments, first_word};

/// Minimum similarity of a misspelt word. Clap's is 0.7, but here are more words to take it for.
const MIN_SIMILARITY: f64 = 0.8;

/// Returns the full commands that an unknown command may mean, and withdraws clap's own tip, which is worse.
pub(crate) fn full_command(
    error: &mut clap::Error,
    arguments: impl Iterator<Item = String>,
) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let word = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => word.clone(),
        _ => return None,
    };
    if first_word(arguments).as_ref() != Some(&word) {
        return None;
    }
    let tip = nested(&word)?;
    error.remove(ContextKind::SuggestedSubcommand);
    Some(tip)
}

fn nested(word: &str) -> Option<String> {
    let root = Arguments::command();
    let own = root.get_subcommands().map(|command| similarity(word, command)).fold(MIN_SIMILARITY, f64::max);
    let mut candidates = Vec::new();
    for command in root.get_subcommands() {
        collect(word, command, "rig", &mut candidates);
    }
    let best = candidates.iter().map(|(similarity, _)| *similarity).fold(own, f64::max);
    // What is as similar at the top, clap has named.
    let best: Vec<String> =
        candidates.into_iter().filter(|(s, _)| *s > own && *s >= best).map(|(_, path)| path).collect();
    (!best.is_empty()).then(|| best.join(", "))
}

/// Adds the commands below `parent`, each with its similarity and its full command.
fn collect(word: &str, parent: &Command, prefix: &str, candidates: &mut Vec<(f64, String)>) {
    let prefix = format!("{prefix} {}", parent.get_name());
    for command in parent.get_subcommands() {
        candidates.push((similarity(word, command), format!("`{prefix} {}`", command.get_name())));
        collect(word, command, &prefix, candidates);
    }
}

fn similarity(word: &str, command: &Command) -> f64 {
    let names = std::iter::once(command.get_name()).chain(command.get_all_aliases());
    names.map(|name| strsim::jaro(word, name)).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_below_another_is_found_by_its_word() {
        for (word, tip) in [
            ("logs", Some("`rig workspace logs`, `rig app logs`")),
            ("spawn", Some("`rig workspace spawn`")),
            ("spwan", Some("`rig workspace spawn`")),
            ("share", Some("`rig app share`")),
            (
                "delete",
                Some(
                    "`rig workspace rm`, `rig app rm`, `rig secret proxy rm`, `rig api-key rm`, `rig ssh-key rm`, `rig ssh rm`",
                ),
            ),
            ("unset", Some("`rig workspace env unset`, `rig app param unset`")),
            // At the top there is one that is as similar, or more.
            ("exce", None),
            ("frobnicate", None),
        ] {
            assert_eq!(nested(word).as_deref(), tip, "{word}");
        }
    }
}
