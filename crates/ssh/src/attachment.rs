//! Attachment to control, by which it knows that this process is there: once it is gone, control ends its sessions.

use std::sync::Arc;
use std::time::Duration;

use crate::state::Gateway;

/// Delay before an attachment that broke is made again: control takes seconds to miss a gateway.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Stays attached for as long as it is polled.
pub(crate) async fn keep(gateway: Arc<Gateway>) {
    loop {
        let ended = gateway.control.attach().await;
        tracing::debug!(?ended, "the attachment to control has ended");
        tokio::time::sleep(RETRY_DELAY).await;
    }
}
