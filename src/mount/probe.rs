//! Whether a mounted filesystem answers.
//!
//! A call into a FUSE filesystem whose helper hangs can't be interrupted, not even by SIGKILL, and a process with such a
//! thread keeps its sockets open for ever. So the call is made by a child process, `easyfuse probe`, which may hang.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::Instant;

use crate::sys::mountinfo::Device;

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

/// Asks filesystems whether they answer.
#[derive(Clone, Debug, Default)]
pub struct Prober {
    /// Those that still owe an answer. A child that waits for one can't be killed, so none is sent after it.
    stuck: Arc<Mutex<HashSet<Device>>>,
}

impl Prober {
    /// Ask the filesystem mounted at `path`, and wait at most `limit`.
    pub async fn ask(&self, path: &Path, device: Device, limit: Duration) -> Liveness {
        let found = self.ask_all(&[(path.to_owned(), device)], limit).await;
        found.get(path).copied().unwrap_or(Liveness::Unresponsive)
    }

    /// Ask those in `wanted`, all at once, and wait at most `limit`.
    pub async fn ask_all(&self, wanted: &[(PathBuf, Device)], limit: Duration) -> HashMap<PathBuf, Liveness> {
        let mut found: HashMap<PathBuf, Liveness> =
            wanted.iter().map(|(path, _)| (path.clone(), Liveness::Unresponsive)).collect();
        let asked: Vec<&(PathBuf, Device)> = {
            let stuck = self.stuck();
            wanted.iter().filter(|(_, device)| !stuck.contains(device)).collect()
        };
        if asked.is_empty() {
            return found;
        }
        let deadline = Instant::now() + limit;
        let child = tokio::process::Command::new("/proc/self/exe")
            .arg("probe")
            .args(asked.iter().map(|(path, _)| path))
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
                return wanted.iter().map(|(path, _)| (path.clone(), Liveness::Alive)).collect();
            }
        };
        let mut silent: BTreeSet<usize> = (0..asked.len()).collect();
        if let Some(output) = child.stdout.take() {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Ok(Some(line))) = tokio::time::timeout_at(deadline, lines.next_line()).await {
                let mut numbers = line.split(' ').map(str::parse::<i32>);
                if let (Some(Ok(index)), Some(Ok(errno))) = (numbers.next(), numbers.next())
                    && let Ok(index) = usize::try_from(index)
                    && let Some((path, _)) = asked.get(index)
                {
                    found.insert(path.clone(), Liveness::of(errno));
                    silent.remove(&index);
                }
            }
        }
        if !silent.is_empty() {
            let devices: Vec<Device> = silent.iter().map(|index| asked[*index].1).collect();
            self.stuck().extend(&devices);
            let prober = self.clone();
            tokio::spawn(async move {
                _ = child.start_kill();
                // Whenever the kernel lets go of it.
                _ = child.wait().await;
                prober.stuck().retain(|device| !devices.contains(device));
            });
        }
        found
    }

    fn stuck(&self) -> MutexGuard<'_, HashSet<Device>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
