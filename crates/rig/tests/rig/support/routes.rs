//! Routes of the simulated server, apart from exec.

use std::collections::{BTreeMap, HashMap};

use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{KEY, SharedState, Workspace, exec};

pub(crate) fn all(state: SharedState) -> Router {
    let private = Router::new()
        .route("/users/me", get(me))
        .route("/users/me/limits", get(limits))
        .route("/users/me/credits", get(credits))
        .route("/users/me/ai-usage", get(ai_usage))
        .route("/workspaces/{id}/mode", get(ai_mode).put(set_ai_mode))
        .route("/users/me/ai-defaults", get(ai_defaults).put(set_ai_defaults))
        .route("/workspaces/{id}/ai-config", get(ai_config).put(set_ai_config))
        .route("/workspaces/{id}/ai-proxy", get(ai_proxy).put(switch_ai_proxy))
        .route("/users/me/proxied-secrets", get(proxied_secrets))
        .route(
            "/users/me/proxied-secrets/{name}",
            axum::routing::put(set_proxied_secret).delete(remove_proxied_secret),
        )
        .route("/api-keys", get(api_keys))
        .route("/ssh-keys", get(ssh_keys).post(add_ssh_key))
        .route("/ssh-keys/{id}", axum::routing::delete(remove_ssh_key))
        .route("/auth/sign-out", post(sign_out))
        .route("/doctor", get(doctor))
        .route("/workspaces", get(list).post(create))
        .route("/workspaces/{id}", get(one).delete(delete))
        .route("/workspaces/{id}/exec", post(exec::request).get(exec::socket))
        .route("/workspaces/{id}/processes", get(exec::processes).post(exec::start_process))
        .route("/workspaces/{id}/processes/{process}/output", get(exec::process_output))
        .route("/workspaces/{id}/processes/{process}/signal", post(exec::signal))
        .route("/workspaces/{id}/logs", get(app_logs))
        .route("/workspaces/{id}/env", get(environment).post(set_environment))
        .route("/workspaces/{id}/env/{name}", axum::routing::delete(unset))
        .route("/workspaces/{id}/{operation}", post(operate))
        .route("/apps", get(apps).post(new_app))
        .route("/apps/{id}", get(app).delete(app_operation))
        .route("/apps/{id}/visibility", axum::routing::put(set_visibility))
        .route("/apps/{id}/logs", get(app_logs))
        .route("/apps/{id}/params", get(app_params).patch(app_params))
        .route("/apps/{id}/{act}", get(app_health).post(app_operation))
        .route_layer(middleware::from_fn(authenticate));
    let public = Router::new()
        .route("/auth/device", post(device))
        .route("/auth/device/poll", post(poll_device))
        .route("/templates", get(templates))
        .route("/capacity", get(capacity));
    Router::new()
        .route("/healthz", get(async || Json(json!({"status": "ok", "version": "1.2.3"}))))
        .nest("/api/v1", private.merge(public))
        .layer(middleware::from_fn_with_state(state.clone(), record))
        .with_state(state)
}

pub(crate) fn refusal(status: StatusCode, code: &str, message: &str, details: Value) -> Response {
    (status, Json(json!({"error": {"code": code, "message": message, "details": details}}))).into_response()
}

pub(crate) fn not_found() -> Response {
    refusal(StatusCode::NOT_FOUND, "not_found", "workspace not found", Value::Null)
}

async fn record(State(state): State<SharedState>, request: Request, next: Next) -> Response {
    let busy = state.with(|state| {
        state.requests.push(format!("{} {}", request.method(), request.uri()));
        let busy = state.busy_responses > 0;
        state.busy_responses = state.busy_responses.saturating_sub(1);
        busy
    });
    if busy {
        let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "slowly", Value::Null);
        response.headers_mut().insert("retry-after", "1".parse().unwrap());
        return response;
    }
    next.run(request).await
}

