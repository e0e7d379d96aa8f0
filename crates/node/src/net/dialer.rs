//! Gateways that dial into VMs, and the marks of the sockets that they get. A mark tells the rules of a VM's network what the holder of a
//! socket may connect it to; only root could change it.

/// Port of the SSH server of every VM.
pub(crate) const SSH_PORT: u16 = 22;

/// Gateway that dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialer {
    /// Dials the ports that control listed.
    Edge,
    /// Dials the SSH server.
    Ssh,
}

impl Dialer {
    /// Returns the mark of its sockets.
    pub(crate) fn mark(self) -> u32 {
        match self {
            Self::Edge => 1,
            Self::Ssh => 2,
        }
    }
}
