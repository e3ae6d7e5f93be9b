//! What the kernel and the disk have afterwards: mounts, directories, processes, records.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::*;

/// No mount, no directory, no reference and no process of any volume.
#[track_caller]
fn nothing_is_left(daemon: &Daemon) {
    assert_eq!(mounts_under(&daemon.mntpt()), []);
    assert_eq!(directories(&daemon.mntpt()), Vec::<String>::new());
    for kind in ["references", "attempts", "staging"] {
        assert_eq!(directories(&daemon.mntpt().join(".easyfuse").join(kind)), Vec::<String>::new(), "{kind}");
    }
    wait_until("all helpers end", || daemon.helpers().is_empty());
}

fn directories(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".easyfuse").collect()
}

fn state_of(daemon: &Daemon, name: &str) -> String {
    daemon.get(name).unwrap()["Status"]["state"].as_str().unwrap().to_owned()
}

/// A mount namespace of its own, as a container's, with `path` bound elsewhere in it.
fn container(daemon: &Daemon, path: &Path) -> (Background, PathBuf) {
    let inside = daemon.dir().mkdir("container");
    let script = r#"mount --bind --make-slave "$1" "$2" && echo ready > "$3"; exec sleep 600"#;
    let ready = daemon.dir().join("container-ready");
    let mut command = daemon.dir().command("unshare");
    command
        .args(["-m", "--propagation", "slave", "sh", "-c", script, "sh"])
        .arg(path)
        .arg(&inside)
        .arg(&ready);
    let container = Background::start(&mut command);
    wait_until("the container has the mount", || ready.exists());
    (container, inside)
}

fn look_inside(container: &Background, path: &Path) -> Output {
    run(Command::new("nsenter").args(["-m", "-t", &container.pid().to_string(), "ls"]).arg(path))
}

#[test]
fn a_volume_is_mounted_used_and_gone_again() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::start();
    let source = daemon.create_bindfs("data");
    fs::write(source.join("hello"), "world").unwrap();
    let target = daemon.mount("data", &mount_id(1)).unwrap();
    assert_eq!(target, daemon.mntpt().join("data"));
    assert_eq!(fs::read_to_string(target.join("hello")).unwrap(), "world");
    assert_eq!(daemon.path("data").unwrap(), target);
    daemon.unmount("data", &mount_id(1)).unwrap();
    nothing_is_left(&daemon);
    daemon.remove("data").unwrap();
    assert!(daemon.names().is_empty());
}

#[test]
fn sshfs_mounts_a_directory_of_an_ssh_server() {
    require!(Root, Fuse, Sshfs);
    let daemon = Daemon::start();
    let sshd = Sshd::start();
    let source = daemon.source("remote");
    let options = sshd.options();
    daemon.create("remote", &[("device", &sshd.device(&source)), ("o", &options)]).unwrap();
    let target = daemon.mount("remote", &mount_id(1)).unwrap();
    fs::write(target.join("file"), "through ssh").unwrap();
    assert_eq!(fs::read_to_string(source.join("file")).unwrap(), "through ssh");
    daemon.unmount("remote", &mount_id(1)).unwrap();
    nothing_is_left(&daemon);
}

#[test]
fn other_ways_to_name_the_helper() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::builder().args(["--allow-mount-command"]).start();
    let source = daemon.source("x").display().to_string();
    let cases: [&[(&str, &str)]; 4] = [
        &[("type", "fuse.bindfs"), ("device", &source)],
        &[("driver", "fuse"), ("device", &format!("bindfs#{source}")), ("options", "ro,fsname=with space")],
        &[("device", &source), ("mount_command", "bindfs [-o {opts}] {device} {target}"), ("opts", "ro")],
        &[
            ("device", &source),
            ("mount_command", "bindfs {device} {target}"),
            ("unmount_command", "fusermount -u {target}"),
        ],
    ];
    for options in cases {
        daemon.create("v", options).unwrap();
        daemon.mount("v", &mount_id(1)).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        daemon.unmount("v", &mount_id(1)).unwrap();
        nothing_is_left(&daemon);
        daemon.remove("v").unwrap();
    }
}

