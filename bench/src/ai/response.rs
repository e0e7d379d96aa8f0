//! Parts of a message, and the end of a response on a kept-alive connection.

use anyhow::{Context, Result, ensure};

/// Tells if a response is whole. Anything but success is an error.
pub(super) fn is_whole(response: &[u8]) -> Result<bool> {
    let Some((head, body)) = split(response, b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(head)?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}\n{}", String::from_utf8_lossy(body));
    if let Some(length) = field(head, "content-length") {
        return Ok(body.len() >= length.parse()?);
    }
    field(head, "transfer-encoding").context("a response without a length")?;
    has_last_chunk(body)
}

fn has_last_chunk(mut chunks: &[u8]) -> Result<bool> {
    while let Some((size, rest)) = split(chunks, b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(size)?, 16)?;
        let Some(rest) = rest.get(size + 2..) else { return Ok(false) };
        if size == 0 {
            return Ok(true);
        }
        chunks = rest;
    }
    Ok(false)
}

/// Returns a field of a head.
pub(super) fn field<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case(wanted).then(|| value.trim())
    })
}

/// Splits at the first `mark`, which is in neither part.
pub(super) fn split<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(mark.len()).position(|window| window == mark)?;
    Some((bytes.get(..at)?, bytes.get(at + mark.len()..)?))
}

#[cfg(test)]
mod tests {
    use super::super::message;
    use super::*;

    #[test]
    fn response_is_whole_at_its_end_and_not_before() {
        for response in [message::document_response(), message::stream_response().concat()] {
            for length in 0..response.len() {
                assert!(!is_whole(&response[..length]).unwrap(), "{length} of {}", response.len());
            }
            assert!(is_whole(&response).unwrap());
        }
        assert!(is_whole(b"HTTP/1.1 429 Too Many Requests\r\n\r\n").is_err());
    }
}
