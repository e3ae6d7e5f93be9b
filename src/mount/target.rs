//! The bare directory under a mount, on which nothing can be written.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::sys::file_flags::set_immutable;

/// Make the directory `path` for a filesystem to be mounted on: mode 000 and immutable, so that not even root in a
/// container writes to the host's disk when the filesystem is not there.
///
/// # Errors
/// What the filesystem said. One that has no immutable flag is no error: mode 000 is then all.
pub(super) fn prepare(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o000).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    set_immutable(path, true).or_else(|error| tolerate(path, &error))
}

/// Remove the bare directory. One that is not there is no error; one that holds something stays, and is an error.
///
/// # Errors
/// What the filesystem said, above all `ResourceBusy` while something is mounted there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match set_immutable(path, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => tolerate(path, &error)?,
        Ok(()) => {}
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn tolerate(path: &Path, error: &io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc_errno::EXDEV) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("something is mounted on {}", path.display()),
        )),
        _ => {
            log::debug!("{}: no immutable flag here ({error}); mode 000 guards it", path.display());
            Ok(())
        }
    }
}

/// Error numbers by name.
mod libc_errno {
    /// A path would cross a mount point.
    pub(super) const EXDEV: i32 = nix::errno::Errno::EXDEV as i32;
}
