//! The agents: where their packages are, and how each is told a task without a terminal.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// Folder of the versions of their packages, and of programs that use a framework.
pub(super) const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/agents");
/// Folder of the agents' packages, which `cargo xtask` installs.
const PACKAGES: &str = "RIGBOX_AGENTS";

/// Coding agent, or a framework for them.
pub(crate) struct Agent {
    pub(super) name: &'static str,
    /// Folder in a workspace, and name in commands.
    pub(super) id: &'static str,
    /// Provider of the models that it uses here.
    pub(super) provider: &'static str,
    package: Package,
    /// Folder that is copied, below that of the packages.
    folder: &'static str,
    /// Parts of it that it does not need here.
    pub(super) without: &'static [&'static str],
    /// Its command for a task, which is in `$TASK`. `$AT` is its folder.
    pub(super) command: &'static str,
    /// Variables before the command, and arguments after it, so that it calls a provider at `$URL` with the user's own key.
    pub(super) own: (&'static str, &'static str),
    /// Calls of a model that one try of the task makes, those beside the task included.
    pub(super) calls: usize,
    /// Budget in dollars with which the limit of a call of its models is lowered, and the call is still worth making.
    pub(super) tight_budget: f64,
    /// Words by which it says that there are no credits.
    pub(super) says_no_credits: &'static str,
    /// Limit for a task, in seconds.
    pub(super) max_seconds: u32,
}

enum Package {
    Npm(&'static str),
    Python(&'static str),
}

/// Limit for a task, in seconds. In an emulated VM an agent needs a minute to begin, and on a busy host five.
const MAX_SECONDS: u32 = 900;

pub(super) const CODEX: Agent = Agent {
    name: "Codex",
    id: "codex",
    provider: "openai",
    package: Package::Npm("@openai/codex-linux-x64"),
    folder: "node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl",
    without: &["*/voice"],
    // The VM is the sandbox.
    command: "$AT/bin/codex exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox \"$TASK\"",
    own: (
        "",
        "-c model_provider=own -c 'model_providers.own.name=\"own\"' -c model_providers.own.base_url=\\\"$URL/v1\\\" \
         -c 'model_providers.own.env_key=\"OPENAI_API_KEY\"' -c 'model_providers.own.wire_api=\"responses\"'",
    ),
    calls: 1,
    tight_budget: 1.5,
    // It has words of its own for it.
    says_no_credits: "Quota exceeded",
    max_seconds: MAX_SECONDS,
};

pub(super) const ALL: [Agent; 5] = [
    Agent {
        name: "Claude Code",
        id: "claude-code",
        provider: "anthropic",
        package: Package::Npm("@anthropic-ai/claude-code-linux-x64"),
        folder: "node_modules/@anthropic-ai/claude-code-linux-x64",
        without: &[],
        command: "$AT/claude -p \"$TASK\" --permission-mode acceptEdits",
        own: ("ANTHROPIC_BASE_URL=$URL", ""),
        calls: 1,
        tight_budget: 2.5,
        says_no_credits: "credits",
        max_seconds: MAX_SECONDS,
    },
    CODEX,
    Agent {
        name: "opencode",
        id: "opencode",
        provider: "anthropic",
        package: Package::Npm("opencode-linux-x64"),
        folder: "node_modules/opencode-linux-x64",
        without: &[],
        // Emulation takes many times as long where memory is given back page by page (docs/agents.md), where code is compiled, and where
        // memory is searched by several threads meanwhile. Its own list of models is long.
        command: "Malloc=1 BUN_JSC_useJIT=0 BUN_JSC_useConcurrentGC=0 BUN_JSC_numberOfGCMarkers=1 \
                  OPENCODE_DISABLE_MODELS_FETCH=1 OPENCODE_MODELS_PATH=$AT/../programs/opencode-models.json \
                  $AT/bin/opencode run -m anthropic/claude-haiku-4-5 \"$TASK\"",
        own: ("ANTHROPIC_BASE_URL=$URL/v1", ""),
        // One is for a title.
        calls: 2,
        tight_budget: 0.6,
        says_no_credits: "credits",
        // It computes for 20 minutes on a busy host (docs/agents.md).
        max_seconds: 2_400,
    },
    Agent {
        name: "gemini-cli",
        id: "gemini-cli",
        provider: "google",
        package: Package::Npm("@google/gemini-cli"),
        folder: "node_modules/@google/gemini-cli",
        without: &[],
        // It starts itself once more to get more memory, unless told not to.
        command: "GEMINI_CLI_NO_RELAUNCH=true node $AT/bundle/gemini.js -p \"$TASK\" --yolo --skip-trust",
        own: ("GOOGLE_GEMINI_BASE_URL=$URL", ""),
        // One chooses the model.
        calls: 2,
        tight_budget: 0.6,
        says_no_credits: "credits",
        max_seconds: MAX_SECONDS,
    },
    Agent {
        name: "Pydantic AI",
        id: "pydantic-ai",
        provider: "openai",
        package: Package::Python("pydantic-ai-slim"),
        folder: "venv/lib/python3.11/site-packages",
        without: &["__pycache__", "./pip*", "./setuptools*"],
        command: "PYTHONPATH=$AT python3 $AT/../programs/pydantic_agent.py \"$TASK\"",
        own: ("OPENAI_BASE_URL=$URL/v1", ""),
        calls: 1,
        tight_budget: 0.5,
        says_no_credits: "credits",
        max_seconds: MAX_SECONDS,
    },
];

impl Agent {
    /// Returns the folder to copy.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        let packages = std::env::var_os(PACKAGES).map(PathBuf::from);
        let packages =
            packages.with_context(|| format!("{PACKAGES} is not set: run `cargo xtask agents`"))?;
        Ok(packages.join(self.folder))
    }

    /// Returns its version, which is pinned.
    pub(super) fn version(&self) -> Result<String> {
        let read = |name: &str| std::fs::read_to_string(Path::new(SOURCES).join(name));
        let version = match self.package {
            Package::Npm(package) => {
                let manifest: Value = serde_json::from_str(&read("package.json")?)?;
                let version = manifest.pointer("/dependencies").and_then(|all| all.get(package)?.as_str());
                // `npm:@openai/codex@1.2.3-linux-x64` is a package under another name.
                let version = version.and_then(|version| version.rsplit('@').next());
                version.map(|version| version.trim_end_matches("-linux-x64").to_owned())
            }
            Package::Python(package) => {
                let requirements = read("requirements.txt")?;
                let line =
                    requirements.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix("=="));
                line.and_then(|line| Some(line.split_whitespace().next()?.to_owned()))
            }
        };
        version.with_context(|| format!("no version of {} in {SOURCES}", self.name))
    }
}