#[test]
fn a_mount_that_fails_says_why_and_leaves_nothing() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::builder().args(["--mount-timeout", "2s"]).start();
    let cases = [
        (helpers::fail("cannot reach\nthe server"), "cannot reach; the server"),
        (helpers::pretend(), "succeeded but mounted nothing"),
        (helpers::hang(), "was not done after 2.0 s and was ended"),
        (helpers::script("echo still trying >&2; exec sleep 1000"), "it said: still trying"),
        (helpers::stubborn(), "was not done after"),
        (helpers::script("mount -t tmpfs tmpfs \"$2\""), "of type tmpfs, which is not FUSE"),
    ];
    for (number, (script, words)) in cases.into_iter().enumerate() {
        let name = format!("v{number}");
        daemon.create_with_helper(&name, &script);
        let started = Instant::now();
        let error = daemon.mount(&name, &mount_id(1)).unwrap_err();
        assert!(error.starts_with(&format!("volume {name}: mount failed: ")), "{error}");
        assert!(error.contains(words), "{error}");
        assert!(!error.contains('\n'), "{error}");
        assert!(started.elapsed() < Duration::from_secs(15), "{error}: {:?}", started.elapsed());
        nothing_is_left(&daemon);
        let status = daemon.get(&name).unwrap()["Status"].clone();
        assert_eq!(status["state"], "created");
        assert_eq!(status["last_error"]["message"].as_str(), Some(error.as_str()));
        daemon.remove(&name).unwrap();
    }
}

#[test]
fn what_counts_is_the_mount_table_not_the_exit_status() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::start();
    daemon.create_with_helper("v", &helpers::bindfs_then_fail());
    let target = daemon.mount("v", &mount_id(1)).unwrap();
    assert!(is_mounted(&target));
    daemon.unmount("v", &mount_id(1)).unwrap();
    nothing_is_left(&daemon);
}

#[test]
fn many_mounts_of_one_volume_at_once_start_one_helper() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::start();
    daemon.create_with_helper("v", &helpers::slow_bindfs(Duration::from_millis(300)));
    std::thread::scope(|scope| {
        for number in 0..16 {
            let daemon = &daemon;
            scope.spawn(move || daemon.mount("v", &mount_id(number)).unwrap());
        }
    });
    assert_eq!(mounts_under(&daemon.mntpt()).len(), 1);
    for number in 0..16 {
        assert!(is_mounted(&daemon.mntpt().join("v")));
        daemon.unmount("v", &mount_id(number)).unwrap();
    }
    nothing_is_left(&daemon);
}

#[test]
fn nothing_can_be_written_to_the_bare_directory_under_a_mount() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::start();
    daemon.create_bindfs("v");
    let target = daemon.mount("v", &mount_id(1)).unwrap();
    // As when the helper unmounts and goes, between the mount and the start of the container.
    run(Command::new("umount").arg(&target)).ok();
    assert!(!is_mounted(&target));
    let refused = fs::write(target.join("oops"), "on the host's disk").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EPERM), "not even root may: {refused}");
    assert_eq!(daemon.path("v").unwrap(), target, "the daemon has not looked yet");
    daemon.unmount("v", &mount_id(1)).unwrap();
    nothing_is_left(&daemon);
}

#[test]
fn a_filesystem_that_somebody_unmounted_is_mounted_again() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::start();
    daemon.create_bindfs("v");
    let target = daemon.mount("v", &mount_id(1)).unwrap();
    run(Command::new("umount").arg(&target)).ok();
    daemon.cli(&["volume", "ls"]).ok();
    assert_eq!(state_of(&daemon, "v"), "broken");
    daemon.mount("v", &mount_id(2)).unwrap();
    assert!(is_mounted(&target));
    assert_eq!(state_of(&daemon, "v"), "mounted");
    for number in [1, 2] {
        daemon.unmount("v", &mount_id(number)).unwrap();
    }
    nothing_is_left(&daemon);
}

#[test]
fn a_dead_filesystem_is_seen_and_replaced_by_the_next_mount() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::start();
    daemon.create_with_helper("v", &helpers::foreground_in_background());
    let target = daemon.mount("v", &mount_id(1)).unwrap();
    kill_helpers(&daemon);
    daemon.cli(&["volume", "ls"]).ok();
    let status = daemon.get("v").unwrap()["Status"].clone();
    assert_eq!(status["state"], "broken");
    assert!(status["reason"].as_str().unwrap().contains("volume remount v"), "{status}");
    daemon.mount("v", &mount_id(2)).unwrap();
    fs::read_dir(&target).unwrap();
    assert_eq!(mounts_under(&daemon.mntpt()).len(), 1, "nothing is stacked when nobody holds the dead one");
    daemon.unmount("v", &mount_id(1)).unwrap();
    daemon.unmount("v", &mount_id(2)).unwrap();
    nothing_is_left(&daemon);
}

