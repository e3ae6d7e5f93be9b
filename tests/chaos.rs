//! Many clients, random calls, and helpers that fail, hang and die: afterwards everything agrees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::*;

const CLIENTS: usize = 16;
const VOLUMES: usize = 20;

/// Two minutes where everything is tested, else a taste.
fn length() -> Duration {
    Duration::from_secs(if std::env::var_os("EASYFUSE_TEST_ALL").is_some() { 120 } else { 15 })
}

/// xorshift64*: the same seed makes the same calls.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

type Uses = Vec<(usize, String)>;

fn name(volume: usize) -> String {
    format!("v{volume}")
}

/// One client: calls at random until the end. Returns the uses that it still has.
fn client(daemon: &Daemon, number: usize, seed: u64, end: Instant) -> (Uses, BTreeMap<&'static str, usize>) {
    let mut random = Random(seed.wrapping_add((number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1);
    let (mut uses, mut made, mut counts) = (Uses::new(), 0, BTreeMap::new());
    while Instant::now() < end {
        let volume = random.below(VOLUMES);
        let (what, outcome) = match random.below(100) {
            0..=34 => {
                made += 1;
                let id = mount_id(number * 1_000_000 + made);
                let outcome = daemon.mount(&name(volume), &id);
                if outcome.is_ok() {
                    uses.push((volume, id));
                }
                ("mount", outcome.map(drop))
            }
            35..=69 if !uses.is_empty() => {
                let (volume, id) = uses.swap_remove(random.below(uses.len()));
                // Also one that fails has taken the use back.
                ("unmount", daemon.unmount(&name(volume), &id))
            }
            70..=79 => ("get", daemon.get(&name(volume)).map(drop)),
            80..=86 => {
                daemon.list();
                ("list", Ok(()))
            }
            87..=92 => ("create", create(daemon, volume)),
            93..=95 => ("remove", daemon.remove(&name(volume))),
            _ => ("unmount of what is not", daemon.unmount(&name(volume), &mount_id(7))),
        };
        *counts.entry(what).or_default() += 1;
        if let Err(error) = outcome {
            assert!(
                !error.is_empty() && !error.contains('\n') && !error.contains("internal error"),
                "{error:?}"
            );
            *counts.entry("refused").or_default() += 1;
        }
    }
    (uses, counts)
}

fn create(daemon: &Daemon, volume: usize) -> Result<(), String> {
    let device = format!("{}#{}", daemon.dir().join("bin/random").display(), daemon.source("all").display());
    daemon.create(&name(volume), &[("device", &device)])
}

/// Stops and kills filesystems that serve, every now and then.
fn gremlin(daemon: &Daemon, seed: u64, stop: &AtomicBool) {
    let mut random = Random(seed | 1);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(400));
        let serving: Vec<u32> = daemon
            .helpers()
            .into_iter()
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "bindfs")
            })
            .collect();
        if !serving.is_empty() {
            let how = [Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGTERM][random.below(3)];
            signal(serving[random.below(serving.len())], how);
        }
    }
}

#[test]
fn after_random_calls_records_references_and_mount_table_agree_and_nothing_is_left() {
    require!(Root, Fuse, Bindfs);
    let args = ["--mount-timeout", "2s", "--unmount-timeout", "5s", "--grace", "2s", "--log-level", "warn"];
    let daemon = Daemon::builder().args(args).start();
    daemon.helper("random", &helpers::random());
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let (end, stop) = (Instant::now() + length(), AtomicBool::new(false));
    let results: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| gremlin(&daemon, seed, &stop));
        let daemon = &daemon;
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || client(daemon, number, seed, end))).collect();
        let results = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>();
        stop.store(true, Ordering::Relaxed);
        results.into_iter().map(|result| result.unwrap()).collect()
    });

    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (left, calls) in results {
        left.into_iter().for_each(|(volume, id)| _ = uses.entry(name(volume)).or_default().insert(id));
        calls.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
    }
    println!("{counts:?}, {} uses left", uses.values().map(BTreeSet::len).sum::<usize>());

    // References: exactly those whose mount succeeded and whose unmount was not sent.
    let names = daemon.names();
    for volume in &names {
        let status = daemon.get(volume).unwrap()["Status"].clone();
        let references = status["references"].as_array().unwrap();
        let ids =
            references.iter().map(|held| held["id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(ids, uses.get(volume).cloned().unwrap_or_default(), "{volume}");
        assert!(references.iter().all(|held| held["count"] == 1), "{status}");
    }
    assert!(uses.keys().all(|volume| names.contains(volume)), "a volume in use is gone");
    // Records: exactly the volumes that are listed.
    let records = fs::read_dir(daemon.state().join("volumes")).unwrap();
    let records: BTreeSet<String> =
        records.map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(".json", "")).collect();
    assert_eq!(records, names.iter().cloned().collect());
    // Mounts: none but of volumes in use, once those that nobody uses have been tidied up.
    let strangers = || {
        let mounts = mounts_under(&daemon.mntpt());
        mounts.iter().any(|mount| !uses.contains_key(mount.point.file_name().unwrap().to_str().unwrap()))
    };
    assert!(eventually(Duration::from_secs(60), || !strangers()), "{:#?}", mounts_under(&daemon.mntpt()));

    for (volume, ids) in &uses {
        for id in ids {
            _ = daemon.unmount(volume, id);
        }
    }
    for volume in names {
        let removed = eventually(Duration::from_secs(60), || daemon.remove(&volume).is_ok());
        assert!(removed, "{:?}", daemon.remove(&volume));
    }
    assert_eq!(mounts_under(&daemon.mntpt()), []);
    assert!(eventually(Duration::from_secs(30), || daemon.helpers().is_empty()), "{:?}", daemon.helpers());
    let left: Vec<_> =
        fs::read_dir(daemon.mntpt()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".easyfuse"]);
    for kind in ["references", "attempts", "staging", "log"] {
        assert_eq!(fs::read_dir(daemon.mntpt().join(".easyfuse").join(kind)).unwrap().count(), 0, "{kind}");
    }
}
