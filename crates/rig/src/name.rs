//! Names and ids: tells them apart, and generates random names.

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Returns the id without its prefix.
pub(crate) fn id_suffix(id: &str) -> &str {
    id.strip_prefix("ws-").unwrap_or(id)
}

/// Returns whether a text has the form of a workspace id. A name may have it too.
pub(crate) fn looks_like_id(text: &str) -> bool {
    has_form(text, "ws-")
}

/// Returns whether a text has the form of an app id. A name may have it too.
pub(crate) fn looks_like_app_id(text: &str) -> bool {
    has_form(text, "ap-")
}

fn has_form(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix)
        .is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|byte| ALPHABET.contains(&byte)))
}

/// Returns whether this is a valid workspace name.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=40).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Returns a random name, which is unlikely to be taken.
pub(crate) fn random_name() -> Result<String, getrandom::Error> {
    Ok(format!("box-{}", random_text::<8>()?))
}

/// Returns unguessable characters.
pub(crate) fn random_text<const LENGTH: usize>() -> Result<String, getrandom::Error> {
    let mut random = [0; LENGTH];
    getrandom::fill(&mut random)?;
    Ok(random
        .iter()
        .filter_map(|byte| ALPHABET.get(usize::from(byte % 32)))
        .map(|b| char::from(*b))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinguished_from_names() {
        assert!(looks_like_id("ws-abcdefg2"));
        for name in ["web", "ws-abcdefg", "ws-abcdefg1", "ws-abcdefghi", "xs-abcdefgh", "ws-ABCDEFGH"] {
            assert!(!looks_like_id(name), "{name}");
        }
        assert_eq!(id_suffix("ws-abcdefg2"), "abcdefg2");
    }

    #[test]
    fn random_name_is_valid() {
        assert!(is_name(&random_name().unwrap()));
        assert_ne!(random_name().unwrap(), random_name().unwrap());
        for bad in ["", "A", "a b", "a/b", "ä", &"x".repeat(41)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
