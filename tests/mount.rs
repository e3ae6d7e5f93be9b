//! What the kernel and the disk have afterwards: mounts, directories, processes, records.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::*;

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
    assert!(!is_mounted(&target) && !target.exists());
    daemon.remove("data").unwrap();
    assert!(daemon.names().is_empty());
    wait_until("its helper ends", || daemon.helpers().is_empty());
}
