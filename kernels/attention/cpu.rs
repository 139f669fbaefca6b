//! Attention on the CPU.
//!
//! A *task* is the queries of some neighbouring tokens and of the heads that share a KV head. It walks through its
//! positions in *tiles* (some whole blocks), with one softmax update per tile, and tile by tile through *partitions* (some
//! whole tiles), whose results are merged in order. Tiles and partitions begin at fixed positions, and everything is done
//! query by query in the same order, so a query's result has the same bits in any company. Where there are too few tasks
//! for the threads, partitions are computed apart and merged afterwards, by the same steps.

mod part;
mod sums;
mod task;

use std::cell::RefCell;

use self::{
    part::part,
    sums::Sums,
    task::{Steps, Task},
};
use super::Attention;
use crate::{
    Batch, Heads, Result,
    cpu::{Cpu, Elements, Floats, KvBF16, KvCache, KvF16, KvF32, KvFormat, Split, Tensor},
};

impl Attention for Cpu {
    fn attention(
        &self,
        qkv: &Tensor,
        cache: &KvCache,
        layer: usize,
        heads: &Heads,
        scale: f32,
        batch: &Batch,
    ) -> Result<Tensor> {
        assert_eq!(qkv.columns(), heads.qkv_columns(), "rows hold the query, key and value heads");
        assert_eq!(qkv.rows(), batch.positions.len(), "a position per row");
        assert_eq!(
            (heads.kv, heads.dim),
            (cache.shape().kv_heads, cache.shape().head_dim),
            "the cache has these heads"
        );
        let mut output = self.scratch(qkv.rows(), heads.query * heads.dim);
        let view = View { qkv, cache, layer, heads, scale, batch, steps: Steps::of(cache.shape()) };
        match (&cache.keys, &cache.values) {
            (Elements::F32(keys), Elements::F32(values)) => self.attend::<KvF32>(&view, keys, values, &mut output),
            (Elements::F16(keys), Elements::F16(values)) => self.attend::<KvF16>(&view, keys, values, &mut output),
            (Elements::BF16(keys), Elements::BF16(values)) => self.attend::<KvBF16>(&view, keys, values, &mut output),
            _ => unreachable!("keys and values are made in one format"),
        }
        Ok(output)
    }
}

/// What an attention reads.
struct View<'a> {
    qkv: &'a Tensor,
    cache: &'a KvCache,
    layer: usize,
    heads: &'a Heads,
    scale: f32,
    batch: &'a Batch,
    steps: Steps,
}

thread_local! {
    /// Each thread's own room for a task: running sums, a partition's sums, queries and scores.
    static ROOM: RefCell<[Floats; 3]> = const { RefCell::new([Floats::new(), Floats::new(), Floats::new()]) };
}

impl Cpu {
    fn attend<F: KvFormat>(&self, view: &View, keys: &[F::Bits], values: &[F::Bits], output: &mut Tensor) {
        let (tasks, columns, isa) = (view.tasks(), output.columns(), self.isa);
        let output = Place { output: Split::new(output.data_mut()), columns };
        let parts: usize = tasks.iter().map(|task| task.partitions).sum();
        if tasks.len() < 4 * self.team.threads() && parts > tasks.len() && self.team.threads() > 1 {
            return self.attend_apart::<F>(view, &tasks, [keys, values], &output);
        }
        let nanoseconds = |task: &Task| (task.queries() * view.seen(task.rows.end - 1) * view.heads.dim) as f64 / 10.0;
        let mean = tasks.iter().map(nanoseconds).sum::<f64>() / tasks.len().max(1) as f64;
        self.team.share(tasks.len(), mean, |task| {
            let task = &tasks[task];
            ROOM.with_borrow_mut(|[running, sums, work]| {
                let length = view.result_length(task);
                running.resize(length);
                sums.resize(length);
                let mut running = Sums::new(running, task.queries());
                running.reset();
                for partition in 0..task.partitions {
                    let sums = Sums::new(sums, task.queries());
                    running.merge(&part::<F>(isa, view, task, partition, [keys, values], sums, work));
                }
                output.put(view, task, &running);
            });
        });
    }

