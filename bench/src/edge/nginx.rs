//! nginx with a common configuration: a server in front of the app, one with `auth_request`, and one for WebSockets. And nginx as the app.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rigbox_sys::spawn::{ChildSetup, configure_child};

use super::process::{WORKERS, free_port};
use crate::host;

/// Returns the start of every configuration.
fn head(folder: &Path, user: &str) -> String {
    let folder = folder.display();
    format!(
        "user {user}; worker_processes {WORKERS}; worker_rlimit_nofile 65536; daemon off; pid {folder}/pid;\n\
         error_log {folder}/error.log error;\n\
         events {{ worker_connections 30000; }}\n\
         http {{\n access_log off; sendfile on; tcp_nodelay on; tcp_nopush on; keepalive_requests 1000000;\n\
         client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;\n\
         uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
    )
}

/// Running nginx. Ends when dropped.
pub(super) struct Process {
    child: Child,
}

impl Process {
    /// Starts nginx with `servers` in its configuration, in a folder of its own.
    pub(super) fn start(folder: &Path, servers: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let config: PathBuf = folder.join("nginx.conf");
        fs::write(&config, format!("{}{servers}\n}}\n", head(folder, "root")))?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&config).arg("-e").arg(folder.join("error.log")).stdin(Stdio::null());
        configure_child(&mut command, ChildSetup { new_session: true, ..ChildSetup::default() });
        let child = command.spawn().context("cannot run nginx; install nginx-light")?;
        Ok(Self { child })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM, because its workers outlive a SIGKILL.
        let _ = rigbox_sys::spawn::send_signal(self.child.id().cast_signed(), 15);
        let _ = self.child.wait();
    }
}

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
        host::children(self.process.child.id())
    }
}
