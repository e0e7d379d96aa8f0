//! `rig` in the VM. The program comes over the bridge, packed: the agent fetches it once the system has started, because in the initramfs it
//! would delay the first command. This program stands in its place. When somebody runs it, it unpacks the other into memory and becomes it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lz4_flex::frame::FrameDecoder;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::GATEWAY;
use crate::mounts::bind_program;

/// Name under which this program is the stand-in.
pub(crate) const NAME: &str = "rig";
/// The packed program, an LZ4 frame.
const PACKED: &str = "/run/rigbox/rig.lz4";
/// The bridge, in every VM.
const BRIDGE: SocketAddr = SocketAddr::new(IpAddr::V4(GATEWAY), 9090);
const REQUEST: &[u8] = b"GET /rig/program HTTP/1.1\r\nHost: 172.16.0.1:9090\r\nConnection: close\r\n\r\n";
/// Limit for each connect, read and write.
const TIMEOUT: Duration = Duration::from_secs(20);
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// Maximum size of the packed program.
const MAX_BYTES: u64 = 64 << 20;

/// Puts the stand-in into `run`, which becomes `/run`.
pub(crate) fn install(run: &Path) -> Result<()> {
    // Bind-mounted instead of copied, so that it stays in memory only once.
    let to = run.join("rigbox/bin/rig");
    File::create(&to)?;
    bind_program(Path::new("/init"), &to)
}

/// Fetches the program, so that nobody has to wait for it.
pub(crate) fn fetch() -> Result<()> {
    let packed = download(BRIDGE)?;
    let new = format!("{PACKED}.new");
    fs::write(&new, packed)?;
    Ok(fs::rename(&new, PACKED)?)
}

/// Becomes `rig`. Returns only on failure.
pub(crate) fn run() -> anyhow::Error {
    match unpack() {
        Ok(program) => {
            let mut rig = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
            rig.arg0(NAME).args(std::env::args_os().skip(1));
            anyhow::Error::new(rig.exec()).context("failed to execute rig")
        }
        Err(error) => error.context("failed to get rig from the host; try again"),
    }
}

fn unpack() -> Result<File> {
    let mut program = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC)?);
    // If there is no file, the agent has not fetched it yet.
    let packed: Box<dyn Read> = match File::open(PACKED) {
        Ok(packed) => Box::new(packed),
        Err(_) => Box::new(Cursor::new(download(BRIDGE)?)),
    };
    std::io::copy(&mut FrameDecoder::new(packed), &mut program)?;
    Ok(program)
}

/// Downloads the packed program.
fn download(bridge: SocketAddr) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&bridge, TIMEOUT).with_context(|| bridge.to_string())?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(REQUEST)?;
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let left = MAX_HEAD_BYTES.saturating_sub(head.len());
        let read = Read::by_ref(&mut stream).take(left as u64).read_until(b'\n', &mut head)?;
        ensure!(read > 0, "the head of the response is too large or ended early");
    }
    let length = parse_head(&head)?;
    ensure!(length <= MAX_BYTES, "the program has {length} bytes, which is too large");
    let mut packed = Vec::new();
    stream.take(length).read_to_end(&mut packed)?;
    ensure!(packed.len() as u64 == length, "the download ended early");
    Ok(packed)
}

/// Returns the length of the body after this head of a response.
fn parse_head(head: &[u8]) -> Result<u64> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    ensure!(response.parse(head)?.is_complete(), "the head of the response is incomplete");
    let status = response.code.unwrap_or_default();
    ensure!(status == 200, "the bridge responded with status {status}");
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    length.context("the response has no length")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Downloads from a bridge that answers with `response`.
    fn download_of(response: Vec<u8>) -> Result<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let bridge = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; REQUEST.len()];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(request, REQUEST);
            stream.write_all(&response).unwrap();
        });
        let downloaded = download(address);
        bridge.join().unwrap();
        downloaded
    }

    #[test]
    fn download_is_whole_or_an_error() {
        let ok = |length: &str, body: &[u8]| {
            [format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes(), body].concat()
        };
        let program = vec![7; 1_000_000];
        assert_eq!(download_of(ok("1000000", &program)).unwrap(), program);
        let long_head = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 100_000]].concat();
        for (response, problem) in [
            (ok("1000001", &program), "ended early"),
            (ok("99999999999", b""), "too large"),
            (b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), "no length"),
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(), "status 404"),
            (b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(), "ended early"),
            (long_head, "too large"),
        ] {
            let error = download_of(response).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
