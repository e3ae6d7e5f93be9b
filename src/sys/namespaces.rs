//! Who else holds a filesystem: the mount namespaces of other processes, containers above all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::mountinfo::{self, Device};

/// Of the filesystems in `wanted` (each with the place where this process mounted it), those that are mounted *somewhere
/// else* too, in whatever mount namespace, each with a process that sees it there.
///
/// A mount at the same path in another namespace is only a copy that propagation made (each systemd service with
/// `PrivateTmp=` has one) and goes with the original, so it does not count.
///
/// # Errors
/// When `/proc` can't be listed. Processes that end meanwhile are passed over.
pub fn held_elsewhere(wanted: &HashMap<Device, PathBuf>) -> io::Result<BTreeMap<Device, u32>> {
    let mut held = BTreeMap::new();
    if wanted.is_empty() {
        return Ok(held);
    }
    let mut seen = BTreeSet::new();
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        let Some(pid) = pid_of(&process) else { continue };
        let Ok(namespace) = fs::read_link(process.join("ns/mnt")) else { continue };
        if !seen.insert(namespace) {
            continue;
        }
        let Ok(table) = fs::read(process.join("mountinfo")) else { continue };
        for entry in mountinfo::parse(&table) {
            if wanted.get(&entry.device).is_some_and(|own: &PathBuf| Path::new(own) != entry.mount_point) {
                held.entry(entry.device).or_insert(pid);
            }
        }
    }
    Ok(held)
}

/// The processes of this mount namespace that have a file below `place` open, or work in it. Only links of `/proc` are read,
/// never the filesystem itself.
///
/// # Errors
/// When `/proc` can't be listed. Processes that end meanwhile are passed over.
pub fn users_of(place: &Path) -> io::Result<Vec<u32>> {
    let own = fs::read_link("/proc/self/ns/mnt")?;
    let uses = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(place));
    let mut users = Vec::new();
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        let Some(pid) = pid_of(&process) else { continue };
        if fs::read_link(process.join("ns/mnt")).ok().as_ref() != Some(&own) {
            continue;
        }
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|file| file.path());
        let places = ["cwd", "root", "exe"].into_iter().map(|name| process.join(name));
        if places.chain(files).any(uses) {
            users.push(pid);
        }
    }
    Ok(users)
}

fn pid_of(process: &Path) -> Option<u32> {
    process.file_name()?.to_str()?.parse().ok()
}
