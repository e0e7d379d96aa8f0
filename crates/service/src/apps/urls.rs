//! Where apps are: the installation's domain for them, and the origins that follow from it.

use http::Uri;
use rigbox_core::apps::{AppName, CustomDomain};
use rigbox_store::{App, AppHost};

/// The origin below which apps live, e.g. `http://rigbox.localhost:7080`.
#[derive(Debug, Clone)]
pub struct AppUrls {
    scheme: String,
    /// In lower case, without port.
    host: String,
    /// With its colon; empty for the scheme's own.
    port: String,
}

impl AppUrls {
    /// `None` when the URL is no origin.
    pub fn new(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
        let host = uri.host()?.to_ascii_lowercase();
        let bare =
            uri.path_and_query().is_none_or(|rest| rest == "/") && !uri.authority()?.as_str().contains('@');
        let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        bare.then(|| Self { scheme: scheme.to_owned(), host, port })
    }

    /// The domain itself.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What a host name in a request may mean.
    pub fn app_host(&self, host: &str) -> Option<AppHost> {
        if let Some(label) = host.strip_suffix(&self.host).and_then(|rest| rest.strip_suffix('.')) {
            return label.parse::<AppName>().ok().map(AppHost::Name);
        }
        host.parse::<CustomDomain>().ok().map(AppHost::Domain)
    }

    /// The origin at which an app answers by its name.
    pub fn named_origin(&self, name: &AppName) -> String {
        format!("{}://{name}.{}{}", self.scheme, self.host, self.port)
    }

    /// The origin that an app is known by: its own domain's once that is verified.
    pub fn origin(&self, app: &App) -> String {
        match &app.custom_domain {
            Some(domain) if app.domain_verified_at.is_some() => {
                format!("{}://{domain}{}", self.scheme, self.port)
            }
            _ => self.named_origin(&app.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_apps_name_or_a_domain_of_its_own() {
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
