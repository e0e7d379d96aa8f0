//! nginx with a common configuration, for whatever servers a benchmark needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rigbox_sys::spawn::{ChildSetup, configure_child};

use crate::host;

/// Workers, as many as a role has threads.
pub(crate) const WORKERS: usize = 2;

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
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts nginx with `servers` in its configuration, in a folder of its own.
    pub(crate) fn start(folder: &Path, servers: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let config: PathBuf = folder.join("nginx.conf");
        fs::write(&config, format!("{}{servers}\n}}\n", head(folder, "root")))?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&config).arg("-e").arg(folder.join("error.log")).stdin(Stdio::null());
        configure_child(&mut command, ChildSetup { new_session: true, ..ChildSetup::default() });
        let child = command.spawn().context("cannot run nginx; install nginx-light")?;
        Ok(Self { child })
    }

    /// Returns the processes that serve.
    pub(crate) fn workers(&self) -> Result<Vec<u32>> {
        host::children(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM, because its workers outlive a SIGKILL.
        let _ = rigbox_sys::spawn::send_signal(self.child.id().cast_signed(), 15);
        let _ = self.child.wait();
    }
}
