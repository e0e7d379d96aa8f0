//! Control's part of a backup or a restore: a process of its own, with control's uid and view of the files. It reports on standard output.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use rigbox_control::admin::backup::{self as admin, DatabaseCopy};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::manifest::DatabaseFacts;
use crate::config::Installation;
use crate::role;

/// Form of a time in the name of a file.
const FILE_TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");

/// Copy of the database in control's folder, until it is in the backup.
pub(crate) const COPY: &str = "rigbox.db.backup";

/// Names of the files of a restore in control's folder, until they are put in their places.
pub(crate) struct StagedNames {
    pub(crate) database: &'static str,
    pub(crate) token_key: &'static str,
    pub(crate) master_key: &'static str,
}

pub(crate) const STAGED: StagedNames = StagedNames {
    database: "rigbox.db.restore",
    token_key: "token.key.restore",
    master_key: "master.key.restore",
};

#[derive(Subcommand, Clone, Copy)]
pub(crate) enum Part {
    /// Copy the database
    Copy,
    /// Check staged files
    Check,
    /// Put staged files in their places
    Install,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Check => "check",
            Self::Install => "install",
        }
    }
}

/// Result of putting staged files in their places.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Installed {
    /// New names of the files that were there before.
    pub(crate) kept: Vec<String>,
    /// True if there was a log of revocations, which were applied.
    pub(crate) has_revocations: bool,
}

#[derive(Serialize, Deserialize)]
enum Report {
    Done(serde_json::Value),
    Failed(String),
}

/// Starts a part and waits for its report.
pub(crate) fn start<T: DeserializeOwned>(part: Part, config: &Path) -> Result<T> {
    let output = Command::new("/proc/self/exe")
        .args(["admin", "control-part", part.name(), "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .context("cannot start rigboxd")?;
    if !output.status.success() {
        bail!("the part with control's uid failed: {}", output.status);
    }
    match serde_json::from_slice(&output.stdout).context("cannot read the report of control's part")? {
        Report::Done(value) => Ok(serde_json::from_value(value)?),
        Report::Failed(problem) => bail!(problem),
    }
}

/// Carries out a part in this process, and prints its report.
pub(crate) fn run(part: Part, installation: &Installation) -> Result<()> {
    let report = match carry_out(part, installation) {
        Ok(value) => Report::Done(value),
        // Its causes repeat it.
        Err(error) => Report::Failed(error.to_string()),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn carry_out(part: Part, installation: &Installation) -> Result<serde_json::Value> {
    let folder = role::control_state(installation);
    let value = match part {
        Part::Copy => {
            let copy = role::as_control(installation, async |config| {
                admin::copy_database(&config, &folder.join(COPY)).await
            })?;
            serde_json::to_value(facts(copy))?
        }
        Part::Check => {
            let checked =
                role::as_control(installation, async |config| admin::check(&config, &staged(&folder)).await)?;
            serde_json::to_value(facts(checked))?
        }
        Part::Install => {
            let time = OffsetDateTime::now_utc().format(FILE_TIME)?;
            let admin::Installed { kept, has_revocations } =
                role::as_control(installation, async |config| {
                    admin::install(&config, &staged(&folder), &time).await
                })?;
            serde_json::to_value(Installed { kept, has_revocations })?
        }
    };
    Ok(value)
}

fn staged(folder: &Path) -> admin::Staged {
    let StagedNames { database, token_key, master_key } = STAGED;
    let existing = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
    admin::Staged {
        database: folder.join(database),
        token_key: existing(token_key),
        master_key: existing(master_key),
    }
}

fn facts(copy: DatabaseCopy) -> DatabaseFacts {
    DatabaseFacts {
        schema: copy.info.schema,
        database: copy.info.database.to_string(),
        token_key: copy.token_key,
        master_keys: copy.info.master_keys.iter().map(ToString::to_string).collect(),
    }
}
