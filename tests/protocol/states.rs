//! Get and List, whatever state a volume is in. Docker forgets a volume whose Get fails.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{NOWHERE, start_mount, state};
use crate::support::*;

/// A daemon with one volume in each state that a volume can be in.
pub(crate) struct EveryState {
    pub(crate) daemon: Daemon,
    _in_flight: [Connection; 2],
    _open: fs::File,
}

/// The volumes of [`EveryState`], and the state that is shown of each.
pub(crate) const STATES: &[(&str, &str)] = &[
    ("dead", "broken"),
    ("hung", "broken"),
    ("in-use", "mounted"),
    ("is-mounting", "mounting"),
    ("is-unmounting", "unmounting"),
    ("new", "created"),
    ("uninstalled", "created"),
    ("unreadable", "broken"),
];

impl EveryState {
    pub(crate) fn start() -> Self {
        // A short grace makes it look at its mounts often.
        let limits = ["--grace", "1s", "--drain-timeout", "1s", "--unmount-timeout", "10m"];
        let mut daemon = Daemon::builder().args(limits).stopped();
        fs::create_dir_all(daemon.state().join("volumes")).unwrap();
        fs::write(daemon.state().join("volumes/unreadable.json"), "{\"schema\": 1, \"na").unwrap();
        daemon.start_again();
        daemon.create("new", NOWHERE).unwrap();
        daemon.create_with_helper("uninstalled", &helpers::bindfs());
        fs::remove_file(daemon.dir().join("bin/uninstalled")).unwrap();
        daemon.create_with_helper("is-mounting", &helpers::hang());
        daemon.create_with_helper("dead", &helpers::dying_bindfs(Duration::from_millis(200)));
        for name in ["hung", "in-use", "is-unmounting"] {
            daemon.create_bindfs(name);
        }
        for name in ["dead", "hung", "in-use", "is-unmounting"] {
            daemon.mount(name, &mount_id(1)).unwrap();
        }
        for helper in processes_with_env(&format!("EASYFUSE_MOUNTPOINT={}/hung", daemon.mntpt().display())) {
            signal(helper, Signal::SIGSTOP);
        }
        // A file that is open keeps it busy.
        let open = fs::File::create(daemon.mntpt().join("is-unmounting/open")).unwrap();
        let mut unmount = daemon.connect();
        let body = json!({"Name": "is-unmounting", "ID": mount_id(1)}).to_string();
        unmount.send("POST", "VolumeDriver.Unmount", &[], body.as_bytes()).unwrap();
        let mount = start_mount(&daemon, "is-mounting");
        wait_until("each volume is in its state", || {
            STATES.iter().all(|(name, word)| state(&daemon, name) == *word)
        });
        Self { daemon, _in_flight: [mount, unmount], _open: open }
    }
}

#[test]
fn get_of_a_known_volume_succeeds_in_every_state() {
    require!(Bindfs);
    let EveryState { daemon, .. } = &EveryState::start();
    for (name, _) in STATES {
        let asked = Instant::now();
        let volume = daemon.get(name).unwrap();
        assert!(asked.elapsed() < Duration::from_secs(2), "{name}: {:?}", asked.elapsed());
        let mounted = matches!(*name, "dead" | "hung" | "in-use" | "is-unmounting");
        let target = daemon.mntpt().join(name).display().to_string();
        assert_eq!(volume["Mountpoint"], if mounted { target.clone() } else { String::new() }, "{name}");
        assert_eq!(daemon.path(name).unwrap().display().to_string(), volume["Mountpoint"], "{name}");
    }
    let names: Vec<&str> = STATES.iter().map(|(name, _)| *name).collect();
    assert_eq!(daemon.names(), names);
    for (name, why) in
        [("dead", "dead (ENOTCONN"), ("hung", "does not answer"), ("unreadable", "can't be read")]
    {
        let volume = daemon.get(name).unwrap();
        let reason = volume["Status"]["reason"].as_str().unwrap();
        assert!(reason.contains(why), "{name}: {reason}");
    }
}

#[test]
fn a_volume_whose_helper_was_uninstalled_says_so_when_it_is_mounted() {
    require!(Bindfs);
    let daemon = Daemon::start();
    daemon.create_with_helper("data", &helpers::bindfs());
    fs::remove_file(daemon.dir().join("bin/data")).unwrap();
    let words = daemon.mount("data", &mount_id(1)).unwrap_err();
    assert!(words.starts_with("volume data: mount failed:") && words.contains("not found"), "{words}");
    assert!(
        daemon.get("data").unwrap()["Status"]["last_error"]["message"]
            .as_str()
            .unwrap()
            .contains("not found")
    );
    daemon.remove("data").unwrap();
}

/// A helper that does not want to go makes the next start take its time before the records are there.
#[test]
fn get_and_list_wait_for_the_records_right_after_the_start() {
    require!(Root, Fuse);
    let mut daemon = Daemon::start();
    daemon.create_with_helper("data", &helpers::stubborn());
    let in_flight = start_mount(&daemon, "data");
    daemon.kill9();
    drop(in_flight);
    daemon.launch();
    wait_until("it listens", || Connection::open(daemon.sock()).is_ok());
    daemon.get("data").unwrap();
    assert_eq!(daemon.names(), ["data"]);
    assert_eq!(state(&daemon, "data"), "created");
    assert!(daemon.helpers().is_empty());
    assert!(!daemon.mntpt().join("data").exists());
}

#[test]
fn list_and_activate_stay_quick_while_50_mounts_hang() {
    require!(Root, Fuse);
    let daemon = Daemon::builder().args(["--drain-timeout", "1s"]).start();
    let helper = format!("{}#x", daemon.helper("hang", &helpers::hang()).display());
    let names: Vec<String> = (0..50).map(|n| format!("v{n}")).collect();
    let mut in_flight = vec![];
    for name in &names {
        daemon.create(name, &[("device", &helper)]).unwrap();
        let mut connection = daemon.connect();
        let body = json!({"Name": name, "ID": mount_id(1)}).to_string();
        connection.send("POST", "VolumeDriver.Mount", &[], body.as_bytes()).unwrap();
        in_flight.push(connection);
    }
    wait_until("all of them hang", || names.iter().all(|name| state(&daemon, name) == "mounting"));
    let mut connection = daemon.connect();
    for call in ["VolumeDriver.List", "Plugin.Activate"] {
        let mut times: Vec<Duration> = (0..200)
            .map(|_| {
                let asked = Instant::now();
                let answer = connection.request("POST", call, &[], b"{}").unwrap();
                assert_eq!(answer.status, 200);
                asked.elapsed()
            })
            .collect();
        times.sort();
        // On a busy machine; the benchmark has the exact figure.
        assert!(times[197] < Duration::from_millis(250), "{call}: p99 {:?}", times[197]);
    }
}
