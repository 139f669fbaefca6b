//! What stands at the door: names of requests, keys, other origins, rates; and how running requests are ended from
//! outside.

use serde_json::{Value, json};
use ureq::{Body, http::Response};

use crate::{
    CHAT, COMPLETIONS, chat, completion, freeze, long_work,
    server::{LIMIT, Server, wait_for},
    start, with,
};

/// Sends a request with these headers.
fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Response<Body> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(Some(LIMIT))
        .build()
        .into();
    let mut request = ureq::http::Request::builder().method(method).uri(server.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    agent.run(request.body(body).expect("a request")).expect("the server answers")
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().expect("ASCII"))
}

fn json_of(mut response: Response<Body>) -> Value {
    serde_json::from_str(&response.body_mut().read_to_string().expect("text")).expect("JSON")
}

#[test]
fn every_answer_has_the_request_s_name() {
    let server = start(&["--api-key", "secret"]);
    let key = ("authorization", "Bearer secret");
    let long = "a".repeat(500);
    for (method, path, body, status) in [
        ("GET", "/health", Value::Null, 200),
        ("GET", "/v1/models", Value::Null, 200),
        ("POST", CHAT, chat(json!({})), 200),
        ("POST", CHAT, chat(json!({"stream": true})), 200),
        ("POST", CHAT, json!({}), 400),
        ("GET", CHAT, Value::Null, 405),
        ("GET", "/nowhere", Value::Null, 404),
    ] {
        for (given, answered) in [("mine-1", "mine-1"), ("a b\u{e9}", "a_b_"), (long.as_str(), &long[..128])] {
            let response = ask(&server, method, path, &[key, ("x-request-id", given)], &body);
            assert_eq!(
                (response.status().as_u16(), header(&response, "x-request-id")),
                (status, Some(answered)),
                "{path}"
            );
        }
    }
    let refused = ask(&server, "GET", "/v1/models", &[("x-request-id", "mine-2")], &Value::Null);
    assert_eq!((refused.status().as_u16(), header(&refused, "x-request-id")), (401, Some("mine-2")));
    let made = [0, 1].map(|_| ask(&server, "GET", "/livez", &[], &Value::Null));
    let [one, other] = made.each_ref().map(|response| header(response, "x-request-id").expect("a name was made"));
    assert!(one.len() >= 32 && one != other, "{one} {other}");
}

#[test]
fn a_key_may_be_sent_as_anthropic_s_clients_do() {
    let server = start(&["--api-key", "secret,other"]);
    for (name, value, status) in [
        ("x-api-key", "secret", 200),
        ("x-api-key", "other", 200),
        ("x-api-key", "wrong", 401),
        ("authorization", "Bearer other", 200),
        ("authorization", "Bearer ", 401),
    ] {
        let response = ask(&server, "GET", "/v1/models", &[(name, value)], &Value::Null);
        assert_eq!(response.status().as_u16(), status, "{name}: {value}");
    }
    assert_eq!(server.get("/docs").0, 200);
}

#[test]
fn the_page_for_people_needs_no_key_and_may_be_left_out() {
    let server = start(&["--api-key", "secret"]);
    for (path, kind) in [("/", "text/html"), ("/page/main.js", "text/javascript"), ("/page/icon.svg", "image/svg+xml")]
    {
        let response = ask(&server, "GET", path, &[], &Value::Null);
        assert_eq!(response.status().as_u16(), 200, "{path}");
        assert!(header(&response, "content-type").is_some_and(|told| told.starts_with(kind)), "{path}");
        assert!(header(&response, "content-security-policy").is_some_and(|told| told.contains("default-src 'self'")));
        assert_eq!(ask(&server, "HEAD", path, &[], &Value::Null).status().as_u16(), 200, "{path}");
    }
    for path in ["/page/", "/page/nothing.js", "/page/mod.rs"] {
        assert_eq!(server.get(path).0, 404, "{path}");
    }
    assert_eq!(server.get("/page").0, 401);
    let server = start(&["--disable-page"]);
    assert_eq!([server.get("/").0, server.get("/page/main.js").0, server.get("/docs").0], [404, 404, 200]);
}