#[track_caller]
fn kill_helpers(daemon: &Daemon) {
    for pid in daemon.helpers() {
        signal(pid, Signal::SIGKILL);
    }
    wait_until("the helpers are dead", || daemon.helpers().is_empty());
}

#[test]
fn a_remount_reaches_the_container_that_has_the_dead_filesystem() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::start();
    let source = daemon.create_with_helper("v", &helpers::foreground_in_background());
    fs::write(source.join("file"), "").unwrap();
    let target = daemon.mount("v", &mount_id(1)).unwrap();
    let (container, inside) = container(&daemon, &target);
    assert_eq!(look_inside(&container, &inside).ok(), "file");
    let refused = daemon.cli(&["volume", "remount", "v"]).err();
    assert!(refused.contains("is mounted and answers"), "{refused}");
    kill_helpers(&daemon);
    assert!(look_inside(&container, &inside).err().contains("not connected"));
    daemon.cli(&["volume", "remount", "v"]).ok();
    assert_eq!(look_inside(&container, &inside).ok(), "file");
    assert_eq!(state_of(&daemon, "v"), "mounted");
    drop(container);
    daemon.unmount("v", &mount_id(1)).unwrap();
    nothing_is_left(&daemon);
}

#[test]
fn a_busy_filesystem_is_not_forced_and_goes_when_it_is_free() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::builder().args(["--unmount-timeout", "2s", "--grace", "1s"]).start();
    daemon.create_bindfs("v");
    let target = daemon.mount("v", &mount_id(1)).unwrap();
    let mut user = Background::start(daemon.dir().command("sleep").arg("600").current_dir(&target));
    let error = daemon.unmount("v", &mount_id(1)).unwrap_err();
    assert!(error.contains("is busy") && error.contains("fuser -vm"), "{error}");
    assert!(user.is_running() && is_mounted(&target), "its user must not lose it");
    let error = daemon.remove("v").unwrap_err();
    assert!(error.contains("is busy"), "{error}");
    drop(user);
    wait_until("it is unmounted without being asked", || !is_mounted(&target));
    wait_until("it is settled", || state_of(&daemon, "v") == "created");
    nothing_is_left(&daemon);
    daemon.remove("v").unwrap();
}

#[test]
fn a_busy_filesystem_that_becomes_free_in_time_is_unmounted() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::start();
    daemon.create_bindfs("v");
    let target = daemon.mount("v", &mount_id(1)).unwrap();
    let user = Background::start(daemon.dir().command("sleep").arg("1").current_dir(&target));
    daemon.unmount("v", &mount_id(1)).unwrap();
    drop(user);
    nothing_is_left(&daemon);
}

#[test]
fn a_helper_that_hangs_is_given_up_when_nobody_holds_its_filesystem() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::builder().args(["--unmount-timeout", "6s"]).start();
    daemon.create_bindfs("v");
    let target = daemon.mount("v", &mount_id(1)).unwrap();
    let helpers = daemon.helpers();
    let [helper] = helpers[..] else { panic!("{helpers:?}") };
    signal(helper, Signal::SIGSTOP);
    // A process that hangs in the filesystem keeps it busy, and can't be killed while the helper hangs.
    let user = Background::start(daemon.dir().command("stat").arg(target.join("file")));
    let error = daemon.mount("v", &mount_id(2)).unwrap_err();
    assert!(error.contains("has not answered") && error.contains("its helper is process"), "{error}");
    daemon.unmount("v", &mount_id(1)).unwrap();
    nothing_is_left(&daemon);
    assert!(!user.wait(Duration::from_secs(5)).success());
}

