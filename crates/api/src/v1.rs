//! API under `/api/v1`: one file per resource. Handlers parse, call one service and render.

pub(crate) mod ai;
pub(crate) mod ai_config;
pub(crate) mod ai_proxy;
pub(crate) mod api_keys;
pub(crate) mod apps;
pub(crate) mod audit;
pub(crate) mod auth;
pub(crate) mod capacity;
pub(crate) mod doctor;
pub(crate) mod environment;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod network;
pub(crate) mod processes;
pub(crate) mod proxied_secrets;
pub(crate) mod quick_deploy;
pub(crate) mod ssh_keys;
pub(crate) mod ssh_settings;
pub(crate) mod ssh_stream;
pub(crate) mod templates;
pub(crate) mod users;
mod websocket;
pub(crate) mod workspaces;
