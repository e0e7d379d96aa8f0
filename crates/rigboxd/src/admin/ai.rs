//! `rigboxd admin ai`: the switch, credits, budgets, models, and the comparison with a provider's report.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use rigbox_control::admin::ai::{self, AiStatus, Bounded};
use rigbox_control::{Comparison, parse_day};
use rigbox_core::ai::money::Money;
use rigbox_core::ai::provider::Provider;
use rigbox_core::ids::WorkspaceId;

use super::as_control;
use crate::find::ExistingInstallation;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Stop all AI calls of all workspaces at once
    Stop(ExistingInstallation),
    /// Let AI calls go on
    Resume(ExistingInstallation),
    /// Print open calls, upstreams, keys and the date of the prices
    Status(ExistingInstallation),
    /// Grant a user credits, which stay until they are used
    Grant {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Email address of the user
        user: String,
        /// Amount in US dollars, such as 12.50
        amount: Money,
        /// Take back as much of what is left instead
        #[arg(long)]
        take: bool,
    },
    /// Set the budget for each month, in UTC
    Budget {
        #[command(flatten)]
        config: ExistingInstallation,
        #[command(flatten)]
        whom: Whom,
        /// Amount in US dollars, or `none` for no budget
        #[arg(long, value_name = "AMOUNT", value_parser = budget)]
        month: Budget,
    },
    /// Set the models that may be used
    Models {
        #[command(flatten)]
        config: ExistingInstallation,
        #[command(flatten)]
        whom: Whom,
        /// Model that may be used, as clients name it; may be repeated
        #[arg(long, required_unless_present = "any", conflicts_with = "any")]
        allow: Vec<String>,
        /// Allow all models
        #[arg(long)]
        any: bool,
    },
    /// Compare a day's records with a provider's usage report, in CSV or JSON
    Reconcile {
        #[command(flatten)]
        config: ExistingInstallation,
        /// File with the report
        file: PathBuf,
        /// Provider: anthropic, openai, google or openrouter
        #[arg(long)]
        provider: Provider,
        /// Day in UTC, such as 2026-11-27
        #[arg(long, value_parser = day)]
        day: i64,
    },
}

/// User or workspace that a bound is for.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Whom {
    /// Email address of a user
    #[arg(long)]
    user: Option<String>,
    /// Id of a workspace
    #[arg(long)]
    workspace: Option<WorkspaceId>,
}

/// Budget that an option names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget(Option<Money>);

impl Whom {
    fn bounded(self) -> Result<Bounded> {
        let user = self.user.map(Bounded::User);
        user.or_else(|| self.workspace.map(Bounded::Workspace)).context("name a user or a workspace")
    }
}

fn budget(text: &str) -> Result<Budget, String> {
    match text {
        "none" => Ok(Budget(None)),
        amount => amount.parse().map(|amount| Budget(Some(amount))).map_err(|error| format!("{error}")),
    }
}

fn day(text: &str) -> Result<i64, String> {
    parse_day(text).ok_or_else(|| "expected a day such as 2026-11-27".to_owned())
}

pub(super) fn run(command: Command) -> Result<()> {
    match command {
        Command::Stop(config) => as_control(&config, async |control| ai::set_stopped(&control, true).await),
        Command::Resume(config) => {
            as_control(&config, async |control| ai::set_stopped(&control, false).await)
        }
        Command::Status(config) => {
            print_status(&as_control(&config, async |control| ai::status(&control).await)?);
            Ok(())
        }
        Command::Grant { config, user, amount, take } => {
            let credits =
                as_control(&config, async |control| ai::grant(&control, &user, amount, take).await)?;
            let account = credits.account;
            println!("{user} has {} of {} left", account.left(), account.granted);
            Ok(())
        }
        Command::Budget { config, whom, month: Budget(amount) } => {
            let whom = whom.bounded()?;
            as_control(&config, async |control| ai::set_budget(&control, &whom, amount).await)
        }
        Command::Models { config, whom, allow, any: _ } => {
            let whom = whom.bounded()?;
            as_control(&config, async |control| ai::set_models(&control, &whom, &allow).await)
        }
        Command::Reconcile { config, file, provider, day } => {
            let report = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let compared =
                as_control(&config, async |control| ai::reconcile(&control, provider, day, &report).await)?;
            print_differences(&compared)
        }
    }
}

fn print_status(status: &AiStatus) {
    println!("calls     {}", if status.stopped { "stopped" } else { "allowed" });
    println!("open      {} with {} reserved", status.open_calls, status.reserved);
    println!("prices    {}, {}", status.prices.0, status.prices.1);
    if let Some(problem) = &status.problem {
        println!("problem   {problem}");
    }
    for (name, keys, models) in &status.upstreams {
        println!("upstream  {name}: {keys} keys, {models} models");
    }
}

/// Prints models whose records and report differ. Fails if there is one, for use in scripts.
fn print_differences(compared: &[Comparison]) -> Result<()> {
    let differing: Vec<_> = compared.iter().filter(|comparison| !comparison.agrees()).collect();
    for Comparison { model, recorded, estimated, reported } in &differing {
        let cost = |cost: Option<Money>| cost.map_or_else(|| "-".to_owned(), |cost| cost.to_string());
        println!("{model}  input {} / {}", recorded.input_tokens, reported.input_tokens);
        println!("{model}  output {} / {}", recorded.output_tokens, reported.output_tokens);
        println!("{model}  cost {} / {}", cost(recorded.cost), cost(reported.cost));
        println!("{model}  {estimated} calls are estimated");
    }
    anyhow::ensure!(
        differing.is_empty(),
        "{} of {} models differ (records / report)",
        differing.len(),
        compared.len()
    );
    println!("{} models agree", compared.len());
    Ok(())
}
