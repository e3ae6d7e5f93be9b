//! The records of volumes on disks and after crashes that do them no good.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{NOWHERE, state, uses};
use crate::support::*;

/// A daemon with one good record and one of this content, called `bad`.
fn with_record(content: &str) -> (Daemon, PathBuf) {
    let mut daemon = Daemon::start();
    daemon.create("good", NOWHERE).unwrap();
    daemon.terminate();
    let record = daemon.state().join("volumes/bad.json");
    fs::write(&record, content).unwrap();
    daemon.start_again();
    (daemon, record)
}

/// The records and what lies beside them.
fn files(daemon: &Daemon) -> Vec<String> {
    let entries = fs::read_dir(daemon.state().join("volumes")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_record_that_cant_be_read_is_kept_shown_and_never_replaced() {
    require!(Program("mount.fuse"));
    let garbage = [
        "",
        "{\"schema\": 1, \"na",
        "\0\0\0\0",
        "[]",
        "{\"schema\": 1, \"name\": \"other\", \"created\": \"2024-01-01T00:00:00Z\", \"options\": {}}",
        "{\"schema\": 1, \"name\": \"../../etc\", \"created\": \"2024-01-01T00:00:00Z\", \"options\": {}}",
        "{\"schema\": 1, \"name\": \"bad\", \"created\": \"yesterday\", \"options\": {}}",
    ];
    for content in garbage {
        let (mut daemon, record) = with_record(content);
        let kept = record.with_extension("json.bad");
        for _ in 0..2 {
            assert_eq!(daemon.names(), ["bad", "good"], "{content:?}");
            let volume = daemon.get("bad").unwrap();
            assert_eq!(volume["Status"]["state"], "broken", "{content:?}");
            assert_eq!(volume["Status"]["record"], json!(kept), "{content:?}");
            let words = daemon.mount("bad", &mount_id(1)).unwrap_err();
            assert!(words.starts_with("volume bad can't be used: "), "{content:?}: {words}");
            assert!(words.contains(&format!("mend or remove {}", kept.display())), "{content:?}: {words}");
            daemon.create("bad", NOWHERE).unwrap_err();
            assert_eq!(fs::read_to_string(&kept).unwrap(), content);
            daemon.restart();
        }
        daemon.unmount("bad", &mount_id(1)).unwrap();
        daemon.remove("bad").unwrap();
        assert_eq!(daemon.names(), ["good"]);
        let aside =
            files(&daemon).into_iter().find(|name| name.starts_with("bad.json.bad.removed-")).unwrap();
        assert_eq!(fs::read_to_string(daemon.state().join("volumes").join(aside)).unwrap(), content);
        daemon.create("bad", NOWHERE).unwrap();
        daemon.restart();
        assert_eq!((state(&daemon, "bad"), state(&daemon, "good")), ("created".into(), "created".into()));
    }
}

#[test]
fn a_record_that_was_mended_works_after_a_restart() {
    require!(Program("mount.fuse"));
    let (mut daemon, record) = with_record("{");
    daemon.terminate();
    let good = fs::read_to_string(record.with_file_name("good.json")).unwrap();
    fs::write(&record, good.replace("\"good\"", "\"bad\"")).unwrap();
    daemon.start_again();
    assert_eq!(state(&daemon, "bad"), "created");
}

#[test]
fn a_record_of_a_newer_version_is_left_as_it_is() {
    require!(Program("mount.fuse"));
    let content = r#"{"schema": 99, "name": "bad", "novelty": true}"#;
    let (daemon, record) = with_record(content);
    let reason = daemon.get("bad").unwrap()["Status"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("a newer easyfuse wrote it (schema 99"), "{reason}");
    daemon.create("bad", NOWHERE).unwrap_err();
    daemon.mount("bad", &mount_id(1)).unwrap_err();
    assert_eq!(fs::read_to_string(record).unwrap(), content);
}

#[test]
fn what_is_no_record_is_passed_over() {
    require!(Program("mount.fuse"));
    let mut daemon = Daemon::start();
    daemon.create("data", NOWHERE).unwrap();
    daemon.terminate();
    let volumes = daemon.state().join("volumes");
    fs::write(volumes.join("README"), "?").unwrap();
    fs::write(volumes.join(".tmp-1-2"), "half").unwrap();
    fs::write(volumes.join("data.json~"), "an editor's").unwrap();
    fs::create_dir(volumes.join("lost+found")).unwrap();
    fs::create_dir(volumes.join("dir.json")).unwrap();
    daemon.start_again();
    assert_eq!(state(&daemon, "data"), "created");
    assert!(volumes.join("README").exists() && !volumes.join(".tmp-1-2").exists());
}

/// Makes `dir` a disk of 64 KiB.
fn small_disk(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(dir)).ok();
}

#[test]
fn a_full_disk_refuses_a_new_volume_and_keeps_the_others() {
    require!(Root, Program("mount.fuse"));
    let mut daemon = Daemon::builder().stopped();
    small_disk(&daemon.state());
    daemon.start_again();
    let mut made = vec![];
    let words = loop {
        let name = format!("v{:02}", made.len());
        match daemon.create(&name, NOWHERE) {
            Ok(()) => made.push(name),
            Err(words) => break words,
        }
    };
    assert!(words.starts_with("volume v") && words.contains("could not save"), "{words}");
    assert!(words.contains("No space left on device"), "{words}");
    assert!(made.len() > 3 && daemon.names() == made);
    assert_eq!(files(&daemon), made.iter().map(|name| format!("{name}.json")).collect::<Vec<_>>());
    daemon.kill9();
    daemon.start_again();
    assert_eq!(daemon.names(), made);
    daemon.remove("v00").unwrap();
    daemon.create("new", NOWHERE).unwrap();
    assert_eq!(daemon.names().len(), made.len());
}

#[test]
fn a_full_run_directory_refuses_a_mount_and_lets_go_of_those_there_are() {
    require!(Bindfs);
    let mut daemon = Daemon::builder().stopped();
    small_disk(&daemon.mntpt());
    daemon.start_again();
    for name in ["mounted", "other"] {
        daemon.create_bindfs(name);
    }
    let target = daemon.mount("mounted", &mount_id(1)).unwrap();
    let filler = daemon.mntpt().join(".easyfuse/filler");
    _ = fs::write(&filler, vec![0; 1 << 20]);
    let words = daemon.mount("other", &mount_id(1)).unwrap_err();
    assert!(words.starts_with("volume other: ") && words.contains("No space left on device"), "{words}");
    assert!(!daemon.mntpt().join("other").exists());
    let words = daemon.mount("mounted", &mount_id(2)).unwrap_err();
    assert!(words.contains("No space left on device") && is_mounted(&target), "{words}");
    assert_eq!(uses(&daemon, "mounted"), [(mount_id(1), 1)]);
    daemon.unmount("mounted", &mount_id(1)).unwrap();
    assert!(!is_mounted(&target));
    fs::remove_file(&filler).unwrap();
    daemon.mount("other", &mount_id(1)).unwrap();
}

#[test]
fn a_disk_that_became_read_only_refuses_changes_and_still_shows_and_mounts() {
    require!(Bindfs);
    let mut daemon = Daemon::start();
    daemon.create_bindfs("data");
    run(Command::new("mount").arg("--bind").args([daemon.state(), daemon.state()])).ok();
    run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(daemon.state())).ok();
    // As after a crash of the daemon on a disk that the kernel gave up writing to.
    for _ in 0..2 {
        let words = daemon.create("new", NOWHERE).unwrap_err();
        assert!(words.contains("could not save") && words.contains("Read-only file system"), "{words}");
        let words = daemon.remove("data").unwrap_err();
        assert!(words.contains("could not remove") && words.contains("Read-only file system"), "{words}");
        assert_eq!((daemon.names(), state(&daemon, "data")), (vec!["data".to_owned()], "created".into()));
        daemon.mount("data", &mount_id(1)).unwrap();
        daemon.unmount("data", &mount_id(1)).unwrap();
        daemon.kill9();
        daemon.start_again();
    }
}

