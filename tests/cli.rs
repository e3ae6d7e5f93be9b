//! What a person at a shell sees.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::protocol::states::{EveryState, STATES};
use crate::support::*;

/// `easyfuse ARGS`, away from any daemon.
fn easyfuse(args: &[&str]) -> Output {
    run(Command::new(EASYFUSE).args(args).env("EASYFUSE_UNIX_SOCK", "/nowhere/easyfuse.sock"))
}

/// The words of the line that begins with `first`.
#[track_caller]
fn row<'a>(table: &'a str, first: &str) -> Vec<&'a str> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.into_iter()
        .find(|row| row.first() == Some(&first))
        .unwrap_or_else(|| panic!("no {first} in\n{table}"))
}

/// Kills the helper of a volume, so that its filesystem is dead.
fn kill_helper(daemon: &Daemon, name: &str) {
    let mark = format!("EASYFUSE_MOUNTPOINT={}/{name}", daemon.mntpt().display());
    processes_with_env(&mark).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    wait_until("its helper is gone", || processes_with_env(&mark).is_empty());
}

#[test]
fn volume_ls_inspect_and_doctor_show_volumes_in_every_state() {
    require!(Bindfs);
    let EveryState { daemon, .. } = &EveryState::start();

    let table = daemon.cli(&["volume", "ls"]).ok();
    let heads = ["VOLUME", "STATE", "SINCE", "USES", "HELPER", "DEVICE", "LAST", "ERROR"];
    assert_eq!(row(&table, "VOLUME"), heads);
    assert_eq!(table.lines().count(), 1 + STATES.len());
    for (name, word) in STATES {
        assert_eq!(row(&table, name)[1], *word, "{table}");
    }
    assert!(table.contains("does not answer") && table.contains("is dead (ENOTCONN"), "{table}");
    let helper: u32 = row(&table, "in-use")[4].parse().unwrap();
    assert!(alive(helper) && daemon.helpers().contains(&helper));

    let listed: Value = serde_json::from_str(&daemon.cli(&["volume", "ls", "--json"]).ok()).unwrap();
    let names: Vec<&str> = STATES.iter().map(|(name, _)| *name).collect();
    let inspected = daemon.cli(&[&["volume", "inspect", "--json"], &names[..]].concat()).ok();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    for (n, (name, word)) in STATES.iter().enumerate() {
        for volumes in [&listed, &inspected] {
            assert_eq!((&volumes[n]["Name"], &volumes[n]["Status"]["state"]), (&json!(name), &json!(word)));
        }
    }

    let text = daemon.cli(&["volume", "inspect", "in-use"]).ok();
    let target = daemon.mntpt().join("in-use").display().to_string();
    assert_eq!(row(&text, "volume"), ["volume", "in-use"]);
    assert_eq!(row(&text, "state")[..3], ["state", "mounted", "since"]);
    assert_eq!(row(&text, "mounted"), ["mounted", "on", &target]);
    assert_eq!(row(&text, "used")[2..5], [&mount_id(1)[..], "(mounts:", "1,"]);
    let text = daemon.cli(&["volume", "inspect", "unreadable"]).ok();
    assert!(row(&text, "record")[1].ends_with("volumes/unreadable.json.bad"), "{text}");

    let report = daemon.cli(&["doctor"]);
    assert_eq!(report.status.code(), Some(1));
    for part in [
        "FAIL  volume: dead is broken: ",
        "→ easyfuse volume remount dead",
        "FAIL  volume: hung is broken: ",
        "→ mend ",
    ] {
        assert!(report.stdout.contains(part), "no {part:?} in\n{}", report.stdout);
    }
}

#[test]
fn what_doctor_says_to_type_mends_a_dead_volume() {
    require!(Bindfs);
    let daemon = Daemon::start();
    let source = daemon.create_bindfs("data");
    let target = daemon.mount("data", &mount_id(1)).unwrap();
    kill_helper(&daemon, "data");
    let report = daemon.cli(&["doctor", "--json"]);
    assert_eq!(report.status.code(), Some(1));
    let findings: Vec<Value> = serde_json::from_str(&report.stdout).unwrap();
    let fixes: Vec<&str> = findings
        .iter()
        .filter(|finding| finding["result"] == "fail")
        .map(|finding| finding["fix"].as_str().unwrap())
        .collect();
    assert_eq!(fixes, ["easyfuse volume remount data"]);
    let words: Vec<&str> = fixes[0].split(' ').skip(1).collect();
    assert_eq!(daemon.cli(&words).ok(), "data");
    fs::write(source.join("hello"), "world").unwrap();
    assert_eq!(fs::read_to_string(target.join("hello")).unwrap(), "world");
    daemon.cli(&["doctor"]).ok();
    daemon.unmount("data", &mount_id(1)).unwrap();
}

