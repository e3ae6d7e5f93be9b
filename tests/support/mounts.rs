//! The mount table as the tests see it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Unique among the mounts that exist now.
    pub id: u32,
    /// `major:minor` of the filesystem, which names it in every mount namespace.
    pub device: String,
    /// The directory of the filesystem that is shown.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Options of the mount: `rw,nosuid,…`
    pub options: String,
    /// `shared:1 master:2`, empty when private.
    pub propagation: String,
    /// `fuse.sshfs`, `ext4` …
    pub kind: String,
    /// What was mounted.
    pub source: String,
    /// Options of the filesystem.
    pub super_options: String,
}

/// All mounts of this process's namespace, in the table's order: later ones lie above earlier ones.
pub fn mountinfo() -> Vec<Mount> {
    parse(&fs::read("/proc/self/mountinfo").unwrap())
}

/// The mounts of another process's namespace; empty when it is gone.
pub fn mountinfo_of(pid: u32) -> Vec<Mount> {
    parse(&fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default())
}

/// The mounts at and below `dir`, in the table's order.
pub fn mounts_under(dir: &Path) -> Vec<Mount> {
    mountinfo().into_iter().filter(|mount| mount.point.starts_with(dir)).collect()
}

/// The topmost mount at exactly `point`.
pub fn mount_at(point: &Path) -> Option<Mount> {
    mountinfo().into_iter().rfind(|mount| mount.point == point)
}

/// Whether something is mounted at exactly `point`.
pub fn is_mounted(point: &Path) -> bool {
    mount_at(point).is_some()
}

fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let text = |at: usize| Some(unescape(fields.get(at)?).to_string_lossy().into_owned());
    let path = |at: usize| Some(PathBuf::from(unescape(fields.get(at)?)));
    let dash = fields.iter().position(|field| *field == b"-")?;
    Some(Mount {
        id: text(0)?.parse().ok()?,
        device: text(2)?,
        root: path(3)?,
        point: path(4)?,
        options: text(5)?,
        propagation: (6..dash).filter_map(text).collect::<Vec<_>>().join(" "),
        kind: text(dash + 1)?,
        source: text(dash + 2)?,
        super_options: text(dash + 3)?,
    })
}

/// The kernel writes blanks, tabs, newlines and backslashes as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = vec![];
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let code = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(code) = code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(code);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes)
}
