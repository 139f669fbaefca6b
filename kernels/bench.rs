//! How fast the CPU does what steps are made of, beside what the machine could do (`shardwire bench kernels`).
//!
//! First the machine's [`Peaks`], then every [`Case`]: whether its result is right, how long it takes, and its
//! [`Floor`], which is the time that the machine needs at least for as many bytes and operations.
//!
//! Operands are *cold* where a step meets them once: weights, keys and values go round in more memory than the caches
//! hold. *Warm* ones are what the operation before has just written.

mod attention;
mod caches;
mod floor;
mod matmul;
mod peaks;
mod rows;
mod shapes;
mod timing;
mod together;
mod weights;

use std::{cell::RefCell, rc::Rc, time::Duration};

pub use self::{
    floor::{Arithmetic, Bound, Floor, State, Work},
    peaks::{Int8Peak, Peaks},
    timing::Timing,
};
pub use crate::conformance::fault_of;

use self::weights::Arena;
use crate::{
    DType,
    cpu::{Cpu, CpuConfig, Weight},
    group::Group,
    memory::Memory,
};

/// The device that is measured, and how long each measurement may take.
pub struct Bench {
    pub(crate) cpu: Cpu,
    config: CpuConfig,
    time: Duration,
    /// Weights of the format that was measured last: all its cases follow one another.
    arena: RefCell<Option<Arena>>,
    /// The same as those of the shape that was measured last.
    weights: RefCell<Option<Rc<ShapedWeights>>>,
}

impl Bench {
    /// A lone device. `time` is what the runs of one case may take together; at least a few are made in any case.
    pub fn new(config: CpuConfig, time: Duration) -> Self {
        Self {
            cpu: Cpu::new(config.clone(), Group::solo()),
            config,
            time,
            arena: RefCell::default(),
            weights: RefCell::default(),
        }
    }

    /// The device's name for people.
    pub fn name(&self) -> String {
        self.cpu.name()
    }

    /// What its threads reach together.
    pub fn peaks(&self) -> Peaks {
        peaks::measure(&self.cpu, self.time)
    }

    /// What the runs of one case may take together.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Weights in `dtype`, made if the last ones were in another.
    fn arena(&self, dtype: DType) -> Arena {
        let mut last = self.arena.borrow_mut();
        if last.as_ref().is_none_or(|arena| arena.dtype != dtype) {
            *last = None; // its memory goes before the next is taken
            *last = Some(Arena::new(dtype));
        }
        last.clone().expect("just made")
    }

    /// The same as weights `[outputs, inputs]`, rearranged where kernels want them so.
    fn weights(&self, dtype: DType, [outputs, inputs]: [usize; 2]) -> Rc<ShapedWeights> {
        let mut last = self.weights.borrow_mut();
        if last.as_ref().is_none_or(|weights| (weights.dtype, weights.shape) != (dtype, [outputs, inputs])) {
            *last = None;
            let matrices = self.arena(dtype).matrices(outputs, inputs).into_iter();
            let all: Vec<_> = matrices.map(|matrix| self.cpu.weight(vec![matrix]).expect("a weight")).collect();
            // Once, so that none is when it is measured.
            for weight in &all {
                match [inputs, outputs] {
                    shapes::HEAD => self.cpu.prepare_for_few(weight),
                    _ => self.cpu.prepare(weight),
                };
            }
            *last = Some(Rc::new(ShapedWeights { dtype, shape: [outputs, inputs], all }));
        }
        last.clone().expect("just made")
    }
}

/// Weights of one format and shape that go round.
struct ShapedWeights {
    dtype: DType,
    shape: [usize; 2],
    all: Vec<Weight>,
}

/// Something to measure.
pub struct Case {
    operation: &'static str,
    format: &'static str,
    shape: String,
    run: Box<dyn Fn(&Bench) -> Outcome>,
}

/// What comes of running a case.
pub struct Outcome {
    /// What was wrong with the result, if something was.
    pub fault: Option<String>,
    /// How long one run takes.
    pub timing: Timing,
    /// What one run does at least.
    pub work: Work,
}

/// A case with what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// The operation.
    pub operation: &'static str,
    /// The format of what is read most: weights, keys and values, or activations.
    pub format: &'static str,
    /// Of what: rows first, for people.
    pub shape: String,
    /// What was wrong with the result, if something was.
    pub fault: Option<String>,
    /// How long one run takes.
    pub timing: Timing,
    /// What one run does at least.
    pub work: Work,
}

impl Case {
    /// A case that `run` checks and measures.
    pub fn new(
        operation: &'static str,
        format: &'static str,
        shape: String,
        run: impl Fn(&Bench) -> Outcome + 'static,
    ) -> Self {
        Self { operation, format, shape, run: Box::new(run) }
    }

    /// Its name for people, `matmul q4_1 16 × 576 → 1536`.
    pub fn label(&self) -> String {
        format!("{} {} {}", self.operation, self.format, self.shape)
    }

    /// Checks and measures it.
    pub fn measure(&self, bench: &Bench) -> Measurement {
        let Outcome { fault, timing, work } = (self.run)(bench);
        let (operation, format, shape) = (self.operation, self.format, self.shape.clone());
        Measurement { operation, format, shape, fault, timing, work }
    }
}

/// Every operation that the device has, at the shapes of two small models. Weights of one format follow one another.
pub fn cases() -> Vec<Case> {
    [matmul::cases(), attention::cases(), rows::cases(), together::cases()].into_iter().flatten().collect()
}

/// At most `most` of `0..count`, evenly spread, the first and the last among them: which elements of a result are compared
/// where all would take long.
fn spread(count: usize, most: usize) -> Vec<usize> {
    let chosen = count.min(most);
    (0..chosen).map(|index| index * (count - 1) / (chosen - 1).max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compared_elements_are_spread_from_the_first_to_the_last() {
        for (count, most, expected) in
            [(0, 4, vec![]), (1, 4, vec![0]), (3, 4, vec![0, 1, 2]), (100, 4, vec![0, 33, 66, 99]), (9, 1, vec![0])]
        {
            assert_eq!(spread(count, most), expected, "{count} {most}");
        }
    }

    /// The smallest case of each operation; the figures themselves are nobody's promise.
    #[test]
    fn cases_are_right_and_measured() {
        let bench = Bench::new(CpuConfig { threads: 2, ..CpuConfig::default() }, Duration::ZERO);
        for label in [
            "matmul q4_1 1 × 576 → 1536",
            "attention int8 1 × 1 of 128, 9 heads on 3 of 64",
            "rms_norm f32 1 × 576",
            "rotary f16 16 × 9 heads on 3 of 64",
            "glu f32 1 × 1536",
            "all_reduce f32 4 KiB, 2 ranks",
        ] {
            let case = cases().into_iter().find(|case| case.label() == label);
            let measured = case.unwrap_or_else(|| panic!("no case {label}")).measure(&bench);
            assert_eq!(measured.fault, None, "{label}");
            assert!(measured.timing.runs >= 3 && measured.timing.least <= measured.timing.median, "{measured:?}");
            assert!(measured.work.bytes > 0, "{label}");
        }
    }

    #[test]
    fn labels_name_one_case_each() {
        let labels: std::collections::HashSet<String> = cases().iter().map(Case::label).collect();
        assert_eq!(labels.len(), cases().len());
    }
}
