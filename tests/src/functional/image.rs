//! Image `base` as its users find it: languages and their package managers, limits, paths, swap.

use std::time::Duration;

use anyhow::{Result, ensure};
use rigbox_testkit::blocking::eventually;

use crate::TestResult;
use crate::clients::shared;
use crate::harness::installation::Installation;

tests![
    python_installs_a_wheel_for_its_user,
    data_packages_and_uv_are_there,
    node_installs_a_command_for_its_user,
    path_is_the_same_everywhere,
    limits_suit_development_servers,
    swap_is_compressed_memory,
    cron_runs_once_the_boot_is_over,
    development_server_is_told_the_domain_of_apps,
];

/// Limit for systemd to be up, and for the deferred part of the boot, half a minute later.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// Returns the id of the shared workspace, whose systemd is up.
fn booted(installation: &Installation) -> Result<String> {
    let id = shared(installation)?;
    wait_active(installation, &id, "multi-user.target")?;
    Ok(id)
}

fn wait_active(installation: &Installation, id: &str, unit: &str) -> Result<()> {
    eventually(&format!("{unit} is active"), BOOT_TIMEOUT, || {
        Ok(installation.api.sh(id, &format!("systemctl is-active {unit}")).ok().map(drop))
    })
}

fn python_installs_a_wheel_for_its_user(installation: &Installation) -> TestResult {
    let (api, id) = (&installation.api, shared(installation)?);
    let versions = api.sh(&id, "python --version; python3 --version")?;
    ensure!(versions.lines().all(|line| line.starts_with("Python 3.11.")), "{versions}");
    // A wheel is a zip with these files.
    let build = "rm -rf wheel && mkdir -p wheel/greet-1.0.dist-info && cd wheel && \
        echo 'def main(): print(\"hello from a wheel\")' > greet.py && cd greet-1.0.dist-info && \
        printf 'Metadata-Version: 2.1\\nName: greet\\nVersion: 1.0\\n' > METADATA && \
        printf 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n' > WHEEL && \
        printf '[console_scripts]\\ngreet = greet:main\\n' > entry_points.txt && \
        printf 'greet.py,,\\n' > RECORD && cd .. && \
        python -m zipfile -c ../greet-1.0-py3-none-any.whl greet.py greet-1.0.dist-info";
    api.sh(&id, build)?;
    let installed = api.sh(&id, "pip install greet-1.0-py3-none-any.whl 2>&1")?;
    ensure!(installed.ends_with("Successfully installed greet-1.0"), "{installed}");
    let ran = api.sh(&id, "cd / && python -c 'import greet; greet.main()' && greet")?;
    ensure!(ran == "hello from a wheel\nhello from a wheel", "{ran}");
    // The packages of Debian's own programs are not the user's.
    let debian = api.sh(&id, "/usr/bin/python3 -c 'import greet' 2>&1 || echo apart")?;
    ensure!(debian.ends_with("apart"), "{debian}");
    api.sh(&id, "pip uninstall --yes greet").map(drop)
}

fn data_packages_and_uv_are_there(installation: &Installation) -> TestResult {
    let (api, id) = (&installation.api, shared(installation)?);
    let script =
        "import numpy, pandas, requests; print(pandas.Series(numpy.arange(4)).sum(), requests.codes.ok)";
    ensure!(api.sh(&id, &format!("python -c '{script}'"))? == "6 200", "numpy, pandas and requests");
    let made = api.sh(&id, "uv venv --quiet --clear made && made/bin/python -c 'print(1 + 1)'")?;
    ensure!(made == "2", "{made}");
    // Without another one, uv uses the user's environment too.
    let found = api.sh(&id, "uv pip list --quiet | grep -c -E '^(numpy|pandas|requests|uv) '")?;
    ensure!(found == "4", "{found}");
    Ok(())
}

