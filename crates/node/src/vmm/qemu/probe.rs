//! Probe of the host's KVM. It boots the real thing: the same VMM and the guest's kernel with its own init, which prints one line and
//! powers off. A tiny guest of a few instructions would prove nothing: it runs on some machines where a stock kernel dies.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rigbox_sys::spawn::{ChildSetup, Credentials, configure_child};
use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};

use super::{Accelerator, MACHINE_ARGUMENTS, kernel_command_line};
use crate::config::Config;
use crate::error::Error;
use crate::sandbox::process::host_boot_id;
use crate::storage::images::LocalImage;
use crate::vmm::config::VmmConfig;

/// Line that the init prints when its command line contains `rigbox.probe`.
const SUCCESS_LINE: &str = "rigbox-probe: it works";

/// Accelerator to use, with a human-readable reason.
#[derive(Clone, Serialize, Deserialize)]
pub(in crate::vmm) struct Verdict {
    pub(in crate::vmm) accelerator: Accelerator,
    pub(in crate::vmm) reason: String,
}

/// Returns the verdict of [`probe`], cached for one boot of the host, one QEMU and one image, so that a restarted node need not wait.
///
/// # Errors
/// Fails if the probe could not be tried, which says nothing about KVM.
pub(in crate::vmm) fn cached_verdict(config: &Config, image: Option<&LocalImage>) -> Result<Verdict, Error> {
    let path = config.run_dir.join("probe.json");
    let boot = host_boot_id().unwrap_or_default();
    let qemu = std::fs::metadata(&config.vmm.qemu).and_then(|meta| meta.modified()).ok();
    let key = format!("{boot} {qemu:?} {:?}", image.map(|image| &image.version));
    let cached = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<CacheEntry>(&text).ok());
    if let Some(entry) = cached.filter(|entry| entry.key == key) {
        return Ok(entry.verdict);
    }
    let verdict = probe(&config.vmm, image, config.vm_uid_base)?;
    let entry = CacheEntry { key, verdict: verdict.clone() };
    // If the cache cannot be written, the next start probes again.
    if let Ok(text) = serde_json::to_vec(&entry) {
        let _ = std::fs::write(&path, text);
    }
    Ok(verdict)
}

#[derive(Serialize, Deserialize)]
struct CacheEntry {
    key: String,
    verdict: Verdict,
}

/// Probes KVM by booting `image` to its first line as the unprivileged user `uid`.
fn probe(settings: &VmmConfig, image: Option<&LocalImage>, uid: u32) -> Result<Verdict, Error> {
    let tcg = |cause: String| {
        Ok(Verdict {
            accelerator: Accelerator::Tcg,
            reason: format!("software emulation (slow; QEMU does not promise isolation): {cause}"),
        })
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
    match boot(settings, image, uid, std::os::unix::fs::MetadataExt::gid(&device))? {
        Ok(()) => Ok(Verdict {
            accelerator: Accelerator::Kvm,
            reason: "KVM: the guest's kernel boots on it".into(),
        }),
        Err(cause) => tcg(format!("/dev/kvm exists, but the guest's kernel does not boot on it ({cause})")),
    }
}

/// Boots `image` and waits for its first line. Returns what QEMU said if there was none.
fn boot(
    settings: &VmmConfig,
    image: &LocalImage,
    uid: u32,
    kvm_gid: u32,
) -> Result<Result<(), String>, Error> {
    let mut command = Command::new(&settings.qemu);
    command.args(MACHINE_ARGUMENTS).args(Accelerator::Kvm.arguments());
    command.args(["-m", "256M", "-smp", "1", "-no-reboot", "-serial", "stdio"]);
    // Opened here: this uid may not enter the folders that lead to them.
    let mut inherited = Vec::new();
    for (option, path) in [("-kernel", &image.kernel), ("-initrd", &image.initramfs)] {
        let file = File::open(path).map_err(Error::at("open", path))?;
        rustix::io::fcntl_setfd(&file, FdFlags::empty())
            .map_err(|errno| Error::at("pass on", path)(errno.into()))?;
        command.arg(option).arg(format!("/proc/self/fd/{}", file.as_raw_fd()));
        inherited.push(file);
    }
    let tsc_khz = rigbox_sys::tsc::measure_khz(Duration::from_millis(50));
    command.args(["-append", &format!("{} rigbox.probe", kernel_command_line(tsc_khz))]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_clear();
    // Runs as root if only root may open the device. The guest runs nothing but our own init.
    let group_accessible = std::fs::metadata("/dev/kvm")
        .is_ok_and(|meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o060 == 0o060);
    let unprivileged = Credentials { uid, gid: uid, groups: vec![kvm_gid] };
    let credentials = group_accessible.then_some(unprivileged);
    configure_child(&mut command, ChildSetup { new_session: true, credentials, ..Default::default() });
    let mut child = command.spawn().map_err(Error::at("run", &settings.qemu))?;
    drop(inherited);
    let outputs = [
        child.stdout.take().map(|out| collect(Box::new(out))),
        child.stderr.take().map(|err| collect(Box::new(err))),
    ];
    let deadline = Instant::now() + settings.kvm_probe_timeout;
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
        return Ok(Ok(()));
    }
    if timed_out {
        return Ok(Err(format!("no output within {} s", settings.kvm_probe_timeout.as_secs())));
    }
    let line = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it exited without output");
    Ok(Err(line.chars().filter(|c| !c.is_control()).take(200).collect()))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn unprivileged_vmm_reads_kernel_and_initramfs_from_a_private_folder() {
        assert!(rustix::process::geteuid().is_root(), "needs root, as the node does");
        let folder = tempfile::tempdir().unwrap();
        let private = folder.path().join("private");
        std::fs::create_dir(&private).unwrap();
        let [kernel, initramfs] = ["kernel", "initramfs"].map(|name| private.join(name));
        std::fs::write(&kernel, "rigbox-probe: ").unwrap();
        std::fs::write(&initramfs, "it works").unwrap();
        for (path, mode) in [(folder.path(), 0o755), (&private, 0o700)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        // Prints what QEMU would load.
        let program = folder.path().join("program");
        let script =
            "#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in -kernel|-initrd) cat \"$2\" ;; esac; shift; done\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let image = LocalImage {
            name: "base".into(),
            version: "base-1".into(),
            built_at: std::time::SystemTime::UNIX_EPOCH,
            min_disk_mb: 0,
            rootfs: private.join("rootfs"),
            kernel,
            initramfs,
        };
        let mut settings = Config::for_tests().vmm;
        settings.kvm_probe_timeout = Duration::from_secs(15);
        settings.qemu = program.clone();
        boot(&settings, &image, 65_534, 65_534).unwrap().unwrap();
        // What could not be tried is no verdict.
        std::fs::remove_file(&program).unwrap();
        boot(&settings, &image, 65_534, 65_534).unwrap_err();
    }
}
