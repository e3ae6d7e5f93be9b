//! Docker: what its user sees, with a real engine and, mostly, a real sshfs from a real sshd.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::*;

/// Writes a line now and then; the container ends at the first error.
const WRITE: &str = "set -e; while :; do echo line >>/data/log; sleep 0.05; done";
/// Does nothing until it is told to end.
const WAIT: &str = "trap exit TERM; sleep 1000000 & wait";

/// An engine, the daemon that it knows, and the server that volumes come from.
struct World {
    engine: Engine,
    daemon: Daemon,
    sshd: Sshd,
}

impl World {
    #[track_caller]
    fn start() -> Self {
        Self::with(Engine::start(), Daemon::builder())
    }

    #[track_caller]
    fn with(engine: Engine, daemon: DaemonBuilder) -> Self {
        let daemon = daemon.start();
        daemon.discoverable();
        Self { engine, daemon, sshd: Sshd::start() }
    }

    #[track_caller]
    fn docker(&self, words: &str) -> Output {
        self.engine.docker(&words.split(' ').collect::<Vec<_>>())
    }

    /// `docker volume create` with more arguments.
    #[track_caller]
    fn create(&self, name: &str, args: &[&str]) -> Output {
        let fixed = ["volume", "create", "-d", self.daemon.dir().name()];
        self.engine.docker(&[&fixed, args, &[name]].concat())
    }

    /// Creates a volume that shows a new directory on the server, and gives that directory.
    #[track_caller]
    fn create_sshfs(&self, name: &str) -> PathBuf {
        let dir = self.daemon.source(name);
        let (device, o) = (self.device(&dir), format!("o={}", self.sshd.options()));
        self.create(name, &["--label", "of=mine", "-o", &device, "-o", &o]).ok();
        dir
    }

    fn device(&self, dir: &Path) -> String {
        format!("device={}", self.sshd.device(dir))
    }

    /// A container called `name` with the volume `data` at `/data`, that runs on.
    #[track_caller]
    fn run(&self, name: &str, script: &str) {
        self.run_on("data", name, script);
    }

    #[track_caller]
    fn run_on(&self, volume: &str, name: &str, script: &str) {
        let volume = format!("{volume}:/data");
        let run = ["run", "-d", "--name", name, "-v", &volume, "busybox", "sh", "-c", script];
        self.engine.docker(&run).ok();
    }

    #[track_caller]
    fn exec(&self, name: &str, script: &str) -> Output {
        self.engine.docker(&["exec", name, "sh", "-c", script])
    }

    fn is_running(&self, name: &str) -> bool {
        let output = self.docker(&format!("inspect -f {{{{.State.Running}}}} {name}"));
        output.success() && output.ok() == "true"
    }

    /// What `docker volume inspect` shows.
    #[track_caller]
    fn inspect(&self, volume: &str) -> Value {
        let text = self.docker(&format!("volume inspect {volume}")).ok();
        serde_json::from_str::<Value>(&text).unwrap()[0].take()
    }

    /// Who uses the volume `data`, as the plugin shows it.
    #[track_caller]
    fn references(&self) -> Vec<Value> {
        let volume = self.daemon.get("data").unwrap();
        volume["Status"]["references"].as_array().unwrap().clone()
    }

    #[track_caller]
    fn remove_all(&self, containers: &str) {
        self.docker(&format!("rm -f {containers}")).ok();
        self.docker("volume rm data").ok();
        self.daemon.assert_no_trace();
    }

    fn target(&self) -> PathBuf {
        self.daemon.mntpt().join("data")
    }
}

/// The process that serves the volume `data`.
#[track_caller]
fn helper(world: &World) -> u32 {
    let mut pid = None;
    wait_until("the helper is known", || {
        pid = world.inspect("data")["Status"]["helper_pid"].as_u64();
        pid.is_some()
    });
    u32::try_from(pid.unwrap()).unwrap()
}

fn size(file: &Path) -> u64 {
    file.metadata().map_or(0, |data| data.len())
}

#[track_caller]
fn assert_grows(file: &Path) {
    let before = size(file);
    wait_until("the container writes on", || size(file) > before);
}

