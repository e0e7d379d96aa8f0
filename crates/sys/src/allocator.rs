//! Memory that the C library's allocator keeps for later.

/// Returns free memory to the kernel, of all threads and in whole pages.
#[cfg(target_env = "gnu")]
pub fn trim() {
    // SAFETY: it has no preconditions, and may be called while other threads allocate.
    unsafe { nix::libc::malloc_trim(0) };
}
