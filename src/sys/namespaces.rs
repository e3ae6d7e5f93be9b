//! Who else holds a filesystem: the mount namespaces of other processes, containers above all.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::mountinfo::{self, Device};

/// Of the filesystems in `wanted` (each with the place where this process mounted it), those that another mount
/// namespace has mounted *somewhere else*.
///
/// A mount at the same path in another namespace is only a copy that propagation made (each systemd service with
/// `PrivateTmp=` has one) and goes with the original, so it does not count.
///
/// # Errors
/// When `/proc` can't be listed. Processes that end meanwhile are passed over.
pub fn held_elsewhere(wanted: &HashMap<Device, PathBuf>) -> io::Result<BTreeSet<Device>> {
    let mut held = BTreeSet::new();
    if wanted.is_empty() {
        return Ok(held);
    }
    let mut seen = BTreeSet::from([fs::read_link("/proc/self/ns/mnt")?]);
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        let numeric = process.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit());
        let Some(namespace) = numeric.then(|| fs::read_link(process.join("ns/mnt")).ok()).flatten() else {
            continue;
        };
        if !seen.insert(namespace) {
            continue;
        }
        let Ok(table) = fs::read(process.join("mountinfo")) else { continue };
        for entry in mountinfo::parse(&table) {
            if wanted.get(&entry.device).is_some_and(|own: &PathBuf| Path::new(own) != entry.mount_point) {
                held.insert(entry.device);
            }
        }
    }
    Ok(held)
}
