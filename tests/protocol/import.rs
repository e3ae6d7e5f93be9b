//! Volumes of the Python easyfuse, from its `mntdb.json`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{state, uses};
use crate::support::*;

/// A daemon whose `--mntdb` is a database of the Python easyfuse.
fn with_database(database: &Value) -> Daemon {
    let daemon = Daemon::builder().stopped();
    fs::write(daemon.state(), database.to_string()).unwrap();
    daemon
}

/// An entry as the Python easyfuse wrote it.
fn entry(name: &str, source: &Path, instances: &[String], is_mounted: bool) -> Value {
    let device = format!("bindfs#{}", source.display());
    json!({"name": name, "instances": instances, "opts": {"device": device, "o": ""}, "is_mounted": is_mounted})
}

#[test]
fn a_python_database_is_imported_with_its_mounted_volumes() {
    require!(Bindfs);
    let mut daemon = Daemon::builder().stopped();
    let (source, target) = (daemon.source("mounted"), daemon.mntpt().join("mounted"));
    fs::write(source.join("hello"), "world").unwrap();
    let ids = [mount_id(1), mount_id(2)];
    let database = json!({
        "plain": entry("plain", &source, &[], false),
        "mounted": entry("mounted", &source, &ids, true),
    });
    fs::write(daemon.state(), database.to_string()).unwrap();
    fs::create_dir_all(&target).unwrap();
    run(daemon.dir().command("bindfs").arg(&source).arg(&target)).ok();
    daemon.start_again();
    assert_eq!(daemon.names(), ["mounted", "plain"]);
    assert_eq!((state(&daemon, "mounted"), state(&daemon, "plain")), ("mounted".into(), "created".into()));
    assert_eq!(uses(&daemon, "mounted"), [(mount_id(1), 1), (mount_id(2), 1)]);
    daemon.remove("mounted").unwrap_err();
    // A container that the Python easyfuse mounted it for goes, a new one comes.
    daemon.unmount("mounted", &mount_id(1)).unwrap();
    assert_eq!(daemon.mount("mounted", &mount_id(3)).unwrap(), target);
    daemon.unmount("mounted", &mount_id(2)).unwrap();
    assert_eq!(fs::read_to_string(target.join("hello")).unwrap(), "world");
    daemon.unmount("mounted", &mount_id(3)).unwrap();
    assert!(!is_mounted(&target));
    daemon.mount("plain", &mount_id(1)).unwrap();
}

#[test]
fn a_python_database_is_imported_once() {
    require!(Program("mount.fuse"), Program("bindfs"));
    let database = json!({"data": entry("data", Path::new("/tmp"), &[], false)});
    let mut daemon = with_database(&database);
    daemon.start_again();
    daemon.remove("data").unwrap();
    daemon.restart();
    assert_eq!(daemon.names(), [""; 0], "what was removed comes back");
    assert_eq!(
        fs::read_to_string(daemon.state()).unwrap(),
        database.to_string(),
        "the database is left as it is"
    );
}

#[test]
fn what_the_python_easyfuse_made_of_bad_input_is_left_out_and_logged() {
    require!(Program("mount.fuse"), Program("bindfs"));
    let good = entry("good", Path::new("/tmp"), &[], false);
    let database = json!({
        "good": good,
        "../../etc": good,
        "no-opts": {"name": "no-opts", "instances": [], "opts": null, "is_mounted": false},
        "ignored-options": {"name": "x", "opts": {"device": "bindfs#/tmp", "size": "5", "o": null}},
        "bad-ids": {"instances": ["", mount_id(1)], "opts": {"device": "bindfs#/tmp"}, "is_mounted": true},
    });
    let mut daemon = with_database(&database);
    daemon.start_again();
    assert_eq!(daemon.names(), ["bad-ids", "good", "ignored-options"]);
    assert_eq!(uses(&daemon, "bad-ids"), [(mount_id(1), 1)]);
    let log = daemon.log();
    for part in
        ["imported 3 of 5 volumes", "bad volume name", "`device` is missing", "left out option `size`"]
    {
        assert!(log.contains(part), "no {part:?} in the log");
    }
}

#[test]
fn a_file_that_is_no_database_keeps_the_daemon_from_starting_and_is_kept() {
    let mut daemon = with_database(&json!(["data"]));
    let words = run(&mut daemon.command()).err();
    assert!(words.contains("is no mntdb.json of the Python easyfuse"), "{words}");
    assert!(words.contains(daemon.state().to_str().unwrap()), "{words}");
    assert_eq!(fs::read_to_string(daemon.state()).unwrap(), "[\"data\"]");
    fs::write(daemon.state(), "{}").unwrap();
    daemon.start_again();
    assert_eq!(daemon.names(), [""; 0]);
}

#[test]
fn a_database_that_is_not_there_yet_is_none() {
    let daemon = Daemon::builder().stopped();
    let mut command = Command::new(EASYFUSE);
    command.arg("serve").arg("--sock").arg(daemon.sock()).arg("--mntpt").arg(daemon.mntpt());
    command.arg("--mntdb").arg(daemon.dir().join("py/mntdb.json"));
    let running = Background::start(&mut command);
    wait_until("it answers", || daemon.answers());
    assert_eq!(daemon.names(), [""; 0]);
    assert!(daemon.dir().join("py/volumes").is_dir());
    running.signal(Signal::SIGTERM);
    running.wait(std::time::Duration::from_secs(20)).ok();
}
