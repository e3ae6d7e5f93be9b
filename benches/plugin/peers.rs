//! The peers: the Python original in a venv that is made for it, and rclone from the system.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use easyfuse::sys::program;

use crate::report::say;

/// What the venv gets. The original does not pin what it needs.
const PACKAGES: [&str; 2] = ["docker-volume-easyfuse==0.2.1", "aiohttp"];

/// The programs to compare with; those that are not there are not measured.
#[derive(Debug)]
pub(crate) struct Peers {
    /// The venv's interpreter.
    pub(crate) python: Option<PathBuf>,
    pub(crate) rclone: Option<PathBuf>,
}

impl Peers {
    pub(crate) fn find() -> Self {
        let python = venv().inspect_err(|error| say(&format!("no Python original: {error:#}"))).ok();
        let rclone = program::find("rclone");
        if rclone.is_none() {
            say("no rclone on this machine (`apt install rclone`)");
        }
        Self { python, rclone }
    }
}

/// The interpreter of a venv under the target directory that has the original; made if it is not there.
fn venv() -> Result<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-peer");
    let python = dir.join("bin/python");
    if run(Command::new(&python).args(["-c", "import easyfuse, aiohttp"])).is_ok() {
        return Ok(python);
    }
    say("making a venv for the Python original ...");
    run(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
