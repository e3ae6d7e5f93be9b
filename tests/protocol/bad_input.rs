//! Whatever is wrong with a request, the answer says what, and what would be right; and nothing changes.

use serde_json::json;

use super::NOWHERE;
use crate::support::*;

/// One sentence that a person can act on.
#[track_caller]
fn assert_sentence(words: &str, parts: &[&str], case: &str) {
    for part in parts {
        assert!(words.contains(part), "{case}: no {part:?} in {words:?}");
    }
    assert!(
        !words.contains(char::is_control) && !words.ends_with('.') && words.len() < 500,
        "{case}: {words:?}"
    );
}

#[test]
fn bad_names_are_refused_with_what_would_be_right() {
    require!(Program("mount.fuse"));
    let daemon = Daemon::start();
    daemon.create("data", NOWHERE).unwrap();
    let long = "x".repeat(300);
    for name in [
        "",
        ".",
        "..",
        "../../etc",
        "/abs",
        "a/b c",
        "a b",
        ".hidden",
        "-x",
        "a\nb",
        "a\0b",
        "é",
        "\u{202e}",
        &long,
    ] {
        let rule = "use letters, digits, `_`, `.` and `-`";
        for call in ["Create", "Get", "Path", "Remove", "Mount", "Unmount"] {
            let body = json!({"Name": name, "ID": mount_id(1), "Opts": {"device": "/bin/true#/nowhere"}});
            let words = daemon.ask(&format!("VolumeDriver.{call}"), body).unwrap_err();
            assert_sentence(&words, &["bad volume name", rule], &format!("{call} {name:?}"));
        }
    }
    assert_eq!(daemon.names(), ["data"]);
    let mut left: Vec<_> =
        std::fs::read_dir(daemon.mntpt()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.retain(|name| name != ".easyfuse");
    assert_eq!(left, [""; 0]);
}

#[test]
fn bad_options_are_refused_with_what_would_be_right() {
    require!(Program("mount.fuse"));
    let daemon = Daemon::builder().args(["--allow-mount-command"]).start();
    daemon.create("data", NOWHERE).unwrap();
    let device = ("device", "/bin/true#/nowhere");
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (&[], &["`device` is missing", "-o device=sshfs#user@host:/path"]),
        (&[("o", "ro")], &["`device` is missing"]),
        (&[("device", "")], &["`device` is missing"]),
        (&[("devcie", "sshfs#x")], &["unknown option `devcie`", "did you mean `device`?", "device, o, type"]),
        (&[device, ("Device", "x")], &["unknown option `Device`", "did you mean `device`?"]),
        (&[device, ("size", "5")], &["unknown option `size`", "known ones are device, o, type"]),
        (&[device, ("a\nb", "5")], &["unknown option"]),
        (&[device, ("o", "ro"), ("opts", "rw")], &["`o` and `opts` mean the same", "give one of them"]),
        (
            &[("device", "no-such-helper#x")],
            &["no program `no-such-helper`", "install it, or write its full path"],
        ),
        (&[("device", "/no/such/helper#x")], &["no program `/no/such/helper`"]),
        (&[("device", "user@host:/path")], &["`device`", "-o device=sshfs#user@host:/path"]),
        (&[("device", "user@host:/p"), ("type", "fuse.no-such")], &["no program `no-such`"]),
        (&[("device", "#x")], &["without a helper before the `#`"]),
        (&[("device", "-o suid")], &["takes for an option"]),
        (&[("device", "sshfs#a\0b")], &["NUL"]),
        (&[("device", "sshfs#a\nb")], &["more than one line"]),
        (&[device, ("type", "nfs")], &["unknown type `nfs`", "`fuse.<helper>`"]),
        (&[device, ("type", "fuse.../../x")], &["unknown type"]),
        (&[device, ("o", "ro,=x")], &["value without a name", "-o o="]),
        (&[device, ("o", "--bind")], &["a flag"]),
        (
            &[device, ("mount_command", "mount {devise} {target}")],
            &["`mount_command`", "`{devise}`", "{device}"],
        ),
        (&[device, ("mount_command", "mount {device")], &["`mount_command`", "no partner"]),
        (&[device, ("mount_command", "mount [-o {opts}")], &["`mount_command`", "brackets do not match"]),
        (&[device, ("mount_command", "mount 'x")], &["`mount_command`", "quote is not closed"]),
        (&[device, ("mount_command", " ")], &["`mount_command`", "empty"]),
        (&[device, ("mount_command", "no-such-program {target}")], &["no program `no-such-program`"]),
        (&[device, ("unmount_command", "umount {x}")], &["`unmount_command`", "`{x}`"]),
    ];
    for (options, parts) in cases {
        let words = daemon.create("bad", options).unwrap_err();
        assert_sentence(&words, &["volume bad: "], &format!("{options:?}"));
        assert_sentence(&words, parts, &format!("{options:?}"));
    }
    assert_eq!(daemon.names(), ["data"]);
}

#[test]
fn commands_are_refused_unless_the_operator_allows_them() {
    require!(Program("mount.fuse"));
    let mut daemon = Daemon::builder().args(["--allow-mount-command"]).start();
    let command = [("mount_command", "true")];
    daemon.create("data", &command).unwrap();
    daemon.terminate();
    let daemon2 = Daemon::start();
    for option in ["mount_command", "unmount_command"] {
        let words = daemon2.create("bad", &[NOWHERE[0], (option, "true")]).unwrap_err();
        assert_sentence(&words, &[&format!("`{option}` is refused"), "--allow-mount-command"], option);
    }
    assert_eq!(daemon2.names(), [""; 0]);
}

