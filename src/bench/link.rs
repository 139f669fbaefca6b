//! `shardwire bench link`: how fast a server and a rank can talk, through the rings that they talk through.

mod echo;

use std::{process::ExitCode, time::Duration};

use serde_json::{Value, json};
use workers::bench::link::{Asker, AskerError, Spread};

use self::echo::Echo;
use super::sheet::Sheet;
use crate::{config::BenchLinkFlags, supervisor::AvailableCores};

/// Nothing can be measured.
const REFUSED: u8 = 2;

/// Bytes of a frame.
const FRAMES: [usize; 4] = [64, 1 << 10, 4 << 10, 64 << 10];
/// How long both sides do nothing before one is woken.
const IDLE: [Duration; 2] = [Duration::from_micros(200), Duration::from_millis(10)];

/// Measures both ways of waiting that the engine has, telling each figure as it comes.
pub fn run(flags: &BenchLinkFlags) -> ExitCode {
    measure(flags).map_or_else(
        |why| {
            eprintln!("shardwire: {why}");
            ExitCode::from(REFUSED)
        },
        |()| ExitCode::SUCCESS,
    )
}

fn measure(flags: &BenchLinkFlags) -> Result<(), String> {
    let sheet = Sheet::open(flags.json.as_deref())?;
    let places = Places::among(&AvailableCores::of_this_process());
    println!("{}", places.told());
    let mut figures = Vec::new();
    for spin in [true, false] {
        if spin && !places.apart {
            println!("spinning is left out: there is no core for each process");
            continue;
        }
        let told = measure_waiting(spin, &places, flags.seconds).map_err(|error| error.to_string())?;
        figures.push(told);
    }
    let Places { asker, echo, .. } = places;
    let figures = json!({
        "version": env!("CARGO_PKG_VERSION"), "cores": [asker, echo], "seconds_per_figure": flags.seconds.as_secs_f64(),
        "waiting": figures,
    });
    sheet.write(&figures)
}

/// The cores of the two processes.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    asker: Option<usize>,
    echo: Option<usize>,
    /// Whether each has a core of its own.
    apart: bool,
}

impl Places {
    /// The first core and the next, where two may be busy at once; else the system decides.
    fn among(available: &AvailableCores) -> Self {
        match available.cores[..] {
            [asker, echo, ..] if available.parallelism >= 2 => {
                Self { asker: Some(asker), echo: Some(echo), apart: true }
            }
            _ => Self { asker: None, echo: None, apart: false },
        }
    }

    fn told(&self) -> String {
        match (self.asker, self.echo) {
            (Some(asker), Some(echo)) => format!("two processes, on cores {asker} and {echo}"),
            _ => "two processes, not bound to cores".to_owned(),
        }
    }
}

/// All figures of one way of waiting, between this process and a new one.
fn measure_waiting(spin: bool, places: &Places, time: Duration) -> Result<Value, AskerError> {
    let how = if spin { "spin, then sleep" } else { "sleep" };
    let mut asker = Asker::new(spin, places.asker)?;
    let _echo = Echo::start(&asker.echo(spin, places.echo)).map_err(AskerError::Start)?;
    asker.meet()?;
    println!("\nwaiting: {how}");
    let (mut round_trips, mut wake_ups, mut one_way) = (Vec::new(), Vec::new(), Vec::new());
    for bytes in FRAMES {
        let spread = asker.round_trips(bytes, time)?;
        println!("{}", line(&format!("round trip of {}", size(bytes)), &spread));
        round_trips.push(with(json!({"bytes": bytes}), &spread));
    }
    for idle in IDLE {
        let spread = asker.wake_ups(idle, time)?;
        println!("{}", line(&format!("wake-up after {} µs", idle.as_micros()), &spread));
        wake_ups.push(with(json!({"idle_microseconds": idle.as_micros() as u64}), &spread));
    }
    for bytes in FRAMES {
        let per_second = asker.one_way(bytes, time)?;
        let gigabytes = per_second * bytes as f64 / 1e9;
        println!("{:28} {per_second:9.0} frames/s  {gigabytes:7.3} GB/s", format!("one way, {}", size(bytes)));
        one_way.push(json!({"bytes": bytes, "frames_per_second": per_second, "gigabytes_per_second": gigabytes}));
    }
    Ok(json!({"waiting": how, "spin": spin, "round_trips": round_trips, "wake_ups": wake_ups, "one_way": one_way}))
}

/// `round trip of 64 B             p50     4.1 µs  p99    12.0 µs  least    3.8 µs  (20000 of them)`
fn line(what: &str, spread: &Spread) -> String {
    let [p50, p99, least] = [spread.p50, spread.p99, spread.least].map(micros);
    format!("{what:28} p50 {p50:7.1} µs  p99 {p99:7.1} µs  least {least:7.1} µs  ({} of them)", spread.count)
}

fn with(mut figure: Value, spread: &Spread) -> Value {
    figure["p50_microseconds"] = json!(micros(spread.p50));
    figure["p99_microseconds"] = json!(micros(spread.p99));
    figure["least_microseconds"] = json!(micros(spread.least));
    figure["count"] = json!(spread.count);
    figure
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn size(bytes: usize) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes >> 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_spin_only_on_cores_of_their_own() {
        let among =
            |cores: &[usize], parallelism| Places::among(&AvailableCores { cores: cores.to_vec(), parallelism });
        assert_eq!(among(&[2, 5, 6], 3), Places { asker: Some(2), echo: Some(5), apart: true });
        for (cores, parallelism) in [(&[0][..], 1), (&[0, 1], 1), (&[], 2)] {
            assert_eq!(among(cores, parallelism), Places { asker: None, echo: None, apart: false });
        }
        assert_eq!(among(&[0, 1], 2).told(), "two processes, on cores 0 and 1");
    }

    #[test]
    fn figures_are_told_to_people_and_to_programs() {
        let [p50, p99, least] = [4, 12, 3].map(Duration::from_micros);
        let spread = Spread { p50, p99, least, count: 7 };
        let told = line("round trip of 64 B", &spread);
        assert_eq!(
            told.split_whitespace().collect::<Vec<_>>().join(" "),
            "round trip of 64 B p50 4.0 µs p99 12.0 µs least 3.0 µs (7 of them)"
        );
        let figure = with(json!({"bytes": 64}), &spread);
        assert_eq!((&figure["p99_microseconds"], &figure["count"]), (&json!(12.0), &json!(7)));
        assert_eq!([64, 1024, 65536].map(size), ["64 B", "1 KiB", "64 KiB"]);
    }
}
