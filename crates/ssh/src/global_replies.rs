//! Order of the replies to a client's global requests: most come from the VM, some from the gateway, and a client takes them in the order of
//! its requests (RFC 4254, section 4).

use std::collections::VecDeque;

use bytes::Bytes;

/// Replies of the gateway that may wait for those of the VM.
const MAX_OWN_REPLIES: usize = 8;

/// Replies that a client waits for, in order: some of the VM's, then one of the gateway's, and so on.
#[derive(Debug, Default)]
pub(crate) struct GlobalReplies {
    before_own: VecDeque<(u64, Bytes)>,
    /// Number of the VM's replies after the last one of the gateway.
    after: u64,
}

/// Error for a client with too many requests that are not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

impl GlobalReplies {
    /// Notes that a request goes to the VM, which will reply.
    pub(crate) fn vm_asked(&mut self) {
        self.after = self.after.saturating_add(1);
    }

    /// Adds a reply of the gateway.
    ///
    /// # Errors
    /// [`TooMany`]
    pub(crate) fn add(&mut self, reply: Vec<u8>) -> Result<(), TooMany> {
        if self.before_own.len() >= MAX_OWN_REPLIES {
            return Err(TooMany);
        }
        self.before_own.push_back((std::mem::take(&mut self.after), reply.into()));
        Ok(())
    }

    /// Notes that a reply of the VM has gone to the client.
    pub(crate) fn vm_replied(&mut self) {
        // A VM that replies unasked confuses its own client alone.
        let count = self.before_own.front_mut().map_or(&mut self.after, |(count, _)| count);
        *count = count.saturating_sub(1);
    }

    /// Takes the reply of the gateway whose turn it is.
    pub(crate) fn take_due(&mut self) -> Option<Bytes> {
        let is_due = self.before_own.front().is_some_and(|(before, _)| *before == 0);
        if is_due { self.before_own.pop_front().map(|(_, reply)| reply) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_keep_the_order_of_their_requests() {
        let mut replies = GlobalReplies::default();
        replies.vm_asked();
        replies.vm_asked();
        replies.add(vec![1]).unwrap();
        replies.add(vec![2]).unwrap();
        replies.vm_asked();
        replies.add(vec![3]).unwrap();
        replies.vm_replied();
        assert_eq!(replies.take_due(), None);
        replies.vm_replied();
        assert_eq!(replies.take_due().unwrap(), [1].as_slice());
        assert_eq!(replies.take_due().unwrap(), [2].as_slice());
        assert_eq!(replies.take_due(), None);
        replies.vm_replied();
        assert_eq!(replies.take_due().unwrap(), [3].as_slice());
        // Unasked.
        replies.vm_replied();
        replies.add(vec![4]).unwrap();
        assert_eq!(replies.take_due().unwrap(), [4].as_slice());
    }

    #[test]
    fn replies_that_wait_are_bounded() {
        let mut replies = GlobalReplies::default();
        replies.vm_asked();
        for _ in 0..MAX_OWN_REPLIES {
            replies.add(vec![1]).unwrap();
        }
        assert_eq!(replies.add(vec![1]), Err(TooMany));
    }
}