/// All below `dir` that is no directory; nothing of what is mounted there may be dead.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let below = |entry: fs::DirEntry| {
        if entry.file_type().unwrap().is_dir() { files(&entry.path()) } else { vec![entry.path()] }
    };
    entries.flat_map(below).collect()
}

#[test]
fn a_container_reads_and_writes_a_directory_on_an_ssh_server() {
    require!(Docker, Sshfs);
    let world = World::start();
    let dir = world.create_sshfs("data");
    fs::write(dir.join("from-server"), "hello").unwrap();
    let read = world.engine.sh("data:/data", "cat /data/from-server; echo world >/data/from-container");
    assert_eq!(read, "hello");
    assert_eq!(fs::read_to_string(dir.join("from-container")).unwrap(), "world\n");
    assert_eq!(world.engine.sh("data:/data", "cat /data/from-container"), "world");
    world.docker("volume rm data").ok();
    assert!(!world.docker("volume ls -q").ok().contains("data"));
    world.daemon.assert_no_trace();
    assert!(dir.join("from-container").exists(), "what is on the server stays");
}

#[test]
fn inspect_and_ls_tell_how_a_volume_is_before_during_and_after_its_use() {
    require!(Docker, Sshfs);
    let world = World::start();
    world.create_sshfs("data");
    let idle = world.inspect("data");
    assert_eq!((&idle["Status"]["state"], &idle["Mountpoint"]), (&json!("created"), &json!("")));
    assert_eq!(idle["Status"]["references"], json!([]));
    assert_eq!(idle["Labels"]["of"], "mine");
    let listed = world.docker("volume ls --format {{.Driver}}:{{.Name}}").ok();
    assert_eq!(listed, format!("{}:data", world.daemon.dir().name()));

    world.run("one", WAIT);
    let served_by = helper(&world);
    assert_eq!(fs::read_to_string(format!("/proc/{served_by}/comm")).unwrap().trim(), "sshfs");
    let used = world.inspect("data");
    assert_eq!(used["Mountpoint"], world.target().to_str().unwrap());
    assert_eq!(used["Status"]["state"], "mounted");
    assert_eq!(used["Status"]["filesystem"], "fuse.sshfs");
    assert_eq!(used["Status"]["references"].as_array().unwrap().len(), 1);
    assert_eq!(used["Status"]["references"][0]["engine_pid"], world.engine.pid());

    world.docker("stop -t 0 one").ok();
    let after = world.inspect("data");
    assert_eq!((&after["Status"]["state"], &after["Mountpoint"]), (&json!("created"), &json!("")));
    world.remove_all("one");
}

#[test]
fn two_containers_share_one_mount_until_the_last_one_stops() {
    require!(Docker, Sshfs);
    let world = World::start();
    world.create_sshfs("data");
    world.run("one", WAIT);
    world.run("two", WAIT);
    assert_eq!(world.references().len(), 2);
    assert_eq!(mounts_under(&world.target()).len(), 1);
    world.exec("one", "echo shared >/data/file").ok();
    assert_eq!(world.exec("two", "cat /data/file").ok(), "shared");

    let refused = world.docker("volume rm data").err();
    assert!(refused.contains("volume is in use"), "{refused}");
    world.docker("restart -t 0 one").ok();
    assert_eq!(world.references().len(), 2);
    world.docker("stop -t 0 one").ok();
    assert_eq!(world.exec("two", "cat /data/file").ok(), "shared");
    world.docker("stop -t 0 two").ok();
    assert!(!world.target().exists());
    world.remove_all("one two");
}

#[test]
fn docker_cp_in_a_loop_leaves_a_running_container_its_volume() {
    require!(Docker, Sshfs);
    let world = World::start();
    let dir = world.create_sshfs("data");
    world.run("one", WRITE);
    let (before, mount) = (world.references(), mount_at(&world.target()));
    for round in 0..8 {
        let (there, back) =
            (world.engine.dir().write("there", format!("{round}")), world.engine.dir().join("back"));
        world.engine.docker(&["cp", there.to_str().unwrap(), "one:/data/there"]).ok();
        assert_eq!(fs::read_to_string(dir.join("there")).unwrap(), format!("{round}"));
        world.engine.docker(&["cp", "one:/data/there", back.to_str().unwrap()]).ok();
        assert_eq!(fs::read_to_string(back).unwrap(), format!("{round}"));
    }
    assert_eq!(world.references(), before);
    assert_eq!(mount_at(&world.target()), mount, "never unmounted meanwhile");
    assert_grows(&dir.join("log"));
    world.remove_all("one");
}

