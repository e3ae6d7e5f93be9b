//! Clients that speak HTTP badly, slowly, or in ways that are right but rare.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::json;

use super::NOWHERE;
use crate::support::*;

/// Sends bytes and reads all that comes back until the daemon hangs up.
#[track_caller]
fn talk(daemon: &Plugin, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(daemon.sock()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_body_of_more_than_a_mebibyte_is_refused() {
    let daemon = Daemon::start();
    let mut body = vec![b' '; (1 << 20) + 1];
    body.splice(0..2, *b"{}");
    let response = daemon.raw("POST", "VolumeDriver.List", &[], &body);
    assert_eq!(response.status, 500);
    assert_eq!(response.json()["Err"], "the request body is larger than 1 MiB; no volume needs that much");
    body.truncate(1 << 20);
    assert_eq!(daemon.raw("POST", "VolumeDriver.List", &[], &body).status, 200);
    // One that never ends.
    let mut endless = daemon.connect();
    endless.send("POST", "VolumeDriver.List", &[("Transfer-Encoding", "chunked")], b"").unwrap();
    let chunk = [b"10000\r\n", &[b' '; 0x10000][..], b"\r\n"].concat();
    while endless.send_bytes(&chunk).is_ok() {}
    assert!(daemon.answers());
}

#[test]
fn half_a_request_harms_nobody_and_creates_nothing() {
    require!(Program("mount.fuse"));
    let daemon = Daemon::start();
    let body = json!({"Name": "data", "Opts": {"device": NOWHERE[0].1}}).to_string();
    let whole = format!(
        "POST /VolumeDriver.Create HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for cut in 0..whole.len() {
        let mut connection = daemon.connect();
        connection.send_bytes(&whole.as_bytes()[..cut]).unwrap();
    }
    assert_eq!(daemon.names(), [""; 0]);
    let mut connection = daemon.connect();
    connection.send_bytes(whole.as_bytes()).unwrap();
    assert_eq!(connection.receive().unwrap().status, 200);
    assert_eq!(daemon.names(), ["data"]);
}

#[test]
fn a_request_that_takes_too_long_is_given_up_and_holds_up_nobody() {
    let daemon = Daemon::start();
    let halves = [
        "POST /Plugin.Activate HTTP/1.1\r\nX-Slow: ",
        "POST /VolumeDriver.List HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    ];
    let mut slow: Vec<Connection> = (0..50).map(|_| daemon.connect()).collect();
    for (connection, half) in slow.iter_mut().zip(halves.iter().cycle()) {
        connection.send_bytes(half.as_bytes()).unwrap();
    }
    assert!(daemon.answers());
    for connection in &mut slow {
        connection.read_timeout(Duration::from_secs(60));
        match connection.receive() {
            Ok(response) if response.status == 500 => {
                assert_eq!(response.json()["Err"], "the request body did not arrive within 30 s");
            }
            answer => assert_ne!(answer.map_or(0, |response| response.status), 200),
        }
    }
}

#[test]
fn idle_connections_hold_up_nobody() {
    let daemon = Daemon::start();
    let mut idle: Vec<Connection> = (0..200).map(|_| daemon.connect()).collect();
    for connection in &mut idle {
        assert_eq!(connection.request("POST", "Plugin.Activate", &[], b"").unwrap().status, 200);
    }
    assert!(daemon.answers());
    for connection in &mut idle {
        assert_eq!(connection.request("POST", "VolumeDriver.List", &[], b"{}").unwrap().status, 200);
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let daemon = Daemon::start();
    let mut connection = daemon.connect();
    let calls = ["Plugin.Activate", "VolumeDriver.Get", "VolumeDriver.Capabilities", "VolumeDriver.List"];
    for call in calls {
        connection.send("POST", call, &[], b"{}").unwrap();
    }
    let answers = calls.map(|_| connection.receive().unwrap());
    assert_eq!(answers.each_ref().map(|answer| answer.status), [200, 500, 200, 200]);
    assert_eq!(answers[0].json(), json!({"Implements": ["VolumeDriver"]}));
    assert_eq!(answers[2].json(), json!({"Capabilities": {"Scope": "local"}}));
    assert_eq!(answers[3].json(), json!({"Volumes": [], "Err": ""}));
}

#[test]
fn http_1_0_is_answered_and_hung_up_on() {
    let daemon = Daemon::start();
    let answer = talk(&daemon, b"POST /Plugin.Activate HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with(r#"{"Implements":["VolumeDriver"]}"#), "{answer}");
}

#[test]
fn chunked_bodies_and_a_clients_expectation_are_met() {
    let daemon = Daemon::start();
    let chunked = b"POST /VolumeDriver.List HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n";
    assert!(talk(&daemon, chunked).starts_with("HTTP/1.1 200 OK\r\n"));
    let expecting = b"POST /VolumeDriver.List HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}";
    let answer = talk(&daemon, expecting);
    assert!(answer.contains("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn what_is_no_http_is_hung_up_on() {
    let daemon = Daemon::start();
    let long = [b"POST /", vec![b'x'; 200_000].as_slice(), b" HTTP/1.1\r\n\r\n"].concat();
    let many = [b"POST / HTTP/1.1\r\n".to_vec(), b"X: y\r\n".repeat(1000), b"\r\n".to_vec()].concat();
    let bad: &[&[u8]] = &[
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /Plugin.Activate HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /Plugin.Activate HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /Plugin.Activate HTTP/9.9\r\n\r\n",
        b"POST /Plugin.Activate HTTP/1.1\r\nBad Header: x\r\n\r\n",
        &many,
    ];
    for bytes in bad {
        let answer = talk(&daemon, bytes);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer:?}");
    }
    let mut stream = UnixStream::connect(daemon.sock()).unwrap();
    _ = stream.write_all(&long);
    _ = stream.read_to_end(&mut vec![]);
    assert!(daemon.answers());
}

#[test]
fn other_methods_and_paths_are_told_what_there_is() {
    let daemon = Daemon::start();
    let cases = [
        ("GET", "VolumeDriver.List", 405),
        ("PUT", "VolumeDriver.Create", 405),
        ("DELETE", "Plugin.Activate", 405),
        ("POST", "VolumeDriver.Snapshot", 404),
        ("POST", "volumedriver.list", 404),
        ("POST", "VolumeDriver.List/", 404),
        ("POST", "VolumeDriver.List/../VolumeDriver.Get", 404),
        ("POST", "", 404),
        ("POST", "%2e%2e%0a", 404),
        ("GET", "metrics", 405),
    ];
    for (method, path, status) in cases {
        let response = daemon.raw(method, path, &[], b"{}");
        assert_eq!(response.status, status, "{method} /{path}");
        let words = response.json()["Err"].as_str().unwrap().to_owned();
        assert!(words.contains("use POST /VolumeDriver.Create, "), "{words}");
    }
    let response = daemon.raw("POST", "VolumeDriver.List?page=2", &[], b"{}");
    assert_eq!(response.status, 200);
}
