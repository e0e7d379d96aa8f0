//! Driver for QEMU's `microvm` machine: virtio over MMIO, no PCI, and a serial console as the only legacy device. It uses KVM if the
//! probe passed, else software emulation (TCG).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rigbox_core::vm_limits::DiskLimits;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use serde::{Deserialize, Serialize};

use super::config::VmmConfig;
use super::kind::VmmKind;
use super::{Machine, Memory, Place, Vmm, files, kernel};
use crate::config::{agent_socket, monitor_socket, streams_socket};
use crate::error::Error;
use crate::sandbox::cgroup::Limits;
use crate::sandbox::jail::{Device, FIRST_FD, JailFile, JailPlan, Launched, Stdout, borrow, launch};

const LISTEN_BACKLOG: i32 = 4;

/// QEMU's cache of translated code, in addition to the guest's memory, MiB.
const TRANSLATION_CACHE_MB: u32 = 64;
/// QEMU's own memory and dirty pages on their way to the disk, MiB. With 64, a guest that filled its disk was killed: QEMU itself used
/// 41 MiB, dirty pages 35 MiB, plus the kernel's share.
const OVERHEAD_MB: u32 = 128;
/// Threads of QEMU beside the virtual CPUs: 64 workers for the disk, the main loop, and room.
const QEMU_THREADS: u32 = 128;
/// Size of the console's ring buffer, which is read for the cause of the guest's end.
const CONSOLE_BYTES: u32 = 64 * 1024;

/// Execution of guest instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// Returns the arguments for the accelerator and the CPU model.
    pub(super) fn arguments(self) -> [String; 4] {
        let [accel, cpu] = match self {
            // Guests get no virtualization of their own, and no counters of the host's CPU.
            Self::Kvm => ["kvm".to_owned(), "host,vmx=off,svm=off,pmu=off".to_owned()],
            Self::Tcg => [format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE_MB}"), "max".to_owned()],
        };
        ["-accel".into(), accel, "-cpu".into(), cpu]
    }
}

/// Arguments for the machine type. Never add `pit=off` or `pic=off`: Debian's kernel then hangs silently.
pub(super) const MACHINE_ARGUMENTS: [&str; 7] = [
    "-M",
    "microvm,acpi=on,rtc=on,x-option-roms=off,isa-serial=on,dump-guest-core=off",
    "-nodefaults",
    "-no-user-config",
    "-nographic",
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
];

/// The QEMU driver.
pub(super) struct Qemu {
    accelerator: Accelerator,
    /// Path of the program, the same inside the jail.
    program: PathBuf,
    firmware: PathBuf,
    /// Root of the jail, as installed by [`files::install`].
    root: PathBuf,
    tsc_khz: u64,
}

impl Qemu {
    pub(super) fn new(
        accelerator: Accelerator,
        config: &VmmConfig,
        firmware: PathBuf,
        root: PathBuf,
    ) -> Self {
        Self { accelerator, program: config.qemu.clone(), firmware, root, tsc_khz: kernel::tsc_khz() }
    }

