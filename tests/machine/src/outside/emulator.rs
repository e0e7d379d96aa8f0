//! Process of the emulator: a PC whose CPU has virtualization, emulated in software. It ends with this program, however that ends, and when the
//! machine resets itself: the next boot is in a new one, with nothing left of what its predecessor emulated.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::disks::Disks;
use crate::events::{Event, PORT};

const MEMORY: &str = "6G";
/// Lines that wait to be printed.
const QUEUED_LINES: usize = 64;
/// `+svm` is what KVM needs. Other models than EPYC lack parts of it under emulation.
const CPU: &str = "EPYC,+svm";
/// One CPU. With two, each emulated by a thread of its own, VMs end by triple faults and the machine's kernel runs out of its stack on the way
/// out of a VM, once in some twenty copies of 12 MB into one.
const CPUS: &str = "1";

/// News of the machine.
pub(super) enum Heard {
    Event(Event),
    /// Nothing in time.
    Nothing,
    /// It has reset itself, and its emulator has ended.
    Reset,
}

pub(super) struct Emulator {
    child: Child,
    lines: Receiver<String>,
}

impl Emulator {
    /// Starts the machine. What it prints is added to `console`.
    pub(super) fn start(disks: &Disks, console: &Path) -> Result<Self> {
        // The signal comes when the thread that started the process ends, and this is the first one.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]).args(arguments(disks, console));
        let mut child = command
            // Open for as long as the process is wanted: at its end, the emulator would take the port for closed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Features of the CPU model that emulation lacks.
            .stderr(Stdio::null())
            .spawn()
            .context("setpriv qemu-system-x86_64")?;
        let output = child.stdout.take().context("no output")?;
        let (sender, lines) = sync_channel(QUEUED_LINES);
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Waits for an event.
    pub(super) fn next_event(&mut self, timeout: Duration) -> Result<Heard> {
        match self.lines.recv_timeout(timeout) {
            Ok(line) => {
                let event = serde_json::from_str(&line).with_context(|| format!("read event {line:?}"))?;
                Ok(Heard::Event(event))
            }
            Err(RecvTimeoutError::Timeout) => Ok(Heard::Nothing),
            Err(RecvTimeoutError::Disconnected) => match self.child.wait()? {
                status if status.success() => Ok(Heard::Reset),
                status => bail!("the emulator ended with {status}"),
            },
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn arguments(disks: &Disks, console: &Path) -> Vec<String> {
    let tsc_khz = rigbox_sys::tsc::measure_khz(Duration::from_millis(50));
    // On a busy host the kernel would measure its clocks wrongly, and hang.
    let clocks = format!("tsc_early_khz={tsc_khz} tsc=reliable no_timer_check");
    let drive = |path: &Path, options: &str| {
        format!("file={},format=raw,if=virtio,cache=unsafe,discard=unmap,{options}", path.display())
    };
    let words = "-M q35 -accel tcg,thread=multi -no-reboot -nodefaults -no-user-config -display none -nic none -device virtio-rng-pci \
                 -device virtio-serial-pci -chardev stdio,id=results,signal=off";
    let mut arguments: Vec<String> = words.split(' ').map(str::to_owned).collect();
    for (option, value) in [
        ("-cpu", CPU.to_owned()),
        ("-smp", CPUS.to_owned()),
        ("-m", MEMORY.to_owned()),
        ("-kernel", disks.kernel.display().to_string()),
        ("-initrd", disks.initramfs.display().to_string()),
        ("-append", format!("console=ttyS0 panic=-1 random.trust_cpu=on {clocks}")),
        ("-chardev", format!("file,id=console,append=on,path={}", console.display())),
        ("-serial", "chardev:console".to_owned()),
        ("-device", format!("virtserialport,chardev=results,name={PORT}")),
        ("-drive", drive(&disks.root, "readonly=off")),
        ("-drive", drive(&disks.programs, "readonly=on")),
        ("-drive", drive(&disks.image, "readonly=on")),
    ] {
        arguments.extend([option.to_owned(), value]);
    }
    arguments
}
