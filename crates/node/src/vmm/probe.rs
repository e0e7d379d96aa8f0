//! Probe of the host's KVM. It boots the real thing: the same VMM and the guest's kernel with its own init, which prints one line and
//! powers off. A tiny guest of a few instructions would prove nothing: it runs on some machines where a stock kernel dies.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rigbox_sys::spawn::{ChildSetup, Credentials, configure_child};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::VmmConfig;
use super::kind::VmmKind;
use super::qemu::{Accelerator, MACHINE_ARGUMENTS};
use super::{firecracker, kernel};
use crate::config::Config;
use crate::error::Error;
use crate::sandbox::process::host_boot_id;
use crate::storage::images::LocalImage;

/// Line that the init prints when it is probed.
const SUCCESS_LINE: &str = "rigbox-probe: it works";

/// Word of the kernel command line with which the init prints [`SUCCESS_LINE`] and ends.
const PROBE_WORD: &str = "rigbox.probe";

/// Monitor and accelerator to use, with a human-readable reason.
#[derive(Clone, Serialize, Deserialize)]
pub(in crate::vmm) struct Verdict {
    pub(in crate::vmm) vmm: VmmKind,
    pub(in crate::vmm) accelerator: Accelerator,
    pub(in crate::vmm) reason: String,
}

/// Returns the verdict of [`probe`], cached for one boot of the host, its monitors and one image, so that a restarted node need not wait.
///
/// # Errors
/// Fails if the probe could not be tried, which says nothing about KVM.
pub(in crate::vmm) fn cached_verdict(config: &Config, image: Option<&LocalImage>) -> Result<Verdict, Error> {
    let path = config.run_dir.join("probe.json");
    let boot = host_boot_id().unwrap_or_default();
    let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let firecracker = config.vmm.firecracker.as_ref().map(|path| (path, modified(path)));
    let image_version = image.map(|image| &image.version);
    let key = format!("{boot} {:?} {firecracker:?} {image_version:?}", modified(&config.vmm.qemu));
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

/// Probes what can boot `image`, as the unprivileged user `uid`: Firecracker, if there is one, then QEMU, both on KVM.
fn probe(settings: &VmmConfig, image: Option<&LocalImage>, uid: u32) -> Result<Verdict, Error> {
    let tcg = |cause: String| Verdict {
        vmm: VmmKind::Qemu,
        accelerator: Accelerator::Tcg,
        reason: format!("software emulation (slow; QEMU does not promise isolation): {cause}"),
    };
    let Ok(device) = std::fs::metadata("/dev/kvm") else {
        return Ok(tcg(
            "this machine has no /dev/kvm; enable virtualization in its firmware, or nested virtualization"
                .into(),
        ));
    };
    let Some(image) = image else {
        return Ok(
            tcg("there is no image to probe KVM with; build one with `cargo xtask image base`".into()),
        );
    };
    let timeout = settings.kvm_probe_timeout;
    let mut failures = Vec::new();
    if let Some(program) = &settings.firecracker {
        match Trial::of_firecracker(program, image)?.run(uid, device.gid(), timeout)? {
            Ok(()) => {
                let reason = "KVM: the guest's kernel boots on it in Firecracker".into();
                return Ok(Verdict { vmm: VmmKind::Firecracker, accelerator: Accelerator::Kvm, reason });
            }
            Err(cause) => failures.push(format!("Firecracker: {cause}")),
        }
    }
    let without =
        |failures: &[String]| failures.iter().map(|failure| format!("; {failure}")).collect::<String>();
    match Trial::of_qemu(&settings.qemu, image)?.run(uid, device.gid(), timeout)? {
        Ok(()) => {
            let reason = format!("KVM: the guest's kernel boots on it in QEMU{}", without(&failures));
            Ok(Verdict { vmm: VmmKind::Qemu, accelerator: Accelerator::Kvm, reason })
        }
        Err(cause) => {
            let failures = without(&failures);
            Ok(tcg(format!(
                "/dev/kvm exists, but the guest's kernel does not boot on it ({cause}{failures})"
            )))
        }
    }
}

/// Boot of an image to its first line, which it ends itself.
struct Trial {
    command: Command,
    /// Opened here: the VMM's uid may not enter the folders that lead to them.
    files: Vec<File>,
}

impl Trial {
    fn of_qemu(program: &Path, image: &LocalImage) -> Result<Self, Error> {
        let mut files = Vec::new();
        let [kernel, initramfs] = [&image.kernel, &image.initramfs].map(|path| open(path, &mut files));
        let mut command = Command::new(program);
        command.args(MACHINE_ARGUMENTS).args(Accelerator::Kvm.arguments());
        command.args(["-m", "256M", "-smp", "1", "-no-reboot", "-serial", "stdio"]);
        command.args(["-kernel", &kernel?, "-initrd", &initramfs?]);
        command.args(["-append", &format!("{} {PROBE_WORD}", kernel::command_line(kernel::tsc_khz()))]);
        Ok(Self { command, files })
    }

    fn of_firecracker(program: &Path, image: &LocalImage) -> Result<Self, Error> {
        let mut files = Vec::new();
        let [kernel, initramfs] = [&image.kernel, &image.initramfs].map(|path| open(path, &mut files));
        let configuration = json!({
            "boot-source": {
                "kernel_image_path": kernel?,
                "initrd_path": initramfs?,
                "boot_args": format!("{} {PROBE_WORD}", firecracker::kernel_command_line(kernel::tsc_khz())),
            },
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 256},
            "drives": [],
        });
        let document = memfd_create("configuration", MemfdFlags::CLOEXEC)
            .map_err(|errno| Error::system("create a file in memory")(errno))?;
        let mut document = File::from(document);
        document
            .write_all(configuration.to_string().as_bytes())
            .map_err(Error::system("write a file in memory"))?;
        let path = inherited(&document).map_err(Error::system("pass on a file in memory"))?;
        files.push(document);
        // Found from its own folder: the VMM's uid may not enter those above.
        let (folder, name) = match (program.parent(), program.file_name()) {
            (Some(folder), Some(name)) => (folder, Path::new(".").join(name)),
            _ => return Err(Error::Launch(format!("{} is no path of a program", program.display()))),
        };
        let mut command = Command::new(name);
        command.current_dir(folder).args(["--no-api", "--config-file", &path]);
        Ok(Self { command, files })
    }

    /// Waits for the first line. Returns what the VMM said if there was none.
    fn run(mut self, uid: u32, kvm_gid: u32, timeout: Duration) -> Result<Result<(), String>, Error> {
        let command = &mut self.command;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_clear();
        // Runs as root if only root may open the device. The guest runs nothing but our own init.
        let group_accessible = std::fs::metadata("/dev/kvm")
            .is_ok_and(|meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o060 == 0o060);
        let unprivileged = Credentials { uid, gid: uid, groups: vec![kvm_gid] };
        let credentials = group_accessible.then_some(unprivileged);
        configure_child(command, ChildSetup { new_session: true, credentials, ..Default::default() });
        let program = PathBuf::from(command.get_program());
        let mut child = command.spawn().map_err(Error::at("run", &program))?;
        drop(self.files);
        let outputs = [
            child.stdout.take().map(|out| collect(Box::new(out))),
            child.stderr.take().map(|err| collect(Box::new(err))),
        ];
        let deadline = Instant::now() + timeout;
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
            return Ok(Err(format!("no output within {} s", timeout.as_secs())));
        }
        let line = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it exited without output");
        Ok(Err(line.chars().filter(|c| !c.is_control()).take(200).collect()))
    }
}

