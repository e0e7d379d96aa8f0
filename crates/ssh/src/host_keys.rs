//! The gateway's host keys as clients learn them: which ones there are is told at the beginning of a session, and a client that does not know
//! one has it proved (OpenSSH's PROTOCOL, section 2.5). So a client knows the next key before that replaces the current one.

use std::sync::{Arc, PoisonError, RwLock};

use rigbox_ssh_keys::private_key::PrivateKey;
use rigbox_ssh_keys::wire::{Fields, Malformed, Message};

use crate::message::{GLOBAL_REQUEST, REQUEST_FAILURE, REQUEST_SUCCESS};

/// Global request that tells the host keys.
pub(crate) const ANNOUNCEMENT: &[u8] = b"hostkeys-00@openssh.com";
/// Global request to prove some of them, which is also what their signatures begin with.
pub(crate) const PROOF: &[u8] = b"hostkeys-prove-00@openssh.com";

/// Host keys that there are now, as control has last told them: the first one is used, and all are announced.
pub(crate) struct CurrentHostKeys(RwLock<Arc<[PrivateKey]>>);

impl CurrentHostKeys {
    pub(crate) fn new(keys: Arc<[PrivateKey]>) -> Self {
        Self(RwLock::new(keys))
    }

    pub(crate) fn get(&self) -> Arc<[PrivateKey]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set(&self, keys: Arc<[PrivateKey]>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }
}

/// Host keys, with the session that they are proved for.
#[derive(Clone)]
pub struct HostKeys {
    keys: Arc<[PrivateKey]>,
    session_id: Vec<u8>,
}

impl HostKeys {
    /// Creates the keys of one session.
    #[must_use]
    pub fn new(keys: Arc<[PrivateKey]>, session_id: &[u8]) -> Self {
        Self { keys, session_id: session_id.to_vec() }
    }

    /// Returns the message that tells them.
    #[must_use]
    pub fn announcement(&self) -> Vec<u8> {
        let message = Message::new(GLOBAL_REQUEST).string(ANNOUNCEMENT).boolean(false);
        self.keys.iter().fold(message, |message, key| message.string(key.public())).into_bytes()
    }

    /// Answers a request to prove keys: `asked` is what follows its name and its wish for an answer.
    #[must_use]
    pub(crate) fn prove(&self, asked: Fields<'_>) -> Vec<u8> {
        self.signatures(asked).map_or_else(|| vec![REQUEST_FAILURE], Message::into_bytes)
    }

    fn signatures(&self, mut asked: Fields<'_>) -> Option<Message> {
        let mut reply = Message::new(REQUEST_SUCCESS);
        // A client asks for each key once.
        for _ in 0..self.keys.len() {
            if asked.is_finished() {
                break;
            }
            let public = asked.string().ok()?;
            let key = self.keys.iter().find(|key| key.public() == public)?;
            let text = Message::default().string(PROOF).string(&self.session_id).string(public);
            reply = reply.string(key.sign(&text.into_bytes()).ok()?);
        }
        asked.is_finished().then_some(reply)
    }
}

/// Global request of a client, as far as the gateway is concerned.
pub(crate) struct GlobalRequest<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) wants_reply: bool,
    pub(crate) rest: Fields<'a>,
}

impl<'a> GlobalRequest<'a> {
    /// Reads a global request. `None` for another message.
    ///
    /// # Errors
    /// [`Malformed`] for one that is not as the standard has it.
    pub(crate) fn read(message: &'a [u8]) -> Result<Option<Self>, Malformed> {
        if message.first() != Some(&GLOBAL_REQUEST) {
            return Ok(None);
        }
        let mut fields = Fields::of(message)?;
        let (name, wants_reply) = (fields.string()?, fields.boolean()?);
        Ok(Some(Self { name, wants_reply, rest: fields }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rigbox_ssh_keys::signature::verify;

    fn keys() -> HostKeys {
        let key = |seed| PrivateKey::ed25519(&[seed; 32]).unwrap();
        HostKeys::new([key(1), key(2)].into(), b"session")
    }

    fn asked(keys: &[Vec<u8>]) -> Vec<u8> {
        keys.iter().fold(Message::default(), |message, key| message.string(key)).into_bytes()
    }

    #[test]
    fn announced_keys_are_proved_for_the_session() {
        let keys = keys();
        let announcement = keys.announcement();
        let request = GlobalRequest::read(&announcement).unwrap().unwrap();
        assert_eq!((request.name, request.wants_reply), (ANNOUNCEMENT, false));
        let mut rest = request.rest;
        let announced = [rest.string().unwrap().to_vec(), rest.string().unwrap().to_vec()];
        assert!(rest.is_finished());
        let reply = keys.prove(Fields::new(&asked(&announced)));
        let mut signatures = Fields::of(&reply).unwrap();
        for key in &announced {
            let text = Message::default().string(PROOF).string("session").string(key).into_bytes();
            verify(key, "ssh-ed25519", &text, signatures.string().unwrap()).unwrap();
        }
        assert!(signatures.is_finished());
    }

    #[test]
    fn nothing_else_is_signed() {
        let other = PrivateKey::ed25519(&[3; 32]).unwrap().public();
        let own = PrivateKey::ed25519(&[1; 32]).unwrap().public();
        let refused = vec![REQUEST_FAILURE];
        assert_eq!(keys().prove(Fields::new(&asked(&[own.clone(), other]))), refused);
        assert_eq!(keys().prove(Fields::new(&asked(&[own.clone(), own.clone(), own]))), refused);
        assert_eq!(keys().prove(Fields::new(&[0, 0, 0, 9, 1])), refused);
    }
}
