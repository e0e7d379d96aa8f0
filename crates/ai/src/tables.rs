//! The tables of all dialects: those that ship, or the operator's in their place.

use rigbox_proto::ai::FieldTable;

use crate::table::{InvalidTable, Table};

/// Table of each kind of request.
#[derive(Debug, Clone)]
pub struct Tables {
    /// Anthropic's messages, and the count of their tokens.
    pub anthropic: Table,
    /// OpenAI's chat completions.
    pub openai_chat: Table,
    /// OpenAI's responses, and the count of their tokens.
    pub openai_responses: Table,
    /// OpenAI's embeddings.
    pub openai_embeddings: Table,
    /// Google's contents.
    pub google: Table,
    /// Google's embeddings.
    pub google_embed: Table,
}

/// Table of the operator's that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplacementError {
    #[error("there is no table `{0}`")]
    Unknown(String),
    #[error("the table `{0}` is not valid: {1}")]
    Invalid(String, InvalidTable),
}

impl Tables {
    /// Parses the tables that ship.
    ///
    /// # Errors
    /// A table does not follow the format, which the tests rule out.
    pub fn built_in() -> Result<Self, InvalidTable> {
        Ok(Self {
            anthropic: Table::parse(include_str!("../tables/anthropic.toml"), false)?,
            openai_chat: Table::parse(include_str!("../tables/openai_chat.toml"), false)?,
            openai_responses: Table::parse(include_str!("../tables/openai_responses.toml"), false)?,
            openai_embeddings: Table::parse(include_str!("../tables/openai_embeddings.toml"), false)?,
            google: Table::parse(include_str!("../tables/google.toml"), true)?,
            google_embed: Table::parse(include_str!("../tables/google_embed.toml"), true)?,
        })
    }

    /// Returns these tables with some of them replaced.
    pub(crate) fn with(&self, replacements: &[FieldTable]) -> Result<Self, ReplacementError> {
        let mut tables = self.clone();
        for FieldTable { name, text } in replacements {
            let (table, snake_case) = match name.as_str() {
                "anthropic" => (&mut tables.anthropic, false),
                "openai_chat" => (&mut tables.openai_chat, false),
                "openai_responses" => (&mut tables.openai_responses, false),
                "openai_embeddings" => (&mut tables.openai_embeddings, false),
                "google" => (&mut tables.google, true),
                "google_embed" => (&mut tables.google_embed, true),
                _ => return Err(ReplacementError::Unknown(name.clone())),
            };
            let parsed = Table::parse(text, snake_case);
            *table = parsed.map_err(|problem| ReplacementError::Invalid(name.clone(), problem))?;
        }
        Ok(tables)
    }
}