async fn authenticate(headers: HeaderMap, request: Request, next: Next) -> Response {
    let wanted = format!("Bearer {KEY}");
    if headers.get("authorization").is_some_and(|given| given.as_bytes() == wanted.as_bytes()) {
        return next.run(request).await;
    }
    refusal(StatusCode::UNAUTHORIZED, "unauthorized", "no such key", Value::Null)
}

async fn me(State(state): State<SharedState>) -> Json<Value> {
    let (plan, api_key) = state.with(|state| (state.plan, state.api_key.clone()));
    let mut user = json!({"id": "us-aaaaaaaa", "email": "a@example.org", "plan": plan,
        "created_at": "2026-01-01T00:00:00Z"});
    if let Some(api_key) = api_key {
        user["api_key"] = api_key;
    }
    Json(user)
}

async fn credits() -> Json<Value> {
    Json(json!({"remaining": 7.5, "total": 10.0, "remaining_micro": 7_500_000, "total_micro": 10_000_000,
        "mode": "managed"}))
}

async fn ai_usage() -> Json<Value> {
    let sums = |name: &str, value: &str| {
        let mut sums = json!({"input_tokens": 1200, "output_tokens": 34, "credits": 0.000021, "credits_micro": 21,
            "requests": 2});
        sums[name] = value.into();
        sums
    };
    let mut workspace = sums("workspace_name", "web");
    workspace["workspace_id"] = "ws-aaaaaaaa".into();
    Json(json!({"window_days": 30, "daily": [sums("day", "2026-11-27")], "by_workspace": [workspace]}))
}

async fn ai_mode() -> Json<Value> {
    Json(json!({"mode": "managed", "source": "user_default"}))
}

async fn set_ai_mode(State(state): State<SharedState>, Json(body): Json<Value>) -> Json<Value> {
    let (mode, source) = match body["mode"].as_str() {
        Some(mode) => (mode.to_owned(), "workspace"),
        None => ("managed".to_owned(), "user_default"),
    };
    state.with(|state| state.received.push(body));
    Json(json!({"mode": mode, "source": source}))
}

async fn ai_config() -> Json<Value> {
    Json(json!({"mode": "byok", "provider": "google", "model": "", "status": "invalid_missing_key",
        "key_delivery": "env", "updated_at": "2026-01-01T00:00:00Z"}))
}

async fn set_ai_config(State(state): State<SharedState>, Json(body): Json<Value>) -> Json<Value> {
    state.with(|state| state.received.push(body));
    Json(json!({"mode": "byok", "provider": "google", "model": "gemini-x", "status": "byok_active",
        "key_delivery": "proxy", "updated_at": "2026-01-01T00:00:00Z", "live": true, "message": "Changed."}))
}

async fn ai_proxy() -> Json<Value> {
    Json(json!({"enabled": true, "mode": "managed"}))
}

async fn switch_ai_proxy(State(state): State<SharedState>, Json(body): Json<Value>) -> Json<Value> {
    state.with(|state| state.received.push(body.clone()));
    Json(json!({"enabled": body["enabled"], "mode": "managed"}))
}

fn proxied_secret(name: &str) -> Value {
    json!({"name": name, "host": "api.example.org", "header": "authorization", "format": "Bearer {}",
        "workspace_id": "ws-aaaaaaaa", "url": format!("http://172.16.0.1:9090/proxy/{name}/"),
        "updated_at": "2026-01-01T00:00:00Z"})
}

async fn proxied_secrets() -> Json<Value> {
    Json(json!({"proxied_secrets": [proxied_secret("github")]}))
}

async fn set_proxied_secret(
    State(state): State<SharedState>,
    Path(name): Path<String>,
    Json(body): Json<Value>,
) -> Json<Value> {
    state.with(|state| state.received.push(body));
    Json(proxied_secret(&name))
}

async fn remove_proxied_secret() -> Json<Value> {
    Json(json!({"message": "Removed."}))
}

async fn ai_defaults() -> Json<Value> {
    Json(json!({"default_mode": "managed", "default_provider": "anthropic", "default_model": "",
        "default_status": "managed_active", "default_key_delivery": "env"}))
}

