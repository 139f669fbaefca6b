//! OpenAI's Responses protocol: `/v1/responses` and what is stored of it.

use serde_json::{Value, json};

use crate::{
    chat, freeze,
    server::{Server, wait_for},
    start, with,
};

const RESPONSES: &str = "/v1/responses";

/// A short greedy request with further fields.
fn ask(fields: Value) -> Value {
    with(json!({"model": "null", "input": "Hello!", "max_output_tokens": 4, "temperature": 0}), fields)
}

/// The text of a response's messages.
fn text(response: &Value) -> String {
    let items = response["output"].as_array().expect("items").iter();
    items.filter_map(|item| item["content"][0]["text"].as_str()).collect()
}

fn id(response: &Value) -> &str {
    response["id"].as_str().expect("an id")
}

fn path(response: &Value) -> String {
    format!("{RESPONSES}/{}", id(response))
}

/// The events of a stream, which must be numbered and in the order that the protocol's grammar allows.
fn events(server: &Server, body: &Value) -> Vec<Value> {
    let events = server.open_stream(RESPONSES, body).map(|event| serde_json::from_str(&event).expect("JSON"));
    let events: Vec<Value> = events.collect();
    let mut grammar = Grammar::Nothing;
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
        grammar = grammar.next(event);
    }
    assert_eq!(grammar, Grammar::End, "{events:?}");
    events
}

/// What came last, and what may therefore come next.
#[derive(Debug, Clone, PartialEq)]
enum Grammar {
    Nothing,
    Created,
    /// So many items are complete.
    Between(u64),
    /// Within an item, before its content.
    Added(u64, String),
    /// Within an item's content.
    Inside(u64, String),
    /// The content's text is complete.
    Told(u64, String),
    /// The content is complete.
    Done(u64, String),
    End,
}

impl Grammar {
    fn next(self, event: &Value) -> Self {
        let index = event["output_index"].as_u64();
        let item = |open: u64, id: &str| index == Some(open) && event["item_id"] == id && event["content_index"] == 0;
        let whole = |open: u64, id: &str| index == Some(open) && event["item"]["id"] == id;
        match (self, event["type"].as_str().expect("a type").trim_start_matches("response.")) {
            (Self::Nothing, "created") => Self::Created,
            (Self::Created, "in_progress") => Self::Between(0),
            (Self::Between(count), "output_item.added") if index == Some(count) => {
                Self::Added(count, event["item"]["id"].as_str().expect("an id").to_owned())
            }
            (Self::Added(open, id), "content_part.added") if item(open, &id) => Self::Inside(open, id),
            (Self::Inside(open, id), "output_text.delta") if item(open, &id) => Self::Inside(open, id),
            (Self::Inside(open, id), "output_text.done") if item(open, &id) => Self::Told(open, id),
            (Self::Told(open, id), "content_part.done") if item(open, &id) => Self::Done(open, id),
            (Self::Done(open, id), "output_item.done") if whole(open, &id) => Self::Between(open + 1),
            (Self::Between(_), "completed" | "incomplete") => Self::End,
            (before, _) => panic!("{event} after {before:?}"),
        }
    }
}

#[test]
fn a_response_is_the_chat_in_another_form() {
    let server = start(&[]);
    let response = server.ok(RESPONSES, &ask(json!({"metadata": {"a": "b"}, "user": "u"})));
    let same = server.ok(crate::CHAT, &chat(json!({})));
    assert_eq!(text(&response), same["choices"][0]["message"]["content"].as_str().expect("text"));
    for (name, value) in [
        ("object", json!("response")),
        ("model", same["model"].clone()),
        ("status", json!("incomplete")),
        ("incomplete_details", json!({"reason": "max_output_tokens"})),
        ("error", Value::Null),
        ("instructions", Value::Null),
        ("max_output_tokens", json!(4)),
        ("metadata", json!({"a": "b"})),
        ("parallel_tool_calls", json!(true)),
        ("temperature", json!(0.0)),
        ("text", json!({"format": {"type": "text"}})),
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("store", json!(true)),
        ("background", json!(false)),
        ("truncation", json!("disabled")),
        ("user", json!("u")),
    ] {
        assert_eq!(response[name], value, "{name}");
    }
    let usage = &response["usage"];
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&same["usage"]["prompt_tokens"], &json!(4)));
    assert_eq!(usage["total_tokens"], same["usage"]["total_tokens"]);
    assert_eq!(usage["output_tokens_details"], json!({"reasoning_tokens": 0}));
    let item = &response["output"][0];
    assert_eq!(
        (&item["type"], &item["role"], &item["status"]),
        (&json!("message"), &json!("assistant"), &json!("incomplete"))
    );
}

