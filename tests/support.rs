//! What the tests share: real peers (sshd, dockerd, podman, a whole host), the daemon under test, and a look
//! at the machine (mounts, processes).
//!
//! Everything started here ends with its value, also when a test panics. What a killed run left behind is
//! swept by the next one; see [`Scratch`].
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_debug_implementations,
    reason = "each test file uses its part"
)]

mod daemon;
mod engine;
pub mod helpers;
mod host;
mod http;
mod image;
mod mounts;
mod need;
mod podman;
mod process;
mod scratch;
mod sshd;

pub use daemon::{Daemon, DaemonBuilder};
pub use engine::Engine;
pub use host::Host;
pub use http::{Connection, Plugin, Response};
pub use mounts::{Mount, is_mounted, mount_at, mountinfo, mountinfo_of, mounts_under};
pub use need::{Need, find_program, need};
pub use podman::Podman;
pub use process::{
    Background, Output, Signal, alive, descendants, processes, processes_with_env, run, run_for, signal,
};
pub use scratch::{Scratch, unmount_all};
pub use sshd::Sshd;

pub(crate) use need::require;

use std::time::{Duration, Instant};

/// The binary under test.
pub const EASYFUSE: &str = env!("CARGO_BIN_EXE_easyfuse");

/// Asks until `condition` holds; false when it did not within `limit`.
pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Like [`eventually`] with 20 seconds, and panics with `what` when it never came true.
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(eventually(Duration::from_secs(20), condition), "never came true: {what}");
}

/// A volume ID as dockerd makes them: 64 hex digits, the same for the same `n`.
pub fn mount_id(n: usize) -> String {
    format!("{n:064x}")
}
