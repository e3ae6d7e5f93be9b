//! What a test needs from the machine, and how to say that it is missing.

use std::fs;
use std::path::{Path, PathBuf};

/// Something a test can't run without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Root with the right to mount.
    Root,
    /// A usable `/dev/fuse` and `mount -t fuse`.
    Fuse,
    /// A program in `PATH` or an `sbin`.
    Program(&'static str),
    /// bindfs mounts: root, fuse, bindfs.
    Bindfs,
    /// [`super::Sshd`] and sshfs mounts from it.
    Sshfs,
    /// [`super::Engine`].
    Docker,
    /// [`super::Engine::compose`].
    Compose,
    /// [`super::Podman`].
    Podman,
    /// [`super::Host`], with an engine inside.
    Host,
}

impl Need {
    /// What is missing of it, as people say it.
    fn missing(self) -> Vec<String> {
        let all = |needs: &[Self]| needs.iter().flat_map(|need| need.missing()).collect();
        match self {
            Self::Root if may_mount() => vec![],
            Self::Root => vec!["root with CAP_SYS_ADMIN".into()],
            Self::Fuse => {
                let device = fs::File::options().read(true).write(true).open("/dev/fuse");
                let mut missing = Self::Program("mount.fuse").missing();
                if let Err(error) = device {
                    missing.push(format!("/dev/fuse ({error})"));
                }
                missing
            }
            Self::Program(name) if find_program(name).is_some() => vec![],
            Self::Program(name) => vec![format!("{name} (apt install {})", package(name))],
            Self::Bindfs => all(&[Self::Root, Self::Fuse, Self::Program("bindfs")]),
            Self::Sshfs => all(&[
                Self::Root,
                Self::Fuse,
                Self::Program("sshfs"),
                Self::Program("sshd"),
                Self::Program("ssh-keygen"),
            ]),
            Self::Docker => all(&[
                Self::Root,
                Self::Fuse,
                Self::Program("dockerd"),
                Self::Program("iptables"),
                Self::Program("docker"),
                Self::Program("busybox"),
                Self::Program("tar"),
            ]),
            Self::Compose => all(&[Self::Docker, Self::Program("docker-compose")]),
            Self::Podman => all(&[
                Self::Root,
                Self::Fuse,
                Self::Program("podman"),
                Self::Program("busybox"),
                Self::Program("tar"),
            ]),
            Self::Host => all(&[
                Self::Docker,
                Self::Program("systemd-nspawn"),
                Self::Program("dbus-daemon"),
                Self::Program("nsenter"),
            ]),
        }
    }
}

/// Whether all of `needs` are there. If not, prints what to install; with `EASYFUSE_TEST_ALL=1` panics
/// instead.
#[track_caller]
pub fn need(needs: &[Need]) -> bool {
    let mut missing: Vec<String> = needs.iter().flat_map(|need| need.missing()).collect();
    missing.sort();
    missing.dedup();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(
        std::env::var("EASYFUSE_TEST_ALL").map_or(true, |all| all != "1"),
        "EASYFUSE_TEST_ALL is set, but this test needs {missing}"
    );
    println!("skipped: needs {missing}");
    false
}

/// `require!(Root, Fuse, Program("rclone"))`: returns from the test where one of them is missing.
macro_rules! require {
    ($($kind:ident $(($arg:expr))?),+ $(,)?) => {
        if !$crate::support::need(&[$($crate::support::Need::$kind $(($arg))?),+]) {
            return;
        }
    };
}
pub(crate) use require;

/// Where `name` is, looked for in `PATH` and the `sbin`s that a user's `PATH` lacks on Debian.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| Path::is_file(file))
}

/// The Debian package of a program.
fn package(program: &str) -> &str {
    match program {
        "dockerd" | "docker" => "docker.io",
        "sshd" => "openssh-server",
        "ssh" | "ssh-keygen" => "openssh-client",
        "systemd-nspawn" => "systemd-container",
        "dbus-daemon" => "dbus",
        "busybox" => "busybox-static",
        "mount.fuse" | "fusermount3" => "fuse3",
        "chattr" => "e2fsprogs",
        "nsenter" | "unshare" => "util-linux",
        "python3" => "python3",
        other => other,
    }
}

/// Root alone is not enough in a container: the capability decides.
fn may_mount() -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    nix::unistd::geteuid().is_root() && bits.is_some_and(|bits| bits & CAP_SYS_ADMIN != 0)
}