async fn set_ai_defaults(State(state): State<SharedState>, Json(body): Json<Value>) -> Json<Value> {
    state.with(|state| state.received.push(body));
    ai_defaults().await
}

async fn api_keys() -> Json<Value> {
    let limited = json!({"id": "key-aaaaaaaa", "name": "ci", "preview": "rb_aaaaaaa", "role": "read",
        "workspaces": ["ws-aaaaaaaa", "ws-bbbbbbbb"], "created_at": "2026-01-01T00:00:00Z"});
    let whole = json!({"id": "key-bbbbbbbb", "name": "laptop", "preview": "rb_bbbbbbb",
        "created_at": "2026-01-01T00:00:00Z"});
    Json(json!({"api_keys": [limited, whole]}))
}

async fn ssh_keys(State(state): State<SharedState>) -> Json<Value> {
    Json(json!({"ssh_keys": state.with(|state| state.ssh_keys.clone())}))
}

async fn add_ssh_key(State(state): State<SharedState>, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    state.with(|state| {
        let key = json!({"id": format!("sh-{}", state.ssh_keys.len()), "user_id": "us-aaaaaaaa", "name": body["name"],
            "public_key": body["public_key"], "fingerprint": "SHA256:x", "created_at": "2026-01-01T00:00:00Z"});
        state.received.push(body);
        state.ssh_keys.push(key.clone());
        (StatusCode::CREATED, Json(key))
    })
}

async fn remove_ssh_key(State(state): State<SharedState>, Path(id): Path<String>) -> Json<Value> {
    state.with(|state| state.ssh_keys.retain(|key| key["id"] != *id));
    Json(json!({"message": "it is done"}))
}

async fn device(State(state): State<SharedState>, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    state.with(|state| state.received.push(body));
    let response = json!({"device_secret": "rbv_x", "user_code": "BCDF-GHJK", "verification_url": "http://c/device",
        "expires_in_s": 600, "interval_s": 1});
    (StatusCode::CREATED, Json(response))
}

/// Approves the second poll, or denies all.
async fn poll_device(State(state): State<SharedState>, Json(body): Json<Value>) -> Response {
    state.with(|state| {
        assert_eq!(body, json!({"device_secret": "rbv_x"}));
        state.received.push(body);
        match (state.starts_fail, state.received.len()) {
            (true, _) => refusal(StatusCode::FORBIDDEN, "denied", "denied", Value::Null),
            (false, ..3) => Json(json!({"status": "pending"})).into_response(),
            _ => Json(json!({"status": "approved", "api_key": KEY, "user_id": "us-aaaaaaaa",
                "user_email": "a@example.org"}))
            .into_response(),
        }
    })
}

async fn sign_out() -> Json<Value> {
    Json(json!({"ended": true, "message": "signed out"}))
}

const APP: &str = r#"{"id":"ap-aaaaaaaa","name":"web","workspace_id":"ws-aaaaaaaa","url":"http://web.x","port":8000,
    "status":"active","visibility":"private","subdomain":"web"}"#;

fn an_app() -> Value {
    serde_json::from_str(APP).unwrap()
}

async fn apps(request: Request) -> Json<Value> {
    let wanted = request.uri().query().unwrap_or_default().contains("name=other");
    Json(json!({"apps": if wanted { vec![] } else { vec![an_app()] }}))
}

async fn app() -> Json<Value> {
    Json(json!({"app": an_app()}))
}

async fn new_app(State(state): State<SharedState>, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    state.with(|state| state.received.push(body));
    (StatusCode::CREATED, Json(json!({"app": an_app()})))
}

async fn set_visibility(State(state): State<SharedState>, Json(body): Json<Value>) -> Json<Value> {
    state.with(|state| state.received.push(body));
    Json(json!({"app": an_app()}))
}

async fn app_operation() -> Json<Value> {
    Json(json!({"message": "it is done"}))
}

