//! Text from a guest or its VMM, made fit for logs, statuses and people.

/// Longest text that is passed on, characters.
const LONGEST: usize = 1024;

/// At most 1,024 characters, without control characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_and_excess_go() {
        assert_eq!(super::clean("a\x1b[31mb\nc"), "a[31mbc");
        assert_eq!(super::clean(&"ä".repeat(5000)).chars().count(), 1024);
    }
}
