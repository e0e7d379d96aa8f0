//! User names of log-ins by SSH, which name a workspace.

use crate::ids::WorkspaceId;
use crate::names::WorkspaceName;

/// Workspace that a user name may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshTarget {
    /// By its id. With its name, if that was part of the user name and has to fit.
    Id(WorkspaceId, Option<WorkspaceName>),
    /// By its name, which is unique per user.
    Name(WorkspaceName),
}

/// Returns what a user name may mean, in the order to be tried: `web-aaaaaaaa` is the workspace `ws-aaaaaaaa` if its name is `web`, or the
/// one with the whole as its name.
pub fn ssh_targets(user_name: &str) -> Vec<SshTarget> {
    let mut targets = Vec::new();
    if let Ok(id) = user_name.parse() {
        targets.push(SshTarget::Id(id, None));
    }
    if let Some((name, suffix)) = user_name.rsplit_once('-')
        && let (Ok(name), Ok(id)) = (name.parse(), format!("ws-{suffix}").parse())
    {
        targets.push(SshTarget::Id(id, Some(name)));
    }
    targets.extend(user_name.parse().ok().map(SshTarget::Name));
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_mean_workspaces_by_name_and_id() {
        let id = |text: &str| text.parse::<WorkspaceId>().unwrap();
        let name = |text: &str| text.parse::<WorkspaceName>().unwrap();
        let full = [
            SshTarget::Id(id("ws-aaaaaaaa"), Some(name("my-web"))),
            SshTarget::Name(name("my-web-aaaaaaaa")),
        ];
        assert_eq!(ssh_targets("my-web-aaaaaaaa"), full);
        assert_eq!(ssh_targets("web"), [SshTarget::Name(name("web"))]);
        assert_eq!(ssh_targets("ws-aaaaaaaa").first(), Some(&SshTarget::Id(id("ws-aaaaaaaa"), None)));
        for nobody in ["", "root@web", "Web", "../web", &"a".repeat(100)] {
            assert_eq!(ssh_targets(nobody), [], "{nobody}");
        }
    }
}
