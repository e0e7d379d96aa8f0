//! Configuration of the control role for benchmarks that start it alone.

use std::net::SocketAddr;
use std::path::Path;

use rigbox_control::Config;
use rigbox_core::plans::Plans;

/// Returns a configuration with the database in `folder`.
pub(crate) fn control_config(folder: &Path, listen: SocketAddr) -> Config {
    Config {
        database: folder.join("rigbox.db"),
        token_key: folder.join("token.key"),
        master_key: rigbox_control::KeySource::File(folder.join("master.key")),
        api_listen: listen,
        public_api_url: format!("http://{listen}"),
        console_url: format!("http://console.localhost:{}", listen.port()),
        mail: None,
        // Nothing listens on these sockets, and no such benchmark uses them.
        node_socket: folder.join("node.sock"),
        guestio_socket: folder.join("guestio.sock"),
        dns: vec![],
        apps_url: "http://rigbox.localhost:7080".to_owned(),
        bridge: None,
        gateways: None,
        ssh: None,
        ai: None,
        timeouts: rigbox_control::Timeouts::default(),
        plans: Plans::default(),
        api_tls: None,
        trusted_proxies: Vec::new(),
        audit_retention: std::time::Duration::from_secs(3600),
    }
}
