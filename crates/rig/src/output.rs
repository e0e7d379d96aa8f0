//! What a command prints: text and tables for people, or events for programs, never both. Progress and warnings go to
//! stderr, progress only when it is a terminal.

mod events;
mod plain;
mod progress;

use std::io::{IsTerminal, Write, stderr, stdout};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::{Map, Value};

pub(crate) use events::{Event, FoundWorkspace, Identity, Piece};
pub(crate) use plain::plain;
pub(crate) use progress::Progress;

use crate::failure::Failure;

/// For whom the output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // No comments for the help: the option's own says which is for whom.
    Text,
    Json,
}

/// Where a command's output goes.
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

    /// One event, for programs only.
    pub(crate) fn event(&self, event: &Event<'_>) -> Result<(), Failure> {
        self.object(event)
    }

    /// The API's answer as one event, for programs only.
    pub(crate) fn answer(&self, event: &str, mut fields: Map<String, Value>) -> Result<(), Failure> {
        fields.insert("event".to_owned(), event.into());
        self.object(&fields)
    }

    fn object(&self, object: &impl Serialize) -> Result<(), Failure> {
        match self.format {
            Format::Text => Ok(()),
            Format::Json => Ok(line(&serde_json::to_string(object).map_err(std::io::Error::from)?)?),
        }
    }

    /// A line for people only. Parts of it that come from elsewhere must have gone through `plain`.
    pub(crate) fn say(&self, text: &str) -> Result<(), Failure> {
        match self.format {
            Format::Text => Ok(line(text)?),
            Format::Json => Ok(()),
        }
    }

    /// A table for people only; its cells may come from anywhere.
    pub(crate) fn table(
        &self,
        head: &[&str],
        rows: impl Iterator<Item = Vec<String>>,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Text => self.say(&table(head, rows)),
            Format::Json => Ok(()),
        }
    }

    /// Something that everybody should know, and no program has to.
    pub(crate) fn warn(&self, text: &str) {
        let _ = writeln!(stderr(), "rig: warning: {}", plain(text));
    }

    /// Shows that something goes on.
    pub(crate) fn progress(&self) -> Progress {
        Progress::new(stderr().is_terminal())
    }

    /// The last thing said.
    pub(crate) fn failure(&self, failure: &Failure) {
        let Failure::Told { code, message, .. } = failure else { return };
        match self.format {
            Format::Text => drop(writeln!(stderr(), "rig: {}", plain(message))),
            Format::Json => drop(self.event(&Event::Error { code, message })),
        }
    }
}

/// An answer of the API as the fields of an event.
pub(crate) fn answer_of(answer: &impl Serialize) -> Result<Map<String, Value>, Failure> {
    match serde_json::to_value(answer) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(Failure::new("internal", "an answer is no JSON object")),
    }
}

fn line(text: &str) -> std::io::Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head);
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell).into_owned()));
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
    fn a_table_has_a_line_per_row_whatever_is_in_the_cells() {
        let rows = [vec!["a\nb".to_owned(), "\u{1b}[2J".to_owned()], vec!["c".to_owned(), "d".to_owned()]];
        let text = table(&["NAME", "STATUS"], rows.into_iter());
        assert_eq!(text, "NAME  STATUS\na\\nb  \\u{1b}[2J\nc     d");
    }
}
