//! Bodies of responses to VMs.

use std::io;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

/// Body of a response to a VM.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, io::Error>;

/// Returns a body that is whole.
pub(crate) fn full(bytes: Bytes) -> ResponseBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}
