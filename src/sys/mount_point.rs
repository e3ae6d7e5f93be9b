//! Whether something is mounted at a path, without a look at what.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Open `name` in the directory `parent`, never crossing into something that is mounted there.
pub(super) fn open_bare(parent: &File, name: &OsStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV);
    openat2(parent, name, how)
}

/// Whether something is mounted at `path`.
///
/// # Errors
/// What the filesystem of the directory above said; `ENOSYS` from a kernel before 5.6.
pub fn is_one(path: &Path) -> io::Result<bool> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(true);
    };
    match open_bare(&File::open(parent)?, name, OFlag::O_PATH) {
        Err(Errno::EXDEV) => Ok(true),
        Ok(_) | Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_one_and_its_neighbours_are_not() {
        assert!(is_one(Path::new("/proc")).unwrap());
        assert!(!is_one(Path::new("/usr/bin")).unwrap() && !is_one(Path::new("/usr/no-such-thing")).unwrap());
    }
}
