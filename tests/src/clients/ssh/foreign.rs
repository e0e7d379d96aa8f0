//! Clients that are not OpenSSH's.

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::client::{self, Client, remove_key, shown, target};
use crate::TestResult;
use crate::clients::shared;
use crate::harness::installation::{Installation, SSH_PORT};

tests![dropbear_and_putty_log_in];

fn dropbear_and_putty_log_in(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let (user, port) = (target("shared", &id), SSH_PORT.to_string());
    let folder = Client::unregistered(installation, "others", "ed25519")?.folder;
    let path = |name: &str| folder.join(name).display().to_string();
    let run = |program: &str, arguments: &[&str]| -> Result<Output> {
        client::run(Command::new(program).args(arguments).env("HOME", &folder))
    };
    let register = |name: &str, printed: &Output| -> TestResult {
        let text = String::from_utf8_lossy(&printed.stdout);
        let line = text.lines().find(|line| line.starts_with("ssh-")).with_context(|| shown(printed))?;
        let key = json!({"name": name, "public_key": line});
        installation.api.post("/ssh-keys", &key)?.expect(201).map(drop)
    };
    let dropbear = path("dropbear");
    register("dropbear", &run("dropbearkey", &["-t", "ed25519", "-f", &dropbear])?)?;
    let ran = run("dbclient", &["-y", "-T", "-i", &dropbear, "-p", &port, &user, "echo dropbear; exit 4"])?;
    ensure!(ran.stdout == b"dropbear\n" && ran.status.code() == Some(4), "{}", shown(&ran));

    let putty = path("key.ppk");
    fs::write(path("passphrase"), "")?;
    let made =
        run("puttygen", &["-q", "-t", "ed25519", "-o", &putty, "--new-passphrase", &path("passphrase")])?;
    ensure!(made.status.success(), "{}", shown(&made));
    register("putty", &run("puttygen", &["-O", "public-openssh", &putty])?)?;
    // PuTTY takes no host key unseen.
    let scanned = run("ssh-keyscan", &["-p", &port, "127.0.0.1"])?;
    fs::write(path("scanned"), &scanned.stdout)?;
    let listed = run("ssh-keygen", &["-l", "-f", &path("scanned")])?;
    let listed = String::from_utf8(listed.stdout)?;
    let fingerprint = listed.split_whitespace().nth(1).context("no fingerprint")?;
    let options = ["-batch", "-P", &port, "-i", &putty, "-hostkey", fingerprint];
    let ran = run("plink", &[&options[..], &["-T", &user, "echo putty; exit 5"]].concat())?;
    ensure!(ran.stdout == b"putty\n" && ran.status.code() == Some(5), "{}", shown(&ran));
    fs::write(path("batch"), format!("put {} from-psftp\nls\nquit\n", path("passphrase")))?;
    let ran = run("psftp", &[&options[..], &["-b", &path("batch"), &user]].concat())?;
    let text = String::from_utf8_lossy(&ran.stdout);
    ensure!(ran.status.success() && text.contains("from-psftp"), "{}", shown(&ran));
    ["dropbear", "putty"].iter().try_for_each(|name| remove_key(installation, name))
}