    fn command(&self, machine: &Machine) -> Vec<String> {
        let [disk, tap, agent, streams, monitor, memory] = [0, 1, 2, 3, 4, 5].map(|offset| FIRST_FD + offset);
        let kernel_arguments =
            format!("{} rigbox.hostname={}", kernel::command_line(self.tsc_khz), machine.hostname);
        let mut command = vec![self.program.display().to_string()];
        command.extend(MACHINE_ARGUMENTS.map(String::from));
        command.extend(self.accelerator.arguments());
        let mut add = |option: &str, value: String| command.extend([option.to_owned(), value]);
        add("-bios", self.firmware.display().to_string());
        add("-smp", machine.vcpu_count.to_string());
        add("-m", format!("{}M", machine.ram_mb));
        add("-kernel", "/vm/kernel".into());
        add("-initrd", "/vm/initramfs".into());
        add("-append", kernel_arguments);
        // Without a serial console the boot hung.
        add("-chardev", format!("ringbuf,id=console,size={CONSOLE_BYTES}"));
        add("-serial", "chardev:console".into());
        add("-add-fd", format!("fd={disk},set=1"));
        let file = "driver=file,filename=/dev/fdset/1,locking=on,discard=unmap";
        add("-blockdev", format!("{file},node-name=file"));
        let DiskLimits { mb_per_s, iops } = machine.disk_limits;
        let bytes_per_s = u64::from(mb_per_s.get()) * 1_000_000;
        let limits = format!(r#"{{"bps-total":{bytes_per_s},"iops-total":{iops}}}"#);
        add("-object", format!(r#"{{"qom-type":"throttle-group","id":"limits","limits":{limits}}}"#));
        add(
            "-blockdev",
            "driver=throttle,throttle-group=limits,file=file,node-name=limited,discard=unmap".into(),
        );
        add("-blockdev", "driver=raw,file=limited,node-name=disk,discard=unmap".into());
        add("-device", "virtio-blk-device,drive=disk".into());
        add("-netdev", format!("tap,id=net,fd={tap}"));
        add("-device", format!("virtio-net-device,netdev=net,mac={}", crate::net::vm_mac()));
        add("-device", "virtio-serial-device".into());
        for (name, fd) in [("agent", agent), ("streams", streams)] {
            add("-chardev", format!("socket,id={name},fd={fd},server=on,wait=off"));
            add("-device", format!("virtserialport,chardev={name},name=rigbox.{name}"));
        }
        add("-chardev", format!("socket,id=monitor,fd={monitor},server=on,wait=off"));
        add("-mon", "chardev=monitor,mode=control".into());
        add("-object", "rng-builtin,id=rng".into());
        add("-device", "virtio-rng-device,rng=rng".into());
        // The process stays after the guest's end, until guestio has read the cause.
        add("-action", "reboot=shutdown,shutdown=pause".into());
        if machine.memory.is_some() {
            add("-incoming", format!("fd:{memory}"));
            // Until guestio lets it run.
            command.push("-S".into());
        }
        command
    }
}

impl Vmm for Qemu {
    fn version(&self) -> String {
        format!("qemu {} {}", self.accelerator.name(), files::version(&self.root))
    }

    fn limits(&self, machine: &Machine) -> Limits {
        let memory_mb = machine.ram_mb + TRANSLATION_CACHE_MB + OVERHEAD_MB;
        Limits {
            memory_bytes: u64::from(memory_mb) << 20,
            // Emulated devices run in threads of their own.
            millicpus: u64::from(machine.vcpu_count) * 1000 + 500,
            pids: QEMU_THREADS + machine.vcpu_count,
            disk: machine.disk_limits,
        }
    }

    fn boot(&self, machine: Machine, place: Place) -> Result<Launched, Error> {
        let sockets =
            [agent_socket, streams_socket, monitor_socket].map(|path| listen_at(&path(&place.vm_dir)));
        let [agent, streams, monitor] = sockets;
        let files = vec![
            JailFile::read_only("kernel", &machine.kernel)?,
            JailFile::read_only("initramfs", &machine.initramfs)?,
        ];
        let plan = JailPlan {
            vmm: VmmKind::Qemu,
            cgroup_procs: place.cgroup_procs,
            root: self.root.clone(),
            mount_point: place.mount_point,
            netns: None,
            files,
            devices: if self.accelerator == Accelerator::Kvm { vec![Device::Kvm] } else { Vec::new() },
            uid: place.uid,
            max_file_bytes: machine.disk_size_bytes,
            command: self.command(&machine),
        };
        // In the order of the numbers in the command.
        let mut fds = vec![place.disk.into(), place.tap, agent?, streams?, monitor?];
        if let Some(Memory { image, key }) = machine.memory {
            fds.push(image.into_pipe(key)?);
        }
        launch(&plan, &borrow(&fds), Stdout::Null)
    }
}

/// Creates a listening socket in the workspace's folder, which only root can enter or change.
fn listen_at(path: &Path) -> Result<OwnedFd, Error> {
    let create = || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, LISTEN_BACKLOG)?;
        Ok::<_, rustix::io::Errno>(socket)
    };
    create().map_err(|errno| Error::at("listen at", path)(errno.into()))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use rigbox_core::vm_limits::MbPerS;

    use super::*;

    fn qemu() -> Qemu {
        Qemu {
            accelerator: Accelerator::Tcg,
            program: PathBuf::new(),
            firmware: PathBuf::new(),
            root: PathBuf::new(),
            tsc_khz: 1,
        }
    }

    fn machine(vcpu_count: u32) -> Machine {
        Machine {
            ram_mb: 512,
            vcpu_count,
            hostname: "one".to_owned(),
            kernel: PathBuf::new(),
            initramfs: PathBuf::new(),
            disk_size_bytes: 1,
            disk_limits: DiskLimits { mb_per_s: MbPerS::new(3).unwrap(), iops: NonZeroU32::new(70).unwrap() },
            memory: None,
        }
    }

    #[test]
    fn disk_of_a_machine_has_its_limits() {
        let limits = r#""limits":{"bps-total":3000000,"iops-total":70}"#;
        assert!(qemu().command(&machine(1)).iter().any(|argument| argument.contains(limits)));
    }

    #[test]
    fn vmm_may_have_128_threads_beside_those_of_its_cpus() {
        for vcpu_count in [1, 2, 16] {
            assert_eq!(qemu().limits(&machine(vcpu_count)).pids, 128 + vcpu_count);
        }
    }
}
