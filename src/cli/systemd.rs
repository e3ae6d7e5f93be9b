//! `easyfuse systemd`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use super::output;

const SOCKET: &str = include_str!("../../systemd/easyfuse.socket");
const GLOBAL: &str = include_str!("../../systemd/easyfuse.service");
const LOCAL: &str = include_str!("../../systemd/easyfuse.service.local");
/// Where a global installation has the program.
const GLOBAL_PROGRAM: &str = "/usr/local/bin/easyfuse";
/// What stands for the program in the local unit.
const PROGRAM: &str = "@EASYFUSE@";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  easyfuse systemd install --enable           (copies this program to /usr/local/bin first)
  easyfuse systemd install local --enable     (runs this program from where it is)
  easyfuse systemd uninstall")]
pub(super) struct SystemdArgs {
    #[command(subcommand)]
    command: SystemdCommand,
}

#[derive(Debug, Subcommand)]
enum SystemdCommand {
    /// Write easyfuse.socket and easyfuse.service
    #[command(after_help = "\
Examples:
  easyfuse systemd install --enable
  easyfuse systemd install local --enable
  easyfuse systemd install local --path /run/systemd/system   (until the next reboot)")]
    Install {
        /// Whether the program runs from /usr/local/bin, or from where it is now
        #[arg(value_enum, default_value = "global")]
        kind: InstallKind,
        /// Directory of the units
        #[arg(long, default_value = "/etc/systemd/system", value_name = "DIR")]
        path: PathBuf,
        /// Also reload systemd, and enable and start the socket
        #[arg(short, long)]
        enable: bool,
    },
    /// Stop and remove the units; volumes, their mounts and the program stay
    #[command(after_help = "Example:\n  easyfuse systemd uninstall")]
    Uninstall {
        /// Directory of the units
        #[arg(long, default_value = "/etc/systemd/system", value_name = "DIR")]
        path: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum InstallKind {
    /// From /usr/local/bin
    Global,
    /// From where it is now, as after `cargo build`
    Local,
}

pub(super) fn run(args: SystemdArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        SystemdCommand::Install { kind, path, enable } => install(kind, &path, enable),
        SystemdCommand::Uninstall { path } => uninstall(&path),
    }
}

fn install(kind: InstallKind, dir: &Path, enable: bool) -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe().context("could not find this program's own path")?;
    let mut lines = Vec::new();
    let service = match kind {
        InstallKind::Global => {
            if own != Path::new(GLOBAL_PROGRAM) {
                copy_program(&own)?;
                lines.push(format!("copied {} to {GLOBAL_PROGRAM}", own.display()));
            }
            GLOBAL.to_owned()
        }
        InstallKind::Local => {
            let program = own.to_str().context("this program's path is not UTF-8")?;
            LOCAL.replace(PROGRAM, &escape(program)?)
        }
    };
    fs::create_dir_all(dir).with_context(|| format!("could not make {}", dir.display()))?;
    for (name, text) in [("easyfuse.socket", SOCKET), ("easyfuse.service", &service)] {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
        lines.push(format!("wrote {}", path.display()));
    }
    if enable {
        systemctl(&["daemon-reload"])?;
        systemctl(&["enable", "--now", "easyfuse.socket"])?;
        // A daemon that runs already goes on with the new program; its mounts stay.
        systemctl(&["try-restart", "easyfuse.service"])?;
        lines.push(
            "easyfuse.socket is enabled; `docker volume create -d easyfuse …` starts the service".to_owned(),
        );
    } else {
        lines.push("now: systemctl daemon-reload && systemctl enable --now easyfuse.socket".to_owned());
    }
    output::print_text(&lines.join("\n"))
}

/// Put the program in its place in one step, also while the old one runs.
fn copy_program(own: &Path) -> anyhow::Result<()> {
    let temporary = format!("{GLOBAL_PROGRAM}.new");
    let copied = fs::copy(own, &temporary).and_then(|_| fs::rename(&temporary, GLOBAL_PROGRAM));
    copied.with_context(|| format!("could not copy {} to {GLOBAL_PROGRAM}; try sudo", own.display()))
}

fn uninstall(dir: &Path) -> anyhow::Result<ExitCode> {
    let units = ["easyfuse.socket", "easyfuse.service"];
    let present: Vec<PathBuf> =
        units.iter().map(|unit| dir.join(unit)).filter(|path| path.exists()).collect();
    if present.is_empty() {
        bail!("no units of easyfuse in {}; give --path the directory they were installed to", dir.display());
    }
    let loaded = crate::sys::systemd::is_init() && is_loaded_from(dir);
    if loaded {
        systemctl(&["disable", "--now", "easyfuse.socket"])?;
        systemctl(&["stop", "easyfuse.service"])?;
    }
    for path in &present {
        fs::remove_file(path).with_context(|| format!("could not remove {}", path.display()))?;
    }
    if loaded {
        systemctl(&["daemon-reload"])?;
    }
    output::print_text("removed the units; volumes in /var/lib/easyfuse and what is mounted stay as they are")
}

/// Whether systemd has its easyfuse.socket from `dir`, and not from another directory whose units are to stay.
fn is_loaded_from(dir: &Path) -> bool {
    let show = ["show", "--property=FragmentPath", "--value", "easyfuse.socket"];
    let output = std::process::Command::new("systemctl").args(show).output();
    let fragment =
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    Path::new(&fragment).canonicalize().ok() == dir.join("easyfuse.socket").canonicalize().ok()
}

fn systemctl(words: &[&str]) -> anyhow::Result<()> {
    let status = std::process::Command::new("systemctl").args(words).status();
    let status = status.context("could not run systemctl; does systemd run this host?")?;
    if !status.success() {
        bail!("`systemctl {}` failed ({status})", words.join(" "));
    }
    Ok(())
}

/// The program's path between the double quotes of ExecStart=. systemd takes no quote and no backslash in a program's
/// path, however they are escaped, and expands only `%` in it (systemd.service(5), "Command lines").
fn escape(program: &str) -> anyhow::Result<String> {
    if program.contains(['"', '\\', '\'']) || program.contains(char::is_control) {
        bail!("systemd can't run a program at {program:?}; move it to a path without quotes and backslashes");
    }
    Ok(program.replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_reach_systemd_as_they_are() {
        assert_eq!(escape("/usr/bin/easyfuse").unwrap(), "/usr/bin/easyfuse");
        assert_eq!(escape("/a b/100%/$x").unwrap(), "/a b/100%%/$x");
        assert!(escape("/a\"b").unwrap_err().to_string().contains("move it"));
        assert!(LOCAL.contains("ExecStart=\"@EASYFUSE@\" serve"));
    }

    #[test]
    fn the_units_keep_mounts_and_socket_out_of_the_services_life() {
        for service in [GLOBAL, LOCAL] {
            for line in ["Type=notify", "KillMode=process", "Restart=always"] {
                assert!(service.lines().any(|have| have == line), "{line}");
            }
            let makes_a_namespace = [
                "Private",
                "Protect",
                "ReadOnly",
                "ReadWrite",
                "Inaccessible",
                "BindPaths",
                "RuntimeDirectory=",
            ];
            assert!(!service.lines().any(|line| makes_a_namespace.iter().any(|sign| line.starts_with(sign))));
        }
        assert_eq!(
            GLOBAL.replace(GLOBAL_PROGRAM, PROGRAM).matches(PROGRAM).count(),
            LOCAL.matches(PROGRAM).count()
        );
        assert!(
            SOCKET.lines().any(|line| line == "SocketMode=0600")
                && !SOCKET.lines().any(|line| line.starts_with("PartOf"))
        );
    }
}
