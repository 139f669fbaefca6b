//! From a storage format's name to its type.

/// Evaluates `$body` with `$format` naming the type of a [`DType`].
macro_rules! with_format {
    ($dtype:expr, $format:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $format = $crate::matmul::formats::F32;
                $body
            }
            $crate::DType::F16 => {
                type $format = $crate::matmul::formats::F16;
                $body
            }
            $crate::DType::BF16 => {
                type $format = $crate::matmul::formats::BF16;
                $body
            }
            $crate::DType::Q8_0 => {
                type $format = $crate::matmul::formats::Q8_0;
                $body
            }
            $crate::DType::Q4_0 => {
                type $format = $crate::matmul::formats::Q4_0;
                $body
            }
            $crate::DType::Q4_1 => {
                type $format = $crate::matmul::formats::Q4_1;
                $body
            }
            $crate::DType::Q5_0 => {
                type $format = $crate::matmul::formats::Q5_0;
                $body
            }
            $crate::DType::Q5_1 => {
                type $format = $crate::matmul::formats::Q5_1;
                $body
            }
            $crate::DType::Q4_K => {
                type $format = $crate::matmul::formats::Q4K;
                $body
            }
            $crate::DType::Q5_K => {
                type $format = $crate::matmul::formats::Q5K;
                $body
            }
            $crate::DType::Q6_K => {
                type $format = $crate::matmul::formats::Q6K;
                $body
            }
        }
    };
}

pub(super) use with_format;
