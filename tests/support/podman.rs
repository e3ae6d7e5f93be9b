//! A podman of the test's own.

use std::path::PathBuf;
use std::time::Duration;

use super::process::{Output, run_for};
use super::scratch::Scratch;
use super::{Daemon, image};

/// podman with storage and configuration of its own, an image `busybox`, and one volume plugin.
pub struct Podman {
    scratch: Scratch,
    config: PathBuf,
}

impl Podman {
    /// The name of the plugin's driver here.
    pub const DRIVER: &str = "easyfuse";

    /// Sets one up that knows the daemon as the driver `easyfuse`; `timeout` is its patience with plugins in
    /// seconds, 5 where none is given.
    #[track_caller]
    pub fn new(daemon: &Daemon, timeout: Option<u32>) -> Self {
        let scratch = Scratch::new();
        // Limits no higher than ours: raising them needs CAP_SYS_RESOURCE, which root in a container may
        // lack. Locks in files: those in /dev/shm are one pool for all podmans of the machine.
        let config = format!(
            "[containers]\n\
             default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             netns = \"none\"\n\
             [engine]\n\
             cgroup_manager = \"cgroupfs\"\n\
             events_logger = \"file\"\n\
             lock_type = \"file\"\n\
             {}\n\
             [engine.volume_plugins]\n\
             {} = \"{}\"\n",
            timeout.map(|seconds| format!("volume_plugin_timeout = {seconds}")).unwrap_or_default(),
            Self::DRIVER,
            daemon.sock().display()
        );
        let config = scratch.write("containers.conf", config);
        let podman = Self { scratch, config };
        let tar = image::busybox(&podman.scratch);
        podman.podman(&["import", "-q", tar.to_str().unwrap(), "busybox"]).ok();
        podman
    }

    /// `podman ARGS`, at most two minutes. `run` and `create` get a control group that is removed with this.
    #[track_caller]
    pub fn podman(&self, args: &[&str]) -> Output {
        let mut command = self.scratch.command("podman");
        command.env("CONTAINERS_CONF", &self.config).env_remove("XDG_RUNTIME_DIR");
        for (flag, dir) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(self.scratch.join(dir));
        }
        let (verb, rest) = args.split_first().expect("a podman command");
        command.args(["--storage-driver", "overlay", verb]);
        if matches!(*verb, "run" | "create") {
            command.arg(format!("--cgroup-parent=/{}", self.scratch.name()));
        }
        run_for(Duration::from_mins(2), command.args(rest))
    }

    /// `podman run --rm -v VOLUME busybox sh -c SCRIPT`, its output; `volume` is `NAME:/PATH`.
    #[track_caller]
    pub fn sh(&self, volume: &str, script: &str) -> String {
        self.podman(&["run", "--rm", "-v", volume, "busybox", "sh", "-c", script]).ok()
    }
}
