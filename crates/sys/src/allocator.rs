//! The allocator of our programs, and memory that the C library's keeps for later.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;

/// The system's allocator, but what is freed is overwritten first. Secrets pass through buffers that nobody thinks of (of a transport, a
/// parser, a string that has grown), and no longer lie in free memory for whoever reads it later.
///
/// A block that grows is copied: the system's own way would leave the old place as it was.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wiping;

/// Freed memory is overwritten.
static IS_WIPING: AtomicBool = AtomicBool::new(true);

/// Leaves freed memory of this process as it is from now on, for one with very many connections: each takes a tenth more otherwise.
pub fn stop_wiping() {
    IS_WIPING.store(false, Ordering::Relaxed);
}

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
        if IS_WIPING.load(Ordering::Relaxed) {
            // Unlike a plain write, it is not left out because nobody reads what it has written.
            // SAFETY: the block has this size, and the caller does not use it any more.
            unsafe { libc::explicit_bzero(block.cast(), layout.size()) };
        }
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !IS_WIPING.load(Ordering::Relaxed) {
            // SAFETY: as above.
            return unsafe { System.realloc(block, layout, new_size) };
        }
        // SAFETY: the caller guarantees that the size is valid for this alignment.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the size is not zero, by the caller's contract.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both blocks have this size at least, and the new one is another.
            unsafe { std::ptr::copy_nonoverlapping(block, new, layout.size().min(new_size)) };
            // SAFETY: the caller does not use the old block any more.
            unsafe { self.dealloc(block, layout) };
        }
        new
    }
}

/// Returns free memory to the kernel, of all threads and in whole pages.
#[cfg(target_env = "gnu")]
pub fn trim() {
    // SAFETY: it has no preconditions, and may be called while other threads allocate.
    unsafe { libc::malloc_trim(0) };
}