#[test]
fn what_the_image_has_at_the_target_is_copied_into_an_empty_volume() {
    require!(Docker, Sshfs);
    let world = World::start();
    let dir = world.create_sshfs("data");
    let fill = "mkdir /data && echo packed >/data/seed";
    world.engine.docker(&["run", "--name", "make", "busybox", "sh", "-c", fill]).ok();
    world.docker("commit make packed").ok();
    world.docker("run -d --name one -v data:/data packed sleep 1000000").ok();
    assert_eq!(fs::read_to_string(dir.join("seed")).unwrap(), "packed\n");
    assert_eq!(world.exec("one", "cat /data/seed").ok(), "packed");
    assert_eq!(world.references().len(), 1, "the copying's own use is over");
    world.remove_all("make one");
}

#[test]
fn volumes_of_others_and_volumes_without_a_name_do_not_confuse_it() {
    require!(Docker, Sshfs);
    let world = World::start();
    let driver = world.daemon.dir().name();
    world.docker("run --rm -v /anonymous busybox touch /anonymous/x").ok();
    world.docker("run --rm -v local:/local busybox touch /local/x").ok();
    assert!(world.docker("volume inspect nowhere").err().to_lowercase().contains("no such volume"));
    assert!(world.docker("volume rm nowhere").err().to_lowercase().contains("no such volume"));

    let unknown = world.docker(&format!("run --rm --volume-driver {driver} -v nowhere:/data busybox true"));
    let refused = unknown.err();
    assert!(refused.contains("nowhere") && refused.contains("device"), "{refused}");
    assert_eq!(world.daemon.names(), [""; 0]);

    // One of ours without a name: the engine invents one, and removes it with the container.
    let dir = world.daemon.source("unnamed");
    let (device, o) = (world.device(&dir), world.sshd.options());
    let mount =
        format!("type=volume,dst=/data,volume-driver={driver},volume-opt={device},\"volume-opt=o={o}\"");
    world.engine.docker(&["run", "--rm", "--mount", &mount, "busybox", "touch", "/data/file"]).ok();
    assert!(dir.join("file").exists());
    world.daemon.assert_no_trace();
    world.docker("volume rm local").ok();
}

#[test]
fn a_failing_sshfs_is_one_line_with_the_volume_and_the_words_of_ssh_and_leaves_nothing() {
    require!(Docker, Sshfs);
    let world = World::start();
    let dir = world.daemon.source("data");
    run(std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(world.sshd.dir().join("stranger")))
    .ok();
    let right = world.sshd.options();
    let (user, port) = (world.sshd.dir().join("user"), format!("port={}", world.sshd.port()));
    let wrong_key = right.replace(
        &format!("IdentityFile={}", user.display()),
        &format!("IdentityFile={}", world.sshd.dir().join("stranger").display()),
    );
    let wrong_port = right.replace(&port, "port=1");
    for (name, options, words) in
        [("badkey", wrong_key, "Permission denied"), ("badport", wrong_port, "Connection refused")]
    {
        assert_ne!(options, right);
        world.create(name, &["-o", &world.device(&dir), "-o", &format!("o={options}")]).ok();
        let started = Instant::now();
        let refused = world.docker(&format!("run --rm -v {name}:/data busybox true")).err();
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
        let lines: Vec<&str> = refused.lines().filter(|line| line.contains("VolumeDriver.Mount")).collect();
        let [line] = lines[..] else { panic!("not one line: {refused}") };
        assert!(line.contains(&format!("volume {name}: mount failed")) && line.contains(words), "{refused}");
        assert!(!is_mounted(&world.daemon.mntpt().join(name)));
        assert!(!world.daemon.mntpt().join(name).exists());
        let status = world.inspect(name)["Status"].take();
        assert_eq!((&status["state"], &status["references"]), (&json!("created"), &json!([])));
        assert!(status["last_error"]["message"].as_str().unwrap().contains(words), "{status}");
        world.docker(&format!("volume rm {name}")).ok();
    }
    world.daemon.assert_no_trace();
}

