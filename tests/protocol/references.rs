//! Who uses a volume: engines that repeat themselves, change, crash and hang up.

use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{NOWHERE, by_another_process, start_mount, state, uses};
use crate::support::*;

#[test]
fn a_repeated_id_counts() {
    require!(Bindfs);
    let daemon = Daemon::start();
    daemon.create_bindfs("data");
    let target = daemon.mount("data", &mount_id(1)).unwrap();
    // As `docker cp` on a running container does.
    for _ in 0..2 {
        assert_eq!(daemon.mount("data", &mount_id(1)).unwrap(), target);
    }
    daemon.mount("data", &mount_id(2)).unwrap();
    assert_eq!(uses(&daemon, "data"), [(mount_id(1), 3), (mount_id(2), 1)]);
    for id in [1, 1, 2] {
        daemon.unmount("data", &mount_id(id)).unwrap();
        assert!(is_mounted(&target));
    }
    daemon.unmount("data", &mount_id(1)).unwrap();
    assert!(!is_mounted(&target));
    daemon.unmount("data", &mount_id(1)).unwrap();
}

#[test]
fn mounts_at_the_same_time_make_one_mount() {
    require!(Bindfs);
    let daemon = Daemon::start();
    daemon.create_with_helper("data", &helpers::slow_bindfs(Duration::from_millis(300)));
    let plugin = Plugin::new(daemon.sock());
    let mounts: Vec<_> = (0..8)
        .map(|n| {
            let plugin = plugin.clone();
            thread::spawn(move || plugin.mount("data", &mount_id(n)).unwrap())
        })
        .collect();
    let targets: Vec<_> = mounts.into_iter().map(|mount| mount.join().unwrap()).collect();
    assert!(targets.iter().all(|target| *target == daemon.mntpt().join("data")));
    assert_eq!(mounts_under(&targets[0]).len(), 1);
    assert_eq!(uses(&daemon, "data").len(), 8);
    (0..8).for_each(|n| daemon.unmount("data", &mount_id(n)).unwrap());
    assert!(!is_mounted(&targets[0]));
}

#[test]
fn references_survive_a_restart_and_a_crash_of_the_daemon() {
    require!(Bindfs);
    let mut daemon = Daemon::start();
    daemon.create_bindfs("data");
    let target = daemon.mount("data", &mount_id(1)).unwrap();
    daemon.mount("data", &mount_id(1)).unwrap();
    daemon.restart();
    assert_eq!(uses(&daemon, "data"), [(mount_id(1), 2)]);
    daemon.kill9();
    daemon.start_again();
    assert_eq!((uses(&daemon, "data"), state(&daemon, "data")), (vec![(mount_id(1), 2)], "mounted".into()));
    daemon.unmount("data", &mount_id(1)).unwrap();
    assert!(is_mounted(&target));
    daemon.unmount("data", &mount_id(1)).unwrap();
    assert!(!is_mounted(&target));
}

#[test]
fn an_engine_that_was_restarted_unmounts_what_the_one_before_it_mounted() {
    require!(Bindfs, Program("curl"));
    let daemon = Daemon::start();
    daemon.create_bindfs("data");
    let body = json!({"Name": "data", "ID": mount_id(1)});
    let target = daemon.mount("data", &mount_id(1)).unwrap();
    assert_eq!(by_another_process(&daemon, "VolumeDriver.Unmount", &body), json!({"Err": ""}));
    assert!(!is_mounted(&target));
}

#[test]
fn the_same_id_of_a_new_engine_takes_the_place_of_a_crashed_ones() {
    require!(Bindfs, Program("curl"));
    let daemon = Daemon::start();
    daemon.create_bindfs("data");
    let body = json!({"Name": "data", "ID": mount_id(1)});
    for _ in 0..3 {
        assert_eq!(by_another_process(&daemon, "VolumeDriver.Mount", &body)["Err"], "");
    }
    let target = daemon.mount("data", &mount_id(1)).unwrap();
    daemon.unmount("data", &mount_id(1)).unwrap();
    assert!(!is_mounted(&target), "{:?}", uses(&daemon, "data"));
}

