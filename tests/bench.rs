//! `shardwire bench` through the real binary: what it counts and writes, never how fast anything was.

mod server;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use server::{Server, golden, run, wait_for};

const MODEL: &str = "models/llama3_rope";

/// A folder for results.
struct Results {
    folder: tempfile::TempDir,
}

impl Results {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8 path").to_owned()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("a file of results")
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).expect("JSON")
    }

    /// A bench with these words and its results in a file.
    fn bench(&self, words: &[&str]) -> (i32, String, String) {
        run(&[&["bench"], words, &["--json", &self.path("out.json")]].concat())
    }
}

fn model() -> String {
    golden(MODEL).to_str().expect("UTF-8 path").to_owned()
}

/// Requests of all rounds of a level.
fn requests(level: &Value) -> Vec<&Value> {
    let rounds = level["rounds"].as_array().expect("rounds");
    rounds.iter().flat_map(|round| round["requests"].as_array().expect("requests")).collect()
}

#[test]
fn a_load_is_counted_level_by_level() {
    let server = Server::of_golden(MODEL, &[]);
    let results = Results::new();
    let (url, plot) = (server.url("/v1"), results.path("out.svg"));
    let asked = ["--num-prompts", "4", "--input-len", "20", "--output-len", "6", "--rounds", "2", "--warmup", "3"];
    let words = ["serve", "--url", &url, "--max-concurrency", "1,3", "--plot", &plot];
    let (code, out, error) = results.bench(&[&words[..], &asked].concat());
    assert_eq!(code, 0, "{out}{error}");
    for part in ["output tokens/s", "TTFT (ms)", "ITL (ms)", "/v1/completions, 20 + 6 tokens (fixed), token ids", "PSS"]
    {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
    let all = results.json("out.json");
    assert_eq!((&all["ended"], &all["conditions"]["server"]["own"]), (&json!("whole"), &json!(false)));
    assert!(all["conditions"]["machine"]["cores_usable"].as_u64().is_some_and(|cores| cores > 0), "{all}");
    let levels = all["levels"].as_array().expect("levels");
    let open: Vec<_> = levels.iter().map(|level| level["max_concurrency"].as_u64()).collect();
    assert_eq!(open, [Some(1), Some(3)]);
    for level in levels {
        let figures = &level["figures"];
        let counted = ["requests_ok", "requests_failed", "input_tokens", "output_tokens", "requests_without_usage"]
            .map(|name| figures[name].as_u64());
        assert_eq!(counted, [Some(8), Some(0), Some(8 * 20), Some(8 * 6), Some(0)], "{figures}");
        for name in ["ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"] {
            let spread = &figures[name];
            let parts = ["mean", "p50", "p90", "p99", "max"].map(|part| spread[part].as_f64().expect("a number"));
            assert!(parts[1] <= parts[2] && parts[2] <= parts[3] && parts[3] <= parts[4], "{name}: {spread}");
        }
        for request in requests(level) {
            assert_eq!((&request["error"], &request["input_tokens"]), (&Value::Null, &json!(20)), "{request}");
            let gaps = request["itl_ms"].as_array().expect("gaps").len();
            assert!(gaps <= 5 && request["ttft_ms"].as_f64() <= request["e2e_ms"].as_f64(), "{request}");
        }
    }
    // Warm-up, probing and two levels with two rounds each: nothing else was asked for six tokens.
    assert!(server.metric("vllm:generation_tokens_total") >= f64::from(3 * 6 + 16 * 6));
    let svg = results.text("out.svg");
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>") && svg.contains("Time to first token"));
}

#[test]
fn chats_and_arrivals_are_asked_as_the_flags_say() {
    let server = Server::of_golden(MODEL, &["--served-model-name", "tiny", "--api-key", "k"]);
    let results = Results::new();
    let url = server.url("");
    let to = ["serve", "--url", &url, "--api-key", "k", "--num-prompts", "5", "--output-len", "4"];
    let chat =
        ["--endpoint", "chat", "--input-len", "40", "--request-rate", "200", "--burstiness", "2", "--model", "tiny"];
    let (code, out, error) = results.bench(&[&to[..], &chat].concat());
    assert_eq!(code, 0, "{out}{error}");
    let all = results.json("out.json");
    let level = &all["levels"][0];
    assert_eq!((&level["max_concurrency"], &level["request_rate"]), (&Value::Null, &json!(200.0)));
    assert_eq!((&level["figures"]["requests_ok"], &level["figures"]["output_tokens"]), (&json!(5), &json!(20)));
    for request in requests(level) {
        // About 40, as the server counts them, its template included.
        assert!(request["input_tokens"].as_u64().is_some_and(|tokens| (20..=60).contains(&tokens)), "{request}");
    }
}

#[test]
fn shared_prefixes_and_unequal_lengths_are_asked_as_the_flags_say() {
    let server = Server::of_golden(MODEL, &[]);
    let results = Results::new();
    let url = server.url("");
    let to = ["serve", "--url", &url, "--num-prompts", "5", "--output-len", "4"];
    let shared = ["--input-len", "200", "--shared-prefix-len", "192", "--max-concurrency", "1", "--dataset", "fixed"];
    let (code, out, error) = results.bench(&[&to[..], &shared].concat());
    assert!(code == 0 && out.contains("the first 192 shared"), "{out}{error}");
    assert!(server.metric("vllm:prefix_cache_hits_total") >= 128.0, "the server found the prefix again");
    let like_people = ["--dataset", "sharegpt-like", "--input-len", "30", "--max-concurrency", "5", "--seed", "3"];
    let (code, out, error) = results.bench(&[&to[..], &like_people].concat());
    assert_eq!(code, 0, "{out}{error}");
    let all = results.json("out.json");
    let lengths: Vec<_> = requests(&all["levels"][0]).iter().map(|request| request["input_tokens"].as_u64()).collect();
    assert!(lengths.iter().any(|&length| length != lengths[0]), "{lengths:?}");
}

#[test]
fn questions_come_out_of_a_file() {
    let server = Server::of_golden(MODEL, &[]);
    let results = Results::new();
    let turns = |question: &str, answer: &str| json!({"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]});
    let file = json!([
        turns("What is the colour of the sky at noon?", "It is blue, as everybody can see."),
        turns("Hm", "No."),
        turns("Tell me a story about a river.", "Once upon a time there was a river.")
    ]);
    fs::write(results.path("questions.json"), file.to_string()).expect("a file");
    let (url, questions) = (server.url(""), results.path("questions.json"));
    let words = ["serve", "--url", &url, "--dataset-path", &questions, "--num-prompts", "3", "--max-concurrency", "2"];
    let (code, out, error) = results.bench(&words);
    assert!(code == 0 && out.contains("questions of"), "{code} {out}{error}");
    assert_eq!(results.json("out.json")["levels"][0]["figures"]["requests_ok"], 3);
    fs::write(&questions, "{}").expect("a file");
    let (code, _, error) = results.bench(&words);
    assert!(code == 2 && error.contains("questions.json: not a JSON list"), "{code} {error}");
}

#[test]
fn throughput_is_measured_on_a_server_of_its_own() {
    let results = Results::new();
    let (model, logs) = (model(), results.path("log"));
    let own = ["throughput", "--model", &model, "--log-dir", &logs, "--tensor-parallel-size", "2"];
    let asked = ["--num-prompts", "6", "--input-len", "16", "--output-len", "4", "--range-ratio", "0.5"];
    let (code, out, error) = results.bench(&[&own[..], &asked].concat());
    assert_eq!(code, 0, "{out}{error}");
    let all = results.json("out.json");
    let (server, figures) = (&all["conditions"]["server"], &all["levels"][0]["figures"]);
    assert_eq!((&server["own"], &figures["requests_ok"]), (&json!(true), &json!(6)));
    // The server and its two ranks.
    assert_eq!(server["memory"]["processes"], 3, "{server}");
    assert!(server["memory"]["pss_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{server}");
    assert!(server["flags"].as_array().is_some_and(|flags| flags.contains(&json!("--tensor-parallel-size=2"))));
    let input = figures["input_tokens"].as_u64().expect("a count");
    assert!((6 * 8..=6 * 24).contains(&input), "{input}");
    assert!(fs::read_to_string(format!("{logs}/server.log")).expect("its log").contains("ended"), "it ended in order");
}

#[test]
fn latency_is_measured_batch_by_batch() {
    let results = Results::new();
    let (model, logs) = (model(), results.path("log"));
    let own = ["latency", "--model", &model, "--log-dir", &logs, "--input-len", "12", "--output-len", "5"];
    let (code, out, error) =
        results.bench(&[&own[..], &["--batch-size", "3", "--num-iters", "2", "--warmup", "1"]].concat());
    assert!(code == 0 && out.contains("2 of 2 batches whole"), "{code} {out}{error}");
    let all = results.json("out.json");
    let iterations = all["iterations"].as_array().expect("iterations");
    let batches: Vec<usize> =
        all["requests"].as_array().expect("batches").iter().map(|batch| batch.as_array().map_or(0, Vec::len)).collect();
    assert_eq!((iterations.len(), batches), (2, vec![3, 3]));
    for name in ["latency_ms", "prefill_ms", "ttft_ms", "itl_ms"] {
        assert!(all["figures"][name]["p99"].is_number(), "{name}: {}", all["figures"]);
    }
    assert!(all["prefill_tokens_per_s"].is_number() && all["decode_tokens_per_s"].is_number(), "{all}");
}

#[test]
fn what_a_token_costs_is_told_beside_a_bare_loop() {
    let (results, model) = (Results::new(), model());
    let words =
        ["overhead", "--model", &model, "--streams", "3", "--rounds", "2", "--input-len", "5", "--output-len", "9"];
    let (code, out, error) = results.bench(&words);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("3 streams") && out.contains("bare loop") && out.contains("rank 0's, a step"), "{out}");
    let all = results.json("out.json");
    assert_eq!((&all["streams"], &all["rounds"]), (&json!(3), &json!(2)));
    assert_eq!(all["conditions"]["server"]["devices"], json!(["null"]), "{all}");
    for part in ["server", "bare_loop"] {
        let cost = &all[part];
        assert!(cost["tokens_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{all}");
        // Tokens that are parts of a letter make no piece.
        assert!(
            cost["itl_ms"]["count"].as_u64().is_some_and(|count| (1..=2 * 3 * 8).contains(&count)),
            "{part}: {all}"
        );
        assert!(cost["process_us_per_token"].as_f64().is_some_and(|cost| cost > 0.0), "{all}");
    }
    assert!(all["server"]["engine_us_per_step"].as_f64().is_some_and(|cost| cost > 0.0), "{all}");
}

#[test]
fn what_cannot_be_measured_is_refused_in_one_line() {
    let server = Server::of_golden(MODEL, &["--served-model-name", "tiny", "--api-key", "k"]);
    let url = server.url("");
    let to = ["serve", "--url", &url, "--api-key", "k", "--num-prompts", "1"];
    let with = |more: &[&'static str]| to.iter().copied().chain(more.iter().copied()).map(str::to_owned).collect();
    let of = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<String>>();
    for (words, part) in [
        (of(&["serve", "--url", "http://127.0.0.1:1"]), "127.0.0.1:1"),
        (of(&["serve", "--url", "https://h"]), "TLS is not built in"),
        (of(&["serve", "--url", &url, "--api-key", "wrong"]), "HTTP 401"),
        (with(&["--model", "nobody"]), "nobody"),
        (with(&["--input-len", "600"]), "more than this server's 512"),
        (with(&["--shared-prefix-len", "256"]), "--shared-prefix-len 256 leaves nothing"),
        (with(&["--json", "/nowhere/out.json"]), "/nowhere/out.json: its folder does not exist"),
        (with(&["--plot", "out.png"]), ".svg"),
        (with(&["--dataset-path", "/nowhere/questions"]), "/nowhere/questions: "),
        (with(&["--extra-body", "[]"]), "must be a JSON object"),
        (with(&["--extra-body", "{\"min_p\": 3}"]), "min_p"),
        (with(&["--max-concurrency", "1,0"]), "--max-concurrency"),
        (of(&["latency", "--model", "/nowhere"]), "--model /nowhere: "),
    ] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (code, out, error) = run(&[&["bench"], &words[..]].concat());
        assert!(code == 2 && error.contains(part) && out.is_empty(), "{words:?}: {code} {out}{error}");
    }
}

/// A load that takes long, beside a server; the results' file is written at its end.
fn long_load(server: &Server, results: &Results) -> Child {
    let json = results.path("out.json");
    let words = ["bench", "serve", "--url", &server.url(""), "--num-prompts", "5000", "--output-len", "200"];
    let more = ["--input-len", "8", "--max-concurrency", "2,3", "--warmup", "0", "--json", &json];
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardwire"));
    command.args(words).args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the binary starts");
    // More than what the probing asks for: answers have come.
    wait_for("the first answers", || (server.metric("vllm:generation_tokens_total") > 1000.0).then_some(()));
    child
}

fn told(mut child: Child) -> (i32, String, String) {
    wait_for("the bench's end", || child.try_wait().expect("the child is ours"));
    let output = child.wait_with_output().expect("its output");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8 output");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[test]
fn an_interrupted_load_tells_what_there_is() {
    let (server, results) = (Server::of_golden(MODEL, &[]), Results::new());
    let child = long_load(&server, &results);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("the bench lives");
    let (code, out, error) = told(child);
    assert!(code == 130 && error.contains("interrupted") && out.contains("output tokens/s"), "{code} {out}{error}");
    let all = results.json("out.json");
    assert_eq!((&all["ended"], all["levels"].as_array().map(Vec::len)), (&json!("interrupted"), Some(1)));
    assert!(all["levels"][0]["figures"]["requests_ok"].as_u64().is_some_and(|ok| (1..5000).contains(&ok)), "{out}");
}

#[test]
fn a_server_that_dies_ends_the_load() {
    let (mut server, results) = (Server::of_golden(MODEL, &[]), Results::new());
    let child = long_load(&server, &results);
    server.signal(Signal::SIGKILL);
    server.wait();
    let (code, out, error) = told(child);
    assert!(code == 1 && error.contains("nobody listens at") && out.contains("failed: "), "{code} {out}{error}");
    let all = results.json("out.json");
    let figures = &all["levels"][0]["figures"];
    assert_eq!(all["ended"], "server_gone");
    assert!(figures["requests_ok"].as_u64() >= Some(1) && figures["requests_failed"].as_u64() >= Some(1), "{figures}");
}

/// A server that knows OpenAI's protocol just well enough: no ids, no usage, bodies that end with the connection.
fn simple_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer_simply(connection));
        }
    });
    url
}

