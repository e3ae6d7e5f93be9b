//! Where things are below the mount directory (`--mntpt`).
//!
//! ```text
//! /run/easyfuse/mntpt/<volume>                 the mount points, which Docker binds into containers
//! /run/easyfuse/mntpt/.easyfuse/lock           held by the daemon that uses the directory
//! /run/easyfuse/mntpt/.easyfuse/started         the boot in which a daemon has started
//! /run/easyfuse/mntpt/.easyfuse/references/    who uses which volume, for this boot
//! /run/easyfuse/mntpt/.easyfuse/attempts/      mounts under way, so that a crash can be cleaned up
//! /run/easyfuse/mntpt/.easyfuse/log/           what each helper said since it was started
//! /run/easyfuse/mntpt/.easyfuse/unmount-log/   what the last failing unmount said
//! /run/easyfuse/mntpt/.easyfuse/staging/       mount points of helpers that replace a dead one
//! ```
//! No volume's name starts with a dot, so `.easyfuse` is free.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sys::durable;

const PRIVATE: &str = ".easyfuse";
const STARTED: &str = "started";
const KINDS: [&str; 5] = ["references", "attempts", "log", "unmount-log", "staging"];

/// The directories below one mount directory.
#[derive(Clone, Debug)]
pub struct Layout {
    base: PathBuf,
    /// Two daemons would take each other's mounts for leftovers of a crash.
    _lock: Arc<File>,
}

impl Layout {
    /// Make the directories that are missing.
    ///
    /// # Errors
    /// What the filesystem said.
    pub fn prepare(base: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(base)?;
        // The kernel's mount table speaks of resolved paths only.
        let base = base.canonicalize()?;
        let private = base.join(PRIVATE);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&private)?;
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700))?;
        let layout = Self { _lock: Arc::new(durable::lock_dir(&private, "--mntpt")?), base };
        for kind in KINDS {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(layout.private(kind))?;
        }
        for kind in ["references", "attempts"] {
            durable::remove_temporaries(&layout.private(kind))?;
        }
        Ok(layout)
    }

    /// Note that a daemon has started in this boot; whether one had before.
    ///
    /// # Errors
    /// What the filesystem said.
    pub fn note_start(&self, boot: &str) -> io::Result<bool> {
        let private = self.base.join(PRIVATE);
        if fs::read_to_string(private.join(STARTED)).is_ok_and(|before| before == boot) {
            return Ok(true);
        }
        durable::replace_volatile(&private, STARTED, boot.as_bytes()).map(|()| false)
    }

    /// The mount directory itself.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The volume's mount point.
    #[must_use]
    pub fn target(&self, volume: &str) -> PathBuf {
        self.base.join(volume)
    }

    /// The volume whose mount point is `path`.
    #[must_use]
    pub fn volume_at<'a>(&self, path: &'a Path) -> Option<&'a str> {
        let name = path.strip_prefix(&self.base).ok()?.to_str()?;
        Some(name).filter(|name| !name.is_empty() && !name.contains('/'))
    }

    /// Where a helper mounts that replaces a dead one.
    #[must_use]
    pub fn staging(&self, volume: &str) -> PathBuf {
        self.private("staging").join(volume)
    }

    /// What the volume's helper says.
    #[must_use]
    pub fn log(&self, volume: &str) -> PathBuf {
        self.private("log").join(volume)
    }

    /// What the volume's unmount command says.
    #[must_use]
    pub fn unmount_log(&self, volume: &str) -> PathBuf {
        self.private("unmount-log").join(volume)
    }

    /// All that was said for the volume.
    #[must_use]
    pub fn logs(&self, volume: &str) -> [PathBuf; 2] {
        [self.log(volume), self.unmount_log(volume)]
    }

    /// The directory of references, one file a volume.
    #[must_use]
    pub fn references(&self) -> PathBuf {
        self.private("references")
    }

    /// The directory of mounts under way, one file a volume that holds the attempt's token.
    #[must_use]
    pub fn attempts(&self) -> PathBuf {
        self.private("attempts")
    }

    fn private(&self, kind: &str) -> PathBuf {
        self.base.join(PRIVATE).join(kind)
    }
}
