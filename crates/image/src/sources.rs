//! apt's source lists and option dump, as text: which lines of them an image may be built from.
//!
//! Only Debian's own entries count: a third-party repository of the machine has no business in an image.

/// The keyring that Debian signs its archive with; mmdebstrap and apt take it from the host.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Options that describe what apt fetches, not how: every machine has them, and an image has its own.
const NOT_NETWORK: &[&str] = &["IndexTargets", "cdrom", "Languages", "GzipIndexes", "CompressionTypes"];

/// One repository: the fields that a build needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) uris: Vec<String>,
    pub(crate) suites: Vec<String>,
    pub(crate) components: Vec<String>,
    /// Path of the keyring; `None` means apt's trusted ones.
    pub(crate) signed_by: Option<String>,
}

impl Source {
    /// This source narrowed to the Debian release `suite`, or `None` when nothing of it is Debian's.
    pub(crate) fn debian_only(self, suite: &str) -> Option<Self> {
        let debian_key = self.signed_by.as_deref().is_none_or(|key| key.contains("debian-archive"));
        let suites: Vec<String> = self.suites.into_iter().filter(|s| is_of_release(s, suite)).collect();
        let components: Vec<String> = self.components.into_iter().filter(|c| c == "main").collect();
        let usable = debian_key && !suites.is_empty() && !components.is_empty() && !self.uris.is_empty();
        usable.then_some(Self { suites, components, ..self })
    }

    /// The source as a paragraph of a deb822 `.sources` file.
    pub(crate) fn to_deb822(&self) -> String {
        format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\nSigned-By: {}\n",
            self.uris.join(" "),
            self.suites.join(" "),
            self.components.join(" "),
            self.signed_by.as_deref().unwrap_or(DEBIAN_KEYRING),
        )
    }
}

/// Whether `suite` is `release` itself, its updates or its security fixes (backports are no part of a release).
fn is_of_release(suite: &str, release: &str) -> bool {
    suite.strip_prefix(release).is_some_and(|rest| matches!(rest, "" | "-updates" | "-security" | "/updates"))
}

/// Debian's public mirror, for machines that have no Debian source of their own.
pub(crate) fn public(suite: &str) -> Vec<Source> {
    let source = |uri: &str, suites: &[String]| Source {
        uris: vec![uri.to_owned()],
        suites: suites.to_vec(),
        components: vec!["main".to_owned()],
        signed_by: Some(DEBIAN_KEYRING.to_owned()),
    };
    vec![
        source("http://deb.debian.org/debian", &[suite.to_owned(), format!("{suite}-updates")]),
        source("http://deb.debian.org/debian-security", &[format!("{suite}-security")]),
    ]
}

/// Reads a deb822 `.sources` file; disabled paragraphs and those without binary packages are left out.
pub(crate) fn parse_deb822(text: &str) -> Vec<Source> {
    let without_comments: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    without_comments.split(|line| line.trim().is_empty()).filter_map(paragraph).collect()
}

fn paragraph(lines: &[&str]) -> Option<Source> {
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    for line in lines {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        if line.starts_with([' ', '\t']) {
            fields.last_mut()?.1.extend(words(line));
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), words(value)));
        }
    }
    let mut take = |name: &str| {
        let at = fields.iter().position(|(field, _)| field == name)?;
        Some(fields.swap_remove(at).1)
    };
    let first_is = |values: Option<Vec<String>>, word: &str| {
        values.is_some_and(|v| v.first().is_some_and(|w| w == word))
    };
    if first_is(take("enabled"), "no") || !take("types")?.iter().any(|t| t == "deb") {
        return None;
    }
    Some(Source {
        uris: take("uris")?,
        suites: take("suites")?,
        components: take("components").unwrap_or_default(),
        // An embedded key block spans lines; only a path names whose key it is.
        signed_by: take("signed-by").map(|words| words.join(" ")),
    })
}

/// Reads a `sources.list`: lines like `deb [signed-by=KEY] URI SUITE COMPONENT...`.
pub(crate) fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_line).collect()
}

fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: options.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")).map(str::to_owned),
    })
}

/// Picks the options about fetching out of `apt-config dump`, each as a line that apt reads back.
pub(crate) fn acquire_options(dump: &str) -> Vec<String> {
    let network = |line: &&str| {
        let name = line.strip_prefix("Acquire::").unwrap_or_default();
        !name.is_empty() && !line.ends_with(" \"\";") && !NOT_NETWORK.iter().any(|not| name.starts_with(not))
    };
    dump.lines().filter(network).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
# The distribution's own.
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://packages.example/node
Suites: nodistro
Components: main
Signed-By: /usr/share/keyrings/example.gpg

Enabled: no
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm
Components: main
";

    #[test]
    fn only_debians_own_release_is_taken_from_deb822() {
        let sources: Vec<Source> =
            parse_deb822(DEB822).into_iter().filter_map(|s| s.debian_only("bookworm")).collect();
        assert_eq!(sources.len(), 1);
        assert_eq!(
            sources[0].to_deb822(),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
             Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        );
    }

    #[test]
    fn one_line_sources_are_read_with_and_without_options() {
        let text = "# deb http://off.example/debian bookworm main\n\
                    deb-src http://m.example/debian bookworm main\n\
                    deb http://m.example/debian bookworm main # why\n\
                    deb [arch=amd64 signed-by=/k/third.gpg] https://t.example/apt bookworm main\n";
        let sources = parse_one_line(text);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[1].signed_by.as_deref(), Some("/k/third.gpg"));
        let debian: Vec<Source> = sources.into_iter().filter_map(|s| s.debian_only("bookworm")).collect();
        assert_eq!(debian.len(), 1, "a third party's key is not Debian's: {debian:?}");
    }

    #[test]
    fn continuation_lines_belong_to_the_field_above() {
        let text =
            "Types: deb\nURIs: http://a.example\n http://b.example\nSuites: bookworm\nComponents: main\n";
        assert_eq!(parse_deb822(text)[0].uris, ["http://a.example", "http://b.example"]);
    }

    #[test]
    fn another_release_is_not_mistaken_for_ours() {
        for (suite, ours) in [
            ("bookworm", true),
            ("bookworm-security", true),
            ("bookworm-backports", false),
            ("trixie", false),
            ("stable", false),
        ] {
            assert_eq!(is_of_release(suite, "bookworm"), ours, "{suite}");
        }
    }

    #[test]
    fn acquire_options_are_those_about_fetching() {
        let dump = "APT \"\";\nAcquire \"\";\nAcquire::http::Proxy \"http://p.example:3142\";\n\
                    Acquire::Check-Date \"false\";\nAcquire::Languages \"none\";\nAcquire::cdrom::mount \"/media\";\n";
        assert_eq!(
            acquire_options(dump),
            ["Acquire::http::Proxy \"http://p.example:3142\";", "Acquire::Check-Date \"false\";"]
        );
    }
}
