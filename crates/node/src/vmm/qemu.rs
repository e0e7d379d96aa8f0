//! QEMU's `microvm` machine: virtio over MMIO, no PCI, no legacy devices but a serial console. With KVM where the probe passed, else
//! by software emulation (TCG).

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cgroup::Limits;
use crate::error::Error;
use crate::jail::{FIRST_FD, Launched, Plan};

use super::{Machine, Room, Vmm, Wires, boot_in_jail};

/// QEMU's cache of translated code, MiB: a part of the process beside the guest's memory.
const TB_SIZE_MB: u32 = 64;
/// QEMU's own memory beside that, and pages on their way to the disk, MiB. With 64 a guest that filled its disk was killed: 41 MiB of
/// QEMU's own, 35 MiB of pages being written, and the kernel's share.
const OWN_MB: u32 = 128;
/// Bytes of the guest's console that are kept, for the cause of its end.
const CONSOLE_BYTES: u32 = 64 * 1024;

/// How instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// Arguments for the accelerator and the CPU model.
    pub(crate) fn arguments(self) -> [String; 4] {
        let [accel, cpu] = match self {
            Self::Kvm => ["kvm".to_owned(), "host".to_owned()],
            Self::Tcg => [format!("tcg,thread=multi,tb-size={TB_SIZE_MB}"), "max".to_owned()],
        };
        ["-accel".into(), accel, "-cpu".into(), cpu]
    }
}

/// Arguments that say which machine it is; never `pit=off` or `pic=off`, with which Debian's kernel hangs silently.
pub(crate) const MACHINE: [&str; 7] = [
    "-M",
    "microvm,acpi=on,rtc=on,x-option-roms=off,isa-serial=on,dump-guest-core=off",
    "-nodefaults",
    "-no-user-config",
    "-nographic",
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
];

/// Words of every kernel's command line. Without the host's TSC rate a busy host makes the guest's calibration fail, and the boot
/// hangs.
pub(crate) fn kernel_words(tsc_khz: u64) -> String {
    format!("console=ttyS0 quiet panic=-1 tsc_early_khz={tsc_khz} tsc=reliable no_timer_check")
}

/// The driver.
pub(crate) struct Qemu {
    accelerator: Accelerator,
    /// The program's path, the same in the jail.
    program: PathBuf,
    firmware: PathBuf,
    /// See [`super::files`].
    root: PathBuf,
    tsc_khz: u64,
}

impl Qemu {
    pub(crate) fn new(accelerator: Accelerator, program: PathBuf, firmware: PathBuf, root: PathBuf) -> Self {
        Self {
            accelerator,
            program,
            firmware,
            root,
            tsc_khz: rigbox_sys::tsc::measure_khz(Duration::from_millis(50)),
        }
    }

    fn command(&self, machine: &Machine) -> Vec<String> {
        let [disk, tap, agent, monitor] = [0, 1, 2, 3].map(|offset| FIRST_FD + offset);
        let kernel_line = format!("{} rigbox.hostname={}", kernel_words(self.tsc_khz), machine.hostname);
        let mut command = vec![self.program.display().to_string()];
        command.extend(MACHINE.map(String::from));
        command.extend(self.accelerator.arguments());
        let mut add = |option: &str, value: String| command.extend([option.to_owned(), value]);
        add("-bios", self.firmware.display().to_string());
        add("-smp", machine.vcpu_count.to_string());
        add("-m", format!("{}M", machine.ram_mb));
        add("-kernel", "/vm/kernel".into());
        add("-initrd", "/vm/initramfs".into());
        add("-append", kernel_line);
        // A boot without a serial console hung.
        add("-chardev", format!("ringbuf,id=console,size={CONSOLE_BYTES}"));
        add("-serial", "chardev:console".into());
        add("-add-fd", format!("fd={disk},set=1"));
        let file = "driver=file,filename=/dev/fdset/1,locking=on";
        add("-blockdev", format!("{file},node-name=file"));
        add("-blockdev", "driver=raw,file=file,node-name=disk,discard=unmap".into());
        add("-device", "virtio-blk-device,drive=disk".into());
        add("-netdev", format!("tap,id=net,fd={tap}"));
        add("-device", format!("virtio-net-device,netdev=net,mac={}", crate::net::vm_mac()));
        add("-device", "virtio-serial-device".into());
        add("-chardev", format!("socket,id=agent,fd={agent},server=on,wait=off"));
        add("-device", "virtserialport,chardev=agent,name=rigbox.agent".into());
        add("-chardev", format!("socket,id=monitor,fd={monitor},server=on,wait=off"));
        add("-mon", "chardev=monitor,mode=control".into());
        add("-object", "rng-builtin,id=rng".into());
        add("-device", "virtio-rng-device,rng=rng".into());
        // The process stays after the guest's end until guestio has seen why.
        add("-action", "reboot=shutdown,shutdown=pause".into());
        command
    }
}

impl Vmm for Qemu {
    fn limits(&self, machine: &Machine) -> Limits {
        let memory_mb = machine.ram_mb + TB_SIZE_MB + OWN_MB;
        Limits {
            memory_bytes: u64::from(memory_mb) << 20,
            // Emulated devices run beside the virtual CPUs.
            millicpus: u64::from(machine.vcpu_count) * 1000 + 500,
            pids: 64 + machine.vcpu_count,
        }
    }

    fn boot(&self, machine: &Machine, wires: Wires, room: Room) -> Result<Launched, Error> {
        let plan = Plan {
            cgroup_procs: room.cgroup_procs,
            root: self.root.clone(),
            mount_point: room.mount_point,
            files: vec![
                (machine.kernel.clone(), "kernel".into()),
                (machine.initramfs.clone(), "initramfs".into()),
            ],
            kvm: self.accelerator == Accelerator::Kvm,
            uid: room.uid,
            file_size_limit: machine.disk_size_bytes,
            command: self.command(machine),
        };
        boot_in_jail(&plan, wires)
    }
}
