//! Site of the apps, as browsers see it: what apps can do to each other depends on whether their domain is on the Public Suffix List.

/// Relation of the apps to each other in a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppsSite {
    /// The domain names this machine, for trying Rigbox out.
    Local,
    /// The domain is a public suffix: each app is a site of its own.
    OnePerApp,
    /// All apps are one site, of this registrable domain.
    Shared(String),
}

impl AppsSite {
    /// Returns the site of the apps below `domain`, by the list of this version.
    pub fn of(domain: &str) -> Self {
        if domain == "localhost"
            || domain.ends_with(".localhost")
            || domain.parse::<std::net::IpAddr>().is_ok()
        {
            return Self::Local;
        }
        let is_suffix = psl::suffix(domain.as_bytes())
            .is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == domain.as_bytes());
        if is_suffix {
            return Self::OnePerApp;
        }
        Self::Shared(psl::domain_str(domain).unwrap_or(domain).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_are_sites_of_their_own_below_a_public_suffix_only() {
        for (domain, site) in [
            ("rigbox.localhost", AppsSite::Local),
            ("github.io", AppsSite::OnePerApp),
            ("apps.example.org", AppsSite::Shared("example.org".to_owned())),
            ("example.co.uk", AppsSite::Shared("example.co.uk".to_owned())),
        ] {
            assert_eq!(AppsSite::of(domain), site, "{domain}");
        }
    }
}
