//! Memory images: what a VM had in its memory when it was stopped, encrypted with a key that this role does not keep. An image fits the disk
//! as it was left, the same monitor and the same CPU, and is gone from the disk before its guest runs on, so no guest runs on twice.

mod identity;
mod image;
mod sealed;

use rigbox_proto::node;
use zeroize::Zeroizing;

pub use identity::MemoryImage;
pub(crate) use identity::{DiskState, Identity, host_cpu};
pub(crate) use image::{Images, MemoryPipe, Opened, Source, empty_folder};

use crate::error::Error;

const KEY_BYTES: usize = 32;

/// Key of one memory image. It cannot be printed, and ends with the last that holds it.
#[derive(Clone)]
pub struct MemoryKey(Zeroizing<[u8; KEY_BYTES]>);

impl MemoryKey {
    /// Takes over 32 random bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    fn bytes(&self) -> &[u8] {
        &*self.0
    }
}

impl TryFrom<node::MemoryKey> for MemoryKey {
    type Error = Error;

    fn try_from(key: node::MemoryKey) -> Result<Self, Error> {
        Self::from_bytes(&key.key)
            .ok_or_else(|| Error::Refused("bad_request", format!("a memory key has {KEY_BYTES} bytes")))
    }
}

impl std::fmt::Debug for MemoryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemoryKey(..)")
    }
}
