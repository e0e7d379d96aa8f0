//! Formats of the platform's tokens, shared by the code that issues them and the code that detects leaked
//! ones.

/// Number of base62 characters after a prefix, which carry 256 bits.
pub const DIGITS: usize = 43;

/// Purpose of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// API key of a user.
    ApiKey,
    /// A workspace's own key.
    Workspace,
    /// Browser session at the console.
    Session,
    /// Device login that waits for approval.
    Device,
    /// Token for one deployment; not issued yet.
    Deploy,
    /// Sign-in link, part of console URLs.
    Link,
    /// Handoff of a browser from the console to an app, part of app URLs.
    AppCode,
}

impl TokenKind {
    const ALL: [Self; 7] =
        [Self::ApiKey, Self::Workspace, Self::Session, Self::Device, Self::Deploy, Self::Link, Self::AppCode];

    /// Returns the prefix of tokens of this kind.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::ApiKey => "rb_",
            Self::Workspace => "rb_ws_",
            Self::Session => "rbs_",
            Self::Device => "rbv_",
            Self::Deploy => "rbd_",
            Self::Link => "rbl_",
            Self::AppCode => "rbo_",
        }
    }
}

/// Returns the kind of token that `text` is, exactly.
pub fn kind(text: &[u8]) -> Option<TokenKind> {
    let (kind, digits) = parse_prefix(text)?;
    (kind.prefix().len() + DIGITS == text.len() && digits == DIGITS).then_some(kind)
}

/// Returns the kinds of the tokens in `text`, each delimited from its surroundings.
pub fn find(text: &[u8]) -> impl Iterator<Item = TokenKind> {
    candidates(text).filter_map(move |at| {
        let before = at.checked_sub(1).and_then(|before| text.get(before));
        let set_off = before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
        let (kind, digits) = parse_prefix(text.get(at..)?)?;
        (set_off && digits == DIGITS).then_some(kind)
    })
}

/// Returns the kinds of everything that looks like a token in `text`, whatever surrounds it.
pub fn find_embedded(text: &[u8]) -> impl Iterator<Item = TokenKind> {
    candidates(text).filter_map(|at| Some(parse_prefix(text.get(at..)?)?.0))
}

/// Returns the offsets at which a token may start.
fn candidates(text: &[u8]) -> impl Iterator<Item = usize> {
    memchr::memmem::find_iter(text, b"rb")
}

/// Parses a token at the start of `text`. Returns its kind and number of digits, at least [`DIGITS`].
fn parse_prefix(text: &[u8]) -> Option<(TokenKind, usize)> {
    TokenKind::ALL.into_iter().find_map(|kind| {
        let rest = text.strip_prefix(kind.prefix().as_bytes())?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        (digits >= DIGITS).then_some((kind, digits))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_distinguished_and_found() {
        let digits = "a".repeat(DIGITS);
        for wanted in TokenKind::ALL {
            let token = format!("{}{digits}", wanted.prefix());
            assert_eq!(kind(token.as_bytes()), Some(wanted));
            for text in
                [token.clone(), format!("/{token}/x"), format!("?a=b&c={token}&d"), format!("é{token}é")]
            {
                assert_eq!(find(text.as_bytes()).collect::<Vec<_>>(), [wanted], "{text}");
            }
            for (text, within) in [
                (format!("{token}b"), 1),
                (format!("x{token}"), 1),
                (format!("_{token}"), 1),
                (token[..token.len() - 1].to_owned(), 0),
            ] {
                assert_eq!(kind(text.as_bytes()), None, "{text}");
                assert_eq!(find(text.as_bytes()).count(), 0, "{text}");
                assert_eq!(find_embedded(text.as_bytes()).count(), within, "{text}");
            }
        }
        assert_eq!(find(format!("rb_{digits} rbs_{digits}").as_bytes()).count(), 2);
        assert_eq!(find(b"rb_ rubber rbs_").count(), 0);
    }
}
