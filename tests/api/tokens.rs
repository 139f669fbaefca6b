//! Texts in tokens and back; and what a server tells of itself.

use serde_json::{Value, json};

use crate::{chat, server::Server, start};

#[test]
fn texts_are_tokenized_and_come_back() {
    let server = start(&[]);
    for path in ["", "/v1"] {
        let answer = server.ok(&format!("{path}/tokenize"), &json!({"prompt": "Hello you", "return_token_strs": true}));
        let tokens = answer["tokens"].as_array().expect("tokens");
        assert_eq!((&answer["count"], &answer["max_model_len"]), (&json!(tokens.len()), &json!(512)), "{answer}");
        let written: String =
            answer["token_strs"].as_array().expect("texts").iter().filter_map(Value::as_str).collect();
        assert_eq!(written, "HelloĠyou");
        let back = server.ok(&format!("{path}/detokenize"), &json!({"tokens": tokens}));
        assert_eq!(back, json!({"prompt": "Hello you"}));
    }
    assert_eq!(server.ok("/tokenize", &json!({"prompt": ""}))["token_strs"], Value::Null);
}

#[test]
fn special_tokens_are_put_around_where_the_model_wants_them() {
    let server = Server::of_golden("models/ernie45", &[]);
    let tokens = |body: Value| server.ok("/tokenize", &body)["tokens"].as_array().expect("tokens").clone();
    let with = tokens(json!({"prompt": "Hi"}));
    let without = tokens(json!({"prompt": "Hi", "add_special_tokens": false}));
    assert_eq!((with.len(), &with[1..]), (without.len() + 1, &without[..]));
}

#[test]
fn a_conversation_is_tokenized_as_a_chat_is() {
    let server = start(&[]);
    let messages = json!([{"role": "user", "content": "Hello!"}]);
    let answer = server.ok("/tokenize", &json!({"messages": messages}));
    let chat = server.ok(crate::CHAT, &chat(json!({"messages": messages, "return_token_ids": true})));
    assert_eq!(answer["tokens"], chat["choices"][0]["message"]["prompt_token_ids"]);
    let open = server.ok("/tokenize", &json!({"messages": messages, "add_generation_prompt": false}));
    assert!(open["count"].as_u64() < answer["count"].as_u64(), "{open}");
}

#[test]
fn what_is_wrong_with_tokens_is_named() {
    let server = start(&["--served-model-name", "mine"]);
    for (path, body, status, param) in [
        ("/tokenize", json!({}), 400, "prompt"),
        ("/tokenize", json!({"prompt": 5}), 400, "prompt"),
        ("/tokenize", json!({"prompt": "a", "messages": []}), 400, "prompt"),
        ("/tokenize", json!({"messages": []}), 400, "messages"),
        ("/tokenize", json!({"prompt": "a", "add_special_tokens": "yes"}), 400, "add_special_tokens"),
        ("/tokenize", json!({"prompt": "a", "model": "other"}), 404, "model"),
        ("/detokenize", json!({}), 400, "tokens"),
        ("/detokenize", json!({"tokens": [5000]}), 400, "tokens"),
        ("/detokenize", json!({"tokens": "a"}), 400, "tokens"),
        ("/detokenize", json!({"tokens": [-1]}), 400, "tokens"),
    ] {
        let (got, answer) = server.post(path, &body);
        assert_eq!((got, &answer["error"]["param"]), (status, &json!(param)), "{body} → {answer}");
    }
}

#[test]
fn load_lists_the_endpoints_and_counts_the_requests() {
    let server = start(&[]);
    let load = server.get_json("/load");
    let routes = load["routes"].as_array().expect("a list");
    let chat = routes.iter().find(|route| route["path"] == crate::CHAT).expect("chats");
    assert_eq!((&chat["methods"], &load["server_load"]), (&json!(["POST"]), &json!(0)));
    assert!(routes.iter().all(|route| route["path"].as_str().is_some_and(|path| path.starts_with("/v1"))), "{load}");
}

/// Every path that is described answers, and says so to a wrong method.
#[test]
fn the_description_is_of_this_server() {
    let server = start(&[]);
    let description = server.get_json("/openapi.json");
    for (path, methods) in description["paths"].as_object().expect("paths") {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let url = server.url(&path.replace("{name}", "x").replace("{id}", "x").replace("{response_id}", "x"));
        let answer = agent.patch(&url).send_empty().expect("the server answers");
        let allowed = answer.headers().get("allow").expect("a list of methods").to_str().expect("ASCII");
        assert_eq!(answer.status().as_u16(), 405, "{path}");
        for method in methods.as_object().expect("methods").keys() {
            assert!(
                allowed.split(", ").any(|allowed| allowed.eq_ignore_ascii_case(method)),
                "{method} {path}: {allowed}"
            );
        }
    }
    let (status, page) = server.get("/docs");
    assert!(status == 200 && page.contains("openapi.json") && !page.contains("http://") && !page.contains("https://"));
}
