//! The whole server against the independent reference: every golden model of the families served, at every rank count
//! that its heads allow, alone and many at once, with chunked prefill, with a KV pool so small that sequences are
//! preempted, with the prefix cache on and off.
//!
//! Tolerances. The reference is float32 arithmetic over the stored weights, and so is the CPU backend: log-probabilities
//! agree within 2e-3 (sums over 64 to 1536 inputs in another order; seen: below 1e-4), and a greedy token must be the
//! reference's wherever the reference's margin between first and second exceeds 5e-3 in logits. Where weights are
//! quantized, activations are rounded to 16 bits unless they are to be exact: that moves a log-probability by some 1e-3.
//! Keys and values are kept as f32 for these comparisons, but for those of the default, f16.

mod server;

use serde_json::{Value, json};
use server::{
    Server,
    cases::{Tolerance, cases, check_all, check_together, golden_file},
    smollm2, wait_for,
};

const TOLERANCE: Tolerance = Tolerance { logprob: 2e-3, margin: 5e-3 };
/// Of what is rounded to 16 bits: keys and values, or weights of 4 and 6 bits where the machine multiplies tiles.
const ROUNDED: Tolerance = Tolerance { logprob: 1e-2, margin: 2e-2 };
/// The same of the default model's thirty layers.
const WORDS: Tolerance = Tolerance { logprob: 3e-2, margin: 5e-2 };

/// A server of the model whose every case was compared.
fn check(model: &str, file: &str, flags: &[&str]) -> Server {
    let flags = [&["--enable-logprob", "--kv-cache-dtype", "f32"], flags].concat();
    let server = Server::of_golden(&format!("{model}{file}"), &flags);
    let tolerance = if model == "gguf/llama_mixed" { ROUNDED } else { TOLERANCE };
    check_all(&server, &cases(model), tolerance, &flags.join(" "));
    server
}

/// Every family, with the rank counts that divide its heads.
const MODELS: [(&str, &[&str]); 15] = [
    ("models/llama_basic", &["1", "2", "4", "8"]),
    ("models/llama3_rope", &["1", "2", "4", "8"]),
    ("models/mistral_swa", &["1", "2", "4"]),
    ("models/ernie45", &["1", "2", "4", "8"]),
    ("models/ernie45_moe", &["1", "2", "4"]),
    ("models/qwen2", &["1", "2", "4"]),
    ("models/qwen2_yarn", &["1", "2", "4"]),
    ("models/qwen3", &["1", "2", "4"]),
    ("models/qwen3_moe", &["1", "2", "4"]),
    ("models/deepseek_v3", &["1", "2", "4"]),
    ("models/deepseek_v3_yarn", &["1", "2", "4"]),
    ("models/glm4", &["1", "2", "4"]),
    ("models/glm4_moe", &["1", "2", "4", "8"]),
    ("models/gemma3_text", &["1", "2", "4"]),
    ("models/gpt_oss", &["1", "2", "4", "8"]),
];

/// One of each way to attend: all positions, a window, windows and sinks, latent vectors.
const WAYS_TO_ATTEND: [&str; 4] = ["models/llama3_rope", "models/mistral_swa", "models/gpt_oss", "models/deepseek_v3"];

#[test]
fn every_family_at_every_rank_count() {
    for (model, rank_counts) in MODELS {
        for ranks in rank_counts {
            check(model, "", &["--tensor-parallel-size", ranks]);
        }
    }
}

#[test]
fn experts_handed_out_whole() {
    for model in ["models/ernie45_moe", "models/gpt_oss"] {
        check(model, "", &["-tp", "3", "--enable-expert-parallel"]);
    }
}

#[test]
fn heads_that_do_not_divide() {
    check("models/llama3_rope", "", &["-tp", "3"]);
    check("models/qwen3", "", &["-tp", "3"]);
}

/// Keys and values as halves, which the CPU keeps unless it is told otherwise.
#[test]
fn keys_and_values_as_halves() {
    for model in WAYS_TO_ATTEND {
        let server = Server::of_golden(model, &["--enable-logprob", "-tp", "2"]);
        check_all(&server, &cases(model), ROUNDED, "f16");
    }
}

#[test]
fn gguf_files() {
    for model in ["gguf/llama_q8_0", "gguf/llama_mixed"] {
        for ranks in ["1", "2"] {
            check(model, "/model.gguf", &["-tp", ranks]);
        }
    }
}

