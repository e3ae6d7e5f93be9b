//! Views from outside: each module is one of them. They run the real program against real peers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test may say so when something is not as it should be, and may wait"
)]

mod chaos;
mod cli;
mod docker;
mod mount;
mod podman;
mod protocol;
mod support;
mod systemd;
