//! Search for a credential in an answer while it passes. A host that repeats what it was sent does not tell a workspace its credential.
//!
//! The end of a piece is held back until the next one comes, whatever the credential's text. Otherwise a workspace that chooses where a
//! piece ends, by what it has the host repeat, would see from the pieces or from their times whether it has guessed a beginning.

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use zeroize::Zeroizing;

/// Searcher of one answer.
pub(crate) struct EchoSearch {
    secret: Zeroizing<Vec<u8>>,
    /// End of what was passed to the search: visible characters, which are what credentials have. Shorter than the credential.
    held: Zeroizing<Vec<u8>>,
}

/// The answer has the credential in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Echoed;

impl EchoSearch {
    /// Begins a search for a credential, which has visible ASCII characters only.
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self { secret: Zeroizing::new(secret.to_vec()), held: Zeroizing::default() }
    }

    /// Returns the credential.
    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// Takes the next piece, and returns what may pass.
    pub(crate) fn pass(&mut self, piece: Bytes) -> Result<Bytes, Echoed> {
        let piece = if self.held.is_empty() {
            piece
        } else {
            let mut whole = BytesMut::with_capacity(self.held.len() + piece.len());
            whole.extend_from_slice(&self.held);
            whole.extend_from_slice(&piece);
            whole.freeze()
        };
        if is_in(&self.secret, &piece) {
            return Err(Echoed);
        }
        let longest = self.secret.len().saturating_sub(1);
        let visible = piece.iter().rev().take(longest).take_while(|byte| byte.is_ascii_graphic()).count();
        let (passes, held) = piece.split_at(piece.len() - visible);
        self.held = Zeroizing::new(held.to_vec());
        Ok(piece.slice_ref(passes))
    }

    /// Returns what was held back at the end of the answer.
    pub(crate) fn rest(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut *self.held))
    }
}

/// Tells if a text has the credential in it.
pub(crate) fn is_in(secret: &[u8], text: &[u8]) -> bool {
    memmem::find(text, secret).is_some()
}

/// Tells if a text has the credential in it, in capital or small letters.
pub(crate) fn is_in_name(secret: &[u8], text: &[u8]) -> bool {
    is_in(&secret.to_ascii_lowercase(), &text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes pieces. Returns what came out for each and at the end, or `None` for an echo.
    fn pass(secret: &str, pieces: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
        let mut search = EchoSearch::new(secret.as_bytes());
        let mut passed = Vec::new();
        for piece in pieces {
            passed.push(search.pass(Bytes::copy_from_slice(piece)).ok()?.to_vec());
        }
        passed.push(search.rest().to_vec());
        Some(passed)
    }

    #[test]
    fn everything_but_the_credential_passes_unchanged() {
        bolero::check!().with_type::<(Vec<u8>, Vec<u8>, Vec<u8>)>().for_each(|(secret, text, cuts)| {
            // Few letters, so that beginnings repeat, and blanks in the text.
            let secret: String = secret.iter().map(|byte| char::from(b'a' + byte % 2)).collect();
            if secret.is_empty() {
                return;
            }
            let text: Vec<u8> = text.iter().map(|byte| b"ab "[usize::from(byte % 3)]).collect();
            let (mut pieces, mut rest) = (Vec::new(), text.as_slice());
            for cut in cuts {
                let (piece, after) = rest.split_at(usize::from(*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            let expected = (!is_in(secret.as_bytes(), &text)).then_some(text.clone());
            assert_eq!(pass(&secret, &pieces).map(|passed| passed.concat()), expected);
        });
    }

    #[test]
    fn guess_of_a_beginning_passes_like_any_other_text() {
        let secret = "ghp_0123456789";
        let sizes = |guess: &str| {
            let piece = format!("you said {guess}");
            let passed = pass(secret, &[piece.as_bytes(), b" and more\n"]).unwrap();
            passed.iter().map(Vec::len).collect::<Vec<_>>()
        };
        for length in 1..secret.len() {
            assert_eq!(sizes(&secret[..length]), sizes(&"z".repeat(length)), "{length}");
        }
        // Lines pass at once.
        assert_eq!(pass(secret, &[b"data: ghp_\n"]).unwrap()[0], b"data: ghp_\n");
        assert_eq!(pass(secret, &[b"it is ghp_01", b"23456789"]), None);
    }

    #[test]
    fn name_of_a_header_is_searched_in_both_cases() {
        assert!(is_in_name(b"Ghp_0123", b"x-ghp_0123") && !is_in_name(b"Ghp_0123", b"x-ghp-0123"));
    }
}
