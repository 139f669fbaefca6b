//! How other tools have encoded a checkpoint's matrices: `quantization_config` of config.json.

mod at_load;
mod compressed_tensors;

pub use at_load::AtLoad;

use super::{Fields, LoadError};

/// What `quantization_config` says. Shapes of tensors say the rest, so that modules may differ from it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoding {
    method: Option<Method>,
    at_load: Option<AtLoad>,
    quantizes_activations: bool,
}

/// Who wrote the matrices, and what their tensors leave open.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Method {
    /// GPTQ's tools.
    Gptq(Gptq),
    /// AutoAWQ.
    Awq(Awq),
    /// FP8 with a scale for each tile, each output or all.
    Fp8(Tile),
    /// compressed-tensors: packed integers, bytes or FP8.
    CompressedTensors(Compressed),
    /// FP4 in blocks of 32.
    Mxfp4,
}

/// What GPTQ's tensors leave open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Gptq {
    /// Inputs that share a scale; `None`: all of them.
    pub group: Option<usize>,
    /// Whether zero points are stored less one.
    pub less_one: bool,
    /// Whether zero points may be left out, being in the middle.
    pub symmetric: bool,
}

/// What AutoAWQ's tensors leave open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Awq {
    /// Inputs that share a scale; `None`: all of them.
    pub group: Option<usize>,
    /// Whether zero points may be left out, being in the middle.
    pub symmetric: bool,
}

/// What compressed-tensors' tensors leave open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Compressed {
    /// Of one of the kinds of weights.
    pub tile: Tile,
    /// Whether some kind of weights has no zero points.
    pub symmetric: bool,
}

/// Rows and columns that share a scale, where the settings name them.
pub(crate) type Tile = Option<(usize, usize)>;

impl Encoding {
    /// Reads and checks config.json's `quantization_config`; what is not read is refused by name.
    pub(crate) fn from_json(fields: &Fields) -> Result<Self, LoadError> {
        let Some(own) = fields.fields("quantization_config")? else { return Ok(Self::default()) };
        let Some(name) = own.text("quant_method")? else {
            let at_load = AtLoad::from_json(&own)?;
            return match at_load.is_some() || own.entries().next().is_none() {
                true => Ok(Self { at_load, ..Self::default() }),
                false => own.required("quant_method", None),
            };
        };
        let method = match name {
            "gptq" => gptq(&own)?,
            "awq" => awq(&own)?,
            "fp8" | "fbgemm_fp8" => Method::Fp8(tile(&own, "weight_block_size")?),
            "compressed-tensors" => Method::CompressedTensors(compressed_tensors::check(&own)?),
            "mxfp4" => Method::Mxfp4,
            _ => {
                let known = "gptq, awq, fp8, fbgemm_fp8, compressed-tensors or mxfp4, whose weights are read";
                return Err(own.fault("quant_method", known));
            }
        };
        let quantizes_activations = match method {
            Method::Fp8(_) => own.get("activation_scheme").is_some(),
            Method::CompressedTensors(_) => compressed_tensors::quantizes_activations(&own)?,
            _ => false,
        };
        Ok(Self { method: Some(method), at_load: None, quantizes_activations })
    }

    /// The same, of weights that no tool has touched.
    pub(crate) fn of_plain_weights(self) -> Self {
        Self { at_load: self.at_load, ..Self::default() }
    }

    /// Who encoded the matrices; `None`: nobody, they are plain.
    pub(crate) fn method(&self) -> Option<&Method> {
        self.method.as_ref()
    }

    /// Whether some of its matrices may be encoded.
    pub fn is_stored(&self) -> bool {
        self.method.is_some()
    }

    /// What the makers of plain weights advise to quantize them to while they are loaded.
    pub fn at_load(&self) -> Option<AtLoad> {
        self.at_load
    }

    /// Whether the settings ask for quantized activations. That is not followed: inputs stay as they are, which is more
    /// exact.
    pub fn quantizes_activations(&self) -> bool {
        self.quantizes_activations
    }
}

/// Other formats than these two are made for one kernel each.
fn gptq(fields: &Fields) -> Result<Method, LoadError> {
    if !matches!(fields.count("bits")?, None | Some(4 | 8)) {
        return Err(fields.fault("bits", "4 or 8"));
    }
    let key = if fields.get("checkpoint_format").is_some() { "checkpoint_format" } else { "format" };
    let less_one = match fields.text(key)? {
        None | Some("gptq") => true,
        Some("gptq_v2") => false,
        Some(_) => return Err(fields.fault(key, "gptq or gptq_v2")),
    };
    if fields.flag_or("is_marlin_format", false)? {
        return Err(fields.fault("is_marlin_format", "false"));
    }
    let symmetric = fields.flag_or("sym", true)?;
    Ok(Method::Gptq(Gptq { group: group(fields, "group_size")?, less_one, symmetric }))
}

