//! Search for a credential in an answer while it passes. A host that repeats what it was sent does not tell a workspace its credential.

use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

/// Searcher of one answer. What may be the beginning of the credential is held back until the next piece tells (Knuth, Morris, Pratt:
/// "Fast Pattern Matching in Strings", 1977).
pub(crate) struct EchoSearch {
    secret: Zeroizing<Vec<u8>>,
    /// For each length of a beginning, the length of the longest shorter one that it ends with.
    fallbacks: Vec<usize>,
    /// Length of the beginning that is held back.
    held: usize,
}

/// The answer has the credential in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Echoed;

impl EchoSearch {
    /// Begins a search for what is not empty.
    pub(crate) fn new(secret: &str) -> Self {
        let secret = Zeroizing::new(secret.as_bytes().to_vec());
        let mut search = Self { fallbacks: vec![0; secret.len()], secret, held: 0 };
        for length in 1..search.secret.len() {
            let byte = search.secret.get(length).copied().unwrap_or_default();
            search.held = search.next(byte);
            if let Some(fallback) = search.fallbacks.get_mut(length) {
                *fallback = search.held;
            }
        }
        search.held = 0;
        search
    }

    /// Returns the length of the beginning that is matched after another byte.
    fn next(&self, byte: u8) -> usize {
        let mut length = self.held;
        loop {
            if self.secret.get(length) == Some(&byte) {
                return length + 1;
            }
            let Some(shorter) = length.checked_sub(1) else { return 0 };
            length = self.fallbacks.get(shorter).copied().unwrap_or(0);
        }
    }

    /// Takes the next piece, and returns what may pass.
    pub(crate) fn pass(&mut self, piece: Bytes) -> Result<Bytes, Echoed> {
        let before = self.held;
        for byte in &piece {
            self.held = self.next(*byte);
            if self.held == self.secret.len() {
                return Err(Echoed);
            }
        }
        if (before, self.held) == (0, 0) {
            return Ok(piece);
        }
        let mut passed = BytesMut::with_capacity(before + piece.len());
        passed.extend_from_slice(self.secret.get(..before).unwrap_or_default());
        passed.extend_from_slice(&piece);
        passed.truncate(passed.len().saturating_sub(self.held));
        Ok(passed.freeze())
    }

    /// Returns what was held back at the end of the answer.
    pub(crate) fn rest(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        Bytes::copy_from_slice(self.secret.get(..held).unwrap_or_default())
    }
}

/// Tells if a text has the credential in it.
pub(crate) fn is_in(secret: &str, text: &[u8]) -> bool {
    memchr::memmem::find(text, secret.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes pieces, and returns what came out, or `None` for an echo.
    fn pass(secret: &str, pieces: &[&[u8]]) -> Option<Vec<u8>> {
        let mut search = EchoSearch::new(secret);
        let mut passed = Vec::new();
        for piece in pieces {
            passed.extend(search.pass(Bytes::copy_from_slice(piece)).ok()?);
        }
        passed.extend(search.rest());
        Some(passed)
    }

    #[test]
    fn everything_but_the_credential_passes_unchanged() {
        bolero::check!().with_type::<(Vec<u8>, Vec<u8>, Vec<u8>)>().for_each(|(secret, text, cuts)| {
            // Few letters, so that beginnings repeat.
            let letters = |bytes: &[u8]| bytes.iter().map(|byte| b'a' + byte % 2).collect::<Vec<_>>();
            let secret = String::from_utf8(letters(secret)).unwrap();
            if secret.is_empty() {
                return;
            }
            let text = letters(text);
            let (mut pieces, mut rest) = (Vec::new(), text.as_slice());
            for cut in cuts {
                let (piece, after) = rest.split_at(usize::from(*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            let expected = (!is_in(&secret, &text)).then_some(text.clone());
            assert_eq!(pass(&secret, &pieces), expected);
        });
    }

    #[test]
    fn nothing_of_a_credential_passes_before_its_end_is_known() {
        let mut search = EchoSearch::new("secret-token");
        assert_eq!(search.pass(Bytes::from_static(b"is secret-")), Ok(Bytes::from_static(b"is ")));
        assert_eq!(search.pass(Bytes::from_static(b"tok")), Ok(Bytes::new()));
        assert_eq!(search.pass(Bytes::from_static(b"en!")), Err(Echoed));
        assert_eq!(pass("secret-token", &[b"secret-", b"toke", b"secret"]).unwrap(), b"secret-tokesecret");
    }
}
