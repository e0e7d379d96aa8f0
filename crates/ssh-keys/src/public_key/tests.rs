//! Tests of users' public keys. The constants were made by `ssh-keygen` of OpenSSH 9.2, which also says their fingerprints.

use super::*;
use crate::wire::Message;

const ED25519: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINzDTkJ/Qj8U6p6Vt76Q8GWs+YJVqzBcInAJ6CcLfDb9 ada@laptop";
const P256: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBK+b++SZ8sLERSIeb59kvOi9IYAQ0PM2hLglVLa0fq0uWWgjNO4iGW/SY7fpUBowY+cci0o7u65XhPDVZwOVRWU= ada@laptop";
const P384: &str = "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBEbvoC2Jt1ZS8EK0qRCG3WQvOGxwWa822m7SMwSrNqY1GJMCqLjFDF77RxPl2mCXLCyUHoGdO+NPz0xoVHAp+uAWcWvnfaQG96ZursUG8nqnv0gUwSzJd5ZX/E5wKVYhkQ== ada@laptop";
const P521: &str = "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBACEcgjZbSnkEOn2s7oPi4zLvPgp9PAoEQAovxrw7fm5I8ps6nLXwRc+AaOCALf9x/HRA6Kb9faOsZb5S7KyFABHawFeQFDNzwAWwouKRG4LNB/bA5deAOvxWvvwcDGuuN0e2aTBjKiayTX8G2Kr92FDYkFOFNxUiTMDe6hovIx1yvLszA== ada@laptop";
const RSA_3072: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC6HOAesFl+zl1AFmR2Ug7F0mQcBwfGHdw4GZXeqGPPKPTBKvZf7iNEu8iQR+ZTO25Y55t8JFODxHe2alS1kOqKv2L6B8lOtpYzVOyneNcofW86SHWEJLloTlaGI4B4wAaPElwxrqqsEvs8+tbcJs6bSdTPd5Cgn6PNHn/neid0TW01PSraJDOQqdK8hQGkvii+MRT82ob6NW2mZRQTOqv4UpBRFvprgiKHGHcwKOZc/46y+v/IxKjiuV+Y/TLjGndzC6czHtdU9ZoNCLX4mYUpCLxMaG4w7299sI5AVXxJ5iHa4w/aox2ACRwAhpX7CdHL9svKokWcwz7l2coQGCvAJOiTgF31onhBxNbPcsHNYMI6nHYj4CB+DggDMeYYNSbdAHpA1LAeM+W29cWxqNN31GVfj1XGVGF2cQxwuaCRT+AllDFLKLPhbjJaQDMyt5c8/LkS8VLM5+kxKWFRbTCbhrWuLRsWefklALoO0Itm2810glvIXcbDlm+M8QVzihE= ada@laptop";
const DSA: &str = "ssh-dss AAAAB3NzaC1kc3MAAACBAP39WXwojGbwR97gtOJLH2tKO0dgvFYWHcVbXGLqs1tlZdbMrHSBWLH1n1kM0XwRjEE= ada@laptop";

const WHOLE: [(&str, &str); 5] = [
    (ED25519, "SHA256:go3jWLSBmN4Fca2JeN0zUEpypcaRI23AMk8b9zA449I"),
    (P256, "SHA256:5lDFPDRwvjqpKVqkrgaRdFe57avfNUFccvJX9bMG74I"),
    (P384, "SHA256:uQNplIiA79TaWAftYfYY+hBTkfjnDhawFYvXLSflWeY"),
    (P521, "SHA256:1+2Rmme/gAXW25PZDISYPbLJ/ER4OrL+AFeNKm422kY"),
    (RSA_3072, "SHA256:TKdODwrWbg2oppJj2hjb7JUsSOV/Fiy1d57EwxJ5Utc"),
];

/// Returns the line of a key.
fn line(name: &str, blob: &[u8]) -> String {
    format!("{name} {}", STANDARD.encode(blob))
}

fn refusal(text: &str) -> PublicKeyError {
    PublicKey::parse(text).unwrap_err()
}

/// Returns the line of an RSA key with these numbers.
fn rsa(exponent: &[u8], modulus: &[u8]) -> String {
    line("ssh-rsa", &Message::default().string("ssh-rsa").mpint(exponent).mpint(modulus).into_bytes())
}

/// Returns an odd number of a length in bits.
fn odd(bits: usize) -> Vec<u8> {
    let mut number = vec![0xff; bits.div_ceil(8)];
    number[0] >>= number.len() * 8 - bits;
    number
}

