//! Output of commands: text and tables for people, or JSON events for programs, never both. Warnings go to stderr, and so does progress if
//! stderr is a terminal.

mod escape;
mod events;
mod progress;

use std::io::{IsTerminal, Write, stderr, stdout};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::{Map, Value};

pub(crate) use escape::{escape, escape_json};
pub(crate) use events::{Chunk, CurrentWorkspace, Event, Identity};
pub(crate) use progress::Progress;

use crate::failure::Failure;

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // Without doc comments, which the help would show beside those of the option.
    Text,
    Json,
}

/// Writer of a command's output.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Writes an event, in JSON only.
    pub(crate) fn event(&self, event: &Event<'_>) -> Result<(), Failure> {
        self.object(event)
    }

    /// Writes a response of the API as an event, in JSON only.
    pub(crate) fn response(&self, event: &str, mut fields: Map<String, Value>) -> Result<(), Failure> {
        fields.insert("event".to_owned(), event.into());
        self.object(&fields)
    }

    fn object(&self, object: &impl Serialize) -> Result<(), Failure> {
        match self.format {
            Format::Text => Ok(()),
            Format::Json => {
                let json = serde_json::to_string(object).map_err(std::io::Error::from)?;
                Ok(write_line(&escape_json(&json))?)
            }
        }
    }

    /// Writes a line, in text only. The caller escapes the parts of it that come from elsewhere.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        match self.format {
            Format::Text => Ok(write_line(text)?),
            Format::Json => Ok(()),
        }
    }

    /// Writes a table, in text only. Its cells may come from anywhere.
    pub(crate) fn table(
        &self,
        head: &[&str],
        rows: impl Iterator<Item = Vec<String>>,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Text => self.line(&render_table(head, rows)),
            Format::Json => Ok(()),
        }
    }

    /// Writes the fields of an object as a table, in text only.
    pub(crate) fn fields(&self, object: &Map<String, Value>) -> Result<(), Failure> {
        let rows = object.iter().map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            vec![name.replace('_', " "), value]
        });
        self.table(&["FIELD", "VALUE"], rows)
    }

    /// Writes a warning to stderr.
    pub(crate) fn warn(&self, text: &str) {
        let _ = writeln!(stderr(), "rig: warning: {}", escape(text));
    }

    /// Starts a progress indicator.
    pub(crate) fn progress(&self) -> Progress {
        Progress::new(stderr().is_terminal())
    }

    /// Writes the failure that ends the command.
    pub(crate) fn failure(&self, failure: &Failure) {
        let Some((code, message)) = failure.report() else { return };
        match self.format {
            Format::Text => drop(writeln!(stderr(), "rig: {}", escape(message))),
            Format::Json => drop(self.event(&Event::Error { code, message })),
        }
    }
}

/// Returns a response of the API as the fields of an event.
pub(crate) fn fields_of(response: &impl Serialize) -> Result<Map<String, Value>, Failure> {
    match serde_json::to_value(response) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(Failure::new("internal", "the response is not a JSON object")),
    }
}

fn write_line(text: &str) -> std::io::Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

fn render_table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head);
    for row in rows {
        table.add_row(row.iter().map(|cell| escape(cell).into_owned()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_one_line_per_row_whatever_its_cells_contain() {
        let rows = [vec!["a\nb".to_owned(), "\u{1b}[2J".to_owned()], vec!["c".to_owned(), "d".to_owned()]];
        let text = render_table(&["NAME", "STATUS"], rows.into_iter());
        assert_eq!(text, "NAME  STATUS\na\\nb  \\u{1b}[2J\nc     d");
    }
}
