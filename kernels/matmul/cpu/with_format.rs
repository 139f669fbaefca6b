//! From a storage format's name to its type.

/// Evaluates `$body` with `$format` naming the type of a [`DType`].
macro_rules! with_format {
    ($dtype:expr, $format:ident => $body:expr) => {
        with_format!(
            among F32 F32, F16 F16, BF16 BF16,
            Q8_0 Q8_0, Q4_0 Q4_0, Q4_1 Q4_1, Q5_0 Q5_0, Q5_1 Q5_1,
            Q2_K Q2K, Q3_K Q3K, Q4_K Q4K, Q5_K Q5K, Q6_K Q6K,
            IQ4_NL Iq4Nl, IQ4_XS Iq4Xs, MXFP4 Mxfp4, TQ1_0 Tq1_0, TQ2_0 Tq2_0,
            WInt8 WInt8, WInt4 WInt4, WInt4G32 WInt4G32, F8_E4M3 F8E4M3;
            $dtype, $format => $body
        )
    };
    (among $($name:ident $type:ident),+; $dtype:expr, $format:ident => $body:expr) => {
        match $dtype {
            $($crate::DType::$name => {
                type $format = $crate::matmul::formats::$type;
                $body
            })+
        }
    };
}

pub(super) use with_format;
