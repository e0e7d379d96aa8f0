//! Transports between the agent and its host: two streams, on virtio-serial ports (QEMU) or on vsock (Firecracker).

mod virtio_serial;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rigbox_proto::guest_stream::VSOCK_PORTS;
use rigbox_sys::async_file::AsyncFile;
use rigbox_sys::vsock::HostListener;

/// Delay before a port is reopened after a session.
const REOPEN_DELAY: Duration = Duration::from_millis(20);

/// Stream to the host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    /// Session that the workspace's life depends on.
    Agent,
    /// Commands and files.
    Commands,
}

impl Stream {
    /// Name of its virtio-serial port, as set by the host.
    fn serial_port(self) -> &'static str {
        match self {
            Self::Agent => "rigbox.agent",
            Self::Commands => "rigbox.streams",
        }
    }

    fn vsock_port(self) -> u32 {
        let [agent, commands] = VSOCK_PORTS;
        match self {
            Self::Agent => agent,
            Self::Commands => commands,
        }
    }
}

/// End of a stream in the VM, on which one session after the other is opened.
pub(super) enum Port {
    Serial(PathBuf),
    Vsock(HostListener),
}

impl Port {
    /// Finds the port of a stream.
    pub(super) fn open(stream: Stream) -> io::Result<Self> {
        match virtio_serial::find(stream.serial_port()) {
            Ok(path) => Ok(Self::Serial(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::Vsock(HostListener::bind(stream.vsock_port())?))
            }
            Err(error) => Err(error),
        }
    }

    /// Serves sessions for ever, one at a time. On a serial port a new session ends the one before by its first bytes; on vsock by its
    /// connection.
    pub(super) async fn serve<S: Future<Output = io::Result<()>>>(
        &self,
        session: impl Fn(AsyncFile) -> S,
    ) -> io::Result<()> {
        match self {
            Self::Serial(path) => loop {
                // Reopened for each session, which discards the leftovers of the last one.
                let result = match virtio_serial::open(path) {
                    Ok(port) => session(port).await,
                    Err(error) => Err(error),
                };
                report(result);
                tokio::time::sleep(REOPEN_DELAY).await;
            },
            Self::Vsock(listener) => {
                let mut next = listener.accept().await?;
                loop {
                    let running = session(next);
                    tokio::pin!(running);
                    let accepted = listener.accept();
                    tokio::pin!(accepted);
                    next = tokio::select! {
                        accepted = &mut accepted => accepted?,
                        result = &mut running => {
                            report(result);
                            accepted.await?
                        }
                    };
                }
            }
        }
    }
}

fn report(result: io::Result<()>) {
    if let Err(error) = result {
        eprintln!("rigbox-agent: session failed: {error}");
    }
}
