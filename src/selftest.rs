//! `shardwire selftest`: whether this machine's devices compute as they should. Every operation is computed on small
//! inputs of many shapes and formats, and compared with what it means. With `--speed` GPUs are measured, too.

use std::{
    env, iter,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

use serde_json::{Value, json};
use workers::{
    gpus,
    selftest::{self, Finding, GpuKernels, Sizes, Speed},
};

use crate::{
    config::{Device, SelftestFlags, SpeedSizes},
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
    let cache = cache_folder().ok().map(|folder| folder.join("kernels"));
    let kernels = GpuKernels { cache, prebuilt: env::var_os("SHARDWIRE_KERNELS").map(PathBuf::from) };
    if let Err(error) = selftest::on_gpus(devices, &kernels, &mut tell) {
        return refuse(&error.to_string());
    }
    let mut speeds = Vec::new();
    let mut tell = |speed: Speed| {
        if !flags.json {
            println!("{}", speed_line(&speed, copy_bandwidth(&speeds, &speed)));
        }
        speeds.push(speed);
    };
    if let Some(sizes) = flags.speed {
        let sizes = if sizes == SpeedSizes::Real { Sizes::Real } else { Sizes::Small };
        if let Err(error) = selftest::measure_gpus(devices, &kernels, sizes, &mut tell) {
            return refuse(&error.to_string());
        }
    }
    let faulty = findings.iter().filter(|finding| finding.fault.is_some()).count();
    if flags.json {
        println!("{:#}", report(&findings, &speeds));
    } else {
        println!("{} checks, {faulty} of them failed", findings.len());
    }
    if faulty == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAULTY) }
}

/// How many GPUs are to be checked: all that are visible.
fn devices(device: Device) -> Result<usize, String> {
    match device {
        Device::Cpu => return Ok(0),
        Device::Null => return Err("on no device there is nothing to check".into()),
        Device::Auto | Device::Cuda => {}
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

/// `ok    cuda:0 (NVIDIA H100) in bf16: matmul, 1.20 s`
fn line(finding: &Finding) -> String {
    let Finding { device, operation, took, fault } = finding;
    let verdict = if fault.is_none() { "ok   " } else { "WRONG" };
    let fault = fault.iter().map(|fault| format!("\n      {}", first_line(fault)));
    let line = format!("{verdict} {device}: {operation}, {:.2} s", took.as_secs_f64());
    iter::once(line).chain(fault).collect()
}

/// What a copy on the same device has reached, bytes per second.
fn copy_bandwidth(before: &[Speed], of: &Speed) -> Option<f64> {
    before.iter().find(|speed| (speed.operation, &speed.device) == ("copy", &of.device)).map(Speed::bandwidth)
}

/// `cuda:0 (NVIDIA H100): matmul, 1 × 8192 → 28672, BF16: 160.0 µs, 2937.0 GB/s (98 % of a copy's)`
fn speed_line(speed: &Speed, copy: Option<f64>) -> String {
    let Speed { device, operation, shape, took, operations, .. } = speed;
    let bandwidth = speed.bandwidth();
    let share = copy.map(|copy| format!(" ({:.0} % of a copy's)", 100.0 * bandwidth / copy)).unwrap_or_default();
    let rate = match operations {
        0 => String::new(),
        _ => format!(", {:.1} TFLOP/s", *operations as f64 / took.as_secs_f64() / 1e12),
    };
    let micros = took.as_secs_f64() * 1e6;
    format!("{device}: {operation}, {shape}: {micros:.1} µs, {:.1} GB/s{share}{rate}", bandwidth / 1e9)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn report(findings: &[Finding], speeds: &[Speed]) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "device": finding.device, "operation": finding.operation, "seconds": finding.took.as_secs_f64(),
            "fault": finding.fault,
        })
    };
    let speed = |speed: &Speed| {
        json!({
            "device": speed.device, "operation": speed.operation, "shape": speed.shape,
            "microseconds": speed.took.as_secs_f64() * 1e6, "bytes": speed.bytes, "flop": speed.operations,
            "share_of_copy": copy_bandwidth(speeds, speed).map(|copy| speed.bandwidth() / copy),
        })
    };
    let is_well = findings.iter().all(|finding| finding.fault.is_none());
    json!({
        "version": env!("CARGO_PKG_VERSION"), "ok": is_well,
        "checks": findings.iter().map(finding).collect::<Vec<_>>(),
        "speeds": speeds.iter().map(speed).collect::<Vec<_>>(),
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
        let report = report(&[good, bad], &[]);
        assert_eq!((&report["ok"], &report["checks"][0]["fault"]), (&json!(false), &Value::Null));
        assert_eq!(report["checks"][1]["operation"], "moe");
    }

    #[test]
    fn speeds_are_told_beside_what_a_copy_reaches() {
        let copy = Speed {
            device: "cuda:0".into(),
            operation: "copy",
            shape: "512 MiB".into(),
            took: Duration::from_micros(400),
            bytes: 1_200_000_000,
            operations: 0,
        };
        let product = Speed {
            operation: "matmul",
            shape: "1 × 8 → 9, BF16".into(),
            took: Duration::from_micros(200),
            bytes: 450_000_000,
            operations: 900_000_000,
            ..copy.clone()
        };
        let other = Speed { device: "cuda:1".into(), ..product.clone() };
        let all = [copy, product, other];
        let lines = all.each_ref().map(|speed| speed_line(speed, copy_bandwidth(&all[..1], speed)));
        assert_eq!(lines[1], "cuda:0: matmul, 1 × 8 → 9, BF16: 200.0 µs, 2250.0 GB/s (75 % of a copy's), 4.5 TFLOP/s");
        assert_eq!(lines[2], "cuda:1: matmul, 1 × 8 → 9, BF16: 200.0 µs, 2250.0 GB/s, 4.5 TFLOP/s");
        let report = report(&[], &all);
        assert_eq!(
            (&report["speeds"][1]["share_of_copy"], &report["speeds"][2]["share_of_copy"]),
            (&json!(0.75), &Value::Null)
        );
    }
}
