//! Sanitizing of text from a guest or its VMM before it reaches logs, statuses and people.

const MAX_CHARS: usize = 1024;

/// Returns the first 1,024 characters of `text`, without control characters.
pub(crate) fn sanitize(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_and_excess_are_removed() {
        assert_eq!(super::sanitize("a\x1b[31mb\nc"), "a[31mbc");
        assert_eq!(super::sanitize(&"ä".repeat(5000)).chars().count(), 1024);
    }
}
