//! Apps behind the edge role of the benchmark, and the key of their owner.

use rigbox_proto::gateway::{Route, Visibility};
use rigbox_testkit::gateway::{Gateway, OWNER, route, shown, user};

use super::MANY_APPS;

/// One of the public apps `app-<n>`.
pub(super) const HOST: &str = "app-1.rigbox.localhost";
pub(super) const PRIVATE_HOST: &str = "private.rigbox.localhost";
/// Public app with WebSockets.
pub(super) const SOCKETS_HOST: &str = "sockets.rigbox.localhost";
pub(super) const HTTP_PORT: u32 = 1;
pub(super) const SOCKETS_PORT: u32 = 2;
/// Size of a real identity assertion in bytes.
const ASSERTION_BYTES: usize = 500;

/// Returns the key of the apps' owner.
pub(super) fn key() -> String {
    shown("key", "owner")
}

/// Adds the apps to control's table.
pub(super) fn add_to(gateway: &Gateway) {
    let app = |name: &str, visibility, port| -> (String, Route) {
        let host = format!("{name}.rigbox.localhost");
        let route = route(name, &format!("http://{host}"), visibility, port);
        (host, route)
    };
    let mut table = gateway.table();
    table.routes.extend((1..=MANY_APPS).map(|n| app(&format!("app-{n}"), Visibility::Public, HTTP_PORT)));
    table.routes.extend([
        app("private", Visibility::Private, HTTP_PORT),
        app("sockets", Visibility::Public, SOCKETS_PORT),
    ]);
    let mut owner = user(OWNER, "owner");
    owner.assertion = "a".repeat(ASSERTION_BYTES);
    table.identities.insert(key(), owner);
}