fn awq(fields: &Fields) -> Result<Method, LoadError> {
    let or = |key: &'static str, older: &'static str| if fields.get(key).is_some() { key } else { older };
    let (bits, group_key, version) = (or("bits", "w_bit"), or("group_size", "q_group_size"), or("version", "format"));
    if !matches!(fields.count(bits)?, None | Some(4)) {
        return Err(fields.fault(bits, "4"));
    }
    if fields.text(version)?.is_some_and(|version| !version.eq_ignore_ascii_case("gemm")) {
        return Err(fields.fault(version, "gemm"));
    }
    Ok(Method::Awq(Awq { group: group(fields, group_key)?, symmetric: !fields.flag_or("zero_point", true)? }))
}

/// −1 is written for all inputs.
fn group(fields: &Fields, key: &str) -> Result<Option<usize>, LoadError> {
    if fields.number(key)? == Some(-1.0) {
        return Ok(None);
    }
    match fields.count(key)? {
        Some(0) => Err(fields.fault(key, "-1 or at least 1")),
        group => Ok(group),
    }
}

/// Rows and columns.
fn tile(fields: &Fields, key: &str) -> Result<Tile, LoadError> {
    match fields.counts(key)?[..] {
        [] => Ok(None),
        [rows, columns] if rows > 0 && columns > 0 => Ok(Some((rows, columns))),
        _ => Err(fields.fault(key, "two whole numbers > 0")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::models::Quantization::{BlockWiseFp8, WInt4, WInt8};

    fn encoding(own: Value) -> Result<Encoding, String> {
        let Value::Object(object) = json!({ "quantization_config": own }) else { unreachable!() };
        let fields = Fields::translated(Path::new("config.json"), object, Default::default());
        Encoding::from_json(&fields).map_err(|fault| fault.to_string())
    }

    #[test]
    fn what_is_known_is_read() {
        let check = |own: Value, expected: Option<Method>| assert_eq!(encoding(own).unwrap().method, expected);
        check(Value::Null, None);
        check(json!({}), None);
        let gptq = |group, less_one| Some(Method::Gptq(Gptq { group, less_one, symmetric: less_one }));
        check(json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": true}), gptq(Some(128), true));
        check(
            json!({"quant_method": "gptq", "bits": 8, "group_size": -1, "format": "gptq_v2", "sym": false}),
            gptq(None, false),
        );
        let awq = json!({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "GEMM", "zero_point": true});
        check(awq, Some(Method::Awq(Awq { group: Some(64), symmetric: false })));
        check(
            json!({"quant_method": "fp8", "weight_block_size": [128, 64], "activation_scheme": "dynamic"}),
            Some(Method::Fp8(Some((128, 64)))),
        );
        check(json!({"quant_method": "fp8", "activation_scheme": "static"}), Some(Method::Fp8(None)));
        check(json!({"quant_method": "mxfp4"}), Some(Method::Mxfp4));
    }

    #[test]
    fn what_is_not_is_named() {
        let check = |own: Value, expected: &str| {
            let line = encoding(own).expect_err(expected);
            assert!(line.starts_with("config.json: quantization_config.") && line.contains(expected), "{line}");
            assert!(!line.contains('\n'), "{line}");
        };
        check(json!({"quant_method": "bitsandbytes"}), "quant_method must be gptq, awq, fp8,");
        check(json!({"bits": 4}), "quant_method is missing");
        check(json!({"quant_method": "gptq", "bits": 3}), "bits must be 4 or 8, got 3");
        check(json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}), "must be gptq or gptq_v2");
        check(json!({"quant_method": "gptq", "bits": 4, "group_size": 0}), "group_size must be -1 or at least 1");
        check(json!({"quant_method": "awq", "version": "gemv"}), "version must be gemm, got \"gemv\"");
        check(json!({"quant_method": "fp8", "weight_block_size": [128]}), "two whole numbers > 0, got [128]");
        check(json!({"quant_method": 5}), "quant_method must be a string, got 5");
    }

    #[test]
    fn advice_for_plain_weights_is_kept() {
        let at_load = |own: Value| encoding(own).unwrap().at_load();
        let mixed = json!({"dense_quant_type": "wint8", "moe_quant_type": "wint4", "quantization": "mix_quant"});
        let mixed = at_load(mixed).unwrap();
        assert_eq!(mixed, AtLoad { dense: Some(WInt8), experts: Some(WInt4) });
        assert_eq!([true, false].map(|has_experts| mixed.quantization(has_experts)), [Some(WInt4), Some(WInt8)]);
        let both = Some(AtLoad { dense: Some(BlockWiseFp8), experts: Some(BlockWiseFp8) });
        assert_eq!(at_load(json!({"quantization": "block_wise_fp8"})), both);
        assert_eq!(at_load(json!({"quant_method": "mxfp4"})), None);
        let line = encoding(json!({"moe_quant_type": "w4a8"})).expect_err("needs more than weights");
        assert!(line.contains("moe_quant_type must be wint8, wint4 or block_wise_fp8, got \"w4a8\""), "{line}");
        let line = encoding(json!({"dense_quant_type": "wint8", "is_quantized": true})).expect_err("of another kind");
        assert!(line.contains("is_quantized must be false"), "{line}");
    }
}
