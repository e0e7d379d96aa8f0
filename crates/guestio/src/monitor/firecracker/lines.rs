//! Lines of a pipe that Firecracker writes to: its log and its metrics. It may have been taken over by its guest, so they are bounded.

use std::io;

use tokio::io::AsyncRead;

use super::paced::Paced;

/// Reads a pipe to its end and gives each line to `each`. What a line has beyond `max_line_bytes` is lost.
pub(super) async fn read_lines(
    pipe: impl AsyncRead + Unpin,
    max_line_bytes: usize,
    mut each: impl FnMut(&str),
) -> io::Result<()> {
    let (mut pipe, mut line) = (Paced::new(pipe), Vec::new());
    loop {
        let bytes = pipe.read().await?;
        if bytes.is_empty() {
            return Ok(());
        }
        for byte in bytes {
            if *byte == b'\n' {
                each(&String::from_utf8_lossy(&line));
                line.clear();
            } else if line.len() < max_line_bytes {
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
        let text = format!("one\n\n{}\nunfinished", "x".repeat(30));
        let mut lines = Vec::new();
        read_lines(text.as_bytes(), 10, |line| lines.push(line.to_owned())).await.unwrap();
        assert_eq!(lines, ["one", "", "xxxxxxxxxx"]);
    }
}
