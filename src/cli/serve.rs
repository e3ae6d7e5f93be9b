//! `easyfuse serve`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use clap::builder::{BoolishValueParser, PossibleValuesParser, TypedValueParser};

use super::DEFAULT_SOCKET;
use crate::daemon::{self, Endpoints, Settings, logging};
use crate::volume::{Config, Policy};

const DEFAULT_STATE: &str = "/var/lib/easyfuse";
/// The port when only a host was given.
const DEFAULT_PORT: u16 = 8080;

#[derive(Debug, Args)]
#[command(after_help = "\
Without -s, -S, -b and -p it listens on the socket that Docker looks for.

Examples:
  easyfuse serve
  easyfuse serve --sock /run/docker/plugins/easyfuse.sock --mount-timeout 30s
  easyfuse serve --systemd                 (in a unit with a socket)
  easyfuse serve -d /run/easyfuse/mntdb.json   (takes over the volumes of the Python easyfuse)")]
pub(super) struct ServeArgs {
    /// Unix socket to listen on
    #[arg(short, long, env = "EASYFUSE_UNIX_SOCK", value_name = "PATH")]
    sock: Option<PathBuf>,
    /// Listen on the sockets that systemd passes, and on no other
    #[arg(short = 'S', long)]
    systemd: bool,
    /// Address to listen on over TCP, without any authentication: whoever reaches it is root on this host
    #[arg(short = 'b', long, env = "EASYFUSE_SOCK_HOST", value_name = "HOST")]
    host: Option<String>,
    /// Port to listen on over TCP, on 127.0.0.1 unless --host says otherwise; without any authentication
    #[arg(short, long, env = "EASYFUSE_SOCK_PORT", value_name = "PORT")]
    port: Option<u16>,
    /// Directory of the mount points
    #[arg(
        short,
        long,
        env = "EASYFUSE_MOUNT_PATH",
        default_value = "/run/easyfuse/mntpt",
        value_name = "DIR"
    )]
    mntpt: PathBuf,
    /// State directory, or a mntdb.json of the Python easyfuse whose volumes are taken over, once; its directory is then the
    /// state directory, or /var/lib/easyfuse if it is in /run, which a reboot empties
    #[arg(short = 'd', long, env = "EASYFUSE_MOUNT_DB", default_value = DEFAULT_STATE, value_name = "DIR")]
    mntdb: PathBuf,
    /// How long a helper may take to mount; Docker waits 2 minutes, podman gets its answer after 4 s at most
    #[arg(long, env = "EASYFUSE_MOUNT_TIMEOUT", default_value = "100s", value_parser = duration, value_name = "TIME")]
    mount_timeout: Duration,
    /// How long a busy filesystem is tried to unmount; Docker waits 1 minute
    #[arg(long, env = "EASYFUSE_UNMOUNT_TIMEOUT", default_value = "30s", value_parser = duration, value_name = "TIME")]
    unmount_timeout: Duration,
    /// How long requests in flight may go on after SIGTERM
    #[arg(long, env = "EASYFUSE_DRAIN_TIMEOUT", default_value = "10s", value_parser = duration, value_name = "TIME")]
    drain_timeout: Duration,
    /// How long the references of an engine that crashed are kept when no container holds the volume
    #[arg(long, env = "EASYFUSE_GRACE", default_value = "60s", value_parser = duration, value_name = "TIME")]
    grace: Duration,
    /// Let volumes name the commands that mount and unmount them, which run as root
    #[arg(long, env = "EASYFUSE_ALLOW_MOUNT_COMMAND", value_parser = BoolishValueParser::new())]
    allow_mount_command: bool,
    /// What to log
    #[arg(long, env = "EASYFUSE_LOG_LEVEL", default_value = "info", value_parser = level(), value_name = "LEVEL")]
    log_level: log::LevelFilter,
}

pub(super) fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let level = args.log_level;
    let settings = match settings(args) {
        Err(error) if has_systemds_sockets() => return wait_for_mending(&error),
        other => other?,
    };
    start(level, daemon::run(settings))
}

/// Whether systemd has connections for this process, so that an engine may be waiting for an answer.
pub(super) fn has_systemds_sockets() -> bool {
    std::env::var_os("LISTEN_FDS").is_some()
        && std::env::args().any(|word| word == "--systemd" || word == "-S")
}

/// Settings that make no sense must not hang dockerd, which waits for its first answer for ever.
pub(super) fn wait_for_mending(error: &anyhow::Error) -> anyhow::Result<ExitCode> {
    let reason = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
    start(log::LevelFilter::Info, daemon::wait_for_mending(reason))
}

fn start(
    level: log::LevelFilter,
    daemon: impl Future<Output = Result<(), daemon::Error>>,
) -> anyhow::Result<ExitCode> {
    logging::start(level).context("could not start logging")?;
    // Helpers start where the daemon is, and must keep nobody's filesystem busy. Nothing relative is left in the settings.
    std::env::set_current_dir("/").context("could not go to /")?;
    // One thread serves all requests, which saves them the way from thread to thread; whatever may block is done in the pool,
    // or by a child.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(64)
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    let outcome = runtime.block_on(daemon);
    // What still blocks must not hold up the end.
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS).map_err(Into::into)
}

