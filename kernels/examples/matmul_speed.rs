//! How fast linear layers are, per storage format: decode (one row of `x`) in GB/s of weights, prefill (512 rows) in
//! GFLOP/s, on the shapes of a small Llama. `cargo run --release -p shardwire-kernels --example matmul_speed -- 2`
//! (the arguments are the number of threads, how many copies of each weight to go through (few fit in the caches), and
//! the names of formats, else all are measured: `-- 2 30 bf16 wint4`). Each figure is the best of many products, so
//! that a busy machine does little harm. For formats that weights are quantized to, how long that takes on one thread
//! as well.

use std::{sync::Arc, time::Instant};

use kernels::{
    DType, Matrix,
    cpu::{Cpu, CpuConfig},
    group::Group,
    matmul::{MatMul, is_quantizable, quantize},
    memory::Memory,
};

/// `[outputs, inputs]`: fused gate and up projections, a down projection.
const SHAPES: [(usize, usize); 2] = [(3072, 576), (768, 1536)];

fn main() {
    let argument = |index, default| std::env::args().nth(index).map_or(default, |text| text.parse().expect("a number"));
    let (threads, copies) = (argument(1, 2), argument(2, 30));
    let cpu = Cpu::new(CpuConfig { threads, spin: true, ..CpuConfig::default() }, Group::solo());
    println!("{}", cpu.name());
    let names: Vec<String> = std::env::args().skip(3).collect();
    for dtype in
        DType::ALL.into_iter().filter(|dtype| names.is_empty() || names.iter().any(|name| name == dtype.name()))
    {
        if dtype.is_quantized() && is_quantizable(dtype) {
            println!("{dtype:?}: {:.1} ns per weight to quantize", quantizing(dtype));
        }
        for (outputs, inputs) in SHAPES {
            let inputs = inputs.next_multiple_of(dtype.block_elements());
            let line: Vec<String> = [1, 2, 4, 8, 16, 64, 512]
                .iter()
                .map(|&rows| measure(&cpu, dtype, copies, [rows, outputs, inputs]))
                .collect();
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
    // A weight is rearranged at its first product.
    weights.iter().for_each(|weight| drop(cpu.matmul(&x, weight, None).expect("a product")));
    let products = if rows == 512 { 30 } else { 600 };
    let mut best = f64::INFINITY;
    for weight in weights.iter().cycle().take(products) {
        let start = Instant::now();
        cpu.matmul(&x, weight, None).expect("a product");
        best = best.min(start.elapsed().as_secs_f64());
    }
    let (gigabytes, gigaflops) = (bytes as f64 / best / 1e9, 2.0 * (rows * outputs * inputs) as f64 / best / 1e9);
    format!("{rows} rows {:.0} µs {gigabytes:.1} GB/s {gigaflops:.0} GFLOP/s", best * 1e6)
}

/// Nanoseconds per weight.
fn quantizing(dtype: DType) -> f64 {
    let values: Vec<f32> = (0..1 << 18).map(|i| ((i * 7919 % 1013) as f32 - 506.0) * (i * 31 % 17) as f32).collect();
    let mut stored = Vec::with_capacity(dtype.bytes_of(values.len()));
    let times = (0..5).map(|_| {
        let start = Instant::now();
        stored.clear();
        quantize(dtype, &values, &mut stored);
        start.elapsed().as_nanos() as f64 / values.len() as f64
    });
    times.fold(f64::INFINITY, f64::min)
}
