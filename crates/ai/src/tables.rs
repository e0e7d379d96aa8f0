//! The tables of all dialects, as they ship.

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
}
