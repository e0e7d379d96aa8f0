//! Types of users' public keys, and the checks of a key as SSH writes it (RFC 4253, 5656 and 8709; OpenSSH's PROTOCOL.u2f).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    ParsedPublicKey,
};

use super::error::PublicKeyError;
use crate::wire::{Fields, Malformed};

/// Minimum length of an RSA key in bits.
const MIN_RSA_BITS: usize = 3072;
/// Maximum length of an RSA key in bits. Signatures of longer ones cannot be verified (aws-lc-rs), so they would never log in.
const MAX_RSA_BITS: usize = 8192;
/// Maximum length of an RSA exponent in bits, for the same reason.
const MAX_EXPONENT_BITS: usize = 33;
const ED25519_LEN: usize = 32;
/// First byte of a point that is not compressed, which is the only form that SSH uses.
const UNCOMPRESSED: u8 = 4;

/// Type of a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Ed25519,
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    Rsa,
    /// Ed25519 in a hardware token.
    SkEd25519,
    /// ECDSA in a hardware token.
    SkEcdsaP256,
}

impl Algorithm {
    const ALL: [Self; 7] = [
        Self::Ed25519,
        Self::EcdsaP256,
        Self::EcdsaP384,
        Self::EcdsaP521,
        Self::Rsa,
        Self::SkEd25519,
        Self::SkEcdsaP256,
    ];

    /// Returns the type of a name.
    pub(super) fn of(name: &str) -> Result<Self, PublicKeyError> {
        match Self::ALL.into_iter().find(|algorithm| algorithm.name() == name) {
            Some(algorithm) => Ok(algorithm),
            None if name == "ssh-dss" => Err(PublicKeyError::Dsa),
            None if name.ends_with("-cert-v01@openssh.com") => Err(PublicKeyError::Certificate),
            None => Err(PublicKeyError::UnknownType),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384",
            Self::EcdsaP521 => "ecdsa-sha2-nistp521",
            Self::Rsa => "ssh-rsa",
            Self::SkEd25519 => "sk-ssh-ed25519@openssh.com",
            Self::SkEcdsaP256 => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    pub(super) fn is_of_hardware_token(self) -> bool {
        matches!(self, Self::SkEd25519 | Self::SkEcdsaP256)
    }

    /// Checks that a key is of this type, whole, and strong enough.
    pub(super) fn check(self, blob: &[u8]) -> Result<(), PublicKeyError> {
        let mut fields = Fields::new(blob);
        self.check_name(fields.text()?)?;
        match self {
            Self::Ed25519 => ed25519(&mut fields)?,
            Self::EcdsaP256 => ecdsa(&mut fields, "nistp256", 32, &ECDSA_P256_SHA256_FIXED)?,
            Self::EcdsaP384 => ecdsa(&mut fields, "nistp384", 48, &ECDSA_P384_SHA384_FIXED)?,
            Self::EcdsaP521 => ecdsa(&mut fields, "nistp521", 66, &ECDSA_P521_SHA512_FIXED)?,
            Self::Rsa => rsa(&mut fields)?,
            Self::SkEd25519 => {
                ed25519(&mut fields)?;
                application(&mut fields)?;
            }
            Self::SkEcdsaP256 => {
                ecdsa(&mut fields, "nistp256", 32, &ECDSA_P256_SHA256_FIXED)?;
                application(&mut fields)?;
            }
        }
        fields.end().map_err(|_| PublicKeyError::TrailingBytes)
    }

    fn check_name(self, name: &str) -> Result<(), PublicKeyError> {
        match Self::of(name) {
            Ok(key) if key == self => Ok(()),
            Ok(key) => Err(PublicKeyError::OtherType { line: self.name(), key: key.name() }),
            Err(PublicKeyError::UnknownType) => Err(PublicKeyError::Damaged),
            Err(other) => Err(other),
        }
    }
}

impl From<Malformed> for PublicKeyError {
    fn from(_: Malformed) -> Self {
        Self::Damaged
    }
}

fn ed25519(fields: &mut Fields<'_>) -> Result<(), PublicKeyError> {
    if fields.string()?.len() == ED25519_LEN { Ok(()) } else { Err(PublicKeyError::Damaged) }
}

fn ecdsa(
    fields: &mut Fields<'_>,
    curve: &str,
    coordinate_len: usize,
    verification: &'static EcdsaVerificationAlgorithm,
) -> Result<(), PublicKeyError> {
    let (name, point) = (fields.text()?, fields.string()?);
    if name != curve || point.len() != 1 + 2 * coordinate_len || point.first() != Some(&UNCOMPRESSED) {
        return Err(PublicKeyError::Damaged);
    }
    ParsedPublicKey::new(verification, point).map(drop).map_err(|_| PublicKeyError::NotOnCurve)
}

/// Reads what the token signs for, which is `ssh:` or begins with it unless the owner chose another name.
fn application(fields: &mut Fields<'_>) -> Result<(), PublicKeyError> {
    if fields.text()?.is_empty() { Err(PublicKeyError::Damaged) } else { Ok(()) }
}

fn rsa(fields: &mut Fields<'_>) -> Result<(), PublicKeyError> {
    let (exponent, modulus) = (positive(fields.string()?)?, positive(fields.string()?)?);
    let bits = bits_of(modulus);
    if bits < MIN_RSA_BITS {
        return Err(PublicKeyError::ShortRsa { bits, min: MIN_RSA_BITS });
    }
    if bits > MAX_RSA_BITS {
        return Err(PublicKeyError::LongRsa { bits, max: MAX_RSA_BITS });
    }
    let is_odd = |digits: &[u8]| digits.last().is_some_and(|last| last % 2 == 1);
    let is_usable =
        is_odd(modulus) && is_odd(exponent) && (2..=MAX_EXPONENT_BITS).contains(&bits_of(exponent));
    if is_usable { Ok(()) } else { Err(PublicKeyError::UnusableRsa) }
}

/// Returns the digits of a positive number that is written in the one right way, so that a key has one fingerprint.
fn positive(mpint: &[u8]) -> Result<&[u8], PublicKeyError> {
    match mpint {
        [0, rest @ ..] if rest.first().is_some_and(|first| *first >= 0x80) => Ok(rest),
        [1..0x80, ..] => Ok(mpint),
        _ => Err(PublicKeyError::Damaged),
    }
}

/// Returns the length of a number without leading zeros.
fn bits_of(digits: &[u8]) -> usize {
    let zeros = digits.first().map_or(0, |first| first.leading_zeros() as usize);
    8 * digits.len() - zeros
}
