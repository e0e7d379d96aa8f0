//! `rigboxd admin`: the operator's commands on the machine itself. They work whether Rigbox is running or not.

mod ai;
mod firecracker;
mod provider_key;
mod ssh_host_key;

use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use rigbox_control::admin;
use rigbox_core::ids::{DatabaseId, WorkspaceId};
use rigbox_core::names::WorkspaceName;
use rigbox_core::plans::{LimitOverrides, Plan};
use rigbox_core::templates::{self, Template};
use rigbox_core::vm_limits::{MbPerS, VmLimits};

use crate::backup::control_part::{self, Part};
use crate::backup::{create, restore};
use crate::config::{DEFAULT_PATH, Installation};
use crate::find::ExistingInstallation;
use crate::role;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create, list and change users
    #[command(subcommand)]
    User(UserCommand),
    /// Issue another API key for the administrator, e.g. after the first one was lost
    Key {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Name of the key in lists
        #[arg(long, default_value = "recovered")]
        name: String,
    },
    /// Print a sign-in link, which works once and expires in 15 minutes
    LoginLink {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Email address of the user
        email: String,
    },
    /// Re-encrypt all secrets with a new master key, without downtime
    RotateMasterKey(ExistingInstallation),
    /// List and rotate the key by which clients know the SSH gateway
    #[command(subcommand)]
    SshHostKey(ssh_host_key::Command),
    /// Store, list, test and remove the keys at AI providers
    #[command(subcommand)]
    ProviderKey(provider_key::Command),
    /// Stop AI calls, and bound what they may spend
    #[command(subcommand)]
    Ai(ai::Command),
    /// Install Firecracker, which runs workspaces wherever KVM works in it
    #[command(subcommand)]
    Firecracker(firecracker::Command),
    /// Verify the audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// List, adopt and remove workspaces that the node has and the database does not
    #[command(subcommand)]
    Orphans(OrphansCommand),
    /// Make this database the one whose workspaces a node holds, after the original one was lost; restart Rigbox afterwards
    ClaimNode {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Id of the lost database, from the node's error message
        database: DatabaseId,
    },
    /// Copy the database, the node's journal and optionally disks, while everything runs
    Backup(create::Arguments),
    /// Put the database of a backup in place of this one, and on a new machine journal and disks; Rigbox has to be down
    Restore(restore::Arguments),
    /// Control's part of a backup or a restore (started by these)
    #[command(hide = true)]
    ControlPart {
        #[command(subcommand)]
        part: Part,
        #[arg(long, global = true, default_value = DEFAULT_PATH)]
        config: PathBuf,
    },
}

#[derive(Subcommand)]
pub(crate) enum OrphansCommand {
    /// List orphans, longest known first
    Ls(ExistingInstallation),
    /// Give an orphan to a user, as a stopped workspace
    Adopt {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Id of the workspace
        workspace: WorkspaceId,
        /// Email address of its new owner
        #[arg(long)]
        user: String,
        /// Name of the workspace [default: `recovered-` and the end of its id]
        #[arg(long, value_parser = WorkspaceName::for_new)]
        name: Option<WorkspaceName>,
        /// Template, which decides memory and CPUs
        #[arg(long, default_value = templates::DEFAULT, value_parser = template)]
        template: &'static Template,
    },
    /// Remove an orphan, and destroy its disk
    Rm {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Id of the workspace
        workspace: WorkspaceId,
        /// Confirm that the disk is destroyed
        #[arg(long)]
        force: bool,
    },
}

