//! The commands that speak to a server, through the real binary: `run-batch`, `chat`, `complete`, `collect-env`.

mod server;

use std::{
    collections::HashMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use server::{Server, golden, wait_for};

const MODEL: &str = "models/llama3_rope";

fn shardwire(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardwire"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end with this on its standard input.
fn run(arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = shardwire(arguments).stdin(Stdio::piped()).spawn().expect("the binary starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("the command reads");
    told(end_of(child))
}

fn end_of(mut child: Child) -> Output {
    wait_for("the command's end", || child.try_wait().expect("the child is ours"));
    child.wait_with_output().expect("its output")
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8 output");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// A batch in a folder of its own.
struct Batch {
    folder: tempfile::TempDir,
}

impl Batch {
    fn new(lines: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("in.jsonl"), lines.join("\n")).expect("an input file");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `run-batch` of it, with further flags.
    fn command(&self, flags: &[&str]) -> Command {
        let (input, output) = (self.path("in.jsonl"), self.path("out.jsonl"));
        let text = |path: &Path| path.to_str().expect("UTF-8 path").to_owned();
        let (input, output) = (text(&input), text(&output));
        shardwire(&[&["run-batch", "-i", &input, "-o", &output], flags].concat())
    }

    fn run(&self, flags: &[&str]) -> (i32, String, String) {
        told(end_of(self.command(flags).spawn().expect("the binary starts")))
    }

    /// As `run`, on a server of its own.
    fn run_alone(&self, flags: &[&str]) -> (i32, String, String) {
        let (model, logs) = (golden(MODEL), self.path("log"));
        let own = ["--model", model.to_str().expect("UTF-8"), "--log-dir", logs.to_str().expect("UTF-8")];
        self.run(&[&own, flags].concat())
    }

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("out.jsonl")).expect("an output file");
        assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn");
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
    }
}

fn line(custom_id: &str, url: &str, body: Value) -> String {
    json!({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).to_string()
}

fn completion(custom_id: &str, tokens: u32) -> String {
    let body = json!({"prompt": "The sky is", "max_tokens": tokens, "ignore_eos": true, "temperature": 0});
    line(custom_id, "/v1/completions", body)
}

fn chat(custom_id: &str) -> String {
    let body = json!({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4, "temperature": 0});
    line(custom_id, "/v1/chat/completions", body)
}

#[test]
fn a_batch_is_answered_by_a_server_of_its_own() {
    let embedded = line("c", "/v1/embeddings", json!({"input": "The sky is"}));
    let batch = Batch::new(&[completion("a", 4), String::new(), chat("b"), embedded]);
    let (code, out, error) = batch.run_alone(&["--tensor-parallel-size", "2"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.starts_with("3 lines: 3 answered, 0 failed; "), "{out}");
    let records: HashMap<_, _> = batch
        .records()
        .into_iter()
        .map(|record| (record["custom_id"].as_str().expect("a name").to_owned(), record))
        .collect();
    for (custom_id, object, tokens) in
        [("a", "text_completion", Some(4)), ("b", "chat.completion", Some(4)), ("c", "list", Some(0))]
    {
        let response = &records[custom_id]["response"];
        assert_eq!((&response["status_code"], &response["body"]["object"]), (&json!(200), &json!(object)));
        assert!(response["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{response}");
        assert_eq!(
            (&records[custom_id]["error"], response["body"]["usage"]["completion_tokens"].as_u64()),
            (&Value::Null, tokens)
        );
    }
    assert!(
        fs::read_to_string(batch.path("log/server.log")).expect("its log").contains("ended"),
        "the server ended in order"
    );
}

#[test]
fn a_bad_line_has_a_record_and_ends_nothing() {
    let streamed = line("streamed", "/v1/completions", json!({"prompt": "x", "stream": true}));
    let refused = line("refused", "/v1/completions", json!({"prompt": "x", "max_tokens": -1}));
    let models = line("models", "/v1/models", json!({}));
    let nameless = json!({"url": "/v1/completions", "body": {}}).to_string();
    let lines =
        ["{".into(), nameless, models, streamed, refused, completion("good", 2), completion("good", 3), chat("last")];
    let server = Server::of_golden(MODEL, &[]);
    let batch = Batch::new(&lines);
    // The second time nothing is left to do, and the sum of failures is the same.
    for expected in ["8 lines: 2 answered, 6 failed; ", "8 lines: 0 answered, 0 failed, 8 done before; "] {
        let (code, out, error) = batch.run(&["--url", &server.url("")]);
        assert!(code == 1 && out.starts_with(expected) && error.contains("6 lines have errors"), "{code} {out}{error}");
        let mut codes: Vec<_> =
            batch.records().iter().map(|record| record["error"]["code"].as_str().unwrap_or("").to_owned()).collect();
        codes.sort();
        let expected = [
            "",
            "",
            "duplicate_custom_id",
            "invalid_body",
            "invalid_json",
            "invalid_url",
            "invalid_value",
            "missing_custom_id",
        ];
        assert_eq!(codes, expected);
    }
    let records = batch.records();
    let refused = records.iter().find(|record| record["custom_id"] == "refused").expect("a record");
    assert_eq!(refused["response"]["status_code"], 400);
    assert!(refused["error"]["message"].as_str().is_some_and(|message| message.contains("max_tokens")), "{refused}");
}

#[test]
fn a_killed_batch_goes_on_where_it_ended() {
    let server = Server::of_golden(MODEL, &["--max-num-seqs", "2"]);
    let names: Vec<String> = (0..60).map(|number| format!("request-{number}")).collect();
    let batch = Batch::new(&names.iter().map(|name| completion(name, 100)).collect::<Vec<_>>());
    let url = server.url("");
    let flags = ["--url", url.as_str(), "--parallel", "4"];
    let mut child = batch.command(&flags).spawn().expect("the binary starts");
    let lines = || fs::read_to_string(batch.path("out.jsonl")).unwrap_or_default().lines().count();
    wait_for("the first answers", || (lines() >= 5).then_some(()));
    child.kill().expect("the run lives");
    child.wait().expect("the run ends");
    let before = lines();
    assert!(before < names.len(), "it was killed too late");
    // A crash may tear the line that was being written.
    let mut output = fs::OpenOptions::new().append(true).open(batch.path("out.jsonl")).expect("the output");
    output.write_all(br#"{"id":"batch_req_1234","custom_id":"requ"#).expect("a torn line");
    let (code, out, error) = batch.run(&flags);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains(" done before; "), "{out}");
    let mut found: Vec<_> =
        batch.records().iter().map(|record| record["custom_id"].as_str().expect("a name").to_owned()).collect();
    let mut expected = names.clone();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "each request is answered once");
}

#[test]
fn an_interrupted_batch_ends_its_server_and_can_go_on() {
    let names: Vec<String> = (0..200).map(|number| format!("request-{number}")).collect();
    let batch = Batch::new(&names.iter().map(|name| completion(name, 100)).collect::<Vec<_>>());
    let (model, logs) = (golden(MODEL), batch.path("log"));
    let own =
        ["--model", model.to_str().expect("UTF-8"), "--log-dir", logs.to_str().expect("UTF-8"), "--parallel", "2"];
    let child = batch.command(&own).spawn().expect("the binary starts");
    wait_for("the first answer", || {
        fs::metadata(batch.path("out.jsonl")).is_ok_and(|meta| meta.len() > 0).then_some(())
    });
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("the run lives");
    let (code, out, error) = told(end_of(child));
    assert!(code == 130 && error.contains("the same command goes on"), "{code} {out}{error}");
    assert!(fs::read_to_string(batch.path("log/server.log")).expect("its log").contains("ended"), "{error}");
    let answered = batch.records().len();
    assert!((1..names.len()).contains(&answered), "{answered}");
}

#[test]
fn a_server_of_its_own_ends_with_a_killed_command() {
    let batch = Batch::new(&(0..50).map(|number| completion(&number.to_string(), 400)).collect::<Vec<_>>());
    let (model, logs) = (golden(MODEL), batch.path("log"));
    let own =
        ["--model", model.to_str().expect("UTF-8"), "--log-dir", logs.to_str().expect("UTF-8"), "--parallel", "2"];
    let mut child = batch.command(&own).spawn().expect("the binary starts");
    wait_for("the first answer", || {
        fs::metadata(batch.path("out.jsonl")).is_ok_and(|meta| meta.len() > 0).then_some(())
    });
    child.kill().expect("the run lives");
    child.wait().expect("the run ends");
    wait_for("its server's end", || {
        let log = fs::read_to_string(batch.path("log/server.log")).unwrap_or_default();
        log.contains("ended").then_some(())
    });
}

#[test]
fn files_and_servers_that_cannot_be_used_are_told_with_exit_code_2() {
    let batch = Batch::new(&[completion("a", 1)]);
    let input = batch.path("in.jsonl");
    let input = input.to_str().expect("UTF-8");
    fs::write(batch.path("notes"), "my notes\n").expect("a file");
    let notes = batch.path("notes");
    let notes = notes.to_str().expect("UTF-8");
    let folder = batch.folder.path().to_str().expect("UTF-8");
    for (flags, part) in [
        (vec!["-i", "/nowhere/in", "-o", notes], "/nowhere/in: "),
        (vec!["-i", folder, "-o", notes], "this is a folder"),
        (vec!["-i", input, "-o", input], "the same file"),
        (vec!["-i", input, "-o", notes], "line 1 is no record"),
        (vec!["-i", input, "-o", "/nowhere/out"], "/nowhere/out: "),
        (vec!["--input_file", input, "--output_file", "/dev/null", "--url", "https://h"], "TLS is not built in"),
        (vec!["-i", input, "-o", "/dev/null", "--url", "http://127.0.0.1:1"], "127.0.0.1:1"),
        (vec!["-i", input, "-o", "/dev/null", "--log-dir", folder, "--model", "/nowhere"], "--model /nowhere: "),
        (vec!["-i", input], "--output-file"),
    ] {
        let (code, _, error) = run(&[&["run-batch"], &flags[..]].concat(), "");
        assert!(code == 2 && error.contains(part), "{flags:?}: {code} {error}");
    }
    assert_eq!(fs::read_to_string(notes).expect("a file"), "my notes\n");
}

#[test]
fn a_chat_through_a_pipe_remembers_and_obeys() {
    let server = Server::of_golden(MODEL, &[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let saved = folder.path().join("saved.json");
    let url = server.url("");
    let command = ["chat", "--url", &url, "--max-tokens", "6", "--temperature", "0", "--system", "Be brief."];
    let input = format!("Hello!\nAnd now?\\\nBoth lines.\nForget this.\n/undo\n/nonsense\n/save {}\n", saved.display());
    let (code, out, error) = run(&command, &input);
    assert_eq!(code, 0, "{error}");
    assert!(error.contains("/nonsense: no such command") && error.contains("taken back: Forget this."), "{error}");
    let saved: Value = serde_json::from_slice(&fs::read(saved).expect("the conversation")).expect("JSON");
    let messages = saved["messages"].as_array().expect("messages");
    let said: Vec<_> = messages.iter().map(|message| message["role"].as_str().expect("a role")).collect();
    assert_eq!(said, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(messages[3]["content"], "And now?\nBoth lines.");
    assert!(out.starts_with(messages[2]["content"].as_str().expect("a text")), "{out:?} {saved}");
    // The second answer is that of the whole conversation.
    let body = json!({"messages": messages[..4], "max_tokens": 6, "temperature": 0});
    let plain = server.ok("/v1/chat/completions", &body);
    assert_eq!(plain["choices"][0]["message"]["content"], messages[4]["content"]);
}

#[test]
fn texts_are_continued_one_by_one() {
    let server = Server::of_golden(MODEL, &[]);
    let text = |prompt: &str| {
        let body = json!({"prompt": prompt, "max_tokens": 6, "temperature": 0});
        server.ok("/v1/completions", &body)["choices"][0]["text"].as_str().expect("text").to_owned()
    };
    let url = server.url("/v1");
    let command = ["complete", "--url", &url, "--max-tokens", "6", "--temperature", "0"];
    let expected = format!("{}\n{}\n", text("The sky"), text("Hello!"));
    assert_eq!(run(&command, "The sky\nHello!\n"), (0, expected, String::new()));
    let quick = [&command[..], &["--quick", "The sky"]].concat();
    assert_eq!(run(&quick, ""), (0, format!("{}\n", text("The sky")), String::new()));
    let refused = [&command[..], &["--min-p", "3"]].concat();
    let (code, out, error) = run(&refused, "The sky\nHello!\n");
    assert!(code == 1 && out.is_empty() && error.contains("min_p"), "{code} {out} {error}");
}

#[test]
fn a_key_is_sent_where_one_is_wanted() {
    let server = Server::of_golden(MODEL, &["--api-key", "k"]);
    let url = server.url("");
    let command = ["chat", "--url", &url, "--max-tokens", "2", "--quick", "Hello!"];
    assert_eq!(run(&[&command[..], &["--api-key", "k"]].concat(), "").0, 0);
    let (code, _, error) = run(&command, "");
    assert!(code == 1 && error.contains("key"), "{code} {error}");
}

#[test]
fn the_environment_is_told_without_secrets() {
    let output =
        shardwire(&["collect-env", "--json"]).env("SHARDWIRE_API_KEY", "sk-very-secret").output().expect("it runs");
    let (code, out, error) = told(output);
    assert_eq!((code, error.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&out).expect("JSON");
    for section in ["shardwire", "system", "processor", "memory", "limits", "gpus", "models", "environment"] {
        assert!(report[section].is_object(), "{section} is missing in {out}");
    }
    assert_eq!(report["shardwire"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(!out.contains("sk-very-secret") && out.contains("SHARDWIRE_API_KEY"), "{out}");
    let (code, text, _) = run(&["collect-env"], "");
    assert!(code == 0 && text.starts_with("shardwire\n  version "), "{text}");
}
