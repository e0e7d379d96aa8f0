//! Host of a request, the same for the app as for us.

use std::borrow::Cow;

use http::header::HOST;
use http::{HeaderValue, Request, Uri, Version};

/// Maximum length of a DNS name.
const MAX_HOST_LEN: usize = 253;

/// Error for a request whose host is not unambiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidHost {
    /// No host.
    #[error("The request has no host. Send one `Host` header.")]
    Missing,
    /// Conflicting hosts.
    #[error("The request names more than one host. Send one `Host` header that matches the request target.")]
    Several,
    /// Not a host name.
    #[error("The `Host` header is not a valid host name.")]
    Malformed,
}

/// Host of a request, as sent.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    /// Lower case, without port.
    pub(crate) name: Cow<'a, str>,
    /// Value for `Host` and `X-Forwarded-Host`.
    pub(crate) text: HeaderValue,
}

impl<'a> Host<'a> {
    /// Reads the host from the request target and the `Host` header.
    pub(crate) fn of<B>(request: &'a Request<B>) -> Result<Self, InvalidHost> {
        let mut headers = request.headers().get_all(HOST).iter();
        let (header, second) = (headers.next(), headers.next());
        if second.is_some() {
            return Err(InvalidHost::Several);
        }
        let (named, text) = match (authority(request.uri()), header) {
            (None, None) => return Err(InvalidHost::Missing),
            (None, Some(header)) => (header.to_str().map_err(|_| InvalidHost::Malformed)?, header.clone()),
            (Some(authority), header) => {
                // HTTP/1 ignores `Host` beside a whole URL (RFC 9112, 3.2.2); the app gets the one that counts.
                let has_to_agree = request.version() == Version::HTTP_2;
                if header
                    .filter(|_| has_to_agree)
                    .is_some_and(|header| !header.as_bytes().eq_ignore_ascii_case(authority.as_bytes()))
                {
                    return Err(InvalidHost::Several);
                }
                (authority, HeaderValue::from_str(authority).map_err(|_| InvalidHost::Malformed)?)
            }
        };
        let (name, port) = split_port(named).ok_or(InvalidHost::Malformed)?;
        // The root's dot, and a colon without a port, name the same host (RFC 3986, 3.2.2 and 3.2.3).
        let rooted = name.strip_suffix('.');
        let name = Some(rooted.unwrap_or(name)).filter(|name| is_name(name)).ok_or(InvalidHost::Malformed)?;
        let text = match port {
            Some("") => HeaderValue::from_str(name).map_err(|_| InvalidHost::Malformed)?,
            None if rooted.is_some() => HeaderValue::from_str(name).map_err(|_| InvalidHost::Malformed)?,
            Some(port) if rooted.is_some() => {
                HeaderValue::from_str(&format!("{name}:{port}")).map_err(|_| InvalidHost::Malformed)?
            }
            _ => text,
        };
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        Ok(Self { name, text })
    }
}

fn authority(uri: &Uri) -> Option<&str> {
    uri.authority().map(http::uri::Authority::as_str)
}

/// Returns name and port. Returns `None` if the text after the colon is not a port.
fn split_port(host: &str) -> Option<(&str, Option<&str>)> {
    match host.split_once(':') {
        None => Some((host, None)),
        Some((name, "")) => Some((name, Some(""))),
        Some((name, port)) => port.parse::<u16>().is_ok_and(|port| port > 0).then_some((name, Some(port))),
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_HOST_LEN).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        && name.split('.').all(|label| !label.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(uri: &str, hosts: &[&str]) -> Result<String, InvalidHost> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let request = request.body(()).unwrap();
        Host::of(&request).map(|host| format!("{} {}", host.name, host.text.to_str().unwrap()))
    }

    #[test]
    fn authority_and_host_of_http2_must_agree() {
        let request = Request::builder().uri("http://a.example/").version(Version::HTTP_2);
        let request = request.header(HOST, "b.example").body(()).unwrap();
        assert!(matches!(Host::of(&request), Err(InvalidHost::Several)));
    }

    #[test]
    fn host_has_one_reading_or_is_refused() {
        for (uri, hosts, wanted) in [
            ("/", &["web.rigbox.localhost"][..], Ok("web.rigbox.localhost web.rigbox.localhost")),
            ("/", &["WEB.rigbox.localhost:7080"], Ok("web.rigbox.localhost WEB.rigbox.localhost:7080")),
            ("/", &["a.example."], Ok("a.example a.example")),
            ("/", &["a.example.:80"], Ok("a.example a.example:80")),
            ("/", &["a.example:"], Ok("a.example a.example")),
            ("http://web.rigbox.localhost:7080/", &[], Ok("web.rigbox.localhost web.rigbox.localhost:7080")),
            ("http://a.example/", &["b.example"], Ok("a.example a.example")),
            ("/", &[], Err(InvalidHost::Missing)),
            ("/", &["a.example", "a.example"], Err(InvalidHost::Several)),
            ("http://user@a.example/", &[], Err(InvalidHost::Malformed)),
            ("/", &["a.example.."], Err(InvalidHost::Malformed)),
            ("/", &[":80"], Err(InvalidHost::Malformed)),
            ("/", &[""], Err(InvalidHost::Malformed)),
            ("/", &[".a.example"], Err(InvalidHost::Malformed)),
            ("/", &["a..example"], Err(InvalidHost::Malformed)),
            ("/", &["a.example:0"], Err(InvalidHost::Malformed)),
            ("/", &["a.example:80:90"], Err(InvalidHost::Malformed)),
            ("/", &["a.example:80@b.example"], Err(InvalidHost::Malformed)),
            ("/", &["a.example/x"], Err(InvalidHost::Malformed)),
            ("/", &["a.example, b.example"], Err(InvalidHost::Malformed)),
            ("/", &["[::1]"], Err(InvalidHost::Malformed)),
        ] {
            assert_eq!(host(uri, hosts), wanted.map(str::to_owned), "{uri} {hosts:?}");
        }
    }
}