    /// Few tasks and many partitions: every partition on its own, then the merging.
    fn attend_apart<F: KvFormat>(&self, view: &View, tasks: &[Task], stored: [&[F::Bits]; 2], output: &Place) {
        let isa = self.isa;
        let items: Vec<(&Task, usize)> =
            tasks.iter().flat_map(|task| (0..task.partitions).map(move |partition| (task, partition))).collect();
        let total = items.iter().map(|(task, _)| view.result_length(task)).sum();
        let mut results = self.scratch(1, total);
        let split = Split::new(results.data_mut());
        let place = |task: &Task, partition| {
            let length = view.result_length(task);
            let start = task.result + partition * length;
            // SAFETY: every partition of every task has its own range, and one thread at a time works on it.
            Sums::new(unsafe { split.part(start..start + length) }, task.queries())
        };
        self.team.run(items.len(), |item| {
            let (task, partition) = items[item];
            ROOM.with_borrow_mut(|[_, _, work]| {
                part::<F>(isa, view, task, partition, stored, place(task, partition), work);
            });
        });
        self.team.share(tasks.len(), 1000.0, |task| {
            let task = &tasks[task];
            ROOM.with_borrow_mut(|[running, ..]| {
                running.resize(view.result_length(task));
                let mut running = Sums::new(running, task.queries());
                running.reset();
                for partition in 0..task.partitions {
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
    /// Divides a task's sums by their totals.
    fn put(&self, view: &View, task: &Task, sums: &Sums) {
        let (dim, padded) = (view.heads.dim, view.cache.shape().padded_dim());
        let queries = task.rows.clone().flat_map(|row| task.heads.clone().map(move |head| (row, head)));
        for (query, (row, head)) in queries.enumerate() {
            let start = row * self.columns + head * dim;
            // SAFETY: a (row, head) belongs to one task, and one thread finishes it.
            let output = unsafe { self.output.part(start..start + dim) };
            for (output, value) in output.iter_mut().zip(&sums.values[query * padded..]) {
                *output = value / sums.total[query];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        KvDType,
        attention::{Case, compute},
        cpu::Instructions,
    };

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds() {
            crate::attention::check(&cpu);
        }
    }

    /// Decoded alone, in chunks of any size, with other sequences, by one thread or many (which computes partitions
    /// apart): always the bits of one thread's single chunk.
    #[test]
    fn a_query_has_the_same_bits_in_any_company() {
        for instructions in [Instructions::Best, Instructions::Portable] {
            for (block_size, dtype) in [(16, KvDType::F32), (24, KvDType::F16), (3, KvDType::BF16)] {
                check_company(instructions, block_size, dtype);
            }
        }
    }

    fn check_company(instructions: Instructions, block_size: usize, dtype: KvDType) {
        const LENGTH: usize = 1111;
        let heads = Heads { query: 3, kv: 1, dim: 40, group: 3, first_in_group: 0 };
        let columns = heads.query * heads.dim;
        let case = |sequences: &[[usize; 2]]| Case { heads, block_size, dtype, sequences: sequences.to_vec() };
        let (one, many) = (Cpu::solo(1, instructions), Cpu::solo(4, instructions));
        let whole = compute(&one, &case(&[[0, LENGTH]]));
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
            let alone = compute(device, &case(&[[start, count]]));
            let together = compute(device, &case(&[[start, count], [7, 2], [0, 30]]));
            let expected = &whole[start * columns..(start + count) * columns];
            let equal = |result: &[f32]| result.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
            let what = format!("{count} queries from {start}, {}, blocks of {block_size}", device.isa.name());
            assert!(equal(&alone[..count * columns]), "{what}, alone");
            assert!(equal(&together[..count * columns]), "{what}, together");
        }
    }
}
