//! `rigboxd admin`: what the operator does on the machine itself, beside a control role that may run.

use std::num::NonZeroU32;

use anyhow::Result;
use clap::Subcommand;
use rigbox_control::admin;
use rigbox_core::plans::{LimitOverrides, Plan};

use crate::Place;
use crate::config::Installation;
use crate::role;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make, list and change users
    #[command(subcommand)]
    User(UserCommand),
    /// Print a further API key of the administrator, for when the first one was lost
    Key {
        #[command(flatten)]
        place: Place,
        /// What the key is listed as
        #[arg(long, default_value = "recovered")]
        name: String,
    },
    /// Print a link that signs a user in, once, within 15 minutes
    LoginLink {
        #[command(flatten)]
        place: Place,
        /// The user's e-mail address
        email: String,
    },
    /// Encrypt all secrets with another master key, while everything runs
    RotateMasterKey(Place),
    /// The audit log
    #[command(subcommand)]
    Audit(AuditCommand),
}

#[derive(Subcommand)]
pub(crate) enum UserCommand {
    /// Make a user; they sign in by a link
    Add {
        #[command(flatten)]
        place: Place,
        /// The user's e-mail address
        email: String,
        /// free or pro
        #[arg(long, default_value = "free", value_parser = plan)]
        plan: Plan,
    },
    /// List the users, oldest first
    Ls(Place),
    /// Give a user another plan
    SetPlan {
        #[command(flatten)]
        place: Place,
        /// The user's e-mail address
        email: String,
        /// free or pro
        #[arg(value_parser = plan)]
        plan: Plan,
    },
    /// Set limits for one user otherwise than for the plan; without any, take back what was set
    SetLimits {
        #[command(flatten)]
        place: Place,
        /// The user's e-mail address
        email: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Make everything that a user has open nothing, at once
    Disable {
        #[command(flatten)]
        place: Place,
        /// The user's e-mail address
        email: String,
    },
    /// Let a disabled user in again; their API keys are good again
    Enable {
        #[command(flatten)]
        place: Place,
        /// The user's e-mail address
        email: String,
    },
}

/// What may be set for one user.
#[derive(clap::Args)]
pub(crate) struct Limits {
    /// Workspaces
    #[arg(long)]
    max_vms: Option<u32>,
    /// MiB of memory of one workspace
    #[arg(long)]
    max_ram_per_vm_mb: Option<u32>,
    /// Processors of one workspace
    #[arg(long)]
    max_vcpu_per_vm: Option<u32>,
    /// MiB of disk of one workspace
    #[arg(long)]
    max_disk_per_vm_mb: Option<u32>,
    /// Apps of one workspace
    #[arg(long)]
    max_apps_per_vm: Option<u32>,
    /// Requests a minute for keys and the account
    #[arg(long)]
    authentication_per_min: Option<NonZeroU32>,
    /// Requests a minute for workspaces and what is in them
    #[arg(long)]
    workspaces_per_min: Option<NonZeroU32>,
    /// Requests a minute for apps
    #[arg(long)]
    apps_per_min: Option<NonZeroU32>,
}

impl From<Limits> for Option<LimitOverrides> {
    fn from(limits: Limits) -> Self {
        let Limits {
            max_vms,
            max_ram_per_vm_mb,
            max_vcpu_per_vm,
            max_disk_per_vm_mb,
            max_apps_per_vm,
            authentication_per_min,
            workspaces_per_min,
            apps_per_min,
        } = limits;
        let set = LimitOverrides {
            max_vms,
            max_ram_per_vm_mb,
            max_vcpu_per_vm,
            max_disk_per_vm_mb,
            max_apps_per_vm,
            authentication_per_min,
            workspaces_per_min,
            apps_per_min,
        };
        (set != LimitOverrides::default()).then_some(set)
    }
}

#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// Follow the log's chain and say whether it is whole
    Verify(Place),
}

/// There is one administrator, made by `bootstrap`.
fn plan(text: &str) -> Result<Plan, String> {
    match text.parse() {
        Ok(Plan::Owner) => {
            Err("the plan `owner` is the administrator's alone: expected free or pro".to_owned())
        }
        Ok(plan) => Ok(plan),
        Err(_) => Err("expected free or pro".to_owned()),
    }
}

/// Does something as control, with its view of the files.
fn as_control<T>(
    place: &Place,
    work: impl AsyncFnOnce(rigbox_control::Config) -> Result<T, rigbox_control::Error>,
) -> Result<T> {
    role::as_control(&Installation::load(&place.config)?, work)
}

pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::User(command) => user(command),
        Command::Key { place, name } => {
            let made = as_control(&place, async |config| admin::mint_key(&config, &name).await)?;
            println!("{}", made.api_key.reveal());
            Ok(())
        }
        Command::LoginLink { place, email } => {
            println!("{}", as_control(&place, async |config| admin::login_link(&config, &email).await)?);
            Ok(())
        }
        Command::RotateMasterKey(place) => {
            let done = as_control(&place, async |config| admin::rotate_master_key(&config).await)?;
            let how = if done.resumed { "an interrupted rotation is finished" } else { "rotated" };
            println!("{how}: {} secrets are encrypted with the master key {} now", done.records, done.to);
            Ok(())
        }
        Command::Audit(AuditCommand::Verify(place)) => {
            match as_control(&place, async |config| admin::verify_audit(&config).await)? {
                Ok(entries) => println!("the audit log is whole: {entries} entries"),
                Err(seq) => {
                    anyhow::bail!("the audit log was changed: entry {seq} is the first that does not fit")
                }
            }
            Ok(())
        }
    }
}

fn user(command: UserCommand) -> Result<()> {
    match command {
        UserCommand::Add { place, email, plan } => {
            let id = as_control(&place, async |config| admin::add_user(&config, &email, plan).await)?;
            println!("{id}");
        }
        UserCommand::Ls(place) => {
            for user in as_control(&place, async |config| admin::users(&config).await)? {
                let state = if user.disabled_at.is_some() { "disabled" } else { "active" };
                println!("{}  {}  {}  {state}", user.id, user.plan.as_str(), user.email);
            }
        }
        UserCommand::SetPlan { place, email, plan } => {
            as_control(&place, async |config| admin::set_plan(&config, &email, plan).await)?;
        }
        UserCommand::SetLimits { place, email, limits } => {
            as_control(&place, async |config| admin::set_limits(&config, &email, limits.into()).await)?;
        }
        UserCommand::Disable { place, email } => {
            as_control(&place, async |config| admin::set_disabled(&config, &email, true).await)?;
        }
        UserCommand::Enable { place, email } => {
            as_control(&place, async |config| admin::set_disabled(&config, &email, false).await)?;
        }
    }
    Ok(())
}
