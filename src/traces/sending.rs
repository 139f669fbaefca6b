//! How messages get to a collector.

use std::{
    future::{self, Future},
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use opentelemetry_http::{Bytes, HttpClient, HttpError};
use ureq::{
    Agent,
    http::{Request, Response},
    tls::TlsConfig,
};

use crate::hub::root_certificates;

/// How long a message may take to be taken.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// The longest answer that is read, bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Sends from the thread that calls it, which is the exporter's own.
#[derive(Debug)]
pub struct Sender {
    agent: Agent,
    url: String,
    /// Whether the last message was not taken: the log tells when that changes, not every time.
    fails: AtomicBool,
}

impl Sender {
    /// Nothing is sent yet.
    pub fn new(url: &str) -> Result<Self, String> {
        let certificates = root_certificates().map_err(|error| error.to_string())?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TAKEN_WITHIN))
            .tls_config(TlsConfig::builder().root_certs(certificates).build())
            .build()
            .into();
        Ok(Self { agent, url: url.to_owned(), fails: AtomicBool::new(false) })
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.agent.run(request.map(Vec::from)).map_err(HttpError::from).and_then(|response| {
            let (head, body) = response.into_parts();
            let body = body.into_with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
            Ok(Response::from_parts(head, body.into()))
        });
        self.tell(match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answered {}", response.status())),
            Err(error) => Some(error.to_string()),
        });
        sent
    }

    fn tell(&self, failure: Option<String>) {
        match (self.fails.swap(failure.is_some(), Relaxed), failure) {
            (false, Some(why)) => tracing::warn!(url = self.url, why, "the collector takes no traces: they are lost"),
            (true, None) => tracing::info!(url = self.url, "the collector takes traces again"),
            _ => {}
        }
    }
}

impl HttpClient for Sender {
    fn send_bytes<'sender, 'sending>(
        &'sender self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sending>>
    where
        'sender: 'sending,
        Self: 'sending,
    {
        Box::pin(future::ready(self.send(request)))
    }
}
