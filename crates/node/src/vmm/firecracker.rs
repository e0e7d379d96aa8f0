//! Driver for Firecracker. It boots by a configuration file, so nobody reads an answer of it before guestio does.

pub(super) mod version;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use rigbox_core::vm_limits::DiskLimits;
use serde_json::{Value, json};

use super::kind::VmmKind;
use super::{Machine, Memory, Place, Vmm, files, kernel};
use crate::config::{firecracker_configuration, firecracker_log, firecracker_metrics};
use crate::error::Error;
use crate::sandbox::cgroup::Limits;
use crate::sandbox::jail::{Device, JailFile, JailPlan, Launched, Stdout, launch};
use crate::sandbox::run_folder;

/// Sockets of Firecracker in its folder: of its API, and of the vsock device.
pub(crate) const API_SOCKET: &str = "api.sock";
pub(crate) const VSOCK_SOCKET: &str = "vsock.sock";
/// Context id of every VM on its vsock. No two VMs share one.
const GUEST_CID: u32 = 3;
/// Firecracker's own memory, and dirty pages on their way to the disk, MiB.
const OVERHEAD_MB: u32 = 64;
/// Threads of Firecracker beside the virtual CPUs: the main loop, its API, and room.
const THREADS: u32 = 8;
const LOG_LEVEL: &str = "Warning";
/// Time over which a limit of the disk counts, ms.
const REFILL_MS: u64 = 1000;

/// The Firecracker driver.
pub(super) struct Firecracker {
    /// Path of the program, the same inside the jail.
    program: PathBuf,
    /// Root of the jail, as installed by [`super::files::install`].
    root: PathBuf,
    tsc_khz: u64,
}

/// Returns the common part of the kernel command line. The reset by the keyboard controller is the one that Firecracker has.
pub(super) fn kernel_command_line(tsc_khz: u64) -> String {
    format!("{} reboot=k", kernel::command_line(tsc_khz))
}

impl Firecracker {
    pub(super) fn new(program: &Path, root: PathBuf) -> Self {
        Self { program: program.to_owned(), root, tsc_khz: kernel::tsc_khz() }
    }

    fn configuration(&self, machine: &Machine) -> Value {
        let DiskLimits { mb_per_s, iops } = machine.disk_limits;
        let bucket = |size: u64| json!({"size": size, "refill_time": REFILL_MS});
        json!({
            "boot-source": {
                "kernel_image_path": "/vm/kernel",
                "initrd_path": "/vm/initramfs",
                "boot_args":
                    format!("{} rigbox.hostname={}", kernel_command_line(self.tsc_khz), machine.hostname),
            },
            "machine-config": {"vcpu_count": machine.vcpu_count, "mem_size_mib": machine.ram_mb},
            "drives": [{
                "drive_id": "disk",
                "path_on_host": "/vm/disk",
                "is_root_device": false,
                "is_read_only": false,
                // By default a flush of the guest would reach no disk.
                "cache_type": "Writeback",
                "rate_limiter": {
                    "bandwidth": bucket(u64::from(mb_per_s.get()) * 1_000_000),
                    "ops": bucket(iops.get().into()),
                },
            }],
            "network-interfaces": [{
                "iface_id": "net",
                "guest_mac": crate::net::vm_mac(),
                "host_dev_name": crate::net::TAP,
            }],
            "vsock": {"guest_cid": GUEST_CID, "uds_path": format!("/vm/run/{VSOCK_SOCKET}")},
            "entropy": {},
            // Empty, for what a guest has freed: it returns to the host.
            "balloon": {"amount_mib": 0, "deflate_on_oom": true, "free_page_reporting": true},
            "logger": {"log_path": "/vm/log", "level": LOG_LEVEL},
            "metrics": {"metrics_path": "/vm/metrics"},
        })
    }
}

impl Vmm for Firecracker {
    fn version(&self) -> String {
        format!("firecracker {}", files::version(&self.root))
    }

    fn limits(&self, machine: &Machine) -> Limits {
        let ram_mb = match machine.memory {
            None => machine.ram_mb,
            // Each page that the guest writes to is copied, and the file that it was in stays.
            Some(_) => 2 * machine.ram_mb,
        };
        Limits {
            memory_bytes: u64::from(ram_mb + OVERHEAD_MB) << 20,
            // Emulated devices run in a thread of their own.
            millicpus: u64::from(machine.vcpu_count) * 1000 + 500,
            pids: THREADS + machine.vcpu_count,
            disk: machine.disk_limits,
        }
    }

    fn boot(&self, machine: Machine, place: Place) -> Result<Launched, Error> {
        rigbox_sys::network::hand_over_tap(place.tap, place.uid)
            .map_err(Error::system("hand over a tap device"))?;
        rustix::fs::fchown(&place.disk, Some(rustix::fs::Uid::from_raw(place.uid)), None)
            .map_err(Error::system("hand over a disk"))?;
        let configuration = firecracker_configuration(&place.vm_dir);
        std::fs::write(&configuration, self.configuration(&machine).to_string())
            .map_err(Error::at("write", &configuration))?;
        // A file that the guest was loaded from takes its space until the end.
        let images = if machine.memory.is_some() { 2 } else { 1 };
        let memory = run_folder::create_for_memory(&place.vm_dir, place.uid, images * machine.ram_mb)?;
        let mut command =
            vec![self.program.display().to_string(), "--api-sock".into(), format!("/vm/run/{API_SOCKET}")];
        match machine.memory {
            None => command.extend(["--config-file".into(), "/vm/configuration".into()]),
            Some(Memory { image, key }) => {
                let filled = image.into_folder(&key, &memory, place.uid);
                filled.map_err(Error::system("read a memory image"))?;
                let pipes = ["--log-path", "/vm/log", "--level", LOG_LEVEL, "--metrics-path", "/vm/metrics"];
                command.extend(pipes.map(str::to_owned));
            }
        }
        let files = vec![
            JailFile::read_only("kernel", &machine.kernel)?,
            JailFile::read_only("initramfs", &machine.initramfs)?,
            JailFile::read_only("configuration", &configuration)?,
            JailFile::writable("disk", place.disk.into()),
            JailFile::writable("log", pipe(&firecracker_log(&place.vm_dir))?),
            JailFile::writable("metrics", pipe(&firecracker_metrics(&place.vm_dir))?),
            JailFile::folder("run", run_folder::create(&place.vm_dir, place.uid)?),
            JailFile::folder("memory", memory),
        ];
        let plan = JailPlan {
            vmm: VmmKind::Firecracker,
            cgroup_procs: place.cgroup_procs,
            root: self.root.clone(),
            mount_point: place.mount_point,
            netns: Some(place.netns),
            files,
            devices: vec![Device::Kvm, Device::Tun],
            uid: place.uid,
            max_file_bytes: machine.disk_size_bytes,
            command,
        };
        launch(&plan, &[], Stdout::Pipe)
    }
}

/// Creates a named pipe that Firecracker writes to, which loses what nobody reads, and opens it.
fn pipe(path: &Path) -> Result<OwnedFd, Error> {
    // Firecracker opens it for both directions.
    let mode = Mode::from_bits_truncate(0o666);
    nix::unistd::mkfifo(path, mode).map_err(|errno| Error::at("create", path)(errno.into()))?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode.bits());
    std::fs::set_permissions(path, permissions).map_err(Error::at("create", path))?;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        .map_err(|errno| Error::at("open", path)(errno.into()))
}
