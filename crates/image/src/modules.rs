//! The modules archive: which kernel modules `/init` needs, in an order in which each finds what it depends on.
//!
//! `/init` loads `/modules/*` in the order of their names and knows nothing of dependencies.

use std::path::Path;

use crate::cpio::Cpio;
use crate::error::Error;

/// What a VM needs before it has a root file system, a network and an agent's channel: on QEMU and Firecracker
/// alike. Whatever else a guest wants it loads from its disk.
const WANTED: &[&str] = &[
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio-rng",
    "vsock",
    "vmw_vsock_virtio_transport",
];

/// Builds the archive from `dir`, a `/lib/modules/<version>` in which depmod has run.
pub(crate) fn archive(dir: &Path) -> Result<Vec<u8>, Error> {
    let dep = dir.join("modules.dep");
    let text = std::fs::read_to_string(&dep).map_err(Error::file("read", &dep))?;
    let mut cpio = Cpio::default();
    cpio.add_folder("modules");
    for (index, module) in load_order(&text, WANTED).map_err(Error::Kernel)?.into_iter().enumerate() {
        let path = dir.join(module);
        let content = std::fs::read(&path).map_err(Error::file("read", &path))?;
        cpio.file(&format!("modules/{index:02}-{}.ko", module_name(module)), &content);
    }
    Ok(cpio.finish())
}

/// The paths of `wanted` and of all they depend on, dependencies first, from the text of a `modules.dep`.
fn load_order<'a>(modules_dep: &'a str, wanted: &[&str]) -> Result<Vec<&'a str>, String> {
    let mut order: Vec<&str> = Vec::new();
    for name in wanted {
        let (path, needs) = modules_dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| module_name(path) == *name)
            .ok_or_else(|| format!("no module `{name}` in modules.dep"))?;
        // depmod lists all dependencies, also indirect ones, and the one to load first stands last.
        for module in needs.split_whitespace().rev().chain([path]) {
            if !module.ends_with(".ko") {
                return Err(format!("module {module} is compressed, which /init does not unpack"));
            }
            if !order.contains(&module) {
                order.push(module);
            }
        }
    }
    Ok(order)
}

fn module_name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/net/core/failover.ko:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/fs/packed.ko.xz:
";

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let order: Vec<&str> =
            load_order(DEP, &["virtio_blk", "virtio_net"]).unwrap().into_iter().map(module_name).collect();
        assert_eq!(order, ["virtio", "virtio_ring", "virtio_blk", "failover", "net_failover", "virtio_net"]);
    }

    #[test]
    fn a_missing_or_compressed_module_is_named() {
        assert!(load_order(DEP, &["virtio_scsi"]).unwrap_err().contains("virtio_scsi"));
        assert!(load_order(DEP, &["packed"]).unwrap_err().contains("packed"));
    }
}