#[test]
fn bodies_that_make_no_sense_are_refused_with_one_that_does() {
    require!(Program("mount.fuse"));
    let daemon = Daemon::start();
    daemon.create("data", NOWHERE).unwrap();
    let before = daemon.list();
    let bad: &[&[u8]] = &[
        b"not json",
        b"{",
        b"[]",
        b"5",
        b"null",
        b"\"data\"",
        b"[{\"Name\": \"data\"}]",
        b"{\"Name\": 5}",
        b"{\"Name\": [\"data\"]}",
        b"{\"Name\": {\"a\": 1}}",
        b"{\"Name\": \"data\"",
        b"{\"Name\": \"data\"} trailing",
        b"{\"Name\": \"\xff\xfe\"}",
        b"\x00\x01\x02",
        b"Name=data&ID=1",
    ];
    for call in ["Create", "Get", "Path", "Remove", "Mount", "Unmount"] {
        for body in bad {
            let case = format!("{call} {:?}", String::from_utf8_lossy(body));
            let response = daemon.raw("POST", &format!("VolumeDriver.{call}"), &[], body);
            assert_eq!(response.status, 500, "{case}");
            let words = response.json()["Err"].as_str().unwrap().to_owned();
            assert_sentence(&words, &["bad request body", "should look like {\"Name\": \"data\""], &case);
        }
        // A retry's body may be empty.
        for body in ["", " ", "{}", "{\"Name\": null}", "{\"name\": \"data\"}"] {
            let response = daemon.raw("POST", &format!("VolumeDriver.{call}"), &[], body.as_bytes());
            let words = response.json()["Err"].as_str().unwrap().to_owned();
            assert_eq!(response.status, 500, "{call} {body:?}");
            assert_sentence(&words, &["Name is missing", "should look like {\"Name\": \"data\""], call);
        }
    }
    for opts in ["[]", "\"device=x\"", "{\"device\": 5}", "{\"device\": null}", "{\"o\": [\"ro\"]}"] {
        let body = format!("{{\"Name\": \"bad\", \"Opts\": {opts}}}");
        let response = daemon.raw("POST", "VolumeDriver.Create", &[], body.as_bytes());
        let words = response.json()["Err"].as_str().unwrap().to_owned();
        assert_eq!(response.status, 500, "{opts}");
        assert_sentence(&words, &["bad request body", "\"Opts\": {\"device\": "], opts);
    }
    assert_eq!(daemon.list(), before);
}

#[test]
fn a_deeply_nested_body_is_refused() {
    let daemon = Daemon::start();
    for (open, close) in [("[", "]"), ("{\"Name\":", "}")] {
        let body = format!("{{\"Extra\": {}1{}}}", open.repeat(50_000), close.repeat(50_000));
        let response = daemon.raw("POST", "VolumeDriver.Get", &[], body.as_bytes());
        assert_eq!(response.status, 500);
    }
    assert!(daemon.answers());
}

#[test]
fn an_unknown_volume_or_id_is_named() {
    require!(Program("mount.fuse"));
    let daemon = Daemon::start();
    daemon.create("data", NOWHERE).unwrap();
    for call in ["Get", "Path", "Remove", "Mount", "Unmount"] {
        let body = json!({"Name": "none", "ID": mount_id(1)});
        let words = daemon.ask(&format!("VolumeDriver.{call}"), body).unwrap_err();
        assert_sentence(&words, &["no such volume: none", "docker volume create"], call);
    }
    for (id, words) in [("", "ID is missing"), (&*"f".repeat(300), "ID is too long: 256")] {
        for call in ["Mount", "Unmount"] {
            let said =
                daemon.ask(&format!("VolumeDriver.{call}"), json!({"Name": "data", "ID": id})).unwrap_err();
            assert_sentence(&said, &[words], call);
        }
    }
    daemon.unmount("data", &mount_id(7)).unwrap();
    assert_eq!(daemon.names(), ["data"]);
}

#[test]
fn a_failed_mount_carries_the_helpers_last_words_and_leaves_nothing() {
    require!(Root, Fuse);
    let daemon = Daemon::builder().args(["--mount-timeout", "1s"]).start();
    let cases: &[(&str, String, &str)] = &[
        (
            "refused",
            helpers::fail("connecting\nread: Connection reset by peer"),
            "read: Connection reset by peer",
        ),
        ("pretends", helpers::pretend(), "succeeded but mounted nothing"),
        ("hangs", helpers::hang(), "`mount` was not done after 1."),
        ("stubborn", helpers::stubborn(), "and was ended"),
        ("binary", helpers::script("printf '\\033[31m\\000\\377bad' >&2; exit 1"), "bad"),
    ];
    for (name, script, part) in cases {
        daemon.create_with_helper(name, script);
        let words = daemon.mount(name, &mount_id(1)).unwrap_err();
        assert_sentence(&words, &[&format!("volume {name}: mount failed: "), part], name);
        assert!(!daemon.mntpt().join(name).exists(), "{name}: its directory stays");
        assert_eq!(super::uses(&daemon, name), [], "{name}");
        assert_eq!(super::state(&daemon, name), "created", "{name}");
    }
    wait_until("the helpers are gone", || daemon.helpers().is_empty());
}
