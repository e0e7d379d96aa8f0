//! Benchmark `ssh`: the SSH gateway beside OpenSSH's `ProxyJump`, both in front of one OpenSSH server. A table plays control, and a socket
//! that connects plays the node. All of it is on this host, in namespaces of its own.

use anyhow::Result;
use rigbox_testkit::report::{Measure, Target, median, progress};

mod control;
mod idle;
mod keys;
mod load;
mod openssh;
mod process;
mod users;

pub(crate) use process::serve;

use crate::{memory, namespaces};
use openssh::{OpenSsh, Way};
use process::{Gateway, LISTEN};

/// Ciphers to choose from.
pub(crate) const CIPHERS: [&str; 3] =
    ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"];

const BULK_BYTES: u64 = 256_000_000;
/// Connections of each side in a round.
const CONNECTIONS: usize = 20;
/// Keys that are pressed on each side in a round.
const KEYS: usize = 500;
/// Sessions before the memory of more is measured.
const WARM_UP_SESSIONS: usize = 20;
/// Sessions whose memory is measured after each has received something.
const USED_SESSIONS: usize = 50;
const USED_SESSION_BYTES: u64 = 20_000_000;
/// Sessions of the bastion, each of which takes four processes besides those of the server.
const BASTION_SESSIONS: usize = 50;

/// Parameters of the benchmark.
pub(crate) struct Options<'a> {
    pub(crate) rounds: u32,
    pub(crate) cipher: &'a str,
    /// Number of idle sessions.
    pub(crate) sessions: usize,
}

/// Results of one way, a value for each round or connection.
struct Side {
    way: Way,
    upload: Vec<f64>,
    download: Vec<f64>,
    connect: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Side {
    fn new(way: Way) -> Self {
        let (upload, download, connect, p50, p99) = Default::default();
        Self { way, upload, download, connect, p50, p99 }
    }

    fn bulk(&mut self, ssh: &OpenSsh) -> Result<()> {
        let upload = load::upload(ssh, self.way, BULK_BYTES)?;
        let download = load::download(ssh, self.way, BULK_BYTES)?;
        progress(&format!("{:?}: {upload:.0} MB/s up, {download:.0} MB/s down", self.way));
        self.upload.push(upload);
        self.download.push(download);
        Ok(())
    }

    fn connect(&mut self, ssh: &OpenSsh) -> Result<()> {
        self.connect.push(load::connect(ssh, self.way)?.as_secs_f64() * 1e3);
        Ok(())
    }

    fn type_beside_bulk(&mut self, ssh: &OpenSsh) -> Result<()> {
        let load::Echoes { mut times, bulk } = load::type_beside_bulk(ssh, self.way, KEYS)?;
        let p50 = median(&mut times);
        // In order since the median.
        let p99 = times.get(KEYS * 99 / 100 - 1).copied().unwrap_or(f64::NAN);
        progress(&format!("{:?}: echo after {p50:.2} ms, p99 {p99:.2} ms, beside {bulk:.0} MB/s", self.way));
        self.p50.push(p50);
        self.p99.push(p99);
        Ok(())
    }
}

/// Runs the benchmark, with progress on standard error. Must run in namespaces of its own.
pub(crate) fn measure(options: &Options<'_>) -> Result<Vec<Measure>> {
    let folder = namespaces::prepare()?;
    users::add(&folder)?;
    progress(&format!("starting OpenSSH and the SSH gateway, with {}", options.cipher));
    let ssh = OpenSsh::start(&folder, options.cipher, LISTEN)?;
    let mut gateway = Gateway::start(&folder, ssh.host_key())?;
    let mut sides = [Side::new(Way::Gateway), Side::new(Way::ProxyJump)];
    for round in 1..=options.rounds {
        progress(&format!("round {round} of {}", options.rounds));
        for side in &mut sides {
            side.bulk(&ssh)?;
        }
        for _ in 0..CONNECTIONS {
            for side in &mut sides {
                side.connect(&ssh)?;
            }
        }
        for side in &mut sides {
            side.type_beside_bulk(&ssh)?;
        }
    }
    let mut measures = report(&mut sides, options.cipher);
    gateway.restart()?;
    measures.push(idle_sessions(&ssh, &gateway, options.sessions)?);
    gateway.restart()?;
    measures.push(used_sessions(&ssh, &gateway)?);
    Ok(measures)
}

fn report([ours, theirs]: &mut [Side; 2], cipher: &str) -> Vec<Measure> {
    let beside = |name: String, unit, ours: &mut Vec<f64>, theirs: &mut Vec<f64>, target| {
        Measure::new(name, unit, median(ours), Some(median(theirs)), target)
    };
    let bulk = |direction: &str| format!("{direction} of 256 MB beside ProxyJump, {cipher}");
    let at_least = Target::AtLeastTimes(0.8);
    vec![
        beside(bulk("upload"), "MB/s", &mut ours.upload, &mut theirs.upload, at_least),
        beside(bulk("download"), "MB/s", &mut ours.download, &mut theirs.download, at_least),
        beside(
            "connection, a command and its end".to_owned(),
            "ms",
            &mut ours.connect,
            &mut theirs.connect,
            Target::BelowTheirsPlus(30.0),
        ),
        beside(
            "echo of a key beside a download, p50".to_owned(),
            "ms",
            &mut ours.p50,
            &mut theirs.p50,
            Target::BelowTheirsPlus(1.0),
        ),
        beside(
            "echo of a key beside a download, p99".to_owned(),
            "ms",
            &mut ours.p99,
            &mut theirs.p99,
            Target::AtMostTimes(1.5),
        ),
    ]
}

/// Measures the memory of the gateway for each session. That of the bastion is for comparison.
fn idle_sessions(ssh: &OpenSsh, gateway: &Gateway, count: usize) -> Result<Measure> {
    progress(&format!("{BASTION_SESSIONS} idle sessions of the bastion"));
    let theirs = idle::memory_of_bastion(ssh, BASTION_SESSIONS)?;
    progress(&format!("{count} idle sessions of the gateway"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let warm_up = runtime.block_on(idle::open(LISTEN, WARM_UP_SESSIONS))?;
    let before = memory::rss_kb(gateway.pid())?;
    let open = runtime.block_on(idle::open(LISTEN, count))?;
    let grown = memory::rss_kb(gateway.pid())?.saturating_sub(before);
    drop((warm_up, open));
    let name = format!("memory of an idle session, of {count}");
    Ok(Measure::new(name, "kB", grown as f64 / count as f64, Some(theirs), Target::Below(512.0)))
}

/// Measures the memory that sessions keep after a download.
fn used_sessions(ssh: &OpenSsh, gateway: &Gateway) -> Result<Measure> {
    progress(&format!("{USED_SESSIONS} sessions of the gateway that are idle after a download"));
    let before = memory::rss_kb(gateway.pid())?;
    let open = load::idle_after_download(ssh, Way::Gateway, USED_SESSIONS, USED_SESSION_BYTES)?;
    let grown = memory::rss_kb(gateway.pid())?.saturating_sub(before);
    drop(open);
    let name = format!("memory of an idle session after a download, of {USED_SESSIONS}");
    Ok(Measure::new(name, "kB", grown as f64 / USED_SESSIONS as f64, None, Target::Below(512.0)))
}
