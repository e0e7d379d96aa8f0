//! Files by `scp`, `sftp` and `rsync`: what arrives is what was sent.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::ensure;

use super::client::{Client, hashes, remove_key, run, shown, succeed, target};
use crate::TestResult;
use crate::clients::shared;
use crate::harness::installation::Installation;
use crate::harness::is_soak;

tests![files_are_copied_whole_both_ways, many_files_and_a_large_one_arrive_whole];

fn files_are_copied_whole_both_ways(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "files", "ed25519")?;
    let host = target("shared", &id);
    let tree = client.path("tree");
    fs::create_dir(&tree)?;
    for number in 0..40_u32 {
        let bytes: Vec<u8> = (0..number * 3_000).map(|at| (at.wrapping_mul(number + 7) >> 3) as u8).collect();
        fs::write(tree.join(format!("file {number}")), bytes)?;
    }
    let wanted = hashes(&tree)?;
    let remote_hashes = |folder: &str| {
        client.output(&[&host, &format!("cd {folder} && find . -type f -exec sha256sum {{}} + | sort -k2")])
    };
    let copy = |program: &str, arguments: &[&str]| -> TestResult {
        let output = run(client.program(program).args(arguments))?;
        ensure!(output.status.success(), "{program} {arguments:?}: {}", shown(&output));
        Ok(())
    };
    let local = tree.display().to_string();
    for (name, protocol) in [("scp-new", "-s"), ("scp-old", "-O")] {
        copy("scp", &["-q", "-r", protocol, &local, &format!("{host}:{name}")])?;
        ensure!(remote_hashes(name)? == wanted, "{name}: other files arrived");
        let back = client.path(name).display().to_string();
        copy("scp", &["-q", "-r", protocol, &format!("{host}:{name}"), &back])?;
        ensure!(hashes(Path::new(&back))? == wanted, "{name}: other files came back");
    }
    let batch = client.path("batch");
    fs::write(&batch, format!("mkdir sftp\nput -R \"{local}\" sftp/tree\nbye\n"))?;
    copy("sftp", &["-q", "-b", &batch.display().to_string(), &host])?;
    ensure!(remote_hashes("sftp/tree")? == wanted, "sftp: other files arrived");
    rsync(&client, &format!("{local}/"), &format!("{host}:rsync"))?;
    ensure!(remote_hashes("rsync")? == wanted, "rsync: other files arrived");
    let back = client.path("rsync-back").display().to_string();
    rsync(&client, &format!("{host}:rsync/"), &back)?;
    ensure!(hashes(Path::new(&back))? == wanted, "rsync: other files came back");
    Ok(())
}

fn rsync(client: &Client, from: &str, to: &str) -> TestResult {
    let shell = format!("ssh -F {}", client.path("config").display());
    let mut command = Command::new("timeout");
    command.args(["1200", "rsync", "-a", "--checksum", "-e", &shell, from, to]);
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// Number of files, and bytes of the large one.
fn amounts() -> (u32, u64) {
    if is_soak() { (10_000, 1 << 30) } else { (500, 32 << 20) }
}

fn many_files_and_a_large_one_arrive_whole(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "many", "ed25519")?;
    let host = target("shared", &id);
    let (files, bytes) = amounts();
    let tree = client.path("tree");
    for number in 0..files {
        let folder = tree.join((number % 50).to_string());
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(number.to_string()), number.to_string().repeat(number as usize % 300))?;
    }
    let (local, back) = (format!("{}/", tree.display()), client.path("back").display().to_string());
    let timed = |what: &str, work: &dyn Fn() -> TestResult| -> TestResult {
        let since = Instant::now();
        work()?;
        eprintln!("{what}: {:.1} s", since.elapsed().as_secs_f32());
        Ok(())
    };
    timed(&format!("{files} files there"), &|| rsync(&client, &local, &format!("{host}:many")))?;
    timed(&format!("{files} files back"), &|| rsync(&client, &format!("{host}:many/"), &back))?;
    ensure!(hashes(Path::new(&back))? == hashes(&tree)?, "other files came back");
    let large = client.path("large");
    io::copy(&mut File::open("/dev/urandom")?.take(bytes), &mut File::create(&large)?)?;
    let hash = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let wanted = hash(&succeed(Command::new("sha256sum").arg(&large))?);
    let (local, returned) = (large.display().to_string(), client.path("returned"));
    timed(&format!("{bytes} bytes there"), &|| rsync(&client, &local, &format!("{host}:large")))?;
    let arrived = installation.api.sh(&id, "sha256sum large")?;
    ensure!(hash(&arrived) == wanted, "another large file arrived");
    let to = returned.display().to_string();
    timed(&format!("{bytes} bytes back"), &|| rsync(&client, &format!("{host}:large"), &to))?;
    ensure!(
        hash(&succeed(Command::new("sha256sum").arg(&returned))?) == wanted,
        "another large file came back"
    );
    installation.api.sh(&id, "rm -rf many large")?;
    fs::remove_dir_all(&client.folder)?;
    remove_key(installation, "many")
}
