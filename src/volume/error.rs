//! What the plugin answers when it says no. One sentence each, since Docker shows it on one line.

use std::io;
use std::path::PathBuf;

use super::name::{NameError, VolumeName};
use super::options::OptionsError;
use crate::mount;

/// Why a request about a volume failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that no volume can have.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An ID that no engine gives.
    #[error("{0}")]
    Id(&'static str),
    /// No volume of this name.
    #[error("no such volume: {0}; `docker volume create -d easyfuse -o device=… {0}` makes it")]
    NotFound(VolumeName),
    /// A volume of this name, but another one.
    #[error(
        "volume {0} exists with other options; `docker volume rm {0}` removes it, and `easyfuse volume inspect {0}` shows it"
    )]
    Exists(VolumeName),
    /// Options that make no volume.
    #[error("volume {name}: {error}")]
    Options {
        /// The volume.
        name: VolumeName,
        /// What is wrong.
        error: OptionsError,
    },
    /// Somebody still uses it.
    #[error(
        "volume {name} is in use: {users}; stop what uses it, or `easyfuse volume unmount --force {name}`"
    )]
    InUse {
        /// The volume.
        name: VolumeName,
        /// Who.
        users: String,
    },
    /// Its record can't be read.
    #[error("volume {name} can't be used: {reason}; mend or remove {} and restart easyfuse", path.display())]
    Unreadable {
        /// The volume.
        name: VolumeName,
        /// What is wrong with it.
        reason: String,
        /// The record.
        path: PathBuf,
    },
    /// The mount, the unmount, or the look at them.
    #[error("volume {name}: {doing} failed: {error}")]
    Mount {
        /// The volume.
        name: VolumeName,
        /// What was tried.
        doing: &'static str,
        /// Why it failed, without secrets.
        error: String,
    },
    /// Something else was done with it all the time.
    #[error("volume {name}: another request has kept it {doing} for {waited} s; try again")]
    Waited {
        /// The volume.
        name: VolumeName,
        /// What it is doing.
        doing: &'static str,
        /// How long this request waited, in seconds.
        waited: u64,
    },
    /// The state directory, or the directory of references, would not take it.
    #[error("volume {name}: could not {doing} {}: {error}", path.display())]
    Save {
        /// The volume.
        name: VolumeName,
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// Something is mounted where it would be.
    #[error(
        "volume {name}: {target} has a filesystem already, which is of no volume; `umount {target}` first"
    )]
    Stranger {
        /// The volume.
        name: VolumeName,
        /// Its mount point.
        target: String,
    },
    /// Nobody waits for the answer any more.
    #[error("volume {0}: the engine hung up before it was mounted, so it was taken back")]
    HungUp(VolumeName),
    /// Remount of something that works.
    #[error(
        "volume {0} is mounted and answers; `easyfuse volume remount --force {0}` mounts it again all the same"
    )]
    Healthy(VolumeName),
}

impl Error {
    pub(crate) fn mount(name: &VolumeName, doing: &'static str, error: &mount::Error) -> Self {
        Self::Mount { name: name.clone(), doing, error: error.to_string() }
    }
}
