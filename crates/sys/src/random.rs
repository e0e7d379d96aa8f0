//! Random number generator of the kernel (random(4)).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Random bytes that are added at once.
pub const ENTROPY_BYTES: usize = 32;

/// Request of `RNDADDENTROPY` (linux/random.h: `struct rand_pool_info`).
#[repr(C)]
struct PoolInfo {
    entropy_count: i32,
    buf_size: i32,
    buf: [u8; ENTROPY_BYTES],
}

mod request {
    // linux/random.h: RNDADDENTROPY is _IOW('R', 0x03, int[2]), RNDRESEEDCRNG is _IO('R', 0x07).
    nix::ioctl_write_ptr_bad!(add_entropy, nix::request_code_write!(b'R', 0x03, 8), super::PoolInfo);
    nix::ioctl_none!(reseed, b'R', 0x07);
}

/// Adds random bytes, and has the generator use them from now on.
///
/// # Errors
/// Fails without the privilege for it (`CAP_SYS_ADMIN`).
pub fn reseed(entropy: &[u8; ENTROPY_BYTES]) -> io::Result<()> {
    let generator = File::open("/dev/urandom")?;
    // In bits, and in bytes.
    let info =
        PoolInfo { entropy_count: 8 * ENTROPY_BYTES as i32, buf_size: ENTROPY_BYTES as i32, buf: *entropy };
    // SAFETY: the kernel reads the structure and as many bytes of its buffer as it says; both live through the call.
    unsafe { request::add_entropy(generator.as_raw_fd(), &info) }?;
    // SAFETY: this request has no argument.
    unsafe { request::reseed(generator.as_raw_fd()) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_takes_random_bytes() {
        reseed(&[7; ENTROPY_BYTES]).unwrap();
    }
}
