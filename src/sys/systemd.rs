//! Whether systemd runs this host.

use std::path::Path;

/// Whether systemd is PID 1 here (sd_booted(3)).
#[must_use]
pub fn is_init() -> bool {
    Path::new("/run/systemd/system").is_dir()
}
