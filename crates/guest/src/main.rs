//! The first program of every VM: as PID 1 it prepares the machine and gives way to systemd ([`init`]); before that it starts
//! itself once more as the agent ([`agent`]), which serves the host over the VM's one byte stream.

mod agent;
mod init;
mod users;

/// The agent's `argv[0]`: systemd spares processes whose name begins with `@` when it ends the system.
const AGENT_NAME: &str = "@rigbox-agent";

fn main() {
    let name = std::env::args().next().unwrap_or_default();
    let result = if std::process::id() == 1 {
        init::run()
    } else if name == AGENT_NAME {
        agent::run()
    } else {
        Err(anyhow::anyhow!("this program is the /init of a Rigbox VM and does nothing elsewhere"))
    };
    if let Err(error) = result {
        // On the console, for the host's console log; PID 1 then ends, which is a kernel panic that the host reports.
        eprintln!("rigbox: {error:#}");
        std::process::exit(1);
    }
}