/// Returns the line of a key in a hardware token, made of a key that is not.
fn in_token(text: &str, application: &str) -> String {
    let key = PublicKey::parse(text).unwrap();
    let name = format!("sk-{}@openssh.com", key.algorithm());
    let numbers = &key.blob()[4 + key.algorithm().len()..];
    line(&name, &Message::default().string(&name).bytes(numbers).string(application).into_bytes())
}

#[test]
fn fingerprint_is_that_of_ssh_keygen_and_the_line_stays_as_it_was() {
    for (text, fingerprint) in WHOLE {
        let key = PublicKey::parse(text).unwrap();
        assert_eq!((key.line(), key.fingerprint()), (text.to_owned(), fingerprint.to_owned()));
        assert_eq!((key.comment(), key.no_touch_required()), ("ada@laptop", false));
        assert!(text.starts_with(&format!("{} ", key.algorithm())));
    }
}

#[test]
fn blanks_around_the_parts_do_not_matter() {
    let wanted = PublicKey::parse(ED25519).unwrap();
    let [name, encoded, _] = ED25519.split(' ').collect::<Vec<_>>()[..] else { panic!() };
    for text in [format!("  {ED25519}\r\n\n"), format!("{name}\t{encoded} \t ada@laptop  ")] {
        assert_eq!(PublicKey::parse(&text).unwrap(), wanted);
    }
    let bare = PublicKey::parse(&format!("{name} {encoded}")).unwrap();
    assert_eq!((bare.comment(), bare.line()), ("", format!("{name} {encoded}")));
    let long = PublicKey::parse(&format!("{name} {encoded} Ada's  key, 2nd")).unwrap();
    assert_eq!(long.comment(), "Ada's  key, 2nd");
}

#[test]
fn keys_of_hardware_tokens_may_do_without_a_touch() {
    for text in [ED25519, P256] {
        let token = in_token(text, "ssh:");
        assert!(!PublicKey::parse(&token).unwrap().no_touch_required());
        let key = PublicKey::parse(&format!("no-touch-required {token}")).unwrap();
        assert!(key.no_touch_required());
        assert_eq!(key.line(), token, "the option is not part of the line");
        assert_eq!(refusal(&in_token(text, "")), PublicKeyError::Damaged);
        assert_eq!(refusal(&format!("no-touch-required {text}")), PublicKeyError::TouchOption);
    }
}

#[test]
fn options_certificates_and_other_types_are_refused() {
    let [_, encoded, _] = ED25519.split(' ').collect::<Vec<_>>()[..] else { panic!() };
    let token = in_token(ED25519, "ssh:");
    for (text, reason) in [
        (format!("no-pty {ED25519}"), PublicKeyError::Options),
        (format!("command=\"echo hi\" {ED25519}"), PublicKeyError::Options),
        (format!("no-touch-required,no-pty {token}"), PublicKeyError::Options),
        (format!("no-touch-required no-pty {token}"), PublicKeyError::Options),
        (format!("verify-required {token}"), PublicKeyError::Options),
        (format!("host.example {ED25519}"), PublicKeyError::Options),
        (format!("ssh-ed25519-cert-v01@openssh.com {encoded}"), PublicKeyError::Certificate),
        (format!("ssh-ed448 {encoded}"), PublicKeyError::UnknownType),
        (format!("rsa-sha2-256 {encoded}"), PublicKeyError::UnknownType),
        (encoded.to_owned(), PublicKeyError::NoKey),
        ("web".to_owned(), PublicKeyError::NoKey),
        (String::new(), PublicKeyError::NoKey),
        ("no-touch-required".to_owned(), PublicKeyError::NoKey),
        (format!("{ED25519}\n{P256}"), PublicKeyError::SeveralLines),
        (format!("# mine\n{ED25519}"), PublicKeyError::SeveralLines),
        ("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA".to_owned(), PublicKeyError::OtherFormat),
        ("-----BEGIN PUBLIC KEY-----\nAAAA".to_owned(), PublicKeyError::OtherFormat),
    ] {
        assert_eq!(refusal(&text), reason, "{text}");
    }
}

#[test]
fn private_key_is_recognized_and_never_quoted() {
    let secret = "c2VjcmV0c2VjcmV0";
    for text in [
        format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{secret}\n-----END OPENSSH PRIVATE KEY-----\n"),
        format!("-----BEGIN RSA PRIVATE KEY-----\n{secret}\n"),
        format!("PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\n{secret}\n"),
        format!("b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAA{secret}"),
    ] {
        assert_eq!(refusal(&text), PublicKeyError::PrivateKey);
    }
    for text in [secret.to_owned(), format!("{secret} {secret}"), format!("ssh-ed25519 {secret}!")] {
        assert!(!refusal(&text).to_string().contains(secret));
    }
}

