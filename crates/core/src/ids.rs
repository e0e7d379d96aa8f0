//! Identifiers: one type each, so that one kind never stands where another is meant.

use std::fmt;
use std::str::FromStr;

/// Alphabet of the random part of identifiers: RFC 4648 base32 in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Characters after a prefix such as `ws-`.
const LENGTH: usize = 8;

/// Why a text is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {kind}: expected `{prefix}` and 8 characters of a-z, 2-7")]
pub struct BadId {
    text: String,
    kind: &'static str,
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The identifier made of 40 random bits.
            pub fn from_random(random: [u8; 5]) -> Self {
                Self(format!("{}{}", $prefix, base32(random)))
            }

            /// The whole identifier, prefix included.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                match text.strip_prefix($prefix) {
                    Some(rest) if rest.len() == LENGTH && rest.bytes().all(|b| BASE32.contains(&b)) => {
                        Ok(Self(text.to_owned()))
                    }
                    _ => Err(BadId { text: text.chars().take(64).collect(), kind: $kind, prefix: $prefix }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A workspace, `ws-` and 8 lower-case base32 characters.
    WorkspaceId, "ws-", "a workspace id"
}
id! {
    /// A user.
    UserId, "us-", "a user id"
}
id! {
    /// An API key's record (never the key itself).
    KeyId, "ak-", "an API key id"
}
id! {
    /// A browser that somebody signed in with.
    SessionId, "se-", "a session id"
}
id! {
    /// An app: a port of a workspace with a name in the world.
    AppId, "ap-", "an app id"
}
id! {
    /// A node.
    NodeId, "node-", "a node id"
}

fn base32(bytes: [u8; 5]) -> String {
    let bits = bytes.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    (0..LENGTH)
        .rev()
        .filter_map(|i| BASE32.get((bits >> (5 * i) & 31) as usize))
        .map(|byte| char::from(*byte))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_parse_back() {
        for random in [[0; 5], [255; 5], [1, 2, 3, 4, 5]] {
            let id = WorkspaceId::from_random(random);
            assert_eq!(id.as_str().parse::<WorkspaceId>(), Ok(id));
        }
        assert_eq!(WorkspaceId::from_random([0; 5]).as_str(), "ws-aaaaaaaa");
        assert_eq!(WorkspaceId::from_random([255; 5]).as_str(), "ws-77777777");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "ws-",
            "ws-aaaaaaa",
            "ws-aaaaaaaaa",
            "ws-AAAAAAAA",
            "us-aaaaaaaa",
            "ws-aaaaaaa1",
            "ws-../../..",
        ] {
            assert!(text.parse::<WorkspaceId>().is_err(), "{text}");
        }
    }
}