#[test]
fn every_create_that_was_answered_survives_kill_9() {
    require!(Program("mount.fuse"));
    let mut daemon = Daemon::start();
    let answered = Mutex::new(vec![]);
    let (sock, pid) = (daemon.sock().to_owned(), daemon.pid());
    thread::scope(|scope| {
        for n in 0..100 {
            let (sock, answered) = (&sock, &answered);
            scope.spawn(move || {
                let name = format!("v{n}");
                let body = json!({"Name": name, "Opts": {"device": NOWHERE[0].1}}).to_string();
                let answer = Connection::open(sock).and_then(|mut client| {
                    client.request("POST", "VolumeDriver.Create", &[], body.as_bytes())
                });
                if answer.is_ok_and(|answer| answer.status == 200) {
                    let mut answered = answered.lock().unwrap();
                    answered.push(name);
                    if answered.len() == 40 {
                        signal(pid, Signal::SIGKILL);
                    }
                }
            });
        }
    });
    daemon.wait(Duration::from_secs(20));
    daemon.start_again();
    let answered = answered.into_inner().unwrap();
    assert!(answered.len() >= 40);
    let names = daemon.names();
    for name in &answered {
        assert!(names.contains(name), "{name} was answered and is lost");
    }
    for name in &names {
        assert_eq!(state(&daemon, name), "created");
        daemon.create(name, NOWHERE).unwrap();
    }
    assert_eq!(files(&daemon).len(), names.len(), "nothing half-made is left");
}

#[test]
fn records_are_roots_alone() {
    require!(Program("mount.fuse"));
    use std::os::unix::fs::PermissionsExt;
    let daemon = Daemon::start();
    daemon.create("data", NOWHERE).unwrap();
    let mode = |path: &str| fs::metadata(daemon.state().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("volumes"), mode("volumes/data.json")), (0o700, 0o700, 0o600));
}
