//! Versions of Firecracker that may run VMs.

use std::fmt::{self, Display};
use std::path::Path;

/// First version without CVE-2026-5747.
const MIN: Version = Version(1, 15, 1);
/// Versions whose vsock answers nobody after a pause (their issue #6074).
const HANGING: [Version; 2] = [Version(1, 16, 0), Version(1, 16, 1)];

/// Version of Firecracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::vmm) struct Version(u32, u32, u32);

impl Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(major, minor, patch) = self;
        write!(formatter, "{major}.{minor}.{patch}")
    }
}

impl Version {
    /// Asks a program for its version. Fails if it is no Firecracker, or one that may run no VMs.
    pub(in crate::vmm) fn of(program: &Path) -> Result<Self, String> {
        let text = crate::command::run(&program.display().to_string(), &["--version"])
            .map_err(|error| error.to_string())?;
        Self::parse(&text)
            .ok_or_else(|| format!("{} is no Firecracker: its version is {text:.40?}", program.display()))?
            .checked()
    }

    /// Parses the first line of `firecracker --version`.
    fn parse(text: &str) -> Option<Self> {
        let version = text.lines().next()?.strip_prefix("Firecracker v")?;
        let mut numbers = version.trim().splitn(3, '.').map(|number| number.parse().ok());
        Some(Self(numbers.next()??, numbers.next()??, numbers.next()??))
    }

    fn checked(self) -> Result<Self, String> {
        if self < MIN {
            return Err(format!("Firecracker {self} has known faults (CVE-2026-5747); use {MIN}"));
        }
        if HANGING.contains(&self) {
            return Err(format!(
                "Firecracker {self} loses a VM's connections after a pause (#6074); use {MIN}, or one after {}",
                HANGING[1]
            ));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_known_faults_are_refused() {
        for (text, expected) in [
            ("Firecracker v1.15.1\n\nhelp", Ok("1.15.1")),
            ("Firecracker v1.16.2", Ok("1.16.2")),
            ("Firecracker v1.15.0", Err("CVE-2026-5747")),
            ("Firecracker v0.25.9", Err("CVE-2026-5747")),
            ("Firecracker v1.16.0", Err("#6074")),
            ("Firecracker v1.16.1", Err("#6074")),
        ] {
            match (Version::parse(text).unwrap().checked(), expected) {
                (Ok(version), Ok(expected)) => assert_eq!(version.to_string(), expected),
                (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{reason}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
        for text in ["", "QEMU emulator version 7.2", "Firecracker v1.15", "Firecracker v1.15.1-dirty"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