#[test]
fn a_helper_that_was_stopped_does_not_stay_for_ever() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::builder().args(["--grace", "1s"]).start();
    daemon.create_bindfs("v");
    daemon.mount("v", &mount_id(1)).unwrap();
    let helpers = daemon.helpers();
    assert_eq!(helpers.len(), 1);
    signal(helpers[0], Signal::SIGSTOP);
    daemon.unmount("v", &mount_id(1)).unwrap();
    // Also when the volume is mounted again before anybody looks: and the new helper, stopped or not, is no old one.
    daemon.mount("v", &mount_id(2)).unwrap();
    wait_until("the old helper is gone", || !daemon.helpers().contains(&helpers[0]));
    let new = daemon.helpers();
    assert_eq!(new.len(), 1);
    signal(new[0], Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(daemon.helpers(), new, "a helper that serves was killed");
    signal(new[0], Signal::SIGCONT);
    daemon.unmount("v", &mount_id(2)).unwrap();
    daemon.remove("v").unwrap();
    nothing_is_left(&daemon);
}

#[test]
fn a_hung_filesystem_that_a_container_holds_is_not_given_up() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::builder().args(["--unmount-timeout", "4s"]).start();
    let source = daemon.create_bindfs("v");
    fs::write(source.join("file"), "").unwrap();
    let target = daemon.mount("v", &mount_id(1)).unwrap();
    let (container, inside) = container(&daemon, &target);
    let helpers = daemon.helpers();
    let in_use = run(Command::new("sh").args(["-c", "sleep 30 & echo $!"]).current_dir(&target));
    for pid in &helpers {
        signal(*pid, Signal::SIGSTOP);
    }
    _ = daemon.unmount("v", &mount_id(1));
    for pid in &helpers {
        assert!(alive(*pid), "the helper was killed under a container");
        signal(*pid, Signal::SIGCONT);
    }
    assert_eq!(look_inside(&container, &inside).ok(), "file");
    signal(in_use.ok().parse().unwrap(), Signal::SIGKILL);
}

#[test]
fn a_vanished_server_holds_up_its_own_volume_only() {
    require!(Root, Fuse, Bindfs, Sshfs);
    let daemon = Daemon::builder().args(["--unmount-timeout", "6s"]).start();
    let sshd = Sshd::start();
    let source = daemon.source("remote");
    daemon.create("remote", &[("device", &sshd.device(&source)), ("o", &sshd.options())]).unwrap();
    daemon.create_bindfs("local");
    daemon.mount("remote", &mount_id(1)).unwrap();
    sshd.freeze();
    let started = Instant::now();
    daemon.mount("local", &mount_id(2)).unwrap();
    daemon.unmount("local", &mount_id(2)).unwrap();
    assert_eq!(daemon.names(), ["local", "remote"]);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(daemon.mount("remote", &mount_id(3)).unwrap_err().contains("has not answered"));
    assert_eq!(daemon.get("remote").unwrap()["Status"]["references"].as_array().unwrap().len(), 1);
    daemon.unmount("remote", &mount_id(1)).unwrap();
    nothing_is_left(&daemon);
}

#[test]
fn kill_9_of_the_daemon_loses_no_volume_no_mount_and_no_reference() {
    require!(Root, Fuse, Bindfs);
    let mut daemon = Daemon::start();
    let source = daemon.create_bindfs("used");
    daemon.create_bindfs("idle");
    fs::write(source.join("file"), "before").unwrap();
    let target = daemon.mount("used", &mount_id(1)).unwrap();
    daemon.mount("used", &mount_id(2)).unwrap();
    let open = fs::File::create(target.join("written")).unwrap();
    let mounted = mount_at(&target);
    daemon.kill9();
    std::io::Write::write_all(&mut &open, b"while no daemon runs").unwrap();
    daemon.start_again();
    assert_eq!(daemon.names(), ["idle", "used"]);
    assert_eq!(mount_at(&target), mounted);
    assert_eq!(daemon.path("used").unwrap(), target);
    drop(open);
    assert_eq!(fs::read(source.join("written")).unwrap(), b"while no daemon runs");
    daemon.unmount("used", &mount_id(1)).unwrap();
    assert!(is_mounted(&target));
    daemon.unmount("used", &mount_id(2)).unwrap();
    nothing_is_left(&daemon);
}

