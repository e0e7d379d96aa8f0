//! Credentials of users that stay outside of their workspaces: the proxy adds them to requests for one host.

use std::fmt;
use std::str::FromStr;

use crate::ai::environment::BRIDGE;
use crate::egress::{Domain, HTTPS_PORT};

/// Bounds of a name's length in bytes.
const MAX_NAME_LEN: usize = 64;
/// Bounds of a credential's length in bytes. A shorter one would be found in answers that do not have it.
pub const MIN_SECRET_LEN: usize = 8;
/// See [`MIN_SECRET_LEN`].
pub const MAX_SECRET_LEN: usize = 4_096;
/// Maximum length of a header's name in bytes.
const MAX_HEADER_LEN: usize = 64;
/// Maximum length of a header's format in bytes.
const MAX_FORMAT_LEN: usize = 128;
/// Beginning of the paths of requests with a credential, at the bridge.
pub const PATH: &str = "/proxy/";
/// Place of the credential in a format.
const PLACE: &str = "{}";
/// Header that most APIs want.
const AUTHORIZATION: &str = "authorization";

/// Headers that say how a message is read or whom it is for, which no credential may replace.
const RESERVED_HEADERS: [&str; 14] = [
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Error for a value that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProxiedSecret {
    /// The name is not one.
    #[error(
        "`{0}` is not a valid name. Use 1 to {MAX_NAME_LEN} characters (a-z, 0-9, `-` and `_`), beginning with a letter or digit."
    )]
    Name(String),
    /// The host is not one.
    #[error(
        "`{0}` is not a valid host. Use the name of one host, such as api.example.org, or api.example.org:8443 for another port than 443."
    )]
    Host(String),
    /// The header cannot carry a credential.
    #[error("`{0}` cannot carry a credential. Use a header such as Authorization or X-Api-Key.")]
    Header(String),
    /// The format is not one.
    #[error(
        "`{0}` is not a valid format. Use visible ASCII characters and blanks with one {PLACE} for the credential, such as `Bearer {PLACE}`."
    )]
    Format(String),
    /// The credential is not one.
    #[error(
        "The credential has {MIN_SECRET_LEN} to {MAX_SECRET_LEN} visible ASCII characters and no blanks."
    )]
    Secret,
}

impl InvalidProxiedSecret {
    /// Returns the field of a request that has the value.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Name(_) => "name",
            Self::Host(_) => "host",
            Self::Header(_) => "header",
            Self::Format(_) => "format",
            Self::Secret => "secret",
        }
    }
}

/// Name of a credential, unique per user. It is part of the path by which a workspace uses it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(String);

/// Host that gets a credential, by TLS: one name, with a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretHost {
    name: String,
    port: u16,
}

/// Header that carries a credential, in lower case, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretHeader {
    name: String,
    format: String,
}

impl SecretName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the address at which a workspace finds the credential's host.
    pub fn url(&self) -> String {
        format!("{BRIDGE}{PATH}{self}/")
    }
}

impl FromStr for SecretName {
    type Err = InvalidProxiedSecret;

    fn from_str(text: &str) -> Result<Self, InvalidProxiedSecret> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = (1..=MAX_NAME_LEN).contains(&text.len())
            && text.bytes().all(|byte| is_plain(byte) || matches!(byte, b'-' | b'_'))
            && text.bytes().next().is_some_and(is_plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidProxiedSecret::Name(excerpt(text))) }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SecretHost {
    /// Returns the host's name, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for SecretHost {
    type Err = InvalidProxiedSecret;

    fn from_str(text: &str) -> Result<Self, InvalidProxiedSecret> {
        let invalid = || InvalidProxiedSecret::Host(excerpt(text));
        let domain: Domain = text.parse().map_err(|_| invalid())?;
        if domain.is_wildcard() {
            return Err(invalid());
        }
        let text = domain.to_string();
        match text.split_once(':') {
            None => Ok(Self { name: text, port: HTTPS_PORT }),
            Some((name, port)) => {
                Ok(Self { name: name.to_owned(), port: port.parse().map_err(|_| invalid())? })
            }
        }
    }
}

