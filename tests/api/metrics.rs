//! `/metrics`: the text's form, the names of FastDeploy and vLLM, and that what is counted is what clients are told.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};

use crate::{
    CHAT, COMPLETIONS, chat, completion,
    server::{Server, wait_for},
    start,
};

const EMBEDDINGS: &str = "/v1/embeddings";

/// A family of metrics, as the text tells it.
#[derive(Debug, Default)]
struct FamilyText {
    kind: String,
    help: String,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads the OpenMetrics text strictly: a family is described once, before its samples, and its samples stand together.
fn read(text: &str) -> HashMap<String, FamilyText> {
    let (body, end) = text.rsplit_once("# EOF\n").expect("the text has an end");
    assert_eq!(end, "");
    let mut families = HashMap::new();
    let mut last: Option<(String, FamilyText)> = None;
    for line in body.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(help)) => {
                close(
                    last.replace((name.into(), FamilyText { help: help.into(), ..Default::default() })),
                    &mut families,
                );
            }
            (Some("#"), Some(what @ ("TYPE" | "UNIT")), Some(name), Some(value)) => {
                let (family, text) = last.as_mut().expect("HELP comes first");
                assert_eq!(family, name, "{line}");
                match what {
                    "TYPE" => text.kind = value.into(),
                    _ => assert!(name.ends_with(value), "{line}"),
                }
            }
            _ => {
                let (family, text) = last.as_mut().expect("a sample belongs to a family");
                let sample = read_sample(line);
                check_name(&sample, family, &text.kind);
                text.samples.push(sample);
            }
        }
    }
    close(last, &mut families);
    families
}

fn close(family: Option<(String, FamilyText)>, families: &mut HashMap<String, FamilyText>) {
    let Some((name, text)) = family else { return };
    assert!(!text.kind.is_empty() && !text.help.is_empty(), "{name}: {text:?}");
    let distinct: HashSet<_> = text.samples.iter().map(|sample| (&sample.name, &sample.labels)).collect();
    assert_eq!(distinct.len(), text.samples.len(), "{name} has a sample twice");
    if text.kind == "histogram" {
        check_histogram(&name, &text.samples);
    }
    assert!(families.insert(name.clone(), text).is_none(), "{name} is there twice");
}

fn read_sample(line: &str) -> Sample {
    let (what, value) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = match what.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').expect("labels are closed")),
        None => (what, ""),
    };
    let known = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    assert!(name.chars().all(known), "{line}");
    let label = |text: &str| {
        let (label, quoted) = text.split_once("=\"").expect("a label");
        (label.to_owned(), quoted.strip_suffix('"').expect("quotes").to_owned())
    };
    // No value here has a comma.
    let labels = labels.split(',').filter(|text| !text.is_empty()).map(label).collect();
    Sample { name: name.into(), labels, value: value.parse().unwrap_or_else(|_| panic!("no number: {line}")) }
}

fn check_name(sample: &Sample, family: &str, kind: &str) {
    let suffixes: &[&str] = match kind {
        "counter" => &["_total"],
        "gauge" => &[""],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_sum", "_count"],
        other => panic!("{family} is a {other}"),
    };
    assert!(suffixes.iter().any(|suffix| sample.name == format!("{family}{suffix}")), "{} in {family}", sample.name);
    assert!(kind == "gauge" || sample.value >= 0.0, "{} falls", sample.name);
}

/// The buckets grow with their bounds, and the last has all.
fn check_histogram(family: &str, samples: &[Sample]) {
    let of =
        |suffix: &str| samples.iter().filter(|sample| sample.name == format!("{family}{suffix}")).collect::<Vec<_>>();
    let bound = |sample: &Sample| sample.labels["le"].replace("+Inf", "inf").parse::<f64>().expect("a bound");
    let buckets: Vec<_> = of("_bucket").iter().map(|sample| (bound(sample), sample.value)).collect();
    assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{family}: {buckets:?}");
    assert_eq!(buckets.last().map(|last| last.0), Some(f64::INFINITY), "{family}");
    assert_eq!(buckets.last().map(|last| last.1), Some(of("_count")[0].value), "{family}");
    assert_eq!((of("_sum").len(), of("_count").len()), (1, 1), "{family}");
}

/// Names of FastDeploy's table with their types, but those of speculation and of what came later.
const FASTDEPLOY: &[(&str, &str)] = &[
    (
        "num_requests_running num_requests_waiting gpu_cache_usage_perc available_gpu_block_num free_gpu_block_num",
        "gauge",
    ),
    ("max_gpu_block_num available_gpu_resource batch_size max_batch_size available_batch_size", "gauge"),
    ("first_token_latency infer_latency hit_req_rate hit_token_rate cpu_hit_token_rate gpu_hit_token_rate", "gauge"),
    ("requests_number request_success prompt_tokens generation_tokens send_cache_failed_num", "counter"),
    ("prefix_cache_token_num prefix_gpu_cache_token_num prefix_cpu_cache_token_num", "counter"),
    ("prefix_ssd_cache_token_num", "counter"),
    ("time_to_first_token_seconds time_per_output_token_seconds e2e_request_latency_seconds", "histogram"),
    ("request_inference_time_seconds request_queue_time_seconds request_prefill_time_seconds", "histogram"),
    ("request_decode_time_seconds request_prompt_tokens request_generation_tokens", "histogram"),
    ("request_params_max_tokens", "histogram"),
    ("cache_config", "info"),
];

