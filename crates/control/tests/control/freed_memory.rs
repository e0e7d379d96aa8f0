//! Memory of control after it has handed a provider's key over to the AI proxy: control in a process of its own, whose memory is searched.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use memchr::memmem;
use rigbox_control::Timeouts;
use rigbox_control::admin::provider_keys;
use rigbox_core::plans::Plans;
use rigbox_proto::ai::ai_client::AiClient;
use rigbox_proto::ai::{GetSetupRequest, WatchRequest};
use rigbox_proto::transport::unix;

use crate::support::{NO_PROVIDER, TestControl};

/// As in `rigboxd`.
#[global_allocator]
static ALLOCATOR: rigbox_sys::allocator::Wiping = rigbox_sys::allocator::Wiping;

/// Set in the process of control.
const IS_CONTROL: &str = "RIGBOX_TEST_IS_CONTROL";
/// Line with which that process tells its folder.
const READY: &str = "control in ";
/// Time after a hand-over for which control may have the key.
const KEPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Control in a process of its own.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the places in a process's memory that have `needle`.
fn places(pid: u32, needle: &[u8]) -> Vec<String> {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut places = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw") && !line.contains("[v")) {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        let count = read(&memory, start, &mut bytes);
        let found = memmem::find_iter(&bytes[..count], needle);
        places.extend(found.map(|at| format!("{:#x} of {line}", start + u64::try_from(at).unwrap())));
    }
    places
}

/// Reads as much of an area as there is.
fn read(memory: &File, start: u64, bytes: &mut [u8]) -> usize {
    let mut count = 0;
    while let Ok(more @ 1..) = memory.read_at(&mut bytes[count..], start + u64::try_from(count).unwrap()) {
        count += more;
    }
    count
}

#[test]
fn key_is_in_no_memory_of_control_after_it_was_handed_over() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if std::env::var_os(IS_CONTROL).is_some() {
        runtime.block_on(async {
            let rig = TestControl::new().await;
            println!("{READY}{}", rig.path("").display());
            std::future::pending::<()>().await;
        });
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "freed_memory::key_is_in_no_memory_of_control_after_it_was_handed_over",
        "--nocapture",
    ]);
    let mut control = Process(command.env(IS_CONTROL, "1").stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(control.0.stdout.take().unwrap()).lines();
    let folder = lines.find_map(|line| line.unwrap().strip_prefix(READY).map(PathBuf::from)).unwrap();
    runtime.block_on(hand_over(control.0.id(), &folder));
    std::fs::remove_dir_all(folder).unwrap();
}

/// Stores a key, gets it as the proxy does, on a connection of its own, and searches control's memory while it goes on to tell that nothing
/// has changed.
async fn hand_over(control: u32, folder: &Path) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let config = crate::support::config(
        folder,
        address,
        Timeouts::default(),
        Plans::default(),
        false,
        vec![],
        NO_PROVIDER,
    );
    let mut proxy = AiClient::new(unix::channel(&folder.join("ai.sock")));
    let request = WatchRequest { run_id: "run".to_owned() };
    let mut notices = proxy.watch(request).await.unwrap().into_inner();
    assert!(notices.message().await.unwrap().unwrap().changed);
    let key =
        format!("sk-canary-{}", std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim());
    let secret = key.clone().into();
    provider_keys::set_provider_key(&config, "anthropic", "", "", &secret).await.unwrap();
    while !notices.message().await.unwrap().unwrap().changed {}
    let mut own = AiClient::new(unix::channel(&folder.join("ai.sock")));
    let setup = own.get_setup(GetSetupRequest {}).await.unwrap().into_inner();
    drop(own);
    assert_eq!(setup.upstreams[0].keys[0].secret, key);
    // The search finds what is there.
    assert!(!places(std::process::id(), key.as_bytes()).is_empty());
    let deadline = Instant::now() + KEPT_TIMEOUT;
    loop {
        let places = places(control, key.as_bytes());
        if places.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "control has the key at {places:#?}");
        notices.message().await.unwrap();
    }
}
