//! AI provider for tests: a server that speaks the protocols of Anthropic, OpenAI and Google as their own do, and records what it saw and
//! what it would bill. Real ones cannot be reached by tests, cost money, and do not fail on request.
//!
//! What it does follows from words in the request, so that any client can ask for it: see [`Scenario`].

mod anthropic;
mod chat;
mod google;
mod responses;
mod scenario;
mod server;
mod tools;

pub use scenario::Scenario;
pub use server::{Billed, Provider, Seen};