impl fmt::Display for SecretHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.port == HTTPS_PORT { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl SecretHeader {
    /// Checks a header. Without a format, `Authorization` has `Bearer` before the credential, and others the credential alone.
    ///
    /// # Errors
    /// [`InvalidProxiedSecret::Header`], [`InvalidProxiedSecret::Format`]
    pub fn new(name: &str, format: Option<&str>) -> Result<Self, InvalidProxiedSecret> {
        let lower = name.to_ascii_lowercase();
        let is_name = (1..=MAX_HEADER_LEN).contains(&lower.len())
            && lower.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !is_name || RESERVED_HEADERS.contains(&lower.as_str()) || lower.starts_with("proxy-") {
            return Err(InvalidProxiedSecret::Header(excerpt(name)));
        }
        let format = match format {
            Some(format) => format,
            None if lower == AUTHORIZATION => "Bearer {}",
            None => PLACE,
        };
        let is_text = format.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        let is_format = format.len() <= MAX_FORMAT_LEN
            && is_text
            && format.trim() == format
            && format.matches(PLACE).count() == 1;
        if is_format {
            Ok(Self { name: lower, format: format.to_owned() })
        } else {
            Err(InvalidProxiedSecret::Format(excerpt(format)))
        }
    }

    /// Returns the header's name, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the text of the header, with `{}` in the credential's place.
    pub fn format(&self) -> &str {
        &self.format
    }
}

/// Checks a credential.
///
/// # Errors
/// [`InvalidProxiedSecret::Secret`]
pub fn check_secret(secret: &str) -> Result<(), InvalidProxiedSecret> {
    let fits = (MIN_SECRET_LEN..=MAX_SECRET_LEN).contains(&secret.len())
        && secret.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(()) } else { Err(InvalidProxiedSecret::Secret) }
}

/// Returns the start of an invalid value, safe to print.
fn excerpt(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_a_path() {
        for good in ["github", "a", "0", "my-token_2", &"x".repeat(64)] {
            assert_eq!(good.parse::<SecretName>().map(|name| name.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", "A", "a/b", "..", "-a", "_a", "a b", "a%2f", "ä", "a\n", &"x".repeat(65)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn host_is_one_name_with_a_port() {
        for (text, name, port, shown) in [
            ("api.example.org", "api.example.org", 443, "api.example.org"),
            ("API.Example.org.", "api.example.org", 443, "api.example.org"),
            ("api.example.org:443", "api.example.org", 443, "api.example.org"),
            ("api.example.org:8443", "api.example.org", 8443, "api.example.org:8443"),
        ] {
            let host: SecretHost = text.parse().unwrap();
            assert_eq!((host.name(), host.port(), host.to_string().as_str()), (name, port, shown));
        }
        for bad in [
            "",
            "localhost",
            "*.example.org",
            "1.2.3.4",
            "[::1]",
            "api.example.org:25",
            "api.example.org:0",
            "https://api.example.org",
            "api.example.org/x",
            "user@api.example.org",
        ] {
            assert_eq!(bad.parse::<SecretHost>(), Err(InvalidProxiedSecret::Host(bad.into())), "{bad}");
        }
    }

    #[test]
    fn header_that_frames_a_message_carries_no_credential() {
        let header =
            |name, format| SecretHeader::new(name, format).map(|header| (header.name, header.format));
        let made = |name: &str, format: &str| Ok((name.to_owned(), format.to_owned()));
        assert_eq!(header("Authorization", None), made("authorization", "Bearer {}"));
        assert_eq!(header("Authorization", Some("token {}")), made("authorization", "token {}"));
        assert_eq!(header("X-Api-Key", None), made("x-api-key", "{}"));
        for bad in
            ["", "Host", "content-length", "Transfer-Encoding", "Proxy-Authorization", "a b", "a:b", "ä"]
        {
            assert!(matches!(header(bad, None), Err(InvalidProxiedSecret::Header(_))), "{bad}");
        }
        for bad in ["", "Bearer", "{} {}", "a\r\nb: {}", " {}", "ä {}", &format!("{{}}{}", "x".repeat(128))]
        {
            assert!(matches!(header("x-key", Some(bad)), Err(InvalidProxiedSecret::Format(_))), "{bad}");
        }
    }

    #[test]
    fn credential_that_would_break_a_header_is_refused() {
        for good in ["12345678", &"x".repeat(MAX_SECRET_LEN)] {
            assert_eq!(check_secret(good), Ok(()));
        }
        for bad in ["", "1234567", "12345 678", "1234567\n", "1234567ä", &"x".repeat(MAX_SECRET_LEN + 1)] {
            assert_eq!(check_secret(bad), Err(InvalidProxiedSecret::Secret), "{bad:?}");
        }
    }
}