/// Activations as integers of 8 bits: as near as those of other servers, on any number of ranks, and not as near as 16.
#[test]
fn activations_of_eight_bits() {
    const EIGHT: Tolerance = Tolerance { logprob: 0.3, margin: 0.4 };
    let model = "gguf/llama_q8_0";
    let serve = |flags: &[&str]| {
        let flags = [&["--enable-logprob", "--kv-cache-dtype", "f32"], flags].concat();
        Server::of_golden(&format!("{model}/model.gguf"), &flags)
    };
    for ranks in ["1", "2"] {
        check_all(&serve(&["--activation-bits", "8", "-tp", ranks]), &cases(model), EIGHT, ranks);
    }
    let body = json!({"prompt": [5, 6, 7], "max_tokens": 1, "temperature": 0, "logprobs": 1});
    let logprobs = |bits| {
        serve(&["--activation-bits", bits]).ok("/v1/completions", &body)["choices"][0]["logprobs"]["token_logprobs"]
            .clone()
    };
    assert_ne!(logprobs("8"), logprobs("16"));
}

#[test]
fn chunked_prefill_without_prefix_cache() {
    for model in WAYS_TO_ATTEND {
        check(model, "", &["-tp", "2", "--max-num-batched-tokens", "16", "--no-enable-prefix-caching"]);
    }
}

#[test]
fn small_blocks_and_prefix_cache() {
    for model in WAYS_TO_ATTEND {
        let server = check(model, "", &["-tp", "2", "--block-size", "16"]);
        let hits = server.metric("vllm:prefix_cache_hits_total");
        assert!(hits > 0.0, "{model}: the repeated prompts were found in the prefix cache");
    }
}

#[test]
fn a_pool_so_small_that_sequences_are_preempted() {
    for model in WAYS_TO_ATTEND {
        // The longest case needs 154 tokens: ten blocks of 16. Twelve sequences compete for fourteen.
        let flags = ["-tp", "2", "--block-size", "16", "--num-gpu-blocks-override", "14", "--max-num-seqs", "12"];
        for extra in [&["--enable-prefix-caching"], &["--no-enable-prefix-caching"]] {
            let server = check(model, "", &[&flags[..], extra].concat());
            // How many of the twelve are there at once is up to the machine: they compete until one had to give way.
            wait_for(&format!("a sequence of {model} to give way: fourteen blocks are few"), || {
                let preempted = server.metric("vllm:num_preemptions_total") > 0.0;
                if !preempted {
                    check_together(&server, &cases(model), TOLERANCE, "competing again");
                }
                preempted.then_some(())
            });
        }
    }
}

/// The default model, quantized as it ships, on two ranks that its nine heads do not divide by: prompts as its template
/// renders them, token ids, greedy continuations and the text of every chat.
#[test]
fn smollm2_and_its_chats() {
    for (dtype, tolerance) in [("auto", WORDS), ("f32", TOLERANCE)] {
        let path = smollm2();
        let model = path.to_str().expect("UTF-8 path");
        let server = Server::start(&["--model", model, "-tp", "2", "--enable-logprob", "--dtype", dtype]);
        check_all(&server, &cases("smollm2"), tolerance, &format!("-tp 2 --dtype {dtype}"));
        check_chats(&server);
    }
}

/// As the launch script starts it.
#[test]
fn smollm2_on_eight_ranks() {
    check_chats(&Server::start(&["--model", smollm2().to_str().expect("UTF-8 path"), "-tp", "8"]));
}

fn check_chats(server: &Server) {
    let file = golden_file("smollm2");
    std::thread::scope(|scope| {
        for chat in file["cases"].as_array().expect("cases") {
            scope.spawn(|| check_chat(server, chat));
        }
    });
}

fn check_chat(server: &Server, chat: &Value) {
    let body = json!({
        "messages": chat["messages"], "max_tokens": 32, "temperature": 0, "return_token_ids": true,
    });
    let answer = server.ok("/v1/chat/completions", &body);
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["prompt_token_ids"], chat["prompt_ids"], "{}: prompt", chat["name"]);
    let margins = chat["greedy"]["margins"].as_array().expect("margins");
    if margins.iter().all(|margin| margin.as_f64().expect("a number") > ROUNDED.margin) {
        assert_eq!(choice["message"]["content"], chat["text"], "{}: text", chat["name"]);
        let ended = chat["first_eos_step"].is_number();
        assert_eq!(choice["finish_reason"], if ended { "stop" } else { "length" }, "{}: end", chat["name"]);
    }
}
