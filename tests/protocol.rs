//! What an engine gets from the daemon's socket, and what it can do to it.

mod bad_input;
mod calls;
mod http;
mod import;
mod listeners;
mod model;
mod records;
mod references;
mod secrets;
mod shutdown;
pub(crate) mod states;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::*;

/// Options of a volume that any host with `mount -t fuse` can create, and none can mount.
const NOWHERE: &[(&str, &str)] = &[("device", "/bin/true#/nowhere")];

/// The state that Get shows.
#[track_caller]
fn state(daemon: &Plugin, name: &str) -> String {
    daemon.get(name).unwrap()["Status"]["state"].as_str().unwrap().to_owned()
}

/// How often each ID is shown to use a volume, by whatever engine.
#[track_caller]
fn uses(daemon: &Plugin, name: &str) -> Vec<(String, u64)> {
    let volume = daemon.get(name).unwrap();
    let mut uses = BTreeMap::new();
    for held in volume["Status"]["references"].as_array().unwrap() {
        *uses.entry(held["id"].as_str().unwrap().to_owned()).or_default() += held["count"].as_u64().unwrap();
    }
    uses.into_iter().collect()
}

/// Sends a request and leaves it at that; the connection has to be kept, or the daemon takes it for a hang-up.
#[track_caller]
fn start_mount(daemon: &Plugin, name: &str) -> Connection {
    let mut connection = daemon.connect();
    let body = json!({"Name": name, "ID": mount_id(1)}).to_string();
    connection.send("POST", "VolumeDriver.Mount", &[], body.as_bytes()).unwrap();
    wait_until("the mount begins", || state(daemon, name) == "mounting");
    connection
}

/// A request from another process, which ends with the answer: as an engine does that crashes.
#[track_caller]
fn by_another_process(daemon: &Plugin, call: &str, body: &Value) -> Value {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "60", "-d", &body.to_string(), "--unix-socket"]).arg(daemon.sock());
    let answer = run(curl.arg(format!("http://easyfuse/{call}"))).ok();
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("no JSON ({error}): {answer:?}"))
}