#[derive(Subcommand)]
pub(crate) enum UserCommand {
    /// Create a user, who signs in with a link sent by email
    Add {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Email address of the user
        email: String,
        /// Plan: free or pro
        #[arg(long, default_value = "free", value_parser = plan)]
        plan: Plan,
    },
    /// List users, oldest first
    Ls(ExistingInstallation),
    /// Change a user's plan
    SetPlan {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Email address of the user
        email: String,
        /// Plan: free or pro
        #[arg(value_parser = plan)]
        plan: Plan,
    },
    /// Override the plan's limits for one user; without options, remove all overrides
    SetLimits {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Email address of the user
        email: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Disable a user: reject their sessions and API keys at once
    Disable {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Email address of the user
        email: String,
    },
    /// Enable a disabled user and their API keys
    Enable {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Email address of the user
        email: String,
    },
}

/// Limits that can be overridden for one user.
#[derive(clap::Args)]
pub(crate) struct Limits {
    /// Maximum number of workspaces
    #[arg(long)]
    max_vms: Option<u32>,
    /// Maximum memory of one workspace in MiB
    #[arg(long)]
    max_ram_per_vm_mb: Option<u32>,
    /// Maximum virtual CPUs of one workspace
    #[arg(long)]
    max_vcpu_per_vm: Option<u32>,
    /// Maximum disk of one workspace in MiB
    #[arg(long)]
    max_disk_per_vm_mb: Option<u32>,
    /// Maximum number of apps of one workspace
    #[arg(long)]
    max_apps_per_vm: Option<u32>,
    /// Maximum number of SSH keys
    #[arg(long)]
    max_ssh_keys: Option<u32>,
    /// Credits for AI calls that a month brings, in US dollars
    #[arg(long)]
    ai_credits_usd: Option<u32>,
    /// Requests per minute for API keys and the account
    #[arg(long)]
    authentication_per_min: Option<NonZeroU32>,
    /// Requests per minute for workspaces and what is in them
    #[arg(long)]
    workspaces_per_min: Option<NonZeroU32>,
    /// Requests per minute for apps
    #[arg(long)]
    apps_per_min: Option<NonZeroU32>,
    /// Outward connections of one workspace at once
    #[arg(long)]
    connections: Option<NonZeroU32>,
    /// New connections of one workspace per second
    #[arg(long)]
    new_connections_per_s: Option<NonZeroU32>,
    /// Bandwidth of one workspace in each direction, MB/s
    #[arg(long)]
    bandwidth_mb_per_s: Option<MbPerS>,
    /// Connections of one workspace to its bridge at once
    #[arg(long)]
    bridge_connections: Option<NonZeroU16>,
    /// DNS queries of one workspace in flight
    #[arg(long)]
    dns_queries: Option<NonZeroU16>,
    /// DNS queries of one workspace per second
    #[arg(long)]
    dns_queries_per_s: Option<NonZeroU32>,
    /// Disk traffic of one workspace, MB/s, from its next start on
    #[arg(long)]
    disk_mb_per_s: Option<MbPerS>,
    /// Disk operations of one workspace per second, from its next start on
    #[arg(long)]
    disk_iops: Option<NonZeroU32>,
}

impl From<Limits> for Option<LimitOverrides> {
    fn from(limits: Limits) -> Self {
        let Limits {
            max_vms,
            max_ram_per_vm_mb,
            max_vcpu_per_vm,
            max_disk_per_vm_mb,
            max_apps_per_vm,
            max_ssh_keys,
            ai_credits_usd,
            authentication_per_min,
            workspaces_per_min,
            apps_per_min,
            connections,
            new_connections_per_s,
            bandwidth_mb_per_s,
            bridge_connections,
            dns_queries,
            dns_queries_per_s,
            disk_mb_per_s,
            disk_iops,
        } = limits;
        let set = LimitOverrides {
            max_vms,
            max_ram_per_vm_mb,
            max_vcpu_per_vm,
            max_disk_per_vm_mb,
            max_apps_per_vm,
            max_ssh_keys,
            ai_credits_usd,
            authentication_per_min,
            workspaces_per_min,
            apps_per_min,
            limits: VmLimits {
                connections,
                new_connections_per_s,
                bandwidth_mb_per_s,
                bridge_connections,
                dns_queries,
                dns_queries_per_s,
                disk_mb_per_s,
                disk_iops,
            },
        };
        (set != LimitOverrides::default()).then_some(set)
    }
}

#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// Verify the hash chain of the audit log
    Verify(ExistingInstallation),
}

/// Parses a plan. `owner` is refused: `bootstrap` creates the only administrator.
fn plan(text: &str) -> Result<Plan, String> {
    match text.parse() {
        Ok(Plan::Owner) => {
            Err("plan `owner` is reserved for the administrator; expected free or pro".to_owned())
        }
        Ok(plan) => Ok(plan),
        Err(_) => Err("expected free or pro".to_owned()),
    }
}

fn template(text: &str) -> Result<&'static Template, String> {
    let names = || templates::ALL.map(|template| template.id).join(" or ");
    templates::find(text).ok_or_else(|| format!("expected {}", names()))
}

