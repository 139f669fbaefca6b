//! Spans in the server's own log, for who has no collector.

use std::{fmt::Write, future};

use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};

/// Writes each span as a line, when it ends.
#[derive(Debug)]
pub struct Log;

impl SpanExporter for Log {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        batch.iter().for_each(write);
        future::ready(Ok(()))
    }
}

fn write(span: &SpanData) {
    let seconds = span.end_time.duration_since(span.start_time).unwrap_or_default().as_secs_f64();
    let mut attributes = String::new();
    for attribute in &span.attributes {
        let gap = if attributes.is_empty() { "" } else { " " };
        // A string takes whatever is written.
        let _ = write!(attributes, "{gap}{}={}", attribute.key, attribute.value);
    }
    let (trace, id, parent) = (span.span_context.trace_id(), span.span_context.span_id(), span.parent_span_id);
    tracing::info!(%trace, span = %id, %parent, name = %span.name, seconds, attributes, "span");
}
