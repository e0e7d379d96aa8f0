//! Table of routes: target, permitted scopes, and responses to permitted callers.

use super::callers::Caller;

/// Target of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Public, with or without a credential.
    Anything,
    /// Page for people.
    Page,
    /// Account of the caller.
    Account,
    /// Key of the account.
    Key,
    /// SSH key of the account.
    SshKey,
    /// Workspace.
    Workspace,
    /// App, and so its workspace.
    App,
    /// Workspace named in the body.
    NewApp,
    /// Installation.
    Installation,
}

pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) target: Target,
    /// True if keys limited to the workspace with these roles are permitted, and the workspace's own key.
    pub(crate) read: bool,
    pub(crate) operate: bool,
    pub(crate) own_workspace: bool,
    /// JSON, or a form for pages.
    pub(crate) body: Option<&'static str>,
    responses: &'static [u16],
}

impl Route {
    pub(crate) fn needs_credential(&self) -> bool {
        !matches!(self.target, Target::Anything | Target::Page)
    }

    pub(crate) fn responses(&self, caller: Caller) -> &'static [u16] {
        // Pages are on the console's host, where a form from elsewhere is refused; other hosts redirect
        // there.
        match (self.target, self.method, caller.is_browser()) {
            (Target::Page, "GET", false) => &[303],
            (Target::Page, _, false) => &[421],
            (Target::Page, "POST", true) if caller == Caller::CrossSite => &[403],
            _ => self.responses,
        }
    }
}

const fn row(method: &'static str, path: &'static str, target: Target, responses: &'static [u16]) -> Route {
    Route { method, path, target, read: false, operate: false, own_workspace: false, body: None, responses }
}

impl Route {
    const fn read(self) -> Self {
        Self { read: true, operate: true, ..self }
    }

    const fn operate(self) -> Self {
        Self { operate: true, ..self }
    }

    const fn own_workspace(self) -> Self {
        Self { own_workspace: true, ..self }
    }

    const fn body(self, body: &'static str) -> Self {
        Self { body: Some(body), ..self }
    }
}

use Target::*;

