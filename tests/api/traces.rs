//! Requests traced as OpenTelemetry does, to a collector that understands it.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Instant,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as AnyValue},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;
use serde_json::json;

use crate::{
    CHAT, COMPLETIONS, MODEL, chat, completion,
    server::{LIMIT, Server, run, wait_for},
};

/// The client's own trace and span (W3C Trace Context).
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// One message that came to the collector.
struct Received {
    path: String,
    headers: HashMap<String, String>,
    content: ExportTraceServiceRequest,
}

/// Listens as a collector does; every message that comes.
fn collector() -> (String, Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let (tell, received) = channel();
    thread::spawn(move || listener.incoming().flatten().for_each(|connection| take(connection, &tell)));
    (address, received)
}

fn take(connection: TcpStream, tell: &Sender<Received>) {
    let mut reader = BufReader::new(&connection);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a request");
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    for line in reader.by_ref().lines() {
        let line = line.expect("a header");
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().expect("a length")];
    reader.read_exact(&mut body).expect("a body");
    (&connection).write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").expect("an answer");
    let content = ExportTraceServiceRequest::decode(&*body).expect("protobuf");
    // Who asked may be gone.
    let _ = tell.send(Received { path, headers, content });
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name).and_then(|found| found.value.clone());
    match found.and_then(|value| value.value) {
        Some(AnyValue::StringValue(text)) => text,
        Some(AnyValue::IntValue(number)) => number.to_string(),
        other => panic!("{name} is {other:?} among {attributes:?}"),
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All spans of the messages, the first of which comes within the limit.
fn spans(received: &Receiver<Received>, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
    let (mut spans, since) = (Vec::new(), Instant::now());
    while !enough(&spans) {
        let left = LIMIT.saturating_sub(since.elapsed());
        let message = received.recv_timeout(left).unwrap_or_else(|_| panic!("only these spans came: {spans:#?}"));
        let resources = message.content.resource_spans.into_iter();
        spans.extend(resources.flat_map(|of| of.scope_spans).flat_map(|of| of.spans));
    }
    spans
}

fn serve(flags: &[&str], variables: &[(&str, &str)]) -> Server {
    // Spans leave soon after they end.
    let variables = [&[("OTEL_BSP_SCHEDULE_DELAY", "50")], variables].concat();
    let model = crate::server::golden(MODEL);
    Server::start_with(&[&["--model", model.to_str().expect("UTF-8")], flags].concat(), &variables)
}

#[test]
fn a_streamed_chat_is_traced_to_its_end_below_its_clients_span() {
    let (address, received) = collector();
    let variables = [
        ("TRACES_ENABLE", "true"),
        ("TRACES_EXPORTER", "otlp"),
        ("EXPORTER_OTLP_ENDPOINT", address.as_str()),
        ("EXPORTER_OTLP_HEADERS", "Authentication=Tsecret"),
        ("FD_SERVICE_NAME", "chats"),
        ("FD_HOST_NAME", "node-7"),
    ];
    let server = serve(&["--served-model-name", "tiny"], &variables);
    let mut answer = ureq::post(&server.url(CHAT))
        .header("traceparent", &format!("00-{TRACE}-{PARENT}-01"))
        .send(chat(json!({"stream": true, "max_tokens": 5, "ignore_eos": true})).to_string())
        .expect("an answer");
    answer.body_mut().read_to_string().expect("a stream");
    let first = received.recv_timeout(LIMIT).expect("a message");
    assert_eq!((first.path.as_str(), first.headers["authentication"].as_str()), ("/v1/traces", "Tsecret"));
    let resource = &first.content.resource_spans[0].resource.as_ref().expect("a resource").attributes;
    assert_eq!((text(resource, "service.name"), text(resource, "host.name")), ("chats".into(), "node-7".into()));
    let mut all: Vec<Span> =
        first.content.resource_spans.into_iter().flat_map(|of| of.scope_spans).flat_map(|of| of.spans).collect();
    all.extend(spans(&received, |more| all.len() + more.len() >= 4));
    let named = |name: &str| all.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}: {all:#?}"));
    let request = named("POST /v1/chat/completions");
    assert_eq!((hex(&request.trace_id), hex(&request.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!(request.kind, SpanKind::Server as i32);
    for (name, expected) in
        [("http.response.status_code", "200"), ("gen_ai.response.model", "tiny"), ("gen_ai.usage.output_tokens", "5")]
    {
        assert_eq!(text(&request.attributes, name), expected, "{name}");
    }
    assert!(text(&request.attributes, "gen_ai.response.id").starts_with("chatcmpl-"));
    assert_eq!(
        request.events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(),
        ["first_chunk", "last_chunk"]
    );
    let parts = ["queue", "prefill", "decode"].map(named);
    let mut until = request.start_time_unix_nano;
    for part in parts {
        assert_eq!((&part.trace_id, &part.parent_span_id), (&request.trace_id, &request.span_id), "{}", part.name);
        assert!(until <= part.start_time_unix_nano && part.start_time_unix_nano <= part.end_time_unix_nano);
        until = part.end_time_unix_nano;
    }
    assert!(until <= request.end_time_unix_nano, "a stream's span ends with the stream");
    assert_eq!(text(&parts[2].attributes, "gen_ai.response.finish_reason"), "length");
}

#[test]
fn refusals_are_traced_and_reading_is_not() {
    let (address, received) = collector();
    let server = serve(&["--otlp-traces-endpoint", &address], &[]);
    assert_eq!(server.get("/health").0, 200);
    assert_eq!(server.post_text(COMPLETIONS, "{").0, 400);
    assert_eq!(server.post(COMPLETIONS, &completion(json!({"n": 2}))).0, 200);
    let all = spans(&received, |spans| spans.iter().filter(|span| span.parent_span_id.is_empty()).count() == 2);
    let mut requests = all.iter().filter(|span| span.parent_span_id.is_empty());
    let (refused, answered) = (requests.next().expect("two"), requests.next().expect("two"));
    assert_eq!((refused.name.as_str(), answered.name.as_str()), ("POST /v1/completions", "POST /v1/completions"));
    assert_eq!(text(&refused.attributes, "http.response.status_code"), "400");
    // A client's fault is no error of the server's.
    let is_error = |span: &Span| span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
    assert!(!all.iter().any(is_error), "{all:#?}");
    assert_eq!(text(&answered.attributes, "gen_ai.usage.output_tokens"), "8");
    assert_eq!(all.iter().filter(|span| span.name == "decode" && span.parent_span_id == answered.span_id).count(), 2);
}

#[test]
fn a_collector_that_is_gone_costs_no_request_anything() {
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let mut server = serve(&["--otlp-traces-endpoint", &format!("http://{gone}")], &[]);
    for _ in 0..3 {
        server.ok(COMPLETIONS, &completion(json!({})));
    }
    wait_for("the log to tell", || server.log("server.log").contains("takes no traces").then_some(()));
    assert_eq!(server.log("server.log").matches("takes no traces").count(), 1, "once, not for each message");
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn without_a_collector_spans_are_lines_of_the_log() {
    let server = serve(&["--trace-enable"], &[]);
    server.ok(COMPLETIONS, &completion(json!({})));
    wait_for("the request's line", || {
        server
            .log("server.log")
            .lines()
            .find(|line| line.contains("POST /v1/completions") && line.contains("span="))
            .map(drop)
    });
}

#[test]
fn a_protocol_that_is_not_spoken_is_refused_by_name() {
    let model = crate::server::golden(MODEL);
    let flags = ["serve", "--port", "0", "--model", model.to_str().expect("UTF-8")];
    let (code, _, said) = run(&[&flags[..], &["--otlp-traces-endpoint", "collector:4318"]].concat());
    assert!(code == 2 && said.contains("http://"), "{code}: {said}");
}
