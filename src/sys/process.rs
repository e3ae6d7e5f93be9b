//! Processes, told apart for good by their pid and start time.

use std::fmt;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// A process that can't be confused with a later one of the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid in this process's namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of proc_pid_stat(5)).
    pub start: u64,
}

impl ProcessId {
    /// The running process `pid`.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field, the name, may hold anything; the last `)` ends it.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = rest.split_ascii_whitespace();
        if fields.next() == Some("Z") {
            // It has ended, and only waits for its parent to notice.
            return Err(io::ErrorKind::NotFound.into());
        }
        let start = fields.nth(18).and_then(|start| start.parse().ok());
        start.map(|start| Self { pid, start }).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == *self)
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.pid)
    }
}

/// A process found by [`with_variable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its pid.
    pub pid: u32,
    /// The value of the variable.
    pub value: String,
    /// When it was started, in clock ticks since boot.
    pub started: u64,
    /// Its `/proc/<pid>/comm`.
    pub name: String,
    /// Whether it has `/dev/fuse` open, as a FUSE server has.
    pub serves_fuse: bool,
    /// Whether it was stopped, by SIGSTOP for instance, and does nothing at all.
    pub stopped: bool,
}

/// The processes that were started with the environment variable `name`, by pid.
///
/// # Errors
/// When `/proc` can't be listed.
pub fn with_variable(name: &str) -> io::Result<Vec<Found>> {
    let prefix = format!("{name}=");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { continue };
        let value =
            environment.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(prefix.as_bytes()));
        let Some(value) = value else { continue };
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned();
        let value = String::from_utf8_lossy(value).into_owned();
        let started = ProcessId::of(pid).map(|process| process.start).unwrap_or_default();
        found.push(Found {
            started,
            pid,
            value,
            name,
            serves_fuse: serves_fuse(pid),
            stopped: is_stopped(pid),
        });
    }
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

fn serves_fuse(pid: u32) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors
        .flatten()
        .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == "/dev/fuse"))
}

/// The time, as processes have their start: in clock ticks since boot, of which Linux counts 100 a second for all to see.
///
/// # Errors
/// When `/proc` can't be read.
pub fn now() -> io::Result<u64> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let seconds = uptime.split(' ').next().and_then(|seconds| seconds.replace('.', "").parse().ok());
    seconds.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The kernel's ID of this boot.
///
/// # Errors
/// When `/proc` can't be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_apart_by_its_start_time() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { start: own.start + 1, ..own }.is_alive());
    }

    #[test]
    fn a_child_is_found_by_its_variable() {
        let value = format!("v{}", std::process::id());
        let mut child =
            std::process::Command::new("sleep").arg("60").env("EASYFUSE_UNIT_TEST", &value).spawn().unwrap();
        let found = with_variable("EASYFUSE_UNIT_TEST").unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let ours: Vec<_> = found.iter().filter(|process| process.value == value).collect();
        assert_eq!(ours.len(), 1);
        assert_eq!((ours[0].pid, ours[0].serves_fuse), (child.id(), false));
    }
}
