//! Forms in which other tools write quantized matrices, each chosen by what lies in a file where the matrix would be.
//!
//! A form knows codes, scales and zero points by row and column ([`Quants`]); [`Repacked`] makes blocks of them that
//! kernels read, with the same values, or the values themselves where no blocks hold them.

mod awq;
mod fp8;
mod gptq;
mod grid;
mod groups;
mod integers;
mod mxfp4;
mod numbers;
mod quants;
mod repacked;
mod row_major;
#[cfg(test)]
mod samples;
mod tensors;

use grid::Grid;
use groups::Groups;
use numbers::{Numbers, Words};
use quants::{Kind, Quants, Scale};
use repacked::Repacked;
use row_major::{Coding, RowMajor, Zeros};
pub(crate) use tensors::{Tensors, belongs_to, stands_for};

use super::{
    Elements, Encoding, FileTensor, LoadError, Raw, Stored,
    encoding::{Compressed, Method},
    stored::{Form, Plain},
};

/// A matrix as a file holds it, whole.
pub(crate) struct Found {
    /// It …
    pub stored: Stored,
    /// … and its main tensor, which complaints name.
    pub tensor: FileTensor,
    /// Whether that tensor is the matrix itself.
    pub is_plain: bool,
}

/// The matrix that `tensors` stand for; `None` if there is none of them. It has `columns` columns by the model's
/// settings, which says how many bits a packed one has.
pub(crate) fn find(tensors: &Tensors, columns: usize, encoding: &Encoding) -> Result<Option<Found>, LoadError> {
    let said = match encoding.method() {
        Some(Method::Fp8(tile)) => Compressed { tile: *tile, symmetric: true },
        Some(Method::CompressedTensors(own)) => *own,
        _ => Compressed { tile: None, symmetric: true },
    };
    if let Some(weight) = tensors.own("")? {
        return match weight.info.elements {
            Elements::Raw(Raw::F8E4M3) => found(fp8::form(tensors, weight, said.tile)?),
            Elements::Raw(Raw::I8) => found(integers::bytes(tensors, weight, said)?),
            _ => Found::plain(weight),
        }
        .map(Some);
    }
    if let Some(packed) = tensors.own("_packed")? {
        return match packed.info.elements {
            Elements::Raw(Raw::U8) => found(mxfp4::form(packed, tensors.required("_scale")?)?),
            _ => found(integers::packed(tensors, packed, columns, said)?),
        }
        .map(Some);
    }
    if let Some(blocks) = tensors.own("_blocks")? {
        return found(mxfp4::form(blocks, tensors.required("_scales")?)?).map(Some);
    }
    let Some(qweight) = tensors.of_module("qweight")? else { return Ok(None) };
    match encoding.method() {
        Some(Method::Gptq(own)) => found(gptq::Gptq::of(tensors, qweight, columns, own)?).map(Some),
        Some(Method::Awq(own)) => found(awq::Awq::of(tensors, qweight, columns, own)?).map(Some),
        _ => Err(qweight.fault("is quantized, but config.json's quantization_config does not name gptq or awq")),
    }
}

fn found<Q: Quants>(quants: Q) -> Result<Found, LoadError> {
    let tensor = quants.tensors()[0].clone();
    Ok(Found { stored: Stored::new(Repacked::of(quants)), tensor, is_plain: false })
}

impl Found {
    fn plain(tensor: FileTensor) -> Result<Self, LoadError> {
        Ok(Self { stored: Stored::new(Plain::of(tensor.clone())?), tensor, is_plain: true })
    }
}
