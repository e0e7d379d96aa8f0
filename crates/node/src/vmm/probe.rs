//! Whether this machine's KVM works, by the real thing: the same VMM, the guest's kernel and its own init, which says one line and powers
//! off. A few instructions of a tiny guest run on some machines where a stock kernel dies, so they would prove nothing.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rigbox_sys::spawn::{ChildSetup, Credentials, configure_child};

use serde::{Deserialize, Serialize};

use super::qemu::{Accelerator, MACHINE, kernel_words};
use crate::config::Config;
use crate::images::Local;

/// A stock kernel with working KVM needs less than one.
const WITHIN: Duration = Duration::from_secs(15);
/// What the init says (`rigbox.probe` on its command line).
const WORD: &str = "rigbox-probe: it works";

/// Which accelerator to use, and why, for people.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) accelerator: Accelerator,
    pub(crate) reason: String,
}

/// As [`accelerator`], tried once per boot of the host, QEMU and image: a node that is started again must not wait for it.
pub(crate) fn remembered(config: &Config, image: Option<&Local>) -> Verdict {
    let path = config.run_dir.join("probe.json");
    let boot = crate::process::host_boot_id().unwrap_or_default();
    let qemu = std::fs::metadata(&config.qemu).and_then(|meta| meta.modified()).ok();
    let of = format!("{boot} {qemu:?} {:?}", image.map(|image| &image.version));
    let known = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Remembered>(&text).ok());
    if let Some(known) = known.filter(|known| known.of == of) {
        return known.verdict;
    }
    let verdict = accelerator(&config.qemu, image, config.vm_uid_base);
    let remembered = Remembered { of, verdict: verdict.clone() };
    // Not remembered: tried again.
    if let Ok(text) = serde_json::to_vec(&remembered) {
        let _ = std::fs::write(&path, text);
    }
    verdict
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    of: String,
    verdict: Verdict,
}

/// Tries KVM by booting `image` to its first line as the unprivileged `uid`.
fn accelerator(qemu: &Path, image: Option<&Local>, uid: u32) -> Verdict {
    let tcg = |why: String| Verdict {
        accelerator: Accelerator::Tcg,
        reason: format!("software emulation (slow, the same isolation): {why}"),
    };
    let Ok(device) = std::fs::metadata("/dev/kvm") else {
        return tcg(
            "this machine has no /dev/kvm: enable virtualisation in its firmware, or nested virtualisation"
                .into(),
        );
    };
    let Some(image) = image else {
        return tcg("there is no image to try KVM with: build one with `cargo xtask image base`".into());
    };
    match boots(qemu, image, uid, std::os::unix::fs::MetadataExt::gid(&device)) {
        Ok(()) => {
            Verdict { accelerator: Accelerator::Kvm, reason: "KVM: the guest's kernel booted on it".into() }
        }
        Err(why) => tcg(format!("/dev/kvm is there, but the guest's kernel does not boot on it ({why})")),
    }
}

fn boots(qemu: &Path, image: &Local, uid: u32, kvm_gid: u32) -> Result<(), String> {
    let mut command = Command::new(qemu);
    command.args(MACHINE).args(Accelerator::Kvm.arguments());
    command.args(["-m", "256M", "-smp", "1", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initramfs);
    let tsc = rigbox_sys::tsc::measure_khz(Duration::from_millis(50));
    command.args(["-append", &format!("{} rigbox.probe", kernel_words(tsc))]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_clear();
    // Root where only root may open the device; the guest runs our own init and nothing else.
    let shared = std::fs::metadata("/dev/kvm")
        .is_ok_and(|meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o060 == 0o060);
    let who = Credentials { uid, gid: uid, groups: vec![kvm_gid] };
    let credentials = shared.then_some(who);
    configure_child(&mut command, ChildSetup { new_session: true, credentials, ..Default::default() });
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", qemu.display()))?;
    let outputs = [
        child.stdout.take().map(|out| collect(Box::new(out))),
        child.stderr.take().map(|err| collect(Box::new(err))),
    ];
    let deadline = Instant::now() + WITHIN;
    let mut timed_out = false;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            timed_out = true;
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = outputs.map(|output| output.and_then(|thread| thread.join().ok()).unwrap_or_default());
    let [console, errors] = &said;
    if console.contains(WORD) {
        return Ok(());
    }
    if timed_out {
        return Err(format!("no word from it within {} s", WITHIN.as_secs()));
    }
    let line = errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it ended without a word");
    Err(line.chars().filter(|c| !c.is_control()).take(200).collect())
}

/// Reads to the end, keeping the first 64 KiB.
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
