//! The span of one request, and those of its sequences.

use std::time::{Duration, Instant, SystemTime};

use actix_web::http::{
    Method,
    header::{HeaderMap, HeaderName},
};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{Span, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracer};

use super::Traces;

/// A request that is traced, cheap to clone. Its span ends with the last of them.
#[derive(Clone)]
pub struct RequestTrace {
    context: Context,
    tracer: SdkTracer,
    /// One moment on two clocks.
    begun: (SystemTime, Instant),
}

/// When one sequence came how far.
#[derive(Debug, Clone, Copy)]
pub struct SequenceTimes {
    /// It was given to the engine.
    pub submitted: Instant,
    /// It was admitted.
    pub started: Option<Instant>,
    /// Its first token came.
    pub first: Option<Instant>,
    /// It ended.
    pub ended: Instant,
}

impl Traces {
    /// Begins the span of a request to `route`; none: to a path that there isn't.
    pub fn request(&self, method: &Method, route: Option<&str>, headers: &HeaderMap) -> RequestTrace {
        let begun = (SystemTime::now(), Instant::now());
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
        let mut attributes = vec![KeyValue::new("http.request.method", method.to_string())];
        attributes.extend(route.map(|route| KeyValue::new("http.route", route.to_owned())));
        let name = route.map_or_else(|| method.to_string(), |route| format!("{method} {route}"));
        let span = self
            .tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .with_start_time(begun.0)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &parent);
        RequestTrace { context: parent.with_span(span), tracer: self.tracer.clone(), begun }
    }
}

impl RequestTrace {
    /// The answer will have this id, and be this model's.
    pub fn about(&self, id: &str, model: &str) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("gen_ai.response.id", id.to_owned()));
        span.set_attribute(KeyValue::new("gen_ai.response.model", model.to_owned()));
    }

    /// So many tokens were read and generated for it.
    pub fn used(&self, prompt_tokens: u64, completion_tokens: u64) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("gen_ai.usage.input_tokens", prompt_tokens as i64));
        span.set_attribute(KeyValue::new("gen_ai.usage.output_tokens", completion_tokens as i64));
    }

    /// Its answer has this status; a stream's first bytes say so, and it may fail later.
    pub fn answered(&self, status: u16) {
        self.context.span().set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if status >= 500 {
            self.failed(String::new());
        }
    }

    /// It came to nothing, and not by its client's fault.
    pub fn failed(&self, why: String) {
        self.context.span().set_status(Status::error(why));
    }

    /// One of its sequences has ended: where its time went. Names of attributes are vLLM's.
    pub fn sequence(&self, times: SequenceTimes, tokens: u64, ending: &'static str) {
        let SequenceTimes { submitted, started, first, ended } = times;
        let admitted = started.unwrap_or(ended);
        self.child("queue", submitted, admitted, []);
        let seconds = |until: Instant| until.duration_since(submitted).as_secs_f64();
        let span = self.context.span();
        span.set_attribute(KeyValue::new("gen_ai.latency.time_in_queue", seconds(admitted)));
        span.set_attribute(KeyValue::new("gen_ai.latency.e2e", seconds(ended)));
        let Some(started) = started else { return };
        self.child("prefill", started, first.unwrap_or(ended), []);
        let Some(first) = first else { return };
        span.set_attribute(KeyValue::new("gen_ai.latency.time_to_first_token", seconds(first)));
        // FastDeploy's names of the two.
        span.add_event_with_timestamp("first_chunk", self.at(first), Vec::new());
        span.add_event_with_timestamp("last_chunk", self.at(ended), Vec::new());
        let attributes = [
            KeyValue::new("gen_ai.usage.output_tokens", tokens as i64),
            KeyValue::new("gen_ai.response.finish_reason", ending),
        ];
        self.child("decode", first, ended, attributes);
    }

    fn child<const N: usize>(&self, name: &'static str, from: Instant, to: Instant, attributes: [KeyValue; N]) {
        let builder = self.tracer.span_builder(name).with_start_time(self.at(from)).with_attributes(attributes);
        builder.start_with_context(&self.tracer, &self.context).end_with_timestamp(self.at(to));
    }

    /// The same moment on the clock that others have too.
    fn at(&self, moment: Instant) -> SystemTime {
        let (time, instant) = self.begun;
        time + moment.checked_duration_since(instant).unwrap_or(Duration::ZERO)
    }
}

/// A request's head, where its client's span is named.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
