//! What the ways to load a model cost: the distance of logits from the reference's, whose weights are not quantized.
//!
//! The bounds are twice what was measured. The order is what matters: 8 bits are better than 4, nothing is better than
//! either, and a cache of 8 bits is near to none. These weights are random, so that none of them is small by training:
//! a real model loses less (docs/models.md).

use kernels::KvDType;
use workers::{
    models::{PlainType, Quantization, WeightOptions},
    weights::Checkpoint,
};

use crate::{
    TOKENS_MAX,
    fixtures::golden,
    ranks::{Rank, Ranks, Sequence, Wanted, on_ranks},
    reference::Golden,
};

/// The mean distance of the longest prompt's last logits from the reference's.
fn distance(model: &str, ranks: Ranks) -> f32 {
    let golden_json = Golden::read(&format!("models/{model}/golden.json"));
    let checkpoint = Checkpoint::open(&golden(&format!("models/{model}"))).unwrap();
    let case = golden_json.cases.iter().max_by_key(|case| case.prompt_ids.len()).unwrap();
    let row = on_ranks(&checkpoint, ranks, TOKENS_MAX, |rank| last_row(rank, &case.prompt_ids));
    let sum: f32 = row.iter().zip(&case.last_logits).map(|(found, expected)| (found - expected).abs()).sum();
    sum / row.len() as f32
}

fn last_row(rank: &mut Rank, tokens: &[u32]) -> Vec<f32> {
    let mut sequence = Sequence::new(tokens);
    rank.step(&mut [(&mut sequence, tokens.len())], Wanted::LastRows).remove(0).remove(0)
}

fn quantized(world_size: usize, quantization: Quantization) -> Ranks {
    let weights = WeightOptions { quantization: Some(quantization), ..WeightOptions::default() };
    Ranks { weights, ..world_size.into() }
}

#[test]
fn eight_bits_lose_little_and_four_bits_more() {
    // Hidden sizes of 128 and widths of 192: groups of 128 in some matrices, of 32 in others.
    for world_size in [1, 2, 4] {
        let [plain, eight, fp8, four] = [
            distance("llama_basic", world_size.into()),
            distance("llama_basic", quantized(world_size, Quantization::WInt8)),
            distance("llama_basic", quantized(world_size, Quantization::BlockWiseFp8)),
            distance("llama_basic", quantized(world_size, Quantization::WInt4)),
        ];
        println!("{world_size} ranks: plain {plain}, wint8 {eight}, fp8 {fp8}, wint4 {four}");
        assert!(plain < 1e-5 && plain < eight && eight < fp8 && fp8 < four, "{plain} {eight} {fp8} {four}");
        assert!(eight < 0.15 && fp8 < 0.6 && four < 2.0, "{world_size} ranks: {eight} {fp8} {four}");
    }
}

#[test]
fn mixtures_and_latent_attention_are_quantized_too() {
    for model in ["ernie45_moe", "deepseek_v3", "gpt_oss"] {
        let eight = distance(model, quantized(2, Quantization::WInt8));
        let four = distance(model, quantized(2, Quantization::WInt4));
        println!("{model}: wint8 {eight}, wint4 {four}");
        // An expert that is chosen instead of another moves logits by far more than rounding does.
        assert!(0.0 < eight && eight < four && four < 0.9, "{model}: {eight} {four}");
    }
}

#[test]
fn plain_weights_may_be_kept_in_sixteen_bits() {
    let kept_as = |plain| {
        let weights = WeightOptions { plain: Some(plain), ..WeightOptions::default() };
        distance("llama_basic", Ranks { weights, ..2.into() })
    };
    let (f16, bf16) = (kept_as(PlainType::F16), kept_as(PlainType::BF16));
    println!("f16 {f16}, bf16 {bf16}");
    assert!(1e-5 < f16 && f16 < bf16 && bf16 < 0.05, "{f16} {bf16}");
    assert!(kept_as(PlainType::F32) < 1e-5);
}

#[test]
fn keys_and_values_may_be_kept_in_eight_bits() {
    for model in ["llama_basic", "gemma3_text", "gpt_oss", "deepseek_v3"] {
        let kept_as = |kv_dtype| distance(model, Ranks { kv_dtype, ..2.into() });
        let [f16, int8, fp8] = [KvDType::F16, KvDType::Int8, KvDType::F8E4M3].map(kept_as);
        println!("{model}: f16 {f16}, int8 {int8}, fp8 {fp8}");
        assert!(f16 < int8 && int8 < 0.12 && int8 < fp8 && fp8 < 0.5, "{model}: {f16} {int8} {fp8}");
    }
}

/// Queries and weights are rounded as well then, and yet it is more exact than floats of as many bits.
#[test]
fn keys_and_values_may_be_kept_in_integers_of_sixteen_bits() {
    for model in ["llama_basic", "gemma3_text", "gpt_oss"] {
        let kept_as = |kv_dtype| distance(model, Ranks { kv_dtype, ..2.into() });
        let [f16, int16] = [KvDType::F16, KvDType::Int16].map(kept_as);
        println!("{model}: f16 {f16}, int16 {int16}");
        assert!(int16 < f16, "{model}: {int16} {f16}");
    }
}

/// Random weights are the same for every number of ranks, and files are not looked for.
#[test]
fn random_weights_do_not_depend_on_ranks() {
    for model in ["ernie45_moe", "deepseek_v3"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(golden(&format!("models/{model}/config.json")), folder.path().join("config.json")).unwrap();
        let weights = WeightOptions { random: true, ..WeightOptions::default() };
        let checkpoint = Checkpoint::open_with(folder.path(), weights).unwrap();
        let logits = |world_size: usize| {
            let ranks = Ranks { weights, ..world_size.into() };
            on_ranks(&checkpoint, ranks, TOKENS_MAX, |rank| last_row(rank, &[5, 6, 7, 8]))
        };
        let one = logits(1);
        assert!(one.iter().any(|logit| logit.abs() > 1e-3), "{model}: something comes of them");
        for world_size in [2, 3] {
            let off = one.iter().zip(logits(world_size)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-4, "{model} on {world_size} ranks is off by {off}");
        }
    }
}
