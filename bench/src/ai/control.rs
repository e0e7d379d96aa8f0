//! Control of the benchmark: the real one, with a database on the disk that has a user with credits, a provider's key and running workspaces.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rigbox_control::{AiConfig, Config, DefaultBudgets, GatewaysConfig, PriceFiles, Upstream, admin};
use rigbox_core::ai::money::Money;
use rigbox_core::ai::provider::Provider;
use rigbox_core::ids::WorkspaceId;
use rusqlite::Connection;

use super::addresses::{CONTROL, PROVIDER};
use super::message::PROVIDER_KEY;
use super::process::{self, Role};
use crate::control_config::control_config;
use crate::role::Process;
use crate::workspace_rows::{RunningWorkspace, insert};
use crate::{host, role};

/// Workspaces: enough for all connections and calls, of which each may have some.
const WORKSPACES: u8 = 20;
const EMAIL: &str = "bench@rigbox.invalid";
/// Credits in dollars: enough for all calls.
const CREDITS: u32 = 1_000_000;
const CREATED_MS: i64 = 1_800_000_000_000;

fn config(folder: &Path) -> Config {
    let upstream = Upstream {
        name: "anthropic".to_owned(),
        provider: Provider::Anthropic,
        base_url: format!("https://{PROVIDER}"),
        stops_billing_on_abort: false,
    };
    let uid = rustix::process::geteuid().as_raw();
    let ai = AiConfig {
        proxy: GatewaysConfig { socket: folder.join("ai.sock"), uids: vec![uid] },
        operator: folder.join("ai-operator.sock"),
        upstreams: vec![upstream],
        prices: PriceFiles::default(),
        tables: None,
        budgets: DefaultBudgets::default(),
        retention: Duration::MAX,
    };
    Config { ai: Some(ai), ..control_config(folder, CONTROL) }
}

/// Runs the role until standard input ends.
pub(super) fn serve(folder: &Path) -> Result<()> {
    Ok(role::runtime()?.block_on(rigbox_control::run(config(folder), role::ended()))?)
}

/// Creates the database in `folder`. Returns the ids of the workspaces.
pub(super) fn create_database(folder: &Path) -> Result<Vec<String>> {
    let config = config(folder);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let user = runtime.block_on(async {
        let user = admin::bootstrap(&config, EMAIL).await?.user_id;
        admin::provider_keys::set_provider_key(&config, "anthropic", "", "", &PROVIDER_KEY.into()).await?;
        admin::ai::grant(&config, EMAIL, Money::from_dollars(CREDITS), false).await?;
        anyhow::Ok(user.to_string())
    })?;
    let database = Connection::open(&config.database)?;
    let mut workspaces = Vec::new();
    for number in 0..WORKSPACES {
        let id = WorkspaceId::from_random([number; 5]);
        workspaces.push(id.to_string());
        let name = format!("workspace-{number}");
        insert(&database, &RunningWorkspace { id, owner: &user, name: &name, created_ms: CREATED_MS })?;
    }
    Ok(workspaces)
}

/// Starts control above the database in `folder`, and waits until it listens.
pub(super) fn start(folder: &Path) -> Result<Process> {
    let process = process::start(Role::Control, folder)?;
    host::wait_listening(CONTROL, "control")?;
    Ok(process)
}
