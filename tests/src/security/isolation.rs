//! Isolation apart from the network: a kernel and processes of its own, and an empty jail for the VMM.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::TestResult;
use crate::harness::installation::Installation;

tests![
    two_workspaces_share_nothing_and_a_panic_affects_one,
    vmm_runs_in_an_empty_jail,
    roles_have_only_what_they_need,
];

fn two_workspaces_share_nothing_and_a_panic_affects_one(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let (one, two) = (api.spawn("one")?, api.spawn("two")?);
    for file in ["/proc/sys/kernel/random/boot_id", "/etc/machine-id"] {
        ensure!(
            api.sh(&one, &format!("cat {file}"))? != api.sh(&two, &format!("cat {file}"))?,
            "{file} is the same"
        );
    }
    api.sudo(&one, "echo mine > /root/secret; sync")?;
    ensure!(
        api.exec(&two, &json!({"command": "cat /root/secret", "user": "root"}))?.exit_code() == Some(1),
        "a shared disk"
    );
    // Filling up one disk hurts neither the other nor the host.
    let full = api.exec(&one, &json!({"command": "head -c 20G /dev/zero > /var/tmp/fill; df --output=avail / | tail -1; rm /var/tmp/fill", "user": "root"}))?;
    ensure!(String::from_utf8_lossy(&full.stderr).contains("No space left"), "{full:?}");
    api.sh(&two, "head -c 1M /dev/urandom > here; sync")?;
    fs::write(installation.scratch.join("host-writes"), vec![1; 1 << 20])?;

    let boot_id = api.kernel_boot(&two)?;
    api.exec_and_disconnect(&one, "echo on; sleep 0.5; sudo sh -c 'echo c > /proc/sysrq-trigger'")?;
    // The command may have ended when its caller left, so run it again and stay connected.
    let _ = api.exec(&one, &json!({"command": "echo c > /proc/sysrq-trigger", "user": "root"}));
    api.wait(&one, "failed")?;
    let failed = api.get(&format!("/workspaces/{one}"))?.expect(200)?;
    ensure!(failed.pointer("/failure/code").is_some_and(|code| code == "kernel_panic"), "{failed}");
    ensure!(api.kernel_boot(&two)? == boot_id, "the other one booted again");
    api.post(&format!("/workspaces/{one}/retry"), &json!({}))?.expect(200)?;
    api.wait(&one, "running")?;
    ensure!(api.sudo(&one, "cat /root/secret")? == "mine", "the disk is kept");
    api.remove(&one)?;
    api.remove(&two)
}

/// A line of `/proc/<pid>/status`.
fn status(pid: i32, field: &str) -> anyhow::Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).context("no such field")?;
    Ok(line.trim().to_owned())
}

