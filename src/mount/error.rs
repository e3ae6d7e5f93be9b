//! What can go wrong with a mount, in words for the person who reads `docker run`'s answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::template::TemplateError;

/// Why something was not mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that could not be started.
    #[error("could not run `{program}`: {error}")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// A program that said no.
    #[error("{} ({program}: {status})", said(words))]
    Failed {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// Its last words.
        words: String,
    },
    /// A program that was not done in time, and was ended.
    #[error("`{program}` was not done after {:.1} s and was ended{}", after.as_secs_f32(), and_said(words))]
    TimedOut {
        /// Its name.
        program: String,
        /// How long it had.
        after: Duration,
        /// Its last words.
        words: String,
    },
    /// The daemon is going down.
    #[error("the daemon was told to stop, so `{program}` was ended; try again")]
    Cancelled {
        /// Its name.
        program: String,
    },
    /// A program that claimed success.
    #[error("its command succeeded but mounted nothing{}", and_said(words))]
    NothingMounted {
        /// Its last words.
        words: String,
    },
    /// Something is there that is none of ours.
    #[error("{} has a filesystem of type {fs_type}, which is not FUSE; `umount {0}` takes it away", target.display())]
    NotFuse {
        /// The mount point.
        target: PathBuf,
        /// What is there.
        fs_type: String,
    },
    /// A filesystem that hangs.
    #[error(
        "the filesystem on {} has not answered for {:.0} s{}; wait for its server, or end the helper and use \
         `easyfuse volume remount`",
        target.display(), limit.as_secs_f32(), by_helper(*helper)
    )]
    Unresponsive {
        /// The mount point.
        target: PathBuf,
        /// The process that serves it.
        helper: Option<u32>,
        /// How long it was asked.
        limit: Duration,
    },
    /// A filesystem that somebody uses on this host.
    #[error("{} is busy: a process on this host uses it (`fuser -vm {0}` names it){}", target.display(), and_said(words))]
    Busy {
        /// The mount point.
        target: PathBuf,
        /// What umount said.
        words: String,
    },
    /// A template that can't be used.
    #[error("bad command template: {0}")]
    Template(#[from] TemplateError),
    /// What the host's own filesystem said.
    #[error("could not {doing} {}: {error}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), error }
    }
}

fn said(words: &str) -> &str {
    if words.is_empty() { "the command failed without a word" } else { words }
}

fn and_said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!("; it said: {words}") }
}

fn by_helper(helper: Option<u32>) -> String {
    helper.map(|pid| format!(" (its helper is process {pid})")).unwrap_or_default()
}
