//! Fuzz targets of what users register and what strangers sign.

use crate::public_key::PublicKey;
use crate::signature::verify;

#[test]
fn line_of_a_public_key() {
    bolero::check!(name = "line_of_a_public_key").for_each(|bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(key) = PublicKey::parse(&text) {
            let again = PublicKey::parse(&key.line()).unwrap();
            assert_eq!((again.blob(), again.fingerprint()), (key.blob(), key.fingerprint()));
        }
    });
}

#[test]
fn key_and_signature() {
    bolero::check!(name = "key_and_signature").with_type::<(Vec<u8>, Vec<u8>, u8)>().for_each(
        |(key, signature, algorithm)| {
            let algorithms = [
                "ssh-ed25519",
                "ecdsa-sha2-nistp256",
                "ecdsa-sha2-nistp521",
                "rsa-sha2-512",
                "sk-ssh-ed25519@openssh.com",
                "sk-ecdsa-sha2-nistp256@openssh.com",
            ];
            let algorithm = algorithms[usize::from(*algorithm) % algorithms.len()];
            assert!(verify(key, algorithm, b"text", signature).is_err(), "a signature was guessed");
        },
    );
}
