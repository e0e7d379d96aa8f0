//! Parsers for apt's source lists and option dump.
//!
//! Only Debian's own entries are used: third-party repositories of the host do not belong in an image.

/// Keyring of the Debian archive. mmdebstrap and apt read it from the host.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Options that select what apt fetches, not how. They are defaults of every machine, and an image has its own.
const SELECTION_OPTIONS: &[&str] = &["IndexTargets", "cdrom", "Languages", "GzipIndexes", "CompressionTypes"];

/// Repository, with the fields that a build needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) uris: Vec<String>,
    pub(crate) suites: Vec<String>,
    pub(crate) components: Vec<String>,
    /// Path of the keyring. `None`: apt's trusted keyrings.
    pub(crate) signed_by: Option<String>,
}

impl Source {
    /// Narrows the source to the Debian release `suite`. Returns `None` if it has nothing of that release.
    pub(crate) fn debian_only(self, suite: &str) -> Option<Self> {
        let has_debian_key = self.signed_by.as_deref().is_none_or(|key| key.contains("debian-archive"));
        let suites: Vec<String> = self.suites.into_iter().filter(|s| belongs_to_release(s, suite)).collect();
        let components: Vec<String> = self.components.into_iter().filter(|c| c == "main").collect();
        let is_usable =
            has_debian_key && !suites.is_empty() && !components.is_empty() && !self.uris.is_empty();
        is_usable.then_some(Self { suites, components, ..self })
    }

    /// Formats the source as a paragraph of a deb822 `.sources` file.
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

/// Returns whether `suite` is `release` itself, its updates or its security fixes. Backports are not part of a release.
fn belongs_to_release(suite: &str, release: &str) -> bool {
    suite.strip_prefix(release).is_some_and(|rest| matches!(rest, "" | "-updates" | "-security" | "/updates"))
}

/// Returns Debian's public mirror, for hosts without a Debian source.
pub(crate) fn public_mirror(suite: &str) -> Vec<Source> {
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

/// Parses a deb822 `.sources` file. Skips disabled paragraphs and those without binary packages.
pub(crate) fn parse_deb822(text: &str) -> Vec<Source> {
    let without_comments: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    without_comments.split(|line| line.trim().is_empty()).filter_map(parse_paragraph).collect()
}

fn parse_paragraph(lines: &[&str]) -> Option<Source> {
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
        let index = fields.iter().position(|(field, _)| field == name)?;
        Some(fields.swap_remove(index).1)
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
        // An embedded key spans several lines. Only a path tells whose key it is.
        signed_by: take("signed-by").map(|words| words.join(" ")),
    })
}

/// Parses a `sources.list` with lines such as `deb [signed-by=KEY] URI SUITE COMPONENT...`.
pub(crate) fn parse_sources_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
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

/// Extracts the network options from the output of `apt-config dump`, as lines that apt can read.
pub(crate) fn acquire_options(dump: &str) -> Vec<String> {
    let is_network_option = |line: &&str| {
        let name = line.strip_prefix("Acquire::").unwrap_or_default();
        !name.is_empty()
            && !line.ends_with(" \"\";")
            && !SELECTION_OPTIONS.iter().any(|option| name.starts_with(option))
    };
    dump.lines().filter(is_network_option).map(str::to_owned).collect()
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
    fn only_the_debian_release_is_used_from_deb822() {
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
    fn sources_list_is_parsed_with_and_without_options() {
        let text = "# deb http://off.example/debian bookworm main\n\
                    deb-src http://m.example/debian bookworm main\n\
                    deb http://m.example/debian bookworm main # why\n\
                    deb [arch=amd64 signed-by=/k/third.gpg] https://t.example/apt bookworm main\n";
        let sources = parse_sources_list(text);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[1].signed_by.as_deref(), Some("/k/third.gpg"));
        let debian: Vec<Source> = sources.into_iter().filter_map(|s| s.debian_only("bookworm")).collect();
        assert_eq!(debian.len(), 1, "a third party's key is not Debian's: {debian:?}");
    }

    #[test]
    fn continuation_lines_belong_to_the_previous_field() {
        let text =
            "Types: deb\nURIs: http://a.example\n http://b.example\nSuites: bookworm\nComponents: main\n";
        assert_eq!(parse_deb822(text)[0].uris, ["http://a.example", "http://b.example"]);
    }

    #[test]
    fn other_releases_are_not_matched() {
        for (suite, ours) in [
            ("bookworm", true),
            ("bookworm-security", true),
            ("bookworm-backports", false),
            ("trixie", false),
            ("stable", false),
        ] {
            assert_eq!(belongs_to_release(suite, "bookworm"), ours, "{suite}");
        }
    }

    #[test]
    fn acquire_options_are_network_options_only() {
        let dump = "APT \"\";\nAcquire \"\";\nAcquire::http::Proxy \"http://p.example:3142\";\n\
                    Acquire::Check-Date \"false\";\nAcquire::Languages \"none\";\nAcquire::cdrom::mount \"/media\";\n";
        assert_eq!(
            acquire_options(dump),
            ["Acquire::http::Proxy \"http://p.example:3142\";", "Acquire::Check-Date \"false\";"]
        );
    }
}
