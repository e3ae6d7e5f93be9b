//! A plain client of the plugin's socket: HTTP/1.1 by hand, so that a test can say anything to it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// What dockerd sends as `Accept`.
pub const ACCEPT: &str = "application/vnd.docker.plugins.v1.2+json";

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The headers in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, with any chunking undone.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, asked for in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; panics when it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {:?}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection to a unix socket, kept alive. Dropping it hangs up.
pub struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects; reads time out after 130 seconds, a little more than dockerd's longest wait.
    pub fn open(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(130)))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Waits at most this long for an answer.
    pub fn read_timeout(&self, limit: Duration) {
        self.stream.get_ref().set_read_timeout(Some(limit)).unwrap();
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends a request without waiting for the answer. `Host` and `Content-Length` come by themselves unless
    /// given.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<()> {
        let given = |name: &str| headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
        let mut head = format!("{method} /{} HTTP/1.1\r\n", path.trim_start_matches('/'));
        if !given("host") {
            head += "Host: easyfuse\r\n";
        }
        if !given("content-length") && !given("transfer-encoding") {
            write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
        }
        for (key, value) in headers {
            write!(head, "{key}: {value}\r\n").unwrap();
        }
        head += "\r\n";
        self.send_bytes(&[head.as_bytes(), body].concat())
    }

    /// Reads one answer.
    pub fn receive(&mut self) -> std::io::Result<Response> {
        let broken = |what: &str| std::io::Error::other(format!("not HTTP: {what:?}"));
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| broken(&line))?;
        let mut headers = vec![];
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, body: vec![] };
        if response.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(&line, 16).map_err(|_| broken(&line))?;
                response.body.extend(self.bytes(size)?);
                self.line()?;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| broken(length))?;
            response.body = self.bytes(length)?;
        } else {
            self.stream.read_to_end(&mut response.body)?;
        }
        Ok(response)
    }

    /// Sends a request and reads its answer.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Response> {
        self.send(method, path, headers, body)?;
        self.receive()
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn bytes(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// The `VolumeDriver` API at a socket, each request on a connection of its own.
#[derive(Debug, Clone)]
pub struct Plugin {
    sock: PathBuf,
}

impl Plugin {
    /// The plugin that listens, or will listen, at `sock`.
    pub fn new(sock: impl Into<PathBuf>) -> Self {
        Self { sock: sock.into() }
    }

    /// Its socket.
    pub fn sock(&self) -> &Path {
        &self.sock
    }

    /// A new connection.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::open(&self.sock)
            .unwrap_or_else(|error| panic!("can't connect to {}: {error}", self.sock.display()))
    }

    /// Any request at all.
    #[track_caller]
    pub fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.connect()
            .request(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} /{path}: {error}"))
    }

    /// A request as dockerd makes it; `path` is `VolumeDriver.Get` and the like. A body of null is sent as
    /// none.
    #[track_caller]
    pub fn call(&self, path: &str, body: impl Into<Value>) -> (u16, Value) {
        let body = body.into();
        let bytes = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        let headers = [("Accept", ACCEPT), ("User-Agent", "Go-http-client/1.1"), ("Connection", "close")];
        let response = self.raw("POST", path, &headers, &bytes);
        (response.status, response.json())
    }

    /// [`Self::call`], with the plugin's `Err` as the error. Panics where the answer breaks the rules: an
    /// error is a 500 with words, a success is a 200 without.
    #[track_caller]
    pub fn ask(&self, path: &str, body: impl Into<Value>) -> Result<Value, String> {
        let (status, answer) = self.call(path, body);
        let words = answer["Err"].as_str().unwrap_or_default().to_owned();
        match status {
            200 if words.is_empty() => Ok(answer),
            500 if !words.is_empty() => Err(words),
            _ => panic!("{path} answered {status} with {answer}"),
        }
    }

    /// Create with options.
    #[track_caller]
    pub fn create(&self, name: &str, options: &[(&str, &str)]) -> Result<(), String> {
        let options: serde_json::Map<_, _> =
            options.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        self.ask("VolumeDriver.Create", json!({"Name": name, "Opts": options})).map(drop)
    }

    /// Mount; gives the path that containers would use.
    #[track_caller]
    pub fn mount(&self, name: &str, id: &str) -> Result<PathBuf, String> {
        self.ask("VolumeDriver.Mount", json!({"Name": name, "ID": id})).map(|answer| mountpoint(&answer))
    }

    /// Unmount.
    #[track_caller]
    pub fn unmount(&self, name: &str, id: &str) -> Result<(), String> {
        self.ask("VolumeDriver.Unmount", json!({"Name": name, "ID": id})).map(drop)
    }

    /// Remove.
    #[track_caller]
    pub fn remove(&self, name: &str) -> Result<(), String> {
        self.ask("VolumeDriver.Remove", json!({"Name": name})).map(drop)
    }

    /// Get; gives the `Volume` object.
    #[track_caller]
    pub fn get(&self, name: &str) -> Result<Value, String> {
        self.ask("VolumeDriver.Get", json!({"Name": name})).map(|mut answer| answer["Volume"].take())
    }

    /// Path; empty while not mounted.
    #[track_caller]
    pub fn path(&self, name: &str) -> Result<PathBuf, String> {
        self.ask("VolumeDriver.Path", json!({"Name": name})).map(|answer| mountpoint(&answer))
    }

    /// List; gives the `Volumes`.
    #[track_caller]
    pub fn list(&self) -> Vec<Value> {
        let answer = self.ask("VolumeDriver.List", json!({})).unwrap();
        answer["Volumes"].as_array().unwrap_or_else(|| panic!("no Volumes in {answer}")).clone()
    }

    /// The names that List gives, sorted.
    #[track_caller]
    pub fn names(&self) -> Vec<String> {
        let name = |volume: &Value| volume["Name"].as_str().unwrap().to_owned();
        let mut names: Vec<String> = self.list().iter().map(name).collect();
        names.sort();
        names
    }
}

fn mountpoint(answer: &Value) -> PathBuf {
    answer["Mountpoint"].as_str().unwrap_or_default().into()
}
