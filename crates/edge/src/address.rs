//! What a request's path may be: paths below `/.rigbox` are ours and reach no app, in whatever way they are written; and a token of the
//! platform has no place in an address.

use std::borrow::Cow;

use rigbox_core::tokens::{self, TokenKind};

/// The first part of our own paths.
const OURS: &str = ".rigbox";
/// Deeper nesting of percent-encoding is nobody's.
const DECODINGS: usize = 3;
/// A shorter address holds no token.
const SHORTEST_TOKEN: usize = TokenKind::ApiKey.prefix().len() + tokens::DIGITS;

/// Whose a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose<'a> {
    /// The app's.
    App,
    /// Ours: what comes after `/.rigbox/`.
    Own(&'a str),
    /// Something could read it as ours; nobody's.
    Nobodys,
}

/// Whose `path` is.
pub(crate) fn whose(path: &str) -> Whose<'_> {
    // Nearly every path; what can become `.rigbox` has one of these.
    let plain = !path.contains("/.") && !path.bytes().any(|byte| matches!(byte, b'%' | b'\\' | b';'));
    if plain {
        return Whose::App;
    }
    if let Some(rest) = path.strip_prefix("/.rigbox/") {
        return Whose::Own(rest);
    }
    let mut path = Cow::Borrowed(path);
    for _ in 0..DECODINGS {
        if leads_to_ours(&path) {
            return Whose::Nobodys;
        }
        match decode(&path) {
            Some(decoded) => path = Cow::Owned(decoded),
            None => return Whose::App,
        }
    }
    if leads_to_ours(&path) { Whose::Nobodys } else { Whose::App }
}

/// Whether the first part, as written or once `..` has been followed, is ours.
fn leads_to_ours(path: &str) -> bool {
    let is_ours = |part: &str| part.eq_ignore_ascii_case(OURS);
    let mut parts: Vec<&str> = Vec::new();
    let mut seen = false;
    for part in path.split(['/', '\\']) {
        // `name;parameter`, as some servers read it.
        let part = part.split(';').next().unwrap_or_default();
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => {
                if !seen && is_ours(part) {
                    return true;
                }
                parts.push(part);
            }
        }
        seen |= !matches!(part, "" | ".");
    }
    parts.first().is_some_and(|part| is_ours(part))
}

/// Percent-decoded once; `None` when there is nothing to decode. What is no UTF-8 becomes U+FFFD.
pub(crate) fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut changed = false;
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let pair = || Some(hex(*after.first()?)? << 4 | hex(*after.get(1)?)?);
        match (first, pair()) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                changed = true;
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    changed.then(|| String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Whether a token of the platform stands in an address, as written or percent-encoded.
pub(crate) fn has_token(address: &str) -> bool {
    if address.len() < SHORTEST_TOKEN {
        return false;
    }
    if find_token(address.as_bytes()) {
        return true;
    }
    let mut decoded = decode(address);
    for _ in 0..DECODINGS {
        match decoded {
            Some(text) if find_token(text.as_bytes()) => return true,
            Some(text) => decoded = decode(&text),
            None => return false,
        }
    }
    false
}

/// Only the code that a browser brings from the console has its place in an address.
fn find_token(address: &[u8]) -> bool {
    tokens::find(address).any(|kind| kind != TokenKind::AppCode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_writing_of_our_paths_is_an_apps() {
        for (path, whose_it_is) in [
            ("/", Whose::App),
            ("/a/b.html", Whose::App),
            ("/.well-known/x", Whose::App),
            ("/files/.rigbox/config.json", Whose::App),
            ("/.rigboxes", Whose::App),
            ("/a%20b", Whose::App),
            ("/%", Whose::App),
            ("/%2e%2", Whose::App),
            ("/.rigbox/keys", Whose::Own("keys")),
            ("/.rigbox/", Whose::Own("")),
            ("/.rigbox/../x", Whose::Own("../x")),
            ("/.rigbox", Whose::Nobodys),
            ("//.rigbox/keys", Whose::Nobodys),
            ("/.RIGBOX/keys", Whose::Nobodys),
            ("/./.rigbox/keys", Whose::Nobodys),
            ("/x/../.rigbox/keys", Whose::Nobodys),
            ("/x/%2e%2e/.rigbox/keys", Whose::Nobodys),
            ("/%2erigbox/keys", Whose::Nobodys),
            ("/%252erigbox/keys", Whose::Nobodys),
            ("/%25252erigbox/keys", Whose::Nobodys),
            ("/.rigbo%78/keys", Whose::Nobodys),
            ("/.rigbox%2fkeys", Whose::Nobodys),
            ("/.rigbox;a=b/keys", Whose::Nobodys),
            ("/;/.rigbox/keys", Whose::Nobodys),
            ("/%5c.rigbox/keys", Whose::Nobodys),
            ("/x/..;/.rigbox/", Whose::Nobodys),
        ] {
            assert_eq!(whose(path), whose_it_is, "{path}");
        }
    }

    #[test]
    fn a_token_in_an_address_is_seen() {
        let digits = "a".repeat(tokens::DIGITS);
        for prefix in ["rb_", "rb_ws_", "rbd_", "rbs_"] {
            for address in [
                format!("/?key={prefix}{digits}"),
                format!("/{prefix}{digits}/x"),
                format!("/?a=b&c={prefix}{digits}&d=e"),
                format!("/?key={}%5F{digits}", prefix.trim_end_matches('_')),
            ] {
                assert!(has_token(&address), "{address}");
            }
            for other in [
                format!("/?key={prefix}{digits}b"),
                format!("/?key=x{prefix}{digits}"),
                format!("/?key={prefix}{}", &digits[1..]),
            ] {
                assert!(!has_token(&other), "{other}");
            }
        }
        assert!(!has_token("/rb_/rubber"));
        assert!(!has_token(&format!("/.rigbox/sign-in?code=rbo_{digits}")));
    }
}