#[test]
fn streams_add_up_to_the_whole() {
    let server = start(&[]);
    let logprobs = json!(["message.output_text.logprobs"]);
    for fields in [
        json!({}),
        json!({"max_output_tokens": 1}),
        json!({"max_output_tokens": 60, "temperature": 1, "seed": 5, "ignore_eos": true}),
        json!({"max_output_tokens": 60, "stop": ["e", "的"], "ignore_eos": true}),
        json!({"max_output_tokens": 9, "ignore_eos": true, "include": logprobs, "top_logprobs": 2}),
    ] {
        let whole = server.ok(RESPONSES, &ask(fields.clone()));
        let events = events(&server, &ask(fields.clone()));
        let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
        let told: String = deltas.clone().filter_map(|event| event["delta"].as_str()).collect();
        assert_eq!(told, text(&whole), "{fields}");
        let last = &events.last().expect("events")["response"];
        assert_eq!((text(last), &last["status"]), (told, &whole["status"]), "{fields}");
        assert_eq!(last["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
        let entries: Vec<_> = deltas.flat_map(|event| event["logprobs"].as_array().expect("a list").clone()).collect();
        assert_eq!(json!(entries), whole["output"][0]["content"][0]["logprobs"], "{fields}");
        assert_eq!(last["output"][0]["content"][0]["logprobs"], json!(entries), "{fields}");
        let begun = &events[0]["response"];
        assert_eq!((&begun["status"], &begun["output"]), (&json!("in_progress"), &json!([])));
        assert_eq!(begun["id"], last["id"]);
    }
}

#[test]
fn a_conversation_goes_on_where_it_ended() {
    let server = start(&[]);
    let first = server.ok(RESPONSES, &ask(json!({"instructions": "Be brief."})));
    let more = json!({"previous_response_id": id(&first), "input": "Go on.", "max_output_tokens": 5});
    let second = server.ok(RESPONSES, &ask(more));
    assert_eq!(second["previous_response_id"], first["id"]);
    let messages = json!([
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": text(&first)},
        {"role": "user", "content": "Go on."},
    ]);
    let same = server.ok(crate::CHAT, &chat(json!({"messages": messages, "max_tokens": 5})));
    assert_eq!(text(&second), same["choices"][0]["message"]["content"].as_str().expect("text"), "not its instructions");
    assert_eq!(second["usage"]["input_tokens"], same["usage"]["prompt_tokens"]);

    let mut items = json!([{"role": "user", "content": "Hello!"}]);
    items.as_array_mut().expect("a list").extend(first["output"].as_array().expect("items").iter().cloned());
    items.as_array_mut().expect("a list").push(json!({"role": "user", "content": "Go on."}));
    let told = server.ok(RESPONSES, &ask(json!({"input": items, "max_output_tokens": 5, "store": false})));
    assert_eq!(text(&told), text(&second), "the same conversation, told by the client");
    items[1] = json!({"type": "item_reference", "id": first["output"][0]["id"]});
    let referred = server.ok(RESPONSES, &ask(json!({"input": items, "max_output_tokens": 5, "store": false})));
    assert_eq!(text(&referred), text(&second), "the same, with a reference");
}

#[test]
fn what_is_stored_can_be_found_and_deleted() {
    let server = start(&["--max-stored-responses", "2"]);
    let response = server.ok(
        RESPONSES,
        &ask(json!({"input": [
            {"role": "user", "content": "One."},
            {"role": "user", "content": [{"type": "input_text", "text": "Two."}]},
        ]})),
    );
    assert_eq!(server.get_json(&path(&response)), response);
    let streamed = events(&server, &ask(json!({}))).pop().expect("events")["response"].clone();
    assert_eq!(server.get_json(&path(&streamed)), streamed);

    let items = server.get_json(&format!("{}/input_items?order=asc&limit=1", path(&response)));
    assert_eq!((&items["object"], &items["has_more"]), (&json!("list"), &json!(true)));
    assert_eq!(items["data"][0]["content"], json!([{"type": "input_text", "text": "One."}]));
    assert_eq!(server.get(&format!("{}/input_items?limit=0", path(&response))).0, 400);
    assert_eq!(server.get(&format!("{}?stream=true", path(&response))).0, 400);
    assert_eq!(server.post(&format!("{}/cancel", path(&response)), &json!({})).0, 400, "it isn't in the background");

    let unstored = server.ok(RESPONSES, &ask(json!({"store": false})));
    assert_eq!(server.get(&path(&unstored)).0, 404);
    server.ok(RESPONSES, &ask(json!({})));
    assert_eq!(server.get(&path(&response)).0, 404, "the oldest is forgotten");
    let deleted = json!({"id": streamed["id"], "object": "response", "deleted": true});
    assert_eq!(server.delete(&path(&streamed)), (200, deleted));
    for gone in [path(&streamed), format!("{RESPONSES}/resp_x"), format!("{}/input_items", path(&streamed))] {
        let (status, body) = server.get(&gone);
        assert!(status == 404 && body.contains("response_not_found"), "{gone}: {body}");
    }
    assert_eq!(server.delete(&path(&streamed)).0, 404);
    assert_eq!(server.post(&format!("{RESPONSES}/resp_x/cancel"), &json!({})).0, 404);
}

#[test]
fn a_response_in_the_background_ends_by_itself() {
    let server = start(&[]);
    let begun = server.ok(RESPONSES, &ask(json!({"background": true})));
    assert_eq!((&begun["status"], &begun["output"]), (&json!("in_progress"), &json!([])));
    let ended = wait_for("its end", || {
        let now = server.get_json(&path(&begun));
        (now["status"] != "in_progress").then_some(now)
    });
    assert_eq!((&ended["status"], ended["usage"]["output_tokens"].as_u64()), (&json!("incomplete"), Some(4)));
    assert_eq!(text(&ended), text(&server.ok(RESPONSES, &ask(json!({})))));
    let told = events(&server, &ask(json!({"background": true}))).pop().expect("events")["response"].clone();
    assert_eq!((text(&told), server.get_json(&path(&told))), (text(&ended), told));
}

#[test]
fn a_response_in_the_background_can_be_cancelled() {
    let server = start(&[]);
    let frozen = freeze(&server);
    let long = || server.ok(RESPONSES, &ask(json!({"background": true, "max_output_tokens": 400, "ignore_eos": true})));
    let (cancelled, deleted) = (long(), long());
    let (status, answer) = server.post(&format!("{}/cancel", path(&cancelled)), &json!({}));
    assert_eq!((status, &answer["status"]), (200, &json!("cancelled")), "{answer}");
    assert_eq!(server.delete(&path(&deleted)).0, 200);
    drop(frozen);
    wait_for("an idle server", || (server.metric("vllm:num_requests_running") == 0.0).then_some(()));
    assert_eq!(server.get_json(&path(&cancelled))["status"], "cancelled");
    let again = server.post(&format!("{}/cancel", path(&cancelled)), &json!({}));
    assert_eq!((again.0, &again.1["status"]), (200, &json!("cancelled")));
    let next = json!({"previous_response_id": id(&deleted)});
    assert_eq!(server.post(RESPONSES, &ask(next)).0, 400);
}

#[test]
fn what_is_wrong_names_its_field() {
    let server = start(&["--served-model-name", "tiny"]);
    for (fields, param) in [
        (json!({"input": null}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}), "input"),
        (json!({"input": [{"type": "item_reference", "id": "msg_x"}]}), "input"),
        (json!({"input": "many words ".repeat(2000)}), "input"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"top_p": 2}), "top_p"),
        (json!({"top_logprobs": 99, "include": ["message.output_text.logprobs"]}), "top_logprobs"),
        (json!({"metadata": {"a": 1}}), "metadata"),
        (json!({"background": true, "store": false}), "background"),
        (json!({"conversation": "conv_x"}), "conversation"),
        (json!({"tools": [{"type": "function"}]}), "tools"),
        (json!({"tool_choice": "some"}), "tool_choice"),
        (json!({"text": {"format": {"type": "xml"}}}), "text"),
        (json!({"stream": "yes"}), "stream"),
    ] {
        let body = with(ask(json!({"model": "tiny"})), fields);
        let (status, answer) = server.post(RESPONSES, &body);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{param}: {answer}");
    }
    let previous = with(ask(json!({"model": "tiny"})), json!({"previous_response_id": "resp_x"}));
    let (status, answer) = server.post(RESPONSES, &previous);
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("previous_response_not_found")), "{answer}");
    assert_eq!(server.post(RESPONSES, &ask(json!({"model": "gpt-9"}))).0, 404);
    assert_eq!(server.post_text(RESPONSES, "nonsense").0, 400);
    server.ok(RESPONSES, &ask(json!({"model": "tiny"})));
}

#[test]
fn tools_of_other_servers_are_left_out() {
    let server = start(&[]);
    let function = json!({"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": false});
    let tools = json!([{"type": "web_search"}, function]);
    let response = server.ok(RESPONSES, &ask(json!({"tools": tools, "include": ["reasoning.encrypted_content"]})));
    assert_eq!(response["tools"], json!([function]));
}