/// Runs `work` as the control role.
fn as_control<T>(
    config: &ExistingInstallation,
    work: impl AsyncFnOnce(rigbox_control::Config) -> Result<T, rigbox_control::Error>,
) -> Result<T> {
    role::as_control(&config.load()?, work)
}

pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Orphans(command) => orphans(command),
        Command::ClaimNode { config, database } => {
            as_control(&config, async |control| admin::claim_nodes(&control, &database).await)
        }
        Command::User(command) => user(command),
        Command::Key { config, name } => {
            let created = as_control(&config, async |control| admin::mint_key(&control, &name).await)?;
            println!("{}", created.api_key.reveal());
            Ok(())
        }
        Command::LoginLink { config, email } => {
            println!("{}", as_control(&config, async |control| admin::login_link(&control, &email).await)?);
            Ok(())
        }
        Command::RotateMasterKey(config) => {
            let rotation = as_control(&config, async |control| admin::rotate_master_key(&control).await)?;
            let done = if rotation.resumed { "finished an interrupted rotation" } else { "rotated" };
            println!(
                "{done}: {} secrets are now encrypted with master key {}",
                rotation.records, rotation.to
            );
            Ok(())
        }
        Command::SshHostKey(command) => ssh_host_key::run(command),
        Command::ProviderKey(command) => provider_key::run(command),
        Command::Ai(command) => ai::run(command),
        Command::Firecracker(command) => firecracker::run(command),
        Command::Backup(arguments) => create::run(&arguments),
        Command::Restore(arguments) => restore::run(&arguments),
        Command::ControlPart { part, config } => control_part::run(part, &Installation::load(&config)?),
        Command::Audit(AuditCommand::Verify(config)) => {
            match as_control(&config, async |control| admin::verify_audit(&control).await)? {
                Ok(entries) => println!("audit log is valid: {entries} entries"),
                Err(seq) => {
                    anyhow::bail!(
                        "the audit log was tampered with: entry {seq} is the first that does not match its hash"
                    )
                }
            }
            Ok(())
        }
    }
}

fn orphans(command: OrphansCommand) -> Result<()> {
    match command {
        OrphansCommand::Ls(config) => {
            for orphan in as_control(&config, async |control| admin::orphans(&control).await)? {
                let state = if orphan.is_removed { "being removed" } else { "kept" };
                println!("{}  {}  {} MiB  {state}", orphan.id, orphan.node_id, orphan.disk_size_mb);
            }
        }
        OrphansCommand::Adopt { config, workspace, user, name, template } => {
            let suffix = workspace.as_str().trim_start_matches("ws-");
            let name = match name {
                Some(name) => name,
                None => WorkspaceName::for_new(&format!("recovered-{suffix}"))?,
            };
            as_control(&config, async |control| {
                admin::adopt_orphan(&control, &workspace, &user, name.clone(), template).await
            })?;
            println!("{workspace} is now {user}'s workspace {name}. Its owner can start it.");
        }
        OrphansCommand::Rm { config, workspace, force } => {
            anyhow::ensure!(force, "this destroys the disk of {workspace} for good: repeat it with --force");
            as_control(&config, async |control| admin::remove_orphan(&control, &workspace).await)?;
        }
    }
    Ok(())
}

fn user(command: UserCommand) -> Result<()> {
    match command {
        UserCommand::Add { config, email, plan } => {
            let id = as_control(&config, async |control| admin::add_user(&control, &email, plan).await)?;
            println!("{id}");
        }
        UserCommand::Ls(config) => {
            for user in as_control(&config, async |control| admin::users(&control).await)? {
                let state = if user.disabled_at.is_some() { "disabled" } else { "active" };
                println!("{}  {}  {}  {state}", user.id, user.plan.as_str(), user.email);
            }
        }
        UserCommand::SetPlan { config, email, plan } => {
            as_control(&config, async |control| admin::set_plan(&control, &email, plan).await)?;
        }
        UserCommand::SetLimits { config, email, limits } => {
            as_control(&config, async |control| admin::set_limits(&control, &email, limits.into()).await)?;
        }
        UserCommand::Disable { config, email } => {
            as_control(&config, async |control| admin::set_disabled(&control, &email, true).await)?;
        }
        UserCommand::Enable { config, email } => {
            as_control(&config, async |control| admin::set_disabled(&control, &email, false).await)?;
        }
    }
    Ok(())
}
