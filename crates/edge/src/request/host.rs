//! Host of a request. Every place that names it has to agree, because the app may look at another one than we
//! do.

use std::borrow::Cow;

use http::header::HOST;
use http::{HeaderValue, Request, Uri};

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
                if header.is_some_and(|header| !header.as_bytes().eq_ignore_ascii_case(authority.as_bytes()))
                {
                    return Err(InvalidHost::Several);
                }
                (authority, HeaderValue::from_str(authority).map_err(|_| InvalidHost::Malformed)?)
            }
        };
        let name = without_port(named).filter(|name| is_name(name)).ok_or(InvalidHost::Malformed)?;
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

/// Returns `None` if the text after the colon is not a port.
fn without_port(host: &str) -> Option<&str> {
    match host.split_once(':') {
        None => Some(host),
        Some((name, port)) => port.parse::<u16>().is_ok_and(|port| port > 0).then_some(name),
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
        Host::of(&request.body(()).unwrap()).map(|host| host.name.into_owned())
    }

    #[test]
    fn all_host_headers_must_agree() {
        for (uri, hosts, wanted) in [
            ("/", &["web.rigbox.localhost"][..], Ok("web.rigbox.localhost")),
            ("/", &["WEB.rigbox.localhost:7080"], Ok("web.rigbox.localhost")),
            ("http://web.rigbox.localhost:7080/", &[], Ok("web.rigbox.localhost")),
            ("http://web.rigbox.localhost/", &["Web.rigbox.localhost"], Ok("web.rigbox.localhost")),
            ("/", &[], Err(InvalidHost::Missing)),
            ("/", &["a.example", "a.example"], Err(InvalidHost::Several)),
            ("http://a.example/", &["b.example"], Err(InvalidHost::Several)),
            ("http://a.example/", &["a.example:80"], Err(InvalidHost::Several)),
            ("http://user@a.example/", &[], Err(InvalidHost::Malformed)),
            ("/", &[""], Err(InvalidHost::Malformed)),
            ("/", &["a.example."], Err(InvalidHost::Malformed)),
            ("/", &[".a.example"], Err(InvalidHost::Malformed)),
            ("/", &["a..example"], Err(InvalidHost::Malformed)),
            ("/", &["a.example:"], Err(InvalidHost::Malformed)),
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
