//! What happens to rows between products: norms, rotary embedding with the storing of keys and values, gates.

use super::{
    Arithmetic, Bench, Case, Outcome, State, Timing, Work,
    shapes::{MODELS, Model, told},
};
use crate::{
    Batch, KvDType, KvShape,
    conformance::fault_of,
    cpu::Tensor,
    glu::{self, Activation, Glu},
    memory::Memory,
    rms_norm::{self, RmsNorm},
    rotary::{self, Rotary, Turns},
    samples::{Samples, assert_close},
};

const ROWS: [usize; 3] = [1, 16, 512];

/// What the operations promise.
const TOLERANCE: f32 = 2e-6;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for model in MODELS {
        for rows in ROWS {
            let shape = format!("{rows} × {}", model.hidden);
            cases.push(Case::new("rms_norm", "f32", shape, move |bench| norm(bench, rows, model.hidden)));
        }
    }
    for model in MODELS {
        for rows in ROWS {
            let shape = format!("{rows} × {}", told(&model.heads));
            cases.push(Case::new("rotary", "f16", shape, move |bench| rotary(bench, rows, &model)));
        }
    }
    for model in MODELS {
        for rows in ROWS {
            let shape = format!("{rows} × {}", model.intermediate);
            cases.push(Case::new("glu", "f32", shape, move |bench| gate(bench, rows, model.intermediate)));
        }
    }
    cases
}

/// Bytes alone bound these: they do a few operations for each.
fn moving(bytes: usize) -> Work {
    Work { bytes, operations: 0, arithmetic: Arithmetic::F32, state: State::Warm }
}

/// As layers have it: the branch is added to the residual stream, and the sum normalised.
fn norm(bench: &Bench, rows: usize, columns: usize) -> Outcome {
    const EPS: f32 = 1e-5;
    let (cpu, mut samples) = (&bench.cpu, Samples::new(4));
    let [x, base] = [(); 2].map(|()| samples.floats(rows * columns));
    let weight = samples.floats(columns);
    let tensor = |values: &[f32]| cpu.tensor(rows, columns, values).expect("memory");
    let (branch, mut residual, scales) = (tensor(&x), tensor(&base), cpu.vector(&weight).expect("memory"));
    let fault = fault_of(|| {
        let mut residual = tensor(&base);
        let found = cpu.add_rms_norm(&mut residual, &branch, 1.0, &scales, EPS).expect("a norm");
        let sums: Vec<f32> = base.iter().zip(&x).map(|(a, b)| a + b).collect();
        let expected: Vec<f32> =
            sums.chunks_exact(columns).flat_map(|row| rms_norm::reference(row, &weight, EPS)).collect();
        assert_close(found.data(), &expected, TOLERANCE, "rms_norm");
    });
    let timing = Timing::measure(bench.time, || {
        cpu.add_rms_norm(&mut residual, &branch, 1.0, &scales, EPS).expect("a norm");
    });
    Outcome { fault, timing, work: moving(4 * 4 * rows * columns) }
}

fn rotary(bench: &Bench, rows: usize, model: &Model) -> Outcome {
    const BLOCK_SIZE: usize = 64;
    let (cpu, heads) = (&bench.cpu, model.heads);
    let frequency = |pair: usize| 10_000f32.powf(-2.0 * pair as f32 / heads.dim as f32);
    let frequencies = (0..heads.dim / 2).map(frequency).collect();
    let turns = Turns { frequencies, magnitude: 1.0, pairing: model.pairing, positions: 4096 };
    let angles = cpu.angles(turns.clone()).expect("memory");
    let shape = KvShape {
        layers: 1,
        blocks: rows.div_ceil(BLOCK_SIZE),
        block_size: BLOCK_SIZE,
        kv_heads: heads.kv,
        head_dim: heads.dim,
        values_from: None,
        dtype: KvDType::F16,
    };
    let mut cache = cpu.kv_cache(shape).expect("memory");
    let positions: Vec<u32> = (0..rows as u32).collect();
    let batch = Batch { positions: positions.clone(), slot_mapping: positions, ..Batch::default() };
    let values = Samples::new(5).floats(rows * heads.qkv_columns());
    let mut qkv = cpu.tensor(rows, heads.qkv_columns(), &values).expect("memory");
    let mut turn =
        |qkv: &mut Tensor| cpu.rotary_store(qkv, &heads, None, &angles, (&mut cache, 0), &batch).expect("turned");
    turn(&mut qkv);
    let fault = fault_of(|| {
        for row in 0..rows {
            let queries = values[row * heads.qkv_columns()..][..heads.query * heads.dim].chunks_exact(heads.dim);
            let expected: Vec<f32> = queries.flat_map(|head| rotary::reference(head, &turns, row as u32)).collect();
            assert_close(&qkv.row(row)[..expected.len()], &expected, TOLERANCE, "rotary");
        }
    });
    // Turned again and again, heads stay as long as they are.
    let timing = Timing::measure(bench.time, || turn(&mut qkv));
    let read_and_turned = 4 * (heads.qkv_columns() + heads.query * heads.dim);
    let kept = 2 * heads.kv * KvDType::F16.row_bytes(heads.dim);
    Outcome { fault, timing, work: moving(rows * (read_and_turned + kept)) }
}

fn gate(bench: &Bench, rows: usize, columns: usize) -> Outcome {
    let cpu = &bench.cpu;
    let values = Samples::new(6).floats(rows * 2 * columns);
    let gate_up = cpu.tensor(rows, 2 * columns, &values).expect("memory");
    let run = || cpu.glu(&gate_up, Activation::Silu).expect("gates");
    let fault = fault_of(|| {
        let halves = values.chunks_exact(2 * columns).map(|row| row.split_at(columns));
        let of_row = |(gates, ups): (&[f32], &[f32])| -> Vec<f32> {
            gates.iter().zip(ups).map(|(&gate, &up)| glu::reference(gate, up, Activation::Silu)).collect()
        };
        assert_close(run().data(), &halves.flat_map(of_row).collect::<Vec<_>>(), TOLERANCE, "glu");
    });
    let timing = Timing::measure(bench.time, || drop(run()));
    Outcome { fault, timing, work: moving(4 * 3 * rows * columns) }
}
