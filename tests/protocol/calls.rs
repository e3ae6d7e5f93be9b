//! Every call, as each engine makes it.

use crate::support::*;
use serde_json::{Value, json};

use super::NOWHERE;

const TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// dockerd: no content type, `Host` is the socket's address or a word.
const DOCKERD: &[&[(&str, &str)]] = &[
    &[("Accept", TYPE), ("User-Agent", "Go-http-client/1.1"), ("Host", "plugin.moby.localhost")],
    &[("Accept", TYPE), ("Accept-Encoding", "gzip"), ("Host", "%2Frun%2Fdocker%2Fplugins%2Feasyfuse.sock")],
];

/// podman: the content type of an older version of the protocol.
const PODMAN: &[&[(&str, &str)]] =
    &[&[("Content-Type", "application/vnd.docker.plugins.v1.1+json"), ("Host", "plugin")]];

/// Makes the calls of a volume's life on one connection. `nothing` is the body of a call that has nothing to say.
fn whole_life(headers: &[(&str, &str)], nothing: &str, opts: &Value) {
    let daemon = Daemon::builder().args(["--allow-mount-command"]).start();
    let target = daemon.mntpt().join("data").display().to_string();
    let (named, used) =
        (json!({"Name": "data"}).to_string(), json!({"Name": "data", "ID": mount_id(1)}).to_string());
    let create = json!({"Name": "data", "Opts": opts}).to_string();
    let done = json!({"Err": ""});
    let life: &[(&str, &str, Value)] = &[
        ("Plugin.Activate", "", json!({"Implements": ["VolumeDriver"]})),
        ("VolumeDriver.Capabilities", nothing, json!({"Capabilities": {"Scope": "local"}})),
        ("VolumeDriver.List", nothing, json!({"Volumes": [], "Err": ""})),
        ("VolumeDriver.Create", &create, done.clone()),
        ("VolumeDriver.Path", &named, json!({"Mountpoint": "", "Err": ""})),
        ("VolumeDriver.Mount", &used, json!({"Mountpoint": target, "Err": ""})),
        ("VolumeDriver.Path", &named, json!({"Mountpoint": target, "Err": ""})),
        ("VolumeDriver.Unmount", &used, done.clone()),
        ("VolumeDriver.Remove", &named, done),
        ("VolumeDriver.List", nothing, json!({"Volumes": [], "Err": ""})),
    ];
    let mut connection = daemon.connect();
    for (call, body, answer) in life {
        let response = connection.request("POST", call, headers, body.as_bytes()).unwrap();
        assert_eq!(response.json(), *answer, "{call}");
        assert_eq!((response.status, response.header("content-type")), (200, Some(TYPE)), "{call}");
    }
}

#[test]
fn dockerd_is_answered_as_it_asks() {
    require!(Bindfs);
    for headers in DOCKERD {
        whole_life(headers, "{}", &json!({"device": "bindfs#/tmp"}));
    }
}

#[test]
fn podman_is_answered_as_it_asks() {
    require!(Bindfs);
    for headers in PODMAN {
        whole_life(headers, "", &json!({"device": "bindfs#/tmp", "type": "fuse"}));
    }
}

#[test]
fn options_of_null_are_none() {
    let daemon = Daemon::start();
    for opts in [json!(null), json!({})] {
        let words = daemon.ask("VolumeDriver.Create", json!({"Name": "data", "Opts": opts})).unwrap_err();
        assert!(words.contains("`device` is missing"), "{words}");
    }
    let words = daemon.ask("VolumeDriver.Create", json!({"Name": "data"})).unwrap_err();
    assert!(words.contains("`device` is missing"), "{words}");
}

#[test]
fn an_error_has_the_content_type_of_a_success_and_one_sentence() {
    let daemon = Daemon::start();
    let response = daemon.raw("POST", "VolumeDriver.Get", &[], br#"{"Name": "none"}"#);
    assert_eq!((response.status, response.header("content-type")), (500, Some(TYPE)));
    assert_eq!(
        response.json(),
        json!({"Err": "no such volume: none; `docker volume create -d easyfuse -o device=… none` makes it"})
    );
}

#[test]
fn get_and_list_show_what_docker_inspect_shows() {
    require!(Program("mount.fuse"));
    let daemon = Daemon::start();
    daemon.create("data", NOWHERE).unwrap();
    let volume = daemon.get("data").unwrap();
    assert_eq!((&volume["Name"], &volume["Mountpoint"]), (&json!("data"), &json!("")));
    let created = volume["CreatedAt"].as_str().unwrap();
    let age = humantime::parse_rfc3339(created).unwrap().elapsed().unwrap();
    assert!(age.as_secs() < 60, "{created}");
    assert_eq!(volume["Status"]["options"], json!({"device": "/bin/true#/nowhere"}));
    let listed = json!({"Name": "data", "Mountpoint": "", "CreatedAt": created});
    assert_eq!(daemon.list(), [listed]);
}

#[test]
fn a_get_that_dockerd_repeats_without_its_body_is_not_answered_with_an_error() {
    require!(Program("mount.fuse"), Program("bindfs"));
    let mut daemon = Daemon::start();
    let repeated = |daemon: &Daemon, accept: &str| {
        daemon
            .connect()
            .request("POST", "VolumeDriver.Get", &[("Accept", accept)], b"")
            .map(|answer| answer.status)
    };
    assert_eq!(repeated(&daemon, TYPE).unwrap(), 500, "nothing was cut off before the first start");
    daemon.kill9();
    daemon.start_again();
    assert!(repeated(&daemon, TYPE).is_err(), "dockerd would forget the volume's labels");
    assert_eq!(repeated(&daemon, "application/json").unwrap(), 500, "who is no engine is told what is wrong");
    assert!(daemon.get("absent").unwrap_err().contains("no such volume"));
}
