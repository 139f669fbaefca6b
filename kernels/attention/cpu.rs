//! Attention on the CPU.
//!
//! A *task* is the queries of some neighbouring tokens and of the heads that share a KV head. It walks through its
//! positions in *tiles* (some whole blocks), with one softmax update per tile, and tile by tile through *partitions* (some
//! whole tiles), whose results are merged in order. Tiles and partitions begin at fixed positions, and everything is done
//! query by query in the same order, so a query's result has the same bits in any company. Where there are too few tasks
//! for the threads, partitions are computed apart and merged afterwards, by the same steps.

mod integers;
mod lanes;
mod part;
mod sums;
mod task;

use std::cell::RefCell;

use self::{
    part::part,
    sums::Sums,
    task::{Steps, Task},
};
use super::{Attention, Scoring};
use crate::{
    Batch, Heads, Result,
    cpu::{
        Cpu, Elements, Floats, KvBF16, KvCache, KvF8E4M3, KvF16, KvF32, KvInt8, Split, Tensor,
        simd::{Isa, LANES},
    },
};

impl Attention for Cpu {
    fn attention(
        &self,
        qkv: &Tensor,
        cache: &KvCache,
        layer: usize,
        heads: &Heads,
        scoring: &Scoring<Tensor>,
        batch: &Batch,
    ) -> Result<Tensor> {
        assert_eq!(qkv.columns(), heads.qkv_columns(), "rows hold the query, key and value heads");
        assert_eq!(qkv.rows(), batch.positions.len(), "a position per row");
        let shape = cache.shape();
        assert_eq!(
            (heads.kv, heads.dim, heads.values_from),
            (shape.kv_heads, shape.head_dim, shape.values_from),
            "the cache has these heads"
        );
        assert!(heads.values_from.is_none_or(|first| first.is_multiple_of(LANES)), "values begin at a whole vector");
        assert!(scoring.sinks.is_none_or(|sinks| sinks.data().len() == heads.query), "a sink per query head");
        assert!(scoring.window != Some(0), "a query sees itself");
        let mut output = self.scratch(qkv.rows(), heads.query * heads.value_dim());
        let view = View { qkv, cache, layer, heads, scoring, batch, steps: Steps::of(shape) };
        match (&cache.keys, &cache.values) {
            (Elements::F32(keys), Elements::F32(values)) => {
                self.attend(&view, [keys, values], &mut output, part::<KvF32>);
            }
            (Elements::F16(keys), Elements::F16(values)) => {
                self.attend(&view, [keys, values], &mut output, part::<KvF16>);
            }
            (Elements::BF16(keys), Elements::BF16(values)) => {
                self.attend(&view, [keys, values], &mut output, part::<KvBF16>);
            }
            (Elements::Int16(keys), Elements::Int16(values)) => {
                self.attend(&view, [keys, values], &mut output, integers::part);
            }
            (Elements::Int8(keys), Elements::Int8(values)) => {
                self.attend(&view, [keys, values], &mut output, part::<KvInt8>);
            }
            (Elements::F8E4M3(keys), Elements::F8E4M3(values)) => {
                self.attend(&view, [keys, values], &mut output, part::<KvF8E4M3>);
            }
            _ => unreachable!("keys and values are made in one format"),
        }
        Ok(output)
    }
}

/// Computes the sums of a task's queries over a partition, of keys and values that are stored as `T`.
type ComputePart<T> = for<'a> fn(Isa, &View, &Task, usize, [&[T]; 2], Sums<'a>, &mut Floats) -> Sums<'a>;

/// What an attention reads.
struct View<'a> {
    qkv: &'a Tensor,
    cache: &'a KvCache,
    layer: usize,
    heads: &'a Heads,
    scoring: &'a Scoring<'a, Tensor>,
    batch: &'a Batch,
    steps: Steps,
}

/// Of so many queries at most keys and values are asked for ahead.
const QUERIES_ASKING: usize = 16;
/// Which of a cache's scales.
const KEYS: usize = 0;
const VALUES: usize = 1;

impl View<'_> {
    /// What the elements of eight slots of a block are multiplied by.
    #[inline(always)]
    fn scales(&self, side: usize, block: u32, kv_head: usize, slot: usize) -> &[f32; LANES] {
        let tile = self.cache.tile(self.layer, block as usize, kv_head);
        let at = tile * self.cache.shape().padded_slots() + slot;
        self.cache.scales[side][at..at + LANES].try_into().expect("eight scales")
    }
}