pub(crate) const ROUTES: &[Route] = &[
    row("GET", "/healthz", Anything, &[200]),
    row("GET", "/readyz", Anything, &[200]),
    row("GET", "/api-docs/openapi.json", Anything, &[200]),
    row("GET", "/.well-known/ssh-known-hosts", Anything, &[200, 404]),
    row("GET", "/api/v1/templates", Anything, &[200]),
    row("GET", "/api/v1/capacity", Anything, &[200]),
    // Many callers share one address.
    row("POST", "/api/v1/auth/link", Anything, &[202, 429]).body(r#"{"email":"nobody@example.com"}"#),
    row("POST", "/api/v1/auth/device", Anything, &[201]).body(r#"{"machine":"laptop"}"#),
    row("POST", "/api/v1/auth/device/poll", Anything, &[404]).body(r#"{"device_secret":"rbv_x"}"#),
    row("GET", "/", Page, &[303]),
    row("GET", "/sign-in", Page, &[200]),
    row("POST", "/sign-in", Page, &[200]).body("email=nobody%40example.com"),
    row("GET", "/sign-in/link", Page, &[400]),
    row("POST", "/sign-in/link", Page, &[404]).body("token=rbl_x"),
    row("POST", "/sign-out", Page, &[303]),
    row("GET", "/device", Page, &[200, 303]),
    row("POST", "/device", Page, &[404, 303]).body("code=BCDF-GHJK&decision=approve"),
    row("POST", "/api/v1/auth/sign-out", Account, &[200]).read(),
    row("GET", "/api/v1/users/me", Account, &[200]).read(),
    row("GET", "/api/v1/users/me/limits", Account, &[200]),
    row("GET", "/api/v1/users/me/credits", Account, &[200]),
    row("GET", "/api/v1/users/me/ai-usage", Account, &[200]),
    row("PUT", "/api/v1/users/me/ai-mode", Account, &[200]).body(r#"{"mode":"managed"}"#),
    row("GET", "/api/v1/workspaces/{id}/mode", Workspace, &[200]).read().own_workspace(),
    row("PUT", "/api/v1/workspaces/{id}/mode", Workspace, &[200]).operate().body(r#"{"mode":null}"#),
    row("GET", "/api/v1/users/me/ai-defaults", Account, &[200]),
    row("PUT", "/api/v1/users/me/ai-defaults", Account, &[200]).body(r#"{"default_mode":"managed"}"#),
    row("GET", "/api/v1/workspaces/{id}/ai-config", Workspace, &[200]).read(),
    row("PUT", "/api/v1/workspaces/{id}/ai-config", Workspace, &[200]).operate().body(r#"{"mode":null}"#),
    row("GET", "/api/v1/workspaces/{id}/ai-proxy", Workspace, &[200]).read().own_workspace(),
    row("PUT", "/api/v1/workspaces/{id}/ai-proxy", Workspace, &[200])
        .operate()
        .own_workspace()
        .body(r#"{"enabled":true}"#),
    row("GET", "/api/v1/users/me/proxied-secrets", Account, &[200]),
    row("PUT", "/api/v1/users/me/proxied-secrets/{name}", Account, &[200])
        .body(r#"{"host":"api.example.org","secret":"12345678"}"#),
    row("DELETE", "/api/v1/users/me/proxied-secrets/{name}", Account, &[200, 404]),
    row("GET", "/api/v1/audit-log", Account, &[200]),
    row("GET", "/api/v1/api-keys", Account, &[200]),
    row("POST", "/api/v1/api-keys", Account, &[201]).body(r#"{"name":"another"}"#),
    row("POST", "/api/v1/api-keys/{id}/rotate", Key, &[200]).body("{}"),
    row("DELETE", "/api/v1/api-keys/{id}", Key, &[200, 404]),
    row("GET", "/api/v1/ssh-keys", Account, &[200]),
    row("POST", "/api/v1/ssh-keys", Account, &[201, 409]).body(concat!(
        r#"{"name":"laptop","public_key":"ssh-ed25519 "#,
        "AAAAC3NzaC1lZDI1NTE5AAAAINzDTkJ/Qj8U6p6Vt76Q8GWs+YJVqzBcInAJ6CcLfDb9",
        r#""}"#
    )),
    row("DELETE", "/api/v1/ssh-keys/{id}", SshKey, &[200, 404]),
    row("GET", "/api/v1/workspaces/{id}/ssh-keys", Workspace, &[200]).read(),
    row("POST", "/api/v1/workspaces/{id}/ssh-keys/sync", Workspace, &[200]).operate(),
    row("GET", "/api/v1/workspaces/{id}/ssh", Workspace, &[200]).read().own_workspace(),
    row("PATCH", "/api/v1/workspaces/{id}/ssh", Workspace, &[200])
        .operate()
        .body(r#"{"start_on_connect":false}"#),
    // Without the headers of a WebSocket.
    row("GET", "/api/v1/workspaces/{id}/ssh/stream", Workspace, &[400, 426]).operate(),
    row("GET", "/api/v1/workspaces", Account, &[200]).read().own_workspace(),
    row("POST", "/api/v1/workspaces", Account, &[201, 409]).body(r#"{"name":"another"}"#),
    row("POST", "/api/v1/quick-deploy", Account, &[200, 409])
        .body(r#"{"template_id":"base","name":"quick"}"#),
    row("GET", "/api/v1/workspaces/{id}", Workspace, &[200]).read().own_workspace(),
    row("DELETE", "/api/v1/workspaces/{id}", Workspace, &[200, 404, 409]),
    row("POST", "/api/v1/workspaces/{id}/start", Workspace, &[200, 409]).operate(),
    row("POST", "/api/v1/workspaces/{id}/stop", Workspace, &[200, 409]).operate(),
    row("POST", "/api/v1/workspaces/{id}/cancel", Workspace, &[200, 409]).operate(),
    row("POST", "/api/v1/workspaces/{id}/retry", Workspace, &[200, 409]).operate(),
    row("POST", "/api/v1/workspaces/{id}/exec", Workspace, &[200]).operate().body(r#"{"command":["hello"]}"#),
    // Without the headers of a WebSocket.
    row("GET", "/api/v1/workspaces/{id}/exec", Workspace, &[400, 426]).operate(),
    row("GET", "/api/v1/workspaces/{id}/processes", Workspace, &[200]).operate(),
    row("POST", "/api/v1/workspaces/{id}/processes", Workspace, &[201])
        .operate()
        .body(r#"{"command":["sleep","9"]}"#),
    row("GET", "/api/v1/workspaces/{id}/processes/{process}/output", Workspace, &[404]).operate(),
    row("POST", "/api/v1/workspaces/{id}/processes/{process}/signal", Workspace, &[404])
        .operate()
        .body(r#"{"signal":"TERM"}"#),
    row("GET", "/api/v1/workspaces/{id}/files", Workspace, &[200]).operate(),
    row("PUT", "/api/v1/workspaces/{id}/files", Workspace, &[200]).operate().body("content"),
    row("DELETE", "/api/v1/workspaces/{id}/files", Workspace, &[204, 404]).operate(),
    row("GET", "/api/v1/workspaces/{id}/files/stat", Workspace, &[200]).operate(),
    row("GET", "/api/v1/workspaces/{id}/files/list", Workspace, &[200]).operate(),
    row("GET", "/api/v1/workspaces/{id}/files/watch", Workspace, &[200]).operate(),
    row("POST", "/api/v1/workspaces/{id}/files/mkdir", Workspace, &[204]).operate().body(r#"{"path":"/d"}"#),
    row("POST", "/api/v1/workspaces/{id}/files/rename", Workspace, &[204, 404])
        .operate()
        .body(r#"{"from":"/a","to":"/b"}"#),
    row("GET", "/api/v1/workspaces/{id}/env", Workspace, &[200]).read(),
    row("POST", "/api/v1/workspaces/{id}/env", Workspace, &[200]).operate().body(r#"{"env_vars":{"A":"b"}}"#),
    row("DELETE", "/api/v1/workspaces/{id}/env/{key}", Workspace, &[200, 404]).operate(),
    row("GET", "/api/v1/apps", Account, &[200]).read().own_workspace(),
    row("POST", "/api/v1/apps", NewApp, &[201, 409]).operate().own_workspace(),
    row("PUT", "/api/v1/apps/{id}/service", App, &[200])
        .operate()
        .own_workspace()
        .body(r#"{"command":"sleep 9"}"#),
    row("GET", "/api/v1/apps/{id}", App, &[200]).read().own_workspace(),
    row("PATCH", "/api/v1/apps/{id}", App, &[200]).operate().own_workspace().body(r#"{"port":8001}"#),
    row("DELETE", "/api/v1/apps/{id}", App, &[200, 404]).operate().own_workspace(),
    row("PUT", "/api/v1/apps/{id}/visibility", App, &[200])
        .operate()
        .own_workspace()
        .body(r#"{"visibility":"private"}"#),
    row("POST", "/api/v1/apps/{id}/verify-domain", App, &[400]).operate().own_workspace(),
    row("GET", "/api/v1/apps/{id}/params", App, &[200]).read().own_workspace(),
    row("PATCH", "/api/v1/apps/{id}/params", App, &[200])
        .operate()
        .own_workspace()
        .body(r#"{"params":{"A":"b"}}"#),
    row("POST", "/api/v1/apps/{id}/start", App, &[200]).operate().own_workspace(),
    row("POST", "/api/v1/apps/{id}/stop", App, &[200]).operate().own_workspace(),
    row("POST", "/api/v1/apps/{id}/restart", App, &[200]).operate().own_workspace(),
    row("GET", "/api/v1/apps/{id}/health", App, &[200]).read().own_workspace(),
    row("GET", "/api/v1/apps/{id}/logs", App, &[200]).read().own_workspace(),
    row("GET", "/api/v1/apps/{id}/logs/stream", App, &[200]).read().own_workspace(),
    row("GET", "/api/v1/workspaces/{id}/network", Workspace, &[200]).read().own_workspace(),
    row("PATCH", "/api/v1/workspaces/{id}/network", Workspace, &[200])
        .operate()
        .body(r#"{"egress":{"mode":"none"}}"#),
    row("GET", "/api/v1/workspaces/{id}/logs", Workspace, &[200]).read().own_workspace(),
    row("GET", "/api/v1/workspaces/{id}/logs/stream", Workspace, &[200]).read().own_workspace(),
    row("GET", "/api/v1/workspaces/{id}/listening-ports", Workspace, &[200]).read().own_workspace(),
    row("POST", "/api/v1/workspaces/{id}/expose-port", Workspace, &[200])
        .operate()
        .own_workspace()
        .body(r#"{"port":8000,"step":"detect"}"#),
    row("GET", "/open/{app}", Page, &[303, 403]),
    row("GET", "/api/v1/doctor", Installation, &[200]),
];
