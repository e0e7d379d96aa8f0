//! Signatures as SSH writes them, verified: Ed25519 (RFC 8709), ECDSA (RFC 5656), RSA with SHA-2 (RFC 8332), and those of security keys
//! (OpenSSH's PROTOCOL.u2f).

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    EcdsaVerificationAlgorithm, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey,
};

use crate::KeyError;
use crate::wire::Fields;

/// Algorithm of Ed25519 keys.
pub const ED25519_NAME: &str = "ssh-ed25519";
/// Algorithm of ECDSA keys on P-256.
pub const ECDSA_P256_NAME: &str = "ecdsa-sha2-nistp256";
/// Type of RSA keys.
pub const RSA_NAME: &str = "ssh-rsa";
/// Algorithm of Ed25519 keys in a security key.
pub const SK_ED25519_NAME: &str = "sk-ssh-ed25519@openssh.com";
/// Algorithm of ECDSA keys in a security key.
pub const SK_ECDSA_NAME: &str = "sk-ecdsa-sha2-nistp256@openssh.com";
/// Algorithms of the signatures that are verified.
pub const ALGORITHMS: [&str; 8] = [
    ED25519_NAME,
    SK_ED25519_NAME,
    ECDSA_P256_NAME,
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    SK_ECDSA_NAME,
    "rsa-sha2-512",
    "rsa-sha2-256",
];
/// Flag of a security key's signature: somebody has touched it.
const USER_PRESENT: u8 = 1;

/// Verified signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// Of a key whose private half is on a computer.
    Software,
    /// Of a security key.
    SecurityKey {
        /// True if somebody has touched the security key for it.
        user_present: bool,
    },
}

/// Curve of an ECDSA key.
struct Curve {
    algorithm: &'static str,
    name: &'static str,
    number_len: usize,
    verification: &'static EcdsaVerificationAlgorithm,
}

const CURVES: [Curve; 3] = [
    Curve {
        algorithm: ECDSA_P256_NAME,
        name: "nistp256",
        number_len: 32,
        verification: &ECDSA_P256_SHA256_FIXED,
    },
    Curve {
        algorithm: "ecdsa-sha2-nistp384",
        name: "nistp384",
        number_len: 48,
        verification: &ECDSA_P384_SHA384_FIXED,
    },
    Curve {
        algorithm: "ecdsa-sha2-nistp521",
        name: "nistp521",
        number_len: 66,
        verification: &ECDSA_P521_SHA512_FIXED,
    },
];

/// Verifies a signature of a text. Key and signature are as SSH writes them, and `algorithm` is that of the signature.
///
/// # Errors
/// [`KeyError`], by what is wrong.
pub fn verify(public: &[u8], algorithm: &str, text: &[u8], signature: &[u8]) -> Result<Verified, KeyError> {
    let (mut public, mut signature) = (Fields::new(public), Fields::new(signature));
    let (key_type, signed_by) = (public.text()?, signature.text()?);
    if signed_by != algorithm || key_type != key_type_of(algorithm) {
        return Err(KeyError::Damaged);
    }
    let signed = signature.string()?;
    match algorithm {
        ED25519_NAME => {
            let point = public.string()?;
            public.end()?;
            signature.end()?;
            ed25519(point, text, signed)?;
        }
        SK_ED25519_NAME => {
            let (point, application) = (public.string()?, public.string()?);
            public.end()?;
            let device = DeviceData::read(signature)?;
            ed25519(point, &device.signed_text(application, text), signed)?;
            return Ok(device.verified());
        }
        SK_ECDSA_NAME => {
            let (curve, point, application) = (public.text()?, public.string()?, public.string()?);
            public.end()?;
            let device = DeviceData::read(signature)?;
            let own = curve_where(|known| known.algorithm == ECDSA_P256_NAME)?;
            ecdsa(own, curve, point, &device.signed_text(application, text), signed)?;
            return Ok(device.verified());
        }
        "rsa-sha2-256" | "rsa-sha2-512" => {
            let (exponent, modulus) = (number(public.string()?)?, number(public.string()?)?);
            public.end()?;
            signature.end()?;
            let parameters: &RsaParameters = if algorithm == "rsa-sha2-256" {
                &RSA_PKCS1_2048_8192_SHA256
            } else {
                &RSA_PKCS1_2048_8192_SHA512
            };
            let key = RsaPublicKeyComponents { n: modulus, e: exponent };
            key.verify(parameters, text, signed).map_err(|_| KeyError::WrongSignature)?;
        }
        _ => {
            let own = curve_where(|known| known.algorithm == algorithm)?;
            let (curve, point) = (public.text()?, public.string()?);
            public.end()?;
            signature.end()?;
            ecdsa(own, curve, point, text, signed)?;
        }
    }
    Ok(Verified::Software)
}

/// Returns the type of the keys that make signatures by an algorithm.
fn key_type_of(algorithm: &str) -> &str {
    match algorithm {
        "rsa-sha2-256" | "rsa-sha2-512" => RSA_NAME,
        // Signatures with SHA-1 are not taken.
        RSA_NAME => "",
        other => other,
    }
}