#[test]
fn weak_keys_are_told_from_damaged_ones() {
    assert_eq!(refusal(DSA), PublicKeyError::Dsa);
    for bits in [1_024, 2_048, 3_071] {
        let error = refusal(&rsa(&[1, 0, 1], &odd(bits)));
        assert_eq!(error, PublicKeyError::ShortRsa { bits, min: 3_072 });
        assert!(error.is_weakness() && error.to_string().contains(&bits.to_string()), "{error}");
    }
    assert!(PublicKeyError::Dsa.is_weakness() && !PublicKeyError::UnusableRsa.is_weakness());
    for bits in [3_072, 4_096, 8_192] {
        assert!(PublicKey::parse(&rsa(&[1, 0, 1], &odd(bits))).is_ok(), "{bits}");
    }
    assert_eq!(refusal(&rsa(&[1, 0, 1], &odd(8_193))), PublicKeyError::LongRsa { bits: 8_193, max: 8_192 });
}

#[test]
fn unusable_rsa_numbers_are_refused() {
    let mut even = odd(3_072);
    *even.last_mut().unwrap() = 0xfe;
    for (exponent, modulus) in
        [(&[1, 0, 1][..], &even), (&[1], &odd(3_072)), (&[4], &odd(3_072)), (&odd(34), &odd(3_072))]
    {
        assert_eq!(refusal(&rsa(exponent, modulus)), PublicKeyError::UnusableRsa);
    }
    assert!(PublicKey::parse(&rsa(&[3], &odd(3_072))).is_ok());
    // Zeros in front, and a number that is negative: the same key would have another fingerprint.
    let with = |number: &[u8]| {
        let blob = Message::default().string("ssh-rsa").mpint(&[3]).string(number).into_bytes();
        refusal(&line("ssh-rsa", &blob))
    };
    for number in
        [[&[0, 0][..], &odd(3_072)].concat(), odd(3_072), [&[0, 1][..], &odd(3_072)].concat(), vec![]]
    {
        assert_eq!(with(&number), PublicKeyError::Damaged);
    }
}

#[test]
fn point_beside_its_curve_is_refused() {
    for text in [P256, P384, P521] {
        let key = PublicKey::parse(text).unwrap();
        let mut blob = key.blob().to_vec();
        *blob.last_mut().unwrap() ^= 1;
        assert_eq!(refusal(&line(key.algorithm(), &blob)), PublicKeyError::NotOnCurve);
    }
}

#[test]
fn key_is_whole_and_of_the_type_that_its_line_names() {
    for (text, _) in WHOLE.into_iter().chain([(in_token(P256, "ssh:").as_str(), "")]) {
        let key = PublicKey::parse(text).unwrap();
        let (name, blob) = (key.algorithm(), key.blob());
        for len in 0..blob.len() {
            assert_eq!(refusal(&line(name, &blob[..len])), PublicKeyError::Damaged, "{name} cut to {len}");
        }
        let longer = [blob, b"\0"].concat();
        assert_eq!(refusal(&line(name, &longer)), PublicKeyError::TrailingBytes);
        let other = if name == "ssh-rsa" { "ssh-ed25519" } else { "ssh-rsa" };
        assert_eq!(refusal(&line(other, blob)), PublicKeyError::OtherType { line: other, key: name });
    }
    assert_eq!(refusal("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA*"), PublicKeyError::Base64);
    assert_eq!(refusal("ssh-ed25519"), PublicKeyError::Damaged);
    let dsa = Message::default().string("ssh-dss").into_bytes();
    assert_eq!(refusal(&line("ssh-rsa", &dsa)), PublicKeyError::Dsa);
}

#[test]
fn length_is_bounded() {
    assert_eq!(refusal(&"x".repeat(MAX_KEY_LINE_LEN + 1)), PublicKeyError::TooLong);
    let with =
        |comment: &str| PublicKey::parse(&format!("{} {comment}", ED25519.trim_end_matches(" ada@laptop")));
    assert!(with(&"ä".repeat(MAX_COMMENT_LEN / 2)).is_ok());
    let invalid = PublicKeyError::Comment { max: MAX_COMMENT_LEN };
    for comment in ["x".repeat(MAX_COMMENT_LEN + 1), "a\u{1b}[2Jb".to_owned(), "a\0b".to_owned()] {
        assert_eq!(with(&comment), Err(invalid));
    }
}
