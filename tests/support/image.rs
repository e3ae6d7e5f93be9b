//! An image without a registry.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use super::need::find_program;
use super::run;
use super::scratch::Scratch;

/// A tar of a root file system that holds busybox (Debian's static one) under all its names.
pub fn busybox(scratch: &Scratch) -> PathBuf {
    let tar = scratch.join("busybox.tar");
    if tar.exists() {
        return tar;
    }
    let (root, bin) = (scratch.mkdir("busybox"), scratch.mkdir("busybox/bin"));
    scratch.mkdir("busybox/tmp");
    let program = find_program("busybox").expect("busybox");
    std::fs::copy(&program, bin.join("busybox")).unwrap();
    for name in run(Command::new(program).arg("--list")).ok().lines().filter(|name| *name != "busybox") {
        symlink("busybox", bin.join(name)).unwrap();
    }
    run(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&tar).arg(".")).ok();
    tar
}
