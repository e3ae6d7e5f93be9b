//! Where programs are.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Where mount(8) and FUSE helpers live, searched also when `PATH` leaves them out.
const SYSTEM_DIRS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// How long a look at a path may take.
const LOOK: Duration = Duration::from_secs(4);

/// The `PATH` that helpers get: this process's own, then the system's directories.
#[must_use]
pub fn search_path() -> String {
    let own = env::var("PATH").unwrap_or_default();
    let mut dirs: Vec<&str> = own.split(':').filter(|dir| dir.starts_with('/')).collect();
    for dir in SYSTEM_DIRS {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs.join(":")
}

/// The executable that `name` means: a path as it is, a bare name searched in [`search_path`].
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| is_executable(path));
    }
    search_path().split(':').map(|dir| Path::new(dir).join(name)).find(|path| is_executable(path))
}

/// The executable that a FUSE helper's `name` means: mount(8) hands its helpers no `PATH`, so that only the system's
/// directories are searched, which are also the shell's default.
#[must_use]
pub fn find_helper(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return find(name);
    }
    SYSTEM_DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| is_executable(path))
}

/// Whether there is an executable at `path`, which may lead into a filesystem that hangs: so a child process looks, and
/// `None` means that it did not come back in time.
pub async fn is_executable_at(path: &str) -> Option<bool> {
    let look = tokio::process::Command::new("/bin/sh")
        .args(["-c", "test -f \"$0\" && test -x \"$0\"", path])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status();
    let status = tokio::time::timeout(LOOK, look).await.ok()?;
    status.ok().map(|status| status.success())
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_programs_and_only_programs() {
        assert!(find("sh").is_some());
        assert!(find("/bin/sh").is_some());
        assert_eq!(find("no-such-program-here"), None);
        assert_eq!(find("/etc/passwd"), None);
        assert_eq!(find(""), None);
    }
}
