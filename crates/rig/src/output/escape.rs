//! Escapes text of a guest or a server for a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// Escapes all characters that control a terminal or disguise the text.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_control(character) {
            let _ = write!(escaped, "{}", character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Escapes the same characters in JSON, where they are in strings only. A program reads what it read before.
pub(crate) fn escape_json(json: &str) -> Cow<'_, str> {
    if !json.chars().any(is_control) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if is_control(character) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

fn is_control(character: char) -> bool {
    character.is_control()
        // Bidirectional controls, and separators that some terminals break lines at.
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_shows_no_control_characters_and_means_the_same() {
        let value = serde_json::json!({"text": "a\u{7f}b\u{9b}2J\u{202e}c\u{1b}\n猫"});
        let json = serde_json::to_string(&value).unwrap();
        let shown = escape_json(&json);
        assert!(!shown.chars().any(is_control), "{shown}");
        assert!(
            shown.contains("\\u007f") && shown.contains("\\u009b") && shown.contains("\\u202e"),
            "{shown}"
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn control_characters_are_escaped() {
        for (text, shown) in [
            ("plain ä 猫", "plain ä 猫"),
            ("\u{1b}]0;owned\u{7}", "\\u{1b}]0;owned\\u{7}"),
            ("a\r\nb\tc", "a\\r\\nb\\tc"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
            ("a\u{202e}b", "a\\u{202e}b"),
        ] {
            assert_eq!(escape(text), shown);
        }
    }
}