#[test]
fn doctor_says_what_to_type_on_each_line_that_is_not_ok() {
    require!(Bindfs);
    let daemon = Daemon::start();
    assert_eq!(daemon.names(), [""; 0], "it has tidied up its directories, and leaves them alone now");
    let stranger = daemon.mntpt().join("stranger");
    fs::create_dir(&stranger).unwrap();
    run(daemon.dir().command("bindfs").arg(daemon.source("x")).arg(&stranger)).ok();
    fs::set_permissions(daemon.sock(), fs::Permissions::from_mode(0o666)).unwrap();

    let report = daemon.cli(&["doctor"]);
    assert_eq!(report.status.code(), Some(1));
    let lines: Vec<&str> = report.stdout.lines().collect();
    for (line, next) in lines.iter().zip(lines[1..].iter().chain([&""])) {
        let bad = line.starts_with("warn  ") || line.starts_with("FAIL  ");
        assert_eq!(bad, next.starts_with("      → "), "{line}\n{next}");
    }
    for part in [
        "ok    /dev/fuse: can be opened".to_owned(),
        format!("→ chmod 600 {}", daemon.sock().display()),
        format!("warn  stale mounts: {} belong to no volume", stranger.display()),
        format!("→ umount {}", stranger.display()),
    ] {
        assert!(report.stdout.contains(&part), "no {part:?} in\n{}", report.stdout);
    }
}

#[test]
fn doctor_without_a_daemon_fails_and_says_how_to_start_it() {
    let report = easyfuse(&["doctor"]);
    assert_eq!(report.status.code(), Some(1));
    assert!(report.stdout.contains("FAIL  daemon: no daemon on /nowhere/easyfuse.sock"), "{}", report.stdout);
    assert!(report.stdout.contains("→ systemctl start easyfuse.socket"), "{}", report.stdout);
}

#[test]
fn volume_remount_brings_a_dead_volume_back_and_leaves_a_live_one() {
    require!(Bindfs);
    let daemon = Daemon::start();
    daemon.create_bindfs("data");
    let remount = |args: &[&str]| daemon.cli(&[&["volume", "remount"], args].concat());
    assert!(remount(&["data"]).err().contains("volume data: remount failed: nothing uses it"));
    let target = daemon.mount("data", &mount_id(1)).unwrap();
    assert!(remount(&["data"]).err().contains("`easyfuse volume remount --force data` mounts it again"));
    let before = daemon.helpers();
    assert_eq!(remount(&["--force", "data"]).ok(), "data");
    assert!(is_mounted(&target));
    wait_until("it has another helper", || !daemon.helpers().iter().any(|helper| before.contains(helper)));
    kill_helper(&daemon, "data");
    assert!(fs::read_dir(&target).is_err());
    assert_eq!(remount(&["data"]).ok(), "data");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    daemon.unmount("data", &mount_id(1)).unwrap();
    assert!(!is_mounted(&target));
}

#[test]
fn volume_unmount_asks_for_force_where_something_uses_it() {
    require!(Bindfs);
    let daemon = Daemon::start();
    daemon.create_bindfs("data");
    let unmount = |args: &[&str]| daemon.cli(&[&["volume", "unmount"], args].concat());
    let target = daemon.mount("data", &mount_id(1)).unwrap();
    let words = unmount(&["data"]).err();
    assert!(
        words.starts_with("easyfuse: volume data is in use: 1 reference: 000000000000 of the engine"),
        "{words}"
    );
    assert!(words.contains("`easyfuse volume unmount --force data`") && is_mounted(&target), "{words}");
    assert_eq!(unmount(&["--force", "data"]).ok(), "data");
    assert!(!is_mounted(&target));
    assert_eq!(row(&daemon.cli(&["volume", "ls"]).ok(), "data")[1], "created");
    assert_eq!(unmount(&["data"]).ok(), "data");
}

