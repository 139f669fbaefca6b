//! How fast linear layers are, per storage format: decode (one row of `x`) in GB/s of weights, prefill (512 rows) in
//! GFLOP/s, on the shapes of a small Llama. `cargo run --release -p shardwire-kernels --example matmul_speed -- 2`
//! (the arguments are the number of threads, and how many copies of each weight to go through: few fit in the
//! caches). Each figure is the best of many products, so that a busy machine does little
//! harm.

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
fn main() {
    let argument = |index, default| std::env::args().nth(index).map_or(default, |text| text.parse().expect("a number"));
    let (threads, copies) = (argument(1, 2), argument(2, 30));
    let cpu = Cpu::new(CpuConfig { threads, spin: true, ..CpuConfig::default() }, Group::solo());
    println!("{}", cpu.name());
    for dtype in DType::ALL {
        for (outputs, inputs) in SHAPES {
            let inputs = inputs.next_multiple_of(dtype.block_elements());
            let line: Vec<String> =
                [1, 2, 4, 8, 512].iter().map(|&rows| measure(&cpu, dtype, copies, [rows, outputs, inputs])).collect();
            println!("{dtype:?} {outputs} × {inputs}: {}", line.join(", "));
        }
    }
}

fn measure(cpu: &Cpu, dtype: DType, copies: usize, [rows, outputs, inputs]: [usize; 3]) -> String {
    let bytes = dtype.bytes_of(outputs * inputs);
    let weights: Vec<_> = (0..copies)
        .map(|_| {
            let stored = vec![0x11u8; bytes];
            let matrix = Matrix::new(Arc::new(stored), 0, dtype, outputs, inputs).expect("as many bytes as it needs");
            cpu.weight(vec![matrix]).expect("a weight")
        })
        .collect();
    let x = cpu.tensor(rows, inputs, &vec![0.5; rows * inputs]).expect("memory");
    let products = if rows == 512 { 20 } else { 600 };
    let mut best = f64::INFINITY;
    for weight in weights.iter().cycle().take(products) {
        let start = Instant::now();
        cpu.matmul(&x, weight, None).expect("a product");
        best = best.min(start.elapsed().as_secs_f64());
    }
    let (gigabytes, gigaflops) = (bytes as f64 / best / 1e9, 2.0 * (rows * outputs * inputs) as f64 / best / 1e9);
    format!("{rows} rows {:.0} µs {gigabytes:.1} GB/s {gigaflops:.0} GFLOP/s", best * 1e6)
}
