//! The workspace that agents run in, with what they may spend, and the providers that they call.

use std::net::TcpListener;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use rigbox_core::ai::environment::PLACEHOLDER_KEY;
use rigbox_test_provider::Provider;
use serde_json::{Value, json};

use super::agent::{Agent, SOURCES};
use crate::TestResult;
use crate::clients::{ai, copy_in};
use crate::harness::installation::Installation;
use crate::harness::internet::{self, OTHER};
use crate::harness::search::{Findings, Needle, Search};

/// Name of the workspace.
pub(super) const NAME: &str = "agents";
/// Port of the provider in the internet.
const PORT: u16 = 8044;
/// Size of the workspace: a model of an agent's own runs in none of them, but each is hundreds of megabytes large.
const SIZE: (u32, u32, u32) = (2_048, 2, 8_192);
/// Kinds of what is searched for in a VM's memory.
const SOUGHT: &str = "sought";
const KNOWN: &str = "placeholder";
const OWNER: &str = "owner@example.org";
/// Credits that suffice for all cases, in dollars.
const CREDITS: &str = "50";

pub(super) struct Place<'a> {
    pub(super) installation: &'a Installation,
    pub(super) id: String,
    /// Provider of the operator.
    pub(super) provider: &'static Provider,
}

/// Usage of the workspace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) input: u64,
    pub(super) output: u64,
    /// Millionths of a dollar.
    pub(super) cost: u64,
}

impl<'a> Place<'a> {
    /// Makes it ready: a workspace, keys of the operator, and credits.
    pub(super) fn open(installation: &'a Installation) -> Result<Self> {
        let provider = ai::provider()?;
        ai::set_keys(installation)?;
        let listed = installation.api.get(&format!("/workspaces?name={NAME}"))?.expect(200)?;
        let id = match listed.pointer("/vms/0/id").and_then(Value::as_str) {
            Some(id) => id.to_owned(),
            None => spawn(installation)?,
        };
        let place = Self { installation, id, provider };
        if place.credits()? < 20_000_000 {
            installation.admin(&["ai", "grant", OWNER, CREDITS])?;
        }
        Ok(place)
    }

    /// Removes the workspace.
    pub(super) fn close(&self) -> TestResult {
        self.installation.api.remove(&self.id)
    }

    /// Copies an agent into the workspace, unless it is there.
    pub(super) fn install(&self, agent: &Agent) -> TestResult {
        let there = |name: &str| self.sh(&format!("test -e ~/agents/{name} && echo there || echo missing"));
        if there("programs")? == "missing" {
            copy_in(self.installation, NAME, Path::new(SOURCES), "agents/programs", &[])?;
        }
        if there(agent.id)? == "missing" {
            copy_in(
                self.installation,
                NAME,
                &agent.folder()?,
                &format!("agents/{}", agent.id),
                agent.without,
            )?;
        }
        Ok(())
    }

    /// Removes an agent, whose files are large.
    pub(super) fn uninstall(&self, agent: &Agent) -> TestResult {
        self.sh(&format!("rm -rf ~/agents/{}", agent.id)).map(drop)
    }

    pub(super) fn sh(&self, line: &str) -> Result<String> {
        self.installation.api.sh(&self.id, line)
    }

    /// Returns what the owner has left, in millionths of a dollar.
    pub(super) fn credits(&self) -> Result<u64> {
        let credits = self.installation.api.get("/users/me/credits")?.expect(200)?;
        number(&credits, "remaining_micro")
    }

    /// Waits until no call is open, and returns what the workspace has used.
    pub(super) fn used(&self) -> Result<Used> {
        ai::settled(self.installation)?;
        let usage = self.installation.api.get("/users/me/ai-usage")?.expect(200)?;
        let totals = usage.get("by_workspace").and_then(Value::as_array).context("no totals")?;
        let mut own = totals.iter().filter(|total| total.get("workspace_id") == Some(&json!(self.id)));
        own.try_fold(Used::default(), |sum, total| {
            Ok(Used {
                input: sum.input + number(total, "input_tokens")?,
                output: sum.output + number(total, "output_tokens")?,
                cost: sum.cost + number(total, "credits_micro")?,
            })
        })
    }

