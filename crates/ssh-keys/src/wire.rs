//! Data types of SSH (RFC 4251, section 5) in messages.

use ssh_encoding::{Decode, Encode, Reader};

/// Message that is not what its number promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message is malformed")]
pub struct Malformed;

/// Reader of one message.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Reads what follows the message's number.
    ///
    /// # Errors
    /// [`Malformed`] for an empty message.
    pub fn of(message: &'a [u8]) -> Result<Self, Malformed> {
        message.get(1..).map(Self).ok_or(Malformed)
    }

    /// Reads bytes from their start.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Reads a truth value.
    ///
    /// # Errors
    /// [`Malformed`] if it is not there.
    pub fn boolean(&mut self) -> Result<bool, Malformed> {
        // Any other value than 0 is true.
        Ok(u8::decode(&mut self.0).map_err(|_| Malformed)? != 0)
    }

    /// Reads a number.
    ///
    /// # Errors
    /// [`Malformed`] if it is not there.
    pub fn uint32(&mut self) -> Result<u32, Malformed> {
        u32::decode(&mut self.0).map_err(|_| Malformed)
    }

    /// Reads bytes that their length precedes.
    ///
    /// # Errors
    /// [`Malformed`] if it is not there.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.uint32()?).map_err(|_| Malformed)?;
        self.bytes(len)
    }

    /// Reads a text that its length precedes.
    ///
    /// # Errors
    /// [`Malformed`] if it is not there, or no UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.string()?).map_err(|_| Malformed)
    }

    /// Reads a number of bytes.
    ///
    /// # Errors
    /// [`Malformed`] if it is not there.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Returns whether there is no more of the message.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        Reader::is_finished(&self.0)
    }

    /// Ends the message.
    ///
    /// # Errors
    /// [`Malformed`] if there is more of it.
    pub fn end(self) -> Result<(), Malformed> {
        if self.is_finished() { Ok(()) } else { Err(Malformed) }
    }
}

/// Writer of one message.
#[derive(Debug, Clone, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// Begins the message with this number.
    #[must_use]
    pub fn new(number: u8) -> Self {
        Self(vec![number])
    }

    /// Writes a truth value.
    #[must_use]
    pub fn boolean(mut self, value: bool) -> Self {
        self.0.push(u8::from(value));
        self
    }

    /// Writes a number.
    #[must_use]
    pub fn uint32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Writes bytes as they are.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Writes bytes after their length.
    #[must_use]
    pub fn string(mut self, bytes: impl AsRef<[u8]>) -> Self {
        // Fails for more than 4 GiB only, which no message has.
        let _ = bytes.as_ref().encode(&mut self.0);
        self
    }

    /// Writes a positive number, the most significant byte first.
    #[must_use]
    pub fn mpint(self, digits: &[u8]) -> Self {
        let zeros = digits.iter().take_while(|digit| **digit == 0).count();
        let digits = digits.get(zeros..).unwrap_or_default();
        if digits.first().is_some_and(|first| *first >= 0x80) {
            self.string([&[0], digits].concat())
        } else {
            self.string(digits)
        }
    }

    /// Returns the message.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positive_numbers_are_written_as_in_the_standard() {
        let mpint = |digits: &[u8]| Message::default().mpint(digits).into_bytes();
        assert_eq!(mpint(&[0, 0]), [0, 0, 0, 0]);
        assert_eq!(mpint(&[0, 0x80]), [0, 0, 0, 2, 0, 0x80]);
        assert_eq!(mpint(&[9, 0xa3]), [0, 0, 0, 2, 9, 0xa3]);
    }

    #[test]
    fn fields_end_where_the_message_ends() {
        let message = Message::new(9).string("ab").uint32(7).boolean(true).into_bytes();
        let mut fields = Fields::of(&message).unwrap();
        assert_eq!(fields.text(), Ok("ab"));
        assert_eq!(fields.uint32(), Ok(7));
        assert_eq!(fields.end(), Err(Malformed));
        assert_eq!(fields.boolean(), Ok(true));
        assert_eq!(fields.end(), Ok(()));
        assert_eq!(Fields::new(&[0, 0, 0, 9, 1]).string(), Err(Malformed));
    }
}