#[test]
fn kill_9_in_the_middle_of_a_mount_leaves_nothing_after_the_restart() {
    require!(Root, Fuse, Bindfs);
    let mut daemon = Daemon::builder().args(["--grace", "1s"]).start();
    daemon.create_with_helper("hangs", &helpers::stubborn());
    daemon.create_with_helper("slow", &helpers::slow_bindfs(Duration::from_millis(700)));
    let mut waiting = Vec::new();
    for name in ["hangs", "slow"] {
        let mut connection = daemon.connect();
        let body = serde_json::json!({ "Name": name, "ID": mount_id(1) }).to_string();
        connection.send("POST", "VolumeDriver.Mount", &[], body.as_bytes()).unwrap();
        waiting.push(connection);
    }
    wait_until("both helpers are at work", || {
        let dir = daemon.mntpt();
        dir.join("hangs").exists() && dir.join("slow").exists() && daemon.helpers().len() >= 2
    });
    daemon.kill9();
    daemon.start_again();
    assert_eq!(daemon.names(), ["hangs", "slow"]);
    wait_until("what was half done is undone", || daemon.helpers().is_empty());
    nothing_is_left(&daemon);
    daemon.mount("slow", &mount_id(1)).unwrap();
    daemon.unmount("slow", &mount_id(1)).unwrap();
    nothing_is_left(&daemon);
}

#[test]
fn a_volume_whose_helper_is_uninstalled_can_still_be_looked_at_and_removed() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::start();
    daemon.create_with_helper("v", &helpers::bindfs());
    fs::remove_file(daemon.dir().join("bin/v")).unwrap();
    assert_eq!(state_of(&daemon, "v"), "created");
    let error = daemon.mount("v", &mount_id(1)).unwrap_err();
    assert!(error.contains("not found"), "{error}");
    nothing_is_left(&daemon);
    daemon.remove("v").unwrap();
}

#[test]
fn commands_of_a_volume_are_refused_unless_the_operator_allows_them() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::start();
    let refused = daemon.create("v", &[("mount_command", "touch /tmp/owned")]).unwrap_err();
    assert!(refused.contains("--allow-mount-command"), "{refused}");
    let mut allowed = Daemon::builder().env("EASYFUSE_ALLOW_MOUNT_COMMAND", "true").start();
    allowed.create("v", &[("mount_command", "bindfs /tmp {target}")]).unwrap();
    allowed.mount("v", &mount_id(1)).unwrap();
    allowed.unmount("v", &mount_id(1)).unwrap();
    nothing_is_left(&allowed);
    allowed.terminate();
    // The record outlives the permission, which is asked for again before each mount.
    let mut strict = Daemon::builder().stopped();
    run(Command::new("cp").arg("-a").arg(allowed.state()).arg(strict.state())).ok();
    strict.start_again();
    let refused = strict.mount("v", &mount_id(1)).unwrap_err();
    assert!(refused.contains("--allow-mount-command"), "{refused}");
    strict.remove("v").unwrap();
}

#[test]
fn a_hung_filesystem_with_a_file_open_on_the_host_is_not_given_up_unless_somebody_says_so() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::builder().args(["--unmount-timeout", "3s"]).start();
    daemon.create_bindfs("v");
    let target = daemon.mount("v", &mount_id(1)).unwrap();
    let writer = Background::start(
        daemon.dir().command("sh").args(["-c", "exec 3>\"$0\"; exec sleep 600"]).arg(target.join("file")),
    );
    wait_until("the file is open", || target.join("file").exists());
    let helpers = daemon.helpers();
    signal(helpers[0], Signal::SIGSTOP);
    let error = daemon.unmount("v", &mount_id(1)).unwrap_err();
    assert!(error.contains("has not answered"), "{error}");
    assert!(alive(helpers[0]) && is_mounted(&target), "its writer would lose what it wrote");
    daemon.cli(&["volume", "unmount", "--force", "v"]).ok();
    assert!(!is_mounted(&target));
    drop(writer);
    nothing_is_left(&daemon);
}