#[test]
fn an_sshfs_that_can_not_pass_on_the_words_of_ssh_mounts_all_the_same() {
    require!(Bindfs);
    let daemon = Daemon::start();
    let old = "case \"$*\" in *sshfs_verbose*) echo 'unknown option sshfs_verbose' >&2; exit 1 ;; esac\n\
               exec bindfs \"$@\"";
    daemon.create_with_helper("sshfs", &helpers::script(old));
    daemon.mount("sshfs", &mount_id(1)).unwrap();
    daemon.unmount("sshfs", &mount_id(1)).unwrap();
    daemon.remove("sshfs").unwrap();
    daemon.assert_no_trace();
}

#[test]
fn a_helper_that_dies_or_unmounts_lets_no_container_write_to_the_bare_directory() {
    require!(Docker, Sshfs);
    let world = World::start();
    world.create_sshfs("data");
    for (name, signal) in [("killed", Signal::SIGKILL), ("ended", Signal::SIGTERM)] {
        world.run(name, WAIT);
        crate::support::signal(helper(&world), signal);
        wait_until("writing fails", || !world.exec(name, "echo x >/data/file").success());
        let said = world.exec(name, "echo x >/data/file").err();
        assert!(said.contains("Transport endpoint is not connected"), "{name}: {said}");
        unmount_all(&world.target());
        assert_eq!(files(&world.target()), [""; 0].map(PathBuf::from));
        world.docker(&format!("rm -f {name}")).ok();
    }
    world.remove_all("none");
}

#[test]
fn a_container_that_got_the_bare_directory_itself_can_not_write_to_it_as_root() {
    require!(Docker, Bindfs);
    let world = World::start();
    // Unmounts as soon as the engine was told that it is mounted, and before the container starts.
    let reference = world.daemon.mntpt().join(".easyfuse/references/data");
    let script = format!(
        "bindfs \"$@\" || exit 1\n(until [ -e {} ]; do sleep 0.01; done; umount -l \"$2\") >/dev/null 2>&1 &",
        reference.display()
    );
    let helper = world.daemon.helper("fickle", &helpers::script(&script));
    let source = world.daemon.source("data");
    world.create("data", &["-o", &format!("device={}#{}", helper.display(), source.display())]).ok();
    world.run("one", WAIT);
    let table = world.exec("one", "grep ' /data ' /proc/mounts").ok();
    assert!(!table.contains("fuse"), "the container was meant to get the bare directory: {table}");
    let said = world.exec("one", "echo x >/data/file").err();
    assert!(said.contains("Operation not permitted"), "{said}");
    world.exec("one", "mkdir /data/dir").err();
    assert_eq!(files(&world.target()), [""; 0].map(PathBuf::from));
    world.remove_all("one");
}

#[test]
fn kill_9_of_the_daemon_disturbs_no_container_and_loses_no_reference() {
    require!(Docker, Sshfs);
    let mut world = World::start();
    let dir = world.create_sshfs("data");
    world.run("one", WRITE);
    world.run("two", WRITE);
    assert_grows(&dir.join("log"));
    let (references, mount) = (world.references(), mount_at(&world.target()));
    world.daemon.kill9();
    assert_grows(&dir.join("log"));
    world.daemon.start_again();
    assert_eq!(world.references(), references);
    assert_eq!(mount_at(&world.target()), mount);
    assert_grows(&dir.join("log"));
    assert!(world.is_running("one") && world.is_running("two"));
    world.docker("rm -f one").ok();
    assert_eq!(world.references().len(), 1);
    world.remove_all("two");
}

