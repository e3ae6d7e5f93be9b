//! What a person types: `easyfuse …`.

mod client;
mod doctor;
mod output;
mod serve;
mod systemd;
mod volume;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

/// The socket that Docker looks for.
const DEFAULT_SOCKET: &str = "/run/docker/plugins/easyfuse.sock";

/// Docker volumes on any FUSE filesystem that this host can mount.
#[derive(Debug, Parser)]
#[command(
    name = "easyfuse",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  easyfuse systemd install --enable
  docker volume create -d easyfuse -o device=sshfs#user@host:/path data
  docker run --rm -v data:/data busybox ls /data
  easyfuse volume ls
  easyfuse doctor"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the volume plugin's daemon
    Serve(Box<serve::ServeArgs>),
    /// Look at volumes, and mend them
    Volume(volume::VolumeArgs),
    /// Check this host, and say what to type where something is wrong
    Doctor(doctor::DoctorArgs),
    /// Install or remove the systemd units
    Systemd(systemd::SystemdArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  easyfuse completions bash > /etc/bash_completion.d/easyfuse")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(after_help = "Example:\n  easyfuse man | man -l -")]
    Man,
    /// Ask filesystems whether they answer (the daemon's own)
    #[command(hide = true)]
    Probe { paths: Vec<PathBuf> },
}

/// Where the daemon is.
#[derive(Debug, Args)]
struct Connection {
    /// The daemon's socket
    #[arg(
        short,
        long,
        global = true,
        env = "EASYFUSE_UNIX_SOCK",
        default_value = DEFAULT_SOCKET,
        value_name = "PATH"
    )]
    sock: PathBuf,
}

/// Run the command line. The exit status is 0, 1 for a failure, or 2 for a usage error.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => run(cli.command),
        Err(usage) if usage.use_stderr() && serve::has_systemds_sockets() => {
            serve::wait_for_mending(&usage.into())
        }
        Err(usage) => {
            _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    outcome.unwrap_or_else(|error| {
        _ = writeln!(std::io::stderr(), "easyfuse: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(*args),
        Command::Volume(args) => volume::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Systemd(args) => systemd::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut shown(), "easyfuse", &mut script);
            output::print(&script)
        }
        Command::Man => output::print(&manual()?),
        Command::Probe { paths } => {
            crate::mount::probe::serve(paths);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The command line without what is hidden, which completions would offer all the same.
fn shown() -> clap::Command {
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned();
    clap::Command::new("easyfuse").version(env!("CARGO_PKG_VERSION")).subcommands(shown)
}

/// The manual page, with a section for each subcommand's options.
fn manual() -> std::io::Result<Vec<u8>> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let nested = sub.get_subcommands().filter(|sub| sub.get_name() != "help");
        for sub in std::iter::once(sub).chain(nested) {
            let title = sub.get_display_name().unwrap_or_else(|| sub.get_name()).replace('-', " ");
            writeln!(page, ".SH \"{}\"", title.to_uppercase())?;
            let man = clap_mangen::Man::new(sub.clone());
            man.render_description_section(&mut page)?;
            man.render_options_section(&mut page)?;
            man.render_extra_section(&mut page)?;
        }
    }
    Ok(page)
}

/// A runtime for commands that ask the daemon something.
fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_manual_has_every_option() {
        let page = String::from_utf8(manual().unwrap()).unwrap().replace("\\-", "-");
        for option in ["--mount-timeout", "--allow-mount-command", "EASYFUSE_MOUNT_DB", "--enable", "remount"]
        {
            assert!(page.contains(option), "{option}");
        }
    }
}
