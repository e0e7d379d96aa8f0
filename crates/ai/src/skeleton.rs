//! Skeleton of a JSON answer while it passes: what tells its use, without the long texts, vectors and probabilities that make answers large.
//! A workspace can ask for a hundred megabytes of them for cents, many times at once.

/// Length of a text that is kept, in bytes.
const MAX_TEXT_BYTES: usize = 256;
/// Length of a skeleton, in bytes.
const MAX_BYTES: usize = 2 << 20;
/// Fields whose values are left out, and are 0 in the skeleton.
const LEFT_OUT: [&[u8]; 3] = [b"embedding", b"logprobs", b"logprobsResult"];

/// Skeleton of one answer. What comes before the first bracket is no part of it.
#[derive(Debug, Default)]
pub(crate) struct Skeleton {
    kept: Vec<u8>,
    has_begun: bool,
    /// Brackets that are open.
    depth: usize,
    place: Place,
    /// Where the last text begins in `kept`, at its quotation mark.
    text_at: usize,
    /// The text is too long, and is left out.
    is_cut: bool,
    /// Brackets that are open around a value that is left out.
    left_out_in: Option<usize>,
    is_too_long: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Outside,
    Text,
    /// Behind a backslash.
    Escape,
}

impl Skeleton {
    /// Adds what has come.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.push_byte(*byte);
        }
    }

    /// Returns the skeleton, or none of an answer whose skeleton is too long.
    pub(crate) fn get(&self) -> Option<&[u8]> {
        (!self.is_too_long).then_some(&self.kept)
    }

    fn push_byte(&mut self, byte: u8) {
        if !self.has_begun {
            self.has_begun = matches!(byte, b'{' | b'[');
            if !self.has_begun {
                return;
            }
        }
        match self.place {
            Place::Escape => self.place = Place::Text,
            Place::Text => match byte {
                b'\\' => self.place = Place::Escape,
                b'"' => return self.end_text(),
                _ => {}
            },
            Place::Outside => return self.push_outside(byte),
        }
        if self.is_kept() && !self.is_cut {
            self.keep(byte);
            if self.kept.len() - self.text_at > MAX_TEXT_BYTES {
                self.kept.truncate(self.text_at + 1);
                self.is_cut = true;
            }
        }
    }

    fn end_text(&mut self) {
        self.place = Place::Outside;
        self.is_cut = false;
        if self.is_kept() {
            self.keep(b'"');
        }
    }

    fn push_outside(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.place = Place::Text;
                if self.is_kept() {
                    self.text_at = self.kept.len();
                }
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                // It also ends the object in which a value is left out.
                self.end_left_out();
                self.depth = self.depth.saturating_sub(1);
            }
            b',' => self.end_left_out(),
            _ => {}
        }
        if self.is_kept() {
            self.keep(byte);
            if byte == b':' && self.last_text().is_some_and(|name| LEFT_OUT.contains(&name)) {
                self.keep(b'0');
                self.left_out_in = Some(self.depth);
            }
        }
    }

    fn end_left_out(&mut self) {
        if self.left_out_in == Some(self.depth) {
            self.left_out_in = None;
        }
    }

    fn last_text(&self) -> Option<&[u8]> {
        let text = self.kept.get(self.text_at..)?.strip_prefix(b"\"")?;
        text.split(|byte| *byte == b'"').next()
    }

    fn is_kept(&self) -> bool {
        self.left_out_in.is_none()
    }

    fn keep(&mut self, byte: u8) {
        if self.kept.len() < MAX_BYTES {
            self.kept.push(byte);
        } else {
            self.is_too_long = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn skeleton(text: &str) -> Option<Value> {
        let mut skeleton = Skeleton::default();
        skeleton.push(text.as_bytes());
        serde_json::from_slice(skeleton.get()?).ok()
    }

    #[test]
    fn what_tells_the_use_is_kept_and_what_is_large_is_not() {
        let answer = json!({"id": "a\"}],", "data": [{"embedding": [0.5, [1]], "index": 0}, {"index": 1, "embedding": "eA=="}],
            "choices": [{"message": {"content": "x\\\"".repeat(1_000)}, "logprobs": {"content": [{"token": "}"}]}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "note": "äö"}});
        let expected = json!({"id": "a\"}],", "data": [{"embedding": 0, "index": 0}, {"index": 1, "embedding": 0}],
            "choices": [{"message": {"content": ""}, "logprobs": 0, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "note": "äö"}});
        for text in [answer.to_string(), serde_json::to_string_pretty(&answer).unwrap()] {
            assert_eq!(skeleton(&text), Some(expected.clone()), "{text}");
            assert_eq!(skeleton(&format!("event: e\ndata: {text}\n\n")), Some(expected.clone()));
        }
    }

    #[test]
    fn skeleton_is_bounded() {
        let mut skeleton = Skeleton::default();
        skeleton.push(b"[0");
        for _ in 0..MAX_BYTES {
            skeleton.push(b",0");
        }
        assert_eq!(skeleton.get(), None);
        assert!(skeleton.kept.len() <= MAX_BYTES);
    }
}
