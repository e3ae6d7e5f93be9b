//! `easyfuse doctor`: what is wrong with this host, and what to type.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::Client;
use super::{Connection, output, small_runtime};
use crate::plugin::wire::{Daemon, Volume};
use crate::sys::{file_flags, mountinfo, program, systemd};

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(after_help = "\
The exit status is 0 when nothing fails, 1 otherwise; a warning is no failure.

Examples:
  easyfuse doctor
  easyfuse doctor --json | jq -r '.[] | select(.result == \"fail\") | .fix'")]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    result: Outcome,
    found: String,
    /// What to type; empty where there is nothing to do.
    fix: String,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, result: Outcome::Ok, found: found.into(), fix: String::new() }
    }

    fn warn(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, result: Outcome::Warn, found: found.into(), fix: fix.into() }
    }

    fn fail(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, result: Outcome::Fail, found: found.into(), fix: fix.into() }
    }
}

pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let socket = &args.connection.sock;
    let (daemon, volumes) = small_runtime()?.block_on(ask(socket));
    let mut findings = vec![fuse_device(), fuse_conf(), mount_helper()];
    findings.extend(helpers());
    findings.push(check_socket(socket, &daemon));
    findings.push(unit());
    findings.extend(engines());
    if let Ok(daemon) = &daemon {
        findings.push(propagation(Path::new(&daemon.mount_dir)));
        findings.push(guard(Path::new(&daemon.mount_dir)));
        findings.extend(volumes.iter().flatten().map(broken).filter(|finding| finding.result != Outcome::Ok));
        if let Some(volumes) = &volumes {
            findings.push(strangers(Path::new(&daemon.mount_dir), volumes));
        }
    }
    let failed = findings.iter().any(|finding| finding.result == Outcome::Fail);
    if args.json {
        output::print_json(&findings)?
    } else {
        output::print_text(&report(&findings))?
    };
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn ask(socket: &Path) -> (anyhow::Result<Daemon>, Option<Vec<Volume>>) {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Volumes {
        volumes: Vec<Volume>,
    }
    let client = Client::new(socket);
    let daemon = client.call("/Easyfuse.Daemon", &json!({}), PATIENCE).await;
    if daemon.is_err() {
        return (daemon, None);
    }
    let volumes: anyhow::Result<Volumes> = client.call("/Easyfuse.Volumes", &json!({}), PATIENCE).await;
    (daemon, volumes.ok().map(|volumes| volumes.volumes))
}

fn report(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let word = match finding.result {
            Outcome::Ok => "ok  ",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
        };
        _ = writeln!(text, "{word}  {}: {}", finding.check, finding.found);
        if !finding.fix.is_empty() {
            _ = writeln!(text, "      → {}", finding.fix);
        }
    }
    text
}

fn fuse_device() -> Finding {
    const CHECK: &str = "/dev/fuse";
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Finding::ok(CHECK, "can be opened"),
        Err(error) => Finding::fail(CHECK, error.to_string(), "modprobe fuse; and run easyfuse as root"),
    }
}

fn fuse_conf() -> Finding {
    const CHECK: &str = "/etc/fuse.conf";
    let text = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if text.lines().any(|line| line.trim() == "user_allow_other") {
        return Finding::ok(CHECK, "user_allow_other is set");
    }
    Finding::warn(
        CHECK,
        "user_allow_other is not set; helpers that do not run as root can't use the option allow_other",
        "echo user_allow_other >> /etc/fuse.conf   (only if a helper runs as another user)",
    )
}

fn mount_helper() -> Finding {
    const CHECK: &str = "mount -t fuse";
    match program::find("mount.fuse") {
        Some(path) => Finding::ok(CHECK, format!("uses {}", path.display())),
        None => Finding::fail(CHECK, "there is no mount.fuse", "apt install fuse3"),
    }
}

fn helpers() -> Vec<Finding> {
    const CHECK: &str = "helpers";
    let known = ["sshfs", "rclone", "bindfs", "s3fs", "davfs2", "fuse-overlayfs", "squashfuse", "gocryptfs"];
    let found: Vec<&str> = known.into_iter().filter(|name| program::find(name).is_some()).collect();
    if found.is_empty() {
        return vec![Finding::warn(CHECK, "none of the usual ones is installed", "apt install sshfs")];
    }
    vec![Finding::ok(CHECK, found.join(", "))]
}

fn check_socket(socket: &Path, daemon: &anyhow::Result<Daemon>) -> Finding {
    const CHECK: &str = "daemon";
    match daemon {
        Ok(daemon) => {
            let mode = fs::metadata(socket).map(|data| data.permissions().mode() & 0o777).unwrap_or(0o600);
            if mode & 0o066 != 0 {
                let found = format!("{} may be used by others than root (mode {mode:o})", socket.display());
                return Finding::fail(CHECK, found, format!("chmod 600 {}", socket.display()));
            }
            let found = format!("version {}, pid {}, on {}", daemon.version, daemon.pid, socket.display());
            if daemon.version == env!("CARGO_PKG_VERSION") {
                return Finding::ok(CHECK, found);
            }
            Finding::warn(
                CHECK,
                format!("{found}; this program is another version"),
                "systemctl restart easyfuse",
            )
        }
        Err(error) => Finding::fail(
            CHECK,
            format!("{error:#}"),
            "systemctl start easyfuse.socket   (or: easyfuse serve)",
        ),
    }
}

