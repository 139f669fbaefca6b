//! Asks a server for a stream over HTTP/1.1 and hands its bytes on the moment they come.
//!
//! Many requests share one thread, and a token costs one read and one clock: the client takes its time from the cores that
//! the server computes on. Each request has a connection of its own, so that none meets one that a server has just closed.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    failure::Failure,
    framing::{Chunk, Framing},
};
use crate::remote::{Answer, Remote};

/// Bytes that are read at once at most.
const READ_BYTES: usize = 16 << 10;
/// The longest head of an answer, bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Header lines of an answer.
const HEADERS_MAX: usize = 64;
/// What is read of an answer that refuses, bytes.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// A server that is asked for streams.
#[derive(Debug, Clone)]
pub struct Client {
    addresses: Vec<SocketAddr>,
    /// As in the `Host` header.
    host: String,
    /// What stands before every path.
    base: String,
    /// A header line with its end, or nothing.
    authorization: String,
}

impl Client {
    /// Of the same server; its name is looked up once. The error is one line for people.
    pub fn new(remote: &Remote) -> Result<Self, String> {
        let url = remote.url("");
        let rest = url.trim_start_matches("http://");
        let (host, base) =
            rest.split_once('/').map_or((rest, String::new()), |(host, base)| (host, format!("/{base}")));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let looked_up = if has_port { host.to_socket_addrs() } else { format!("{host}:80").to_socket_addrs() };
        let addresses: Vec<_> = looked_up.map_err(|error| format!("{url}: {error}"))?.collect();
        let authorization = remote.authorization().map_or_else(String::new, |key| format!("Authorization: {key}\r\n"));
        if authorization.trim_end().contains(['\r', '\n']) {
            return Err("the key has a line break in it".into());
        }
        Ok(Self { addresses, host: host.to_owned(), base, authorization })
    }

    /// POST of a JSON text that requests for a stream. `take` gets the bytes of its body and the moment when they came.
    pub async fn stream(
        &self,
        path: &str,
        json: &str,
        mut take: impl FnMut(&[u8], Instant) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut connection = TcpStream::connect(&self.addresses[..]).await.map_err(Failure::Unreachable)?;
        // A request is one write; where the option can't be set, nothing is lost.
        let _ = connection.set_nodelay(true);
        // A server may refuse before it has read all, which makes the writing fail; what it said is the better reason.
        let sent = connection.write_all(self.request(path, json).as_bytes()).await;
        let mut wire = Vec::with_capacity(READ_BYTES);
        let mut head = match read_head(&mut connection, &mut wire).await {
            Ok(head) => head,
            Err(failure) => return Err(sent.err().map_or(failure, |error| Failure::BrokenOff(error.to_string()))),
        };
        if head.status != 200 {
            return Err(refusal(connection, wire, head).await);
        }
        let mut content = Vec::with_capacity(READ_BYTES);
        loop {
            let now = Instant::now();
            content.clear();
            let whole = head.framing.decode(&wire, &mut content)?;
            take(&content, now)?;
            wire.clear();
            if whole {
                return Ok(());
            }
            if read(&mut connection, &mut wire).await? == 0 {
                return match head.framing {
                    Framing::Connection => Ok(()),
                    _ => Err(Failure::BrokenOff("the connection ended".into())),
                };
            }
        }
    }

    fn request(&self, path: &str, json: &str) -> String {
        format!(
            "POST {}{path} HTTP/1.1\r\nHost: {}\r\n{}Content-Type: application/json\r\nAccept: text/event-stream\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{json}",
            self.base,
            self.host,
            self.authorization,
            json.len()
        )
    }
}

/// The head of an answer.
#[derive(Debug)]
struct Head {
    status: u16,
    framing: Framing,
}

async fn read(connection: &mut TcpStream, wire: &mut Vec<u8>) -> Result<usize, Failure> {
    connection.read_buf(wire).await.map_err(|error| Failure::BrokenOff(error.to_string()))
}

