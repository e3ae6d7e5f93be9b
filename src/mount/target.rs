//! The bare directory under a mount, on which nothing can be written.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use crate::sys::file_flags::set_immutable;

/// A path would cross a mount point.
const EXDEV: i32 = nix::errno::Errno::EXDEV as i32;

/// Make the directory `path` for a filesystem to be mounted on: mode 000 and immutable, so that not even root in a
/// container writes to the host's disk when the filesystem is not there.
///
/// # Errors
/// What the filesystem said; `AlreadyExists` for a directory of somebody else's that is not empty. A filesystem without an
/// immutable flag is no error: mode 000 is then all.
pub(super) fn prepare(path: &Path) -> io::Result<()> {
    let make = || fs::DirBuilder::new().mode(0o000).create(path);
    match make() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !is_ours(path)? {
                // An empty one is as good as none; the Python easyfuse left such behind.
                fs::remove_dir(path).map_err(|error| {
                    let message =
                        format!("it is not easyfuse's ({error}); move it away, or give another --mntpt");
                    io::Error::new(io::ErrorKind::AlreadyExists, message)
                })?;
                make()?;
            }
        }
        other => other?,
    }
    set_immutable(path, true).or_else(|error| tolerate(path, &error))
}

/// Remove the bare directory. One that is not there is no error, and one that [`prepare`] did not make stays.
///
/// # Errors
/// What the filesystem said, above all `ResourceBusy` while something is mounted there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match is_ours(path) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    set_immutable(path, false).or_else(|error| tolerate(path, &error))?;
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether it is a directory as [`prepare`] makes them. For places where nothing is mounted.
fn is_ours(path: &Path) -> io::Result<bool> {
    let data = fs::symlink_metadata(path)?;
    Ok(data.is_dir() && data.permissions().mode() & 0o7777 == 0)
}

fn tolerate(path: &Path, error: &io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(EXDEV) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("something is mounted on {}", path.display()),
        )),
        _ => {
            log::debug!("{}: no immutable flag here ({error}); mode 000 guards it", path.display());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_others_are_left_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        remove(&theirs).unwrap();
        assert!(theirs.is_dir());
        fs::write(theirs.join("file"), "").unwrap();
        let error = prepare(&theirs).unwrap_err();
        assert!(error.to_string().contains("is not easyfuse's"), "{error}");
        assert_eq!(fs::metadata(&theirs).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn our_own_are_made_once_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("ours");
        prepare(&ours).unwrap();
        prepare(&ours).unwrap();
        remove(&ours).unwrap();
        remove(&ours).unwrap();
        assert!(!ours.exists());
    }
}