fn unit() -> Finding {
    const CHECK: &str = "systemd";
    if !systemd::is_init() {
        return Finding::warn(
            CHECK,
            "systemd does not run this host; helpers run without scopes of their own",
            "start `easyfuse serve` before dockerd, from whatever starts services here",
        );
    }
    let ask = |verb: &str| {
        let output = Command::new("systemctl").args([verb, "easyfuse.socket"]).stderr(Stdio::null()).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    match (ask("is-enabled").as_str(), ask("is-active").as_str()) {
        ("enabled", "active") => Finding::ok(CHECK, "easyfuse.socket is enabled and active"),
        ("enabled", state) => {
            Finding::fail(CHECK, format!("easyfuse.socket is {state}"), "systemctl start easyfuse.socket")
        }
        (_, "active") => Finding::warn(
            CHECK,
            "easyfuse.socket is active, but will not be after a reboot",
            "systemctl enable easyfuse.socket",
        ),
        _ => Finding::warn(
            CHECK,
            "easyfuse.socket is not installed or not enabled",
            "easyfuse systemd install --enable",
        ),
    }
}

fn engines() -> Vec<Finding> {
    const CHECK: &str = "engine";
    let mut findings = Vec::new();
    if program::find("docker").is_some() {
        findings.push(match bounded("docker", &["version", "--format", "{{.Server.Version}}"]) {
            Ok(version) => Finding::ok(CHECK, format!("dockerd {version} answers")),
            Err(error) => {
                Finding::warn(CHECK, format!("dockerd does not answer: {error}"), "systemctl start docker")
            }
        });
    }
    if program::find("podman").is_some() {
        findings.push(podman());
    }
    if findings.is_empty() {
        findings.push(Finding::warn(
            CHECK,
            "neither docker nor podman is installed",
            "apt install docker.io",
        ));
    }
    findings
}

/// Podman looks for plugins only where its configuration says.
fn podman() -> Finding {
    const CHECK: &str = "engine";
    let files = ["/etc/containers/containers.conf", "/usr/share/containers/containers.conf"];
    let drop_ins = fs::read_dir("/etc/containers/containers.conf.d").into_iter().flatten().flatten();
    let paths = files.iter().map(Into::into).chain(drop_ins.map(|entry| entry.path()));
    let known = paths.filter_map(|path| fs::read_to_string(path).ok()).any(|text| {
        text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains("easyfuse"))
    });
    if known {
        return Finding::ok(CHECK, "podman knows the plugin");
    }
    Finding::warn(
        CHECK,
        "podman is installed, but its configuration does not name the plugin",
        "mkdir -p /etc/containers/containers.conf.d && printf '[engine.volume_plugins]\\neasyfuse = \"%s\"\\n' \
         /run/docker/plugins/easyfuse.sock > /etc/containers/containers.conf.d/easyfuse.conf",
    )
}

/// Run a program that may hang, and give its first line.
fn bounded(name: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("timeout").arg("5").arg(name).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    let first = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned();
    if output.status.success() { Ok(first(&output.stdout)) } else { Err(first(&output.stderr)) }
}

/// Without shared mounts, containers do not see a filesystem that replaces a dead one.
fn propagation(mount_dir: &Path) -> Finding {
    const CHECK: &str = "propagation";
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let all: Vec<_> =
        mountinfo::parse(&table).filter(|entry| mount_dir.starts_with(&entry.mount_point)).collect();
    let Some(below) = all.iter().max_by_key(|entry| entry.mount_point.as_os_str().len()) else {
        return Finding::warn(CHECK, "the mount table can't be read", "");
    };
    let place = below.mount_point.display();
    if below.shared {
        return Finding::ok(
            CHECK,
            format!("{place} is shared: running containers see a remounted filesystem"),
        );
    }
    Finding::warn(
        CHECK,
        format!("{place} is private: running containers will not see a filesystem that replaces a dead one"),
        format!("mount --make-rshared {place}"),
    )
}

/// What keeps containers from writing to the host's disk where a filesystem should be.
fn guard(mount_dir: &Path) -> Finding {
    const CHECK: &str = "bare directories";
    if file_flags::supported(mount_dir) {
        return Finding::ok(CHECK, "can be made immutable: not even root writes below a missing mount");
    }
    Finding::warn(
        CHECK,
        format!(
            "the filesystem of {} has no immutable flag; mode 000 does not hold root back",
            mount_dir.display()
        ),
        "run Linux 6.0 or newer, or set EASYFUSE_MOUNT_PATH to a directory on ext4 or xfs",
    )
}

fn broken(volume: &Volume) -> Finding {
    const CHECK: &str = "volume";
    let field = |key: &str| volume.status.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
    if field("state") != "broken" {
        return Finding::ok(CHECK, "");
    }
    let found = format!("{} is broken: {}", volume.name, field("reason"));
    let fix = match field("record") {
        "" => format!("easyfuse volume remount {}", volume.name),
        record => format!("mend {record}, rename it to end in .json, and restart easyfuse"),
    };
    Finding::fail(CHECK, found, fix)
}

/// Mounts below the mount directory that belong to no volume.
fn strangers(mount_dir: &Path, volumes: &[Volume]) -> Finding {
    const CHECK: &str = "stale mounts";
    let table = mountinfo::under(mount_dir).unwrap_or_default();
    let strangers: Vec<String> = table
        .iter()
        .filter(|entry| entry.mount_point != mount_dir)
        .filter(|entry| !volumes.iter().any(|volume| mount_dir.join(&volume.name) == entry.mount_point))
        .map(|entry| entry.mount_point.display().to_string())
        .collect();
    if strangers.is_empty() {
        return Finding::ok(CHECK, "none");
    }
    let found = format!("{} belong to no volume", strangers.join(", "));
    Finding::warn(CHECK, found, format!("umount {}", strangers.join(" ")))
}
