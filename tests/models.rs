//! Models as users name and load them, through the real binary: `inspect`, quantizing at load, random weights, experts
//! handed out whole, and what can't be loaded.

mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use server::{Server, golden};

/// Exit code, standard output and standard error of a command that ends by itself.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_shardwire")).args(arguments).output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8 output");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8 path")
}

/// A golden folder, without its weights if so wanted, with one text of its config.json replaced.
fn changed(model: &str, has_weights: bool, from: &str, to: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for entry in fs::read_dir(golden(model)).expect("the golden model") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a plain name");
        if has_weights || !name.contains(".safetensors") {
            fs::copy(entry.path(), folder.path().join(name)).expect("a copy");
        }
    }
    let config = folder.path().join("config.json");
    let settings = fs::read_to_string(&config).expect("config.json");
    assert!(settings.contains(from), "{from} is in {settings}");
    fs::write(&config, settings.replacen(from, to, 1)).expect("config.json is ours");
    let path = folder.path().to_owned();
    (folder, path)
}

#[test]
fn inspect_tells_what_a_model_is_and_needs() {
    let model = golden("models/ernie45_moe");
    let (code, told, _) = run(&["inspect", text(&model), "-tp", "2"]);
    assert_eq!(code, 0);
    for expected in [
        "Ernie4_5_MoeForCausalLM",
        "3 layers, hidden size 64, vocabulary 1024",
        "4 query heads and 2 KV heads of 16",
        "8 experts of width 32, 3 per token, 64 shared, on 2 layers; MLP of width 128",
        "It fits: ",
    ] {
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
    let (code, told, _) = run(&["inspect", text(&model), "-tp", "2", "--json", "--kv-cache-dtype", "int8"]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((code, &told["experts"], &told["fits"]), (0, &json!(8), &json!(true)));
    let ranks = told["ranks"].as_array().expect("ranks");
    // Three layers, one KV head on each rank, keys and values of 16 bytes and a scale.
    assert!(ranks.len() == 2 && ranks.iter().all(|rank| rank["kv_bytes_per_token"] == 3 * 2 * (16 + 4)), "{told:#}");
    let (_, told_fp8, _) = run(&["inspect", text(&model), "-tp", "2", "--json", "--kv-cache-dtype", "fp8_e4m3"]);
    let told_fp8: Value = serde_json::from_str(&told_fp8).expect("JSON");
    assert_eq!((&told_fp8["kv_cache_dtype"], &told_fp8["ranks"][0]["kv_bytes_per_token"]), (&json!("fp8"), &json!(96)));
    let bytes = |rank: &Value| rank["weight_bytes"].as_u64().expect("bytes");
    // Routers are on every rank; all else is split.
    let whole = told["formats"].as_object().expect("formats").values().map(|format| format["bytes"].as_u64().unwrap());
    let routers = 2 * 8 * 64 * 4;
    assert_eq!(ranks.iter().map(bytes).sum::<u64>(), whole.sum::<u64>() + routers, "{told:#}");
}

#[test]
fn quantized_at_load_a_model_is_smaller_and_answers() {
    let model = golden("models/llama_basic");
    let bytes = |flags: &[&str]| {
        let (code, told, _) = run(&[&["inspect", text(&model), "--json"], flags].concat());
        assert_eq!(code, 0, "{told}");
        serde_json::from_str::<Value>(&told).expect("JSON")["weight_bytes"].as_u64().expect("bytes")
    };
    let plain = bytes(&[]);
    for (name, share) in [("wint8", 0.28), ("wint4", 0.24), ("block_wise_fp8", 0.9)] {
        let quantized = bytes(&["--quantization", name]);
        assert!((quantized as f64) < plain as f64 * share, "{name}: {quantized} of {plain} bytes");
        let server = Server::of_golden("models/llama_basic", &["--quantization", name, "-tp", "2"]);
        let answer = server.ok("/v1/completions", &json!({"prompt": [5, 6, 7], "max_tokens": 8, "temperature": 0}));
        assert_eq!(answer["usage"]["completion_tokens"], 8, "{name}: {answer}");
    }
}

/// FastDeploy's keys in a model's own settings count where the flag is absent.
#[test]
fn what_a_models_makers_advise_is_followed() {
    let advice =
        "\"quantization_config\": {\"dense_quant_type\": \"wint8\", \"moe_quant_type\": \"wint4\"}, \"use_bias\"";
    let (_folder, path) = changed("models/ernie45_moe", true, "\"use_bias\"", advice);
    let formats = |flags: &[&str]| {
        let (code, told, complaint) = run(&[&["inspect", text(&path), "--json"], flags].concat());
        assert_eq!(code, 0, "{complaint}");
        let told: Value = serde_json::from_str(&told).expect("JSON");
        told["formats"].as_object().expect("formats").keys().cloned().collect::<Vec<_>>()
    };
    // Inputs of 64 and 32 take groups of 32, the first layer's 128 one of 128. Routers stay as they are.
    assert_eq!(formats(&[]), ["f32", "q8_0", "wint4g32", "wint8"]);
    assert_eq!(formats(&["--quantization", "wint8"]), ["f32", "q8_0", "wint8"]);
}

#[test]
fn eight_bits_of_keys_and_values_are_served() {
    for dtype in ["int8", "fp8"] {
        let server = Server::of_golden("models/deepseek_v3", &["--kv-cache-dtype", dtype, "-tp", "2"]);
        let answer = server.ok("/v1/completions", &json!({"prompt": [5, 6, 7], "max_tokens": 8, "temperature": 0}));
        assert_eq!(answer["usage"]["completion_tokens"], 8, "{dtype}: {answer}");
    }
}

#[test]
fn random_weights_need_no_files() {
    let (_folder, model) = changed("models/gpt_oss", false, "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 2");
    let flags = ["--model", text(&model), "--load-choices", "dummy", "-tp", "2", "--quantization", "wint4"];
    let server = Server::start(&flags);
    let ask = || {
        let body = json!({"prompt": [5, 6, 7], "max_tokens": 8, "temperature": 0, "return_token_ids": true});
        server.ok("/v1/completions", &body)["choices"][0]["completion_token_ids"].clone()
    };
    assert_eq!((ask().as_array().map(Vec::len), ask()), (Some(8), ask()));
    let (code, _, complaint) = run(&["inspect", text(&model)]);
    assert!(code == 2 && complaint.contains("model.safetensors: is missing"), "{code} {complaint}");
}

#[test]
fn uneven_heads_are_served_and_told() {
    let server = Server::of_golden("models/llama_basic", &["-tp", "3"]);
    let said = server.log("server.log");
    let expected = "8 query heads do not divide by 3 ranks: some have 3, others 2";
    assert!(said.contains(expected) && said.contains("1, 2, 4, 8 ranks share them evenly"), "{said}");
}

#[test]
fn what_is_quantized_already_stays() {
    let path = golden("gguf/llama_q8_0/model.gguf");
    let server = Server::start(&["--model", text(&path), "--quantization", "wint4"]);
    let said = server.log("server.log");
    assert!(said.contains("--quantization changes nothing"), "{said}");
}

#[test]
fn what_cannot_be_loaded_ends_in_one_line_that_says_what_is_known() {
    let check = |model: &str, from: &str, to: &str, flags: &[&str], expected: &[&str]| {
        let (_folder, path) = changed(model, true, from, to);
        for command in [&["serve", "--port", "0", "--model"][..], &["inspect"]] {
            let (code, out, complaint) = run(&[command, &[text(&path)], flags].concat());
            assert_eq!((code, &*out, complaint.lines().count()), (2, "", 1), "{command:?} {to}: {complaint}");
            assert!(expected.iter().all(|part| complaint.contains(part)), "{to}: {complaint}");
        }
    };
    let known = ["MambaForCausalLM is not known; ", "LlamaForCausalLM, ", "GptOssForCausalLM"];
    check("models/llama3_rope", "LlamaForCausalLM", "MambaForCausalLM", &[], &known);
    let known = ["rope_type must be one of default, linear, llama3, yarn, longrope, got \"spiral\""];
    check("models/llama3_rope", "\"llama3\"", "\"spiral\"", &[], &known);
    let known = ["hidden_act must be silu or gelu_pytorch_tanh, got \"relu\""];
    check("models/llama3_rope", "\"silu\"", "\"relu\"", &[], &known);
    let sizes = ["cannot be split over 9 ranks", "8 attention heads", "1 to 8 ranks work"];
    check("models/llama3_rope", "\"llama\"", "\"llama\"", &["-tp", "9"], &sizes);
    let sizes = ["cannot be split over 6 ranks", "1 to 4 ranks work"];
    check("models/deepseek_v3", "\"silu\"", "\"silu\"", &["-tp", "6"], &sizes);
    let groups = ["8 experts cannot be grouped into 3"];
    check("models/deepseek_v3", "\"n_group\": 4", "\"n_group\": 3", &[], &groups);
    let method = ["quantization_config.quant_method", "bitsandbytes", "gptq", "awq"];
    let to = "\"use_cache\": true, \"quantization_config\": {\"quant_method\": \"bitsandbytes\"}";
    check("models/llama3_rope", "\"use_cache\": true", to, &[], &method);
    let (code, _, complaint) = run(&["inspect", "--quantization", "int3"]);
    assert!(code == 2 && complaint.contains("wint8, wint4, block_wise_fp8"), "{complaint}");
}
