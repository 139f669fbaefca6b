//! The real binary on GPUs: on stand-ins for the driver, NCCL, cuBLASLt and NVML that run the kernels' own text on
//! the processor (`tests/gpu/`, built by `scripts/stand-in-gpu`), or on GPUs where there are some.
//!
//! `SHARDWIRE_TEST_GPU` names the folders of the stand-ins (for `LD_LIBRARY_PATH`); where it is empty, real GPUs are used.
//! Without it, only what needs no GPU is tested here: that its absence is told well.

mod server;

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use server::{
    Server,
    cases::{Case, Tolerance, cases, check_together},
    golden, wait_for,
};

/// With f32 activations: that of the CPU (see `golden.rs`), for sums in another order.
const F32: Tolerance = Tolerance { logprob: 2e-3, margin: 5e-3 };

/// With bf16 activations, which have 8 bits: each of a dozen roundings on the way to the logits moves them by up to 2⁻⁹ of
/// what it rounds, and these models' random weights make logits of ten and more. Seen: 0.17 at most.
const BF16: Tolerance = Tolerance { logprob: 0.3, margin: 0.4 };

/// What is tested on.
struct Gpus {
    /// The folders of the stand-ins; empty where GPUs are real.
    libraries: String,
    count: usize,
}

impl Gpus {
    fn find() -> Option<Self> {
        let Ok(libraries) = std::env::var("SHARDWIRE_TEST_GPU") else {
            eprintln!("not tested: SHARDWIRE_TEST_GPU names no libraries");
            return None;
        };
        let count = if libraries.is_empty() { workers::gpus::count().expect("GPUs") } else { SIMULATED };
        Some(Self { libraries, count })
    }

    /// For what a real GPU can't be made to do.
    fn simulated() -> Option<Self> {
        Self::find().filter(|gpus| !gpus.libraries.is_empty())
    }

    /// For what takes several ranks.
    fn several() -> Option<Self> {
        Self::find().filter(|gpus| gpus.count > 1)
    }

    /// As many ranks as there are GPUs, at most `wanted`.
    fn ranks(&self, wanted: usize) -> &'static str {
        ["1", "2", "3", "4"][wanted.min(self.count) - 1]
    }

    /// A server on them.
    fn serve(&self, model: &str, flags: &[&str], variables: &[(&str, &str)]) -> Server {
        serve(&self.libraries, model, flags, variables)
    }
}

/// How many GPUs the stand-in has.
const SIMULATED: usize = 4;

/// A server with kernels kept between tests.
fn serve(libraries: &str, model: &str, flags: &[&str], variables: &[(&str, &str)]) -> Server {
    let path = golden(model);
    let flags = [&["--model", path.to_str().expect("UTF-8 path"), "--device", "cuda", "--enable-logprob"], flags];
    let (cache, count) = (cache(), SIMULATED.to_string());
    let own = [
        ("LD_LIBRARY_PATH", libraries),
        ("STAND_IN_GPUS", &count),
        ("SHARDWIRE_CACHE", cache.to_str().expect("UTF-8 path")),
    ];
    Server::start_with(&flags.concat(), &[&own[..], variables].concat())
}

fn cache() -> PathBuf {
    std::env::temp_dir().join("shardwire-test-cache")
}

