//! The CPU's operations beside what the machine could do, and the choice of tokens, which is the host's.

mod choosing;

pub use kernels::{
    bench::{Arithmetic, Bench, Bound, Case, Floor, Int8Peak, Measurement, Peaks, State, Timing, Work},
    cpu::{CpuConfig, Rounding},
};

use crate::selftest::quietly;

/// Every case, those of one kind together.
pub fn cases() -> Vec<Case> {
    kernels::bench::cases().into_iter().chain(choosing::cases()).collect()
}

/// Measures one. A result that is wrong has its say in the measurement, and not on standard error as well.
pub fn measure(bench: &Bench, case: &Case) -> Measurement {
    quietly(|| case.measure(bench))
}
