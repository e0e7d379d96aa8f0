//! Names of workspaces for text output, where the API has ids.

use std::collections::HashMap;

use crate::api::Api;

/// Returns the names of the caller's workspaces by id. There are none if they cannot be read: ids do too.
pub(super) async fn of_workspaces(api: &Api) -> HashMap<String, String> {
    let workspaces = api.workspaces().await.unwrap_or_default();
    workspaces.into_iter().map(|workspace| (workspace.id, workspace.name)).collect()
}

/// Returns what a limited key may do, e.g. "read on web, api".
pub(super) fn scope(role: &str, ids: &[String], names: &HashMap<String, String>) -> String {
    let shown: Vec<&str> = ids.iter().map(|id| names.get(id).unwrap_or(id).as_str()).collect();
    match shown.as_slice() {
        [] => format!("{role} on no workspace"),
        shown => format!("{role} on {}", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_names_workspaces_and_falls_back_to_ids() {
        let names = HashMap::from([("ws-aaaaaaaa".to_owned(), "web".to_owned())]);
        let ids = ["ws-aaaaaaaa".to_owned(), "ws-bbbbbbbb".to_owned()];
        assert_eq!(scope("read", &ids, &names), "read on web, ws-bbbbbbbb");
        assert_eq!(scope("operate", &[], &names), "operate on no workspace");
    }
}
