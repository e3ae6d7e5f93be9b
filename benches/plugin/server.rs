//! The servers that are measured: easyfuse and its peers, each with directories of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::client::{Connection, Request, load};
use crate::peers::Peers;
use crate::scratch::{Scratch, pause};

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Easyfuse,
    Python,
    Rclone,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Easyfuse => "easyfuse",
            Self::Python => "Python easyfuse 0.2.1",
            Self::Rclone => "rclone serve docker",
        }
    }

    /// Options of a volume that can be created without anything being mounted.
    pub(crate) fn options(self) -> Value {
        match self {
            Self::Easyfuse | Self::Python => json!({ "device": "bindfs#/srv", "o": "ro,no-allow-other" }),
            Self::Rclone => json!({ "type": "local", "path": "/srv" }),
        }
    }
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) socket: PathBuf,
    /// From just before it was started to its first answer.
    pub(crate) first_answer: Duration,
    child: Child,
}

impl Server {
    /// Start a server on `state`, a directory on a real disk, and wait until it answers.
    pub(crate) fn start(kind: Kind, scratch: &Scratch, peers: &Peers, state: &Path) -> Result<Self> {
        fs::create_dir_all(state)?;
        let (socket, mounts) = (scratch.socket(), scratch.mounts());
        let log = scratch.log(kind.name())?;
        let mut command = match kind {
            Kind::Easyfuse => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_easyfuse"));
                command.arg("serve").arg("--sock").arg(&socket).arg("--mntpt").arg(&mounts);
                // Some have requests in flight that never end.
                command.arg("--mntdb").arg(state).args(["--drain-timeout", "1s"]);
                command
            }
            Kind::Python => {
                let mut command = Command::new(peers.python.as_ref().context("no Python peer")?);
                command.args(["-m", "easyfuse", "-s"]).arg(&socket).arg("-m").arg(&mounts);
                command.arg("-d").arg(state.join("mntdb.json"));
                fs::create_dir_all(&mounts)?;
                command
            }
            Kind::Rclone => {
                let mut command = Command::new(peers.rclone.as_ref().context("no rclone")?);
                command.args(["serve", "docker", "--config", "/dev/null", "--no-spec", "--socket-addr"]);
                command.arg(&socket).arg("--base-dir").arg(&mounts).arg("--cache-dir").arg(state);
                command
            }
        };
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Self::first_answer(kind, command, socket)
    }

    fn first_answer(kind: Kind, mut command: Command, socket: PathBuf) -> Result<Self> {
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("start {}", kind.name()))?;
        let mut server = Self { kind, socket, first_answer: Duration::ZERO, child };
        let activate = Request::activate();
        loop {
            if let Ok(mut connection) = Connection::open(&server.socket)
                && connection.call(&activate).is_ok()
            {
                server.first_answer = started.elapsed();
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended: {status}", kind.name());
            }
            if started.elapsed() > Duration::from_secs(20) {
                bail!("{} does not answer", kind.name());
            }
            pause(Duration::from_micros(100));
        }
    }

    /// Create the volumes `v0`, `v1`, …
    pub(crate) fn fill(&self, count: usize) -> Result<()> {
        const CONNECTIONS: usize = 8;
        let options = self.kind.options();
        let requests: Vec<Vec<Request>> = (0..CONNECTIONS)
            .map(|first| {
                (first..count)
                    .step_by(CONNECTIONS)
                    .map(|number| Request::create(&format!("v{number}"), &options))
                    .collect()
            })
            .collect();
        load(&self.socket, 1, &requests).map(|_| ())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// The CPU time of all its threads, those that ended as well, but not of its children; in nanoseconds' resolution.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        Ok(clock_getcpuclockid(self.pid())?.now()?.into())
    }

    /// Resident memory in MB (10^6 bytes).
    pub(crate) fn resident(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024.0 / 1e6)
    }

    /// Microseconds of the server's CPU for each of the requests that `work` sends, whose number it returns.
    pub(crate) fn cpu_per_request(&self, work: impl FnOnce() -> Result<usize>) -> Result<f64> {
        let before = self.cpu()?;
        let requests = work()?;
        let spent = self.cpu()?.saturating_sub(before);
        Ok(spent.as_secs_f64() * 1e6 / count(requests))
    }
}

impl Server {
    /// End it and wait for that; it may have ended already.
    pub(crate) fn stop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        _ = kill(self.pid(), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(8);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            pause(Duration::from_millis(10));
        }
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A number of things, to divide by.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn count(things: usize) -> f64 {
    things as f64
}

/// Where a server writes what it says.
pub(crate) fn log_file(path: &Path) -> Result<File> {
    Ok(File::options().create(true).append(true).open(path)?)
}
