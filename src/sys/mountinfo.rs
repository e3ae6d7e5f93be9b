//! The kernel's mount table, `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A filesystem's device number, unique among the mounted filesystems of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// Major number; 0 for filesystems without a block device.
    pub major: u32,
    /// Minor number; for FUSE also the connection's name below `/sys/fs/fuse/connections`.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The mount's ID, unique while it lives.
    pub id: u64,
    /// The ID of the mount it sits on.
    pub parent: u64,
    /// The filesystem.
    pub device: Device,
    /// Where it is mounted, as the process sees it.
    pub mount_point: PathBuf,
    /// In a peer group, so that what is mounted on it reaches other namespaces.
    pub shared: bool,
    /// `fuse.sshfs`, `ext4`, …
    pub fs_type: String,
    /// What `mount` got as its device.
    pub source: String,
}

impl Entry {
    /// Whether this is any FUSE filesystem.
    #[must_use]
    pub fn is_fuse(&self) -> bool {
        matches!(self.fs_type.as_str(), "fuse" | "fuseblk") || self.fs_type.starts_with("fuse.")
    }
}

/// The mounts at and below `base`, as this process sees them.
///
/// # Errors
/// When `/proc` can't be read.
pub fn under(base: &Path) -> io::Result<Vec<Entry>> {
    // It has no size to go by; room for all of it saves the kernel a dozen reads.
    let mut table = Vec::with_capacity(16 * 1024);
    File::open("/proc/self/mountinfo")?.read_to_end(&mut table)?;
    Ok(parse(&table).filter(|entry| entry.mount_point.starts_with(base)).collect())
}

/// Parse a table; lines that make no sense are passed over.
pub fn parse(table: &[u8]) -> impl Iterator<Item = Entry> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line)
}

fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let id = text()?.parse().ok()?;
    let parent = text()?.parse().ok()?;
    let (major, minor) = text()?.split_once(':')?;
    let device = Device { major: major.parse().ok()?, minor: minor.parse().ok()? };
    fields.next()?; // the root within the filesystem
    let mount_point = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    fields.next()?; // the mount's options
    let mut shared = false;
    for optional in fields.by_ref().take_while(|field| *field != b"-") {
        shared |= optional.starts_with(b"shared:");
    }
    let fs_type = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    let source = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    Some(Entry { id, parent, device, mount_point, shared, fs_type, source })
}

/// Undo the kernel's `\ooo` for space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(code) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            out.push(code);
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

/// The mounts at exactly `path`, the topmost last.
#[must_use]
pub fn stack<'a>(table: &'a [Entry], path: &Path) -> Vec<&'a Entry> {
    let mut here: Vec<&Entry> = table.iter().filter(|entry| entry.mount_point == path).collect();
    let mut stack = Vec::with_capacity(here.len());
    // Each mount but the lowest sits on another one at the same place.
    while let Some(next) = here.iter().position(|entry| {
        let below = stack.last().map(|below: &&Entry| below.id);
        if below.is_some() {
            Some(entry.parent) == below
        } else {
            !here.iter().any(|other| other.id == entry.parent)
        }
    }) {
        stack.push(here.swap_remove(next));
    }
    stack
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        40 27 0:40 / /run/e/mntpt/a rw,nosuid shared:7 master:1 - fuse.sshfs u@h:/x\\040y rw,user_id=0\n\
        nonsense\n\
        42 41 0:42 / /run/e/mntpt/b rw - fuse bindfs rw\n\
        41 27 0:41 / /run/e/mntpt/b rw - fuse.bindfs bindfs rw\n\
        43 27 0:43 / /run/e/mntpt/with\\040space rw - ext4 /dev/x rw\n";

    #[test]
    fn reads_what_the_kernel_writes() {
        let all: Vec<_> = parse(TABLE).collect();
        assert_eq!(all.len(), 5);
        assert_eq!(all[1].source, "u@h:/x y");
        assert_eq!(all[1].device, Device { major: 0, minor: 40 });
        assert!(all[1].shared && all[1].is_fuse());
        assert!(!all[0].shared && !all[0].is_fuse());
        assert_eq!(all[4].mount_point, Path::new("/run/e/mntpt/with space"));
    }

    #[test]
    fn the_topmost_mount_is_last_whatever_the_order_of_lines() {
        let all: Vec<_> = parse(TABLE).collect();
        let ids: Vec<_> = stack(&all, Path::new("/run/e/mntpt/b")).iter().map(|entry| entry.id).collect();
        assert_eq!(ids, [41, 42]);
        assert!(stack(&all, Path::new("/nowhere")).is_empty());
    }
}
