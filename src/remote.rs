//! A server as its clients among our own commands see it: an address and a key, asked over HTTP.

use std::{
    io::{BufRead, BufReader, Read},
    net::IpAddr,
    time::Duration,
};

use ureq::{Agent, Body, RequestBuilder, config::Config, http::Response};

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The longest answer that is read, bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
/// The longest line of an event stream that is read, bytes.
const EVENT_BYTES_MAX: u64 = 64 << 20;

/// A server that can be asked.
#[derive(Debug, Clone)]
pub struct Remote {
    agent: Agent,
    url: String,
    authorization: Option<String>,
}

/// What a server answered, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After`, where the server names seconds.
    pub retry_after_s: Option<u64>,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
    /// The body.
    pub text: String,
}

/// The events of a stream, each its `data:`; dropping it closes the connection, which ends the answer.
pub struct Events(BufReader<Box<dyn Read + Send>>);

impl Remote {
    /// The server at this address, for instance `http://127.0.0.1:8000` (`/v1` behind it and a missing scheme are fine).
    /// `answer_within` bounds a whole answer. The error is one line for people.
    pub fn new(url: &str, api_key: Option<&str>, answer_within: Option<Duration>) -> Result<Self, String> {
        let url = address(url)?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_global(answer_within)
            .max_idle_connections_per_host(64);
        if is_this_machine(&url) {
            config = config.proxy(None);
        }
        let config: Config = config.build();
        Ok(Self { agent: config.new_agent(), url, authorization: api_key.map(authorization) })
    }

    /// The address of `path`, for messages.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// The `Authorization` that is sent.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// Whether it runs on this machine, as its address says.
    pub fn is_here(&self) -> bool {
        is_this_machine(&self.url)
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Answer, ureq::Error> {
        read(self.keyed(self.agent.get(self.url(path))).call()?)
    }

    /// POST of a JSON text.
    pub fn post(&self, path: &str, json: &str) -> Result<Answer, ureq::Error> {
        read(self.send(path, json)?)
    }

    /// POST of a JSON text that asks for a stream: its events, or the answer where the server refused.
    pub fn stream(&self, path: &str, json: &str) -> Result<Result<Events, Answer>, ureq::Error> {
        let response = self.send(path, json)?;
        if !response.status().is_success() {
            return read(response).map(Err);
        }
        Ok(Ok(Events(BufReader::new(Box::new(response.into_body().into_reader())))))
    }

    fn send(&self, path: &str, json: &str) -> Result<Response<Body>, ureq::Error> {
        self.keyed(self.agent.post(self.url(path))).header("Content-Type", "application/json").send(json)
    }

    fn keyed<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.authorization {
            Some(authorization) => request.header("Authorization", authorization),
            None => request,
        }
    }
}

impl Answer {
    /// What an error body says; the body itself where it is none.
    pub fn message(&self) -> String {
        let body: Option<serde_json::Value> = serde_json::from_str(&self.text).ok();
        let message = body.as_ref().and_then(|body| body["error"]["message"].as_str());
        let text = message.unwrap_or(&self.text).trim();
        match text.is_empty() {
            true => format!("HTTP status {}", self.status),
            false => text.chars().take(2000).collect(),
        }
    }
}

impl Iterator for Events {
    type Item = std::io::Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut line = Vec::new();
            match (&mut self.0).take(EVENT_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) => {
                    let line = String::from_utf8_lossy(&line);
                    if let Some(data) = line.strip_prefix("data:") {
                        return Some(Ok(data.trim().to_owned()));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The variable may hold a server's whole list of keys; any of them will do.
fn authorization(keys: &str) -> String {
    format!("Bearer {}", keys.split(',').next().unwrap_or_default().trim())
}

fn address(url: &str) -> Result<String, String> {
    let url = url.trim();
    if let Some((scheme, "" | "/")) = url.split_once("://") {
        return Err(format!("{scheme}://: the server's name is missing; write for instance http://127.0.0.1:8000"));
    }
    let url = url.trim_end_matches('/');
    let url = url.strip_suffix("/v1").unwrap_or(url).trim_end_matches('/');
    match url.split_once("://") {
        None if url.is_empty() => Err("the server's address is empty; write for instance http://127.0.0.1:8000".into()),
        None => Ok(format!("http://{url}")),
        Some(("http", _)) => Ok(url.to_owned()),
        Some(("https", _)) => Err(format!(
            "{url}: TLS is not built in; put a local proxy in front that speaks it (for instance `socat` or `stunnel`) and \
             name that with http://"
        )),
        Some(_) => Err(format!("{url}: only http:// is spoken; write for instance http://127.0.0.1:8000")),
    }
}

/// A proxy of the environment has no business between us and ourselves.
fn is_this_machine(url: &str) -> bool {
    let host = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn read(mut response: Response<Body>) -> Result<Answer, ureq::Error> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (retry_after, request_id) = (header("retry-after"), header("x-request-id"));
    let status = response.status().as_u16();
    let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).lossy_utf8(true).read_to_string()?;
    Ok(Answer { status, retry_after_s: retry_after.and_then(|text| text.trim().parse().ok()), request_id, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, expected) in [
            ("http://h:8000", "http://h:8000"),
            ("h:8000/", "http://h:8000"),
            ("http://h:8000/v1/", "http://h:8000"),
            (" http://h/gateway/v1", "http://h/gateway"),
        ] {
            assert_eq!(address(text).as_deref(), Ok(expected), "{text}");
        }
        for (wrong, part) in [("https://h", "TLS"), ("ftp://h", "only http"), ("", "empty"), ("http://", "missing")] {
            assert!(address(wrong).is_err_and(|error| error.contains(part)), "{wrong}");
        }
    }

    #[test]
    fn this_machine_is_recognised() {
        for (url, expected) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1/x", true),
            ("http://localhost", true),
            ("http://h:1", false),
        ] {
            assert_eq!(is_this_machine(url), expected, "{url}");
        }
    }

    #[test]
    fn an_error_body_is_told_in_its_own_words() {
        let said =
            |text: &str| Answer { status: 500, retry_after_s: None, request_id: None, text: text.into() }.message();
        assert_eq!(said(r#"{"error": {"message": "no"}}"#), "no");
        assert_eq!(said("Bad gateway\n"), "Bad gateway");
        assert_eq!(said(""), "HTTP status 500");
    }
}
