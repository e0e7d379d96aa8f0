//! Keys that sign a transport's key exchange, and those that log in to a VM: generated, written as SSH writes them, and verified.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    UnparsedPublicKey,
};

use crate::wire::{Fields, Malformed, Message};

pub(crate) const ED25519_NAME: &str = "ssh-ed25519";
pub(crate) const ECDSA_P256_NAME: &str = "ecdsa-sha2-nistp256";
const P256: &str = "nistp256";
/// Length of an uncompressed point on the curve P-256.
const P256_POINT_LEN: usize = 65;
const P256_NUMBER_LEN: usize = 32;

/// Failure with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key cannot be read.
    #[error("the key is damaged")]
    Damaged,
    /// The signature is not of this key, or not of this text.
    #[error("the signature is wrong")]
    WrongSignature,
    /// The algorithm is not one of ours.
    #[error("the key's algorithm is not supported")]
    Unsupported,
    /// No random numbers.
    #[error("no key or signature could be made")]
    Failed,
}

impl From<Malformed> for KeyError {
    fn from(_: Malformed) -> Self {
        Self::Damaged
    }
}

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

/// Verifies a signature as SSH writes it.
///
/// # Errors
/// [`KeyError`], by what is wrong.
pub fn verify(public: &[u8], algorithm: &str, text: &[u8], signature: &[u8]) -> Result<(), KeyError> {
    let (mut public, mut signature) = (Fields::new(public), Fields::new(signature));
    if public.text()? != algorithm || signature.text()? != algorithm {
        return Err(KeyError::Damaged);
    }
    let signed = signature.string()?;
    signature.end()?;
    let wrong = |_| KeyError::WrongSignature;
    match algorithm {
        ED25519_NAME => {
            let point = public.string()?;
            public.end()?;
            UnparsedPublicKey::new(&ED25519, point).verify(text, signed).map_err(wrong)
        }
        ECDSA_P256_NAME => {
            let (curve, point) = (public.text()?, public.string()?);
            public.end()?;
            if curve != P256 || point.len() != P256_POINT_LEN {
                return Err(KeyError::Damaged);
            }
            let mut numbers = Fields::new(signed);
            let fixed = [fixed(numbers.string()?)?, fixed(numbers.string()?)?].concat();
            numbers.end()?;
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(text, &fixed).map_err(wrong)
        }
        _ => Err(KeyError::Unsupported),
    }
}

/// Returns a positive number with leading zeros.
fn fixed(mpint: &[u8]) -> Result<[u8; P256_NUMBER_LEN], KeyError> {
    let digits = mpint.strip_prefix(&[0]).unwrap_or(mpint);
    let zeros = P256_NUMBER_LEN.checked_sub(digits.len()).ok_or(KeyError::Damaged)?;
    let mut number = [0; P256_NUMBER_LEN];
    number.get_mut(zeros..).ok_or(KeyError::Damaged)?.copy_from_slice(digits);
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_of_one_key_and_one_text() {
        let keys = [PrivateKey::ed25519(&[7; 32]).unwrap(), PrivateKey::generate_ecdsa_p256().unwrap()];
        for key in &keys {
            // ECDSA's numbers are shorter now and then.
            for number in 0..64_u8 {
                let (text, public) = ([number; 40], key.public());
                let signature = key.sign(&text).unwrap();
                assert_eq!(verify(&public, key.algorithm(), &text, &signature), Ok(()));
                let other = verify(&public, key.algorithm(), b"other", &signature);
                assert_eq!(other, Err(KeyError::WrongSignature));
            }
        }
        let signature = keys[0].sign(b"text").unwrap();
        let other = PrivateKey::ed25519(&[8; 32]).unwrap().public();
        assert_eq!(verify(&other, ED25519_NAME, b"text", &signature), Err(KeyError::WrongSignature));
        assert_eq!(verify(&keys[1].public(), ED25519_NAME, b"text", &signature), Err(KeyError::Damaged));
    }
}
