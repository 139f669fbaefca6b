//! `shardwire selftest`: whether this machine's devices compute as they should. Every operation is computed on small
//! inputs of many shapes and formats, and compared with what it means.

use std::{
    env, iter,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

use serde_json::{Value, json};
use workers::{
    gpus,
    selftest::{self, Finding},
};

use crate::{
    config::{Device, SelftestFlags},
    default_model::cache_folder,
};

/// Something computes wrongly.
const FAULTY: u8 = 1;
/// There is no such device.
const REFUSED: u8 = 2;

/// Checks, telling each finding as it comes; exit code 0 if all is well.
pub fn run(flags: &SelftestFlags) -> ExitCode {
    let devices = match devices(flags.device) {
        Ok(devices) => devices,
        Err(why) => return refuse(&why),
    };
    let mut findings = Vec::new();
    let mut tell = |finding: Finding| {
        if !flags.json {
            println!("{}", line(&finding));
        }
        findings.push(finding);
    };
    if flags.device != Device::Cuda {
        selftest::on_cpu(&mut tell);
    }
    let (cache, prebuilt) = (cache_folder().ok().map(|folder| folder.join("kernels")), prebuilt());
    for ordinal in 0..devices {
        if let Err(error) = selftest::on_gpu(ordinal, cache.clone(), prebuilt.clone(), &mut tell) {
            return refuse(&error.to_string());
        }
    }
    let faulty = findings.iter().filter(|finding| finding.fault.is_some()).count();
    if flags.json {
        println!("{:#}", report(&findings));
    } else {
        println!("{} checks, {faulty} of them failed", findings.len());
    }
    if faulty == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAULTY) }
}

/// How many GPUs are to be checked: all that are visible.
fn devices(device: Device) -> Result<usize, String> {
    if device == Device::Cpu {
        return Ok(0);
    }
    match gpus::count() {
        Ok(count) if count > 0 => with_libraries().map(|()| count),
        Ok(_) if device == Device::Cuda => Err("no usable GPU: none is visible".into()),
        Err(error) if device == Device::Cuda => Err(error.to_string()),
        Ok(_) | Err(_) => Ok(0),
    }
}

/// Starts this very command again where libraries lie that the loader doesn't look through: it reads its path only once.
fn with_libraries() -> Result<(), String> {
    /// Says that this was done.
    const MARK: &str = "SHARDWIRE_SELFTEST_LIBRARIES";
    const PATH: &str = "LD_LIBRARY_PATH";
    let links = cache_folder().map_err(|error| error.to_string())?.join("libraries");
    let folders = gpus::search_path(&links).map_err(|error| format!("{}: {error}", links.display()))?;
    if folders.is_empty() || env::var_os(MARK).is_some() {
        return Ok(());
    }
    let present = env::var_os(PATH).unwrap_or_default();
    let path = env::join_paths(folders.into_iter().chain(env::split_paths(&present)));
    let path = path.map_err(|error| format!("the folders of libraries make no path: {error}"))?;
    let mut again = Command::new("/proc/self/exe");
    let error = again.args(env::args_os().skip(1)).env(PATH, path).env(MARK, "1").exec();
    Err(format!("the command can't be started again: {error}"))
}

fn prebuilt() -> Option<PathBuf> {
    env::var_os("SHARDWIRE_KERNELS").map(PathBuf::from)
}

/// `ok    cuda:0 (NVIDIA H100) in bf16: matmul, 1.20 s`
fn line(finding: &Finding) -> String {
    let Finding { device, operation, took, fault } = finding;
    let verdict = if fault.is_none() { "ok   " } else { "WRONG" };
    let fault = fault.iter().map(|fault| format!("\n      {}", first_line(fault)));
    let line = format!("{verdict} {device}: {operation}, {:.2} s", took.as_secs_f64());
    iter::once(line).chain(fault).collect()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn report(findings: &[Finding]) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "device": finding.device, "operation": finding.operation, "seconds": finding.took.as_secs_f64(),
            "fault": finding.fault,
        })
    };
    let is_well = findings.iter().all(|finding| finding.fault.is_none());
    json!({
        "version": env!("CARGO_PKG_VERSION"), "ok": is_well,
        "checks": findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("shardwire: {why}");
    ExitCode::from(REFUSED)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn findings_are_told_to_people_and_to_programs() {
        let good = Finding { device: "cpu".into(), operation: "glu", took: Duration::from_millis(1200), fault: None };
        let bad = Finding { operation: "moe", fault: Some("element 3 is off\nand more".into()), ..good.clone() };
        assert_eq!(line(&good), "ok    cpu: glu, 1.20 s");
        assert_eq!(line(&bad), "WRONG cpu: moe, 1.20 s\n      element 3 is off");
        let report = report(&[good, bad]);
        assert_eq!((&report["ok"], &report["checks"][0]["fault"]), (&json!(false), &Value::Null));
        assert_eq!(report["checks"][1]["operation"], "moe");
    }
}
