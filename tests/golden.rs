//! The whole server against the independent reference: every golden model of the families served, at every rank count
//! that its heads allow, alone and many at once, with chunked prefill, with a KV pool so small that sequences are
//! preempted, with the prefix cache on and off.
//!
//! Tolerances. The reference is float32 arithmetic over the stored weights, and so is the CPU backend: log-probabilities
//! agree within 2e-3 (sums over 64 to 1536 inputs in another order; seen: below 1e-4), and a greedy token must be the
//! reference's wherever the reference's margin between first and second exceeds 5e-3 in logits.

mod server;

use serde_json::{Value, json};
use server::{Server, golden};

const LOGPROB_TOLERANCE: f64 = 2e-3;
const MARGIN_TOLERANCE: f64 = 5e-3;

/// One prompt and what the reference made of it.
struct Case {
    name: String,
    prompt_ids: Value,
    greedy: Value,
}

fn cases(path: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(golden(path).join("golden.json")).expect("a golden file");
    let file: Value = serde_json::from_str(&text).expect("JSON");
    let list = file["cases"].as_array().expect("cases");
    let case = |c: &Value| Case {
        name: format!("{path} {}", c["name"].as_str().unwrap_or("?")),
        prompt_ids: c["prompt_ids"].clone(),
        greedy: c["greedy"].clone(),
    };
    list.iter().map(case).collect()
}

impl Case {
    fn ask(&self, server: &Server) -> Value {
        let body = json!({
            "prompt": self.prompt_ids, "max_tokens": self.length(), "temperature": 0, "ignore_eos": true,
            "logprobs": 0, "return_token_ids": true,
        });
        server.ok("/v1/completions", &body)
    }

    fn length(&self) -> usize {
        self.greedy["ids"].as_array().expect("ids").len()
    }

    /// Compares up to the first token that the reference itself found too close to call.
    fn check(&self, answer: &Value, setting: &str) {
        let choice = &answer["choices"][0];
        let ids = choice["completion_token_ids"].as_array().expect("completion_token_ids");
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().expect("token_logprobs");
        assert_eq!(ids.len(), self.length(), "{} [{setting}]: length", self.name);
        for (i, id) in ids.iter().enumerate() {
            let close = self.greedy["margins"][i].as_f64().expect("margin") <= MARGIN_TOLERANCE;
            if *id != self.greedy["ids"][i] {
                assert!(close, "{} [{setting}]: token {i} is {id}, not {}", self.name, self.greedy["ids"][i]);
                return;
            }
            let (got, want) = (logprobs[i].as_f64().expect("logprob"), self.greedy["logprobs"][i].as_f64().unwrap());
            let off = (got - want).abs();
            assert!(off <= LOGPROB_TOLERANCE, "{} [{setting}]: log-probability {i} is {got}, not {want}", self.name);
        }
    }
}

/// Every case alone, then all of them at once (several times over, so that they compete), must equal the reference.
fn check(model: &str, file: &str, flags: &[&str]) -> Server {
    let cases = cases(model);
    let server = Server::of_golden(&format!("{model}{file}"), &[&["--enable-logprob"], flags].concat());
    let setting = flags.join(" ");
    for case in &cases {
        case.check(&case.ask(&server), &setting);
    }
    std::thread::scope(|scope| {
        for case in cases.iter().chain(&cases).chain(&cases) {
            let (server, setting) = (&server, &setting);
            scope.spawn(move || case.check(&case.ask(server), &format!("{setting}, together")));
        }
    });
    server
}

const MODELS: [(&str, &[&str]); 4] = [
    ("models/llama_basic", &["1", "2", "4", "8"]),
    ("models/llama3_rope", &["1", "2", "4", "8"]),
    ("models/ernie45", &["1", "2", "4", "8"]),
    ("models/qwen3", &["1", "2", "4"]),
];

#[test]
fn every_family_at_every_rank_count() {
    for (model, rank_counts) in MODELS {
        for ranks in rank_counts {
            check(model, "", &["--tensor-parallel-size", ranks]);
        }
    }
}

#[test]
fn heads_that_do_not_divide() {
    check("models/llama3_rope", "", &["-tp", "3"]);
    check("models/qwen3", "", &["-tp", "3"]);
}

#[test]
fn gguf_files() {
    for model in ["gguf/llama_q8_0", "gguf/llama_mixed"] {
        for ranks in ["1", "2"] {
            check(model, "/model.gguf", &["-tp", ranks]);
        }
    }
}

#[test]
fn chunked_prefill_without_prefix_cache() {
    for (model, _) in MODELS {
        check(model, "", &["-tp", "2", "--max-num-batched-tokens", "16", "--no-enable-prefix-caching"]);
    }
}

#[test]
fn small_blocks_and_prefix_cache() {
    for (model, _) in MODELS {
        let server = check(model, "", &["-tp", "2", "--block-size", "16"]);
        let hits = server.metric("vllm:prefix_cache_hits_total");
        assert!(hits > 0.0, "{model}: the repeated prompts were found in the prefix cache");
    }
}

#[test]
fn a_pool_so_small_that_sequences_are_preempted() {
    for (model, _) in MODELS {
        // The longest case needs 154 tokens: ten blocks of 16. Twelve sequences compete for fourteen.
        let flags = ["-tp", "2", "--block-size", "16", "--num-gpu-blocks-override", "14", "--max-num-seqs", "12"];
        for extra in [&["--enable-prefix-caching"], &["--no-enable-prefix-caching"]] {
            let server = check(model, "", &[&flags[..], extra].concat());
            let preempted = server.metric("vllm:num_preemptions_total");
            assert!(preempted > 0.0, "{model}: fourteen blocks were meant to be too few");
        }
    }
}
