//! `shardwire bench kernels`: the machine's peaks, then every operation's correctness and speed beside them.

use std::process::ExitCode;

use serde_json::{Value, json};
use workers::bench::kernels::{self, Bench, Case, CpuConfig, Measurement, Peaks, Rounding};

use super::sheet::Sheet;
use crate::{
    config::BenchKernelsFlags,
    supervisor::{AvailableCores, CorePlan},
};

/// Something computes wrongly.
const FAULTY: u8 = 1;
/// Nothing can be measured as asked.
const REFUSED: u8 = 2;

/// Measures, telling each case as it is done; exit code 0 if all results are right.
pub fn run(flags: &BenchKernelsFlags) -> ExitCode {
    measure(flags).unwrap_or_else(|why| {
        eprintln!("shardwire: {why}");
        ExitCode::from(REFUSED)
    })
}

fn measure(flags: &BenchKernelsFlags) -> Result<ExitCode, String> {
    let cases = wanted(kernels::cases(), flags.filter.as_deref())?;
    let sheet = Sheet::open(flags.json.as_deref())?;
    let device = device(flags);
    let cores = device.cores.clone();
    let bench = Bench::new(device, flags.seconds);
    println!("{}, {}", bench.name(), told(&cores));
    let peaks = bench.peaks();
    println!("{}\n\n{}", peaks_line(&peaks), headings());
    let mut measured = Vec::new();
    for case in &cases {
        let measurement = kernels::measure(&bench, case);
        println!("{}", line(&measurement, &peaks));
        measured.push(measurement);
    }
    let faulty = measured.iter().filter(|measurement| measurement.fault.is_some()).count();
    println!("\n{} cases, {faulty} of them wrong", measured.len());
    let figures = json!({
        "version": env!("CARGO_PKG_VERSION"), "device": bench.name(), "cores": cores, "ok": faulty == 0,
        "seconds_per_case": flags.seconds.as_secs_f64(), "peaks": peaks_json(&peaks),
        "operations": measured.iter().map(|measurement| json(measurement, &peaks)).collect::<Vec<_>>(),
    });
    sheet.write(&figures)?;
    Ok(if faulty == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAULTY) })
}

/// The threads and cores of a lone rank, as `serve` would start it.
fn device(flags: &BenchKernelsFlags) -> CpuConfig {
    let plan = CorePlan::new(1, flags.threads.map(usize::from), &AvailableCores::of_this_process());
    CpuConfig {
        threads: plan.threads_per_rank,
        cores: plan.cores.into_iter().next().unwrap_or_default(),
        spin: plan.spin,
        rounding: if flags.activation_bits == 8 { Rounding::Bytes } else { Rounding::Shorts },
        ..CpuConfig::default()
    }
}

/// The cases whose lines hold every word of the filter.
fn wanted(mut cases: Vec<Case>, filter: Option<&str>) -> Result<Vec<Case>, String> {
    let Some(filter) = filter else { return Ok(cases) };
    cases.retain(|case| matches(&case.label(), filter));
    if cases.is_empty() {
        return Err(format!("no operation has '{filter}' in its line; without --filter all are measured"));
    }
    Ok(cases)
}

fn matches(label: &str, filter: &str) -> bool {
    let label = label.to_lowercase();
    filter.to_lowercase().split_whitespace().all(|word| label.contains(word))
}

fn told(cores: &[usize]) -> String {
    match cores {
        [] => "not bound to cores".to_owned(),
        [core] => format!("core {core}"),
        cores => format!("cores {}", cores.iter().map(usize::to_string).collect::<Vec<_>>().join(" ")),
    }
}

fn peaks_line(peaks: &Peaks) -> String {
    let int8 = peaks
        .int8
        .map_or(String::new(), |int8| format!(" · int8 {:.0} Gop/s ({})", int8.peak / 1e9, int8.instructions));
    let Peaks { memory, cache, f32, int16, .. } = peaks;
    let [memory, cache, f32, int16] = [memory, cache, f32, int16].map(|peak| peak / 1e9);
    let bytes = format!("memory {memory:.1} GB/s · cache {cache:.0} GB/s");
    format!("peaks: {bytes} · f32 {f32:.0} GFLOP/s · int16 {int16:.0} Gop/s{int8}")
}

fn headings() -> String {
    columns([
        "operation",
        "format",
        "shape",
        "median µs",
        "least µs",
        "GB/s",
        "GOP/s",
        "of peak",
        "bound",
        "from",
        "result",
    ])
}

/// Names to the left, numbers to the right.
fn columns(
    [operation, format, shape, median, least, bytes, operations, share, bound, state, verdict]: [&str; 11],
) -> String {
    let names = format!("{operation:10}  {format:7}  {shape:42}");
    format!("{names}{median:>11}{least:>11}{bytes:>8}{operations:>8}{share:>9}  {bound:6}  {state:4}  {verdict}")
}

