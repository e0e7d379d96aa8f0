//! Waiting for a condition in blocking tests.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Polls until `check` returns a value. Fails after `timeout`, with the last error of `check` if there was one.
pub fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let last = match check() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() > deadline {
            return Err(last.unwrap_or_else(|| anyhow::anyhow!("condition not met")))
                .with_context(|| format!("{what}: not within {} s", timeout.as_secs()));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_returned_and_last_error_is_reported() {
        let mut tries = 0;
        let third = eventually("third try", Duration::from_secs(10), || {
            tries += 1;
            Ok((tries == 3).then_some(tries))
        });
        assert_eq!(third.unwrap(), 3);
        let error = eventually::<()>("success", Duration::ZERO, || anyhow::bail!("broken")).unwrap_err();
        assert_eq!(format!("{error:#}"), "success: not within 0 s: broken");
    }
}
