//! How fast linear layers are, per storage format: decode (one row of `x`) in GB/s of weights, prefill (512 rows) in
//! GFLOP/s, on the shapes of a small Llama. `cargo run --release -p shardwire-kernels --example matmul_speed -- 2`
//! (the argument is the number of threads).

use std::{sync::Arc, time::Instant};

use kernels::{
    DType, Matrix,
    cpu::{Cpu, CpuConfig},
    group::Group,
    matmul::MatMul,
    memory::Memory,
};

/// `[outputs, inputs]`: fused gate and up projections, a down projection.
const SHAPES: [(usize, usize); 2] = [(3072, 576), (768, 1536)];
/// Copies of each weight, so that decoding reads memory rather than caches.
const COPIES: usize = 30;

fn main() {
    let threads = std::env::args().nth(1).and_then(|threads| threads.parse().ok()).unwrap_or(2);
    let cpu = Cpu::new(CpuConfig { threads, spin: true, ..CpuConfig::default() }, Group::solo());
    println!("{}", cpu.name());
    for dtype in DType::ALL {
        for (outputs, inputs) in SHAPES {
            let inputs = inputs.next_multiple_of(dtype.block_elements());
            let line: Vec<String> =
                [1, 2, 4, 8, 512].iter().map(|&rows| measure(&cpu, dtype, rows, outputs, inputs)).collect();
            println!("{dtype:?} {outputs} × {inputs}: {}", line.join(", "));
        }
    }
}

fn measure(cpu: &Cpu, dtype: DType, rows: usize, outputs: usize, inputs: usize) -> String {
    let bytes = dtype.bytes_of(outputs * inputs);
    let weights: Vec<_> = (0..COPIES)
        .map(|_| {
            let stored = vec![0x11u8; bytes];
            let matrix = Matrix::new(Arc::new(stored), 0, dtype, outputs, inputs).expect("as many bytes as it needs");
            cpu.weight(vec![matrix]).expect("a weight")
        })
        .collect();
    let x = cpu.tensor(rows, inputs, &vec![0.5; rows * inputs]).expect("memory");
    let rounds = if rows == 512 { 1 } else { 20 };
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        for weight in weights.iter().cycle().take(COPIES * rounds / if rows == 512 { 10 } else { 1 }) {
            cpu.matmul(&x, weight, None).expect("a product");
        }
        let products = COPIES * rounds / if rows == 512 { 10 } else { 1 };
        best = best.min(start.elapsed().as_secs_f64() / products as f64);
    }
    let (gigabytes, gigaflops) = (bytes as f64 / best / 1e9, 2.0 * (rows * outputs * inputs) as f64 / best / 1e9);
    format!("{rows} rows {:.0} µs {gigabytes:.1} GB/s {gigaflops:.0} GFLOP/s", best * 1e6)
}
