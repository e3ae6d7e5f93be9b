//! What Docker and podman speak: the VolumeDriver protocol, JSON over HTTP/1.1
//! (<https://docs.docker.com/engine/extend/plugins_volume/>), and what the `easyfuse` command asks the daemon.

mod connection;
mod peer;
mod routes;
pub mod wire;

pub use self::connection::{Listener, serve};
pub use self::peer::Peer;
pub use self::routes::router;
