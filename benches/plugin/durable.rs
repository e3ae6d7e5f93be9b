//! Create and Remove, each on the disk before it is answered, beside what the disk does at best.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::client::{Request, load};
use crate::report::{Series, Target};
use crate::server::{Kind, Server, count};
use crate::{Bench, ROUNDS};

const CONNECTIONS: usize = 32;
/// Pairs of Create and Remove for each connection, in each round.
const PAIRS: usize = 40;

/// Create+Remove at 32 connections.
pub(crate) fn create_and_remove(bench: &mut Bench<'_>) -> Result<()> {
    let servers = bench.servers()?;
    let mut all: Vec<_> =
        servers.iter().map(|server| (server.kind, Series::new(server.kind.name()))).collect();
    let mut replacing = Series::new("loop: write fsync rename fsync-dir");
    let mut pairs = Series::new("loop: that, unlink, fsync-dir");
    let dir = bench.scratch.on_disk("loop");
    fs::create_dir_all(&dir)?;
    for _ in 0..ROUNDS {
        replacing.rounds.push(rate(CONNECTIONS * PAIRS, in_threads(|name| replace(&dir, name))?));
        for (server, (_, series)) in servers.iter().zip(&mut all) {
            series.rounds.push(rate(2 * CONNECTIONS * PAIRS, load_pairs(server)?));
        }
        let made_and_removed = in_threads(|name| {
            replace(&dir, name)?;
            fs::remove_file(dir.join(name))?;
            Ok(File::open(&dir)?.sync_all()?)
        });
        pairs.rounds.push(rate(2 * CONNECTIONS * PAIRS, made_and_removed?));
    }
    let title = format!("Create+Remove, {CONNECTIONS} connections: operations");
    bench.beside(&title, "1/s", &all, Target::Faster(3.0));
    let Some((_, ours)) = all.iter().find(|(kind, _)| *kind == Kind::Easyfuse) else { return Ok(()) };
    bench.report.figure(
        "Create+Remove beside the bare disk, 32 threads: durable operations",
        "1/s",
        ours,
        Target::None,
        &[(&replacing, Target::Faster(0.6)), (&pairs, Target::Faster(0.6))],
    );
    Ok(())
}

fn rate(operations: usize, time: Duration) -> f64 {
    count(operations) / time.as_secs_f64()
}

fn load_pairs(server: &Server) -> Result<Duration> {
    let options = server.kind.options();
    let requests: Vec<Vec<Request>> = (0..CONNECTIONS)
        .map(|number| {
            let name = format!("c{number}");
            vec![Request::create(&name, &options), Request::named("Remove", &name)]
        })
        .collect();
    load(&server.socket, PAIRS, &requests)
}

/// As much as a record is, made durable the usual way.
fn replace(dir: &Path, name: &str) -> Result<()> {
    let temporary = dir.join(format!(".tmp-{name}"));
    let mut file = File::create(&temporary)?;
    file.write_all(&[b'x'; 180])?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    Ok(File::open(dir)?.sync_all()?)
}

fn in_threads(work: impl Fn(&str) -> Result<()> + Sync) -> Result<Duration> {
    let started = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let work = &work;
                scope.spawn(move || (0..PAIRS).try_for_each(|_| work(&format!("c{number}.json"))))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a thread of the bare loop panicked"),
        })
    })?;
    Ok(started.elapsed())
}