#[test]
fn the_daemons_refusals_reach_the_shell() {
    require!(Program("mount.fuse"));
    let mut daemon = Daemon::builder().stopped();
    fs::create_dir_all(daemon.state().join("volumes")).unwrap();
    fs::write(daemon.state().join("volumes/bad.json"), "?").unwrap();
    daemon.start_again();
    for (args, words) in [
        (&["volume", "inspect", "none"][..], "easyfuse: no such volume: none"),
        (&["volume", "inspect", "bad", "none"], "easyfuse: no such volume: none"),
        (&["volume", "remount", "none"], "easyfuse: no such volume: none"),
        (&["volume", "unmount", "none"], "easyfuse: no such volume: none"),
        (&["volume", "remount", "bad"], "easyfuse: volume bad can't be used: "),
        (&["volume", "inspect", "../../etc"], "easyfuse: bad volume name \"../../etc\""),
    ] {
        let refused = daemon.cli(args);
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        assert!(refused.clone().err().starts_with(words), "{args:?}: {}", refused.stderr);
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    }
    assert_eq!(daemon.cli(&["volume", "ls", "--json"]).ok().parse::<Value>().unwrap()[0]["Name"], "bad");
}

#[test]
fn without_volumes_ls_shows_the_heads_alone() {
    let daemon = Daemon::start();
    assert_eq!(daemon.cli(&["volume", "ls"]).ok().lines().count(), 1);
    assert_eq!(daemon.cli(&["volume", "ls", "--json"]).ok(), "[]");
}

#[test]
fn the_socket_may_be_given_anywhere() {
    let daemon = Daemon::start();
    let sock = daemon.sock().to_str().unwrap();
    for args in
        [["volume", "--sock", sock, "ls"], ["volume", "ls", "--sock", sock], ["volume", "ls", "-s", sock]]
    {
        easyfuse(&args).ok();
    }
}

#[test]
fn without_a_daemon_each_command_says_how_to_start_it_and_exits_1() {
    for args in [
        &["volume", "ls"][..],
        &["volume", "ls", "--json"],
        &["volume", "inspect", "data"],
        &["volume", "remount", "data"],
        &["volume", "unmount", "--force", "data"],
    ] {
        let refused = easyfuse(args);
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        assert_eq!(
            refused.err(),
            "easyfuse: no daemon on /nowhere/easyfuse.sock: No such file or directory (os error 2); start it \
             (`systemctl start easyfuse.socket`, or `easyfuse serve`), or say where it is with --sock"
        );
    }
}

#[test]
fn usage_errors_exit_2_and_name_help() {
    for args in [
        &["no-such-command"][..],
        &["--no-such-flag"],
        &["volume"],
        &["volume", "inspect"],
        &["volume", "ls", "--jsn"],
        &["volume", "remount"],
        &["completions"],
        &["completions", "tcsh"],
        &["systemd"],
        &["systemd", "install", "elsewhere"],
        &["serve", "--mount-timeout", "soon"],
        &["serve", "--mount-timeout", "0"],
        &["serve", "--port", "70000"],
        &["serve", "--log-level", "loud"],
        &["serve", "extra"],
    ] {
        let refused = easyfuse(args);
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        assert!(
            refused.stderr.contains("Usage: ") || refused.stderr.contains("--help"),
            "{}",
            refused.stderr
        );
        assert_eq!(refused.stdout, "");
    }
}

#[test]
fn serve_refuses_what_it_cant_work_with() {
    for (args, words) in [
        (&["serve", "--mntpt", "relative"][..], "relative is a relative path"),
        (&["serve", "--mntdb", "relative"], "relative is a relative path"),
        (&["serve", "--host", "no such host", "--mntdb", "/tmp"], "no address for --host no such host"),
        (&["serve", "--sock", "/tmp/never.sock", "--mntdb", "/proc/nowhere"], "/proc/nowhere: No such file"),
        (
            &["serve", "--systemd", "--mntdb", "/proc/nowhere"],
            "systemd passed no socket; start easyfuse.socket",
        ),
    ] {
        let refused = easyfuse(args);
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        assert!(
            refused.stderr.starts_with("easyfuse: ") && refused.stderr.contains(words),
            "{}",
            refused.stderr
        );
    }
}

#[test]
fn every_subcommand_has_help_with_examples() {
    let subcommands: &[&[&str]] = &[
        &[],
        &["serve"],
        &["volume"],
        &["volume", "ls"],
        &["volume", "inspect"],
        &["volume", "remount"],
        &["volume", "unmount"],
        &["doctor"],
        &["systemd"],
        &["systemd", "install"],
        &["systemd", "uninstall"],
        &["completions"],
        &["man"],
    ];
    for words in subcommands {
        let help = easyfuse(&[words, &["--help"][..]].concat()).ok();
        let (_, examples) =
            help.split_once("Example").unwrap_or_else(|| panic!("no example for {words:?}:\n{help}"));
        let command = format!("  easyfuse {}", words.join(" "));
        assert!(examples.contains(command.trim_end()), "no example for {words:?}:\n{help}");
    }
}

