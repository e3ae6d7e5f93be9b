//! Mount and Unmount of bindfs, beside a shell that types the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Result, bail};
use easyfuse::sys::program;
use serde_json::json;

use crate::client::{Request, load};
use crate::report::{Series, Target};
use crate::server::{Kind, Server, count};
use crate::{Bench, ROUNDS};

/// Volumes, connections and shells of the parallel part.
const PARALLEL: usize = 8;
/// Mounts of each of them, in each round.
const TIMES: usize = 25;

/// One after the other, and eight at once.
pub(crate) fn mount_and_unmount(bench: &mut Bench<'_>) -> Result<()> {
    if let Some(why) = unable() {
        bench.report.skip("Mount+Unmount of bindfs", why);
        return Ok(());
    }
    let source = bench.scratch.on_disk("source");
    fs::create_dir_all(&source)?;
    let device = format!("bindfs#{}", source.display());
    let python = bench.peers.python.as_ref().map(|_| Kind::Python);
    let kinds = [Some(Kind::Easyfuse), python];
    let servers: Vec<Server> = kinds
        .into_iter()
        .flatten()
        .map(|kind| Server::start(kind, bench.scratch, bench.peers, &bench.scratch.on_disk("state")))
        .collect::<Result<_>>()?;
    for server in &servers {
        let create = |number| Request::create(&format!("m{number}"), &json!({ "device": device }));
        load(&server.socket, 1, &[(0..PARALLEL).map(create).collect()])?;
    }
    let targets: Vec<PathBuf> = (0..PARALLEL).map(|_| bench.scratch.mounts()).collect();
    for target in &targets {
        fs::create_dir_all(target)?;
    }

    let mut medians = Vec::new();
    for parallel in [1, PARALLEL] {
        let times = if parallel == 1 { TIMES * 2 } else { TIMES };
        let mut shell = Series::new("shell loop of mount and umount");
        let mut all: Vec<Series> = servers.iter().map(|server| Series::new(server.kind.name())).collect();
        for _ in 0..ROUNDS {
            for (server, series) in servers.iter().zip(&mut all) {
                series.rounds.push(through(server, times, parallel)? * 1e3 / count(times * parallel));
            }
            shell.rounds.push(typed(&device, &targets[..parallel], times)? * 1e3 / count(times * parallel));
        }
        let title = match parallel {
            1 => "Mount+Unmount of bindfs, 1 connection: time of a pair".to_owned(),
            _ => format!("Mount+Unmount of bindfs, {parallel} connections, volumes, shells: time per pair"),
        };
        let (ours, others) = all.split_at(1);
        let mut rows = vec![(&shell, Target::AtMost(1.1))];
        rows.extend(others.iter().map(|series| (series, Target::None)));
        bench.report.figure(&title, "ms", &ours[0], Target::None, &rows);
        medians.push((ours[0].clone(), shell));
    }
    if let [(one, shell_one), (many, shell_many)] = &medians[..] {
        let speedup = |of: &str, one: &Series, many: &Series| Series {
            of: of.to_owned(),
            rounds: vec![one.median() / many.median()],
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let ours = speedup("easyfuse", one, many);
        let shell = speedup("shell loops", shell_one, shell_many);
        let title =
            format!("Mount+Unmount of bindfs, {PARALLEL} at once beside 1, {cores} cores: times faster");
        bench.report.figure(&title, "x", &ours, Target::None, &[(&shell, Target::Faster(0.9))]);
    }
    Ok(())
}

/// Why nothing can be mounted here.
pub(crate) fn unable() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("only root can mount");
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse");
    }
    if program::find_helper("bindfs").is_none() {
        return Some("there is no bindfs (`apt install bindfs`)");
    }
    None
}

/// Seconds that `parallel` connections take, each with a volume of its own.
fn through(server: &Server, times: usize, parallel: usize) -> Result<f64> {
    let requests: Vec<Vec<Request>> = (0..parallel)
        .map(|number| ["Mount", "Unmount"].map(|call| Request::used(call, &format!("m{number}"))).to_vec())
        .collect();
    Ok(load(&server.socket, times, &requests)?.as_secs_f64())
}

/// Seconds that as many shells take as there are targets.
fn typed(device: &str, targets: &[PathBuf], times: usize) -> Result<f64> {
    const LOOP: &str = r#"
        i=0
        while [ $i -lt "$3" ]; do mount -t fuse "$1" "$2" && umount "$2" || exit 1; i=$((i + 1)); done"#;
    let started = Instant::now();
    let start = |target: &PathBuf| {
        let mut shell = Command::new("sh");
        shell.args(["-c", LOOP, "sh", device]).arg(target).arg(times.to_string()).stdin(Stdio::null());
        shell.spawn()
    };
    let shells = targets.iter().map(start).collect::<std::io::Result<Vec<Child>>>()?;
    for mut shell in shells {
        let status = shell.wait()?;
        if !status.success() {
            bail!("the shell loop failed: {status}");
        }
    }
    Ok(started.elapsed().as_secs_f64())
}
