//! Baseline of the agent's stream, enabled by `bare.serve` on the kernel's command line: the same bytes over the same port with plain reads and
//! writes.
//!
//! A request is a letter and a little-endian count. `e` echoes as many bytes, `f` writes as many bytes to a file and responds with one
//! byte, and `p` has `cat` write the file that many times into a pipe and copies the pipe to the port.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Size of the agent's reads from a command's pipe.
const CHUNK: usize = 32 * 1024;
const FILE: &str = "/run/bare-file";

pub(crate) fn serve() -> io::Result<Infallible> {
    let mut port = open()?;
    loop {
        let mut request = [0; 5];
        if let Err(error) = port.read_exact(&mut request) {
            // End of file means that no host is connected.
            if error.kind() != io::ErrorKind::UnexpectedEof {
                return Err(error);
            }
            sleep(Duration::from_millis(5));
            continue;
        }
        let [kind, count @ ..] = request;
        let count = u32::from_le_bytes(count) as usize;
        match kind {
            b'e' => {
                let mut bytes = vec![0; count];
                port.read_exact(&mut bytes)?;
                port.write_all(&bytes)?;
            }
            b'f' => {
                let mut bytes = vec![0; count];
                port.read_exact(&mut bytes)?;
                fs::write(FILE, bytes)?;
                port.write_all(b".")?;
            }
            b'p' => copy_pipe(&mut port, count)?,
            other => return Err(io::Error::other(format!("unknown request {other}"))),
        }
    }
}

/// Name of the agent's port.
const PORT: &str = "rigbox.agent";

fn open() -> io::Result<File> {
    for port in fs::read_dir("/sys/class/virtio-ports")? {
        let port = port?;
        if fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == PORT) {
            let device = std::path::Path::new("/dev").join(port.file_name());
            return File::options().read(true).write(true).open(device);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no port named {PORT}")))
}

fn copy_pipe(port: &mut File, times: usize) -> io::Result<()> {
    let mut cat =
        Command::new("/bin/cat").args(std::iter::repeat_n(FILE, times)).stdout(Stdio::piped()).spawn()?;
    if let Some(mut pipe) = cat.stdout.take() {
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = pipe.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            port.write_all(chunk.get(..count).unwrap_or_default())?;
        }
    }
    cat.wait().map(drop)
}
