//! Starting programs, without a copy of this process.
//!
//! The standard library forks as soon as a child is to have a session of its own: the kernel then copies the page tables of a
//! process with many threads, and all of them fault on what they write next. posix_spawn(3) can make the session itself,
//! and costs a third of a `mount` less.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::libc;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::blocking;

/// A program that was started. It is waited for also when this is dropped.
#[derive(Debug)]
pub struct Child {
    /// Its pid, and the number of its session and process group.
    pub pid: Pid,
    ended: JoinHandle<nix::Result<WaitStatus>>,
}

impl Child {
    /// Start `program` as the leader of a session of its own, so that no terminal's signals reach it and all that it starts
    /// can be ended at once. It is in this process's directory, reads nothing, and writes to `output`.
    ///
    /// # Errors
    /// What the kernel said, and `InvalidInput` for a NUL in a word or in the environment.
    pub fn start(
        program: &Path,
        arguments: &[String],
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        output: &File,
    ) -> io::Result<Self> {
        let path = c_string(program)?;
        let mut words = vec![path.clone()];
        for word in arguments {
            words.push(c_string(word)?);
        }
        let pairs = environment.into_iter().map(|(name, value)| {
            c_string(OsString::from_vec([name.as_bytes(), b"=", value.as_bytes()].concat()))
        });
        let pairs = pairs.collect::<io::Result<Vec<_>>>()?;

        let nothing = File::open("/dev/null")?;
        let mut files = PosixSpawnFileActions::init()?;
        for (ours, theirs) in [(&nothing, 0), (output, 1), (output, 2)] {
            files.add_dup2(ours.as_raw_fd(), theirs)?;
        }
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
                | PosixSpawnFlags::from_bits_retain(libc::c_int::from(libc::POSIX_SPAWN_SETSID)),
        )?;
        // Rust ignores it, and children would inherit that.
        let mut defaults = SigSet::empty();
        defaults.add(Signal::SIGPIPE);
        attributes.set_sigdefault(&defaults)?;
        attributes.set_sigmask(&SigSet::empty())?;

        let pid = posix_spawn(path.as_c_str(), &files, &attributes, &words, &pairs)?;
        Ok(Self { pid, ended: tokio::spawn(wait(pid)) })
    }

    /// Wait until it ends.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub async fn wait(&mut self) -> io::Result<WaitStatus> {
        Ok((&mut self.ended).await.map_err(io::Error::other)??)
    }
}

async fn wait(pid: Pid) -> nix::Result<WaitStatus> {
    // Listening before the first look, so that no end is missed between the two.
    let Ok(mut endings) = signal(SignalKind::child()) else {
        return blocking(move || waitpid(pid, None)).await;
    };
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::StillAlive => _ = endings.recv().await,
            status => return Ok(status),
        }
    }
}

fn c_string(text: impl AsRef<OsStr>) -> io::Result<CString> {
    Ok(CString::new(text.as_ref().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(script: &str) -> (WaitStatus, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let words = ["-c", script].map(str::to_owned);
        let environment = [("A".into(), "b c".into())];
        let mut child = Child::start(Path::new("/bin/sh"), &words, environment, file.as_file()).unwrap();
        let status = child.wait().await.unwrap();
        (status, std::fs::read_to_string(file.path()).unwrap())
    }

    #[tokio::test]
    async fn it_has_its_words_environment_and_output() {
        let (status, said) = run("echo \"$A\"; cat; echo oops >&2; exit 7").await;
        assert!(matches!(status, WaitStatus::Exited(_, 7)), "{status:?}");
        assert_eq!(said, "b c\noops\n");
    }

    #[tokio::test]
    async fn it_leads_a_session_and_a_broken_pipe_ends_it() {
        let (_, said) = run("cut -d' ' -f1,6 /proc/$$/stat; (yes; echo $? >&2) | true").await;
        let mut words = said.split_whitespace();
        assert_eq!(words.next(), words.next(), "pid and session");
        assert_eq!(words.next(), Some("141"));
    }

    #[tokio::test]
    async fn what_can_not_be_started_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        let error = Child::start(Path::new("/etc/passwd"), &[], [], &file).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let error = Child::start(Path::new("/bin/sh"), &["a\0b".to_owned()], [], &file).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn one_that_was_dropped_leaves_no_zombie() {
        let file = tempfile::tempfile().unwrap();
        let child = Child::start(Path::new("/bin/sh"), &["-c".into(), "exit".into()], [], &file).unwrap();
        let pid = child.pid;
        drop(child);
        for _ in 0..500 {
            if nix::sys::signal::kill(pid, None).is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{pid} is still there");
    }
}
