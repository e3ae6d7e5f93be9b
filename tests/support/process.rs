//! Running programs with a deadline, and finding processes.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Whether it ended with 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Its trimmed standard output; panics with all it said when it failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.success(), "`{}` failed, {}\n{}{}", self.command, self.status, self.stdout, self.stderr);
        self.stdout.trim_end().to_owned()
    }

    /// Its trimmed standard error; panics when it succeeded.
    #[track_caller]
    pub fn err(self) -> String {
        assert!(!self.success(), "`{}` should have failed, but said\n{}", self.command, self.stdout);
        self.stderr.trim_end().to_owned()
    }
}

/// A program that runs beside the test, in a process group of its own. Dropping it kills the group.
pub struct Background {
    command: String,
    child: Child,
    stdout: File,
    stderr: File,
}

impl Background {
    /// Starts `command` with its output going to unnamed files, so that it never blocks on a full pipe and a
    /// child that keeps the output open can't make us wait.
    pub fn start(command: &mut Command) -> Self {
        let line = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        let stdout = tempfile::tempfile().unwrap();
        let stderr = tempfile::tempfile().unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().unwrap())
            .stderr(stderr.try_clone().unwrap())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("can't start `{line}`: {error}"));
        Self { command: line, child, stdout, stderr }
    }

    /// Its process ID, which is also its process group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self::signal(self.pid(), signal);
    }

    /// Waits for its end; panics when that takes longer than `limit`.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Output {
        let Some(status) = wait(&mut self.child, limit) else {
            let said = read(&mut self.stderr);
            panic!("`{}` did not end within {limit:?}, and said\n{said}", self.command);
        };
        Output {
            command: std::mem::take(&mut self.command),
            status,
            stdout: read(&mut self.stdout),
            stderr: read(&mut self.stderr),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.is_running() {
            let group = Pid::from_raw(self.pid().cast_signed());
            let _ = nix::sys::signal::killpg(group, Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn read(file: &mut File) -> String {
    let mut bytes = vec![];
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs `command` to its end; panics when that takes longer than a minute.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    run_for(Duration::from_mins(1), command)
}

/// Runs `command` to its end; panics when that takes longer than `limit`.
#[track_caller]
pub fn run_for(limit: Duration, command: &mut Command) -> Output {
    Background::start(command).wait(limit)
}

/// Waits for a child's end, at most `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal to a process; one that is gone is none of our concern.
pub fn signal(pid: u32, signal: Signal) {
    let _ = nix::sys::signal::kill(Pid::from_raw(pid.cast_signed()), signal);
}

/// Whether the process exists and is not a zombie.
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z')
}

/// All processes.
pub fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// All processes whose environment has exactly this variable; `value` as a prefix where it ends with `…`.
pub fn processes_with_env(variable: &str) -> Vec<u32> {
    let (wanted, prefix) = variable.strip_suffix('…').map_or((variable, false), |start| (start, true));
    let matches = |entry: &[u8]| {
        if prefix { entry.starts_with(wanted.as_bytes()) } else { entry == wanted.as_bytes() }
    };
    let has = |pid: &u32| environ(*pid).split(|byte| *byte == 0).any(matches);
    processes().into_iter().filter(has).collect()
}

/// The environment that a process was started with, entries separated by NUL; empty for zombies.
pub fn environ(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()
}

/// All children, grandchildren and so on, parents before their children.
pub fn descendants(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> =
        processes().into_iter().filter_map(|pid| Some((pid, stat(pid)?.parent))).collect();
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| child));
        next += 1;
    }
    found.split_off(1)
}

/// The fields of `/proc/PID/stat` that the tests use.
pub struct Stat {
    /// `R`, `S`, `D`, `T`, `Z` …
    pub state: char,
    /// The parent.
    pub parent: u32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

/// Reads `/proc/PID/stat`; none when there is no such process.
pub fn stat(pid: u32) -> Option<Stat> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}