async fn app_logs() -> Json<Value> {
    Json(
        json!({"lines": [{"line_number": 1, "message": "\u{1b}[2Jhello", "timestamp": "2026-01-01T00:00:00Z"}],
        "has_more": false, "cursor": "c1"}),
    )
}

async fn app_params(State(state): State<SharedState>, body: Option<Json<Value>>) -> Json<Value> {
    if let Some(Json(body)) = body {
        state.with(|state| state.received.push(body));
    }
    Json(json!({"params": {"A": "b"}}))
}

async fn app_health() -> Json<Value> {
    Json(json!({"live": false, "port_open": false, "port_drift": false, "service_status": "unmanaged"}))
}

async fn limits(State(state): State<SharedState>) -> Json<Value> {
    let mut limits = json!({"max_vms": 9});
    if let Some(max) = state.with(|state| state.max_ram_per_vm_mb) {
        limits["max_ram_per_vm_mb"] = max.into();
    }
    Json(json!({"plan": "owner", "custom": false, "limits": limits, "usage": {"workspace_count": 1}}))
}

async fn doctor(State(state): State<SharedState>) -> Json<Value> {
    let findings = state.with(|state| state.findings.clone());
    let healthy = findings.iter().all(|finding| finding["level"] != "error");
    Json(json!({"healthy": healthy, "findings": findings}))
}

async fn templates() -> Json<Value> {
    Json(
        json!({"templates": [{"id": "base", "name": "Base", "description": "\u{1b}[31mDebian", "image": "base",
        "ram_mb": 512, "vcpu_count": 1, "disk_size_mb": 4096, "expected_apps": [], "coming_soon": false}]}),
    )
}

async fn capacity(State(state): State<SharedState>) -> Json<Value> {
    let emulated = state.with(|state| state.emulated);
    Json(json!({"vcpus": 2, "ram_mb": 8000, "disk_total_mb": 10, "disk_reserved_mb": 4, "disk_free_mb": 6,
        "emulated": emulated}))
}

fn vm(id: &str, workspace: &Workspace) -> Value {
    let mut vm = json!({"id": id, "user_id": "us-aaaaaaaa", "name": workspace.name, "status": workspace.status,
        "template_id": "base", "ram_mb": workspace.ram_mb, "vcpu_count": workspace.vcpus,
        "disk_size_mb": workspace.disk_mb, "new_field": 1});
    if workspace.status == "running" {
        vm["system"] = workspace.system.into();
    }
    if workspace.status == "failed" {
        vm["failure_code"] = "no_image".into();
        vm["failure_reason"] = "the image is\u{7} missing".into();
    }
    vm
}

/// Lists two workspaces per page, so that tests need pagination.
async fn list(State(state): State<SharedState>, Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    let from: usize = query.get("cursor").map_or(0, |cursor| cursor.parse().unwrap());
    state.with(|state| {
        let fits = |workspace: &Workspace| query.get("name").is_none_or(|name| *name == workspace.name);
        let all: Vec<_> =
            state.workspaces.iter().filter(|(_, one)| fits(one)).map(|(id, one)| vm(id, one)).collect();
        let mut page = json!({"vms": all.iter().skip(from).take(2).collect::<Vec<_>>()});
        if all.len() > from + 2 {
            page["next_cursor"] = (from + 2).to_string().into();
        }
        Json(page)
    })
}

async fn create(State(state): State<SharedState>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let number = |field: &str, floor: u64| body[field].as_u64().unwrap_or(floor).max(floor);
    let workspace = Workspace {
        name: body["name"].as_str().unwrap().to_owned(),
        status: "provisioning",
        deleted: false,
        system: "starting",
        ram_mb: number("ram_mb", 512),
        vcpus: number("vcpu_count", 1),
        disk_mb: number("disk_size_mb", 4096),
        env: BTreeMap::new(),
    };
    if workspace.ram_mb > 10_000 {
        return refusal(StatusCode::PAYMENT_REQUIRED, "limit_exceeded", "ram_mb is too much", Value::Null);
    }
    state.with(|state| {
        state.idempotency_keys.push(headers["idempotency-key"].to_str().unwrap().to_owned());
        let response = json!({"vm": vm("ws-newnewne", &workspace)});
        state.workspaces.insert("ws-newnewne".to_owned(), workspace);
        (StatusCode::CREATED, Json(response)).into_response()
    })
}