    /// Runs `work` while the workspace may spend this many dollars.
    pub(super) fn with_budget<T>(&self, dollars: f64, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let spent = f64::from(u32::try_from(self.used()?.cost)?) / 1e6;
        let set = |amount: &str| {
            self.installation.admin(&["ai", "budget", "--workspace", &self.id, "--month", amount])
        };
        set(&format!("{:.6}", spent + dollars))?;
        let done = work();
        set("none")?;
        done
    }

    /// Runs `work` while the owner has no credits.
    pub(super) fn without_credits<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.used()?;
        let left = self.credits()?;
        let amount = format!("{}.{:06}", left / 1_000_000, left % 1_000_000);
        self.installation.admin(&["ai", "grant", OWNER, &amount, "--take"])?;
        let done = self.credits().and_then(|left| {
            ensure!(left == 0, "{left} credits are left");
            work()
        });
        self.installation.admin(&["ai", "grant", OWNER, &amount])?;
        done
    }

    /// Runs `work` while the workspace may use none of the agents' models.
    pub(super) fn without_models<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let models = ["ai", "models", "--workspace", &self.id];
        self.installation.admin(&[models.as_slice(), &["--allow", "text-embedding-3-small"]].concat())?;
        let done = work();
        self.installation.admin(&[models.as_slice(), &["--any"]].concat())?;
        done
    }

    /// Tells if a text is in the memory of a VM, where what every VM has shows that the search works.
    pub(super) fn remembers(&self, text: &str) -> Result<bool> {
        let needle = |kind, text: &str| Needle { kind, bytes: text.into() };
        let search = Search::new(&[needle(SOUGHT, text), needle(KNOWN, PLACEHOLDER_KEY)])?;
        let mut found = Findings::new();
        for pid in self.installation.vmm_pids()? {
            search.memory(pid, &mut found)?;
        }
        let has = |kind| found.iter().any(|(found, _)| *found == kind);
        ensure!(has(KNOWN), "the search finds nothing");
        Ok(has(SOUGHT))
    }

    /// Runs `work` while the workspace uses a key of its owner's, which it gets (`env`) or not (`proxy`).
    pub(super) fn with_own_key<T>(
        &self,
        provider: &str,
        key: &str,
        delivery: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let set = |body: Value| ai::configure(self.installation, &self.id, &body);
        set(json!({"mode": "byok", "provider": provider, "api_key": key, "key_delivery": delivery}))?;
        let done = work();
        set(json!({"mode": null, "provider": provider, "api_key": null, "key_delivery": null}))?;
        set(json!({"provider": null}))?;
        done
    }
}

fn spawn(installation: &Installation) -> Result<String> {
    let (ram_mb, vcpu_count, disk_size_mb) = SIZE;
    let size =
        json!({"name": NAME, "ram_mb": ram_mb, "vcpu_count": vcpu_count, "disk_size_mb": disk_size_mb});
    let created = installation.api.post("/workspaces", &size)?.expect(201)?;
    let id = created.pointer("/vm/id").and_then(Value::as_str).context("no id")?.to_owned();
    installation.api.wait(&id, "provisioned")?;
    installation.api.start(&id)?;
    Ok(id)
}

/// Provider at a public address of the internet, which VMs reach without the proxy.
pub(super) fn public_provider() -> Result<&'static Provider> {
    static PROVIDER: OnceLock<Result<Provider, String>> = OnceLock::new();
    let started = PROVIDER.get_or_init(|| {
        let bind = || TcpListener::bind((OTHER, PORT));
        let listener = internet::inside(&internet::outside(), bind).map_err(|error| format!("{error:#}"))?;
        ai::serve(listener).map_err(|error| format!("{error:#}"))
    });
    started.as_ref().map_err(|error| anyhow::anyhow!("the public provider does not listen: {error}"))
}

/// Returns a number of a document.
fn number(document: &Value, name: &str) -> Result<u64> {
    document.get(name).and_then(Value::as_u64).with_context(|| format!("no {name} in {document}"))
}
