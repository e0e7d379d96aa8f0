//! Identifiers, one type per kind, so that one kind never stands in for another.

use std::fmt;
use std::str::FromStr;

/// Alphabet of the random part: RFC 4648 base32 in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Length of the random part in characters.
const RANDOM_LEN: usize = 8;

/// Error for a text that is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {kind}. Expected `{prefix}` followed by 8 characters of a-z and 2-7.")]
pub struct InvalidId {
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
            /// Creates an identifier from 40 random bits.
            pub fn from_random(random: [u8; 5]) -> Self {
                Self(format!("{}{}", $prefix, base32(random)))
            }

            /// Returns the identifier, including its prefix.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                match text.strip_prefix($prefix) {
                    Some(rest) if rest.len() == RANDOM_LEN && rest.bytes().all(|b| BASE32.contains(&b)) => {
                        Ok(Self(text.to_owned()))
                    }
                    _ => Err(InvalidId { text: text.chars().take(64).collect(), kind: $kind, prefix: $prefix }),
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
    /// Id of control's database, by which a node knows whose workspaces it holds.
    DatabaseId, "db-", "a database ID"
}

id! {
    /// Id of a workspace: `ws-` and 8 lower-case base32 characters.
    WorkspaceId, "ws-", "a workspace ID"
}
id! {
    /// Id of a user.
    UserId, "us-", "a user ID"
}
id! {
    /// Id of an API key (never the key itself).
    KeyId, "ak-", "an API key ID"
}
id! {
    /// Id of a process of a gateway.
    GatewayId, "gw-", "a gateway ID"
}
id! {
    /// Id of an SSH key.
    SshKeyId, "sh-", "an SSH key ID"
}
id! {
    /// Id of the operator's key at an AI provider (never the key itself).
    ProviderKeyId, "pk-", "a provider key ID"
}
id! {
    /// Id of a browser session.
    SessionId, "se-", "a session ID"
}
id! {
    /// Id of an app.
    AppId, "ap-", "an app ID"
}
id! {
    /// Id of a command in a workspace.
    ProcessId, "pr-", "a process ID"
}
id! {
    /// Id of a node.
    NodeId, "node-", "a node ID"
}

fn base32(bytes: [u8; 5]) -> String {
    let bits = bytes.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    (0..RANDOM_LEN)
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
    fn malformed_ids_are_refused() {
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
