//! Matrices as other tools quantize them, against transformers on the values that they stand for
//! (`scripts/make_quantized_fixtures`). Only the sums differ, so the tolerances are those of plain weights.

use kernels::matmul::dequantize;
use serde::Deserialize;
use workers::{models::WeightOptions, weights::Checkpoint};

use crate::{
    TOKENS_MAX, TOLERANCE, alone, fixtures,
    ranks::{Ranks, on_ranks},
    reference::{Golden, Judge},
    table,
};

/// Rows of some matrices, as the other tool's or another's package reads them.
#[derive(Deserialize)]
struct Rows {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    shape: (usize, usize),
    row: usize,
    values: Vec<f32>,
}

/// To the last bit, alone and among others, whole and in parts that cut groups.
fn check_row(checkpoint: &Checkpoint, expected: &Row) {
    let Row { name, shape: (rows, columns), row, values } = expected;
    let matrix = checkpoint.matrix(name, *rows, *columns).unwrap();
    for first in [0, *row] {
        for own in [0..*columns, 0..columns / 2, columns / 2..*columns, 5..columns - 1] {
            let part = matrix.row_range(first..row + 1).column_range(own.clone()).read().unwrap();
            let mut found = vec![0.0; own.len()];
            dequantize(part.dtype(), part.row(row - first), &mut found);
            assert_eq!(found, values[own.clone()], "{name}, row {row}, columns {own:?} as {:?}", part.dtype());
        }
    }
}

fn check(name: &str, world_sizes: &[usize], whole_experts: bool) {
    let checkpoint = Checkpoint::open(&fixtures::golden(&format!("quantized/{name}"))).unwrap();
    let golden = Golden::read(&format!("quantized/{name}/golden.json"));
    let rows = std::fs::read(fixtures::golden(&format!("quantized/{name}/golden.json"))).unwrap();
    serde_json::from_slice::<Rows>(&rows).unwrap().rows.iter().for_each(|row| check_row(&checkpoint, row));
    for &world_size in world_sizes {
        let weights = WeightOptions { whole_experts, ..WeightOptions::default() };
        let (ranks, judge) = (Ranks { weights, ..world_size.into() }, Judge::new(TOLERANCE));
        on_ranks(&checkpoint, ranks, TOKENS_MAX, |rank| alone(rank, &golden, &judge));
        let form = if whole_experts { "quantized, whole experts" } else { "quantized" };
        table::record(name, checkpoint.config().architecture, form, world_size, judge.worst());
    }
}

/// 3 ranks cut the blocks of 128 inputs; 8 have one head of 16 inputs each.
#[test]
fn gptq() {
    check("gptq", &[1, 2, 3, 4, 8], false);
    check("gptq_8bit", &[1, 2, 4], false);
}

#[test]
fn gptq_in_the_order_of_importance() {
    check("gptq_act_order", &[1, 2, 4], false);
    check("gptq_act_order", &[2], true);
}

#[test]
fn awq() {
    check("awq", &[1, 2, 3, 4, 8], false);
}

#[test]
fn fp8_of_one_scale_for_each_block() {
    check("fp8_blocks", &[1, 2, 4], false);
    check("fp8_experts", &[1, 2, 4], false);
    check("fp8_experts", &[2], true);
}

#[test]
fn fp8_of_one_scale_for_each_output_or_matrix() {
    check("fp8_channels", &[1, 2, 4], false);
    check("fp8_tensor", &[1, 2, 4], false);
}

#[test]
fn compressed_integers() {
    check("packed_int4", &[1, 2, 3, 4], false);
    check("packed_int4_experts", &[1, 2, 4], false);
    check("packed_int4_experts", &[2], true);
    check("int8_channels", &[1, 2, 4], false);
}

#[test]
fn mxfp4() {
    check("mxfp4", &[1, 2, 4, 8], false);
    check("mxfp4", &[2], true);
}