const VLLM: &[(&str, &str)] = &[
    ("num_requests_running num_requests_waiting kv_cache_usage_perc", "gauge"),
    (
        "prefix_cache_queries prefix_cache_hits prompt_tokens generation_tokens num_preemptions request_success",
        "counter",
    ),
    ("time_to_first_token_seconds inter_token_latency_seconds time_per_output_token_seconds", "histogram"),
    ("request_time_per_output_token_seconds e2e_request_latency_seconds request_queue_time_seconds", "histogram"),
    ("request_inference_time_seconds request_prefill_time_seconds request_decode_time_seconds", "histogram"),
    ("request_prompt_tokens request_generation_tokens request_params_max_tokens request_params_n", "histogram"),
    ("iteration_tokens_total", "histogram"),
    ("cache_config", "info"),
];

/// Some of FastDeploy's bounds.
const BOUNDS: &[(&str, &[&str])] = &[
    (
        "time_to_first_token_seconds",
        &["0.001", "0.005", "0.01", "0.02", "0.04", "0.06", "0.08", "0.1", "0.25", "0.5", "0.75", "1.0"],
    ),
    (
        "time_per_output_token_seconds",
        &["0.01", "0.025", "0.05", "0.075", "0.1", "0.15", "0.2", "0.3", "0.4", "0.5", "0.75", "1.0"],
    ),
    ("e2e_request_latency_seconds", &["0.3", "0.8", "1.5", "30.0", "60.0", "480.0", "1920.0", "7680.0"]),
    ("request_prompt_tokens", &["1.0", "2.0", "5.0", "10.0", "20.0", "500.0", "20000.0", "33792.0"]),
];

#[test]
fn every_name_is_there_from_the_start_in_a_text_that_can_be_read() {
    let server = start(&["--served-model-name", "tiny", "--tensor-parallel-size", "2"]);
    let families = read(&server.get("/metrics").1);
    for (prefix, table) in [("fastdeploy", FASTDEPLOY), ("vllm", VLLM)] {
        let names = table.iter().flat_map(|(names, kind)| names.split(' ').map(move |name| (name, *kind)));
        for (name, kind) in names {
            let name = format!("{prefix}:{name}");
            let family = families.get(&name).unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(family.kind, kind, "{name}");
            assert!(!family.samples.is_empty(), "{name}");
            let labelled = |sample: &Sample| sample.labels.get("model_name").is_some_and(|name| name == "tiny");
            assert!(family.samples.iter().all(|sample| labelled(sample) == (prefix == "vllm")), "{name}: {family:?}");
        }
    }
    for (name, bounds) in BOUNDS {
        let samples = &families[&format!("fastdeploy:{name}")].samples;
        let found: HashSet<_> = samples.iter().filter_map(|sample| sample.labels.get("le")).collect();
        assert!(bounds.iter().all(|bound| found.contains(&bound.to_string())), "{name}: {found:?}");
    }
    let ranks = families.iter().filter(|(name, _)| name.starts_with("shardwire:rank_"));
    for (name, family) in ranks {
        let ranks: Vec<_> = family.samples.iter().map(|sample| sample.labels["rank"].as_str()).collect();
        assert_eq!(ranks, ["0", "1"], "{name}");
    }
}

/// What clients were told that they used.
#[derive(Debug, Default, PartialEq)]
struct Told {
    prompt_tokens: u64,
    completion_tokens: u64,
    cached_tokens: u64,
}

impl Told {
    fn add(&mut self, usage: &Value) {
        let count = |name: &str| usage[name].as_u64();
        self.prompt_tokens += count("prompt_tokens").unwrap_or_else(|| panic!("{usage}"));
        // Embeddings have none.
        self.completion_tokens += count("completion_tokens").unwrap_or(0);
        self.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
    }
}

fn counted(server: &Server, family: &str) -> Told {
    let label = if family == "vllm" { "{model_name=\"tiny\"}" } else { "" };
    let count = |name: &str| server.metric(&format!("{family}:{name}{label}")) as u64;
    Told {
        prompt_tokens: count("prompt_tokens_total"),
        completion_tokens: count("generation_tokens_total"),
        // vLLM's hits are those of every sequence, also of several of one prompt.
        cached_tokens: server.metric("fastdeploy:prefix_cache_token_num_total") as u64,
    }
}

