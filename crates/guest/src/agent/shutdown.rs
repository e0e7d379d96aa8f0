//! Detection of a shutdown by systemd, and of its kind. The VMM cannot distinguish a halt from a busy guest, nor always a reboot from a
//! panic.

use std::fs;
use std::time::Duration;

use rigbox_proto::guest::shutdown_event::Kind;

/// Poll interval. systemd-shutdown runs for at least some hundred milliseconds, in which it sends signals, waits and unmounts.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Waits until PID 1 has become `systemd-shutdown`.
pub(super) async fn wait_for_shutdown() -> Kind {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        // The kernel truncates the name to 15 bytes. The command line is read only once the name has changed.
        if fs::read("/proc/1/comm").is_ok_and(|name| name.starts_with(b"systemd-shutdow"))
            && let Some(kind) = fs::read("/proc/1/cmdline").ok().as_deref().and_then(parse_kind)
        {
            return kind;
        }
    }
}

fn parse_kind(cmdline: &[u8]) -> Option<Kind> {
    match cmdline.split(|byte| *byte == 0).nth(1)? {
        b"poweroff" => Some(Kind::Poweroff),
        b"reboot" | b"kexec" => Some(Kind::Reboot),
        b"halt" => Some(Kind::Halt),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_is_the_first_argument() {
        assert_eq!(parse_kind(b"/lib/systemd/systemd-shutdown\0halt\0--log-level\x006\0"), Some(Kind::Halt));
        assert_eq!(parse_kind(b"/lib/systemd/systemd-shutdown\0poweroff\0"), Some(Kind::Poweroff));
        assert_eq!(parse_kind(b"/lib/systemd/systemd-shutdown\0"), None);
        assert_eq!(parse_kind(b""), None);
    }
}
