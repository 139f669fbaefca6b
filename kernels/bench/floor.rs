//! The least time in which a machine can do some work: bytes ÷ bandwidth or operations ÷ peak, whichever is more.

use super::Peaks;

/// What one run does at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Read and written, each operand once.
    pub bytes: usize,
    /// Multiplications and additions, where they are many; else 0.
    pub operations: usize,
    /// What these are done in.
    pub arithmetic: Arithmetic,
    /// Where most of the bytes lie beforehand.
    pub state: State,
}

/// Numbers that are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// 32-bit floating-point ones.
    F32,
    /// 16-bit integers, summed in 32-bit ones.
    Int16,
    /// Bytes, summed in 32-bit integers.
    Int8,
}

/// Where operands lie before a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In memory: runs go round in more of it than the caches hold, as a step meets each weight once.
    Cold,
    /// In a core's cache.
    Warm,
}

/// What a run waits for at best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Bytes out of memory.
    Memory,
    /// Bytes out of the cores' caches.
    Cache,
    /// Products of f32.
    F32,
    /// Products of 16-bit integers.
    Int16,
    /// Products of bytes.
    Int8,
}

/// The least time, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floor {
    /// Seconds.
    pub seconds: f64,
    /// What takes that long.
    pub bound: Bound,
}

impl State {
    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            State::Cold => "cold",
            State::Warm => "warm",
        }
    }
}

impl Bound {
    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Cache => "cache",
            Bound::F32 => "f32",
            Bound::Int16 => "int16",
            Bound::Int8 => "int8",
        }
    }
}

impl Peaks {
    /// The least time that the machine needs.
    pub fn floor(&self, work: &Work) -> Floor {
        let (bandwidth, bytes_bound) = match work.state {
            State::Cold => (self.memory, Bound::Memory),
            State::Warm => (self.cache, Bound::Cache),
        };
        let (peak, operations_bound) = match work.arithmetic {
            Arithmetic::F32 => (self.f32, Bound::F32),
            Arithmetic::Int16 => (self.int16, Bound::Int16),
            Arithmetic::Int8 => self.int8.map_or((self.int16, Bound::Int16), |int8| (int8.peak, Bound::Int8)),
        };
        let moving = Floor { seconds: work.bytes as f64 / bandwidth, bound: bytes_bound };
        let computing = Floor { seconds: work.operations as f64 / peak, bound: operations_bound };
        if computing.seconds > moving.seconds { computing } else { moving }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Int8Peak;

    #[test]
    fn the_floor_is_the_slower_of_moving_and_computing() {
        let peaks = Peaks { memory: 20e9, cache: 200e9, f32: 100e9, int16: 400e9, int8: None };
        let with_bytes = Peaks { int8: Some(Int8Peak { instructions: "some", peak: 800e9 }), ..peaks };
        let check_on = |peaks: Peaks, bytes, operations, arithmetic, state, seconds: f64, bound| {
            let floor = peaks.floor(&Work { bytes, operations, arithmetic, state });
            assert!(floor.bound == bound && (floor.seconds - seconds).abs() < 1e-12, "{floor:?}");
        };
        let check = |bytes, operations, arithmetic, state, seconds, bound| {
            check_on(peaks, bytes, operations, arithmetic, state, seconds, bound);
        };
        check(20_000_000, 0, Arithmetic::F32, State::Cold, 1e-3, Bound::Memory);
        check(20_000_000, 0, Arithmetic::F32, State::Warm, 1e-4, Bound::Cache);
        check(20_000_000, 200_000_000, Arithmetic::F32, State::Cold, 2e-3, Bound::F32);
        check(20_000_000, 200_000_000, Arithmetic::Int16, State::Cold, 1e-3, Bound::Memory);
        check(20_000_000, 800_000_000, Arithmetic::Int16, State::Cold, 2e-3, Bound::Int16);
        // Who has no products of bytes multiplies them as wider integers.
        check(20_000_000, 1_600_000_000, Arithmetic::Int8, State::Cold, 4e-3, Bound::Int16);
        check_on(with_bytes, 20_000_000, 1_600_000_000, Arithmetic::Int8, State::Cold, 2e-3, Bound::Int8);
    }
}