/// Opens a file for a VMM, and returns the path that it has there.
fn open(path: &Path, files: &mut Vec<File>) -> Result<String, Error> {
    let file = File::open(path).map_err(Error::at("open", path))?;
    let passed_on = inherited(&file).map_err(Error::at("pass on", path))?;
    files.push(file);
    Ok(passed_on)
}

/// Lets programs inherit a file, and returns its path there.
fn inherited(file: &File) -> std::io::Result<String> {
    rustix::io::fcntl_setfd(file, FdFlags::empty())?;
    Ok(format!("/proc/self/fd/{}", file.as_raw_fd()))
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
        // Where Firecracker's release is.
        let release = private.join("firecracker");
        std::fs::create_dir_all(&release).unwrap();
        let [kernel, initramfs] = ["kernel", "initramfs"].map(|name| private.join(name));
        std::fs::write(&kernel, "rigbox-probe: ").unwrap();
        std::fs::write(&initramfs, "it works").unwrap();
        for (path, mode) in [(folder.path(), 0o755), (&private, 0o700), (&release, 0o755)] {
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
        let run = |trial: Result<Trial, Error>| trial.unwrap().run(65_534, 65_534, Duration::from_secs(15));
        run(Trial::of_qemu(&program, &image)).unwrap().unwrap();
        let firecracker = release.join("firecracker");
        // Prints what its configuration names: the kernel, then the initramfs.
        let script =
            "#!/bin/sh\nfor file in $(grep -o '/proc/self/fd/[0-9]*' \"$3\" | tac); do cat $file; done\n";
        std::fs::write(&firecracker, script).unwrap();
        std::fs::set_permissions(&firecracker, std::fs::Permissions::from_mode(0o755)).unwrap();
        run(Trial::of_firecracker(&firecracker, &image)).unwrap().unwrap();
        // What could not be tried is no verdict.
        std::fs::remove_file(&program).unwrap();
        run(Trial::of_qemu(&program, &image)).unwrap_err();
    }
}
