//! First program of every VM. As PID 1 it prepares the machine and then becomes systemd ([`init`]). Before that, it starts itself again as
//! the agent ([`agent`]), which serves the host over two byte streams. It also stands in for `rig`, and for `systemctl` until
//! systemd answers.

mod agent;
mod files;
mod init;
mod mounts;
mod rig;
mod systemctl;
mod users;

use std::net::Ipv4Addr;
use std::process::ExitCode;

/// The agent's `argv[0]`. At shutdown, systemd does not kill processes whose name starts with `@`.
const AGENT_NAME: &str = "@rigbox-agent";
/// The host's end of every VM's network, where the bridge is.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
/// The agent's nice value: it responds before the machine's own work.
const AGENT_NICE: i32 = -10;

fn main() -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    if name == files::HELPER_NAME {
        return files::run();
    }
    let result = if std::process::id() == 1 {
        init::run()
    } else if name == AGENT_NAME {
        agent::run()
    } else if std::path::Path::new(&name).ends_with(rig::NAME) {
        Err(rig::run())
    } else if systemctl::is_covered() {
        Err(systemctl::run())
    } else {
        Err(anyhow::anyhow!("this program is the /init of a Rigbox VM and runs nowhere else"))
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    // Printed for the host's console log. The exit of PID 1 is then a kernel panic, which the host reports.
    eprintln!("rigbox: {error:#}");
    ExitCode::FAILURE
}
