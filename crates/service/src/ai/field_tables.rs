//! Tables of the fields that AI calls may have, in place of those that ship with the proxy: files, read anew when they change. The proxy
//! knows the format; here they are texts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{error, info};

/// Names of the tables, which are the names of their files without `.toml`.
const NAMES: [&str; 6] =
    ["anthropic", "google", "google_embed", "openai_chat", "openai_embeddings", "openai_responses"];
/// Maximum size of a table in bytes.
const MAX_TABLE_BYTES: u64 = 256 << 10;
/// Interval at which the files are read.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// Texts of tables by name.
pub type TableTexts = BTreeMap<&'static str, String>;

/// Service for the tables of a folder.
#[derive(Clone)]
pub struct FieldTables {
    folder: Option<Arc<Path>>,
    texts: watch::Sender<Arc<TableTexts>>,
}

impl FieldTables {
    /// Creates the service and reads the tables. Without a folder there are none.
    pub fn new(folder: Option<&Path>) -> Self {
        let tables = Self { folder: folder.map(Into::into), texts: watch::channel(Arc::default()).0 };
        tables.reload();
        tables
    }

    /// Returns the texts of now.
    pub fn current(&self) -> Arc<TableTexts> {
        Arc::clone(&self.texts.borrow())
    }

    /// Returns a receiver of changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<TableTexts>> {
        self.texts.subscribe()
    }

    /// Reads the files again and again, for as long as it is polled.
    pub async fn run(&self) {
        if self.folder.is_none() {
            return;
        }
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            self.reload();
        }
    }

    /// Reads the files. If one cannot be read, all of before stay.
    fn reload(&self) {
        let Some(folder) = &self.folder else { return };
        match read(folder) {
            Ok(texts) if texts == *self.current() => {}
            Ok(texts) => {
                info!(tables = ?texts.keys().collect::<Vec<_>>(), "read the tables of AI calls");
                self.texts.send_replace(Arc::new(texts));
            }
            Err(problem) => {
                error!(folder = %folder.display(), %problem, "cannot read the tables of AI calls; the previous ones stay");
            }
        }
    }
}

/// Reads the tables of a folder. Those without a file ship with the proxy.
fn read(folder: &Path) -> io::Result<TableTexts> {
    // A folder that is missing is an error, and not a folder without files.
    std::fs::read_dir(folder)?;
    let mut texts = TableTexts::new();
    for name in NAMES {
        let path = folder.join(format!("{name}.toml"));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => continue,
            Err(problem) => return Err(problem),
        };
        let mut text = String::new();
        file.take(MAX_TABLE_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_TABLE_BYTES {
            return Err(io::Error::other(format!(
                "{} is larger than {MAX_TABLE_BYTES} bytes",
                path.display()
            )));
        }
        texts.insert(name, text);
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_files_are_read_and_a_missing_folder_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let tables = FieldTables::new(Some(folder.path()));
        assert!(tables.current().is_empty());
        std::fs::write(folder.path().join("anthropic.toml"), "[Request]").unwrap();
        std::fs::write(folder.path().join("other.toml"), "ignored").unwrap();
        tables.reload();
        assert_eq!(*tables.current(), TableTexts::from([("anthropic", "[Request]".to_owned())]));
        std::fs::remove_dir_all(folder.path()).unwrap();
        tables.reload();
        assert_eq!(tables.current().len(), 1);
    }
}
