//! What `bench` measures of the machine, through the real binary: that figures come, and that results are right. How fast
//! anything is, is nobody's promise.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardwire"));
    command.arg("bench").args(arguments).stdin(Stdio::null()).output().expect("the binary starts")
}

/// The figures of a run that ends well, and what it told people.
fn figures(arguments: &[&str]) -> (Value, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("figures.json");
    let output = bench(&[arguments, &["--json", path.to_str().expect("UTF-8")]].concat());
    let told = String::from_utf8(output.stdout).expect("UTF-8 output");
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    (serde_json::from_slice(&std::fs::read(path).expect("figures")).expect("JSON"), told)
}

fn is_positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number > 0.0)
}

#[test]
fn kernels_are_checked_and_measured() {
    let (figures, told) = figures(&["kernels", "--filter", "rms_norm", "--seconds", "0.01", "--threads", "1"]);
    assert_eq!(figures["ok"], true);
    for peak in ["memory_gigabytes_per_second", "cache_gigabytes_per_second", "f32_gigaflops"] {
        assert!(is_positive(&figures["peaks"][peak]), "{peak}: {figures}");
    }
    let operations = figures["operations"].as_array().expect("a list");
    assert_eq!(operations.len(), 6);
    for operation in operations {
        assert_eq!((&operation["operation"], &operation["fault"]), (&"rms_norm".into(), &Value::Null));
        for figure in ["median_microseconds", "least_microseconds", "floor_microseconds", "share_of_peak", "runs"] {
            assert!(is_positive(&operation[figure]), "{figure}: {operation}");
        }
    }
    assert_eq!(told.lines().filter(|line| line.starts_with("rms_norm") && line.ends_with("ok")).count(), 6, "{told}");
}

#[test]
fn the_link_is_measured_between_two_processes() {
    let (figures, told) = figures(&["link", "--seconds", "0.01"]);
    let ways = figures["waiting"].as_array().expect("a list");
    assert!(ways.iter().any(|way| way["spin"] == false), "{figures}");
    for way in ways {
        for (of, count) in [("round_trips", 4), ("wake_ups", 2)] {
            let measured = way[of].as_array().expect("a list");
            assert_eq!(measured.len(), count, "{of}: {way}");
            let is_whole = |figure: &Value| {
                ["p50_microseconds", "p99_microseconds", "count"].iter().all(|name| is_positive(&figure[name]))
            };
            assert!(measured.iter().all(is_whole), "{of}: {way}");
        }
        let one_way = way["one_way"].as_array().expect("a list");
        assert!(one_way.len() == 4 && one_way.iter().all(|figure| is_positive(&figure["frames_per_second"])), "{way}");
    }
    assert!(told.contains("round trip of 64 B"), "{told}");
}

#[test]
fn what_can_not_be_measured_is_refused_in_one_line() {
    for (arguments, expected) in [
        (&["kernels", "--filter", "conv2d"][..], "shardwire: no operation has 'conv2d' in its line"),
        (&["kernels", "--json", "/nowhere/figures"], "shardwire: /nowhere/figures can't be written"),
        (&["link", "--json", "/nowhere/figures"], "shardwire: /nowhere/figures can't be written"),
        (&["link-echo"], "shardwire: the link's echo: its configuration"),
    ] {
        let output = bench(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.starts_with(expected) && told.lines().count() == 1, "{told}");
        assert!(output.stdout.is_empty());
    }
}