#[test]
fn a_container_that_starts_while_the_daemon_is_down_waits_for_it() {
    require!(Docker, Sshfs);
    let mut world = World::start();
    let dir = world.create_sshfs("data");
    world.daemon.kill9();
    let waiting = world.engine.docker_in_background(&[
        "run",
        "--rm",
        "-v",
        "data:/data",
        "busybox",
        "touch",
        "/data/file",
    ]);
    wait_until("the engine misses the daemon", || world.engine.log().contains("Unable to connect to plugin"));
    world.daemon.start_again();
    waiting.wait(Duration::from_mins(1)).ok();
    assert!(dir.join("file").exists());
    world.remove_all("none");
}

#[test]
fn a_container_that_is_removed_while_the_daemon_is_down_leaks_no_reference() {
    require!(Docker, Sshfs);
    let mut world = World::with(Engine::start(), Daemon::builder().args(["--grace", "1s"]));
    world.create_sshfs("data");
    world.create_sshfs("other");
    world.run_on("other", "one", WAIT);
    world.run("two", WRITE);
    world.daemon.kill9();
    world.docker("rm -f one").ok(); // the engine tries to reach the plugin for 15 seconds, then gives up for good
    world.daemon.start_again();
    wait_until("the missed reference is dropped", || !is_mounted(&world.daemon.mntpt().join("other")));
    assert!(is_mounted(&world.target()) && world.is_running("two"));
    world.docker("rm -f two").ok();
    wait_until("the last reference is dropped", || !is_mounted(&world.target()));
    world.docker("volume rm data other").ok();
    world.daemon.assert_no_trace();
}

#[test]
fn kill_9_of_dockerd_loses_no_volume_and_leaks_no_reference() {
    require!(Docker, Sshfs);
    let mut world = World::with(Engine::start(), Daemon::builder().args(["--grace", "2s"]));
    let dir = world.create_sshfs("data");
    world.create_sshfs("other");
    world.run("one", WRITE);
    world.run_on("other", "two", WAIT);
    let options = world.inspect("data")["Options"].clone();
    let container = world.docker("inspect -f {{.State.Pid}} one").ok().parse().unwrap();
    world.engine.kill9();
    // Longer than the grace time, and more than one look at everything.
    std::thread::sleep(Duration::from_secs(4));
    assert_grows(&dir.join("log"));
    assert_eq!(world.references().len(), 1, "the container still has it");
    signal(container, Signal::SIGKILL);
    wait_until("the reference of the lost container is dropped", || world.references().is_empty());
    wait_until("its volume is unmounted", || !is_mounted(&world.target()));

    world.engine.start_again();
    let after = world.inspect("data");
    assert_eq!((&after["Labels"]["of"], &after["Options"]), (&json!("mine"), &options));
    assert_eq!(world.inspect("other")["Labels"]["of"], "mine");
    wait_until("the engine ended the other container", || !is_mounted(&world.daemon.mntpt().join("other")));
    world.docker("start one").ok();
    assert_grows(&dir.join("log"));
    assert_eq!(world.references().len(), 1);
    world.docker("rm -f one two").ok();
    world.docker("volume rm data other").ok();
    world.daemon.assert_no_trace();
}

#[test]
fn live_restore_keeps_the_volume_under_a_running_container_and_leaks_no_reference() {
    require!(Docker, Sshfs);
    let daemon = Daemon::builder().args(["--grace", "1s"]);
    let mut world = World::with(Engine::with_args(&["--live-restore"]), daemon);
    let dir = world.create_sshfs("data");
    world.run("one", WRITE);
    let mount = mount_at(&world.target());
    for crash in [false, true] {
        if crash {
            world.engine.kill9();
            world.engine.start_again();
        } else {
            world.engine.restart();
        }
        world
            .engine
            .docker(&["cp", "one:/data/log", world.engine.dir().join("log-copy").to_str().unwrap()])
            .ok();
        assert_grows(&dir.join("log"));
    }
    // Longer than the grace time, and more than one look at everything.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(mount_at(&world.target()), mount, "never unmounted meanwhile");
    assert!(!world.references().is_empty() && world.is_running("one"));
    world.docker("stop -t 0 one").ok();
    wait_until("no reference is left", || world.references().is_empty());
    wait_until("it is unmounted", || !is_mounted(&world.target()));
    world.remove_all("one");
}

