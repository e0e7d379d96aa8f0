//! Errors of building and loading images, one variant per remedy.

use std::path::{Path, PathBuf};

/// Reason why an image could not be built or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program of the host is missing.
    #[error("building an image needs the programs `{}`: install them with `apt-get install {packages}`", .programs.join("`, `"))]
    MissingPrograms {
        /// Programs that are not on `PATH`.
        programs: Vec<String>,
        /// Debian packages to install, separated by spaces.
        packages: String,
    },
    /// Building needs root, because the files of the image belong to several users.
    #[error("building an image needs root: run it with sudo")]
    NotRoot,
    /// A recipe is malformed or contradicts itself.
    #[error("recipe {}: {problem}", .path.display())]
    Recipe {
        /// Recipe file.
        path: PathBuf,
        /// Problem and its correction.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("failed to {action} {}: {source}", .path.display())]
    File {
        /// Action that was tried, as a verb.
        action: &'static str,
        /// File or folder.
        path: PathBuf,
        /// Cause of the failure.
        source: std::io::Error,
    },
    /// A program of the host failed.
    #[error("`{program}` failed ({status}) while {purpose}. Its output ends with:\n{tail}")]
    Command {
        /// Program.
        program: String,
        /// Purpose of the program.
        purpose: String,
        /// Exit status.
        status: String,
        /// End of its output.
        tail: String,
    },
    /// The kernel package is not a Debian cloud kernel.
    #[error("unsupported kernel package: {0}; the recipe must name a Debian amd64 cloud kernel")]
    Kernel(String),
    /// An image folder is incomplete.
    #[error("image {} is incomplete: {problem}; delete the folder and build the image again", .path.display())]
    Incomplete {
        /// Image folder.
        path: PathBuf,
        /// Missing or unreadable part.
        problem: String,
    },
    /// There is no cache folder.
    #[error("no cache folder: set RIGBOX_CACHE, XDG_CACHE_HOME or HOME")]
    NoCacheDir,
    /// There is no image of that name.
    #[error("no image `{name}` in {}: build it with `cargo xtask image {name}`", .cache.display())]
    NotBuilt {
        /// Name of the image.
        name: String,
        /// Cache folder that was searched.
        cache: PathBuf,
    },
}

impl Error {
    /// Returns a converter for `map_err` on a call about `path`.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}
