//! How soon the daemon answers, and what it keeps resident.

use anyhow::Result;

use crate::client::{Request, load};
use crate::report::{Series, Target};
use crate::server::{Kind, Server};
use crate::{Bench, ROUNDS};

const VOLUMES: usize = 1000;

/// First answer after exec, with no volume and with 1,000; resident memory with 1,000 volumes.
pub(crate) fn start_and_memory(bench: &mut Bench<'_>) -> Result<()> {
    let kinds = bench.kinds();
    let named =
        || -> Vec<(Kind, Series)> { kinds.iter().map(|kind| (*kind, Series::new(kind.name()))).collect() };
    let (mut empty, mut full) = (named(), named());
    let (mut after_load, mut after_restart) = (named(), named());
    for _ in 0..ROUNDS {
        for (index, kind) in kinds.iter().enumerate() {
            let state = bench.scratch.on_disk("state");
            let server = Server::start(*kind, bench.scratch, bench.peers, &state)?;
            empty[index].1.rounds.push(server.first_answer.as_secs_f64() * 1e3);
            server.fill(VOLUMES)?;
            load(&server.socket, 10, &vec![vec![Request::list()]; 8])?;
            after_load[index].1.rounds.push(server.resident()?);
            drop(server);
            let server = Server::start(*kind, bench.scratch, bench.peers, &state)?;
            full[index].1.rounds.push(server.first_answer.as_secs_f64() * 1e3);
            load(&server.socket, 1, &[vec![Request::list()]])?;
            after_restart[index].1.rounds.push(server.resident()?);
        }
    }
    let start = Target::Limit(20.0);
    bench.alone("First answer after exec, no volumes", "ms", &empty, start);
    bench.alone("First answer after exec, 1000 volumes", "ms", &full, start);
    let memory = Target::Limit(12.0);
    bench.alone(
        "Resident, 1000 volumes created and listed 80 times over 8 connections",
        "MB",
        &after_load,
        memory,
    );
    bench.alone("Resident, 1000 volumes loaded and listed once", "MB", &after_restart, memory);
    Ok(())
}

impl Bench<'_> {
    /// Print a figure of easyfuse that has a limit of its own.
    fn alone(&mut self, title: &str, unit: &str, all: &[(Kind, Series)], limit: Target) {
        let Some(((_, ours), others)) = all.split_first() else { return };
        let others: Vec<_> = others.iter().map(|(_, series)| (series, Target::None)).collect();
        self.report.figure(title, unit, ours, limit, &others);
    }
}