#[test]
fn looks_at_a_filesystem_that_hangs_do_not_pile_up() {
    require!(Root, Fuse, Sshfs);
    let daemon = Daemon::builder().args(["--unmount-timeout", "6s"]).start();
    let sshd = Sshd::start();
    let source = daemon.source("remote");
    daemon.create("remote", &[("device", &sshd.device(&source)), ("o", &sshd.options())]).unwrap();
    daemon.mount("remote", &mount_id(1)).unwrap();
    sshd.freeze();
    for _ in 0..4 {
        daemon.cli(&["volume", "ls"]).ok();
    }
    let target = daemon.mntpt().join("remote").display().to_string();
    let probes = descendants(daemon.pid());
    let probes = probes.into_iter().filter(|pid| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.contains("probe") && words.contains(&target)
    });
    assert!(probes.count() <= 1, "each of them would stay until the server is back");
    assert_eq!(state_of(&daemon, "remote"), "broken");
    sshd.thaw();
    wait_until("it works again", || {
        daemon.cli(&["volume", "ls"]).ok();
        state_of(&daemon, "remote") == "mounted"
    });
    daemon.unmount("remote", &mount_id(1)).unwrap();
    nothing_is_left(&daemon);
}

#[test]
fn directories_of_others_below_the_mount_directory_are_left_alone() {
    require!(Root, Fuse, Bindfs);
    let mut daemon = Daemon::builder().stopped();
    let theirs = daemon.mntpt().join("theirs");
    fs::create_dir_all(theirs.join("precious")).unwrap();
    fs::create_dir(daemon.mntpt().join("idle")).unwrap();
    run(Command::new("chattr").arg("+i").arg(daemon.mntpt().join("idle"))).ok();
    daemon.start_again();
    assert!(theirs.join("precious").is_dir() && daemon.mntpt().join("idle").is_dir());
    assert!(run(Command::new("lsattr").arg("-d").arg(daemon.mntpt().join("idle"))).ok().contains('i'));
    daemon.create_bindfs("theirs");
    let error = daemon.mount("theirs", &mount_id(1)).unwrap_err();
    assert!(error.contains("is not easyfuse's") && error.contains("move it away"), "{error}");
    assert!(theirs.join("precious").is_dir());
}

#[test]
fn a_new_volume_never_shows_what_an_old_one_of_its_name_has_mounted() {
    require!(Root, Fuse, Bindfs);
    let mut daemon = Daemon::start();
    let old = daemon.create_bindfs("v");
    fs::write(old.join("old"), "").unwrap();
    let target = daemon.mount("v", &mount_id(1)).unwrap();
    daemon.kill9();
    fs::write(daemon.state().join("volumes/v.json"), "{\"schema\": 1, \"na").unwrap();
    daemon.start_again();
    assert_eq!(state_of(&daemon, "v"), "broken");
    assert!(daemon.remove("v").unwrap_err().contains("in use"), "its container goes on");
    assert!(is_mounted(&target));
    daemon.unmount("v", &mount_id(1)).unwrap();
    assert!(!is_mounted(&target));
    daemon.remove("v").unwrap();
    nothing_is_left(&daemon);

    // A mount of nobody's, as after the state directory was lost.
    fs::create_dir(&target).unwrap();
    run(daemon.dir().command("bindfs").arg(&old).arg(&target)).ok();
    let options = [("device", format!("bindfs#{}", daemon.source("new").display()))];
    let options = [(options[0].0, options[0].1.as_str())];
    let error = daemon.create("v", &options).unwrap_err();
    assert!(error.contains("has a filesystem already") && error.contains("umount"), "{error}");
    run(Command::new("umount").arg(&target)).ok();
    daemon.create("v", &options).unwrap();
}

#[test]
fn programs_on_a_filesystem_that_hangs_hold_up_nobody_else() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::builder().args(["--allow-mount-command", "--mount-timeout", "3s"]).start();
    let tools = daemon.create_bindfs("tools");
    fs::copy("/bin/true", tools.join("prog")).unwrap();
    let program = daemon.mount("tools", &mount_id(1)).unwrap().join("prog").display().to_string();
    for name in ["a", "b", "c"] {
        daemon.create(name, &[("mount_command", &format!("{program} {{target}}"))]).unwrap();
    }
    let helpers = daemon.helpers();
    signal(helpers[0], Signal::SIGSTOP);
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let daemon = &daemon;
            scope.spawn(move || daemon.mount(name, &mount_id(2)).unwrap_err());
        }
        std::thread::sleep(Duration::from_millis(300));
        let started = Instant::now();
        assert!(daemon.answers());
        assert_eq!(daemon.names().len(), 4);
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    });
    let error = daemon.create("d", &[("device", &format!("{program}#x"))]).unwrap_err();
    assert!(error.contains("gives no answer"), "{error}");
    signal(helpers[0], Signal::SIGCONT);
    daemon.unmount("tools", &mount_id(1)).unwrap();
    nothing_is_left(&daemon);
}

