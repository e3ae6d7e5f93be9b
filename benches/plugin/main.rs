//! What the README says of the plugin's speed and memory, measured beside its peers in the same run.
//!
//! ```text
//! cargo bench --bench plugin                      everything, some minutes
//! cargo bench --bench plugin -- requests hang     some of it
//! ```
//! Each figure is the median of five rounds, in which the servers take turns. docs/BENCHMARKING.md says what is compared.

mod client;
mod durable;
mod footprint;
mod hang;
mod mounts;
mod peers;
mod report;
mod requests;
mod scratch;
mod server;

use anyhow::{Result, bail};

use crate::peers::Peers;
use crate::report::{Report, say};
use crate::scratch::Scratch;

/// How often each figure is taken.
const ROUNDS: usize = 5;

/// What each group of figures needs.
struct Bench<'a> {
    scratch: &'a Scratch,
    peers: &'a Peers,
    report: &'a mut Report,
}

type Group = (&'static str, fn(&mut Bench<'_>) -> Result<()>);

const GROUPS: [Group; 6] = [
    ("requests", requests::activate_and_get),
    ("list", requests::list),
    ("durable", durable::create_and_remove),
    ("mounts", mounts::mount_and_unmount),
    ("hang", hang::fifty_hanging),
    ("footprint", footprint::start_and_memory),
];

fn main() -> Result<()> {
    // Cargo adds --bench.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let names = GROUPS.map(|(name, _)| name);
    if let Some(unknown) = wanted.iter().find(|wanted| !names.contains(&wanted.as_str())) {
        bail!("no group {unknown:?}; there are {}", names.join(", "));
    }
    let (scratch, peers, mut report) = (Scratch::new()?, Peers::find(), Report::default());
    say(&format!(
        "{} rounds each: median (least-most); state is kept below {}",
        ROUNDS,
        scratch.disk().display()
    ));
    if scratch.disk_is_memory() {
        say("that is no disk: fsync costs nothing there, and the durable figures mean nothing");
    }
    for (name, measure) in GROUPS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            measure(&mut Bench { scratch: &scratch, peers: &peers, report: &mut report })?;
        }
    }
    report.summary();
    Ok(())
}
