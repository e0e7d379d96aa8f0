//! Log of Firecracker, whose lines say why it ends. The VMM may have been taken over by its guest, so what it writes is bounded.

use std::io;

use tokio::io::AsyncRead;

use super::paced::Paced;

/// Size of a line. The rest of a longer one is lost.
const MAX_LINE_BYTES: usize = 1024;

/// Reads a log to its end and gives each line to `each`.
pub(super) async fn read_lines(log: impl AsyncRead + Unpin, mut each: impl FnMut(&str)) -> io::Result<()> {
    let (mut log, mut line) = (Paced::new(log), Vec::new());
    loop {
        let bytes = log.read().await?;
        if bytes.is_empty() {
            return Ok(());
        }
        for byte in bytes {
            if *byte == b'\n' {
                each(&String::from_utf8_lossy(&line));
                line.clear();
            } else if line.len() < MAX_LINE_BYTES {
                line.push(*byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_told_and_bounded() {
        let text = format!("one\n\n{}\nunfinished", "x".repeat(3 * MAX_LINE_BYTES));
        let mut lines = Vec::new();
        read_lines(text.as_bytes(), |line| lines.push(line.to_owned())).await.unwrap();
        assert_eq!(lines, ["one", "", &"x".repeat(MAX_LINE_BYTES)]);
    }
}
