//! A Docker engine of the test's own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::need::find_program;
use super::process::{self, Output, Signal, run_for};
use super::scratch::{PLUGIN_SPECS, Scratch};
use super::{Background, Connection, eventually, image};

/// How long a `docker` command may take.
const LIMIT: Duration = Duration::from_mins(2);

/// A dockerd with directories and a socket of its own, and an image `busybox`.
///
/// It has no networks but `none` and `host`: what runs in it by compose needs `network_mode: none`.
///
/// One at a time on a machine, the next one waits: engines look for plugins in one place, and `docker volume
/// ls` asks every plugin that is there, also one that another test has just killed.
pub struct Engine {
    scratch: Scratch,
    args: Vec<OsString>,
    child: Option<Child>,
    /// Holds the lock on the directory of plugins.
    turn: Arc<File>,
}

impl Engine {
    /// Starts one, when it is its turn.
    #[track_caller]
    pub fn start() -> Self {
        Self::with_args(&[])
    }

    /// Starts one with more arguments, like `--live-restore`.
    #[track_caller]
    pub fn with_args(args: &[&str]) -> Self {
        fs::create_dir_all(PLUGIN_SPECS).unwrap();
        let turn = File::open(PLUGIN_SPECS).unwrap();
        turn.lock().unwrap();
        Self::launch(args, Arc::new(turn))
    }

    /// Starts a second one beside this one.
    #[track_caller]
    pub fn beside(&self, args: &[&str]) -> Self {
        Self::launch(args, Arc::clone(&self.turn))
    }

    #[track_caller]
    fn launch(args: &[&str], turn: Arc<File>) -> Self {
        let args = args.iter().map(OsString::from).collect();
        let mut engine = Self { scratch: Scratch::new(), args, child: None, turn };
        engine.scratch.mkdir("config");
        engine.start_again();
        let tar = image::busybox(&engine.scratch);
        engine.docker(&["import", tar.to_str().unwrap(), "busybox"]).ok();
        engine
    }

    /// The directory with all that is its own.
    pub fn dir(&self) -> &Scratch {
        &self.scratch
    }

    /// Its API's socket.
    pub fn sock(&self) -> PathBuf {
        self.scratch.join("docker.sock")
    }

    /// The dockerd's process; panics when it does not run.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("dockerd does not run").id()
    }

    /// What dockerd has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }

    /// `docker ARGS`, at most two minutes.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> Output {
        run_for(LIMIT, self.client(docker()).args(args))
    }

    /// `docker ARGS` beside the test.
    pub fn docker_in_background(&self, args: &[&str]) -> Background {
        Background::start(self.client(docker()).args(args))
    }

    /// `docker run --rm -v VOLUME busybox sh -c SCRIPT`, its output; `volume` is `NAME:/PATH`.
    #[track_caller]
    pub fn sh(&self, volume: &str, script: &str) -> String {
        self.docker(&["run", "--rm", "-v", volume, "busybox", "sh", "-c", script]).ok()
    }

    /// `docker-compose -f FILE ARGS`, with this engine's name as the project's.
    #[track_caller]
    pub fn compose(&self, file: &Path, args: &[&str]) -> Output {
        let mut command = self.client("docker-compose".into());
        run_for(
            LIMIT,
            command.args(["--ansi", "never", "-p", self.scratch.name(), "-f"]).arg(file).args(args),
        )
    }

    /// A client program that talks to this engine.
    pub fn client(&self, program: PathBuf) -> Command {
        let mut command = self.scratch.command(program);
        command.env("DOCKER_HOST", format!("unix://{}", self.sock().display()));
        command.env("DOCKER_CONFIG", self.scratch.join("config"));
        command
    }

    /// Kills dockerd as a crash would. Its containerd dies with it; shims and containers stay, until the next
    /// start ends them unless it is a `--live-restore` one.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
            self.forget_containerd();
        }
    }

    /// Stops dockerd as `systemctl stop docker` would; containers end, unless it is a `--live-restore` one.
    #[track_caller]
    pub fn terminate(&mut self) {
        process::signal(self.pid(), Signal::SIGTERM);
        let mut child = self.child.take().unwrap();
        if process::wait(&mut child, Duration::from_mins(1)).is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("dockerd did not end within a minute\n{}", self.log());
        }
    }

    /// Starts dockerd, where it does not run, and waits for its first answer.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "dockerd runs already");
        let log = File::options().create(true).append(true).open(self.scratch.join("log")).unwrap();
        let mut command = self.scratch.command(find_program("dockerd").expect("dockerd"));
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command.arg("--data-root").arg(self.scratch.join("data"));
        command.arg("--exec-root").arg(self.scratch.join("exec"));
        command.arg("--pidfile").arg(self.scratch.join("pid"));
        command.arg("-H").arg(format!("unix://{}", self.sock().display()));
        command.args(["--log-level=warn", "--bridge=none", "--iptables=false"]);
        // Control groups of a name that is known, to remove them.
        command.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
        command.arg(format!("--cgroup-parent=/{}", self.scratch.name()));
        command.args(&self.args);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let up = eventually(Duration::from_mins(1), || self.ended() || self.answers());
        assert!(up && !self.ended(), "dockerd did not start\n{}", self.log());
    }

    /// [`Self::terminate`] and [`Self::start_again`].
    #[track_caller]
    pub fn restart(&mut self) {
        self.terminate();
        self.start_again();
    }

    /// Where PID 1 is no real init, the killed containerd stays a zombie, and the next dockerd takes it for
    /// alive.
    fn forget_containerd(&self) {
        let file = self.scratch.join("exec/containerd/containerd.pid");
        let pid = fs::read_to_string(&file).ok().and_then(|pid| pid.trim().parse().ok());
        if let Some(pid) = pid {
            eventually(Duration::from_secs(5), || !process::alive(pid));
            let _ = fs::remove_file(file);
        }
    }

    fn ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    fn answers(&self) -> bool {
        let Ok(mut connection) = Connection::open(&self.sock()) else { return false };
        connection.read_timeout(Duration::from_secs(2));
        let answer = connection.request("GET", "_ping", &[], b"");
        answer.is_ok_and(|answer| answer.status == 200)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Containerd, shims and containers carry the directory's mark, and end with it.
        self.kill9();
        if std::thread::panicking() {
            eprintln!("--- log of dockerd\n{}---", self.log());
        }
    }
}

/// Debian's client rather than another one earlier in `PATH`.
fn docker() -> PathBuf {
    let debian = PathBuf::from("/usr/bin/docker");
    if debian.exists() { debian } else { "docker".into() }
}
