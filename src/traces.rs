//! Traces of requests, in OpenTelemetry's terms: one span for each request, from its head to its last byte, below whatever
//! span its client names (`traceparent`), and below it how long each of its sequences waited, read its prompt and was
//! generated. FastDeploy's environment variables say whether there are traces, and where they go ([`Settings`]).
//!
//! Spans leave by a thread of their own, out of a queue that is bounded (`OTEL_BSP_MAX_QUEUE_SIZE`, 2,048 spans): what a
//! collector doesn't take in time is dropped, and no request ever waits for it.

mod log;
mod request;
mod sending;
mod settings;

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};

use self::{log::Log, sending::Sender};

pub use self::{
    request::{RequestTrace, SequenceTimes},
    settings::{Destination, Settings},
};

/// How long the last spans may take to leave when the server ends.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Where spans are begun, and from where they leave.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// Starts the thread by which they leave, if there is one.
    pub fn start(settings: &Settings) -> Result<Self, String> {
        let builder = SdkTracerProvider::builder().with_resource(resource(settings));
        let builder = match &settings.destination {
            Destination::Log => builder.with_simple_exporter(Log),
            Destination::Collector { url, headers } => {
                let exporter = SpanExporter::builder()
                    .with_http()
                    .with_http_client(Sender::new(url)?)
                    .with_endpoint(url)
                    .with_headers(headers.clone())
                    .build()
                    .map_err(|error| format!("traces can't be sent to {url}: {error}"))?;
                builder.with_batch_exporter(exporter)
            }
        };
        let provider = builder.build();
        let tracer = provider.tracer("shardwire");
        Ok(Self { provider, tracer })
    }

    /// Sends what has not left yet, within a limit. Spans that end later are lost.
    pub fn end(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_WITHIN) {
            tracing::warn!("the last traces were not sent: {error}");
        }
    }
}

/// Who traces: the service, its instance and the job it belongs to.
fn resource(settings: &Settings) -> Resource {
    let mut attributes = vec![("service.version", env!("CARGO_PKG_VERSION").to_owned())];
    let given = [("host.name", &settings.host_name), ("job_id", &settings.job_id)];
    attributes.extend(given.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    let attributes = attributes.into_iter().map(|(name, value)| opentelemetry::KeyValue::new(name, value));
    // What OTEL_RESOURCE_ATTRIBUTES says is there already.
    let builder = Resource::builder().with_attributes(attributes);
    match &settings.service_name {
        Some(name) => builder.with_service_name(name.clone()).build(),
        None => builder.build(),
    }
}
