//! A plain client of HTTP/1.1 over a Unix socket, and the bytes themselves for those that misbehave.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Far more than any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case, in the order that they came in.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error's name, which comes with this status in problem details that are whole.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        let text = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
        let error = text("error");
        assert_eq!(text("type"), format!("urn:overlay-pool:{error}"), "{self:?}");
        assert!(!error.is_empty() && !text("title").is_empty(), "{self:?}");
        // Which what has no name of its own is called.
        assert_ne!(text("title"), "The request failed", "{self:?}");
        assert!(!text("detail").is_empty() && problem["status"] == status, "{self:?}");
        error
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client<S = UnixStream> {
    stream: BufReader<S>,
}

impl Client<TcpStream> {
    pub(crate) fn connect_to(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }
}

impl<S: Read + Write> Client<S> {
    /// The socket, for what this client doesn't do.
    pub(crate) fn stream(&mut self) -> &mut S {
        self.stream.get_mut()
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<Response> {
        self.ask("GET", path, None)
    }

    pub(crate) fn post(&mut self, path: &str, body: &Value) -> io::Result<Response> {
        self.ask("POST", path, Some(&body.to_string()))
    }

    /// Sends one request, its body as JSON, and reads the answer.
    pub(crate) fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> io::Result<Response> {
        self.send(request(method, path, body).as_bytes())?;
        self.answer()
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream().write_all(bytes)
    }

    /// Reads one answer.
    pub(crate) fn answer(&mut self) -> io::Result<Response> {
        let mut response = self.head()?;
        let mut body = Vec::new();
        if response.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk()? {
                body.extend(chunk);
            }
        } else {
            let length = response.header("content-length").map_or(Ok(0), str::parse);
            body = vec![0; length.map_err(|_| bad("content-length"))?];
            self.stream.read_exact(&mut body)?;
        }
        response.body = String::from_utf8(body).map_err(|_| bad("no UTF-8"))?;
        Ok(response)
    }

    /// Reads an answer's status and headers, and nothing of its body.
    pub(crate) fn head(&mut self) -> io::Result<Response> {
        let status = self.line()?;
        let status = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| bad("no status line"))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad("no header"))?;
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        Ok(Response { status, headers, body: String::new() })
    }

    /// Reads the next part of a body that is sent in chunks; none at its end.
    pub(crate) fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let length = self.line()?;
        let length = usize::from_str_radix(&length, 16).map_err(|_| bad("a chunk's length"))?;
        let mut chunk = vec![0; length];
        self.stream.read_exact(&mut chunk)?;
        if !self.line()?.is_empty() {
            return Err(bad("a chunk's end"));
        }
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }

    /// Whether the server closes the connection and says nothing more before.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0; 1]) {
            Ok(0) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
            Ok(_) => false,
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// Where a program that says so in its log answers who asks for metrics.
#[track_caller]
pub(crate) fn metrics_address(log: &str) -> SocketAddr {
    let said = log.split("metrics address=").nth(1).and_then(|rest| rest.lines().next());
    let said = said.unwrap_or_else(|| panic!("no address in\n{log}"));
    said.trim().parse().expect("an address")
}

/// What is told to who asks for metrics there.
#[track_caller]
pub(crate) fn scrape(address: SocketAddr) -> Response {
    let answer = Client::connect_to(address).and_then(|mut client| client.get("/metrics"));
    answer.expect("an answer")
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// The bytes of a request, its body as JSON.
pub(crate) fn request(method: &str, path: &str, body: Option<&str>) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: pool\r\n");
    if let Some(body) = body {
        head += "content-type: application/json\r\n";
        let _ = write!(head, "content-length: {}\r\n", body.len());
    }
    format!("{head}\r\n{}", body.unwrap_or_default())
}
