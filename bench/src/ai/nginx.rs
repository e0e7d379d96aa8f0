//! nginx as plain reverse proxy in front of the provider, with the key: a server with buffers for calls, and one without for streams.

use std::path::Path;

use anyhow::Result;

use super::addresses::{NGINX, NGINX_STREAMS, PROVIDER};
use super::message::PROVIDER_KEY;
use crate::host;
use crate::nginx::Process;

/// Starts it, and waits until it listens.
pub(super) fn start(folder: &Path) -> Result<Process> {
    let pass = format!(
        "proxy_pass https://provider; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_set_header X-Api-Key {PROVIDER_KEY}; proxy_read_timeout 1h;"
    );
    let servers = format!(
        "upstream provider {{ server {PROVIDER}; keepalive 64; }}\n\
         server {{ listen {calls} reuseport; location / {{ {pass} }} }}\n\
         server {{ listen {streams} reuseport; location / {{ {pass} proxy_buffering off; }} }}\n",
        calls = NGINX.port(),
        streams = NGINX_STREAMS.port()
    );
    let process = Process::start(&folder.join("nginx"), &servers)?;
    for address in [NGINX, NGINX_STREAMS] {
        host::wait_listening(address, "nginx")?;
    }
    Ok(process)
}
