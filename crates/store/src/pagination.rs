//! Shared parts of list queries: the filter for a credential's scope, and the position of a page.

use rigbox_core::authz::{Credential, Principal, Scope};

/// Workspaces within a principal's scope, as query parameters. An empty text does not filter.
pub(crate) struct ScopeFilter<'a> {
    /// Only workspaces listed by this key.
    pub(crate) key: &'a str,
    /// Only this workspace.
    pub(crate) workspace: &'a str,
}

impl<'a> ScopeFilter<'a> {
    /// Returns `None` if the scope is empty.
    pub(crate) fn for_principal(principal: &'a Principal) -> Option<Self> {
        let (key, workspace) = match (&principal.scope, &principal.credential) {
            (Scope::Account, _) => ("", ""),
            (Scope::Workspaces { .. }, Credential::Key(key)) => (key.as_str(), ""),
            (Scope::OwnWorkspace(id), _) => ("", id.as_str()),
            // No other kind of credential has such a scope.
            (Scope::Workspaces { .. }, _) => return None,
        };
        Some(Self { key, workspace })
    }
}

/// Returns the creation time and id that a page starts after.
pub(crate) fn page_start(after: Option<&(i64, String)>) -> (i64, &str) {
    after.map_or((i64::MIN, ""), |(time, id)| (*time, id.as_str()))
}
