//! Where the daemon listens, and where it refuses to.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use super::NOWHERE;
use crate::support::*;

/// The port of 127.0.0.1 that the daemon's log names.
fn port(daemon: &Daemon) -> u16 {
    let log = daemon.log();
    let (_, rest) = log.split_once("listening on 127.0.0.1:").unwrap_or_else(|| panic!("no TCP in\n{log}"));
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// An answer over TCP, status line and all.
fn over_tcp(port: u16, call: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "POST /{call} HTTP/1.0\r\n{header}Content-Length: 2\r\n\r\n{{}}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_socket_is_roots_alone() {
    let daemon = Daemon::start();
    assert_eq!(fs::metadata(daemon.sock()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_unix_socket_and_tcp_serve_the_same_volumes_at_once() {
    require!(Program("mount.fuse"));
    let daemon = Daemon::builder().args(["--host", "127.0.0.1", "--port", "0"]).start();
    daemon.create("data", NOWHERE).unwrap();
    let answer = over_tcp(port(&daemon), "VolumeDriver.List", "");
    assert!(answer.starts_with("HTTP/1.0 200 OK") && answer.contains("\"Name\":\"data\""), "{answer}");
    assert_eq!(daemon.names(), ["data"]);
}

#[test]
fn tcp_alone_is_loopback_and_needs_no_socket() {
    let mut daemon = Daemon::builder().args(["--port", "0"]).stopped();
    // Without --sock, which the test support gives otherwise.
    let mut command = daemon.dir().command(EASYFUSE);
    command.args(["serve", "--port", "0", "--mntpt"]).arg(daemon.mntpt()).arg("--mntdb").arg(daemon.state());
    let log = fs::File::create(daemon.dir().join("log")).unwrap();
    let mut child = command.stderr(log).spawn().unwrap();
    wait_until("it listens", || daemon.log().contains("listening on 127.0.0.1:"));
    let answer = over_tcp(port(&daemon), "Plugin.Activate", "");
    assert!(answer.contains(r#"{"Implements":["VolumeDriver"]}"#), "{answer}");
    assert!(daemon.log().contains("without authentication") && !daemon.sock().exists());
    signal(child.id(), Signal::SIGTERM);
    assert!(child.wait().unwrap().success());
    daemon.start_again();
}

#[test]
fn a_web_page_gets_nothing_over_tcp() {
    let daemon = Daemon::builder().args(["--port", "0"]).start();
    for call in ["Plugin.Activate", "VolumeDriver.Create", "VolumeDriver.List", "VolumeDriver.Get"] {
        for origin in ["http://evil.example", "null"] {
            let answer = over_tcp(port(&daemon), call, &format!("Origin: {origin}\r\n"));
            assert!(answer.starts_with("HTTP/1.0 500 "), "{call}: {answer}");
            assert!(answer.contains("a web page may not speak to this plugin"), "{call}: {answer}");
        }
    }
    // Nobody can make a browser speak to a unix socket.
    let answer = daemon.raw("POST", "Plugin.Activate", &[("Origin", "http://evil.example")], b"");
    assert_eq!(answer.status, 200);
}

#[test]
fn a_port_that_is_taken_is_refused_with_words() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let daemon = Daemon::builder().args(["--port".into(), address.port().to_string()]).stopped();
    let words = run(&mut daemon.command()).err();
    assert!(words.contains(&format!("could not listen on {address}: Address already in use")), "{words}");
    assert!(!daemon.sock().exists(), "the socket of a daemon that did not start is gone");
}

#[test]
fn a_second_daemon_on_a_live_socket_is_refused() {
    let daemon = Daemon::start();
    let mut second = daemon.dir().command(EASYFUSE);
    second.arg("serve").arg("--sock").arg(daemon.sock());
    second.arg("--mntpt").arg(daemon.dir().join("mnt2")).arg("--mntdb").arg(daemon.dir().join("state2"));
    let refused = run(&mut second);
    assert_eq!(refused.status.code(), Some(1));
    let words = refused.err();
    assert!(words.contains(&format!("another daemon answers on {}", daemon.sock().display())), "{words}");
    assert!(words.contains("systemctl stop easyfuse.socket easyfuse"), "{words}");
    assert!(daemon.answers());
}

#[test]
fn a_second_daemon_on_a_state_directory_is_refused() {
    let daemon = Daemon::start();
    let mut second = daemon.dir().command(EASYFUSE);
    second.arg("serve").arg("--sock").arg(daemon.dir().join("other.sock"));
    second.arg("--mntpt").arg(daemon.dir().join("mnt2")).arg("--mntdb").arg(daemon.state());
    let words = run(&mut second).err();
    assert!(words.contains(&format!("{}: another easyfuse uses it", daemon.state().display())), "{words}");
    assert!(!daemon.dir().join("other.sock").exists() && daemon.answers());
}

#[test]
fn a_second_daemon_on_a_mount_directory_is_refused() {
    let daemon = Daemon::start();
    let mut second = daemon.dir().command(EASYFUSE);
    second.arg("serve").arg("--sock").arg(daemon.dir().join("other.sock"));
    second.arg("--mntpt").arg(daemon.mntpt()).arg("--mntdb").arg(daemon.dir().join("state2"));
    let mut second = Background::start(&mut second);
    let ended = eventually(Duration::from_secs(5), || !second.is_running());
    assert!(ended, "two daemons work on the mount points in {}", daemon.mntpt().display());
    let words = second.wait(Duration::from_secs(1)).err();
    assert!(words.contains(&format!("{}: another easyfuse uses it", daemon.mntpt().display())), "{words}");
}

#[test]
fn a_stale_socket_file_is_replaced() {
    let mut daemon = Daemon::start();
    daemon.kill9();
    assert!(daemon.sock().exists() && !daemon.answers());
    daemon.start_again();
    // One whose maker is long gone.
    daemon.terminate();
    drop(UnixListener::bind(daemon.sock()).unwrap());
    daemon.start_again();
}

#[test]
fn a_socket_path_that_is_something_else_is_left_alone() {
    let daemon = Daemon::builder().stopped();
    fs::write(daemon.sock(), "precious").unwrap();
    let words = run(&mut daemon.command()).err();
    assert!(words.contains("exists and is no socket; remove it, or give --sock another path"), "{words}");
    assert_eq!(fs::read_to_string(daemon.sock()).unwrap(), "precious");
}

#[test]
fn a_socket_path_that_is_too_long_is_refused() {
    let daemon = Daemon::builder().stopped();
    let mut command = daemon.dir().command(EASYFUSE);
    command.arg("serve").arg("--sock").arg(daemon.dir().join("x".repeat(120)));
    command.arg("--mntpt").arg(daemon.mntpt()).arg("--mntdb").arg(daemon.state());
    let words = run(&mut command).err();
    assert!(words.contains("is too long for a socket; 107 bytes are the most"), "{words}");
}

#[test]
fn the_sockets_directory_is_made() {
    let daemon = Daemon::builder().stopped();
    let sock = daemon.dir().join("new/dir/easyfuse.sock");
    let mut command = daemon.dir().command(EASYFUSE);
    command.arg("serve").env("EASYFUSE_UNIX_SOCK", &sock);
    command.env("EASYFUSE_MOUNT_PATH", daemon.mntpt()).env("EASYFUSE_MOUNT_DB", daemon.state());
    let running = Background::start(&mut command);
    let plugin = Plugin::new(&sock);
    wait_until("it listens", || sock.exists());
    assert_eq!(plugin.names(), [""; 0]);
    running.signal(Signal::SIGTERM);
    running.wait(Duration::from_secs(20)).ok();
    assert!(!sock.exists());
}
