//! Quantized weights by row and column, however a file has laid them out.

use half::f16;
use kernels::{
    DType,
    matmul::{decode_e4m3, store_f8, store_wint4, store_wint8},
};

use super::Groups;
use crate::weights::FileTensor;

/// A matrix `[outputs, inputs]` of codes, of which groups of a row's columns share a scale and a zero point.
pub(crate) trait Quants: Send + Sync + 'static {
    /// Rows and columns.
    fn shape(&self) -> (usize, usize);

    /// What a code stands for.
    fn kind(&self) -> Kind;

    /// Which columns share a scale.
    fn groups(&self) -> &Groups;

    /// Writes the codes of a row from column `first` on.
    fn codes(&self, row: usize, first: usize, to: &mut [u8]);

    /// The scale of a row's group.
    fn scale(&self, row: usize, group: usize) -> Scale;

    /// All tensors that hold it, at least one; complaints name the first.
    fn tensors(&self) -> Vec<&FileTensor>;
}

/// What codes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 0 to 15.
    U4,
    /// 0 to 255.
    U8,
    /// FP8 (e4m3fn).
    E4M3,
    /// FP4 (e2m1), 0 to 15.
    E2M1,
}

/// What the codes of a group have in common. A weight is the scale times what is left of its code without the zero point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    pub scale: f32,
    /// Of integers; 0 of others.
    pub zero: i32,
}

impl Kind {
    /// Storage formats that may hold them, the smallest first.
    pub(super) fn formats(self) -> &'static [DType] {
        match self {
            Kind::U4 => &[DType::WInt4, DType::WInt4G32, DType::WInt8],
            Kind::U8 => &[DType::WInt8, DType::Q8_0],
            Kind::E4M3 => &[DType::F8_E4M3],
            Kind::E2M1 => &[DType::MXFP4],
        }
    }

    /// Whether any of the codes stands for no number.
    pub(super) fn any_nan(self, codes: &[u8]) -> bool {
        self == Kind::E4M3 && codes.iter().fold(false, |found, code| found | (code & 0x7f == 0x7f))
    }

    /// The weight of a code.
    pub(super) fn value(self, code: u8, Scale { scale, zero }: Scale) -> f32 {
        match self {
            Kind::U4 | Kind::U8 => scale * (i32::from(code) - zero) as f32,
            Kind::E4M3 => scale * decode_e4m3(code),
            Kind::E2M1 => scale * e2m1(code),
        }
    }
}

/// The FP4 numbers: a sign, two bits of exponent, one of mantissa.
fn e2m1(code: u8) -> f32 {
    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

impl Scale {
    /// Appends a block with the codes of one group; `None` if the format can't hold it exactly.
    pub(super) fn store(self, dtype: DType, codes: &[u8], to: &mut Vec<u8>) -> Option<()> {
        const WHOLE: &str = "as many codes as a block has";
        match dtype {
            DType::WInt4 => store_wint4::<128>(self.half()?, self.zero_point()?, codes.try_into().expect(WHOLE), to),
            DType::WInt4G32 => store_wint4::<32>(self.half()?, self.zero_point()?, codes.try_into().expect(WHOLE), to),
            DType::WInt8 => store_wint8(self.scale, &self.signed(codes.try_into().expect(WHOLE))?, to),
            DType::Q8_0 => {
                to.extend(self.half()?.to_le_bytes());
                to.extend(self.signed::<32>(codes.try_into().expect(WHOLE))?.map(|quant| quant as u8));
            }
            DType::F8_E4M3 => store_f8(self.scale, codes.try_into().expect(WHOLE), to),
            DType::MXFP4 => {
                to.push(self.exponent()?);
                to.extend((0..16).map(|i| codes[i] | codes[i + 16] << 4));
            }
            other => unreachable!("no form is repacked as {other:?}"),
        }
        Some(())
    }

    fn half(self) -> Option<f16> {
        let half = f16::from_f32(self.scale);
        (half.to_f32() == self.scale).then_some(half)
    }

    fn zero_point(self) -> Option<u8> {
        u8::try_from(self.zero).ok().filter(|zero| *zero <= 16)
    }

    fn signed<const N: usize>(self, codes: &[u8; N]) -> Option<[i8; N]> {
        let mut quants = [0; N];
        for (quant, &code) in quants.iter_mut().zip(codes) {
            *quant = i8::try_from(i32::from(code) - self.zero).ok()?;
        }
        Some(quants)
    }

    /// Of a power of two, as e8m0 has it; 2⁻¹²⁷ is a subnormal number.
    fn exponent(self) -> Option<u8> {
        let bits = self.scale.to_bits();
        match (bits >> 23, bits & 0x7f_ffff) {
            (exponent @ 1..255, 0) => Some(exponent as u8),
            (0, 0x40_0000) => Some(0),
            _ => None,
        }
    }
}
