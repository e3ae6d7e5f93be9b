//! A whole host to break.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use super::process::{self, Output, Signal, descendants, run_for};
use super::scratch::Scratch;
use super::{Background, EASYFUSE, eventually, image, mountinfo};

/// How long a command inside may take.
const LIMIT: Duration = Duration::from_mins(2);

/// What this machine may have enabled and a throw-away host does not need.
const MASKED: [&str; 12] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "logrotate.timer",
    "man-db.timer",
    "postgresql.service",
    "ssh.service",
    "systemd-modules-load.service",
    "systemd-networkd-wait-online.service",
    "systemd-timesyncd.service",
];

/// This machine's root file system under a throw-away overlay, booted with systemd as PID 1 in namespaces of
/// its own, with dockerd inside and the binary under test as `/usr/local/bin/easyfuse`. Nothing that happens
/// in it reaches the real root. Any number of them run side by side.
pub struct Host {
    scratch: Scratch,
    nspawn: Option<Child>,
    /// Its PID 1, as seen from here.
    init: u32,
}

impl Host {
    /// Boots one.
    #[track_caller]
    pub fn boot() -> Self {
        let host = Self::new();
        host.booted()
    }

    /// Makes one without booting it: to put files in first, with [`Self::root`].
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let overlay = scratch.mkdir("overlay");
        let none = None::<&str>;
        mount(Some("tmpfs"), &overlay, Some("tmpfs"), MsFlags::empty(), Some("size=4g")).unwrap();
        for dir in ["overlay/upper", "overlay/work", "overlay/root", "docker"] {
            scratch.mkdir(dir);
        }
        let layers = format!("lowerdir=/,upperdir={0}/upper,workdir={0}/work", overlay.display());
        let root = overlay.join("root");
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str())).unwrap();
        mount(none, &root, none, MsFlags::MS_PRIVATE, none).unwrap();
        let host = Self { scratch, nspawn: None, init: 0 };
        host.prepare().unwrap();
        host
    }

    fn prepare(&self) -> io::Result<()> {
        let root = self.root();
        let units = root.join("etc/systemd/system");
        fs::create_dir_all(&units)?;
        for unit in MASKED {
            let _ = fs::remove_file(units.join(unit));
            symlink("/dev/null", units.join(unit))?;
        }
        // Other tests' plugins, other daemons' leavings, this machine's identity.
        for dir in ["etc/docker", "var/lib/easyfuse", "var/log/journal"] {
            let _ = fs::remove_dir_all(root.join(dir));
            fs::create_dir_all(root.join(dir))?;
        }
        fs::write(root.join("etc/machine-id"), "")?;
        fs::write(root.join("etc/hostname"), self.scratch.name())?;
        fs::create_dir_all(root.join("usr/local/bin"))?;
        fs::copy(EASYFUSE, root.join("usr/local/bin/easyfuse"))?;
        Ok(())
    }

    /// Boots what [`Self::new`] made.
    #[track_caller]
    pub fn booted(mut self) -> Self {
        self.power_on();
        self
    }

    /// Its name, also its host name.
    pub fn name(&self) -> &str {
        self.scratch.name()
    }

    /// Its root directory, as seen from here. Its `/run` and `/tmp` are its own and not seen here.
    pub fn root(&self) -> PathBuf {
        self.scratch.join("overlay/root")
    }

    /// Copies a file into it.
    pub fn copy_in(&self, file: &Path, to: &str) {
        let to = self.root().join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }

    /// Runs a command inside, at most two minutes.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> Output {
        run_for(LIMIT, self.inside().args(command))
    }

    /// Runs a command inside, beside the test.
    pub fn run_in_background(&self, command: &[&str]) -> Background {
        Background::start(self.inside().args(command))
    }

    /// Runs a shell script inside (bash, `set -e`) and gives its output; panics when it fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.run(&["bash", "-ec", script]).ok()
    }

    /// Whether a shell condition holds inside now.
    pub fn holds(&self, condition: &str) -> bool {
        self.run(&["bash", "-c", condition]).success()
    }

    /// Waits until a shell condition holds inside; panics with the journal when it does not within `seconds`.
    #[track_caller]
    pub fn wait_for(&self, seconds: u64, condition: &str) {
        let held = eventually(Duration::from_secs(seconds), || self.holds(condition));
        assert!(held, "not within {seconds} s: {condition}\n{}", self.journal());
    }

    /// Gives the engine inside its image `busybox`.
    #[track_caller]
    pub fn load_busybox(&self) {
        self.copy_in(&image::busybox(&self.scratch), "/var/tmp/busybox.tar");
        self.sh("docker import /var/tmp/busybox.tar busybox && rm /var/tmp/busybox.tar");
    }

    /// The last lines of its journal, without the engine's chatter.
    pub fn journal(&self) -> String {
        let lines = "journalctl --no-pager -o short-monotonic | grep -v ' level=info ' | tail -n 60";
        self.run(&["bash", "-c", lines]).stdout
    }

    /// Shuts down in order and boots again: files stay, processes and mounts go.
    #[track_caller]
    pub fn reboot(&mut self) {
        self.run(&["systemctl", "--no-block", "poweroff"]);
        self.await_off(Duration::from_secs(100));
        self.power_on();
    }

    /// Pulls the plug and boots again. What was written stays, synced or not: the disk is this machine's.
    #[track_caller]
    pub fn crash(&mut self) {
        self.power_off();
        self.power_on();
    }

    /// Pulls the plug.
    pub fn power_off(&mut self) {
        if self.init != 0 {
            process::signal(self.init, Signal::SIGKILL);
            self.await_off(Duration::from_secs(20));
        }
    }

    /// Boots it, where it is off.
    #[track_caller]
    pub fn power_on(&mut self) {
        assert!(self.nspawn.is_none(), "the host is up");
        let console = File::options().create(true).append(true).open(self.scratch.join("console")).unwrap();
        let mut command = self.scratch.command("sh");
        // In a control group of its own: nspawn builds the host's below the one it runs in.
        command
            .arg("-c")
            .arg("echo $$ >\"$0/cgroup.procs\" && exec systemd-nspawn \"$@\"")
            .arg(self.cgroup());
        command.args(["--quiet", "--boot", "--register=no", "--keep-unit", "--private-network"]);
        command.args(["--capability=all", "--link-journal=no", "--console=pipe", "--resolv-conf=off"]);
        command.args(["--timezone=off", "--bind=/dev/fuse"]);
        command.arg(format!("--directory={}", self.root().display()));
        command.arg(format!("--machine={}", self.scratch.name()));
        // An overlay can't be the upper layer of another: the engine's data lies on the disk.
        command.arg(format!("--bind={}:/var/lib/docker", self.scratch.join("docker").display()));
        command.env("SYSTEMD_SECCOMP", "0").env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        command.stdin(Stdio::null()).stdout(console.try_clone().unwrap()).stderr(console);
        let child = command.spawn().unwrap();
        let outer = child.id();
        self.nspawn = Some(child);
        let up = eventually(Duration::from_mins(2), || {
            let ended = self.nspawn.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
            if ended {
                return true;
            }
            self.init = descendants(outer).first().copied().unwrap_or_default();
            self.init != 0 && self.is_running()
        });
        assert!(up && self.is_running(), "{} did not boot\n{}", self.name(), self.console());
    }

    /// Whether it has finished booting; a failed unit is none of our concern.
    fn is_running(&self) -> bool {
        let state = self.run(&["systemctl", "is-system-running"]).stdout;
        matches!(state.trim(), "running" | "degraded")
    }

    fn await_off(&mut self, limit: Duration) {
        self.init = 0;
        let Some(mut child) = self.nspawn.take() else { return };
        if process::wait(&mut child, limit).is_none() {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{} did not power off within {limit:?}\n{}", self.name(), self.console());
        }
    }

    fn console(&self) -> String {
        fs::read_to_string(self.scratch.join("console")).unwrap_or_default()
    }

    fn cgroup(&self) -> PathBuf {
        let unified = mountinfo().into_iter().find(|mount| mount.kind == "cgroup2");
        let group = unified.expect("a cgroup2 hierarchy").point.join(self.scratch.name());
        fs::create_dir_all(&group).unwrap();
        group
    }

    fn inside(&self) -> Command {
        let mut command = self.scratch.command("nsenter");
        command.args([
            "-t",
            &self.init.to_string(),
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-C",
            "env",
            "--chdir=/",
            "-i",
        ]);
        command.args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(["HOME=/root", "TERM=dumb", "LANG=C.UTF-8"]);
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init != 0 {
            eprintln!("--- journal of {}\n{}---", self.name(), self.journal());
        }
        if self.init != 0 {
            process::signal(self.init, Signal::SIGKILL);
        }
        if let Some(mut child) = self.nspawn.take()
            && process::wait(&mut child, Duration::from_secs(10)).is_none()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
