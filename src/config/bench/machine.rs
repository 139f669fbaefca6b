//! Flags of `bench kernels` and `bench link`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::config::values::activation_bits;

/// Flags of `shardwire bench kernels`.
#[derive(Debug, Args)]
pub struct BenchKernelsFlags {
    /// Threads that compute; absent: as many as `serve` would use for one rank.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Only cases in whose line all these words occur: "matmul q4_1 1536".
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// How long each case is measured; a few runs are made in any case.
    #[arg(long, value_name = "S", default_value = "0.2", value_parser = seconds)]
    pub seconds: Duration,
    /// Bits of an activation where it is multiplied with quantized weights, as in `serve`.
    #[arg(long, value_name = "8|16", default_value_t = 16, value_parser = activation_bits())]
    pub activation_bits: u8,
    /// A file for all figures, written at the end.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Flags of `shardwire bench link`.
#[derive(Debug, Args)]
pub struct BenchLinkFlags {
    /// How long each figure is measured; twenty are taken in any case.
    #[arg(long, value_name = "S", default_value = "0.5", value_parser = seconds)]
    pub seconds: Duration,
    /// A file for all figures, written at the end.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `0.2`
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 60.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("must be more than 0 and at most 60".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_takes_a_while_but_not_for_ever() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for text in ["0", "-1", "61", "nan", "inf", "soon"] {
            assert_eq!(seconds(text), Err("must be more than 0 and at most 60".to_owned()), "{text}");
        }
    }
}
