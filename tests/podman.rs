//! Podman: the same through its short-lived processes, which give up on a plugin after 5 seconds.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::*;

/// Podman, the daemon that it knows, and the server that volumes come from.
struct World {
    podman: Podman,
    daemon: Daemon,
    sshd: Sshd,
}

impl World {
    #[track_caller]
    fn with(daemon: DaemonBuilder) -> Self {
        let daemon = daemon.start();
        Self { podman: Podman::new(&daemon, None), daemon, sshd: Sshd::start() }
    }

    #[track_caller]
    fn podman(&self, words: &str) -> Output {
        self.podman.podman(&words.split(' ').collect::<Vec<_>>())
    }

    /// Creates the volume `data` that shows a new directory on the server, and gives that directory.
    #[track_caller]
    fn create_sshfs(&self) -> PathBuf {
        let dir = self.daemon.source("data");
        let (device, o) = (self.sshd.device(&dir), self.sshd.options());
        self.podman(&format!("volume create --driver {} -o device={device} -o o={o} data", Podman::DRIVER))
            .ok();
        dir
    }

    /// A container called `name` with the volume `data` at `/data`, that runs on.
    #[track_caller]
    fn run(&self, name: &str) {
        self.podman(&format!("run -d --name {name} -v data:/data busybox sleep 1000000")).ok();
    }

    fn target(&self) -> PathBuf {
        self.daemon.mntpt().join("data")
    }
}

#[test]
fn a_container_reads_and_writes_a_directory_on_an_ssh_server() {
    require!(Podman, Sshfs);
    let world = World::with(Daemon::builder());
    let dir = world.create_sshfs();
    fs::write(dir.join("from-server"), "hello").unwrap();
    let read = world.podman.sh("data:/data", "cat /data/from-server; echo world >/data/from-container");
    assert_eq!(read, "hello");
    assert_eq!(fs::read_to_string(dir.join("from-container")).unwrap(), "world\n");
    assert!(!is_mounted(&world.target()));
    world.podman("volume rm data").ok();
    world.daemon.assert_no_trace();
}

#[test]
fn two_containers_share_one_mount_until_the_last_one_stops() {
    require!(Podman, Sshfs);
    let world = World::with(Daemon::builder());
    world.create_sshfs();
    world.run("one");
    world.run("two");
    assert_eq!(mounts_under(&world.target()).len(), 1);
    world.podman("exec one touch /data/file").ok();
    world.podman("exec two ls /data/file").ok();
    world.podman("volume rm data").err();
    world.podman("stop -t 0 one").ok();
    world.podman("exec two ls /data/file").ok();
    world.podman("stop -t 0 two").ok();
    wait_until("it is unmounted", || !is_mounted(&world.target()));
    world.podman("rm one two").ok();
    world.podman("volume rm data").ok();
    world.daemon.assert_no_trace();
}

#[test]
fn the_error_of_a_helper_that_hangs_arrives_before_podman_gives_up() {
    require!(Podman);
    let world = World::with(Daemon::builder());
    let helper = world.daemon.helper("hang", &helpers::hang());
    let device = format!("{}#/", helper.display());
    world.podman(&format!("volume create --driver {} -o device={device} data", Podman::DRIVER)).ok();
    let started = Instant::now();
    let refused = world.podman("run --rm -v data:/data busybox true").err();
    assert!(refused.contains("volume data: mount failed: `mount` was not done after"), "{refused}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert!(!world.target().exists());
    world.podman("volume rm data").ok();
    world.daemon.assert_no_trace();
}

#[test]
fn a_volume_stays_mounted_although_the_podman_and_the_daemon_that_mounted_it_are_gone() {
    require!(Podman, Sshfs);
    let mut world = World::with(Daemon::builder().args(["--grace", "1s"]));
    world.create_sshfs();
    world.run("one");
    let mount = mount_at(&world.target());
    world.daemon.kill9();
    world.daemon.start_again();
    // Longer than the grace time, and more than one look at everything.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(mount_at(&world.target()), mount);
    world.podman("exec one touch /data/file").ok();
    assert_eq!(world.podman.sh("data:/data", "ls /data"), "file");
    world.podman("exec one ls /data/file").ok();
    world.podman("rm -f -t 0 one").ok();
    wait_until("it is unmounted", || !is_mounted(&world.target()));
    world.podman("volume rm data").ok();
    world.daemon.assert_no_trace();
}