fn answer_simply(mut connection: TcpStream) -> Option<()> {
    let (mut request, mut part) = (Vec::new(), [0; 4096]);
    let text = loop {
        let length = connection.read(&mut part).ok().filter(|&length| length > 0)?;
        request.extend_from_slice(&part[..length]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let length =
            head.to_ascii_lowercase().split("content-length: ").nth(1).map_or(0, |rest| {
                rest.split("\r\n").next().and_then(|number| number.parse::<usize>().ok()).unwrap_or(0)
            });
        if text.contains("\r\n\r\n") && body.len() >= length {
            break text;
        }
    };
    let (status, body) = match text.split(' ').nth(1)? {
        "/v1/models" => ("200 OK", json!({"data": [{"id": "simple"}]}).to_string()),
        "/v1/completions" if text.contains("\"prompt\":[") => ("400 Bad Request", "no ids here".into()),
        "/v1/completions" if text.contains("\"stream\":true") => {
            let event = |text: &str| format!("data: {}\n\n", json!({"choices": [{"text": text}]}));
            ("200 OK", format!("{}{}{}data: [DONE]\n\n", event("a"), event("b"), event("c")))
        }
        "/v1/completions" => ("200 OK", json!({"choices": [{"text": "a"}]}).to_string()),
        _ => ("404 Not Found", String::new()),
    };
    connection.write_all(format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{body}").as_bytes()).ok()
}

#[test]
fn other_servers_are_measured_by_what_they_have() {
    let results = Results::new();
    let url = simple_server();
    let (code, out, error) = results.bench(&["serve", "--url", &url, "--num-prompts", "4", "--max-concurrency", "2"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("told no usage for 4 requests") && !out.contains("PSS"), "{out}");
    let figures = &results.json("out.json")["levels"][0]["figures"];
    let counted = ["requests_ok", "output_tokens", "requests_without_usage"].map(|name| figures[name].as_u64());
    assert_eq!(counted, [Some(4), Some(12), Some(4)]);
}

#[test]
fn ranks_that_are_killed_cost_no_request_and_no_letter() {
    let results = Results::new();
    let model = model();
    let words = ["recover", "--model", &model, "-tp", "2", "--streams", "4", "--kills", "2", "--every", "1"];
    let (code, out, error) = results.bench(&[&words[..], &["--input-len", "20", "--output-len", "300"]].concat());
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("0 lost, 0 wrong texts; 2 restarts") && out.contains("kill to next token"), "{out}");
    let all = results.json("out.json");
    let counts = ["requests_lost", "texts_wrong", "restarts"].map(|name| all[name].as_u64());
    assert_eq!(counts, [Some(0), Some(0), Some(2)], "{all}");
    assert!(all["next_token_ms"]["count"].as_u64().is_some_and(|count| count > 0), "nobody was disturbed: {all}");
    assert!(all["requests"].as_u64().is_some_and(|requests| requests >= 4), "{all}");
}

#[test]
fn only_ranks_of_this_machine_are_killed() {
    let (code, _, error) = run(&["bench", "recover", "--url", &simple_server()]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("must name a Shardwire on this machine"), "{error}");
}
