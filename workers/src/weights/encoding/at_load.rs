//! FastDeploy's keys: into what to quantize weights that are stored in bfloat16.

use crate::{
    models::Quantization,
    weights::{Fields, LoadError},
};

/// What a checkpoint's makers advise to quantize its plain weights to; `None`: they stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtLoad {
    /// Of matrices outside the experts …
    pub dense: Option<Quantization>,
    /// … and of the experts.
    pub experts: Option<Quantization>,
}

impl AtLoad {
    /// Reads the keys of a `quantization_config`; `None` if it has none of them. Names are those of FastDeploy's
    /// documentation on online quantization.
    pub(super) fn from_json(fields: &Fields) -> Result<Option<Self>, LoadError> {
        for key in ["is_quantized", "is_moe_quantized"] {
            if fields.flag_or(key, false)? {
                return Err(fields.fault(key, "false: what FastDeploy's own tools have quantized is not read"));
            }
        }
        // Either one format for all, or the mixture that the other two keys describe.
        let all = match fields.text("quantization")? {
            Some("mix_quant") => None,
            _ => format(fields, "quantization")?,
        };
        let own = Self {
            dense: format(fields, "dense_quant_type")?.or(all),
            experts: format(fields, "moe_quant_type")?.or(all),
        };
        Ok((own.dense.is_some() || own.experts.is_some()).then_some(own))
    }

    /// The one way to quantize a whole model that comes nearest: the experts' where there are some.
    pub fn quantization(&self, has_experts: bool) -> Option<Quantization> {
        self.experts.filter(|_| has_experts).or(self.dense)
    }
}

fn format(fields: &Fields, key: &str) -> Result<Option<Quantization>, LoadError> {
    match fields.text(key)? {
        None => Ok(None),
        Some("wint8") => Ok(Some(Quantization::WInt8)),
        Some("wint4") => Ok(Some(Quantization::WInt4)),
        Some("block_wise_fp8") => Ok(Some(Quantization::BlockWiseFp8)),
        Some(_) => Err(fields.fault(key, "wint8, wint4 or block_wise_fp8")),
    }
}