#[test]
fn version_is_the_crates() {
    assert_eq!(easyfuse(&["--version"]).ok(), format!("easyfuse {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completion_scripts_are_what_their_shells_take() {
    let dir = Scratch::new();
    for (shell, check) in [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let script = easyfuse(&["completions", shell]).ok();
        assert!(script.contains("remount") && !script.contains("probe"), "{shell}");
        let file = dir.write(shell, &script);
        if find_program(shell).is_some() {
            let checked = run(Command::new(shell).args(check).arg(file));
            assert_eq!((checked.stderr.as_str(), checked.success()), ("", true), "{shell}");
        }
    }
}

#[test]
fn bash_completes_subcommands_and_flags() {
    require!(Program("bash"));
    let dir = Scratch::new();
    let script = dir.write("completion", easyfuse(&["completions", "bash"]).ok());
    for (words, expected) in [
        ("easyfuse vol", "volume"),
        ("easyfuse volume rem", "remount"),
        ("easyfuse serve --mount-t", "--mount-timeout"),
    ] {
        let last = words.split(' ').count() - 1;
        let ask = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD={last}; \
             _easyfuse easyfuse \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        assert_eq!(run(Command::new("bash").args(["-c", &ask])).ok(), expected);
    }
}

#[test]
fn the_manual_page_renders_without_errors() {
    let dir = Scratch::new();
    let page = dir.write("easyfuse.1", easyfuse(&["man"]).ok());
    let rendered = if find_program("mandoc").is_some() {
        let lint = run(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(&page));
        assert_eq!((lint.stdout.as_str(), lint.stderr.as_str()), ("", ""));
        run(Command::new("mandoc").args(["-T", "utf8"]).arg(&page)).ok()
    } else {
        require!(Program("man"));
        let rendered = run(Command::new("man").env("LC_ALL", "C.UTF-8").arg("-l").arg(&page));
        assert_eq!(rendered.stderr, "");
        rendered.ok()
    };
    let plain: String = rendered.replace("_\u{8}", "").chars().collect();
    for section in ["easyfuse serve", "easyfuse volume", "easyfuse doctor"] {
        assert!(plain.to_lowercase().contains(section), "no {section} in\n{plain}");
    }
}

#[test]
fn output_into_a_closed_pipe_is_no_failure() {
    let script = format!("set -o pipefail; {EASYFUSE} completions bash | head -1");
    let first = run(Command::new("bash").args(["-c", &script]));
    assert_eq!((first.stderr.as_str(), first.success()), ("", true));
}

#[test]
fn systemd_install_local_writes_units_that_run_this_program_and_uninstall_removes_them() {
    let dir = Scratch::new();
    let units = dir.join("units");
    let path = units.to_str().unwrap();
    let said = easyfuse(&["systemd", "install", "local", "--path", path]).ok();
    for part in [
        &format!("wrote {path}/easyfuse.socket"),
        &format!("wrote {path}/easyfuse.service"),
        "now: systemctl daemon-reload && systemctl enable --now easyfuse.socket",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    let service = fs::read_to_string(units.join("easyfuse.service")).unwrap();
    assert!(service.contains(&format!("ExecStart=\"{EASYFUSE}\" serve --systemd")), "{service}");
    let socket = fs::read_to_string(units.join("easyfuse.socket")).unwrap();
    assert!(socket.contains("ListenStream=/run/docker/plugins/easyfuse.sock"), "{socket}");
    easyfuse(&["systemd", "install", "local", "--path", path]).ok();
    // Where systemd runs, uninstall also stops the service that this machine may have.
    if Path::new("/run/systemd/system").is_dir() {
        return;
    }
    let said = easyfuse(&["systemd", "uninstall", "--path", path]).ok();
    assert!(said.contains("removed the units") && fs::read_dir(&units).unwrap().next().is_none(), "{said}");
    let words = easyfuse(&["systemd", "uninstall", "--path", path]).err();
    assert!(words.contains(&format!("no units of easyfuse in {path}")), "{words}");
}

#[test]
fn the_units_are_right_in_systemds_eyes() {
    require!(Program("systemd-analyze"));
    let dir = Scratch::new();
    easyfuse(&["systemd", "install", "local", "--path", dir.path().to_str().unwrap()]).ok();
    let units = ["easyfuse.socket", "easyfuse.service"].map(|unit| dir.join(unit));
    let verified = run_for(Duration::from_mins(1), Command::new("systemd-analyze").arg("verify").args(units));
    let about_ours: Vec<&str> = verified.stderr.lines().filter(|line| line.contains("easyfuse")).collect();
    assert_eq!(about_ours, [""; 0]);
}
