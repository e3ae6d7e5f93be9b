//! Whether a mounted filesystem answers.
//!
//! A call into a FUSE filesystem whose helper hangs can't be interrupted, not even by SIGKILL, and a process with such a
//! thread keeps its sockets open for ever. So the call is made by a child process, `easyfuse probe`, which may hang.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::Instant;

/// How a filesystem answers statfs(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It answers.
    Alive,
    /// It is there, but nobody serves it any more.
    Dead(Errno),
    /// No answer in time: its helper hangs, or its server is slow.
    Unresponsive,
}

impl Liveness {
    fn of(errno: i32) -> Self {
        match Errno::from_raw(errno) {
            errno @ (Errno::ENOTCONN | Errno::ESTALE | Errno::EIO | Errno::ECONNABORTED | Errno::ENODEV) => {
                Self::Dead(errno)
            }
            // Anything else, ENOSYS and EACCES above all, is an answer.
            _ => Self::Alive,
        }
    }
}

/// Ask the filesystems at `paths`, all at once, and wait at most `limit`.
pub async fn probe(paths: &[PathBuf], limit: Duration) -> HashMap<PathBuf, Liveness> {
    let mut found: HashMap<PathBuf, Liveness> =
        paths.iter().map(|path| (path.clone(), Liveness::Unresponsive)).collect();
    if paths.is_empty() {
        return found;
    }
    let deadline = Instant::now() + limit;
    let child = tokio::process::Command::new("/proc/self/exe")
        .arg("probe")
        .args(paths)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            // Not knowing must not condemn a filesystem that works.
            log::error!("could not start a probe: {error}");
            return paths.iter().map(|path| (path.clone(), Liveness::Alive)).collect();
        }
    };
    if let Some(output) = child.stdout.take() {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Ok(Some(line))) = tokio::time::timeout_at(deadline, lines.next_line()).await {
            let mut numbers = line.split(' ').map(str::parse::<i32>);
            if let (Some(Ok(index)), Some(Ok(errno))) = (numbers.next(), numbers.next())
                && let Some(path) = usize::try_from(index).ok().and_then(|index| paths.get(index))
            {
                found.insert(path.clone(), Liveness::of(errno));
            }
        }
    }
    // Reaps it when it is done; one that hangs is killed, and reaped whenever the kernel lets it go.
    _ = tokio::time::timeout_at(deadline.min(Instant::now() + Duration::from_millis(100)), child.wait())
        .await;
    found
}

/// The child's side: print `<index> <errno>` (0 for success) for each path as it answers.
pub fn serve(paths: Vec<PathBuf>) {
    let threads: Vec<_> = paths
        .into_iter()
        .enumerate()
        .map(|(index, path)| {
            std::thread::spawn(move || {
                let errno = statfs(&path);
                _ = writeln!(std::io::stdout().lock(), "{index} {errno}");
            })
        })
        .collect();
    for thread in threads {
        _ = thread.join();
    }
}

fn statfs(path: &Path) -> i32 {
    match nix::sys::statfs::statfs(path) {
        Ok(_) => 0,
        Err(errno) => errno as i32,
    }
}
