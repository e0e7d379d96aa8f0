//! The allocator of our programs, and memory that the C library's keeps for later.

use std::alloc::{GlobalAlloc, Layout, System};

use nix::libc;

/// The system's allocator, but what is freed is overwritten first. Secrets pass through buffers that nobody thinks of (of a transport, a
/// parser, a string that has grown), and no longer lie in free memory for whoever reads it later.
///
/// What grows is copied, as by the trait's own `realloc`: the system's would leave the old place as it was.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wiping;

// SAFETY: each call is passed on to `System` as it came. A block is overwritten within its size, before it is freed.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps this function's contract, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // Unlike a plain write, it is not left out because nobody reads what it has written.
        // SAFETY: the block has this size, and the caller does not use it any more.
        unsafe { libc::explicit_bzero(block.cast(), layout.size()) };
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Returns free memory to the kernel, of all threads and in whole pages.
#[cfg(target_env = "gnu")]
pub fn trim() {
    // SAFETY: it has no preconditions, and may be called while other threads allocate.
    unsafe { libc::malloc_trim(0) };
}