fn node_installs_a_command_for_its_user(installation: &Installation) -> TestResult {
    let (api, id) = (&installation.api, shared(installation)?);
    let versions = api.sh(&id, "for tool in node npm pnpm yarn; do $tool --version || exit; done")?;
    ensure!(versions.starts_with("v22.") && versions.lines().count() == 4, "{versions}");
    let pack = "mkdir -p wave && cd wave && \
        echo '{\"name\": \"wave\", \"version\": \"1.0.0\", \"bin\": \"wave.js\"}' > package.json && \
        printf '#!/usr/bin/env node\\nconsole.log(\"hello from npm\")\\n' > wave.js && npm pack --silent";
    ensure!(api.sh(&id, pack)? == "wave-1.0.0.tgz", "npm pack");
    let ran = api.sh(&id, "npm install --silent -g --offline ./wave/wave-1.0.0.tgz >&2 && cd / && wave")?;
    ensure!(ran == "hello from npm", "{ran}");
    api.sh(&id, "npm uninstall --silent -g wave").map(drop)
}

fn path_is_the_same_everywhere(installation: &Installation) -> TestResult {
    let (api, id) = (&installation.api, booted(installation)?);
    let output = installation.rig(&["exec", "shared", "--", "printenv", "PATH"]).output()?;
    let path = String::from_utf8(output.stdout)?;
    for part in ["/home/developer/.local/bin", "/opt/python/bin", "/opt/node/bin", "/usr/sbin", "/sbin"] {
        ensure!(path.trim().split(':').any(|one| one == part), "no {part} in {path}");
    }
    for line in [
        "printenv PATH",
        "env -i bash -lc 'printenv PATH'",
        "env -i HOME=/home/developer bash -lc 'printenv PATH'",
        "sudo printenv PATH",
        "sudo -i printenv PATH",
        "sudo su - developer -c 'printenv PATH'",
        "sudo systemd-run --quiet --pipe --wait printenv PATH",
        "sudo systemd-run --quiet --pipe --wait --uid developer printenv PATH",
    ] {
        let found = api.sh(&id, line)?;
        ensure!(found == path.trim(), "`{line}` prints {found}, exec has {path}");
    }
    Ok(())
}

fn limits_suit_development_servers(installation: &Installation) -> TestResult {
    let (api, id) = (&installation.api, booted(installation)?);
    let watches = api.sh(&id, "cat /proc/sys/fs/inotify/max_user_watches")?;
    ensure!(watches == "524288", "inotify watches: {watches}");
    for line in [
        "ulimit -n",
        "sudo -i sh -c 'ulimit -n'",
        "sudo su - developer -c 'ulimit -n'",
        "sudo systemd-run --quiet --pipe --wait --uid developer sh -c 'ulimit -n'",
    ] {
        let files = api.sh(&id, line)?;
        ensure!(files == "1048576", "`{line}`: {files}");
    }
    Ok(())
}

fn swap_is_compressed_memory(installation: &Installation) -> TestResult {
    let (api, id) = (&installation.api, booted(installation)?);
    wait_active(installation, &id, "rigbox-zram.service")?;
    let swaps = api.sh(&id, "tail -n +2 /proc/swaps")?;
    ensure!(swaps.starts_with("/dev/zram0 ") && swaps.lines().count() == 1, "{swaps}");
    // More than the RAM, which compresses well.
    let ran = api.sh(&id, "python -c 'print(len([b\"ab\" * (1 << 19) for _ in range(600)]))'")?;
    ensure!(ran == "600", "{ran}");
    Ok(())
}

fn cron_runs_once_the_boot_is_over(installation: &Installation) -> TestResult {
    wait_active(installation, &booted(installation)?, "cron.service")
}

fn development_server_is_told_the_domain_of_apps(installation: &Installation) -> TestResult {
    let (api, id) = (&installation.api, shared(installation)?);
    let print = "printenv __VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS";
    for line in [print, &format!("env -i bash -lc '{print}'")] {
        ensure!(api.sh(&id, line)? == ".rigbox.localhost", "{line}");
    }
    Ok(())
}
