//! `shardwire collect-env`: what a bug report needs to know about a machine.
//!
//! Every fact is looked up by itself and is `null` where it can't be found out, so that the report never fails because one
//! thing is missing. Keys and passwords are never printed.

mod gpus;
mod machine;
mod memory;
mod program;

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use serde_json::{Map, Value};

use crate::config::CollectEnvFlags;

/// Facts about one thing, in the order in which they are told.
type Facts = Vec<(&'static str, Value)>;

/// Where facts about the system are looked up: the root folder, but in tests.
const ROOT: &str = "/";

/// Prints the report. Exit code 1: standard output can't be written.
pub fn run(flags: &CollectEnvFlags) -> ExitCode {
    let report = report();
    let text = if flags.json { format!("{:#}\n", json(&report)) } else { text(&report) };
    match stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(1),
    }
}

/// What a measurement has to tell of this program.
pub fn program() -> Value {
    object(&program::shardwire())
}

/// What a measurement has to tell of this machine: system and processor.
pub fn machine() -> Value {
    let root = ROOT.as_ref();
    object(&machine::system(root).into_iter().chain(machine::processor(root)).collect())
}

fn report() -> Vec<(&'static str, Facts)> {
    let root = ROOT.as_ref();
    vec![
        ("shardwire", program::shardwire()),
        ("system", machine::system(root)),
        ("processor", machine::processor(root)),
        ("memory", memory::memory(root)),
        ("limits", memory::limits(root)),
        ("gpus", gpus::gpus(root)),
        ("models", program::models()),
        ("environment", program::environment(std::env::vars_os())),
    ]
}

fn json(report: &[(&'static str, Facts)]) -> Value {
    let sections = report.iter().map(|(name, facts)| ((*name).to_owned(), object(facts)));
    Value::Object(sections.collect::<Map<_, _>>())
}

fn object(facts: &Facts) -> Value {
    Value::Object(facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn text(report: &[(&'static str, Facts)]) -> String {
    let mut text = String::new();
    for (section, facts) in report {
        text.push_str(&format!("{section}\n"));
        for (name, value) in facts {
            text.push_str(&format!("  {:<22} {}\n", name, shown(value)));
        }
    }
    text
}

/// A value as people read it: lists and objects line by line.
fn shown(value: &Value) -> String {
    let lines = |lines: Vec<String>| match lines.is_empty() {
        true => "none".to_owned(),
        false => lines.join(&format!("\n  {:<22} ", "")),
    };
    match value {
        Value::Null => "unknown".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => lines(items.iter().map(shown).collect()),
        Value::Object(fields) => {
            lines(fields.iter().map(|(name, value)| format!("{name} = {}", shown(value))).collect())
        }
        other => other.to_string(),
    }
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..=0x3ff => return format!("{bytes} bytes"),
        0x400..=0xf_ffff => (10, "KiB"),
        0x10_0000..=0x3fff_ffff => (20, "MiB"),
        _ => (30, "GiB"),
    };
    format!("{:.1} {name}", bytes as f64 / (1u64 << unit) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_is_told_in_both_ways() {
        let report =
            vec![("a", vec![("x", json!(null)), ("y", json!(["1", "2"]))]), ("b", vec![("z", json!({"k": 1}))])];
        assert_eq!(json(&report), json!({"a": {"x": null, "y": ["1", "2"]}, "b": {"z": {"k": 1}}}));
        let pad = " ".repeat(21);
        let expected = format!("a\n  x{pad} unknown\n  y{pad} 1\n  {pad}  2\nb\n  z{pad} k = 1\n");
        assert_eq!(text(&report), expected);
    }

    #[test]
    fn this_machine_is_described() {
        let report = json(&report());
        assert!(report["processor"]["cores_usable"].as_u64().is_some_and(|cores| cores > 0), "{report:#}");
        assert!(report["memory"]["total"].is_string() && report["system"]["kernel"].is_string(), "{report:#}");
    }

    #[test]
    fn sizes_are_rounded() {
        for (bytes, expected) in [(0, "0 bytes"), (2048, "2.0 KiB"), (3 << 20, "3.0 MiB"), (5 << 29, "2.5 GiB")] {
            assert_eq!(size(bytes), expected);
        }
    }
}
