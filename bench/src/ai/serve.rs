//! Process of the benchmark: one role alone.

use anyhow::Result;

use super::addresses::PROVIDER;
use super::process::{Parameters, Role};
use super::{control, provider, proxy};
use crate::role;

/// Runs a role until standard input ends.
pub(crate) fn serve() -> Result<()> {
    let Parameters { role, folder } = role::parameters()?;
    match role {
        Role::Provider => provider::serve(PROVIDER, &folder),
        Role::Control => control::serve(&folder),
        Role::Proxy => proxy::serve(&folder),
    }
}
