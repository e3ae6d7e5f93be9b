//! FUSE helpers that misbehave, as scripts for [`super::Daemon::helper`]. `mount -t fuse PATH#SOURCE TARGET`
//! calls them as `PATH SOURCE TARGET -o …`.

use std::time::Duration;

/// Never mounts and never returns.
pub fn hang() -> String {
    script("exec sleep 1000000")
}

/// [`hang`] that a polite signal does not end, nor its child.
pub fn stubborn() -> String {
    script("trap '' TERM INT HUP\nsleep 1000000 &\nwhile :; do wait; done")
}

/// Says `words` on standard error and fails with 3.
pub fn fail(words: &str) -> String {
    script(&format!("cat >&2 <<'WORDS'\n{words}\nWORDS\nexit 3"))
}

/// Ends well without having mounted anything.
pub fn pretend() -> String {
    script("exit 0")
}

/// Mounts SOURCE with bindfs, which goes to the background.
pub fn bindfs() -> String {
    script("exec bindfs \"$@\"")
}

/// Mounts SOURCE with bindfs after a while.
pub fn slow_bindfs(wait: Duration) -> String {
    script(&format!("sleep {}\nexec bindfs \"$@\"", wait.as_secs_f64()))
}

/// Mounts SOURCE with bindfs, but stays in the foreground for ever.
pub fn foreground_bindfs() -> String {
    script("exec bindfs -f \"$@\"")
}

/// Mounts SOURCE with bindfs, then complains and fails.
pub fn bindfs_then_fail() -> String {
    script("bindfs \"$@\"\necho 'mounted, but not happy' >&2\nexit 4")
}

/// Mounts SOURCE with bindfs, which is killed after a while: the mount stays and is dead.
pub fn dying_bindfs(life: Duration) -> String {
    script(&format!(
        "bindfs -f \"$@\" >/dev/null 2>&1 &\nfs=$!\n\
         (sleep {}; kill -9 $fs) >/dev/null 2>&1 &\n\
         until mountpoint -q \"$2\"; do kill -0 $fs || exit 1; sleep 0.01; done",
        life.as_secs_f64()
    ))
}

/// Behaves differently each time: of ten calls about seven mount with bindfs, one fails, one hangs, one
/// mounts and dies soon after.
pub fn random() -> String {
    script(
        "case $(($(od -An -N2 -tu2 /dev/urandom) % 10)) in\n\
         0) echo 'bad luck' >&2; exit 1 ;;\n\
         1) exec sleep 1000000 ;;\n\
         2) bindfs -f \"$@\" >/dev/null 2>&1 &\n\
            fs=$!\n\
            (sleep 0.3; kill -9 $fs) >/dev/null 2>&1 &\n\
            until mountpoint -q \"$2\"; do kill -0 $fs || exit 1; sleep 0.01; done ;;\n\
         *) exec bindfs \"$@\" ;;\n\
         esac",
    )
}

/// A shell script of this body.
pub fn script(body: &str) -> String {
    format!("#!/bin/sh\n{body}\n")
}

/// Mounts SOURCE with a bindfs that stays in the foreground, in the background: killing it leaves a dead mount.
pub fn foreground_in_background() -> String {
    script(
        "bindfs -f \"$@\" >/dev/null 2>&1 &\nfs=$!\n\
         until mountpoint -q \"$2\"; do kill -0 $fs || exit 1; sleep 0.01; done",
    )
}
