//! `easyfuse volume`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::{Connection, output, small_runtime};
use crate::plugin::wire::{Admin, Volume};

/// How long the daemon may take to look at all mounts.
const LOOK: Duration = Duration::from_secs(20);
/// How long it may take to mount.
const WORK: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  easyfuse volume ls
  easyfuse volume inspect data --json
  easyfuse volume remount data        (its helper died: running containers see it again)
  easyfuse volume unmount --force data")]
pub(super) struct VolumeArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    /// List all volumes: how they are, since when, and who uses them
    #[command(
        visible_alias = "list",
        after_help = "\
Examples:
  easyfuse volume ls
  easyfuse volume ls --json | jq -r '.[] | select(.Status.state == \"broken\") | .Name'"
    )]
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of volumes
    #[command(after_help = "\
Examples:
  easyfuse volume inspect data
  easyfuse volume inspect --json data | jq '.[].Status.references'")]
    Inspect {
        /// The volumes
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Mount a volume again whose filesystem died, in place: running containers see it again
    #[command(after_help = "\
Examples:
  easyfuse volume remount data
  easyfuse volume remount --force data   (after its options on the server changed)")]
    Remount {
        /// The volume
        name: String,
        /// Also when it works
        #[arg(long)]
        force: bool,
    },
    /// Unmount a volume that nobody uses
    #[command(after_help = "\
Examples:
  easyfuse volume unmount data
  easyfuse volume unmount --force data   (no container has it, whatever the engine said before it crashed)")]
    Unmount {
        /// The volume
        name: String,
        /// Also when engines say that containers use it: forget that
        #[arg(long)]
        force: bool,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Volumes {
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
struct Done {}

pub(super) fn run(args: VolumeArgs) -> anyhow::Result<ExitCode> {
    small_runtime()?.block_on(ask(args))
}

async fn ask(args: VolumeArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.connection.sock);
    match args.command {
        VolumeCommand::Ls { json } => {
            let found: Volumes = client.call("/Easyfuse.Volumes", &json!({}), LOOK).await?;
            if json { output::print_json(&found.volumes) } else { output::print_text(&table(&found.volumes)) }
        }
        VolumeCommand::Inspect { names, json } => {
            let mut found = Vec::new();
            if let [name] = &names[..] {
                let one: Volumes = client.call("/Easyfuse.Volumes", &json!({ "Name": name }), LOOK).await?;
                found = one.volumes;
            } else {
                // One look for all: with a filesystem that hangs, each takes seconds.
                let all: Volumes = client.call("/Easyfuse.Volumes", &json!({}), LOOK).await?;
                for name in names {
                    match all.volumes.iter().find(|volume| volume.name == name) {
                        Some(volume) => found.push(volume.clone()),
                        None => bail!("no such volume: {name}; `easyfuse volume ls` lists them"),
                    }
                }
            }
            if json {
                return output::print_json(&found);
            }
            let texts: Vec<String> = found.iter().map(describe).collect();
            output::print_text(&texts.join("\n\n"))
        }
        VolumeCommand::Remount { name, force } => {
            change(&client, "/Easyfuse.Remount", &name, force).await?;
            output::print_text(&name)
        }
        VolumeCommand::Unmount { name, force } => {
            change(&client, "/Easyfuse.Unmount", &name, force).await?;
            output::print_text(&name)
        }
    }
}

async fn change(client: &Client<'_>, path: &str, name: &str, force: bool) -> anyhow::Result<()> {
    let Done {} = client.call(path, &Admin { name: Some(name.to_owned()), force }, WORK).await?;
    Ok(())
}

fn table(volumes: &[Volume]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["VOLUME", "STATE", "SINCE", "USES", "HELPER", "DEVICE", "LAST ERROR"]);
    for volume in volumes {
        let status = &volume.status;
        let device = status.get("options").and_then(|options| options.get("device"));
        let error = text(status, "reason");
        let last = status.get("last_error").and_then(|last| last.get("message"));
        // What went wrong before it was mounted is over; `inspect` still has it.
        let last = last.filter(|_| text(status, "state") != "mounted");
        let error = if error.is_empty() { last.and_then(Value::as_str).unwrap_or_default() } else { &error };
        table.add_row([
            volume.name.as_str(),
            &text(status, "state"),
            &text(status, "since"),
            &uses(status).to_string(),
            &text(status, "helper_pid"),
            device.and_then(Value::as_str).unwrap_or_default(),
            error,
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

fn uses(status: &Map<String, Value>) -> u64 {
    let references = status.get("references").and_then(Value::as_array);
    references.into_iter().flatten().filter_map(|held| held.get("count").and_then(Value::as_u64)).sum()
}

fn text(status: &Map<String, Value>, key: &str) -> String {
    match status.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn describe(volume: &Volume) -> String {
    let status = &volume.status;
    let mut lines = vec![format!("volume      {}", volume.name)];
    let mut add = |label: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("{label:<11} {value}"));
        }
    };
    add("state", &format!("{} since {}", text(status, "state"), text(status, "since")));
    add("reason", &text(status, "reason"));
    add("record", &text(status, "record"));
    add("mounted on", &volume.mountpoint);
    add("filesystem", &text(status, "filesystem"));
    add("helper pid", &text(status, "helper_pid"));
    add("created", volume.created_at.as_deref().unwrap_or_default());
    for (key, value) in status.get("options").and_then(Value::as_object).into_iter().flatten() {
        add("option", &format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for held in status.get("references").and_then(Value::as_array).into_iter().flatten() {
        let field = |key: &str| held.get(key).map(|value| value.to_string().trim_matches('"').to_owned());
        let [id, count, pid, since] =
            ["id", "count", "engine_pid", "since"].map(|key| field(key).unwrap_or_default());
        add("used by", &format!("{id} (mounts: {count}, engine pid: {pid}, since {since})"));
    }
    if let Some(last) = status.get("last_error").and_then(Value::as_object) {
        add("last error", &format!("{} (at {})", text(last, "message"), text(last, "at")));
    }
    lines.join("\n")
}
