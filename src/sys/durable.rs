//! Files that are whole or not there, also after a crash.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Prefix of files that are being written. A leading dot is in no volume's name.
const TEMPORARY: &str = ".tmp-";

/// Write `bytes` to a new file `dir/name` (mode 0600) so that it survives a power cut once this returns.
///
/// # Errors
/// `AlreadyExists` if there is such a file; it is left as it is. Any other error leaves nothing behind.
pub fn create(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    place(dir, name, bytes)?;
    sync_dir(dir).inspect_err(|_| {
        _ = fs::remove_file(dir.join(name));
    })
}

/// As [`create`], but for the last step: after a power cut the file is whole, or not there; it is there for good once the
/// directory was synced.
///
/// # Errors
/// `AlreadyExists` if there is such a file; it is left as it is. Any other error leaves nothing behind.
pub fn place(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = Temporary::write(dir, bytes, true)?;
    let target = dir.join(name);
    match renameat2(AT_FDCWD, &temporary.path, AT_FDCWD, &target, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => {}
        // Some filesystems know no flags (EINVAL); a hard link refuses an existing name everywhere else.
        Err(nix::Error::EINVAL | nix::Error::ENOSYS) => fs::hard_link(&temporary.path, &target)?,
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Replace `dir/name` (mode 0600) in one step, without waiting for the disk: whole after a crash of this process,
/// unknown after a crash of the machine.
///
/// # Errors
/// What the filesystem said; the old content is then still there.
pub fn replace_volatile(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = Temporary::write(dir, bytes, false)?;
    fs::rename(&temporary.path, dir.join(name))
}

/// Rename within `dir`, durably, without replacing anything.
///
/// # Errors
/// `AlreadyExists` if `to` is taken, else what the filesystem said.
pub fn rename(dir: &Path, from: &str, to: &str) -> io::Result<()> {
    renameat2(AT_FDCWD, &dir.join(from), AT_FDCWD, &dir.join(to), RenameFlags::RENAME_NOREPLACE)?;
    sync_dir(dir)
}

/// Remove a file; one that is not there is no error.
///
/// # Errors
/// What the filesystem said.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Make `dir` and its parents, `dir` itself with `mode`, and make the new entry durable.
///
/// # Errors
/// What the filesystem said.
pub fn make_dir(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    fs::DirBuilder::new().recursive(true).mode(mode).create(dir)?;
    dir.parent().map_or(Ok(()), sync_dir)
}

/// Keep other daemons out of `dir` as long as the file lives; the kernel lets go of it however the process ends. `flag` is
/// what gives another daemon a directory of its own.
///
/// # Errors
/// `ResourceBusy` when another one has it, else what the filesystem said.
pub fn lock_dir(dir: &Path, flag: &str) -> io::Result<File> {
    let path = dir.join("lock");
    let lock = match File::options().create(true).truncate(false).write(true).open(&path) {
        // What a disk holds that became read-only can still be used.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            log::error!("{} is read-only: nothing in it can be changed", dir.display());
            File::open(&path)?
        }
        other => other?,
    };
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            let message = format!("another easyfuse uses it; stop that one, or give this one another {flag}");
            Err(io::Error::new(io::ErrorKind::ResourceBusy, message))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Remove what a crash left half-written in `dir`.
///
/// # Errors
/// What the filesystem said.
pub fn remove_temporaries(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

/// Make durable what was created, renamed and removed in `dir`.
///
/// # Errors
/// What the filesystem said.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A file under a name of its own, removed when dropped unless it was renamed.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn write(dir: &Path, bytes: &[u8], sync: bool) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{TEMPORARY}{}-{number}", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let temporary = Self { path };
        file.write_all(bytes)?;
        if sync {
            file.sync_all()?;
        }
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_never_replaces_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), "a", b"first").unwrap();
        assert_eq!(create(dir.path(), "a", b"second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        replace_volatile(dir.path(), "a", b"old").unwrap();
        assert!(replace_volatile(&dir.path().join("absent"), "a", b"new").is_err());
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"old");
    }

    #[test]
    fn temporaries_of_a_crash_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".tmp-1-2"), "half").unwrap();
        fs::write(dir.path().join("whole"), "").unwrap();
        remove_temporaries(dir.path()).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["whole"]);
    }
}
