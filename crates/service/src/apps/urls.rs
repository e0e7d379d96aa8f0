//! URLs of apps: the installation's domain for apps, and the origins derived from it.

use http::Uri;
use rigbox_core::apps::{AppName, CustomDomain};
use rigbox_store::{App, AppHost};

/// Origin below which apps are served, e.g. `http://rigbox.localhost:7080`.
#[derive(Debug, Clone)]
pub struct AppUrls {
    scheme: String,
    /// Lower case, without a port.
    host: String,
    /// With its colon; empty for the scheme's default.
    port: String,
}

impl AppUrls {
    /// Parses an origin. Returns `None` if the URL is not one.
    pub fn new(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
        let host = uri.host()?.to_ascii_lowercase();
        let bare =
            uri.path_and_query().is_none_or(|rest| rest == "/") && !uri.authority()?.as_str().contains('@');
        let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        bare.then(|| Self { scheme: scheme.to_owned(), host, port })
    }

    /// Returns the domain for apps.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the app that a host name may refer to.
    pub fn app_host(&self, host: &str) -> Option<AppHost> {
        if let Some(label) = host.strip_suffix(&self.host).and_then(|rest| rest.strip_suffix('.')) {
            return label.parse::<AppName>().ok().map(AppHost::Name);
        }
        host.parse::<CustomDomain>().ok().map(AppHost::Domain)
    }

    /// Returns the host of an app by its name.
    pub fn named_host(&self, name: &AppName) -> String {
        format!("{name}.{}", self.host)
    }

    /// Returns the origin of an app at one of its hosts.
    pub fn origin_at(&self, host: &str) -> String {
        format!("{}://{host}{}", self.scheme, self.port)
    }

    /// Returns the canonical origin of an app: its custom domain once that is verified.
    pub fn origin(&self, app: &App) -> String {
        match &app.custom_domain {
            Some(domain) if app.domain_verified_at.is_some() => self.origin_at(domain.as_str()),
            _ => self.origin_at(&self.named_host(&app.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_an_app_name_or_a_custom_domain() {
        let domain = AppUrls::new("http://rigbox.localhost:7080").unwrap();
        let name = |host: &str| match domain.app_host(host) {
            Some(AppHost::Name(name)) => Some(name.to_string()),
            _ => None,
        };
        assert_eq!(name("web.rigbox.localhost").as_deref(), Some("web"));
        for none in ["rigbox.localhost", "a.b.rigbox.localhost", "api.rigbox.localhost", ".rigbox.localhost"]
        {
            assert_eq!(name(none), None, "{none}");
        }
        assert!(matches!(domain.app_host("shop.example.org"), Some(AppHost::Domain(_))));
        assert!(domain.app_host("127.0.0.1").is_none() && domain.app_host("localhost").is_none());
        for bad in ["rigbox.localhost", "ftp://x", "http://x/y", "http://u@x"] {
            assert!(AppUrls::new(bad).is_none(), "{bad}");
        }
    }
}
