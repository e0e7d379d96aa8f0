//! Search for a second, encrypted server name in a ClientHello (Encrypted Client Hello). The TLS library does not tell of it.

/// Extension with the encrypted ClientHello. Browsers also send it with random bytes, which look the same.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const RECORD_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;

/// Returns whether the ClientHello at the start of `bytes` has an encrypted server name. One that cannot be read counts as such.
pub(super) fn has_encrypted_name(bytes: &[u8]) -> bool {
    let extensions = join_records(bytes).and_then(|message| extensions(&message).map(<[u8]>::to_vec));
    let Some(extensions) = extensions else { return true };
    let mut rest = extensions.as_slice();
    while !rest.is_empty() {
        match (take_number(&mut rest, 2), take_vector(&mut rest, 2)) {
            (Some(kind), Some(_)) if kind != usize::from(ENCRYPTED_CLIENT_HELLO) => {}
            _ => return true,
        }
    }
    false
}

/// Returns the first handshake message, which may come in several records.
fn join_records(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let mut start = message.as_slice();
        if let (Some(_), Some(length)) = (take(&mut start, 1), take_number(&mut start, 3))
            && start.len() >= length
        {
            return Some(message);
        }
        if *take(&mut bytes, 1)? != [RECORD_HANDSHAKE] {
            return None;
        }
        take(&mut bytes, 2)?;
        message.extend(take_vector(&mut bytes, 2)?);
    }
}

/// Returns the extensions of a ClientHello.
fn extensions(mut message: &[u8]) -> Option<&[u8]> {
    if *take(&mut message, 1)? != [HANDSHAKE_CLIENT_HELLO] {
        return None;
    }
    let mut body = take_vector(&mut message, 3)?;
    // Version and random bytes.
    take(&mut body, 2 + 32)?;
    let (_session, _ciphers, _compressions) =
        (take_vector(&mut body, 1)?, take_vector(&mut body, 2)?, take_vector(&mut body, 1)?);
    if body.is_empty() { Some(body) } else { take_vector(&mut body, 2) }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_number(bytes: &mut &[u8], length: usize) -> Option<usize> {
    Some(take(bytes, length)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

/// Takes a length, and as many bytes.
fn take_vector<'a>(bytes: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let length = take_number(bytes, length_bytes)?;
    take(bytes, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(length_bytes: usize, value: &[u8]) -> Vec<u8> {
        [&value.len().to_be_bytes()[8 - length_bytes..], value].concat()
    }

    /// Builds a ClientHello with extensions of these types, in records of `record` bytes.
    fn client_hello(extensions: &[u16], record: usize) -> Vec<u8> {
        let extensions: Vec<u8> =
            extensions.iter().flat_map(|kind| [&kind.to_be_bytes(), &*vector(2, b"abc")].concat()).collect();
        let body = [
            [3; 34].to_vec(),
            vector(1, &[7; 32]),
            vector(2, &[0x13, 1]),
            vector(1, &[0]),
            vector(2, &extensions),
        ];
        let message = [vec![1], vector(3, &body.concat())].concat();
        message.chunks(record).flat_map(|part| [&[22, 3, 1], &*vector(2, part)].concat()).collect()
    }

    #[test]
    fn encrypted_name_is_found_in_any_place_and_split() {
        for record in [1, 50, 10_000] {
            assert!(!has_encrypted_name(&client_hello(&[], record)));
            assert!(!has_encrypted_name(&client_hello(&[0, 16, 43, 51], record)));
            for extensions in [[0xfe0d, 0, 43], [0, 0xfe0d, 43], [0, 43, 0xfe0d]] {
                let hello = client_hello(&extensions, record);
                assert!(has_encrypted_name(&hello), "{extensions:?} in records of {record}");
                for end in 0..hello.len() {
                    assert!(has_encrypted_name(&hello[..end]), "cut at {end}");
                }
            }
        }
        assert!(has_encrypted_name(b"GET / HTTP/1.1\r\n\r\n") && has_encrypted_name(&[]));
    }
}