#[test]
fn pages_of_other_origins_may_ask() {
    let server = start(&["--api-key", "secret"]);
    let preflight = [
        ("origin", "https://example.org"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization, content-type"),
    ];
    let response = ask(&server, "OPTIONS", CHAT, &preflight, &Value::Null);
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(header(&response, "access-control-allow-origin"), Some("*"));
    assert!(header(&response, "access-control-allow-headers").is_some_and(|allowed| allowed.contains("authorization")));
    assert_eq!(header(&response, "access-control-allow-credentials"), None);

    // A page must be able to read refusals, too.
    let refused = ask(&server, "POST", CHAT, &[("origin", "https://example.org")], &chat(json!({})));
    assert_eq!((refused.status().as_u16(), header(&refused, "access-control-allow-origin")), (401, Some("*")));
    let exposed = header(&refused, "access-control-expose-headers").expect("headers that a page may read");
    assert!(exposed.to_lowercase().contains("x-request-id"), "{exposed}");
}

#[test]
fn origins_may_be_chosen() {
    let server = start(&["--allowed-origins", r#"["https://a.org"]"#, "--allow-credentials"]);
    for (origin, allowed) in [("https://a.org", Some("https://a.org")), ("https://b.org", None)] {
        let response = ask(&server, "GET", "/v1/models", &[("origin", origin)], &Value::Null);
        assert_eq!((response.status().as_u16(), header(&response, "access-control-allow-origin")), (200, allowed));
    }
}

#[test]
fn each_key_has_its_rates() {
    let server = start(&["--api-key", "a,b", "--rate-limit-requests", "2"]);
    let ask =
        |key: &str| ask(&server, "POST", COMPLETIONS, &[("x-api-key", key)], &completion(json!({"max_tokens": 1})));
    for (key, status, remaining) in [("a", 200, "1"), ("a", 200, "0"), ("a", 429, "0"), ("b", 200, "1")] {
        let response = ask(key);
        let told = ["limit", "remaining"].map(|what| header(&response, &format!("x-ratelimit-{what}-requests")));
        assert_eq!((response.status().as_u16(), told), (status, [Some("2"), Some(remaining)]), "{key}");
        if status == 429 {
            let seconds: u32 = header(&response, "retry-after").and_then(|text| text.parse().ok()).expect("seconds");
            assert!((1..=30).contains(&seconds), "{seconds}");
            assert_eq!(json_of(response)["error"]["code"], "rate_limit_exceeded");
        }
    }
}

#[test]
fn tokens_are_paid_for_when_they_were_used() {
    let server = start(&["--rate-limit-tokens", "10"]);
    let body = completion(json!({"prompt": vec![7; 20], "max_tokens": 2, "ignore_eos": true}));
    let first = ask(&server, "POST", COMPLETIONS, &[], &body);
    assert_eq!((first.status().as_u16(), header(&first, "x-ratelimit-remaining-tokens")), (200, Some("10")));
    let second = ask(&server, "POST", COMPLETIONS, &[], &body);
    assert_eq!((second.status().as_u16(), header(&second, "x-ratelimit-remaining-tokens")), (429, Some("0")));
    // What costs nothing is not limited.
    assert_eq!(server.get("/v1/models").0, 200);
}

#[test]
fn running_requests_are_aborted_by_any_of_their_names() {
    let server = start(&[]);
    let _frozen = freeze(&server);
    for name in ["mine", "cmpl-mine", "trace-7"] {
        let body = with(long_work(), json!({"request_id": "mine"}));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ask(&server, "POST", COMPLETIONS, &[("x-request-id", "trace-7")], &body));
            wait_for("the request to be found", || {
                let answer = server.ok("/v1/abort_requests", &json!({"req_ids": [name, "unknown"]}));
                let result = &answer["result"];
                assert!(result["not_found"].as_array().is_some_and(|ids| ids.contains(&json!("unknown"))), "{answer}");
                (result["aborted"] == json!([name])).then_some(())
            });
            let answer = waiting.join().expect("an answer");
            assert_eq!((answer.status().as_u16(), &json_of(answer)["error"]["code"]), (499, &json!("request_aborted")));
        });
    }
}

#[test]
fn an_aborted_stream_ends_with_an_error() {
    let server = start(&[]);
    let mut events = server.open_stream(COMPLETIONS, &long_work());
    events.next().expect("a first event");
    let answer = server.ok("/v1/abort_requests", &json!({"abort_all": true}));
    assert_eq!(answer["result"]["aborted"].as_array().map(Vec::len), Some(1), "{answer}");
    let rest: Vec<String> = events.collect();
    let [.., error, done] = rest.as_slice() else { panic!("{rest:?}") };
    assert!(error.contains("request_aborted") && done == "[DONE]", "{error} {done}");
    wait_for("the blocks to be free", || (server.metric("fastdeploy:gpu_cache_usage_perc") == 0.0).then_some(()));
    for (body, param) in
        [(json!({}), "req_ids"), (json!({"req_ids": "a"}), "req_ids"), (json!({"abort_all": 1}), "abort_all")]
    {
        let (status, answer) = server.post("/v1/abort_requests", &body);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{answer}");
    }
}
