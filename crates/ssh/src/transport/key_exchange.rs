//! Key exchanges: curve25519-sha256 (RFC 8731) and mlkem768x25519-sha256 (draft-ietf-sshm-mlkem-hybrid-kex), with the keys that follow from
//! their result (RFC 4253, section 7.2).

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::digest::{Context, SHA256, digest};
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use zeroize::Zeroizing;

use super::error::Error;
use rigbox_ssh_keys::wire::Message;

const X25519_LEN: usize = 32;
const HASH_LEN: usize = 32;

/// Names of the methods, the best first.
pub(super) const NAMES: &[&str] =
    &["mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org"];

/// Method of a key exchange. Both hash with SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    MlKem768X25519,
    Curve25519,
}

impl Method {
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "mlkem768x25519-sha256" => Some(Self::MlKem768X25519),
            "curve25519-sha256" | "curve25519-sha256@libssh.org" => Some(Self::Curve25519),
            _ => None,
        }
    }
}

/// Hash of an exchange.
pub(super) type Hash = [u8; HASH_LEN];

/// Secret that both sides have, as the method writes it in what is hashed.
pub(super) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    fn new(method: Method, mlkem: &[u8], x25519: &[u8]) -> Self {
        let message = Message::default();
        Self(Zeroizing::new(match method {
            Method::Curve25519 => message.mpint(x25519).into_bytes(),
            Method::MlKem768X25519 => {
                let both = Zeroizing::new([mlkem, x25519].concat());
                message.string(digest(&SHA256, &both)).into_bytes()
            }
        }))
    }

    /// Returns the key material of a purpose, which a letter names.
    pub(super) fn derive(
        &self,
        hash: &Hash,
        letter: u8,
        session_id: &Hash,
        len: usize,
    ) -> Zeroizing<Vec<u8>> {
        let mut material = Zeroizing::new(Vec::with_capacity(len + HASH_LEN));
        while material.len() < len {
            let mut context = Context::new(&SHA256);
            context.update(&self.0);
            context.update(hash);
            if material.is_empty() {
                context.update(&[letter]);
                context.update(session_id);
            } else {
                context.update(&material);
            }
            material.extend_from_slice(context.finish().as_ref());
        }
        material.truncate(len);
        material
    }
}

/// Client's half of an exchange.
pub(super) struct ClientShare {
    method: Method,
    x25519: PrivateKey,
    mlkem: Option<DecapsulationKey>,
    /// Public part, for the server.
    pub(super) public: Vec<u8>,
}

impl ClientShare {
    pub(super) fn new(method: Method) -> Result<Self, Error> {
        let (x25519, point) = generate()?;
        let mlkem = match method {
            Method::Curve25519 => None,
            Method::MlKem768X25519 => {
                Some(DecapsulationKey::generate(&ML_KEM_768).map_err(|_| Error::Crypto)?)
            }
        };
        let mut public = Vec::new();
        if let Some(mlkem) = &mlkem {
            let key = mlkem.encapsulation_key().map_err(|_| Error::Crypto)?;
            public.extend_from_slice(key.key_bytes().map_err(|_| Error::Crypto)?.as_ref());
        }
        public.extend_from_slice(&point);
        Ok(Self { method, x25519, mlkem, public })
    }

    /// Returns the secret that follows from the server's answer.
    pub(super) fn finish(self, answer: &[u8]) -> Result<Secret, Error> {
        let (ciphertext, point) = split(answer)?;
        let mlkem = match &self.mlkem {
            None if ciphertext.is_empty() => None,
            None => return Err(Error::KeyExchange),
            Some(key) => Some(key.decapsulate(Ciphertext::from(ciphertext)).map_err(|_| Error::KeyExchange)?),
        };
        let mlkem = mlkem.as_ref().map_or(&[][..], AsRef::as_ref);
        shared(&self.x25519, point, |x25519| Secret::new(self.method, mlkem, x25519))
    }
}

/// Answers a client's share. Returns what the client gets, and the secret.
pub(super) fn respond(method: Method, share: &[u8]) -> Result<(Vec<u8>, Secret), Error> {
    let (encapsulation_key, point) = split(share)?;
    let (own, own_point) = generate()?;
    match method {
        Method::Curve25519 if encapsulation_key.is_empty() => {
            let secret = shared(&own, point, |x25519| Secret::new(method, &[], x25519))?;
            Ok((own_point, secret))
        }
        Method::Curve25519 => Err(Error::KeyExchange),
        Method::MlKem768X25519 => {
            let failed = |_| Error::KeyExchange;
            let key = EncapsulationKey::new(&ML_KEM_768, encapsulation_key);
            let (ciphertext, mlkem) = key.map_err(|_| Error::KeyExchange)?.encapsulate().map_err(failed)?;
            let secret = shared(&own, point, |x25519| Secret::new(method, mlkem.as_ref(), x25519))?;
            Ok(([ciphertext.as_ref(), &own_point].concat(), secret))
        }
    }
}

/// Splits a share before its X25519 point.
fn split(share: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let at = share.len().checked_sub(X25519_LEN).ok_or(Error::KeyExchange)?;
    share.split_at_checked(at).ok_or(Error::KeyExchange)
}

fn generate() -> Result<(PrivateKey, Vec<u8>), Error> {
    let key = PrivateKey::generate(&X25519).map_err(|_| Error::Crypto)?;
    let point = key.compute_public_key().map_err(|_| Error::Crypto)?.as_ref().to_vec();
    Ok((key, point))
}

/// Agrees on a secret. A point of low order is refused.
fn shared<T>(own: &PrivateKey, point: &[u8], with: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
    agree(own, UnparsedPublicKey::new(&X25519, point), Error::KeyExchange, |secret| Ok(with(secret)))
}

/// Record of an exchange, which both sides hash and the server signs.
pub(super) struct Transcript<'a> {
    pub(super) client_version: &'a str,
    pub(super) server_version: &'a str,
    pub(super) client_offer: &'a [u8],
    pub(super) server_offer: &'a [u8],
    pub(super) host_key: &'a [u8],
    pub(super) client_share: &'a [u8],
    pub(super) server_share: &'a [u8],
}

impl Transcript<'_> {
    pub(super) fn hash(&self, secret: &Secret) -> Hash {
        let text = Message::default()
            .string(self.client_version)
            .string(self.server_version)
            .string(self.client_offer)
            .string(self.server_offer)
            .string(self.host_key)
            .string(self.client_share)
            .string(self.server_share)
            .bytes(&secret.0)
            .into_bytes();
        let mut hash = [0; HASH_LEN];
        hash.copy_from_slice(digest(&SHA256, &Zeroizing::new(text)).as_ref());
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_have_the_same_secret() {
        for method in [Method::Curve25519, Method::MlKem768X25519] {
            let client = ClientShare::new(method).unwrap();
            let (answer, secret) = respond(method, &client.public).unwrap();
            assert_eq!(*client.finish(&answer).unwrap().0, *secret.0);
        }
    }

    #[test]
    fn shares_of_other_lengths_and_points_of_low_order_are_refused() {
        for method in [Method::Curve25519, Method::MlKem768X25519] {
            let share = ClientShare::new(method).unwrap().public;
            let zeros = [&share[..share.len() - X25519_LEN], &[0; X25519_LEN]].concat();
            for bad in [&share[1..], &[&share[..], &[1]].concat(), &[], &zeros] {
                assert_eq!(respond(method, bad).err(), Some(Error::KeyExchange), "{method:?}, {}", bad.len());
            }
        }
    }
}
