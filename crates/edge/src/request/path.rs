//! Paths: those below `/.rigbox` belong to the platform and reach no app, however they are written. A
//! platform token has no place in a URL.

use std::borrow::Cow;

use rigbox_core::tokens::{self, TokenKind};

/// First segment of the platform's own paths.
const PLATFORM_SEGMENT: &str = ".rigbox";
/// Maximum levels of percent-encoding to decode. Nothing legitimate nests deeper.
const MAX_DECODINGS: usize = 3;
/// Minimum length of a target that can contain a token.
const MIN_TOKEN_LEN: usize = TokenKind::ApiKey.prefix().len() + tokens::DIGITS;

/// Owner of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathOwner<'a> {
    /// The app.
    App,
    /// The platform; holds the path after `/.rigbox/`.
    Platform(&'a str),
    /// Some server could read the path as the platform's; no one gets it.
    Ambiguous,
}

/// Returns the owner of `path`.
pub(crate) fn path_owner(path: &str) -> PathOwner<'_> {
    // Nearly every path. One that can turn into `.rigbox` has one of these characters.
    let plain = !path.contains("/.") && !path.bytes().any(|byte| matches!(byte, b'%' | b'\\' | b';'));
    if plain {
        return PathOwner::App;
    }
    if let Some(rest) = path.strip_prefix("/.rigbox/") {
        return PathOwner::Platform(rest);
    }
    let mut path = Cow::Borrowed(path);
    for _ in 0..MAX_DECODINGS {
        if leads_to_platform(&path) {
            return PathOwner::Ambiguous;
        }
        match decode(&path) {
            Some(decoded) => path = Cow::Owned(decoded),
            None => return PathOwner::App,
        }
    }
    if leads_to_platform(&path) { PathOwner::Ambiguous } else { PathOwner::App }
}

/// Returns whether the first segment, as written or after resolving `..`, is the platform's.
fn leads_to_platform(path: &str) -> bool {
    let is_platform = |part: &str| part.eq_ignore_ascii_case(PLATFORM_SEGMENT);
    let mut parts: Vec<&str> = Vec::new();
    let mut seen = false;
    for part in path.split(['/', '\\']) {
        // Some servers read `name;parameter` as `name`.
        let part = part.split(';').next().unwrap_or_default();
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => {
                if !seen && is_platform(part) {
                    return true;
                }
                parts.push(part);
            }
        }
        seen |= !matches!(part, "" | ".");
    }
    parts.first().is_some_and(|part| is_platform(part))
}

/// Percent-decodes once. Returns `None` if there is nothing to decode. Invalid UTF-8 becomes U+FFFD.
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

/// Returns whether a request target contains a platform token, plain or percent-encoded.
pub(crate) fn has_token(target: &str) -> bool {
    if target.len() < MIN_TOKEN_LEN {
        return false;
    }
    if find_token(target.as_bytes()) {
        return true;
    }
    let mut decoded = decode(target);
    for _ in 0..MAX_DECODINGS {
        match decoded {
            Some(text) if find_token(text.as_bytes()) => return true,
            Some(text) => decoded = decode(&text),
            None => return false,
        }
    }
    false
}

/// Only the code that a browser brings from the console is allowed in a URL.
fn find_token(target: &[u8]) -> bool {
    tokens::find(target).any(|kind| kind != TokenKind::AppCode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_a_platform_path_reaches_an_app() {
        for (path, owner) in [
            ("/", PathOwner::App),
            ("/a/b.html", PathOwner::App),
            ("/.well-known/x", PathOwner::App),
            ("/files/.rigbox/config.json", PathOwner::App),
            ("/.rigboxes", PathOwner::App),
            ("/a%20b", PathOwner::App),
            ("/%", PathOwner::App),
            ("/%2e%2", PathOwner::App),
            ("/.rigbox/keys", PathOwner::Platform("keys")),
            ("/.rigbox/", PathOwner::Platform("")),
            ("/.rigbox/../x", PathOwner::Platform("../x")),
            ("/.rigbox", PathOwner::Ambiguous),
            ("//.rigbox/keys", PathOwner::Ambiguous),
            ("/.RIGBOX/keys", PathOwner::Ambiguous),
            ("/./.rigbox/keys", PathOwner::Ambiguous),
            ("/x/../.rigbox/keys", PathOwner::Ambiguous),
            ("/x/%2e%2e/.rigbox/keys", PathOwner::Ambiguous),
            ("/%2erigbox/keys", PathOwner::Ambiguous),
            ("/%252erigbox/keys", PathOwner::Ambiguous),
            ("/%25252erigbox/keys", PathOwner::Ambiguous),
            ("/.rigbo%78/keys", PathOwner::Ambiguous),
            ("/.rigbox%2fkeys", PathOwner::Ambiguous),
            ("/.rigbox;a=b/keys", PathOwner::Ambiguous),
            ("/;/.rigbox/keys", PathOwner::Ambiguous),
            ("/%5c.rigbox/keys", PathOwner::Ambiguous),
            ("/x/..;/.rigbox/", PathOwner::Ambiguous),
        ] {
            assert_eq!(path_owner(path), owner, "{path}");
        }
    }

    #[test]
    fn token_in_a_url_is_detected() {
        let digits = "a".repeat(tokens::DIGITS);
        for prefix in ["rb_", "rb_ws_", "rbd_", "rbs_"] {
            for target in [
                format!("/?key={prefix}{digits}"),
                format!("/{prefix}{digits}/x"),
                format!("/?a=b&c={prefix}{digits}&d=e"),
                format!("/?key={}%5F{digits}", prefix.trim_end_matches('_')),
            ] {
                assert!(has_token(&target), "{target}");
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
