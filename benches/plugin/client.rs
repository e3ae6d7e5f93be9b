//! A client that costs little: blocking sockets, one thread and one request in flight per connection.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// What a server may take for one answer before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request, ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Request(Vec<u8>);

impl Request {
    pub(crate) fn new(call: &str, body: &Value) -> Self {
        let body = body.to_string();
        let head = format!(
            "POST /{call} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\n\
             Accept: application/vnd.docker.plugins.v1.2+json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Self((head + &body).into_bytes())
    }

    pub(crate) fn activate() -> Self {
        Self::new("Plugin.Activate", &json!({}))
    }

    pub(crate) fn list() -> Self {
        Self::new("VolumeDriver.List", &json!({}))
    }

    pub(crate) fn create(name: &str, options: &Value) -> Self {
        Self::new("VolumeDriver.Create", &json!({ "Name": name, "Opts": options }))
    }

    /// `Get`, `Remove`, …
    pub(crate) fn named(call: &str, name: &str) -> Self {
        Self::new(&format!("VolumeDriver.{call}"), &json!({ "Name": name }))
    }

    /// `Mount` or `Unmount`, with an ID as Docker makes them.
    pub(crate) fn used(call: &str, name: &str) -> Self {
        Self::new(&format!("VolumeDriver.{call}"), &json!({ "Name": name, "ID": "5f".repeat(32) }))
    }
}

/// One keep-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    answer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(socket: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, answer: Vec::with_capacity(1 << 18) })
    }

    pub(crate) fn send(&mut self, request: &Request) -> Result<()> {
        Ok(self.stream.write_all(&request.0)?)
    }

    /// Send `request` and return the body of its answer, which has to be a good one.
    pub(crate) fn call(&mut self, request: &Request) -> Result<&[u8]> {
        self.send(request)?;
        self.answer.clear();
        let body = self.receive()?;
        let answer = &self.answer[body..];
        if !self.answer.starts_with(b"HTTP/1.1 200") {
            bail!("{}: {}", first_line(&request.0), String::from_utf8_lossy(answer));
        }
        Ok(answer)
    }

    /// Read one whole answer; returns where its body starts.
    fn receive(&mut self) -> Result<usize> {
        let mut length = None;
        let mut chunk = [0; 1 << 16];
        loop {
            let count =
                self.stream.read(&mut chunk).with_context(|| format!("no answer within {PATIENCE:?}"))?;
            if count == 0 {
                bail!("the server hung up");
            }
            self.answer.extend_from_slice(&chunk[..count]);
            if length.is_none() {
                length = parse_head(&self.answer)?;
            }
            match length {
                Some((body, Some(length))) if self.answer.len() >= body + length => return Ok(body),
                // Chunked; one request in flight, so that nothing follows the last chunk.
                Some((body, None)) if self.answer.ends_with(b"\r\n0\r\n\r\n") => return Ok(body),
                _ => {}
            }
        }
    }
}

fn first_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned()
}

/// Where the body starts, and its length if it is not chunked; nothing while the head is not whole.
fn parse_head(answer: &[u8]) -> Result<Option<(usize, Option<usize>)>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..end])?;
    for line in head.lines() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            return Ok(Some((end + 4, Some(value.trim().parse()?))));
        }
    }
    Ok(Some((end + 4, None)))
}

/// Send `requests` in turn, `rounds` times, over each of as many connections as there are lists of them; all start together.
/// Returns the wall time.
pub(crate) fn load(socket: &Path, rounds: usize, requests: &[Vec<Request>]) -> Result<Duration> {
    let mut connections =
        requests.iter().map(|_| Connection::open(socket)).collect::<Result<Vec<Connection>>>()?;
    let started = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = connections
            .iter_mut()
            .zip(requests)
            .map(|(connection, requests)| {
                scope.spawn(move || -> Result<()> {
                    for _ in 0..rounds {
                        for request in requests {
                            connection.call(request)?;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a client thread panicked"),
        })
    })?;
    Ok(started.elapsed())
}

/// How long each of `count` requests takes over one connection, sorted.
pub(crate) fn latencies(socket: &Path, count: usize, request: &Request) -> Result<Vec<Duration>> {
    let mut connection = Connection::open(socket)?;
    let mut taken = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        connection.call(request)?;
        taken.push(started.elapsed());
    }
    taken.sort_unstable();
    Ok(taken)
}
