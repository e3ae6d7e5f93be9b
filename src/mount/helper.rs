//! Helper programs: `mount`, `umount` and what they start.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::sys::spawn::Child;
use crate::sys::{blocking, process, program, systemd};

/// Set for each helper, and inherited by what it starts: the volume's name.
pub const VOLUME_VARIABLE: &str = "EASYFUSE_VOLUME";
/// Likewise: the volume's mount point.
pub const MOUNTPOINT_VARIABLE: &str = "EASYFUSE_MOUNTPOINT";
/// Likewise: the token of the attempt to mount that started it.
pub const ATTEMPT_VARIABLE: &str = "EASYFUSE_ATTEMPT";

/// How much of a helper's words an error carries.
const WORDS_LIMIT: usize = 600;
/// How long a helper has between SIGTERM and SIGKILL.
const TERMINATION: Duration = Duration::from_millis(1500);
/// Variables that systemd means for this daemon alone.
const PRIVATE_VARIABLES: [&str; 7] = [
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "JOURNAL_STREAM",
];

/// One run of a helper.
#[derive(Debug)]
pub struct Run<'a> {
    /// The volume's name.
    pub volume: &'a str,
    /// The volume's mount point.
    pub target: &'a Path,
    /// Where it writes what it says.
    pub log: &'a Path,
    /// Marks its processes, so that they can be found.
    pub token: &'a str,
    /// When it must be done.
    pub deadline: Instant,
    /// Ends it earlier.
    pub cancel: &'a CancellationToken,
    /// Whether it leaves a process behind that must outlive this daemon.
    pub stays: bool,
}

impl Run<'_> {
    /// Run `words` and wait until the program exits, or kill all that it started.
    ///
    /// What a helper prints goes to a file and not through a pipe: what it leaves running may print for years, and a
    /// pipe whose reader is gone would kill it.
    ///
    /// # Errors
    /// A program that can't be started, fails, or is not done in time.
    pub async fn run(&self, words: &[String]) -> Result<(), Error> {
        let scope = self.stays && systemd::is_init();
        match self.run_once(words, scope).await {
            Err(Error::Failed { words: said, .. }) if scope && is_systemd_trouble(&said) => {
                log::warn!(VOLUME = self.volume; "no systemd scope for the helper, it runs without one: {said}");
                self.run_once(words, false).await
            }
            other => other,
        }
    }

    async fn run_once(&self, words: &[String], scope: bool) -> Result<(), Error> {
        let program = words.first().cloned().unwrap_or_default();
        let mut words = words.to_vec();
        if program.contains('/') {
            // A path may lead into a filesystem that hangs, and whoever runs it hangs as well: a shell, not this process.
            words.splice(0..0, ["/bin/sh", "-c", "exec \"$0\" \"$@\""].map(str::to_owned));
        }
        if scope {
            words.splice(0..0, self.scope_words());
        }
        let started = Instant::now();
        let (log, environment) = (self.log.to_owned(), self.environment());
        let child = blocking(move || start(&words, environment, &log)).await;
        let mut child = child.map_err(|error| Error::Start { program: program.clone(), error })?;
        let pid = child.pid;
        let status = tokio::select! {
            status = timeout_at(self.deadline, child.wait()) => status.ok(),
            () = self.cancel.cancelled() => None,
        };
        match status {
            Some(Ok(WaitStatus::Exited(_, 0))) => Ok(()),
            Some(Ok(status)) => {
                Err(Error::Failed { program, status: describe(status), words: last_words(self.log).await })
            }
            Some(Err(error)) => Err(Error::Start { program, error }),
            None => {
                let words = last_words(self.log).await;
                self.kill(pid).await;
                // What can't be killed yet is reaped later, without us.
                _ = tokio::time::timeout(Duration::from_millis(200), child.wait()).await;
                if self.cancel.is_cancelled() {
                    return Err(Error::Cancelled { program });
                }
                Err(Error::TimedOut { program, after: started.elapsed(), words })
            }
        }
    }

    fn scope_words(&self) -> Vec<String> {
        let fixed = ["systemd-run", "--scope", "--quiet", "--collect", "--slice=system.slice"];
        let mut words: Vec<String> = fixed.iter().map(ToString::to_string).collect();
        // At shutdown dockerd and its containers stop first: else their last writes would be lost.
        words.extend(
            ["Before=docker.service", "Before=podman-restart.service", "After=network.target"]
                .map(|order| format!("--property={order}")),
        );
        words.push(format!("--unit=easyfuse-{:.100}-{}", self.volume, self.token));
        words.push(format!("--description=FUSE filesystem of Docker volume {}", self.volume));
        words.push("--".to_owned());
        words
    }

    fn environment(&self) -> Vec<(OsString, OsString)> {
        let own: [(&str, OsString); 4] = [
            ("PATH", program::search_path().into()),
            (VOLUME_VARIABLE, self.volume.into()),
            (MOUNTPOINT_VARIABLE, self.target.into()),
            (ATTEMPT_VARIABLE, self.token.into()),
        ];
        let replaced = |name: &OsString| {
            PRIVATE_VARIABLES.iter().chain(own.iter().map(|(name, _)| name)).any(|other| name == other)
        };
        let mut environment: Vec<(OsString, OsString)> =
            std::env::vars_os().filter(|(name, _)| !replaced(name)).collect();
        environment.extend(own.iter().map(|(name, value)| ((*name).into(), value.clone())));
        environment
    }

    async fn kill(&self, group: Pid) {
        _ = killpg(group, Signal::SIGTERM);
        end_processes(ATTEMPT_VARIABLE, &[self.token], TERMINATION).await;
        _ = killpg(group, Signal::SIGKILL);
    }
}

