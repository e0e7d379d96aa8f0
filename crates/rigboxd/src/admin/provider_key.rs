//! `rigboxd admin provider-key`: the operator's keys at AI providers.

use std::io::Read;

use anyhow::{Context, Result};
use clap::Subcommand;
use rigbox_control::KeyVerdict;
use rigbox_control::admin::provider_keys;
use rigbox_core::ids::ProviderKeyId;
use secrecy::SecretString;

use super::as_control;
use crate::find::ExistingInstallation;

/// Maximum length of the input.
const MAX_INPUT_BYTES: u64 = 4_096;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Store a key, which is read from standard input and never shown again
    Set {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Name of the upstream in the configuration, such as anthropic
        upstream: String,
        /// Name of the key in lists
        #[arg(long, default_value = "")]
        label: String,
        /// Organization at the provider; keys of one may replace each other within a conversation
        #[arg(long, default_value = "")]
        organization: String,
    },
    /// List the keys in the order in which they are tried, without the keys themselves
    Ls(ExistingInstallation),
    /// Have the running installation try keys, each with a request that costs nothing; fails if the provider refuses one
    Test {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Name of the upstream in the configuration, such as anthropic
        upstream: String,
        /// Name of the keys in lists [default: all keys of the upstream]
        label: Option<String>,
    },
    /// Remove a key, effective at once
    Rm {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Id of the key
        key: ProviderKeyId,
    },
}

pub(super) fn run(command: Command) -> Result<()> {
    match command {
        Command::Set { config, upstream, label, organization } => {
            let secret = read_secret()?;
            let key = as_control(&config, async |control| {
                provider_keys::set_provider_key(&control, &upstream, &label, &organization, &secret).await
            })?;
            println!("{}", key.id);
        }
        Command::Ls(config) => {
            for key in as_control(&config, async |control| provider_keys::provider_keys(&control).await)? {
                let used = if key.last_used_at.is_some() { "used" } else { "unused" };
                println!("{}  {}  {used}  {}  {}", key.id, key.upstream, key.organization, key.label);
            }
        }
        Command::Test { config, upstream, label } => {
            let tests = as_control(&config, async |control| {
                provider_keys::test_provider_keys(&control, &upstream, label.as_deref()).await
            })?;
            for (key, verdict) in &tests {
                println!("{}  {}  {}  {verdict}", key.id, key.upstream, key.label);
            }
            let refused =
                tests.iter().filter(|(_, verdict)| matches!(verdict, KeyVerdict::Refused(..))).count();
            anyhow::ensure!(refused == 0, "{upstream} refuses {refused} of {} keys", tests.len());
        }
        Command::Rm { config, key } => {
            as_control(&config, async |control| provider_keys::remove_provider_key(&control, &key).await)?;
        }
    }
    Ok(())
}

/// Reads a key from standard input, where it stands in no list of processes and no history.
fn read_secret() -> Result<SecretString> {
    let mut text = String::new();
    std::io::stdin().take(MAX_INPUT_BYTES).read_to_string(&mut text).context("cannot read the key")?;
    let secret = SecretString::from(text.trim());
    zeroize::Zeroize::zeroize(&mut text);
    Ok(secret)
}
