//! Names and ids of workspaces as the command line needs them: which of the two a text is, and a name where none was given.

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The part of an id that is not the same in all ids.
pub(crate) fn id_suffix(id: &str) -> &str {
    id.strip_prefix("ws-").unwrap_or(id)
}

/// Whether a text has the form of a workspace's id. A name may have it too.
pub(crate) fn looks_like_id(text: &str) -> bool {
    has_form(text, "ws-")
}

/// Whether a text has the form of an app's id. A name may have it too.
pub(crate) fn looks_like_app_id(text: &str) -> bool {
    has_form(text, "ap-")
}

fn has_form(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix)
        .is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|byte| ALPHABET.contains(&byte)))
}

/// Whether a workspace may have this name.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=40).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A name that is hardly taken.
pub(crate) fn made_up() -> Result<String, getrandom::Error> {
    Ok(format!("box-{}", random_text::<8>()?))
}

/// Characters that nobody can guess.
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
    fn ids_are_told_from_names() {
        assert!(looks_like_id("ws-abcdefg2"));
        for name in ["web", "ws-abcdefg", "ws-abcdefg1", "ws-abcdefghi", "xs-abcdefgh", "ws-ABCDEFGH"] {
            assert!(!looks_like_id(name), "{name}");
        }
        assert_eq!(id_suffix("ws-abcdefg2"), "abcdefg2");
    }

    #[test]
    fn a_made_up_name_is_a_name() {
        assert!(is_name(&made_up().unwrap()));
        assert_ne!(made_up().unwrap(), made_up().unwrap());
        for bad in ["", "A", "a b", "a/b", "ä", &"x".repeat(41)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