async fn one(
    State(state): State<SharedState>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    if state.with(|state| state.starts_hang)
        && query.get("wait_until_not").is_some_and(|status| status == "starting")
    {
        std::future::pending::<()>().await;
    }
    state.with(|state| {
        let broken = state.starts_fail;
        let Some(workspace) = state.workspaces.get_mut(&id) else { return not_found() };
        if query.get("wait_until_not").is_some_and(|status| status == workspace.status) {
            workspace.status = match workspace.status {
                "provisioning" => "provisioned",
                "starting" if broken => "failed",
                "starting" => {
                    workspace.system = "starting";
                    "running"
                }
                "stopping" if workspace.deleted => "deleting",
                "stopping" => "stopped",
                "deleting" => {
                    state.workspaces.remove(&id);
                    return not_found();
                }
                other => other,
            };
        }
        if query.contains_key("wait_until_system_not") {
            workspace.system = "running";
        }
        Json(json!({"vm": vm(&id, workspace)})).into_response()
    })
}

async fn environment(State(state): State<SharedState>, Path(id): Path<String>) -> Response {
    state.with(|state| match state.workspaces.get(&id) {
        None => not_found(),
        Some(workspace) => {
            let hidden: HashMap<&str, &str> =
                workspace.env.keys().map(|name| (name.as_str(), "***")).collect();
            Json(json!({"env_vars": hidden})).into_response()
        }
    })
}

async fn set_environment(
    State(state): State<SharedState>,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Response {
    state.with(|state| {
        let Some(workspace) = state.workspaces.get_mut(&id) else { return not_found() };
        for (name, value) in body["env_vars"].as_object().unwrap() {
            workspace.env.insert(name.clone(), value.as_str().unwrap().to_owned());
        }
        Json(json!({"message": "is changed", "live": workspace.status == "running"})).into_response()
    })
}

async fn unset(State(state): State<SharedState>, Path((id, name)): Path<(String, String)>) -> Response {
    state.with(|state| {
        match state.workspaces.get_mut(&id).and_then(|workspace| workspace.env.remove(&name)) {
            None => refusal(StatusCode::NOT_FOUND, "not_found", "no such variable: not found", Value::Null),
            Some(_) => Json(json!({"message": "is changed", "live": true})).into_response(),
        }
    })
}

fn illegal(status: &str, allowed: &[&str]) -> Response {
    let details = json!({"status": status, "allowed": allowed});
    refusal(StatusCode::CONFLICT, "invalid_state", &format!("not while it is `{status}`"), details)
}

async fn operate(
    State(state): State<SharedState>,
    Path((id, operation)): Path<(String, String)>,
) -> Response {
    state.with(|state| {
        let Some(workspace) = state.workspaces.get_mut(&id) else { return not_found() };
        workspace.status = match (operation.as_str(), workspace.status) {
            ("start", "provisioned" | "stopped") | ("retry", "failed") => "starting",
            ("stop", "running") | ("cancel", "starting") => "stopping",
            ("cancel", "provisioning") => "deleting",
            (_, status) => return illegal(status, &[]),
        };
        Json(json!({"vm": vm(&id, workspace)})).into_response()
    })
}

async fn delete(State(state): State<SharedState>, Path(id): Path<String>) -> Response {
    state.with(|state| {
        let Some(workspace) = state.workspaces.get_mut(&id) else { return not_found() };
        workspace.status = match workspace.status {
            "running" => "stopping",
            "starting" | "provisioning" => return illegal(workspace.status, &["cancel"]),
            "stopping" | "deleting" => return illegal(workspace.status, &[]),
            _ => "deleting",
        };
        workspace.deleted = true;
        Json(json!({"message": "is being deleted", "status": workspace.status})).into_response()
    })
}
