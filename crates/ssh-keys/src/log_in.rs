//! Text that a log-in signs.

use crate::wire::Message;

/// Service after a log-in.
pub const CONNECTION: &str = "ssh-connection";
/// Method of a log-in.
pub const PUBLIC_KEY: &str = "publickey";
/// Number of a request to log in.
pub const USERAUTH_REQUEST: u8 = 50;

/// Returns the text that a client signs to log in (RFC 4252, section 7).
#[must_use]
pub fn signed_text(session_id: &[u8], user: &str, algorithm: &str, key: &[u8]) -> Vec<u8> {
    let text = Message::default().string(session_id).bytes(&[USERAUTH_REQUEST]);
    let text = text.string(user).string(CONNECTION).string(PUBLIC_KEY).boolean(true);
    text.string(algorithm).string(key).into_bytes()
}
