//! End of a command whose caller has left.
//!
//! The call is reset, which the agent takes for a hang-up. But a reset does not arrive while the call has input on its way that the command
//! does not read: hyper looks at a request's body, and so at its failure, only when it may send more of it. So the command is told by
//! another call, which waits for nobody's input.

use futures_util::future::BoxFuture;
use rigbox_proto::guest_calls::KILL_GRACE;
use tokio::runtime::Handle;

/// Function that sends the command a signal. False if the command has ended.
type SendSignal = Box<dyn Fn(&'static str) -> BoxFuture<'static, bool> + Send + Sync>;

/// Hangs up on a command when dropped.
pub(super) struct HangUp {
    /// `None` once the command has ended.
    send: Option<SendSignal>,
}

impl HangUp {
    pub(super) fn new(send: SendSignal) -> Self {
        Self { send: Some(send) }
    }

    /// Records that the command has ended.
    pub(super) fn ended(&mut self) {
        self.send = None;
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        let (Some(send), Ok(runtime)) = (self.send.take(), Handle::try_current()) else { return };
        runtime.spawn(async move {
            if send("HUP").await {
                tokio::time::sleep(KILL_GRACE).await;
                send("KILL").await;
            }
        });
    }
}
