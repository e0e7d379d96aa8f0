//! Messages of a log-in (RFC 4252), which is by a public key.

use rigbox_ssh_keys::KeyError;
use rigbox_ssh_keys::log_in::{CONNECTION, PUBLIC_KEY, signed_text};
use rigbox_ssh_keys::private_key::PrivateKey;
use rigbox_ssh_keys::wire::{Fields, Malformed, Message};

use crate::message::{
    SERVICE_ACCEPT, SERVICE_REQUEST, USERAUTH_BANNER, USERAUTH_FAILURE, USERAUTH_PK_OK, USERAUTH_REQUEST,
    USERAUTH_SUCCESS,
};

/// Service of a log-in.
pub const USERAUTH: &str = "ssh-userauth";
/// Request to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIn<'a> {
    /// Name of the user.
    pub user: &'a str,
    /// Service that follows.
    pub service: &'a str,
    /// How the client logs in.
    pub method: Method<'a>,
}

/// How a client logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method<'a> {
    /// By a key. Without a signature, the client asks whether the key would do.
    PublicKey {
        /// Algorithm of the signature.
        algorithm: &'a str,
        /// Public key, as SSH writes it.
        key: &'a [u8],
        /// Signature of [`rigbox_ssh_keys::log_in::signed_text`], as SSH writes it.
        signature: Option<&'a [u8]>,
    },
    /// Another one, `none` included, which is refused.
    Other(&'a str),
}

/// Reads the request for a service. `None` for any other message.
///
/// # Errors
/// [`Malformed`] for one that is not as the standard has it.
pub fn requested_service(message: &[u8]) -> Result<Option<&str>, Malformed> {
    if message.first() != Some(&SERVICE_REQUEST) {
        return Ok(None);
    }
    let mut fields = Fields::of(message)?;
    let service = fields.text()?;
    fields.end()?;
    Ok(Some(service))
}

/// Returns the message that a service begins.
#[must_use]
pub fn service_accept(service: &str) -> Vec<u8> {
    Message::new(SERVICE_ACCEPT).string(service).into_bytes()
}

/// Returns the request for a service.
#[must_use]
pub fn service_request(service: &str) -> Vec<u8> {
    Message::new(SERVICE_REQUEST).string(service).into_bytes()
}

/// Returns whether a message says that a service begins.
#[must_use]
pub fn is_service_accept(message: &[u8]) -> bool {
    message.first() == Some(&SERVICE_ACCEPT)
}

/// Reads a request to log in. `None` for any other message.
///
/// # Errors
/// [`Malformed`] for one that is not as the standard has it.
pub fn log_in(message: &[u8]) -> Result<Option<LogIn<'_>>, Malformed> {
    if message.first() != Some(&USERAUTH_REQUEST) {
        return Ok(None);
    }
    let mut fields = Fields::of(message)?;
    let (user, service, method) = (fields.text()?, fields.text()?, fields.text()?);
    if method != PUBLIC_KEY {
        return Ok(Some(LogIn { user, service, method: Method::Other(method) }));
    }
    let is_signed = fields.boolean()?;
    let (algorithm, key) = (fields.text()?, fields.string()?);
    let signature = is_signed.then(|| fields.string()).transpose()?;
    fields.end()?;
    Ok(Some(LogIn { user, service, method: Method::PublicKey { algorithm, key, signature } }))
}

/// Returns the request to log in with a key.
///
/// # Errors
/// [`KeyError::Failed`] if the key cannot sign.
pub fn log_in_request(session_id: &[u8], user: &str, key: &PrivateKey) -> Result<Vec<u8>, KeyError> {
    let (algorithm, public) = (key.algorithm(), key.public());
    let signature = key.sign(&signed_text(session_id, user, algorithm, &public))?;
    let request = Message::new(USERAUTH_REQUEST).string(user).string(CONNECTION).string(PUBLIC_KEY);
    Ok(request.boolean(true).string(algorithm).string(public).string(signature).into_bytes())
}

/// Returns the message that the key would do.
#[must_use]
pub fn key_accepted(algorithm: &str, key: &[u8]) -> Vec<u8> {
    Message::new(USERAUTH_PK_OK).string(algorithm).string(key).into_bytes()
}

/// Returns the refusal of a log-in, which says that a public key is the only method.
#[must_use]
pub fn refused() -> Vec<u8> {
    Message::new(USERAUTH_FAILURE).string(PUBLIC_KEY).boolean(false).into_bytes()
}

/// Returns the message that the log-in has succeeded.
#[must_use]
pub fn succeeded() -> Vec<u8> {
    vec![USERAUTH_SUCCESS]
}

/// Returns whether a message says that the log-in has succeeded.
#[must_use]
pub fn is_success(message: &[u8]) -> bool {
    message == [USERAUTH_SUCCESS]
}

/// Returns whether a message is a text for people that comes before the end of a log-in.
#[must_use]
pub fn is_banner(message: &[u8]) -> bool {
    message.first() == Some(&USERAUTH_BANNER)
}

/// Returns a text for people, which comes before the end of a log-in.
#[must_use]
pub fn banner(text: &str) -> Vec<u8> {
    Message::new(USERAUTH_BANNER).string(text).string("").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rigbox_ssh_keys::signature::verify;

    #[test]
    fn own_request_is_read_as_it_was_made_and_is_signed() {
        let key = PrivateKey::ed25519(&[5; 32]).unwrap();
        let request = log_in_request(b"session", "developer", &key).unwrap();
        let LogIn { user, service, method } = log_in(&request).unwrap().unwrap();
        let Method::PublicKey { algorithm, key: public, signature } = method else { panic!("{method:?}") };
        assert_eq!((user, service, algorithm), ("developer", CONNECTION, "ssh-ed25519"));
        let text = signed_text(b"session", user, algorithm, public);
        verify(public, algorithm, &text, signature.unwrap()).unwrap();
        for len in 1..request.len() {
            assert_eq!(log_in(&request[..len]), Err(Malformed), "{len}");
        }
    }

    #[test]
    fn other_methods_are_known_by_name() {
        let request = Message::new(USERAUTH_REQUEST).string("a").string(CONNECTION).string("password");
        let request = request.boolean(false).string("secret").into_bytes();
        assert_eq!(log_in(&request).unwrap().unwrap().method, Method::Other("password"));
        assert_eq!(log_in(&[20]), Ok(None));
    }
}