#[test]
fn two_engines_with_the_same_id_are_counted_apart() {
    require!(Bindfs, Program("curl"));
    let daemon = Daemon::start();
    daemon.create_with_helper("data", &helpers::slow_bindfs(Duration::from_millis(500)));
    let body = json!({"Name": "data", "ID": mount_id(1)});
    let target = daemon.mount("data", &mount_id(1)).unwrap();
    assert_eq!(by_another_process(&daemon, "VolumeDriver.Mount", &body)["Err"], "");
    let volume = daemon.get("data").unwrap();
    let engines: Vec<u64> = volume["Status"]["references"]
        .as_array()
        .unwrap()
        .iter()
        .map(|held| held["engine_pid"].as_u64().unwrap())
        .collect();
    assert_eq!(engines.len(), 2);
    assert!(engines.contains(&u64::from(std::process::id())), "{engines:?}");
    daemon.unmount("data", &mount_id(1)).unwrap();
    assert!(!is_mounted(&target));
}

#[test]
fn a_crashed_engines_volume_is_unmounted_after_the_grace_time() {
    require!(Bindfs, Program("curl"));
    let daemon = Daemon::builder().args(["--grace", "1s"]).start();
    daemon.create_bindfs("data");
    daemon.create_bindfs("kept");
    let body = |name: &str| json!({"Name": name, "ID": mount_id(1)});
    for name in ["data", "kept"] {
        assert_eq!(by_another_process(&daemon, "VolumeDriver.Mount", &body(name))["Err"], "");
    }
    let kept = daemon.mount("kept", &mount_id(2)).unwrap();
    wait_until("it is unmounted", || state(&daemon, "data") == "created");
    assert!(!is_mounted(&daemon.mntpt().join("data")) && uses(&daemon, "data").is_empty());
    wait_until("the other loses one reference", || uses(&daemon, "kept") == [(mount_id(2), 1)]);
    assert!(is_mounted(&kept));
}

#[test]
fn a_crashed_engines_volume_can_be_removed_at_once() {
    require!(Bindfs, Program("curl"));
    let daemon = Daemon::builder().args(["--grace", "1h"]).start();
    daemon.create_bindfs("data");
    let body = json!({"Name": "data", "ID": mount_id(1)});
    assert_eq!(by_another_process(&daemon, "VolumeDriver.Mount", &body)["Err"], "");
    assert!(is_mounted(&daemon.mntpt().join("data")));
    daemon.remove("data").unwrap();
    assert!(!daemon.mntpt().join("data").exists() && daemon.names().is_empty());
}

/// The daemon is stopped while the engine speaks, so that it meets a process which has ended.
#[test]
fn an_engine_that_dies_before_it_is_heard_leaves_no_reference() {
    require!(Bindfs, Program("curl"));
    let daemon = Daemon::builder().args(["--grace", "1s"]).start();
    daemon.create_bindfs("data");
    let target = daemon.mount("data", &mount_id(1)).unwrap();
    signal(daemon.pid(), Signal::SIGSTOP);
    let body = json!({"Name": "data", "ID": mount_id(2)}).to_string();
    let mut curl = std::process::Command::new("curl");
    curl.args([
        "-sS",
        "--max-time",
        "0.5",
        "http://easyfuse/VolumeDriver.Mount",
        "-d",
        &body,
        "--unix-socket",
    ]);
    run(curl.arg(daemon.sock())).err();
    signal(daemon.pid(), Signal::SIGCONT);
    wait_until("nobody else uses it", || uses(&daemon, "data") == [(mount_id(1), 1)]);
    assert!(is_mounted(&target));
    daemon.unmount("data", &mount_id(1)).unwrap();
    assert!(!is_mounted(&target));
}

