//! With `bare.serve` on the kernel's command line: the yardstick of the agent's stream, the same bytes over the same port by plain
//! reads and writes.
//!
//! A request is a letter and a little-endian count: `e` sends that many following bytes back, `f` keeps them as a file and
//! answers one byte, `p` has `cat` write the file so many times into a pipe and copies the pipe to the port.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// What the agent reads from a command's pipe at a time.
const CHUNK: usize = 32 * 1024;
const FILE: &str = "/run/bare-file";

pub(crate) fn serve() -> io::Result<Infallible> {
    let mut port = open()?;
    loop {
        let mut request = [0; 5];
        if let Err(error) = port.read_exact(&mut request) {
            // A read without a host at the other end is an end of file.
            if error.kind() != io::ErrorKind::UnexpectedEof {
                return Err(error);
            }
            sleep(Duration::from_millis(5));
            continue;
        }
        let [what, count @ ..] = request;
        let count = u32::from_le_bytes(count) as usize;
        match what {
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
            other => return Err(io::Error::other(format!("no request begins with {other}"))),
        }
    }
}

fn open() -> io::Result<File> {
    let port = fs::read_dir("/sys/class/virtio-ports")?.next().ok_or(io::ErrorKind::NotFound)??;
    File::options().read(true).write(true).open(std::path::Path::new("/dev").join(port.file_name()))
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
