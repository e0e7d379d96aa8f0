//! Notices that systemd has begun to end the system, and how. The VMM cannot tell a halt from a busy guest, nor always a reboot
//! from a panic.

use std::fs;
use std::time::Duration;

use rigbox_proto::guest::shutdown_event::Kind;

/// systemd-shutdown lives for some hundred milliseconds at the least: it sends signals, waits, unmounts.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Waits until PID 1 has become `systemd-shutdown`.
pub(super) async fn announced() -> Kind {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // The name is cut to 15 bytes; the command line is read only when it has changed.
        if fs::read("/proc/1/comm").is_ok_and(|name| name.starts_with(b"systemd-shutdow"))
            && let Some(kind) = fs::read("/proc/1/cmdline").ok().as_deref().and_then(kind)
        {
            return kind;
        }
    }
}

fn kind(cmdline: &[u8]) -> Option<Kind> {
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
    fn the_verb_is_the_first_argument() {
        assert_eq!(kind(b"/lib/systemd/systemd-shutdown\0halt\0--log-level\x006\0"), Some(Kind::Halt));
        assert_eq!(kind(b"/lib/systemd/systemd-shutdown\0poweroff\0"), Some(Kind::Poweroff));
        assert_eq!(kind(b"/lib/systemd/systemd-shutdown\0"), None);
        assert_eq!(kind(b""), None);
    }
}