#[test]
fn a_removal_that_takes_long_holds_up_no_other_name() {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::builder().args(["--unmount-timeout", "6s"]).start();
    daemon.create_bindfs("busy");
    let target = daemon.mount("busy", &mount_id(1)).unwrap();
    let user = Background::start(daemon.dir().command("sleep").arg("600").current_dir(&target));
    daemon.unmount("busy", &mount_id(1)).unwrap_err();
    // Names share a number of locks: one that shares the busy one's.
    let lock = |name: &str| BuildHasherDefault::<DefaultHasher>::default().hash_one(name) % 512;
    let other = (0..).map(|number| format!("n{number}")).find(|name| lock(name) == lock("busy")).unwrap();
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| daemon.remove("busy").unwrap_err());
        std::thread::sleep(Duration::from_millis(300));
        let started = Instant::now();
        daemon.create_bindfs(&other);
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert!(removal.join().unwrap().contains("is busy"));
    });
    drop(user);
    wait_until("it goes", || daemon.remove("busy").is_ok());
}

#[test]
fn one_damaged_file_keeps_no_other_volume_from_being_loaded() {
    require!(Root, Fuse, Bindfs);
    let mut daemon = Daemon::start();
    daemon.create_bindfs("good");
    daemon.terminate();
    fs::create_dir(daemon.state().join("volumes/odd.json.bad")).unwrap();
    fs::create_dir_all(daemon.mntpt().join(".easyfuse/references/good")).unwrap();
    daemon.start_again();
    assert_eq!(daemon.names(), ["good", "odd"]);
    assert_eq!((state_of(&daemon, "good"), state_of(&daemon, "odd")), ("created".into(), "broken".into()));
    daemon.mount("good", &mount_id(1)).unwrap();
    daemon.unmount("good", &mount_id(1)).unwrap();
}

#[test]
fn an_unmount_that_has_to_wait_for_a_mount_is_not_forgotten() {
    require!(Root, Fuse, Bindfs);
    let daemon = Daemon::builder().args(["--mount-timeout", "3s", "--unmount-timeout", "1s"]).start();
    // Mounts once, and hangs from then on.
    let script =
        helpers::script("[ -e \"$1/mounted\" ] && exec sleep 1000\ntouch \"$1/mounted\"\nexec bindfs \"$@\"");
    daemon.create_with_helper("v", &script);
    let target = daemon.mount("v", &mount_id(1)).unwrap();
    run(Command::new("umount").arg(&target)).ok();
    wait_until("its helper ends", || daemon.helpers().is_empty());
    std::thread::scope(|scope| {
        let mount = scope.spawn(|| daemon.mount("v", &mount_id(2)).unwrap_err());
        wait_until("the second mount is under way", || !daemon.helpers().is_empty());
        daemon.unmount("v", &mount_id(1)).unwrap();
        assert!(mount.join().unwrap().contains("was not done after"));
    });
    nothing_is_left(&daemon);
    daemon.remove("v").unwrap();
}

#[test]
fn an_unmount_that_can_not_succeed_does_not_spin() {
    require!(Root, Fuse, Sshfs);
    let daemon = Daemon::builder().args(["--unmount-timeout", "4s"]).start();
    let sshd = Sshd::start();
    let source = daemon.source("remote");
    daemon.create("remote", &[("device", &sshd.device(&source)), ("o", &sshd.options())]).unwrap();
    let target = daemon.mount("remote", &mount_id(1)).unwrap();
    let open = fs::File::create(target.join("file")).unwrap();
    sshd.freeze();
    // From here on it is known to hang, and nobody asks it again.
    daemon.cli(&["volume", "ls"]).ok();
    let before = children_ticks(&daemon);
    let started = Instant::now();
    let error = daemon.unmount("remote", &mount_id(1)).unwrap_err();
    assert!(error.contains("has not answered"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let used = children_ticks(&daemon) - before;
    assert!(used < 50, "umount was run over and over: {used} ticks of a hundredth of a second");
    sshd.thaw();
    drop(open);
}

/// Processor time of the children that the daemon has waited for.
fn children_ticks(daemon: &Daemon) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[13].parse::<u64>().unwrap() + fields[14].parse::<u64>().unwrap()
}