/// Requests of all kinds that bear a usage.
fn load() -> Vec<(&'static str, Value)> {
    let long = "The quick brown fox jumps over the lazy dog. ".repeat(4);
    vec![
        (CHAT, chat(json!({}))),
        (CHAT, chat(json!({"n": 3, "temperature": 1, "seed": 5, "max_tokens": 9}))),
        (COMPLETIONS, completion(json!({"prompt": long, "max_tokens": 3}))),
        (COMPLETIONS, completion(json!({"prompt": long, "max_tokens": 20, "n": 2, "seed": 1, "temperature": 1}))),
        (COMPLETIONS, completion(json!({"prompt": ["One", "Two and", "Three"], "echo": true}))),
        (COMPLETIONS, completion(json!({"best_of": 4, "n": 2, "temperature": 1, "seed": 3}))),
        (COMPLETIONS, completion(json!({"stop": ["e", "a", "i", "o"], "max_tokens": 40}))),
        (COMPLETIONS, completion(json!({"max_tokens": 1}))),
        (COMPLETIONS, completion(json!({"prompt": [1, 2, 3], "min_tokens": 5, "max_tokens": 8}))),
        (COMPLETIONS, completion(json!({"prompt_logprobs": 2, "logprobs": 1}))),
        (EMBEDDINGS, json!({"input": ["The sky is", "blue today"]})),
    ]
}

#[test]
fn what_is_counted_is_what_clients_are_told() {
    let server = start(&["--served-model-name", "tiny"]);
    let mut told = Told::default();
    let (mut answers, mut pooled) = (0, 0);
    for (path, body) in load() {
        let answer = server.ok(path, &body);
        told.add(&answer["usage"]);
        if path == EMBEDDINGS {
            answers += answer["data"].as_array().expect("vectors").len();
            pooled += 1;
            continue;
        }
        // In pieces too; best_of can't be told in pieces.
        if body["best_of"].is_null() {
            let mut body = body.clone();
            body["stream_options"] = json!({"include_usage": true});
            let chunks = server.stream(path, &body);
            chunks.iter().filter(|chunk| chunk["usage"].is_object()).for_each(|chunk| told.add(&chunk["usage"]));
            answers += answer["choices"].as_array().expect("choices").len();
        }
        answers +=
            body["best_of"].as_u64().map_or(answer["choices"].as_array().expect("choices").len(), |n| n as usize);
    }
    for family in ["fastdeploy", "vllm"] {
        assert_eq!(counted(&server, family), told, "{family}");
    }
    let families = read(&server.get("/metrics").1);
    let sum = |name: &str, suffix: &str| {
        let family = &families[name];
        let samples = family.samples.iter().filter(|sample| sample.name == format!("{name}{suffix}"));
        samples.map(|sample| sample.value).sum::<f64>()
    };
    assert_eq!(sum("vllm:request_success", "_total"), answers as f64);
    assert_eq!(sum("fastdeploy:request_success", "_total"), answers as f64);
    assert_eq!(sum("fastdeploy:request_generation_tokens", "_sum"), told.completion_tokens as f64);
    assert_eq!(sum("vllm:iteration_tokens_total", "_count"), sum("shardwire:steps", "_total"));
    assert_eq!(sum("vllm:request_params_n", "_count"), sum("fastdeploy:requests_number", "_total") - f64::from(pooled));
}

#[test]
fn answers_are_counted_by_their_status() {
    let server = start(&[]);
    for (fields, status) in [(json!({}), 200), (json!({"n": 0}), 400), (json!({"n": -1}), 400)] {
        assert_eq!(server.post(COMPLETIONS, &completion(fields)).0, status);
    }
    assert_eq!(server.get("/nowhere").0, 404);
    let counted = [200, 400, 404]
        .map(|status| server.metric(&format!("shardwire:http_responses_total{{status=\"{status}\"}}")) as u64);
    assert_eq!(counted, [1, 2, 1]);
}

#[test]
fn who_goes_away_is_counted_up_to_the_last_token_made_for_him() {
    let server = start(&["--served-model-name", "tiny"]);
    let body = completion(json!({"max_tokens": 400, "ignore_eos": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true}}));
    let mut stream = server.open_stream(COMPLETIONS, &body);
    let read = |event: String| serde_json::from_str::<Value>(&event).expect("JSON");
    let seen = stream.by_ref().map(read).nth(3).expect("an event")["usage"].clone();
    drop(stream);
    let aborted = "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"abort\"}";
    wait_for("the sequence to be given up", || (server.metric(aborted) == 1.0).then_some(()));
    let counted = counted(&server, "fastdeploy");
    assert_eq!(Some(counted.prompt_tokens), seen["prompt_tokens"].as_u64());
    assert!(Some(counted.completion_tokens) >= seen["completion_tokens"].as_u64() && counted.completion_tokens < 400);
    assert_eq!(server.metric("fastdeploy:request_success_total"), 0.0);
}
