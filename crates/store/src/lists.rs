//! What lists of a user's things have in common: which of them a credential covers, and where a page begins.

use rigbox_core::permit::{Credential, Principal, Scope};

/// What of the owner's a principal sees, as values for a query: the empty text limits nothing.
pub(crate) struct Covered<'a> {
    /// Only workspaces that this key lists.
    pub(crate) key: &'a str,
    /// Only this workspace.
    pub(crate) workspace: &'a str,
}

impl<'a> Covered<'a> {
    /// `None`: nothing.
    pub(crate) fn by(principal: &'a Principal) -> Option<Self> {
        let (key, workspace) = match (&principal.scope, &principal.credential) {
            (Scope::Account, _) => ("", ""),
            (Scope::Workspaces { .. }, Credential::Key(key)) => (key.as_str(), ""),
            (Scope::Within(id), _) => ("", id.as_str()),
            // No credential of another kind is limited so: it covers nothing.
            (Scope::Workspaces { .. }, _) => return None,
        };
        Some(Self { key, workspace })
    }
}

/// Creation time and id that a page comes after.
pub(crate) fn begin(after: Option<&(i64, String)>) -> (i64, &str) {
    after.map_or((i64::MIN, ""), |(time, id)| (*time, id.as_str()))
}
