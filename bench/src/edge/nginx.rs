//! nginx as the proxy of the benchmark `edge`: a server in front of the app, one with `auth_request`, and one for WebSockets.

use std::path::Path;

use anyhow::Result;

use super::process::free_port;
use crate::host;
use crate::nginx::Process;

/// nginx as the proxy.
pub(super) struct Nginx {
    process: Process,
    public: u16,
    private: u16,
    websockets: u16,
}

impl Nginx {
    pub(super) fn start(folder: &Path, app: u16, websockets: u16) -> Result<Self> {
        let [public, private, sockets] = [free_port()?, free_port()?, free_port()?];
        let pass = "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host; \
                    proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; \
                    proxy_set_header X-Forwarded-Host $http_host;";
        // Without files for what exceeds the buffers: those would measure the disk.
        let servers = format!(
            "upstream app {{ server 127.0.0.1:{app}; keepalive 64; }}\n\
             upstream auth {{ server 127.0.0.1:{app}; keepalive 64; }}\n\
             proxy_max_temp_file_size 0;\n\
             server {{ listen {public} reuseport; location / {{ proxy_pass http://app; {pass} }} }}\n\
             server {{ listen {private} reuseport;\n\
               location / {{ auth_request /check; auth_request_set $who $upstream_http_x_user;\n\
                 proxy_set_header X-User $who; proxy_pass http://app; {pass} }}\n\
               location = /check {{ internal; proxy_pass http://auth/auth; {pass}\n\
                 proxy_pass_request_body off; proxy_set_header Content-Length \"\"; }} }}\n\
             server {{ listen {sockets} reuseport; location / {{ proxy_pass http://127.0.0.1:{websockets};\n\
                 proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;\n\
                 proxy_set_header Connection upgrade; proxy_read_timeout 1h; }} }}\n",
            public = public.port(),
            private = private.port(),
            sockets = sockets.port()
        );
        let process = Process::start(&folder.join("proxy"), &servers)?;
        for address in [public, private, sockets] {
            host::wait_listening(address, "nginx")?;
        }
        Ok(Self { process, public: public.port(), private: private.port(), websockets: sockets.port() })
    }

    pub(super) fn public(&self) -> u16 {
        self.public
    }

    pub(super) fn private(&self) -> u16 {
        self.private
    }

    pub(super) fn websockets(&self) -> u16 {
        self.websockets
    }

    pub(super) fn workers(&self) -> Result<Vec<u32>> {
        self.process.workers()
    }
}
