//! WebSockets: what all routes that open one have in common.

use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use http::StatusCode;

use crate::error::ApiError;

/// Interval of pings. A client that is gone without a word answers the second one by a reset.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(15);

/// Returns the upgrade, or the error for a plain request. `otherwise` says what that would be for; it may be empty.
pub(crate) fn required(
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    otherwise: &str,
) -> Result<WebSocketUpgrade, ApiError> {
    upgrade.map_err(|_| {
        let text = format!("GET on this route opens a WebSocket, version 13.{otherwise}");
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", text)
    })
}