#[test]
fn remount_brings_the_filesystem_back_into_a_running_container() {
    require!(Docker, Sshfs);
    let world = World::start();
    let dir = world.create_sshfs("data");
    fs::write(dir.join("file"), "here").unwrap();
    world.run("one", WAIT);
    let old = helper(&world);
    signal(old, Signal::SIGKILL);
    wait_until("the container loses it", || !world.exec("one", "cat /data/file").success());
    world.daemon.cli(&["volume", "remount", "data"]).ok();
    assert_eq!(world.exec("one", "cat /data/file; echo new >/data/new").ok(), "here");
    assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "new\n");
    assert_ne!(helper(&world), old);

    // A container that starts does the same for those that run.
    signal(helper(&world), Signal::SIGKILL);
    wait_until("the container loses it again", || !world.exec("one", "cat /data/file").success());
    assert_eq!(world.engine.sh("data:/data", "cat /data/new"), "new");
    assert_eq!(world.exec("one", "cat /data/new").ok(), "new");
    world.remove_all("one");
}

#[test]
fn creating_a_volume_again_with_other_options_changes_nothing() {
    require!(Docker, Sshfs);
    let world = World::start();
    let dir = world.create_sshfs("data");
    fs::write(dir.join("file"), "first").unwrap();
    let other = world.daemon.source("other");
    world.create("data", &["-o", &world.device(&other)]); // some engines refuse, some say nothing
    assert_eq!(world.engine.sh("data:/data", "cat /data/file"), "first");
    assert_eq!(world.inspect("data")["Status"]["options"]["device"], world.sshd.device(&dir));
    world.remove_all("none");
}

#[test]
fn an_engine_that_starts_before_the_plugin_has_its_volumes_once_the_plugin_is_there() {
    require!(Docker, Sshfs);
    let mut world = World::start();
    world.create_sshfs("data");
    world.engine.terminate();
    world.daemon.terminate();
    world.engine.start_again();
    world.daemon.start_again();
    assert_eq!(world.engine.sh("data:/data", "echo late >/data/file; cat /data/file"), "late");
    assert_eq!(world.inspect("data")["Labels"]["of"], "mine");
    world.remove_all("none");
}

#[test]
fn names_that_would_be_paths_are_refused_in_words() {
    require!(Docker, Sshfs);
    let world = World::start();
    let dir = world.daemon.source("data");
    let device = world.device(&dir);
    let long = "x".repeat(256);
    for name in ["../../etc", "/abs", "a/b c", "..", "a\nb", "-x", &long] {
        let refused = world.create(name, &["-o", &device, "--"]).err();
        assert!(
            refused.contains("bad volume name") && refused.contains("use letters"),
            "{name:?}: {refused}"
        );
        let words = refused.split("VolumeDriver.Create: ").nth(1).unwrap();
        assert_eq!(words.lines().count(), 1, "{refused}");
    }
    world.daemon.assert_no_trace();
}

#[test]
fn compose_makes_uses_and_removes_a_volume_with_driver_opts() {
    require!(Compose, Sshfs);
    let world = World::start();
    let dir = world.daemon.source("data");
    let file = world.engine.dir().write(
        "docker-compose.yml",
        format!(
            "version: '3.4'\n\
             services:\n\
             \x20 writer:\n\
             \x20   image: busybox\n\
             \x20   network_mode: none\n\
             \x20   volumes: ['nas:/nas']\n\
             \x20   command: [sh, -c, 'echo composed >/nas/file && sleep 1000000']\n\
             volumes:\n\
             \x20 nas:\n\
             \x20   driver: {}\n\
             \x20   driver_opts:\n\
             \x20     device: '{}'\n\
             \x20     o: '{}'\n",
            world.daemon.dir().name(),
            world.sshd.device(&dir),
            world.sshd.options()
        ),
    );
    world.engine.compose(&file, &["up", "-d"]).ok();
    wait_until("the service has written", || dir.join("file").exists());
    assert_eq!(world.daemon.names().len(), 1);
    world.engine.compose(&file, &["up", "-d"]).ok();
    world.engine.compose(&file, &["down", "-v", "-t", "0"]).ok();
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "composed\n");
    world.daemon.assert_no_trace();
}