/// `shardwire serve` that must end by itself: with `folders` as the loader's path.
fn refused(folders: &str, flags: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let logs = tempfile::tempdir().expect("a temporary folder");
    let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_shardwire"))
        .args(["serve", "--host", "127.0.0.1", "--port", "0", "--device", "cuda", "--log-dir"])
        .arg(logs.path())
        .arg("--model")
        .arg(golden("models/llama_basic"))
        .args(flags)
        .env("LD_LIBRARY_PATH", folders)
        .env("SHARDWIRE_CACHE", logs.path())
        .envs(variables.iter().copied())
        .output()
        .expect("the binary starts");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// A folder with links to some files of other folders.
fn only(folders: &str, names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in names {
        let found = std::env::split_paths(folders).map(|path| path.join(name)).find(|path| path.exists());
        symlink(found.unwrap_or_else(|| panic!("{name} in {folders}")), folder.path().join(name)).expect("a link");
    }
    folder
}

/// A folder with links to all files of other folders but for those of one library.
fn without(folders: &str, library: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = std::env::split_paths(folders).flat_map(|path| std::fs::read_dir(path).expect("a folder").flatten());
    for file in files.filter(|file| !file.file_name().to_string_lossy().starts_with(library)) {
        // Of two of a name the loader takes the first.
        let _ = symlink(file.path(), folder.path().join(file.file_name()));
    }
    folder
}

/// A library `name` in `folder`, made of one C text.
fn compile(folder: &Path, name: &str, text: &str) {
    let source = folder.join("source.c");
    std::fs::write(&source, text).expect("a file");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(folder.join(name)).arg(&source).status();
    assert!(made.expect("a C compiler").success());
}

/// The last line that is no log line.
fn last_words(stderr: &str) -> &str {
    stderr.lines().rfind(|line| line.starts_with("shardwire: ")).unwrap_or(stderr)
}

#[test]
fn a_driver_that_is_not_there_or_too_old() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    compile(folder.path(), "libcuda.so", "int cuInit(unsigned flags) { return 0; }");
    let (code, stderr) = refused(folder.path().to_str().expect("UTF-8 path"), &[], &[]);
    assert_eq!(code, Some(2), "{stderr}");
    let words = last_words(&stderr);
    assert!(words.contains("libcuda.so is too old") && words.contains("driver, 550 or newer"), "{words}");
    let nowhere = tempfile::tempdir().expect("a temporary folder");
    let (code, stderr) = refused(nowhere.path().to_str().expect("UTF-8 path"), &[], &[("CUDA_VISIBLE_DEVICES", "")]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(last_words(&stderr).starts_with("shardwire: --device cuda: no usable GPU: "), "{stderr}");
}

#[test]
fn without_a_gpu_the_cpu_computes_and_says_so() {
    let server = Server::of_golden("models/llama_basic", &["--device", "auto", "--tensor-parallel-size", "2"]);
    if server.log("stderr").contains("computing on the CPU: no usable GPU: ") {
        assert!(server.get_json("/ranks")["ranks"][1]["device"].as_str().is_some_and(|name| name.starts_with("cpu")));
    }
}

#[test]
fn too_few_gpus_or_none() {
    let Some(Gpus { libraries, .. }) = Gpus::simulated() else { return };
    let (code, stderr) = refused(&libraries, &["-tp", "2"], &[("STAND_IN_GPUS", "1")]);
    assert_eq!(code, Some(2), "{stderr}");
    let words = last_words(&stderr);
    assert_eq!(words, "shardwire: --device cuda: no usable GPU: 2 ranks want a GPU each, and 1 are visible");
    let (code, stderr) = refused(&libraries, &[], &[("STAND_IN_GPUS", "0")]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(last_words(&stderr).contains("CUDA_ERROR_NO_DEVICE"), "{stderr}");
}

#[test]
fn libraries_that_are_missing_are_named() {
    let Some(Gpus { libraries, .. }) = Gpus::simulated() else { return };
    let driver = only(&libraries, &["libcuda.so.1"]);
    let folder = driver.path().to_str().expect("UTF-8 path");
    let (code, stderr) = refused(folder, &["-tp", "2"], &[("STAND_IN_GPUS", "2")]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(
        last_words(&stderr).contains("libnccl.so is not there; install NCCL 2 (PyPI: nvidia-nccl-cu12)"),
        "{stderr}"
    );
    let (code, stderr) = refused(folder, &[], &[]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(
        last_words(&stderr).contains("(PyPI: nvidia-nvrtc-cu12)") || last_words(&stderr).contains("nvrtc"),
        "{stderr}"
    );
}

#[test]
fn memory_that_does_not_suffice_is_told_at_the_start() {
    let Some(Gpus { libraries, .. }) = Gpus::simulated() else { return };
    let (code, stderr) = refused(&libraries, &[], &[("STAND_IN_MEMORY", "2000000")]);
    assert_eq!(code, Some(2), "{stderr}");
    let words = last_words(&stderr);
    assert!(words.contains("out of memory on cuda:0") || words.contains("the KV cache would hold no block"), "{words}");
}

/// All cases, the long ones shortened: a simulated GPU is slow.
fn short_cases(model: &str) -> Vec<Case> {
    let shorten = |case: Case| if case.prompt_length() > 64 { case.shortened(4) } else { case.shortened(12) };
    cases(model).into_iter().map(shorten).collect()
}

/// Every family, with a rank count that its heads allow.
const MODELS: [(&str, usize); 15] = [
    ("models/llama_basic", 1),
    ("models/llama3_rope", 4),
    ("models/mistral_swa", 2),
    ("models/ernie45", 2),
    ("models/ernie45_moe", 2),
    ("models/qwen2", 1),
    ("models/qwen2_yarn", 2),
    ("models/qwen3", 4),
    ("models/qwen3_moe", 1),
    ("models/deepseek_v3", 2),
    ("models/deepseek_v3_yarn", 1),
    ("models/glm4", 2),
    ("models/glm4_moe", 2),
    ("models/gemma3_text", 1),
    ("models/gpt_oss", 2),
];

/// Few tokens at once, so that prompts come in chunks; and a small warm-up.
const SMALL: [&str; 4] = ["--max-num-batched-tokens", "64", "--max-num-seqs", "16"];

#[test]
fn every_family_with_f32_activations_is_the_cpu_s_equal() {
    let Some(gpus) = Gpus::find() else { return };
    for (model, ranks) in MODELS {
        let flags = [&SMALL[..], &["-tp", gpus.ranks(ranks), "--dtype", "f32"]].concat();
        check_together(&gpus.serve(model, &flags, &[]), &short_cases(model), F32, &flags.join(" "));
    }
}

/// In a mixture a rounding may send a token to another expert, which changes more than roundings do: of its cases one may
/// be off.
#[test]
fn every_family_with_bf16_activations() {
    let Some(gpus) = Gpus::find() else { return };
    for (model, ranks) in MODELS {
        let server = gpus.serve(model, &[&SMALL[..], &["-tp", gpus.ranks(ranks)]].concat(), &[]);
        let has_experts = ["moe", "deepseek", "gpt_oss"].iter().any(|part| model.contains(part));
        let faults: Vec<String> = std::thread::scope(|scope| {
            let (server, cases) = (&server, short_cases(model));
            let compare = |case: Case| case.compare(&case.ask(server), BF16).map_err(|fault| (case.name, fault));
            let asked: Vec<_> = cases.into_iter().map(|case| scope.spawn(move || compare(case))).collect();
            let results = asked.into_iter().map(|thread| thread.join().expect("an answer"));
            results.filter_map(Result::err).map(|(name, fault)| format!("{name}: {fault}")).collect()
        });
        assert!(faults.len() <= usize::from(has_experts), "{faults:?}");
    }
}

/// How often the ranks called a function of a stand-in, as they tell in files of this folder.
fn calls(counts: &Path, function: &str) -> u64 {
    let files = std::fs::read_dir(counts).expect("a folder").flatten();
    let counted = files.filter_map(|file| serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok());
    counted.filter_map(|counted: Value| counted["calls"][function].as_u64()).sum()
}

/// Prompts are left to NVIDIA's library where it is there; where it is not, knows nothing, or isn't wanted, own kernels
/// compute them, and only of the first that is told.
#[test]
fn products_with_and_without_nvidias_library() {
    let Some(Gpus { libraries, .. }) = Gpus::simulated() else { return };
    let absent = without(&libraries, "libcublasLt");
    let absent = absent.path().to_str().expect("UTF-8 path");
    let empty = absent.to_owned() + "/none";
    let cases = [
        (&libraries[..], vec![], true),
        // Wheels of the machine are not looked for.
        (absent, vec![("HOME", &empty[..]), ("VIRTUAL_ENV", "")], false),
        (&libraries, vec![("STAND_IN_CUBLASLT", "none")], false),
        (&libraries, vec![("SHARDWIRE_OWN_PRODUCTS", "1")], false),
    ];
    let prompt: Vec<u32> = (1..=48).collect();
    let long = json!({"prompt": prompt, "max_tokens": 1, "temperature": 0});
    for (folders, variables, is_called) in cases {
        let counts = tempfile::tempdir().expect("a temporary folder");
        let file = counts.path().join("%p.json");
        let variables = [variables, vec![("STAND_IN_COUNT", file.to_str().expect("UTF-8 path"))]].concat();
        let server = serve(folders, "models/qwen3", &[&SMALL[..], &["-tp", "2"]].concat(), &variables);
        server.ok("/v1/completions", &long);
        check_together(&server, &short_cases("models/qwen3"), BF16, &format!("{variables:?}"));
        let told = "own kernels compute all matrix products: libcublasLt.so is not there; to leave products of many \
                    rows to NVIDIA's library, install cuBLAS 12 (PyPI: nvidia-cublas-cu12)";
        assert_eq!(server.log("stderr").contains(told), folders == absent, "{}", server.log("stderr"));
        if server.get_json("/ranks")["ranks"][0]["device"].as_str().is_some_and(|name| name.contains("Stand-in")) {
            wait_for("the ranks' counts", || (calls(counts.path(), "cuLaunchKernelEx") > 0).then_some(()));
            assert_eq!(calls(counts.path(), "cublasLtMatmul") > 0, is_called, "{variables:?}");
        }
    }
}

/// Recorded steps give what steps that are computed kernel by kernel give.
#[test]
fn graphs_change_nothing() {
    let Some(gpus) = Gpus::find() else { return };
    let ids = |server: &Server| {
        let body = json!({"prompt": [3, 5, 7], "max_tokens": 24, "temperature": 0, "ignore_eos": true, "return_token_ids": true});
        server.ok("/v1/completions", &body)["choices"][0]["completion_token_ids"].clone()
    };
    let flags = [&SMALL[..], &["-tp", gpus.ranks(2)]].concat();
    let recorded = gpus.serve("models/qwen3_moe", &flags, &[]);
    let eager = gpus.serve("models/qwen3_moe", &[&flags[..], &["--enforce-eager"]].concat(), &[]);
    assert_eq!(ids(&recorded), ids(&eager));
}

/// A step that begins before the tokens of the last are known computes what it would have afterwards. The company changes:
/// sequences end by stop tokens that nobody could foresee, and with some the host chooses, or a guide.
#[test]
fn steps_that_overlap_change_nothing() {
    let Some(gpus) = Gpus::find() else { return };
    let draw = json!({"max_tokens": 20, "temperature": 0.9, "seed": 3, "prompt": [3, 5, 7]});
    let with = |fields: Value| {
        let fields = fields.as_object().expect("fields").clone();
        draw.as_object().expect("fields").clone().into_iter().chain(fields).collect::<serde_json::Map<_, _>>()
    };
    let bodies = [
        with(json!({"temperature": 0, "ignore_eos": true})),
        with(json!({"top_p": 0.9})),
        with(json!({"seed": 4, "max_tokens": 9})),
        with(json!({"stop_token_ids": (0..200).collect::<Vec<_>>(), "seed": 5})),
        with(json!({"stop_token_ids": (0..200).collect::<Vec<_>>(), "seed": 5, "min_tokens": 4})),
        with(json!({"logprobs": 2, "max_tokens": 6})),
        with(json!({"repetition_penalty": 1.3, "max_tokens": 12})),
        with(json!({"guided_choice": ["a", "bb"]})),
    ];
    let answers = |flags: &[&str]| {
        let flags = [&SMALL[..], &["-tp", gpus.ranks(2), "--dtype", "f32"], flags].concat();
        let server = gpus.serve("models/qwen3_moe", &flags, &[]);
        std::thread::scope(|scope| {
            let ask = |body| {
                let server = &server;
                scope.spawn(move || {
                    let choice = server.ok("/v1/completions", &Value::Object(body))["choices"][0].clone();
                    [choice["text"].clone(), choice["finish_reason"].clone()]
                })
            };
            let asked: Vec<_> = bodies.clone().into_iter().map(ask).collect();
            asked.into_iter().map(|thread| thread.join().expect("an answer")).collect::<Vec<_>>()
        })
    };
    assert_eq!(answers(&[]), answers(&["--disable-overlap-schedule"]));
}

/// Ranks keep of drafts what they would have chosen without: greedy, drawn, and by the host.
#[test]
fn drafts_change_nothing() {
    let Some(gpus) = Gpus::find() else { return };
    let again: Vec<u32> = (0..30).map(|place| 3 + place % 5).collect();
    let body =
        json!({"prompt": again, "max_tokens": 40, "temperature": 0, "ignore_eos": true, "return_token_ids": true});
    let fields = [json!({}), json!({"temperature": 0.5, "seed": 3}), json!({"logprobs": 1, "logit_bias": {"30": 100}})];
    for model in ["models/qwen3", "models/gemma3_text", "models/deepseek_v3"] {
        let flags = [&SMALL[..], &["-tp", gpus.ranks(2), "--dtype", "f32"]].concat();
        let ids = |server: &Server| {
            let of = |fields: &Value| {
                let mut body = body.clone();
                body.as_object_mut().expect("an object").extend(fields.as_object().expect("fields").clone());
                server.ok("/v1/completions", &body)["choices"][0]["completion_token_ids"].clone()
            };
            fields.iter().map(of).collect::<Vec<_>>()
        };
        let plain = ids(&gpus.serve(model, &flags, &[]));
        let drafts = [&flags[..], &["--speculative-config", r#"{"method": "ngram"}"#]].concat();
        let server = gpus.serve(model, &drafts, &[]);
        assert_eq!(ids(&server), plain, "{model}");
        let accepted = server.metric("vllm:spec_decode_num_accepted_tokens_total");
        assert!(accepted > 0.0, "{model}: nothing was drafted, or nothing was right");
    }
}

/// Work that is late shows what does not wait for it.
#[test]
fn delays_change_nothing() {
    let Some(Gpus { libraries, .. }) = Gpus::simulated() else { return };
    let flags = [&SMALL[..], &["-tp", "2", "--dtype", "f32"]].concat();
    let delays = [("STAND_IN_DELAY_US", "200"), ("STAND_IN_SEED", "2")];
    let server = serve(&libraries, "models/llama3_rope", &flags, &delays);
    let few: Vec<Case> = short_cases("models/llama3_rope").into_iter().map(|case| case.shortened(4)).collect();
    check_together(&server, &few, F32, "delays");
}

/// A rank that dies in the middle of a step, its peers waiting for it in a collective: the stream goes on with the next
/// group, to its end.
#[test]
fn a_killed_rank_is_named_and_the_group_comes_back() {
    let Some(gpus) = Gpus::several() else { return };
    let server = gpus.serve("models/llama3_rope", &[&SMALL[..], &["-tp", "2"]].concat(), &[]);
    let short = json!({"prompt": [1, 2, 3], "max_tokens": 8, "ignore_eos": true, "temperature": 0});
    let text = |server: &Server| server.ok("/v1/completions", &short)["choices"][0]["text"].clone();
    let before = text(&server);
    let long = json!({
        "prompt": [1, 2, 3], "max_tokens": 200, "ignore_eos": true, "temperature": 0,
        "stream_options": {"include_usage": true},
    });
    let mut events = server.open_stream("/v1/completions", &long);
    events.next().expect("the stream begins");
    let pid = server.get_json("/ranks")["ranks"][1]["pid"].as_i64().expect("a pid") as i32;
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the rank lives");
    let rest: Vec<String> = events.collect();
    let [.., usage, done] = &rest[..] else { panic!("the stream just ended: {rest:?}") };
    assert_eq!(done, "[DONE]");
    let usage: Value = serde_json::from_str(usage).expect("the usage");
    assert_eq!(usage["usage"]["completion_tokens"], 200, "{usage}");
    let last_error = server.get_json("/ranks")["last_error"].to_string();
    assert!(last_error.contains("rank 1"), "{last_error}");
    wait_for("the next start of the ranks", || {
        let report = server.get_json("/ranks");
        (report["epoch"] == 1 && server.get("/health").0 == 200).then_some(())
    });
    assert_eq!(text(&server), before);
}

/// What each rank's GPU measures, once all have been asked; null where its sensors have nothing to say.
fn measured(server: &Server) -> Vec<Value> {
    let ranks = server.get_json("/ranks")["ranks"].as_array().expect("ranks").clone();
    ranks.iter().map(|rank| rank["gpu"].clone()).collect()
}

#[test]
fn what_gpus_measure_is_told_to_programs_and_people() {
    let Some(gpus) = Gpus::find() else { return };
    let flags = [&SMALL[..], &["-tp", gpus.ranks(2)]].concat();
    let server = gpus.serve("models/llama_basic", &flags, &[("STAND_IN_SENSORS", "hot")]);
    let is_told = |gpus: &Vec<Value>| gpus.iter().all(Value::is_object);
    let told = wait_for("the GPUs' answers", || Some(measured(&server)).filter(is_told));
    let device = server.get_json("/ranks")["ranks"][0]["device"].clone();
    if !device.as_str().is_some_and(|name| name.contains("Stand-in")) {
        return; // a real one is as hot as it is
    }
    let memory: u64 = 8 << 30;
    let second = json!({
        "temperature_c": 91, "utilization_percent": 51, "power_w": 301.0, "power_limit_w": 700.0,
        "memory_used_bytes": memory / 4, "memory_total_bytes": memory, "throttle": ["heat", "hardware"], "ecc_errors": 0,
    });
    assert_eq!((&told[0]["temperature_c"], &told[1]), (&json!(90), &second));
    let metrics = server.get("/metrics").1;
    for line in [
        "shardwire:rank_gpu_temperature_celsius{rank=\"1\"} 91.0",
        "shardwire:rank_gpu_power_watts{rank=\"0\"} 300.0",
        "shardwire:rank_gpu_throttled{rank=\"1\",reason=\"heat\"} 1.0",
    ] {
        assert!(metrics.lines().any(|told| told == line), "no {line:?} in\n{metrics}");
    }
    let (_, table, _) = server::run(&["top", "--once", "--url", &server.url("")]);
    assert!(table.contains("91°C 51% 301W 2.0/8.0GiB slowed: heat slowed: hardware"), "{table}");
}

#[test]
fn sensors_that_fail_cost_their_figures_and_nothing_else() {
    let Some(Gpus { libraries, .. }) = Gpus::simulated() else { return };
    let without_nvml = without(&libraries, "libnvidia-ml");
    let without_nvml = without_nvml.path().to_str().expect("UTF-8 path").to_owned();
    let silent: fn(&Value) -> bool = |gpu| gpu.as_object().is_some_and(|gpu| gpu.values().all(Value::is_null));
    type IsExpected = fn(&Value) -> bool;
    let cases: [(&str, &str, IsExpected); 4] = [
        ("silent", &libraries, silent),
        ("lost", &libraries, Value::is_null),
        ("hang", &libraries, Value::is_null),
        ("absent", &without_nvml, Value::is_null),
    ];
    let short = json!({"prompt": [1, 2, 3], "max_tokens": 8, "ignore_eos": true, "temperature": 0});
    for (ailment, libraries, expected) in cases {
        let mut server = serve(libraries, "models/llama_basic", &SMALL, &[("STAND_IN_SENSORS", ailment)]);
        server.ok("/v1/completions", &short);
        if server.get_json("/ranks")["ranks"][0]["device"].as_str().is_some_and(|name| name.contains("Stand-in")) {
            wait_for(ailment, || expected(&measured(&server)[0]).then_some(()));
        }
        assert!(!server.get("/metrics").1.contains("rank_gpu_"), "{ailment}");
        server.signal(Signal::SIGTERM);
        assert!(server.wait().success(), "{ailment}");
    }
}
