//! Files of a memory image in the jail of a Firecracker. The node makes room for them, and `guestio` names them to the VMM.

/// State of the VM's devices.
pub const STATE: &str = "/vm/memory/state";
/// Memory of the guest.
pub const MEMORY: &str = "/vm/memory/memory";
