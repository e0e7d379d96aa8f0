//! The forms of the platform's tokens: one list for those who make them and for those who look for them where they have no place.

/// Base62 characters after a prefix: they carry 256 bits.
pub const DIGITS: usize = 43;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A user's API key.
    ApiKey,
    /// A workspace's key of itself.
    Workspace,
    /// A browser's session at the console.
    Session,
    /// A machine that waits for its approval.
    Device,
    /// One deployment. None is given out so far.
    Deploy,
    /// A link that signs in; it stands in addresses of the console.
    Link,
    /// A browser's way from the console to an app; it stands in addresses of apps.
    AppCode,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::ApiKey, Self::Workspace, Self::Session, Self::Device, Self::Deploy, Self::Link, Self::AppCode];

    /// What tokens of this kind begin with.
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

/// The kind of the token that `text` is, exactly.
pub fn kind(text: &[u8]) -> Option<Kind> {
    let (kind, digits) = begins(text)?;
    (kind.prefix().len() + DIGITS == text.len() && digits == DIGITS).then_some(kind)
}

/// The kinds of the tokens that stand in `text`, each set off from what is around it.
pub fn find(text: &[u8]) -> impl Iterator<Item = Kind> {
    places(text).filter_map(move |at| {
        let before = at.checked_sub(1).and_then(|before| text.get(before));
        let set_off = before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
        let (kind, digits) = begins(text.get(at..)?)?;
        (set_off && digits == DIGITS).then_some(kind)
    })
}

/// The kinds of all that looks like a token in `text`, whatever stands right before or after it.
pub fn find_within(text: &[u8]) -> impl Iterator<Item = Kind> {
    places(text).filter_map(|at| Some(begins(text.get(at..)?)?.0))
}

/// Where a token may begin.
fn places(text: &[u8]) -> impl Iterator<Item = usize> {
    memchr::memmem::find_iter(text, b"rb")
}

/// The kind of token that `text` begins with, and how many digits it has: one has as many as [`DIGITS`].
fn begins(text: &[u8]) -> Option<(Kind, usize)> {
    Kind::ALL.into_iter().find_map(|kind| {
        let rest = text.strip_prefix(kind.prefix().as_bytes())?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        (digits >= DIGITS).then_some((kind, digits))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_apart_and_found() {
        let digits = "a".repeat(DIGITS);
        for wanted in Kind::ALL {
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
                assert_eq!(find_within(text.as_bytes()).count(), within, "{text}");
            }
        }
        assert_eq!(find(format!("rb_{digits} rbs_{digits}").as_bytes()).count(), 2);
        assert_eq!(find(b"rb_ rubber rbs_").count(), 0);
    }
}
