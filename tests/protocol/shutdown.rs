//! SIGTERM: what is in flight ends in order, what is mounted stays.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{NOWHERE, start_mount, state, uses};
use crate::support::*;

#[test]
fn sigterm_ends_an_idle_daemon_at_once_and_takes_its_socket_along() {
    let mut daemon = Daemon::start();
    let mut idle: Vec<Connection> = (0..50).map(|_| daemon.connect()).collect();
    for connection in &mut idle[..25] {
        connection.request("POST", "Plugin.Activate", &[], b"").unwrap();
    }
    let begun = Instant::now();
    assert!(daemon.terminate().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!daemon.sock().exists());
}

#[test]
fn half_a_request_does_not_hold_up_the_end() {
    let mut daemon = Daemon::start();
    let mut half = daemon.connect();
    half.send_bytes(b"POST /Plugin.Activate HTTP/1.1\r\nX-Half: ").unwrap();
    assert!(daemon.answers());
    let begun = Instant::now();
    assert!(daemon.terminate().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn sigint_ends_it_too() {
    let mut daemon = Daemon::start();
    signal(daemon.pid(), Signal::SIGINT);
    assert!(daemon.wait(Duration::from_secs(20)).success());
    assert!(!daemon.sock().exists());
}

#[test]
fn a_mount_in_flight_finishes_and_is_answered() {
    require!(Bindfs);
    let mut daemon = Daemon::start();
    let source = daemon.create_with_helper("data", &helpers::slow_bindfs(Duration::from_secs(1)));
    fs::write(source.join("hello"), "world").unwrap();
    let mut in_flight = start_mount(&daemon, "data");
    assert!(daemon.terminate().success());
    let target = daemon.mntpt().join("data");
    assert_eq!(in_flight.receive().unwrap().json(), json!({"Mountpoint": target, "Err": ""}));
    assert_eq!(fs::read_to_string(target.join("hello")).unwrap(), "world");
    daemon.start_again();
    assert_eq!((state(&daemon, "data"), uses(&daemon, "data")), ("mounted".into(), vec![(mount_id(1), 1)]));
    daemon.unmount("data", &mount_id(1)).unwrap();
    assert!(!is_mounted(&target));
}

#[test]
fn a_mount_that_outlasts_the_drain_timeout_is_ended_and_answered() {
    require!(Root, Fuse);
    for script in [helpers::hang(), helpers::stubborn()] {
        let mut daemon = Daemon::builder().args(["--drain-timeout", "1s"]).start();
        daemon.create_with_helper("data", &script);
        let mut in_flight = start_mount(&daemon, "data");
        let begun = Instant::now();
        assert!(daemon.terminate().success());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let answer = in_flight.receive().unwrap();
        assert_eq!(answer.status, 500);
        let words = answer.json()["Err"].as_str().unwrap().to_owned();
        assert!(words.contains("the daemon was told to stop") && words.contains("try again"), "{words}");
        assert!(daemon.helpers().is_empty());
        assert!(!daemon.mntpt().join("data").exists());
        daemon.start_again();
        assert_eq!((state(&daemon, "data"), uses(&daemon, "data")), ("created".into(), vec![]));
    }
}

#[test]
fn mounts_and_volumes_outlive_the_daemon() {
    require!(Bindfs);
    let mut daemon = Daemon::start();
    let source = daemon.create_bindfs("data");
    let target = daemon.mount("data", &mount_id(1)).unwrap();
    daemon.create("other", NOWHERE).unwrap();
    daemon.terminate();
    fs::write(target.join("written"), "while nobody looks").unwrap();
    assert_eq!(fs::read_to_string(source.join("written")).unwrap(), "while nobody looks");
    daemon.start_again();
    assert_eq!(daemon.names(), ["data", "other"]);
    assert_eq!(state(&daemon, "data"), "mounted");
}

#[test]
fn new_connections_are_refused_while_it_drains() {
    require!(Root, Fuse);
    let mut daemon = Daemon::builder().args(["--drain-timeout", "3s"]).start();
    daemon.create_with_helper("data", &helpers::hang());
    let _in_flight = start_mount(&daemon, "data");
    signal(daemon.pid(), Signal::SIGTERM);
    wait_until("nobody accepts", || Connection::open(daemon.sock()).is_err());
    assert!(daemon.wait(Duration::from_secs(20)).success());
}
