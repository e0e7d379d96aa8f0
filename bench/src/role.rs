//! Process of one role: this program again, with the role alone. The first line of its standard input has its parameters, and the end of that
//! stops it.

use std::io::{BufRead, Read, Result};

use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

/// Worker threads, as in each role of `rigboxd`.
const THREADS: usize = 2;

/// Reads the parameters.
pub(crate) fn parameters<T: DeserializeOwned>() -> anyhow::Result<T> {
    let mut parameters = String::new();
    std::io::stdin().lock().read_line(&mut parameters)?;
    Ok(serde_json::from_str(&parameters)?)
}

/// Creates the runtime, as `rigboxd` does.
pub(crate) fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()
}

/// Waits until standard input ends.
pub(crate) async fn ended() {
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().lock().read_to_end(&mut Vec::new())).await;
}