#[test]
fn an_engine_that_hangs_up_in_the_middle_of_a_mount_leaves_no_reference() {
    require!(Bindfs);
    let daemon = Daemon::start();
    daemon.create_with_helper("data", &helpers::slow_bindfs(Duration::from_millis(500)));
    drop(start_mount(&daemon, "data"));
    wait_until("the mount is taken back", || daemon.log().contains("taken back"));
    wait_until("it is unmounted", || state(&daemon, "data") == "created");
    assert_eq!(uses(&daemon, "data"), []);
    assert!(!daemon.mntpt().join("data").exists());
    daemon.mount("data", &mount_id(1)).unwrap();
    assert_eq!(uses(&daemon, "data"), [(mount_id(1), 1)]);
}

#[test]
fn an_unmount_is_finished_although_the_engine_hung_up() {
    require!(Bindfs);
    let daemon = Daemon::start();
    daemon.create_bindfs("data");
    let target = daemon.mount("data", &mount_id(1)).unwrap();
    let open = std::fs::File::create(target.join("open")).unwrap();
    let mut connection = daemon.connect();
    let body = json!({"Name": "data", "ID": mount_id(1)}).to_string();
    connection.send("POST", "VolumeDriver.Unmount", &[], body.as_bytes()).unwrap();
    wait_until("it begins", || state(&daemon, "data") == "unmounting");
    drop(connection);
    drop(open);
    wait_until("it is unmounted", || state(&daemon, "data") == "created");
    assert!(!target.exists() && uses(&daemon, "data").is_empty());
}

#[test]
fn a_volume_in_use_is_not_removed() {
    require!(Bindfs);
    let daemon = Daemon::start();
    let source = daemon.create_bindfs("data");
    let target = daemon.mount("data", &mount_id(1)).unwrap();
    let words = daemon.remove("data").unwrap_err();
    assert!(
        words.starts_with("volume data is in use: 1 reference:") && words.contains("stop what uses it"),
        "{words}"
    );
    std::fs::write(source.join("still"), "here").unwrap();
    assert_eq!(std::fs::read_to_string(target.join("still")).unwrap(), "here");
    daemon.unmount("data", &mount_id(1)).unwrap();
    daemon.remove("data").unwrap();
    let words = daemon.remove("data").unwrap_err();
    assert!(words.contains("no such volume: data"), "{words}");
}

#[test]
fn a_volume_is_created_again_only_with_the_same_options() {
    require!(Program("mount.fuse"));
    let daemon = Daemon::start();
    daemon.create("data", NOWHERE).unwrap();
    let before = daemon.get("data").unwrap();
    daemon.create("data", NOWHERE).unwrap();
    for options in [&[("device", "/bin/true#/elsewhere")][..], &[NOWHERE[0], ("o", "ro")]] {
        let words = daemon.create("data", options).unwrap_err();
        assert!(
            words.contains("exists with other options") && words.contains("docker volume rm data"),
            "{words}"
        );
    }
    assert_eq!(daemon.get("data").unwrap(), before);
}

#[test]
fn of_16_creates_of_one_name_at_once_one_set_of_options_wins() {
    require!(Program("mount.fuse"));
    let daemon = Daemon::start();
    let plugin = Plugin::new(daemon.sock());
    let creates: Vec<_> = (0..16)
        .map(|n| {
            let plugin = plugin.clone();
            let device = format!("/bin/true#/{}", n % 4);
            thread::spawn(move || plugin.create("data", &[("device", &device)]).is_ok().then_some(device))
        })
        .collect();
    let won: Vec<String> = creates.into_iter().filter_map(|create| create.join().unwrap()).collect();
    assert_eq!(won.len(), 4, "the four that asked for the same: {won:?}");
    assert!(won.iter().all(|device| daemon.get("data").unwrap()["Status"]["options"]["device"] == **device));
    assert_eq!(daemon.names(), ["data"]);
}