fn start(words: &[String], environment: Vec<(OsString, OsString)>, log: &Path) -> io::Result<Child> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    // Looked up here, since exec would search this process's own PATH.
    let path = program::find(program).ok_or(io::ErrorKind::NotFound)?;
    // Appending, so that a log that is cut short while its helper runs goes on at its new end.
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
    log.set_len(0)?;
    Child::start(&path, arguments, environment, &log)
}

/// End all processes that were started with `variable` set to one of `values`: SIGTERM, and SIGKILL for those that are still there
/// after `patience`.
pub async fn end_processes(variable: &'static str, values: &[&str], patience: Duration) {
    let deadline = Instant::now() + patience;
    let mut signal = Signal::SIGTERM;
    loop {
        let found = blocking(move || process::with_variable(variable)).await.unwrap_or_default();
        let pids: Vec<i32> = found
            .iter()
            .filter(|process| values.contains(&process.value.as_str()))
            .filter_map(|process| i32::try_from(process.pid).ok())
            .collect();
        if pids.is_empty() || signal == Signal::SIGKILL && Instant::now() > deadline + TERMINATION {
            return;
        }
        if Instant::now() >= deadline {
            signal = Signal::SIGKILL;
        }
        for pid in pids {
            _ = kill(Pid::from_raw(pid), signal);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Kill one process.
pub(super) fn kill_now(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The end of what a helper said, in one line.
pub async fn last_words(log: &Path) -> String {
    let log = log.to_owned();
    blocking(move || read_tail(&log)).await.map(|text| summarise(&text)).unwrap_or_default()
}

fn read_tail(path: &Path) -> io::Result<String> {
    const TAIL: u64 = 4096;
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last three lines that say something, as one line without control characters.
fn summarise(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(3)..].join("; ");
    let clean: String = last.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut clean = clean.trim_end().to_owned();
    if clean.len() > WORDS_LIMIT {
        let cut = clean.len() - WORDS_LIMIT;
        let start = (cut..=clean.len()).find(|at| clean.is_char_boundary(*at)).unwrap_or(cut);
        clean = format!("…{}", &clean[start..]);
    }
    clean
}

fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("exit status {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("killed by {signal}"),
        _ => "ended".to_owned(),
    }
}

fn is_systemd_trouble(words: &str) -> bool {
    ["Failed to start transient scope unit", "Failed to connect to bus", "Failed to create bus connection"]
        .iter()
        .any(|sign| words.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_last_lines_in_one() {
        assert_eq!(summarise("a\nb\n\n c\r\nd\u{7}\n"), "b; c; d");
        assert_eq!(summarise(""), "");
        let long = summarise(&"é".repeat(5000));
        assert!(long.len() <= WORDS_LIMIT + 4 && long.starts_with('…'));
    }

    fn run<'a>(log: &'a Path, token: &'a str, cancel: &'a CancellationToken, limit: Duration) -> Run<'a> {
        let deadline = Instant::now() + limit;
        Run { volume: "v", target: Path::new("/t"), log, token, deadline, cancel, stays: false }
    }

    fn words(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn a_failure_carries_status_and_words() {
        let dir = tempfile::tempdir().unwrap();
        let (log, cancel) = (dir.path().join("log"), CancellationToken::new());
        let run = run(&log, "unit-fail", &cancel, Duration::from_secs(20));
        let error = run.run(&words("echo no such host >&2; exit 3")).await.unwrap_err();
        assert_eq!(error.to_string(), "no such host (sh: exit status 3)");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let (log, cancel) = (dir.path().join("log"), CancellationToken::new());
        let run = run(&log, "unit-hang", &cancel, Duration::from_millis(300));
        let script = "trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do sleep 9; done' & while :; do sleep 9; done";
        assert!(matches!(run.run(&words(script)).await.unwrap_err(), Error::TimedOut { .. }));
        let left = process::with_variable(ATTEMPT_VARIABLE).unwrap();
        assert!(!left.iter().any(|process| process.value == "unit-hang"), "{left:?}");
    }

    #[tokio::test]
    async fn what_stays_behind_does_not_hold_up_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let (log, cancel) = (dir.path().join("log"), CancellationToken::new());
        let run = run(&log, "unit-stay", &cancel, Duration::from_secs(20));
        let started = Instant::now();
        run.run(&words("(sleep 15; echo late) & exit 0")).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(10));
        end_processes(ATTEMPT_VARIABLE, &["unit-stay"], Duration::from_secs(1)).await;
    }
}
