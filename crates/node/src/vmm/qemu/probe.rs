//! Probe of the host's KVM. It boots the real thing: the same VMM and the guest's kernel with its own init, which prints one line and
//! powers off. A tiny guest of a few instructions would prove nothing: it runs on some machines where a stock kernel dies.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rigbox_sys::spawn::{ChildSetup, Credentials, configure_child};
use serde::{Deserialize, Serialize};

use super::{Accelerator, MACHINE_ARGUMENTS, kernel_command_line};
use crate::config::Config;
use crate::sandbox::process::host_boot_id;
use crate::storage::images::LocalImage;

/// Time limit for the probe. A stock kernel on working KVM needs less than a second.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);
/// Line that the init prints when its command line contains `rigbox.probe`.
const SUCCESS_LINE: &str = "rigbox-probe: it works";

/// Accelerator to use, with a human-readable reason.
#[derive(Clone, Serialize, Deserialize)]
pub(in crate::vmm) struct Verdict {
    pub(in crate::vmm) accelerator: Accelerator,
    pub(in crate::vmm) reason: String,
}

/// Returns the verdict of [`probe`], cached for one boot of the host, one QEMU and one image, so that a restarted node need not wait.
pub(in crate::vmm) fn cached_verdict(config: &Config, image: Option<&LocalImage>) -> Verdict {
    let path = config.run_dir.join("probe.json");
    let boot = host_boot_id().unwrap_or_default();
    let qemu = std::fs::metadata(&config.vmm.qemu).and_then(|meta| meta.modified()).ok();
    let key = format!("{boot} {qemu:?} {:?}", image.map(|image| &image.version));
    let cached = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<CacheEntry>(&text).ok());
    if let Some(entry) = cached.filter(|entry| entry.key == key) {
        return entry.verdict;
    }
    let verdict = probe(&config.vmm.qemu, image, config.vm_uid_base);
    let entry = CacheEntry { key, verdict: verdict.clone() };
    // If the cache cannot be written, the next start probes again.
    if let Ok(text) = serde_json::to_vec(&entry) {
        let _ = std::fs::write(&path, text);
    }
    verdict
}

#[derive(Serialize, Deserialize)]
struct CacheEntry {
    key: String,
    verdict: Verdict,
}

/// Probes KVM by booting `image` to its first line as the unprivileged user `uid`.
fn probe(qemu: &Path, image: Option<&LocalImage>, uid: u32) -> Verdict {
    let tcg = |cause: String| Verdict {
        accelerator: Accelerator::Tcg,
        reason: format!("software emulation (slow; QEMU does not promise isolation): {cause}"),
    };
    let Ok(device) = std::fs::metadata("/dev/kvm") else {
        return tcg(
            "this machine has no /dev/kvm; enable virtualization in its firmware, or nested virtualization"
                .into(),
        );
    };
    let Some(image) = image else {
        return tcg("there is no image to probe KVM with; build one with `cargo xtask image base`".into());
    };
    match boot(qemu, image, uid, std::os::unix::fs::MetadataExt::gid(&device)) {
        Ok(()) => {
            Verdict { accelerator: Accelerator::Kvm, reason: "KVM: the guest's kernel boots on it".into() }
        }
        Err(cause) => tcg(format!("/dev/kvm exists, but the guest's kernel does not boot on it ({cause})")),
    }
}

fn boot(qemu: &Path, image: &LocalImage, uid: u32, kvm_gid: u32) -> Result<(), String> {
    let mut command = Command::new(qemu);
    command.args(MACHINE_ARGUMENTS).args(Accelerator::Kvm.arguments());
    command.args(["-m", "256M", "-smp", "1", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initramfs);
    let tsc_khz = rigbox_sys::tsc::measure_khz(Duration::from_millis(50));
    command.args(["-append", &format!("{} rigbox.probe", kernel_command_line(tsc_khz))]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_clear();
    // Runs as root if only root may open the device. The guest runs nothing but our own init.
    let group_accessible = std::fs::metadata("/dev/kvm")
        .is_ok_and(|meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o060 == 0o060);
    let unprivileged = Credentials { uid, gid: uid, groups: vec![kvm_gid] };
    let credentials = group_accessible.then_some(unprivileged);
    configure_child(&mut command, ChildSetup { new_session: true, credentials, ..Default::default() });
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", qemu.display()))?;
    let outputs = [
        child.stdout.take().map(|out| collect(Box::new(out))),
        child.stderr.take().map(|err| collect(Box::new(err))),
    ];
    let deadline = Instant::now() + PROBE_TIMEOUT;
    let mut timed_out = false;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            timed_out = true;
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let [console, stderr] =
        outputs.map(|output| output.and_then(|thread| thread.join().ok()).unwrap_or_default());
    if console.contains(SUCCESS_LINE) {
        return Ok(());
    }
    if timed_out {
        return Err(format!("no output within {} s", PROBE_TIMEOUT.as_secs()));
    }
    let line = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it exited without output");
    Err(line.chars().filter(|c| !c.is_control()).take(200).collect())
}

/// Reads to the end and keeps the first 64 KiB.
fn collect(mut output: Box<dyn std::io::Read + Send>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut chunk) {
            if bytes.len() < 64 * 1024 {
                bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
