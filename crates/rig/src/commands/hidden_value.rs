//! Values that stay out of the shell's history: from a prompt that shows nothing, or from stdin.

use std::io::{Read, Write, stderr, stdin};

use crate::failure::Failure;
use crate::output::escape;
use crate::terminal::{Stdin, read_hidden};

/// Limit for a value from stdin, above the server's own.
const MAX_VALUE_BYTES: u64 = 1024 * 1024;

/// Reads the value of `name`. `otherwise` tells how else to give it.
pub(super) fn read(name: &str, otherwise: &str) -> Result<String, Failure> {
    match Stdin::of_process() {
        Stdin::Terminal => {
            let _ = write!(stderr(), "{}: ", escape(name));
            let typed = read_hidden();
            let _ = writeln!(stderr());
            let unread = |error| missing(name, &format!("cannot read the terminal: {error}"));
            typed.map_err(unread)?.ok_or_else(|| Failure::new("cancelled", "canceled; nothing was set"))
        }
        Stdin::Null => Err(missing(name, &format!("{otherwise}, or pass the value on stdin"))),
        Stdin::Data => {
            let mut value = String::new();
            let read = stdin().lock().take(MAX_VALUE_BYTES).read_to_string(&mut value);
            read.map_err(|error| missing(name, &format!("cannot read stdin: {error}")))?;
            // The newline of `echo` or of a file.
            if value.ends_with('\n') {
                value.pop();
            }
            Ok(value)
        }
    }
}

/// Returns the failure of a value that is not there.
pub(super) fn missing(name: &str, why: &str) -> Failure {
    Failure::new("usage", format!("no value for `{name}`: {why}"))
}