fn curve_where(is_it: impl Fn(&Curve) -> bool) -> Result<&'static Curve, KeyError> {
    CURVES.iter().find(|curve| is_it(curve)).ok_or(KeyError::Unsupported)
}

fn ed25519(point: &[u8], text: &[u8], signed: &[u8]) -> Result<(), KeyError> {
    UnparsedPublicKey::new(&ED25519, point).verify(text, signed).map_err(|_| KeyError::WrongSignature)
}

fn ecdsa(own: &Curve, curve: &str, point: &[u8], text: &[u8], signed: &[u8]) -> Result<(), KeyError> {
    // Uncompressed points only, as SSH has them.
    if curve != own.name || point.len() != 1 + 2 * own.number_len {
        return Err(KeyError::Damaged);
    }
    let mut numbers = Fields::new(signed);
    let fixed =
        [fixed(numbers.string()?, own.number_len)?, fixed(numbers.string()?, own.number_len)?].concat();
    numbers.end()?;
    let key = UnparsedPublicKey::new(own.verification, point);
    key.verify(text, &fixed).map_err(|_| KeyError::WrongSignature)
}

/// Returns the digits of a positive number.
fn number(mpint: &[u8]) -> Result<&[u8], KeyError> {
    let digits = mpint.strip_prefix(&[0]).unwrap_or(mpint);
    if digits.first().is_none_or(|first| *first == 0) { Err(KeyError::Damaged) } else { Ok(digits) }
}

/// Returns a positive number with leading zeros.
fn fixed(mpint: &[u8], len: usize) -> Result<Vec<u8>, KeyError> {
    let digits = mpint.strip_prefix(&[0]).unwrap_or(mpint);
    let zeros = len.checked_sub(digits.len()).ok_or(KeyError::Damaged)?;
    let mut number = vec![0; zeros];
    number.extend_from_slice(digits);
    Ok(number)
}

/// Part of a security key's signature that the device has chosen.
struct DeviceData {
    flags: u8,
    counter: u32,
}

impl DeviceData {
    /// Reads it from the end of a signature.
    fn read(mut signature: Fields<'_>) -> Result<Self, KeyError> {
        let flags = signature.bytes(1)?.first().copied().ok_or(KeyError::Damaged)?;
        let counter = signature.uint32()?;
        signature.end()?;
        Ok(Self { flags, counter })
    }

    fn signed_text(&self, application: &[u8], text: &[u8]) -> Vec<u8> {
        let (application, text) = (digest(&SHA256, application), digest(&SHA256, text));
        [application.as_ref(), &[self.flags], &self.counter.to_be_bytes(), text.as_ref()].concat()
    }

    fn verified(&self) -> Verified {
        Verified::SecurityKey { user_present: self.flags & USER_PRESENT != 0 }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;
    use crate::private_key::PrivateKey;
    use crate::wire::Message;

    #[test]
    fn signatures_are_of_one_key_and_one_text() {
        let keys = [PrivateKey::ed25519(&[7; 32]).unwrap(), PrivateKey::generate_ecdsa_p256().unwrap()];
        for key in &keys {
            // ECDSA's numbers are shorter now and then.
            for number in 0..64_u8 {
                let (text, public) = ([number; 40], key.public());
                let signature = key.sign(&text).unwrap();
                assert_eq!(verify(&public, key.algorithm(), &text, &signature), Ok(Verified::Software));
                let other = verify(&public, key.algorithm(), b"other", &signature);
                assert_eq!(other, Err(KeyError::WrongSignature));
            }
        }
        let signature = keys[0].sign(b"text").unwrap();
        let other = PrivateKey::ed25519(&[8; 32]).unwrap().public();
        assert_eq!(verify(&other, ED25519_NAME, b"text", &signature), Err(KeyError::WrongSignature));
        assert_eq!(verify(&keys[1].public(), ED25519_NAME, b"text", &signature), Err(KeyError::Damaged));
    }

    #[test]
    fn security_key_tells_if_it_was_touched() {
        let device = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
        let public = Message::default().string(SK_ED25519_NAME).string(device.public_key()).string("ssh:");
        let public = public.into_bytes();
        let signature = |flags: u8, claimed: u8| {
            let data = DeviceData { flags, counter: 3 };
            let signed = device.sign(&data.signed_text(b"ssh:", b"text"));
            let signature = Message::default().string(SK_ED25519_NAME).string(signed.as_ref());
            signature.bytes(&[claimed]).uint32(3).into_bytes()
        };
        let verify = |flags, claimed| verify(&public, SK_ED25519_NAME, b"text", &signature(flags, claimed));
        assert_eq!(verify(1, 1), Ok(Verified::SecurityKey { user_present: true }));
        assert_eq!(verify(4, 4), Ok(Verified::SecurityKey { user_present: false }));
        assert_eq!(verify(0, 1), Err(KeyError::WrongSignature), "the flag is signed");
    }

    #[test]
    fn signatures_with_sha_1_are_not_taken() {
        let key = Message::default().string(RSA_NAME).string([3]).string([9; 384]).into_bytes();
        let signature = Message::default().string(RSA_NAME).string([1; 384]).into_bytes();
        assert_eq!(verify(&key, RSA_NAME, b"text", &signature), Err(KeyError::Damaged));
    }
}
