//! Progress indicator on stderr.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::escape;

/// Spinner that disappears when dropped.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(super) fn new(visible: bool) -> Self {
        Self(visible.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        }))
    }

    /// Shows the current step.
    pub(crate) fn set_message(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(escape(text).into_owned());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
