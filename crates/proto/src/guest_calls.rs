//! Limits of the connection on which control calls guests through guestio. Both ends set them.

use std::time::Duration;

use rigbox_shares::Bounds;

/// Time that a command has between SIGTERM or SIGHUP and SIGKILL.
pub const KILL_GRACE: Duration = Duration::from_secs(5);
/// Commands and file transfers that run at once, of all workspaces and of one.
pub const CALLS: Bounds = Bounds { total: 1024, per_key: 64 };
/// Short calls at once, which look something up or send a signal.
pub const LOOKUPS: Bounds = Bounds { total: 512, per_key: 16 };
/// The same for all workspaces of one user, so that many workspaces give nobody all places.
pub const CALLS_PER_OWNER: Bounds = Bounds { total: CALLS.total, per_key: 256 };
/// The same for lookups.
pub const LOOKUPS_PER_OWNER: Bounds = Bounds { total: LOOKUPS.total, per_key: 64 };
/// HTTP/2 streams of one connection. Commands and transfers have one connection, lookups and deliveries of secrets another, so that neither
/// waits for the other.
pub const MAX_CONCURRENT_STREAMS: u32 = 1024;
/// HTTP/2 flow-control window of a stream.
pub const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// HTTP/2 flow-control window of a connection: that of all its streams, so that stalled readers, however many, stall no other call.
pub const CONNECTION_WINDOW_BYTES: u32 = MAX_CONCURRENT_STREAMS * STREAM_WINDOW_BYTES;
