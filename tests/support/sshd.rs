//! An SSH server of the test's own.

use std::fs::{self, File};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::need::find_program;
use super::process::{Signal, descendants, signal};
use super::scratch::Scratch;
use super::{eventually, run};

/// An sshd on 127.0.0.1 with keys of its own, that serves files over SFTP to root.
pub struct Sshd {
    scratch: Scratch,
    port: u16,
    child: Option<Child>,
}

impl Sshd {
    /// Makes keys, takes a free port and starts.
    #[track_caller]
    pub fn start() -> Self {
        let scratch = Scratch::new();
        for key in ["host", "user"] {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(scratch.join(key)))
            .ok();
        }
        fs::copy(scratch.join("user.pub"), scratch.join("authorized_keys")).unwrap();
        let mut sshd = Self { scratch, port: 0, child: None };
        // Another process may take the port between our look and sshd's: then try the next one.
        for _ in 0..5 {
            sshd.port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
            if sshd.try_start() {
                return sshd;
            }
            sshd.stop();
        }
        panic!("sshd did not start\n{}", sshd.log());
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory with all that is its own.
    pub fn dir(&self) -> &Scratch {
        &self.scratch
    }

    /// For `device=`: `sshfs#root@127.0.0.1:DIR`.
    #[expect(clippy::unused_self, reason = "goes with options")]
    pub fn device(&self, dir: &Path) -> String {
        format!("sshfs#root@127.0.0.1:{}", dir.display())
    }

    /// For `o=`: what sshfs needs to reach it.
    pub fn options(&self) -> String {
        let file = |name: &str| self.scratch.join(name).display().to_string();
        format!("IdentityFile={},UserKnownHostsFile={},port={}", file("user"), file("known_hosts"), self.port)
    }

    /// The server vanishes without a word: nothing it holds answers any more, connections stay open.
    pub fn freeze(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    /// Ends the connections, but still accepts new ones.
    pub fn hang_up(&self) {
        for pid in self.child.iter().flat_map(|child| descendants(child.id())) {
            signal(pid, Signal::SIGKILL);
        }
    }

    /// Ends the server and its connections.
    pub fn stop(&mut self) {
        self.hang_up();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts again on the same port, with the same keys.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.try_start(), "sshd did not start\n{}", self.log());
    }

    /// What sshd has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }

    fn signal_all(&self, what: Signal) {
        let Some(child) = &self.child else { return };
        signal(child.id(), what); // first, so that it makes no new ones
        for pid in descendants(child.id()) {
            signal(pid, what);
        }
    }

    fn try_start(&mut self) -> bool {
        let dir = self.scratch.path().display();
        let host_key = fs::read_to_string(self.scratch.join("host.pub")).unwrap();
        self.scratch.write("known_hosts", format!("[127.0.0.1]:{} {host_key}", self.port));
        let config = format!(
            "ListenAddress 127.0.0.1:{}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/authorized_keys\n\
             PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n\
             PasswordAuthentication no\nMaxStartups 100\nSubsystem sftp internal-sftp\n",
            self.port
        );
        let config = self.scratch.write("sshd_config", config);
        fs::create_dir_all("/run/sshd").unwrap(); // its privilege separation directory
        let program = find_program("sshd").expect("sshd");
        let log = File::options().create(true).append(true).open(self.scratch.join("log")).unwrap();
        let mut command = self.scratch.command(program);
        command.args(["-D", "-e", "-f"]).arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        eventually(Duration::from_secs(10), || self.ended() || self.greets()) && !self.ended()
    }

    fn ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    fn greets(&self) -> bool {
        let mut banner = [0; 4];
        TcpStream::connect(("127.0.0.1", self.port))
            .and_then(|mut stream| stream.read_exact(&mut banner))
            .is_ok_and(|()| &banner == b"SSH-")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("--- log of sshd\n{}---", self.log());
        }
    }
}
