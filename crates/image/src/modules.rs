//! Archive of the kernel modules that `/init` needs, in dependency order.
//!
//! `/init` loads `/modules/*` in the order of their names and resolves no dependencies.

use std::path::Path;

use crate::cpio::Cpio;
use crate::error::Error;

/// Modules for the root file system, the network and the agent's channel, on QEMU and Firecracker. All other modules are loaded from the
/// disk.
const BOOT_MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio-rng",
    "vsock",
    "vmw_vsock_virtio_transport",
];

/// Builds the archive of `wanted` modules, by default those of a micro-VM, from `dir`, a `/lib/modules/<version>` with the output of
/// depmod(8).
pub(crate) fn archive(dir: &Path, wanted: Option<&[String]>) -> Result<Vec<u8>, Error> {
    let wanted = match wanted {
        Some(wanted) => wanted.iter().map(String::as_str).collect(),
        None => BOOT_MODULES.to_vec(),
    };
    let dep = dir.join("modules.dep");
    let text = std::fs::read_to_string(&dep).map_err(Error::file("read", &dep))?;
    let mut cpio = Cpio::default();
    cpio.add_folder("modules");
    for (index, module) in load_order(&text, &wanted).map_err(Error::Kernel)?.into_iter().enumerate() {
        let path = dir.join(module);
        let content = std::fs::read(&path).map_err(Error::file("read", &path))?;
        cpio.add_file(&format!("modules/{index:02}-{}.ko", module_name(module)), &content);
    }
    Ok(cpio.finish())
}

/// Returns the paths of the `wanted` modules and all their dependencies, dependencies first, from the text of a `modules.dep`.
fn load_order<'a>(modules_dep: &'a str, wanted: &[&str]) -> Result<Vec<&'a str>, String> {
    let mut order: Vec<&str> = Vec::new();
    for name in wanted {
        let (path, dependencies) = modules_dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| module_name(path) == *name)
            .ok_or_else(|| format!("no module `{name}` in modules.dep"))?;
        // depmod lists direct and indirect dependencies, in reverse order of loading.
        for module in dependencies.split_whitespace().rev().chain([path]) {
            if !module.ends_with(".ko") {
                return Err(format!("module {module} is compressed, which /init does not support"));
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
    fn dependencies_are_loaded_first_and_once() {
        let order: Vec<&str> =
            load_order(DEP, &["virtio_blk", "virtio_net"]).unwrap().into_iter().map(module_name).collect();
        assert_eq!(order, ["virtio", "virtio_ring", "virtio_blk", "failover", "net_failover", "virtio_net"]);
    }

    #[test]
    fn error_names_the_missing_or_compressed_module() {
        assert!(load_order(DEP, &["virtio_scsi"]).unwrap_err().contains("virtio_scsi"));
        assert!(load_order(DEP, &["packed"]).unwrap_err().contains("packed"));
    }
}
