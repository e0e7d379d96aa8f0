//! Private keys: those that sign a transport's key exchange, and those that log in to a VM.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::KeyError;
use crate::signature::{ECDSA_P256_NAME, ED25519_NAME};
use crate::wire::Message;

const P256: &str = "nistp256";
const P256_NUMBER_LEN: usize = 32;

/// Private key. It has no text form.
pub enum PrivateKey {
    /// Ed25519 (RFC 8709).
    Ed25519(Ed25519KeyPair),
    /// ECDSA on P-256 (RFC 5656).
    EcdsaP256(EcdsaKeyPair),
}

impl PrivateKey {
    /// Makes the Ed25519 key of a seed.
    ///
    /// # Errors
    /// [`KeyError::Damaged`] if the seed has not 32 bytes.
    pub fn ed25519(seed: &[u8]) -> Result<Self, KeyError> {
        Ok(Self::Ed25519(Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Damaged)?))
    }

    /// Generates a key on P-256.
    ///
    /// # Errors
    /// [`KeyError::Failed`] without random numbers.
    pub fn generate_ecdsa_p256() -> Result<Self, KeyError> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| KeyError::Failed)?;
        Ok(Self::EcdsaP256(key))
    }

    /// Returns the name of the algorithm.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => ED25519_NAME,
            Self::EcdsaP256(_) => ECDSA_P256_NAME,
        }
    }

    /// Returns the public half as SSH writes it.
    #[must_use]
    pub fn public(&self) -> Vec<u8> {
        let key = Message::default().string(self.algorithm());
        match self {
            Self::Ed25519(pair) => key.string(pair.public_key()),
            Self::EcdsaP256(pair) => key.string(P256).string(pair.public_key()),
        }
        .into_bytes()
    }

    /// Returns the public half as a line of `authorized_keys`.
    #[must_use]
    pub fn public_line(&self) -> String {
        format!("{} {}", self.algorithm(), STANDARD.encode(self.public()))
    }

    /// Signs a text. Returns the signature as SSH writes it.
    ///
    /// # Errors
    /// [`KeyError::Failed`] without random numbers.
    pub fn sign(&self, text: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = match self {
            Self::Ed25519(pair) => pair.sign(text).as_ref().to_vec(),
            Self::EcdsaP256(pair) => {
                let numbers = pair.sign(&SystemRandom::new(), text).map_err(|_| KeyError::Failed)?;
                let (r, s) = numbers.as_ref().split_at_checked(P256_NUMBER_LEN).ok_or(KeyError::Failed)?;
                Message::default().mpint(r).mpint(s).into_bytes()
            }
        };
        Ok(Message::default().string(self.algorithm()).string(signature).into_bytes())
    }
}
