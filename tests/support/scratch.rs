//! A directory of a test's own, and the brute force that leaves nothing of it behind.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::mounts::{mount_at, mountinfo, mountinfo_of, mounts_under};
use super::process::{Signal, descendants, environ, processes, signal, stat};

/// Set in the environment of all that a test starts, to find what it left running.
pub const MARK: &str = "EASYFUSE_TEST_DIR";

/// Where the engine looks for plugins by name.
pub const PLUGIN_SPECS: &str = "/etc/docker/plugins";

/// Short, because a unix socket's path has at most 107 bytes.
const PARENT: &str = "/tmp";

/// A directory under `/tmp`, named after this process.
///
/// Dropping it ends every process that belongs to it (its environment or its root directory says so),
/// unmounts what is mounted below it, removes its control groups and its plugin files, and then the
/// directory. The first one made in a process does the same to directories of test runs that no longer exist.
pub struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    /// Makes the directory.
    pub fn new() -> Self {
        static SWEEP: Once = Once::new();
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        SWEEP.call_once(sweep);
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = PathBuf::from(format!("{PARENT}/ef-{pid}-{}-{number}", stat(pid).unwrap().start));
        fs::create_dir(&dir).unwrap();
        Self { dir }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Its last component, unique on this machine: a name for what must have one.
    pub fn name(&self) -> &str {
        name_of(&self.dir)
    }

    /// A path in it.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.join(path)
    }

    /// Makes a directory in it, and those above.
    pub fn mkdir(&self, path: &str) -> PathBuf {
        let dir = self.join(path);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Writes a file in it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.join(path);
        fs::write(&file, content).unwrap();
        file
    }

    /// Writes an executable in it.
    ///
    /// The file is written by another process: one that this process holds open for writing can't be executed
    /// (text file busy) while a child that another thread just forked still has the descriptor.
    pub fn script(&self, path: &str, content: &str) -> PathBuf {
        let file = self.join(path);
        let mut shell = Command::new("sh")
            .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
            .arg(&file)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
        file
    }

    /// Makes mounts below it propagate to other namespaces, as they do on a host that systemd booted.
    pub fn share_mounts(&self) {
        let none = None::<&Path>;
        let around = self.dir.ancestors().find_map(mount_at).unwrap();
        if !around.propagation.contains("shared:") {
            mount(Some(&self.dir), &self.dir, none, MsFlags::MS_BIND, none).unwrap();
            mount(none, &self.dir, none, MsFlags::MS_SHARED, none).unwrap();
        }
    }

    /// `program` with this directory's mark in its environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(MARK, &self.dir);
        command
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        wipe(&self.dir);
    }
}

/// Wipes the directories of test processes that are gone.
fn sweep() {
    for entry in fs::read_dir(PARENT).unwrap().flatten() {
        let dir = entry.path();
        let parts: Vec<u64> = name_of(&dir).split('-').skip(1).filter_map(|part| part.parse().ok()).collect();
        let [pid, start, _] = parts[..] else { continue };
        let running = u32::try_from(pid).ok().and_then(stat).is_some_and(|now| now.start == start);
        if name_of(&dir).starts_with("ef-") && !running {
            wipe(&dir);
        }
    }
}

/// Ends, unmounts and removes all that belongs to `dir`.
pub fn wipe(dir: &Path) {
    forget_plugins(dir);
    kill_all(dir);
    unmount_all(dir);
    remove_cgroups(name_of(dir));
    if !mounts_under(dir).is_empty() {
        eprintln!("left behind, because a mount remains in it: {}", dir.display());
        return;
    }
    if fs::remove_dir_all(dir).is_err() {
        // The daemon makes bare mount points immutable.
        let _ = Command::new("chattr").args(["-R", "-f", "-i"]).arg(dir).status();
        if let Err(error) = fs::remove_dir_all(dir) {
            eprintln!("left behind: {}: {error}", dir.display());
        }
    }
}

/// Kills every process that belongs to `dir`, until there are none.
pub fn kill_all(dir: &Path) {
    for _ in 0..100 {
        let left: Vec<u32> = processes().into_iter().filter(|pid| belongs(*pid, dir)).collect();
        if left.is_empty() {
            return;
        }
        for pid in left {
            for pid in descendants(pid).into_iter().chain([pid]) {
                signal(pid, Signal::SIGKILL);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    eprintln!("processes of {} can't be killed", dir.display());
}

/// Unmounts all at and below `dir`, last mounted first. Lazily: a dead or busy one must not stop the others.
pub fn unmount_all(dir: &Path) {
    for mount in mounts_under(dir).iter().rev() {
        let _ = umount2(&mount.point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
}

/// Whether a variable of the process's environment starts with `dir`, or its root directory lies in it (a
/// container's process has an environment of its own), or it is an sshd of ours (which writes its title over
/// its environment).
fn belongs(pid: u32, dir: &Path) -> bool {
    let points_here = |entry: &[u8]| {
        let mut halves = entry.splitn(2, |byte| *byte == b'=');
        let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        let rest = value.strip_prefix(dir.as_os_str().as_bytes());
        // A shell that merely stands in the directory does not belong to it.
        name != b"PWD"
            && name != b"OLDPWD"
            && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    };
    if pid == std::process::id() {
        return false;
    }
    if environ(pid).split(|byte| *byte == 0).any(points_here) {
        return true;
    }
    let inside = format!("{}/", name_of(dir));
    let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if title.starts_with(b"sshd:") && String::from_utf8_lossy(&title).contains(&inside) {
        return true;
    }
    let root = mountinfo_of(pid).into_iter().rfind(|mount| mount.point == Path::new("/"));
    root.is_some_and(|root| {
        root.super_options.contains(&inside) || root.root.to_string_lossy().contains(&inside)
    })
}

/// Removes the files in which the engine would find a plugin of `dir`.
fn forget_plugins(dir: &Path) {
    let socket = format!("{}/", dir.display());
    for file in fs::read_dir(PLUGIN_SPECS).into_iter().flatten().flatten() {
        if fs::read_to_string(file.path()).is_ok_and(|spec| spec.contains(&socket)) {
            let _ = fs::remove_file(file.path());
        }
    }
}

/// Removes the control groups called `name`, in every hierarchy; their processes are gone.
fn remove_cgroups(name: &str) {
    let hierarchies = mountinfo().into_iter().filter(|mount| mount.kind.starts_with("cgroup"));
    for hierarchy in hierarchies {
        let group = hierarchy.point.join(name);
        for _ in 0..50 {
            remove_cgroup(&group);
            if !group.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn remove_cgroup(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

fn name_of(dir: &Path) -> &str {
    dir.file_name().and_then(OsStr::to_str).unwrap_or_default()
}
