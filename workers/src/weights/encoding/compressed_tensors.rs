//! compressed-tensors' settings: groups of modules, each with the numbers that its weights are stored as. Which module is
//! in which group need not be known, since the shapes of its tensors tell; here is only checked that all kinds are read.
//! Names: the package `compressed-tensors`, classes `QuantizationConfig` and `QuantizationArgs`.

use super::{Compressed, Tile, tile};
use crate::weights::{Fields, LoadError};

/// Formats that are read. In the last, groups have formats of their own.
const FORMATS: [&str; 7] = [
    "dense",
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "mxfp4-pack-quantized",
    "mixed-precision",
];

/// Refuses what is not read.
pub(super) fn check(fields: &Fields) -> Result<Compressed, LoadError> {
    check_format(fields)?;
    let sparsity = fields.fields("sparsity_config")?;
    if let Some(sparsity) = sparsity.filter(|own| own.get("format").is_some_and(|format| format != "dense")) {
        return Err(sparsity.fault("format", "dense"));
    }
    if let Some(transforms) = fields.fields("transform_config")?.filter(|own| own.get("config_groups").is_some()) {
        return Err(transforms.fault("config_groups", "absent: weights for turned activations are not read"));
    }
    let (mut tile, mut kinds, mut asymmetric) = (None, 0, 0);
    for group in groups(fields)? {
        check_format(&group)?;
        if let Some(weights) = group.fields("weights")? {
            tile = tile.or(check_weights(&weights)?);
            kinds += 1;
            asymmetric += usize::from(!weights.flag_or("symmetric", true)?);
        }
    }
    Ok(Compressed { tile, symmetric: asymmetric == 0 || asymmetric < kinds })
}

/// Whether any group asks for it.
pub(super) fn quantizes_activations(fields: &Fields) -> Result<bool, LoadError> {
    Ok(groups(fields)?.iter().any(|group| group.get("input_activations").is_some()))
}

fn groups(fields: &Fields) -> Result<Vec<Fields>, LoadError> {
    let Some(groups) = fields.fields("config_groups")? else { return Ok(Vec::new()) };
    let each = groups.entries().map(|(name, _)| groups.fields(name));
    each.filter_map(Result::transpose).collect()
}

fn check_format(fields: &Fields) -> Result<(), LoadError> {
    match fields.text("format")? {
        Some(format) if !FORMATS.contains(&format) => {
            Err(fields.fault("format", &format!("one of {}", FORMATS.join(", "))))
        }
        _ => Ok(()),
    }
}

/// Integers of 4 or 8 bits, FP8, or FP4 in groups of 32 whose scales are powers of two.
fn check_weights(weights: &Fields) -> Result<Tile, LoadError> {
    let bits = weights.count("num_bits")?.unwrap_or(8);
    match (weights.text("type")?.unwrap_or("int"), bits) {
        ("int", 4 | 8) | ("float", 8) => {}
        ("float", 4) if weights.count("group_size")? == Some(32) => {}
        ("int", _) => return Err(weights.fault("num_bits", "4 or 8")),
        ("float", _) => return Err(weights.fault("num_bits", "8, or 4 with a group_size of 32")),
        _ => return Err(weights.fault("type", "int or float")),
    }
    match weights.text("strategy")? {
        None | Some("tensor" | "channel" | "group" | "block") => tile(weights, "block_structure"),
        Some(_) => Err(weights.fault("strategy", "tensor, channel, group or block")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn checked(format: &str, weights: Value, more: Value) -> Result<Compressed, String> {
        let group = json!({"targets": ["Linear"], "weights": weights});
        let mut own = json!({"format": format, "config_groups": {"group_0": group}});
        own.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let Value::Object(object) = own else { unreachable!() };
        check(&Fields::translated(Path::new("config.json"), object, Default::default()))
            .map_err(|fault| fault.to_string())
    }

    #[test]
    fn kinds_that_are_read_pass() {
        let check = |format: &str, weights: Value, tile: Tile| {
            let symmetric = weights.get("symmetric") != Some(&json!(false));
            assert_eq!(checked(format, weights.clone(), json!({})), Ok(Compressed { tile, symmetric }), "{weights}");
        };
        check(
            "pack-quantized",
            json!({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": false}),
            None,
        );
        check("int-quantized", json!({"num_bits": 8, "type": "int", "strategy": "channel"}), None);
        check("float-quantized", json!({"num_bits": 8, "type": "float", "strategy": "tensor"}), None);
        let blocks = json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]});
        check("float-quantized", blocks, Some((128, 128)));
        check("mxfp4-pack-quantized", json!({"num_bits": 4, "type": "float", "group_size": 32}), None);
    }

    #[test]
    fn others_are_named() {
        let check = |format: &str, weights: Value, more: Value, expected: &str| {
            let line = checked(format, weights, more).expect_err(expected);
            assert!(line.contains(expected), "{line}");
        };
        let int8 = json!({"num_bits": 8});
        check("nvfp4-pack-quantized", int8.clone(), json!({}), "format must be one of dense, pack-quantized, int-q");
        check("pack-quantized", json!({"num_bits": 3}), json!({}), "group_0.weights.num_bits must be 4 or 8, got 3");
        let nvfp4 = json!({"num_bits": 4, "type": "float", "group_size": 16});
        check("mixed-precision", nvfp4, json!({}), "num_bits must be 8, or 4 with a group_size of 32");
        let head = json!({"strategy": "attn_head"});
        check("int-quantized", head, json!({}), "strategy must be tensor, channel, group or block, got \"attn_head\"");
        let sparse = json!({"sparsity_config": {"format": "sparse-24-bitmask"}});
        check("dense", int8.clone(), sparse, "sparsity_config.format must be dense");
        let turned = json!({"transform_config": {"config_groups": {"R1": {}}}});
        check("dense", int8, turned, "transform_config.config_groups must be absent");
    }
}
