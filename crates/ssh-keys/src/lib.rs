//! Keys and signatures of SSH, and the data types that they are written with. No I/O: the gateway uses them for its transports and control
//! for log-ins, so that the role that speaks with strangers is not the one that decides.

mod error;
#[cfg(test)]
mod fuzz;
pub mod log_in;
pub mod private_key;
pub mod public_key;
pub mod signature;
pub mod wire;

pub use error::KeyError;
