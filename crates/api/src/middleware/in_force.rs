//! Wait after a change until it is in force for open requests, and gateways have acknowledged it.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tracing::warn;

use crate::context::ApiContext;

/// Delays the response to a change until it is in force here and at every gateway, so that a caller may rely on a
/// revocation.
pub(crate) async fn await_gateways(
    State(context): State<ApiContext>,
    request: Request,
    next: Next,
) -> Response {
    let is_change = !request.method().is_safe();
    let response = next.run(request).await;
    if is_change {
        if let Err(error) = context.open_requests.settle().await {
            warn!(%error, "failed to decide again about open requests; they follow later");
        }
        if let Err(error) = context.gateways.wait_in_force().await {
            warn!(%error, "failed to read the epoch of grants; gateways apply the change later");
        }
    }
    response
}