/// Reads up to the head's end; `wire` keeps what follows it.
async fn read_head(connection: &mut TcpStream, wire: &mut Vec<u8>) -> Result<Head, Failure> {
    loop {
        if read(connection, wire).await? == 0 {
            return Err(Failure::BrokenOff("the connection ended before an answer".into()));
        }
        if let Some((head, length)) = parse_head(wire)? {
            wire.drain(..length);
            return Ok(head);
        }
        if wire.len() > HEAD_BYTES_MAX {
            return Err(Failure::Malformed(format!("a head of more than {HEAD_BYTES_MAX} bytes")));
        }
    }
}

/// The head and its length, once all of it is there.
fn parse_head(wire: &[u8]) -> Result<Option<(Head, usize)>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let told = |error: httparse::Error| Failure::Malformed(format!("an answer that is no HTTP ({error})"));
    let httparse::Status::Complete(length) = response.parse(wire).map_err(told)? else { return Ok(None) };
    let value = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::trim)
    };
    let chunked = value("transfer-encoding").is_some_and(|coding| coding.to_ascii_lowercase().ends_with("chunked"));
    let framing = match value("content-length").map(str::parse) {
        _ if chunked => Framing::Chunked(Chunk::Length(None)),
        Some(Ok(length)) => Framing::Length(length),
        Some(Err(_)) => return Err(Failure::Malformed("a content-length that is no number".into())),
        None => Framing::Connection,
    };
    Ok(Some((Head { status: response.code.unwrap_or(0), framing }, length)))
}

/// What a server says that refuses.
async fn refusal(mut connection: TcpStream, mut wire: Vec<u8>, mut head: Head) -> Failure {
    let mut content = Vec::new();
    while let Ok(false) = head.framing.decode(&wire, &mut content) {
        wire.clear();
        // Half of what it says is better than nothing.
        if content.len() >= REFUSAL_BYTES_MAX || !matches!(read(&mut connection, &mut wire).await, Ok(1..)) {
            break;
        }
    }
    let text = String::from_utf8_lossy(&content).into_owned();
    let status = head.status;
    let message = Answer { status, retry_after_s: None, request_id: None, text }.message();
    Failure::Refused { status, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_once_they_are_whole() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Type: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n";
        for cut in 0..wire.len() {
            let found = parse_head(&wire[..cut]).unwrap();
            assert_eq!(found.is_some(), cut >= wire.len() - 3, "cut at {cut}");
        }
        let framing = |text: &str| {
            let (head, length) = parse_head(text.as_bytes()).unwrap().unwrap();
            assert_eq!(length, text.len());
            (head.status, format!("{:?}", head.framing))
        };
        assert_eq!(framing("HTTP/1.1 429 Slow\r\ncontent-length: 7\r\n\r\n"), (429, "Length(7)".into()));
        assert_eq!(framing("HTTP/1.0 200 OK\r\n\r\n"), (200, "Connection".into()));
        assert!(parse_head(b"SSH-2.0-x\r\n\r\n").is_err());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n").is_err());
    }

    #[test]
    fn addresses_are_taken_apart() {
        let client = |url: &str| Client::new(&Remote::new(url, Some("k"), None).unwrap()).unwrap();
        let with_path = client("http://127.0.0.1:8123/gateway/v1");
        assert_eq!((with_path.host.as_str(), with_path.base.as_str()), ("127.0.0.1:8123", "/gateway"));
        assert_eq!(with_path.addresses, ["127.0.0.1:8123".parse::<SocketAddr>().unwrap()]);
        assert_eq!(client("http://127.0.0.1").addresses, ["127.0.0.1:80".parse::<SocketAddr>().unwrap()]);
        assert_eq!(client("http://[::1]").addresses, ["[::1]:80".parse::<SocketAddr>().unwrap()]);
        assert!(
            with_path.request("/v1/x", "{}").starts_with("POST /gateway/v1/x HTTP/1.1\r\nHost: 127.0.0.1:8123\r\n")
        );
        assert!(with_path.request("/v1/x", "{}").contains("\r\nAuthorization: Bearer k\r\n"));
    }
}
