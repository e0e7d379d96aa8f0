//! Entries of the log of revocations. They contain ids and keyed hashes, and neither secrets nor email addresses.

use rigbox_core::egress::Egress;
use serde::{Deserialize, Serialize};

/// First line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    /// Format of the log.
    pub(crate) version: u32,
    /// Id of the database that the log was made for.
    pub(crate) database: String,
    /// Number of the last entry up to which some were lost; 0 if none were.
    pub(crate) after: i64,
}

/// Entry: the revocations of one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// Number of the transaction. The last entry of a number counts: the others' transactions failed.
    pub(crate) seq: i64,
    /// Time in milliseconds since the Unix epoch.
    pub(crate) at: i64,
    /// Empty for a transaction that failed with no other after it.
    pub(crate) changes: Vec<Revocation>,
}

/// State of a subject after a change of what it opens. Only the last one of a subject counts, so a later permission is not undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "of", deny_unknown_fields)]
pub(crate) enum Revocation {
    /// API key that was revoked.
    RevokedKey { key: String },
    /// API key whose secret was replaced: the row's columns. Without the new hash its owner would be left with neither secret.
    RotatedKey { key: String, hash: String, preview: String, old_hash: String, old_hash_until: i64 },
    /// SSH key that was removed.
    RemovedSshKey { key: String },
    /// Proxied secret, by its user and name, that was removed or replaced: what is older than `until` is gone.
    ProxiedSecret { secret: String, until: i64 },
    /// User who was disabled, or enabled again.
    User { user: String, disabled_at: Option<i64> },
    /// Session that was ended.
    Session { session: String },
    /// Audience of an app.
    App {
        app: String,
        visibility: String,
        /// Keyed hashes of addresses.
        shared_with: Vec<String>,
        cors_origins: Vec<String>,
        port: Option<u16>,
    },
    /// Verified custom domain of an app.
    AppDomain { app: String, domain: Option<String> },
    /// App that was deleted.
    DeletedApp { app: String },
    /// Network settings of a workspace.
    Network { workspace: String, egress: Egress, apps_from_inside_any: bool },
    /// Workspace whose deletion was acknowledged.
    DeletedWorkspace { workspace: String, node: String },
    /// Upper end of what a user's AI calls have cost up to now, in millionths of a dollar.
    AiSpent { user: String, spent: i64 },
    /// Id that the database was given in place of another.
    Database { id: String },
}

impl Revocation {
    /// Returns whether it takes away access. A lack of such an entry ends all sign-ins.
    pub(crate) fn is_of_access(&self) -> bool {
        !matches!(self, Self::AiSpent { .. })
    }

    /// Returns what the state is of.
    pub(crate) fn subject(&self) -> (&'static str, &str) {
        match self {
            Self::RevokedKey { key } => ("revoked key", key),
            Self::RotatedKey { key, .. } => ("rotated key", key),
            Self::RemovedSshKey { key } => ("removed SSH key", key),
            Self::ProxiedSecret { secret, .. } => ("proxied secret", secret),
            Self::User { user, .. } => ("user", user),
            Self::Session { session } => ("session", session),
            Self::App { app, .. } => ("app", app),
            Self::AppDomain { app, .. } => ("domain of app", app),
            Self::DeletedApp { app } => ("deleted app", app),
            Self::Network { workspace, .. } => ("network", workspace),
            Self::DeletedWorkspace { workspace, .. } => ("deleted workspace", workspace),
            Self::AiSpent { user, .. } => ("AI credits", user),
            Self::Database { id } => ("database", id),
        }
    }
}

/// Returns the entries that count: of each number the last one, and in them the last state of each subject.
pub(crate) fn effective(entries: &[Entry]) -> Vec<Entry> {
    let mut subjects = std::collections::HashSet::new();
    let mut kept: Vec<Entry> = Vec::new();
    let mut next = None;
    for entry in entries.iter().rev() {
        if next.replace(entry.seq) == Some(entry.seq) {
            continue;
        }
        let mut changes: Vec<Revocation> = entry.changes.clone();
        changes.reverse();
        changes.retain(|change| {
            let (kind, id) = change.subject();
            subjects.insert((kind, id.to_owned()))
        });
        changes.reverse();
        // The last number is kept even without a change.
        if !changes.is_empty() || kept.is_empty() {
            kept.push(Entry { changes, ..entry.clone() });
        }
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(user: &str, disabled_at: Option<i64>) -> Revocation {
        Revocation::User { user: user.into(), disabled_at }
    }

    fn entry(seq: i64, changes: Vec<Revocation>) -> Entry {
        Entry { seq, at: 0, changes }
    }

    #[test]
    fn last_entry_of_a_number_and_last_state_of_a_subject_count() {
        let all = [
            entry(1, vec![user("a", Some(1)), user("b", Some(1))]),
            entry(2, vec![user("c", Some(2))]),
            entry(2, vec![user("a", None)]),
            entry(3, vec![user("d", Some(3))]),
            entry(3, vec![]),
        ];
        let counts = effective(&all);
        assert_eq!(
            counts,
            [entry(1, vec![user("b", Some(1))]), entry(2, vec![user("a", None)]), entry(3, vec![])]
        );
        assert_eq!(effective(&counts), counts);
        assert_eq!(effective(&[]), []);
    }
}
