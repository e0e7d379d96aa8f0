//! Port of the machine, on which events go out.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rigbox_testkit::blocking::eventually;

use crate::events::{Event, PORT};

const ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Time for udev to name the port, beside all else that starts.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(120);

/// The open port.
#[derive(Clone)]
pub(crate) struct Port {
    file: Arc<Mutex<File>>,
}

impl Port {
    pub(super) fn open() -> Result<Self> {
        let path = format!("/dev/virtio-ports/{PORT}");
        let file = eventually("the port is there", DEVICE_TIMEOUT, || {
            Ok(Some(File::options().write(true).open(&path).with_context(|| path.clone())?))
        })?;
        Ok(Self { file: Arc::new(Mutex::new(file)) })
    }

    pub(super) fn send(&self, event: &Event) -> Result<()> {
        let line = serde_json::to_string(event)? + "\n";
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(file.write_all(line.as_bytes())?)
    }

    /// Tells a fact or a measurement.
    pub(crate) fn note(&self, text: &str) -> Result<()> {
        self.send(&Event::Note(text.to_owned()))
    }

    /// Sends signs of life for as long as this process lives.
    pub(super) fn keep_alive(&self) {
        let port = self.clone();
        std::thread::spawn(move || {
            while port.send(&Event::Alive).is_ok() {
                std::thread::sleep(ALIVE_INTERVAL);
            }
        });
    }
}
