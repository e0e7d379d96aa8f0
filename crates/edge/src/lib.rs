//! `edge`: the role through which browsers and programs reach apps. It decides by what control says who has access to an app, and dials
//! into the VM through the node. It holds no database and no key of the platform.
//!
//! The path of a request: [`accept`] takes the connection and [`inbound`] reads its bytes strictly, [`request`] says what the request asks
//! for, [`decision`] says whether it may, [`upstream`] talks to the app. [`pipeline`] calls these in order. Each worker, one per core, does
//! all of this alone; they share the cache of decisions.

mod accept;
mod config;
mod context;
mod decision;
mod error;
mod error_pages;
mod forward;
mod inbound;
mod memory;
mod pipeline;
mod platform_paths;
mod request;
mod server;
mod state;
mod upstream;
mod websocket;
mod worker;

pub use config::{Config, Limits, Tls};
pub use error::Error;
pub use rigbox_tls::TlsError;
pub use server::{Bound, bind};
