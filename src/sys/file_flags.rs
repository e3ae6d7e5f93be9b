//! The immutable flag of a directory (`chattr +i`), which holds even root back.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::mount_point::open_bare;

/// Whether the filesystem of the directory `path` has such flags; tmpfs does since Linux 6.0.
#[must_use]
pub fn supported(path: &Path) -> bool {
    File::open(path).is_ok_and(|dir| ioctl_getflags(&dir).is_ok())
}

/// Set or clear the immutable flag of the directory `path` itself, never of something mounted on it.
///
/// # Errors
/// `Unsupported` on a filesystem without such flags; `CrossesDevices` if something is mounted at `path`.
pub fn set_immutable(path: &Path, immutable: bool) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = File::open(parent)?;
    let dir = match open_bare(&parent, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        // A kernel before 5.6, or a sandbox without openat2: the caller has looked into the mount table.
        Err(nix::Error::ENOSYS | nix::Error::EPERM) => nix::fcntl::openat(
            AT_FDCWD,
            path,
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )?,
        other => other?,
    };
    let mut flags = ioctl_getflags(&dir)?;
    if flags.contains(IFlags::IMMUTABLE) != immutable {
        flags.set(IFlags::IMMUTABLE, immutable);
        ioctl_setflags(&dir, flags)?;
    }
    Ok(())
}
