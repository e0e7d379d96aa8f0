//! Part of the agent in log-ins by SSH: the gateway's key of this boot, which the guest's server admits, and the server's host keys.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rigbox_proto::fault;
use tonic::{Code, Status};

/// Folder of the gateway's key. The image's sshd_config names the file in it.
const FOLDER: &str = "/run/rigbox/ssh";
const GATEWAY_KEYS: &str = "gateway_keys";
/// Public host keys. A service of the image makes them at the first boot.
const HOST_KEYS: [&str; 1] = ["/etc/ssh/ssh_host_ed25519_key.pub"];
/// Maximum length of a key's line.
const MAX_LINE_LEN: u64 = 4096;
/// Time for which the first boot's host keys are waited for.
const HOST_KEYS_TIMEOUT: Duration = Duration::from_secs(4);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Admits the gateway's key, and returns the host keys once there are any; none after a while.
pub(super) async fn prepare(gateway_key: &str) -> Result<Vec<String>, Status> {
    if gateway_key.contains(['\n', '\r']) || gateway_key.is_empty() {
        return Err(fault::status(Code::InvalidArgument, "bad_request", "The key is not one line."));
    }
    admit(gateway_key).map_err(|error| Status::internal(format!("{FOLDER}: {error}")))?;
    let mut polls = tokio::time::interval(POLL_INTERVAL);
    let found = async {
        loop {
            polls.tick().await;
            let keys: Vec<String> = HOST_KEYS.iter().filter_map(|path| read_line(Path::new(path))).collect();
            if !keys.is_empty() {
                return keys;
            }
        }
    };
    Ok(tokio::time::timeout(HOST_KEYS_TIMEOUT, found).await.unwrap_or_default())
}

/// Writes the gateway's key, for root to change and for everyone to read: sshd reads it as the user.
fn admit(gateway_key: &str) -> io::Result<()> {
    let line = format!("{gateway_key}\n");
    let path = Path::new(FOLDER).join(GATEWAY_KEYS);
    if fs::read_to_string(&path).is_ok_and(|current| current == line) {
        return Ok(());
    }
    fs::create_dir_all(FOLDER)?;
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    File::options().write(true).create_new(true).mode(0o644).open(&new)?.write_all(line.as_bytes())?;
    fs::rename(new, path)
}

fn read_line(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_LINE_LEN).read_to_string(&mut text).ok()?;
    // A file that is being written has no end of line yet.
    text.split_once('\n').map(|(line, _)| line.to_owned())
}
