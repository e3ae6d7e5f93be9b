//! The daemon under test.

use std::ffi::OsString;
use std::fs::{self, File};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::process::{self, Output, Signal};
use super::scratch::{PLUGIN_SPECS, Scratch};
use super::{Connection, EASYFUSE, Plugin, eventually, mounts_under, run, wait_until};

/// A daemon with a socket, a mount root and a state directory of its own. Its [`Plugin`] methods talk to it.
pub struct Daemon {
    scratch: Scratch,
    plugin: Plugin,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    child: Option<Child>,
}

/// How a [`Daemon`] is to start.
#[must_use]
pub struct DaemonBuilder(Daemon);

impl DaemonBuilder {
    /// More arguments, after those for the directories.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.0.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.0.env.push((key.into(), value.into()));
        self
    }

    /// Starts it and waits for its first answer.
    #[track_caller]
    pub fn start(mut self) -> Daemon {
        self.0.start_again();
        self.0
    }

    /// Everything but the start: to prepare its directories first. See [`Daemon::start_again`].
    pub fn stopped(self) -> Daemon {
        self.0
    }
}

impl Daemon {
    /// A daemon with no further arguments, running.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A daemon that is still to start.
    pub fn builder() -> DaemonBuilder {
        let scratch = Scratch::new();
        if nix::unistd::geteuid().is_root() {
            scratch.share_mounts();
        }
        let plugin = Plugin::new(scratch.join("easyfuse.sock"));
        DaemonBuilder(Self { scratch, plugin, args: vec![], env: vec![], child: None })
    }

    /// The directory with all that is its own.
    pub fn dir(&self) -> &Scratch {
        &self.scratch
    }

    /// Where it mounts.
    pub fn mntpt(&self) -> PathBuf {
        self.scratch.join("mnt")
    }

    /// Where it keeps its records.
    pub fn state(&self) -> PathBuf {
        self.scratch.join("state")
    }

    /// Its process; panics when it does not run.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon does not run").id()
    }

    /// All it has logged, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Makes a directory of its own, for the source of a mount.
    pub fn source(&self, name: &str) -> PathBuf {
        self.scratch.mkdir(&format!("source/{name}"))
    }

    /// Writes an executable, see [`super::helpers`]; `device=PATH#…` uses it. The whole path, because
    /// mount(8) removes `PATH` from the environment of what it starts.
    pub fn helper(&self, name: &str, script: &str) -> PathBuf {
        self.scratch.mkdir("bin");
        self.scratch.script(&format!("bin/{name}"), script)
    }

    /// Creates a volume that shows a new directory through a helper, and gives that directory.
    #[track_caller]
    pub fn create_with_helper(&self, name: &str, script: &str) -> PathBuf {
        let (source, helper) = (self.source(name), self.helper(name, script));
        self.create(name, &[("device", &format!("{}#{}", helper.display(), source.display()))]).unwrap();
        source
    }

    /// Creates a volume that shows a new directory through bindfs, and gives that directory.
    #[track_caller]
    pub fn create_bindfs(&self, name: &str) -> PathBuf {
        let source = self.source(name);
        self.create(name, &[("device", &format!("bindfs#{}", source.display()))]).unwrap();
        source
    }

    /// Makes engines find it, until it is dropped; gives the name of its driver.
    pub fn discoverable(&self) -> &str {
        let name = self.scratch.name();
        fs::create_dir_all(PLUGIN_SPECS).unwrap();
        let spec = format!("unix://{}", self.sock().display());
        fs::write(Path::new(PLUGIN_SPECS).join(format!("{name}.spec")), spec).unwrap();
        name
    }

    /// The `serve` command as this daemon is started with it: to start a second one, or one that is to fail.
    pub fn command(&self) -> Command {
        let mut command = self.scratch.command(EASYFUSE);
        command.arg("serve");
        command.arg("--sock").arg(self.sock());
        command.arg("--mntpt").arg(self.mntpt());
        command.arg("--mntdb").arg(self.state());
        command.args(&self.args).envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs another subcommand of the binary, with `EASYFUSE_UNIX_SOCK` set to this daemon's socket.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Output {
        let mut command = self.scratch.command(EASYFUSE);
        command.args(args).env("EASYFUSE_UNIX_SOCK", self.sock());
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        run(&mut command)
    }

    /// Starts it, where it does not run, and waits for its first answer.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.launch();
        let mut ended = None;
        let up = eventually(Duration::from_secs(20), || {
            ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            ended.is_some() || self.answers()
        });
        assert!(up && ended.is_none(), "the daemon did not start ({ended:?})\n{}", self.log());
    }

    /// Starts it without waiting for anything.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Whether it answers an Activate within 2 seconds.
    pub fn answers(&self) -> bool {
        let Ok(mut connection) = Connection::open(self.sock()) else { return false };
        connection.read_timeout(Duration::from_secs(2));
        let answer = connection.request("POST", "Plugin.Activate", &[], b"");
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// Kills it as a crash would.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and waits for its end.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        process::signal(self.pid(), Signal::SIGTERM);
        self.wait(Duration::from_secs(30))
    }

    /// Waits for an end that something else causes.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("the daemon does not run");
        process::wait(&mut child, limit).unwrap_or_else(|| {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the daemon did not end within {limit:?}")
        })
    }

    /// [`Self::terminate`] and [`Self::start_again`].
    #[track_caller]
    pub fn restart(&mut self) {
        self.terminate();
        self.start_again();
    }

    /// The processes that it started for mounts and that still run: helpers and what they became.
    pub fn helpers(&self) -> Vec<u32> {
        process::processes_with_env(&format!("EASYFUSE_MOUNTPOINT={}…", self.mntpt().display()))
    }

    /// Panics unless nothing is left of any volume: no name, record, mount, directory, reference or process.
    #[track_caller]
    pub fn assert_no_trace(&self) {
        assert_eq!(self.names(), [""; 0]);
        assert_eq!(entries(&self.state().join("volumes")), [""; 0], "records");
        assert_eq!(mounts_under(&self.mntpt()), []);
        assert_eq!(entries(&self.mntpt()), [".easyfuse"]);
        for kind in ["references", "attempts", "staging"] {
            assert_eq!(entries(&self.mntpt().join(".easyfuse").join(kind)), [""; 0], "{kind}");
        }
        wait_until("the helpers end", || self.helpers().is_empty());
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.join("log")
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

impl Deref for Daemon {
    type Target = Plugin;

    fn deref(&self) -> &Plugin {
        &self.plugin
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::signal(child.id(), Signal::SIGTERM);
            if process::wait(&mut child, Duration::from_secs(5)).is_none() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            eprintln!("--- log of the daemon in {}\n{}---", self.scratch.path().display(), self.log());
        }
    }
}
