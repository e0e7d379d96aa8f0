//! Durations on the command line: `90`, `30s`, `5m`, `12h`, `30d`.

use std::time::Duration;

/// Parses a duration; a number without a unit is seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
    let unit_s = match unit {
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(EXPECTED.to_owned()),
    };
    let seconds = number.parse::<f64>().map_err(|_| EXPECTED.to_owned())? * unit_s;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or(EXPECTED.to_owned())
}

const EXPECTED: &str = "expected a duration such as 30s, 5m, 12h or 30d";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_has_a_unit_or_is_in_seconds() {
        for (text, seconds) in
            [("90", 90.0), ("0.5", 0.5), ("30s", 30.0), ("5m", 300.0), ("2h", 7200.0), ("30d", 2_592_000.0)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for bad in ["", "s", "0", "-1s", "1w", "1 s", "tomorrow", "infd", "nan"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
