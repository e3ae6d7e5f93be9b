//! Directories of this run, and how they go away.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use easyfuse::sys::mountinfo;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tempfile::TempDir;

use crate::server::log_file;

/// Wait; there is no runtime here that it could block.
#[allow(clippy::disallowed_methods, reason = "a benchmark's thread is no runtime worker")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Where this run keeps its things.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// On a real disk, since fsync costs nothing on others.
    disk: TempDir,
    /// Sockets and mount points: in memory, as `/run` is on a host, and with short paths.
    run: TempDir,
    next: AtomicUsize,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let disk =
            tempfile::Builder::new().prefix("plugin-bench.").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let named = || tempfile::Builder::new().prefix("efbench.").clone();
        let memory = ["/run", "/dev/shm"].into_iter().find(|dir| is_memory(Path::new(dir)));
        let run = named()
            .tempdir_in(memory.unwrap_or("/run"))
            .or_else(|_| named().tempdir())
            .context("make a directory")?;
        Ok(Self { disk, run, next: AtomicUsize::new(0) })
    }

    fn name(&self, kind: &str) -> String {
        format!("{kind}{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A path for a directory on the disk.
    pub(crate) fn on_disk(&self, kind: &str) -> PathBuf {
        self.disk.path().join(self.name(kind))
    }

    /// The disk's directory itself.
    pub(crate) fn disk(&self) -> &Path {
        self.disk.path()
    }

    /// Whether what should be a disk is memory.
    pub(crate) fn disk_is_memory(&self) -> bool {
        is_memory(self.disk.path())
    }

    /// A path for a socket; rclone appends `.sock` where it is missing.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run.path().join(self.name("s") + ".sock")
    }

    /// A path for mount points.
    pub(crate) fn mounts(&self) -> PathBuf {
        self.run.path().join(self.name("m"))
    }

    /// Where a server may write what it says.
    pub(crate) fn log(&self, name: &str) -> Result<File> {
        log_file(&self.disk.path().join(format!("{name}.log")))
    }
}

fn is_memory(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

impl Drop for Scratch {
    /// Whatever a run that failed left mounted is detached, before the directories are removed with all that is in them.
    fn drop(&mut self) {
        for entry in mountinfo::under(self.run.path()).unwrap_or_default() {
            _ = Command::new("umount").arg("-l").arg(&entry.mount_point).status();
        }
        // The bare directory under a mount is immutable.
        _ = Command::new("chattr").args(["-R", "-f", "-i"]).arg(self.run.path()).status();
    }
}
