//! Who is at the other end of a connection.

use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::sys::process::ProcessId;
use crate::volume::Engine;

/// The other end of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    /// Its process; unknown over TCP, and from a pid namespace that can't be seen from here.
    pub engine: Option<Engine>,
    /// Whether it came over TCP, where a browser may send requests too.
    pub over_tcp: bool,
}

impl Peer {
    /// The peer of a unix socket, from its credentials.
    pub fn of_unix(socket: &impl AsFd) -> Self {
        let credentials = getsockopt(socket, PeerCredentials).ok();
        let pid =
            credentials.and_then(|credentials| u32::try_from(credentials.pid()).ok()).filter(|pid| *pid != 0);
        // One that has ended already is an engine that is gone, and not one that is unknown.
        let identify = |pid| ProcessId::of(pid).unwrap_or(ProcessId { pid, start: 0 });
        Self { engine: pid.map(identify), over_tcp: false }
    }

    /// The peer of a TCP socket.
    #[must_use]
    pub fn over_tcp() -> Self {
        Self { engine: None, over_tcp: true }
    }
}
