//! What a request costs the server that only looks: Activate, Get and List.

use anyhow::Result;

use crate::client::{Request, load};
use crate::report::{Series, Target};
use crate::server::{Kind, Server};
use crate::{Bench, ROUNDS};

const VOLUMES: usize = 1000;

/// Activate beside the peers, and Get among 1,000 volumes beside Activate of the same server.
pub(crate) fn activate_and_get(bench: &mut Bench<'_>) -> Result<()> {
    let servers = bench.servers()?;
    for connections in [1, 32] {
        let activate = [Request::activate()];
        let all = turns(&servers, |server| cost(server, 6400, connections, &activate))?;
        let title = format!("Activate, {connections} connections: server CPU per request");
        bench.beside(&title, "us", &all, Target::Cheaper(5.0));
    }
    drop(servers);

    let state = bench.scratch.on_disk("easyfuse");
    let server = Server::start(Kind::Easyfuse, bench.scratch, bench.peers, &state)?;
    server.fill(VOLUMES)?;
    let activate = [Request::activate()];
    // Not one volume again and again, which the caches would know.
    let get: Vec<Request> =
        (0..100).map(|number| Request::named("Get", &format!("v{}", number * 10))).collect();
    let (mut of_get, mut of_activate) = (Series::new("Get of easyfuse"), Series::new("Activate of easyfuse"));
    for _ in 0..ROUNDS {
        of_activate.rounds.push(cost(&server, 10_000, 1, &activate)?);
        of_get.rounds.push(cost(&server, 10_000, 1, &get)?);
    }
    let title = "Get among 1000 volumes, 1 connection: server CPU per request";
    bench.report.figure(title, "us", &of_get, Target::None, &[(&of_activate, Target::AtMost(1.2))]);
    Ok(())
}

/// List of 1,000 volumes.
pub(crate) fn list(bench: &mut Bench<'_>) -> Result<()> {
    let servers = bench.servers()?;
    for server in &servers {
        server.fill(VOLUMES)?;
    }
    let all = turns(&servers, |server| {
        let requests = if server.kind == Kind::Easyfuse { 400 } else { 40 };
        cost(server, requests, 1, &[Request::list()])
    })?;
    bench.beside(
        "List of 1000 volumes, 1 connection: server CPU per request",
        "us",
        &all,
        Target::Cheaper(50.0),
    );
    Ok(())
}

/// Microseconds of CPU for each of about `count` requests.
fn cost(server: &Server, count: usize, connections: usize, requests: &[Request]) -> Result<f64> {
    let rounds = count / connections / requests.len();
    let requests = vec![requests.to_vec(); connections];
    server.cpu_per_request(|| {
        load(&server.socket, rounds, &requests)?;
        Ok(rounds * requests.iter().map(Vec::len).sum::<usize>())
    })
}

/// Measure each server in turn, in each round.
pub(crate) fn turns(
    servers: &[Server],
    mut measure: impl FnMut(&Server) -> Result<f64>,
) -> Result<Vec<(Kind, Series)>> {
    let mut all: Vec<_> =
        servers.iter().map(|server| (server.kind, Series::new(server.kind.name()))).collect();
    for server in servers {
        // Once for nothing: caches, allocators and threads of a first time.
        measure(server)?;
    }
    for _ in 0..ROUNDS {
        for (server, (_, series)) in servers.iter().zip(&mut all) {
            series.rounds.push(measure(server)?);
        }
    }
    Ok(all)
}

impl Bench<'_> {
    /// The peers that there are, easyfuse first.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let python = self.peers.python.as_ref().map(|_| Kind::Python);
        let rclone = self.peers.rclone.as_ref().map(|_| Kind::Rclone);
        [Some(Kind::Easyfuse), python, rclone].into_iter().flatten().collect()
    }

    /// One server of each kind.
    pub(crate) fn servers(&self) -> Result<Vec<Server>> {
        let start = |kind| Server::start(kind, self.scratch, self.peers, &self.scratch.on_disk("state"));
        self.kinds().into_iter().map(start).collect()
    }

    /// Print easyfuse's figure beside those of its peers; `target` is about the Python original.
    pub(crate) fn beside(&mut self, title: &str, unit: &str, all: &[(Kind, Series)], target: Target) {
        let of = |kind: Kind| {
            let found = all.iter().find(|(have, _)| *have == kind).map(|(_, series)| series.clone());
            found.unwrap_or_else(|| Series::new(kind.name()))
        };
        let (python, rclone) = (of(Kind::Python), of(Kind::Rclone));
        self.report.figure(
            title,
            unit,
            &of(Kind::Easyfuse),
            Target::None,
            &[(&python, target), (&rclone, Target::None)],
        );
    }
}