thread_local! {
    /// Each thread's own room for a task: running sums, a partition's sums, queries and scores.
    static ROOM: RefCell<[Floats; 3]> = const { RefCell::new([Floats::new(), Floats::new(), Floats::new()]) };
}

impl Cpu {
    fn attend<T: Sync>(&self, view: &View, stored: [&[T]; 2], output: &mut Tensor, part: ComputePart<T>) {
        let (tasks, columns, isa) = (view.tasks(), output.columns(), self.isa);
        let output = Place { output: Split::new(output.data_mut()), columns };
        let parts: usize = tasks.iter().map(|task| task.partitions.len()).sum();
        if tasks.len() < 4 * self.team.threads() && parts > tasks.len() && self.team.threads() > 1 {
            return self.attend_apart(view, &tasks, stored, &output, part);
        }
        let nanoseconds = |task: &Task| (task.queries() * task.positions * view.heads.dim) as f64 / 10.0;
        let mean = tasks.iter().map(nanoseconds).sum::<f64>() / tasks.len().max(1) as f64;
        self.team.share(tasks.len(), mean, |task| {
            let task = &tasks[task];
            ROOM.with_borrow_mut(|[running, sums, work]| {
                let length = view.result_length(task);
                running.resize(length);
                sums.resize(length);
                let mut running = Sums::new(running, task.queries());
                running.reset();
                for partition in task.partitions.clone() {
                    let sums = Sums::new(sums, task.queries());
                    running.merge(&part(isa, view, task, partition, stored, sums, work));
                }
                output.put(view, task, &running);
            });
        });
    }

    /// Few tasks and many partitions: every partition on its own, then the merging.
    fn attend_apart<T: Sync>(
        &self,
        view: &View,
        tasks: &[Task],
        stored: [&[T]; 2],
        output: &Place,
        part: ComputePart<T>,
    ) {
        let isa = self.isa;
        let items: Vec<(&Task, usize)> =
            tasks.iter().flat_map(|task| task.partitions.clone().map(move |partition| (task, partition))).collect();
        let total = items.iter().map(|(task, _)| view.result_length(task)).sum();
        let mut results = self.scratch(1, total);
        let split = Split::new(results.data_mut());
        let place = |task: &Task, partition| {
            let length = view.result_length(task);
            let start = task.result + (partition - task.partitions.start) * length;
            // SAFETY: every partition of every task has its own range, and one thread at a time works on it.
            Sums::new(unsafe { split.part(start..start + length) }, task.queries())
        };
        self.team.run(items.len(), |item| {
            let (task, partition) = items[item];
            ROOM.with_borrow_mut(|[_, _, work]| {
                part(isa, view, task, partition, stored, place(task, partition), work);
            });
        });
        self.team.share(tasks.len(), 1000.0, |task| {
            let task = &tasks[task];
            ROOM.with_borrow_mut(|[running, ..]| {
                running.resize(view.result_length(task));
                let mut running = Sums::new(running, task.queries());
                running.reset();
                for partition in task.partitions.clone() {
                    running.merge(&place(task, partition));
                }
                output.put(view, task, &running);
            });
        });
    }
}

/// Where results go.
struct Place<'a> {
    output: Split<'a, f32>,
    columns: usize,
}