/// `matmul  q4_1  1 × 576 → 1536  31.2  28.8  17.9  56.7  77 %  memory  cold  ok`, in columns.
fn line(measurement: &Measurement, peaks: &Peaks) -> String {
    let Measurement { operation, format, shape, fault, timing, work } = measurement;
    let [median, least] = [timing.median, timing.least].map(|took| took.as_secs_f64() * 1e6);
    let floor = peaks.floor(work);
    let rates = [work.bytes, work.operations].map(|amount| rate(amount, measurement));
    let done = if work.operations == 0 { "–".to_owned() } else { format!("{:.1}", rates[1]) };
    let verdict = fault.as_deref().map_or("ok".to_owned(), |fault| format!("WRONG: {}", first_line(fault)));
    columns([
        operation,
        format,
        shape,
        &format!("{median:.1}"),
        &format!("{least:.1}"),
        &format!("{:.1}", rates[0]),
        &done,
        &format!("{:.0} %", 100.0 * share(measurement, peaks)),
        floor.bound.name(),
        work.state.name(),
        &verdict,
    ])
}

/// Billions per second of the median run.
fn rate(amount: usize, measurement: &Measurement) -> f64 {
    amount as f64 / measurement.timing.median.as_secs_f64() / 1e9
}

/// Of the peak that bounds it, what the median run reaches.
fn share(measurement: &Measurement, peaks: &Peaks) -> f64 {
    peaks.floor(&measurement.work).seconds / measurement.timing.median.as_secs_f64()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn peaks_json(peaks: &Peaks) -> Value {
    json!({
        "memory_gigabytes_per_second": peaks.memory / 1e9, "cache_gigabytes_per_second": peaks.cache / 1e9,
        "f32_gigaflops": peaks.f32 / 1e9, "int16_gigaops": peaks.int16 / 1e9, "int8_gigaops": peaks.int8.map(|int8| int8.peak / 1e9),
        "int8_instructions": peaks.int8.map(|int8| int8.instructions),
    })
}

fn json(measurement: &Measurement, peaks: &Peaks) -> Value {
    let Measurement { operation, format, shape, fault, timing, work } = measurement;
    let floor = peaks.floor(work);
    json!({
        "operation": operation, "format": format, "shape": shape, "fault": fault, "from": work.state.name(),
        "median_microseconds": timing.median.as_secs_f64() * 1e6, "least_microseconds": timing.least.as_secs_f64() * 1e6,
        "runs": timing.runs, "bytes": work.bytes, "operations": work.operations,
        "gigabytes_per_second": rate(work.bytes, measurement), "gigaops": rate(work.operations, measurement),
        "floor_microseconds": floor.seconds * 1e6, "bound": floor.bound.name(), "share_of_peak": share(measurement, peaks),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use workers::bench::kernels::{Arithmetic, Int8Peak, State, Timing, Work};

    use super::*;

    const PEAKS: Peaks = Peaks {
        memory: 20e9,
        cache: 200e9,
        f32: 100e9,
        int16: 150e9,
        int8: Some(Int8Peak { instructions: "avx2", peak: 300e9 }),
    };

    fn measurement() -> Measurement {
        let [median, least] = [50, 40].map(Duration::from_micros);
        Measurement {
            operation: "matmul",
            format: "q4_1",
            shape: "1 × 576 → 1536".into(),
            fault: None,
            timing: Timing { median, least, runs: 9 },
            work: Work { bytes: 500_000, operations: 2_000_000, arithmetic: Arithmetic::F32, state: State::Cold },
        }
    }

    #[test]
    fn cases_are_told_beside_the_peak_that_bounds_them() {
        let words = |measurement: &Measurement| {
            line(measurement, &PEAKS).split_whitespace().skip(2).map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words(&measurement()), "1 × 576 → 1536 50.0 40.0 10.0 40.0 50 % memory cold ok");
        let work = Work { operations: 0, state: State::Warm, ..measurement().work };
        let wrong = Measurement { fault: Some("element 3 is off\nand more".into()), work, ..measurement() };
        assert_eq!(words(&wrong), "1 × 576 → 1536 50.0 40.0 10.0 – 5 % cache warm WRONG: element 3 is off");
        assert_eq!(
            peaks_line(&PEAKS),
            "peaks: memory 20.0 GB/s · cache 200 GB/s · f32 100 GFLOP/s · int16 150 Gop/s · int8 300 Gop/s (avx2)"
        );
        let figures = json(&measurement(), &PEAKS);
        assert_eq!(
            (&figures["share_of_peak"], &figures["bound"], &figures["fault"]),
            (&json!(0.5), &json!("memory"), &Value::Null)
        );
    }

    #[test]
    fn a_filter_is_words_that_a_line_holds() {
        let label = "matmul q4_1 16 × 576 → 1536";
        for (filter, expected) in
            [("", true), ("matmul", true), ("Q4_1 1536", true), ("1536 q4", true), ("q4_0", false)]
        {
            assert_eq!(matches(label, filter), expected, "{filter:?}");
        }
        assert!(wanted(kernels::cases(), Some("rms_norm")).unwrap().len() > 1);
        let error = wanted(kernels::cases(), Some("conv2d")).err().unwrap();
        assert_eq!(error, "no operation has 'conv2d' in its line; without --filter all are measured");
    }

    #[test]
    fn cores_are_told() {
        for (cores, expected) in [(&[][..], "not bound to cores"), (&[3], "core 3"), (&[0, 1], "cores 0 1")] {
            assert_eq!(told(cores), expected);
        }
    }
}
