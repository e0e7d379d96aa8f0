//! What can go wrong while an image is built or read, one variant per thing the caller can do about it.

use std::path::{Path, PathBuf};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program of the host is missing.
    #[error("building an image needs `{}` on this machine; install with: apt-get install {packages}", .programs.join("`, `"))]
    MissingPrograms {
        /// The programs that are not on `PATH`.
        programs: Vec<String>,
        /// The Debian packages to install, separated by spaces.
        packages: String,
    },
    /// Building needs root: the files of the image belong to several users.
    #[error("building an image needs root (it creates files of several users); run it with sudo")]
    NotRoot,
    /// A recipe that does not parse or contradicts itself.
    #[error("recipe {}: {problem}", .path.display())]
    Recipe {
        /// The recipe file.
        path: PathBuf,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("{action} {}: {source}", .path.display())]
    File {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A program of the host failed.
    #[error("`{program}` failed ({status}) while {purpose}; its last words:\n{tail}")]
    Command {
        /// The program.
        program: String,
        /// What it was run for.
        purpose: String,
        /// Its exit status.
        status: String,
        /// The end of what it printed.
        tail: String,
    },
    /// A kernel package that does not look like Debian's cloud kernel.
    #[error("kernel package: {0}; the recipe must name a Debian amd64 cloud kernel")]
    Kernel(String),
    /// An image folder that is not whole.
    #[error("image {} is not complete: {problem}; delete the folder and build it again", .path.display())]
    Incomplete {
        /// The folder.
        path: PathBuf,
        /// What is missing or unreadable.
        problem: String,
    },
    /// No place to keep images in.
    #[error("no cache folder: none of RIGBOX_CACHE, XDG_CACHE_HOME and HOME is set; set RIGBOX_CACHE")]
    NoCacheDir,
    /// No image of that name was ever built.
    #[error("no image `{name}` in {}; build it with: cargo xtask image {name}", .cache.display())]
    NotBuilt {
        /// The image's name.
        name: String,
        /// The cache folder that was searched.
        cache: PathBuf,
    },
}

impl Error {
    /// An adapter for `map_err`: remembers what was done to which path.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}
