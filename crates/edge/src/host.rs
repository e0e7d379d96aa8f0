//! Which host a request is for. Every way of saying it has to say the same, because the app behind may look at another one than we do.

use std::borrow::Cow;

use http::header::HOST;
use http::{HeaderValue, Request, Uri};

/// As long as a name in DNS may be.
const LONGEST: usize = 253;

/// Why it cannot be told which host a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidHost {
    /// None is named.
    #[error("the request names no host: send one `Host` header")]
    Missing,
    /// Two different ones are named.
    #[error(
        "the request names more than one host: send one `Host` header, equal to the address that is asked for"
    )]
    Several,
    /// It is none.
    #[error("the request's `Host` is not a host name")]
    Malformed,
}

/// Name and port of a request, as they came.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    /// In lower case, without a port.
    pub(crate) name: Cow<'a, str>,
    /// For `Host` and `X-Forwarded-Host`.
    pub(crate) text: HeaderValue,
}

impl<'a> Host<'a> {
    /// Reads it off the address and `Host`.
    pub(crate) fn of<B>(request: &'a Request<B>) -> Result<Self, InvalidHost> {
        let mut headers = request.headers().get_all(HOST).iter();
        let (header, second) = (headers.next(), headers.next());
        if second.is_some() {
            return Err(InvalidHost::Several);
        }
        let (written, text) = match (authority(request.uri()), header) {
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
        let name = without_port(written).filter(|name| is_name(name)).ok_or(InvalidHost::Malformed)?;
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

/// `None` when what follows the colon is no port.
fn without_port(host: &str) -> Option<&str> {
    match host.split_once(':') {
        None => Some(host),
        Some((name, port)) => port.parse::<u16>().is_ok_and(|port| port > 0).then_some(name),
    }
}

fn is_name(name: &str) -> bool {
    (1..=LONGEST).contains(&name.len())
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
    fn every_way_of_naming_a_host_says_the_same() {
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