fn vmm_runs_in_an_empty_jail(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let (first, second) = (api.spawn("first")?, api.spawn("second")?);
    let pids = installation.vmm_pids()?;
    ensure!(pids.len() >= 2, "two VMs run: {pids:?}");
    let mut uids = Vec::new();
    for pid in &pids {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            ensure!(status(*pid, set)?.trim_matches('0').is_empty(), "{pid} has {set}");
        }
        ensure!(status(*pid, "NoNewPrivs")? == "1" && status(*pid, "Seccomp")? == "2", "{pid}: no filter");
        // Ours, for `clone3`, `fallocate` and all that is not listed, and QEMU's own.
        let filters = status(*pid, "Seccomp_filters")?;
        ensure!(filters == "4", "{pid} has {filters} filters");
        let ids = status(*pid, "Uid")?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        ensure!(ids.iter().all(|id| Some(id) == ids.first() && *id != "0"), "{pid}: {ids:?}");
        uids.push(ids.concat());
        for kind in ["mnt", "pid", "net", "ipc", "uts"] {
            let own = fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
            ensure!(
                own != fs::read_link(format!("/proc/self/ns/{kind}"))?,
                "{pid} shares the host's {kind} namespace"
            );
        }
        let root = Path::new("/proc").join(pid.to_string()).join("root");
        for hidden in ["etc", "home", "root", "proc", "sys", "run", "tmp", "var", "bin/sh", "usr/bin/env"] {
            ensure!(!root.join(hidden).exists(), "{pid} sees /{hidden}");
        }
        let mut devices: Vec<_> =
            fs::read_dir(root.join("dev"))?.map(|e| Ok(e?.file_name())).collect::<std::io::Result<_>>()?;
        devices.sort();
        devices.retain(|name| name != "kvm");
        ensure!(devices == ["null", "urandom"], "{pid} has {devices:?}");
        // Every mount it sees is read-only.
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
        for line in mounts.lines() {
            let options = line.split(' ').nth(5).unwrap_or_default();
            ensure!(options.split(',').any(|option| option == "ro"), "{pid}: {line}");
        }
        ensure!(
            fs::read_to_string(format!("/proc/{pid}/limits"))?.contains("Max core file size        0"),
            "core dumps"
        );
    }
    for pid in &pids {
        let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
        ensure!(score.trim() == "500", "{pid} ends with score {score} when memory runs out");
    }
    uids.sort();
    uids.dedup();
    ensure!(uids.len() == pids.len(), "two VMMs share a uid: {uids:?}");
    api.remove(&first)?;
    api.remove(&second)
}

/// Returns whether processes here may lower their oom_score_adj, as roles do where they may.
fn may_lower_score() -> anyhow::Result<bool> {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let effective = u64::from_str_radix(&status(std::process::id().cast_signed(), "CapEff")?, 16)?;
    let may = effective & CAP_SYS_RESOURCE != 0;
    if !may {
        eprintln!("skipped: the oom_score_adj of roles, because this machine's root has no CAP_SYS_RESOURCE");
    }
    Ok(may)
}

fn roles_have_only_what_they_need(installation: &Installation) -> TestResult {
    for (role, pid) in installation.role_pids()? {
        let root = status(pid, "Uid")?.starts_with("0\t");
        ensure!(root == (role == "node"), "{role} runs as {}", status(pid, "Uid")?);
        if role != "node" {
            ensure!(status(pid, "CapBnd")?.trim_matches('0').is_empty(), "{role} can have capabilities");
            ensure!(status(pid, "NoNewPrivs")? == "1", "{role} can gain privileges");
        }
        let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
        ensure!(
            !may_lower_score()? || score.trim() == "-900",
            "{role} ends with score {score} when memory runs out"
        );
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Session and terminal, the third and fourth fields after the state (proc(5)).
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        ensure!(
            fields.get(3) == Some(&pid.to_string().as_str()) && fields.get(4) == Some(&"0"),
            "{role}: {stat}"
        );
    }
    for (role, memory) in [("guestio", "2147483648"), ("edge", "4294967296"), ("ssh", "4294967296")] {
        let pid = installation.role_pids()?.into_iter().find(|(name, _)| name == role).context(role)?.1;
        let root = Path::new("/proc").join(pid.to_string()).join("root");
        ensure!(!root.join("etc").exists() && !root.join("usr").exists(), "{role} has a file system");
        ensure!(status(pid, "Seccomp")? == "2", "{role} may make every system call");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let data = limits.lines().find(|line| line.starts_with("Max data size")).unwrap_or_default();
        ensure!(data.contains(memory), "{role}: {data}");
    }
    // Other users, root included, get no response on the roles' sockets.
    for socket in ["node/control.sock", "node/guestio.sock", "guestio/guest.sock", "control/ssh.sock"] {
        let mut stream = std::os::unix::net::UnixStream::connect(installation.run_dir().join(socket))?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
        // The HTTP/2 preface, to which a server responds with its settings.
        let _ =
            std::io::Write::write_all(&mut stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        let mut byte = [0];
        let answered = std::io::Read::read(&mut stream, &mut byte).is_ok_and(|count| count > 0);
        ensure!(!answered, "{socket} talks to an outsider");
    }
    Ok(())
}
