//! What others wait while fifty helpers hang.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::client::{Connection, Request, latencies, load};
use crate::mounts::unable;
use crate::report::{Series, Target, say};
use crate::scratch::pause;
use crate::server::{Kind, Server};
use crate::{Bench, ROUNDS};

const HANGING: usize = 50;
/// With those that hang these make 1,000 volumes.
const OTHERS: usize = 950;

/// The 99th percentile of List and Activate with 1,000 volumes, 50 of which have a Mount pending whose helper never ends.
pub(crate) fn fifty_hanging(bench: &mut Bench<'_>) -> Result<()> {
    if let Some(why) = unable() {
        bench.report.skip("List and Activate while helpers hang", why);
        return Ok(());
    }
    let python = bench.peers.python.as_ref().map(|_| Kind::Python);
    let mut stuck = Vec::new();
    for kind in [Some(Kind::Easyfuse), python].into_iter().flatten() {
        let server = Server::start(kind, bench.scratch, bench.peers, &bench.scratch.on_disk("state"))?;
        server.fill(OTHERS)?;
        stuck.push(Stuck::make(server, &bench.scratch.on_disk("helpers"))?);
    }
    let mut unanswered = Vec::new();
    for (call, request) in [("List", Request::list()), ("Activate", Request::activate())] {
        let mut all: Vec<_> =
            stuck.iter().map(|stuck| (stuck.server.kind, Series::new(stuck.server.kind.name()))).collect();
        for _ in 0..ROUNDS {
            for (stuck, (kind, series)) in stuck.iter().zip(&mut all) {
                if unanswered.contains(kind) {
                    continue;
                }
                let count = if *kind == Kind::Easyfuse { 1000 } else { 200 };
                match latencies(&stuck.server.socket, count, &request) {
                    Ok(taken) => series.rounds.push(taken[count * 99 / 100].as_secs_f64() * 1e3),
                    Err(error) if *kind == Kind::Easyfuse => return Err(error),
                    Err(error) => {
                        say(&format!("{call} of {}: {error:#}", kind.name()));
                        unanswered.push(*kind);
                    }
                }
            }
        }
        let title =
            format!("{call} with 1000 volumes, of which {HANGING} hang: 99th percentile of the latency");
        let (_, ours) = &all[0];
        let others: Vec<_> = all[1..].iter().map(|(_, series)| (series, Target::None)).collect();
        bench.report.figure(&title, "ms", ours, Target::Limit(10.0), &others);
    }
    Ok(())
}

/// A server with helpers that hang.
struct Stuck {
    server: Server,
    /// Where its helpers say which processes they are.
    dir: PathBuf,
    /// Their requests, which wait for ever.
    _pending: Vec<Connection>,
}

impl Stuck {
    fn make(server: Server, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let script = dir.join("hang");
        // Each says which process it is, so that it can be ended.
        fs::write(&script, format!("#!/bin/sh\n: > {}/pid.$$\nexec sleep 600\n", dir.display()))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let options = json!({ "device": format!("{}#x", script.display()) });
        let create = |number| Request::create(&format!("h{number}"), &options);
        load(&server.socket, 1, &[(0..HANGING).map(create).collect()])?;
        let mut pending = Vec::new();
        for number in 0..HANGING {
            let mut connection = Connection::open(&server.socket)?;
            connection.send(&Request::used("Mount", &format!("h{number}")))?;
            pending.push(connection);
        }
        let started = Instant::now();
        let stuck = Self { server, dir: dir.to_owned(), _pending: pending };
        loop {
            let helpers = pids(dir)?.len();
            // The original starts one, and the rest after it.
            let enough = if stuck.server.kind == Kind::Easyfuse { HANGING } else { 1 };
            if helpers >= enough {
                return Ok(stuck);
            }
            if started.elapsed() > Duration::from_secs(30) {
                bail!("only {helpers} helpers of {} run", stuck.server.kind.name());
            }
            pause(Duration::from_millis(50));
        }
    }
}

fn pids(dir: &Path) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(pid) = name.strip_prefix("pid.") {
            found.push(Pid::from_raw(pid.parse()?));
        }
    }
    Ok(found)
}

impl Drop for Stuck {
    fn drop(&mut self) {
        // First the server: the original starts the next helper when one ends.
        self.server.stop();
        for pid in pids(&self.dir).unwrap_or_default() {
            // A pid may have a new owner by now.
            let path = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            if path.ends_with("sleep") {
                _ = kill(pid, Signal::SIGKILL);
            }
        }
    }
}