fn settings(args: ServeArgs) -> anyhow::Result<Settings> {
    let endpoints = endpoints(&args)?;
    let (state, import) = state_and_import(&args.mntdb);
    let import = import.map(std::path::absolute).transpose().context("could not resolve --mntdb")?;
    for dir in [&state, &args.mntpt] {
        if !dir.is_absolute() {
            bail!("{} is a relative path; give --mntpt and --mntdb paths that start with /", dir.display());
        }
    }
    let volumes = Config {
        state,
        import,
        mount_dir: args.mntpt,
        mount_timeout: args.mount_timeout,
        unmount_timeout: args.unmount_timeout,
        grace: args.grace,
        policy: Policy { allow_mount_command: args.allow_mount_command },
    };
    Ok(Settings { endpoints, volumes, drain_timeout: args.drain_timeout })
}

fn endpoints(args: &ServeArgs) -> anyhow::Result<Endpoints> {
    if args.systemd {
        // As the Python version has it: the other flags and variables mean nothing then.
        return Ok(Endpoints { systemd: true, ..Endpoints::default() });
    }
    let tcp = match (args.host.as_deref().filter(|host| !host.is_empty()), args.port) {
        (None, None) => Vec::new(),
        (None, Some(port)) => vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)],
        (Some(host), port) => resolve(host, port.unwrap_or(DEFAULT_PORT))?,
    };
    let unix = args.sock.clone().filter(|path| !path.as_os_str().is_empty());
    let unix = if unix.is_none() && tcp.is_empty() { Some(PathBuf::from(DEFAULT_SOCKET)) } else { unix };
    let unix = unix.map(std::path::absolute).transpose().context("could not resolve --sock")?;
    Ok(Endpoints { systemd: false, unix, tcp })
}

fn resolve(host: &str, port: u16) -> anyhow::Result<Vec<SocketAddr>> {
    let found = (host, port).to_socket_addrs().with_context(|| format!("no address for --host {host}"))?;
    Ok(found.collect())
}

/// What `--mntdb` means: a state directory, or a database of the Python version.
fn state_and_import(path: &Path) -> (PathBuf, Option<PathBuf>) {
    let is_database =
        path.is_file() || !path.is_dir() && path.extension().is_some_and(|extension| extension == "json");
    if !is_database {
        return (path.to_owned(), None);
    }
    let volatile = ["/run", "/var/run"].iter().any(|dir| path.starts_with(dir));
    let parent = path.parent().filter(|parent| !volatile && !parent.as_os_str().is_empty());
    (parent.unwrap_or(Path::new(DEFAULT_STATE)).to_owned(), Some(path.to_owned()))
}

fn level() -> impl TypedValueParser<Value = log::LevelFilter> {
    let words = ["off", "error", "warn", "info", "debug", "trace"];
    PossibleValuesParser::new(words).map(|word| word.parse().unwrap_or(log::LevelFilter::Info))
}

/// `100s`, `2m`, or a plain number of seconds; not nothing.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 100s or 2m"))?
        }
    };
    if parsed.is_zero() || parsed > Duration::from_secs(24 * 3600) {
        return Err("it has to be more than nothing and at most a day; write it as 100s or 2m".to_owned());
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn settings_of(words: &[&str]) -> anyhow::Result<Settings> {
        let words = ["serve"].iter().chain(words);
        settings(Only::try_parse_from(words)?.args)
    }

    #[test]
    fn without_a_listener_it_is_dockers_socket_and_nothing_else() {
        let endpoints = settings_of(&[]).unwrap().endpoints;
        assert_eq!(endpoints, Endpoints { systemd: false, unix: Some(DEFAULT_SOCKET.into()), tcp: vec![] });
    }

    #[test]
    fn tcp_is_loopback_unless_told_otherwise() {
        let tcp = |words: &[&str]| settings_of(words).unwrap().endpoints.tcp;
        assert_eq!(tcp(&["-p", "99"]), ["127.0.0.1:99".parse().unwrap()]);
        assert_eq!(tcp(&["-b", "0.0.0.0"]), ["0.0.0.0:8080".parse().unwrap()]);
        assert_eq!(settings_of(&["-p", "99"]).unwrap().endpoints.unix, None);
    }

    #[test]
    fn systemd_rules_out_the_rest() {
        let endpoints = settings_of(&["-S", "-s", "/x", "-p", "1"]).unwrap().endpoints;
        assert_eq!(endpoints, Endpoints { systemd: true, ..Endpoints::default() });
    }

    #[test]
    fn a_python_database_names_its_directory_unless_a_reboot_would_empty_it() {
        let of = |path: &str| state_and_import(Path::new(path));
        assert_eq!(of("/srv/e"), ("/srv/e".into(), None));
        assert_eq!(of("/srv/mntdb.json"), ("/srv".into(), Some("/srv/mntdb.json".into())));
        assert_eq!(
            of("/run/easyfuse/mntdb.json"),
            (DEFAULT_STATE.into(), Some("/run/easyfuse/mntdb.json".into()))
        );
    }

    #[test]
    fn times() {
        assert_eq!(duration("4"), Ok(Duration::from_secs(4)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["0", "x", "-1", "2d"] {
            assert!(duration(bad).unwrap_err().contains("write it as"), "{bad}");
        }
    }

    #[test]
    fn relative_directories_are_refused() {
        assert!(settings_of(&["-m", "mnt"]).unwrap_err().to_string().contains("relative"));
    }
}
