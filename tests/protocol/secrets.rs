//! What is secret in a volume's options is shown nowhere.

use std::fs;

use serde_json::json;

use crate::support::*;

/// Stands where a secret stands; not a part of anything else.
const SECRET: &str = "hunter2";

#[test]
fn secrets_are_in_no_answer_no_error_no_log_and_no_command_output() {
    require!(Root, Fuse);
    let mut daemon = Daemon::builder().args(["--allow-mount-command", "--log-level", "trace"]).start();
    let helper = daemon.helper("leaky", &helpers::script("echo \"access denied: $*\" >&2; exit 1"));
    let device = format!("{}#/x", helper.display());
    let url = format!("{}#https://me:{SECRET}@host/x", helper.display());
    let command = format!("{} --password={SECRET} --token {SECRET} {{target}}", helper.display());
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("password", &[("device", &device), ("o", "ro,password=hunter2,port=1")]),
        (
            "other-keys",
            &[("device", &device), ("o", "aws_secret_key=hunter2,api-token=hunter2,Passphrase=hunter2")],
        ),
        ("lines", &[("device", &device), ("o", "ro\npassword=hunter2")]),
        ("alias", &[("device", &device), ("opts", "password=hunter2")]),
        ("url", &[("device", &url)]),
        ("command", &[("mount_command", &command)]),
    ];
    let mut seen = vec![];
    for (name, options) in cases {
        daemon.create(name, options).unwrap();
        seen.push(daemon.create(name, &[("device", &device), ("o", "password=hunter2x")]).unwrap_err());
        seen.push(daemon.mount(name, &mount_id(1)).unwrap_err());
        assert!(seen.last().unwrap().contains("access denied"), "{seen:?}");
        seen.push(daemon.get(name).unwrap().to_string());
        seen.push(daemon.cli(&["volume", "inspect", name]).ok());
        seen.push(daemon.cli(&["volume", "inspect", "--json", name]).ok());
        let refused = daemon.cli(&["volume", "remount", "--force", name]);
        seen.extend([refused.stdout, refused.stderr]);
    }
    seen.push(json!(daemon.list()).to_string());
    seen.push(daemon.cli(&["volume", "ls"]).ok());
    seen.push(daemon.cli(&["doctor"]).stdout);
    daemon.restart();
    for (name, _) in cases {
        seen.push(daemon.get(name).unwrap().to_string());
        daemon.remove(name).unwrap();
    }
    seen.push(daemon.log());
    for text in seen {
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[test]
fn secrets_are_not_in_the_words_about_a_bad_request() {
    require!(Program("mount.fuse"));
    let daemon = Daemon::builder().args(["--allow-mount-command", "--log-level", "trace"]).start();
    let device = "/bin/true#/nowhere";
    let bad = [
        json!({"device": device, "o": "=x,password=hunter2"}),
        json!({"device": device, "size": "password=hunter2"}),
        json!({"device": device, "o": "password=hunter2", "opts": "password=hunter2x"}),
        json!({"device": "me:hunter2@host:/x"}),
        json!({"device": "https://me:hunter2@host/x"}),
        json!({"device": device, "mount_command": "mount --password=hunter2 {x}"}),
        json!({"device": device, "mount_command": "mount --password=hunter2 {target"}),
        json!({"device": device, "mount_command": "mount --password=hunter2} {target}"}),
        json!({"device": device, "mount_command": "mount --password=hunter2] {target}"}),
        json!("password=hunter2"),
        json!(["password=hunter2"]),
    ];
    for opts in bad {
        let words = daemon.ask("VolumeDriver.Create", json!({"Name": "data", "Opts": opts})).unwrap_err();
        assert!(!words.contains(SECRET), "{words}");
    }
    assert!(!daemon.log().contains(SECRET));
}

/// The record has to hold them: only root may read it.
#[test]
fn secrets_reach_the_helper_as_they_are() {
    require!(Root, Fuse);
    let mut daemon = Daemon::start();
    let said = daemon.dir().join("said");
    daemon.create_with_helper("once", &helpers::script(&format!("echo \"$@\" >{}; exit 1", said.display())));
    let device = format!("{}#/x", daemon.dir().join("bin/once").display());
    daemon.create("data", &[("device", &device), ("o", "password=hunter2")]).unwrap();
    daemon.restart();
    daemon.mount("data", &mount_id(1)).unwrap_err();
    assert!(fs::read_to_string(said).unwrap().contains("password=hunter2"));
}
