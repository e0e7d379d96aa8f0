//! Actions of a user of OpenSSH's client, by either way: connecting, moving data, and typing while data moves.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::openssh::{OpenSsh, Way};

const CHUNK: usize = 64 * 1024;
/// Line by which a command tells that it has begun.
const READY: &str = "ready";
/// Keys that are pressed before the measurement.
const WARM_UP: usize = 20;
/// Shortest time between two keys, and how much longer it gets, so that nothing keeps step with them.
const KEY_INTERVAL: Duration = Duration::from_millis(4);
const KEY_INTERVAL_STEP: Duration = Duration::from_micros(370);
const KEY_INTERVAL_STEPS: u32 = 11;

/// Running client. Ends when dropped.
pub(super) struct Client {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Client {
    fn start(ssh: &OpenSsh, way: Way, options: &[&str], command: &str) -> Result<Self> {
        let mut child = ssh.client(way, options, &[command]).spawn().context("cannot run ssh")?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("ssh's standard output")?;
        Ok(Self { child, input, output: BufReader::with_capacity(CHUNK, output) })
    }

    fn wait_ready(&mut self) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        anyhow::ensure!(line.trim_end() == READY, "the command said {line:?}");
        Ok(())
    }

    fn wait_success(&mut self) -> Result<()> {
        drop(self.input.take());
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "ssh: {status}");
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the time of a session in which nothing is done.
pub(super) fn connect(ssh: &OpenSsh, way: Way) -> Result<Duration> {
    let started = Instant::now();
    Client::start(ssh, way, &[], "true")?.wait_success()?;
    Ok(started.elapsed())
}

/// Sends `bytes` to the server. Returns MB/s, without the time to connect.
pub(super) fn upload(ssh: &OpenSsh, way: Way, bytes: u64) -> Result<f64> {
    let mut client = Client::start(ssh, way, &[], &format!("echo {READY}; exec wc -c"))?;
    client.wait_ready()?;
    let started = Instant::now();
    let input = client.input.as_mut().context("ssh's standard input")?;
    std::io::copy(&mut BufReader::with_capacity(CHUNK, std::io::repeat(0).take(bytes)), input)?;
    drop(client.input.take());
    let mut count = String::new();
    client.output.read_line(&mut count)?;
    let seconds = started.elapsed().as_secs_f64();
    anyhow::ensure!(count.trim() == bytes.to_string(), "{} of {bytes} bytes have arrived", count.trim());
    client.wait_success()?;
    Ok(bytes as f64 / 1e6 / seconds)
}

/// Receives `bytes` from the server. Returns MB/s, without the time to connect.
pub(super) fn download(ssh: &OpenSsh, way: Way, bytes: u64) -> Result<f64> {
    let mut client = Client::start(ssh, way, &[], &format!("echo {READY}; exec head -c {bytes} /dev/zero"))?;
    client.wait_ready()?;
    let started = Instant::now();
    let count = drain(&mut client.output, |_| {})?;
    let seconds = started.elapsed().as_secs_f64();
    anyhow::ensure!(count == bytes, "{count} of {bytes} bytes have arrived");
    client.wait_success()?;
    Ok(bytes as f64 / 1e6 / seconds)
}

/// Opens `count` sessions that each receive `bytes` and are idle from then on. They end when dropped.
pub(super) fn idle_after_download(ssh: &OpenSsh, way: Way, count: usize, bytes: u64) -> Result<Vec<Client>> {
    let open = |_| {
        let mut client = Client::start(ssh, way, &[], &format!("head -c {bytes} /dev/zero; exec cat"))?;
        let received = std::io::copy(&mut (&mut client.output).take(bytes), &mut std::io::sink())?;
        anyhow::ensure!(received == bytes, "{received} of {bytes} bytes have arrived");
        Ok(client)
    };
    (0..count).map(open).collect()
}

/// Reads to the end, and tells the length of each piece. Returns the length of all.
fn drain(output: &mut impl BufRead, mut tell: impl FnMut(u64)) -> Result<u64> {
    let mut count = 0;
    loop {
        let read = output.fill_buf()?.len();
        if read == 0 {
            return Ok(count);
        }
        output.consume(read);
        count += read as u64;
        tell(read as u64);
    }
}

/// Echoes of keys in a terminal.
pub(super) struct Echoes {
    /// Times in ms.
    pub(super) times: Vec<f64>,
    /// Speed of the download beside them in MB/s.
    pub(super) bulk: f64,
}

/// Presses `count` keys, each after the echo of the one before it, while another session receives without end.
pub(super) fn type_beside_bulk(ssh: &OpenSsh, way: Way, count: usize) -> Result<Echoes> {
    let mut terminal = Client::start(ssh, way, &["-tt"], &format!("stty raw -echo; echo {READY}; exec cat"))?;
    terminal.wait_ready()?;
    let bulk = Bulk::start(ssh, way)?;
    for number in 0..WARM_UP {
        press(&mut terminal, number)?;
    }
    let (started, before) = (Instant::now(), bulk.received());
    let times = (0..count).map(|number| press(&mut terminal, number)).collect::<Result<_>>()?;
    let bulk = (bulk.received() - before) as f64 / 1e6 / started.elapsed().as_secs_f64();
    Ok(Echoes { times, bulk })
}

/// Presses a key. Returns the time until its echo in ms.
fn press(terminal: &mut Client, number: usize) -> Result<f64> {
    std::thread::sleep(KEY_INTERVAL + KEY_INTERVAL_STEP * (u32::try_from(number)? % KEY_INTERVAL_STEPS));
    let key = [b'a'];
    let started = Instant::now();
    terminal.input.as_mut().context("ssh's standard input")?.write_all(&key)?;
    let mut echo = [0];
    terminal.output.read_exact(&mut echo)?;
    anyhow::ensure!(echo == key, "the echo is {echo:?}");
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Session that receives without end. Ends when dropped.
struct Bulk {
    child: Child,
    received: Arc<AtomicU64>,
    reader: Option<JoinHandle<Result<u64>>>,
}

impl Bulk {
    /// Starts it, and returns once something has arrived.
    fn start(ssh: &OpenSsh, way: Way) -> Result<Self> {
        let mut child = ssh.client(way, &[], &["exec cat /dev/zero"]).spawn().context("cannot run ssh")?;
        let mut output = BufReader::with_capacity(CHUNK, child.stdout.take().context("ssh's output")?);
        let received = Arc::<AtomicU64>::default();
        let mut bulk = Self { child, received: Arc::clone(&received), reader: None };
        anyhow::ensure!(!output.fill_buf()?.is_empty(), "the bulk transfer has not begun");
        bulk.reader = Some(std::thread::spawn(move || {
            drain(&mut output, |count| _ = received.fetch_add(count, Ordering::Relaxed))
        }));
        Ok(bulk)
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its output has ended. How is of no interest.
        let _ = self.reader.take().map(JoinHandle::join);
    }
}