impl Place<'_> {
    /// Divides a task's sums by their totals, which sinks enlarge.
    fn put(&self, view: &View, task: &Task, sums: &Sums) {
        let (dim, padded) = (view.heads.value_dim(), view.cache.shape().padded_value_dim());
        for (query, (row, head)) in task.rows_and_heads().enumerate() {
            let start = row * self.columns + head * dim;
            // SAFETY: a (row, head) belongs to one task, and one thread finishes it.
            let output = unsafe { self.output.part(start..start + dim) };
            let share = sums.share(query, view.scoring.sinks.map(|sinks| sinks.data()[head]));
            for (output, value) in output.iter_mut().zip(&sums.values[query * padded..]) {
                *output = value / share;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        KvDType, KvShape,
        attention::{Case, compute},
        cpu::Instructions,
        memory::Memory,
        rotary::{Pairing, Rotary, Turns},
    };

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds() {
            crate::attention::check(&cpu);
            crate::attention::check_int16(&cpu);
        }
    }

    /// A model that goes wrong gives no numbers, but ends no rank.
    #[test]
    fn what_is_no_number_is_no_fault() {
        const TOKENS: u32 = 20;
        let heads = Case::new([2, 1, 40, 2, 0], 32, &[]).heads;
        let shape = KvShape {
            layers: 1,
            blocks: 1,
            block_size: 32,
            kv_heads: 1,
            head_dim: 40,
            values_from: None,
            dtype: KvDType::Int16,
        };
        let batch = Batch {
            tokens: vec![0; TOKENS as usize],
            positions: (0..TOKENS).collect(),
            slot_mapping: (0..TOKENS).collect(),
            query_starts: vec![0, TOKENS],
            block_tables: vec![vec![0]],
            context_lengths: vec![TOKENS],
        };
        let still = Turns { frequencies: Vec::new(), magnitude: 1.0, pairing: Pairing::Half, positions: usize::MAX };
        for cpu in Cpu::kinds() {
            let angles = cpu.angles(still.clone()).expect("memory");
            for value in [f32::NAN, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE / 2.0] {
                let mut cache = cpu.kv_cache(shape).expect("memory");
                let mut values = vec![1.0; TOKENS as usize * heads.qkv_columns()];
                values.iter_mut().step_by(3).for_each(|element| *element = value);
                let mut qkv = cpu.tensor(TOKENS as usize, heads.qkv_columns(), &values).expect("memory");
                cpu.rotary_store(&mut qkv, &heads, None, &angles, (&mut cache, 0), &batch).expect("stored");
                let scoring = Scoring { scale: 0.1, window: None, sinks: None };
                let output = cpu.attention(&qkv, &cache, 0, &heads, &scoring, &batch).expect("attention");
                assert_eq!(output.rows(), TOKENS as usize);
            }
        }
    }

    /// Decoded alone, in chunks of any size, with other sequences, by one thread or many (which computes partitions
    /// apart): always the bits of one thread's single chunk.
    #[test]
    fn a_query_has_the_same_bits_in_any_company() {
        for instructions in [Instructions::Best, Instructions::Portable] {
            let case = |block_size| Case::new([3, 1, 40, 3, 0], block_size, &[]);
            check_company(instructions, case(16));
            check_company(instructions, case(24).dtype(KvDType::F16));
            check_company(instructions, case(3).dtype(KvDType::BF16).window(70).with_sinks());
            check_company(instructions, case(16).dtype(KvDType::Int8).window(600));
            check_company(instructions, case(16).dtype(KvDType::F8E4M3));
            check_company(instructions, case(16).values_from(8));
            check_company(instructions, case(16).dtype(KvDType::Int16));
            check_company(instructions, case(24).dtype(KvDType::Int16).window(70).with_sinks());
        }
    }

    fn check_company(instructions: Instructions, case: Case) {
        const LENGTH: usize = 1111;
        let columns = case.heads.query * case.heads.value_dim();
        let of = |sequences: &[[usize; 2]]| Case { sequences: sequences.to_vec(), ..case.clone() };
        let (one, many) = (Cpu::solo(1, instructions), Cpu::solo(4, instructions));
        let whole = compute(&one, &of(&[[0, LENGTH]]));
        for (device, start, count) in [
            (&many, 0, LENGTH),
            (&many, 0, 1),
            (&many, 511, 3),
            (&one, LENGTH - 1, 1),
            (&many, LENGTH - 1, 1),
            (&many, 530, 1),
            (&one, 1000, 111),
            (&many, 1003, 17),
            (&many, 64, 200),
        ] {
            let alone = compute(device, &of(&[[start, count]]));
            let together = compute(device, &of(&[[start, count], [7, 2], [0, 30]]));
            let expected = &whole[start * columns..(start + count) * columns];
            let equal = |result: &[f32]| result.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
            let what = format!("{count} queries from {start}, {}, {case:?}", device.isa.name());
            assert!(equal(&alone[..count * columns]), "{what}, alone");
            assert!(equal(&together[..count * columns]), "{what}, together");
        }
    }
}
